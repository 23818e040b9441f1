"""Every architecture learns; what else holds for all networks is in test_models."""

import keras
import numpy as np
import pytest

from cifar_utils import models
from tests.unit.trainable import coloured


@pytest.mark.parametrize("name", [*models.MODELS][2:])
def test_some_steps_lower_the_loss(name):
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    model, train = models.build(name, width=8), coloured(10)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=True)
    losses = [float(model.train_on_batch(train.images, train.labels)) for _ in range(8)]
    assert np.mean(losses[-2:]) < 0.9 * losses[0]
