"""What TensorBoard gets to see, read with its own reader."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from cifar_utils import recipes, training
from tests.unit.trainable import coloured, small_network


def test_it_sees_each_epoch_also_of_growing_images(tmp_path):
    recipe = recipes.Recipe(epochs=3, batch_size=20, sizes=((0.5, 24),))
    fitted = training.fit(
        small_network(None), coloured(40), coloured(20, 1), recipe, seed=0, tensorboard=tmp_path
    )
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(tmp_path / part)).Reload()
        for name in ("loss", "accuracy"):
            found = events.Tensors(f"epoch_{name}")
            assert [event.step for event in found] == [0, 1, 2]
            values = [make_ndarray(event.tensor_proto) for event in found]
            np.testing.assert_allclose(values, fitted.history[prefix + name], rtol=1e-6)
