import keras
import numpy as np
import pytest

from cifar_utils import models, pretrained, recipes, training, transfer
from cifar_utils.data import Split
from cifar_utils.errors import ParameterError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def extractor():
    keras.config.set_dtype_policy("float32")
    return pretrained.extractor(pretrained.RANDOM, 32, seed=1)


def test_whole_model_equals_features_and_head_also_after_saving(extractor, tmp_path):
    head = transfer.head(hidden=16, dropout=0.5)
    model = transfer.join(extractor, head, "whole")
    expected = head.predict(extractor.predict(IMAGES, verbose=0), verbose=0)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-4, atol=1e-5)
    models.save(model, tmp_path / "model.keras")
    loaded = models.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )
    features, classifier = transfer.parts(loaded)
    assert models.architecture(features) == models.architecture(extractor)
    assert classifier.count_params() == head.count_params()


def test_only_the_chosen_stages_change_in_fine_tuning(extractor, tmp_path):
    path = tmp_path / "model.keras"
    models.save(transfer.join(extractor, transfer.head(), "whole"), path)
    model = models.load(path)
    assert not model.get_layer("resnet50").trainable_weights
    changing = transfer.unfreeze(model, "conv5")
    base = model.get_layer("resnet50")
    before = {weight.path: weight.numpy() for weight in base.weights}
    split = Split(IMAGES, np.arange(12) % 10)
    training.fit(model, split, split, recipes.Recipe(epochs=1, batch_size=6), seed=0)
    changed = {w.path for w in base.weights if not np.array_equal(before[w.path], w.numpy())}
    assert changed
    assert all("conv5" in name and "_bn" not in name for name in changed)
    counts = transfer.counts(model)
    assert counts.weights.sum() == model.count_params()
    assert counts["may change"].sum() == changing
    assert counts["may change"].astype(bool).to_dict() == {
        "conv1": False,
        "conv2": False,
        "conv3": False,
        "conv4": False,
        "conv5": True,
        "head": True,
    }


def test_batch_normalisation_ignores_the_training_flag_while_unfrozen(extractor):
    model = keras.models.clone_model(transfer.join(extractor, transfer.head(), "whole"))
    transfer.unfreeze(model, "conv2")
    np.testing.assert_allclose(
        np.asarray(model(IMAGES, training=True)),
        np.asarray(model(IMAGES, training=False)),
        rtol=1e-5,
    )


def test_unknown_stage_names_the_nearest(extractor):
    with pytest.raises(ParameterError, match="did you mean 'conv5'"):
        transfer.unfreeze(extractor, "conv55")
