"""Statistics of batch normalisation against those computed by hand."""

import keras
import numpy as np
import pytest

from cifar_utils import models, normalization, pretrained
from tests.unit.trainable import coloured

IMAGES = coloured(100).images


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


def network(trainable=True):
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(4, 3, strides=4)(x)
    layer = keras.layers.BatchNormalization(name="norm", trainable=trainable)
    x = keras.layers.GlobalAveragePooling2D()(layer(x))
    return keras.Model(images, models.logits(x), name="normalised")


@pytest.mark.parametrize("batch_size", [500, 25])  # means over equal batches are means over images
@pytest.mark.parametrize("trainable", [True, False])
def test_statistics_are_those_of_the_images(trainable, batch_size):
    keras.utils.set_random_seed(0)
    model = network(trainable)
    layer = model.get_layer("norm")
    seen = np.asarray(keras.Model(model.input, layer.input)(IMAGES))
    normalization.refresh(model, IMAGES, batch_size, frozen=not trainable)
    np.testing.assert_allclose(layer.moving_mean, seen.mean(axis=(0, 1, 2)), atol=1e-5)
    batches = seen.reshape(-1, min(batch_size, len(IMAGES)), *seen.shape[1:])
    variance = batches.var(axis=(1, 2, 3)).mean(axis=0)
    np.testing.assert_allclose(layer.moving_variance, variance, atol=1e-5)
    assert (layer.trainable, layer.momentum) == (trainable, 0.99)


def test_frozen_statistics_stay_unless_asked_for():
    model = network(trainable=False)
    before = model.get_weights()
    normalization.refresh(model, IMAGES)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_kept_statistics_are_given_again_to_the_same_model_and_images_only(tmp_path):
    def refreshed(images, batch_size=25):
        keras.utils.set_random_seed(0)
        model = network()
        normalization.refresh(model, images, batch_size, backup=tmp_path / "new")
        return model.get_layer("norm").moving_mean.numpy()

    first = refreshed(IMAGES)
    (kept,) = (tmp_path / "new").iterdir()
    with kept.open("wb") as file:
        np.savez(file, np.full(4, 3.0), np.full(4, 2.0))
    np.testing.assert_array_equal(refreshed(IMAGES), 3)
    np.testing.assert_allclose(refreshed(IMAGES, 50), first, atol=1e-5)
    assert not np.allclose(refreshed(IMAGES[:50]), first, atol=1e-5)


def test_only_the_statistics_of_a_frozen_resnet_change():
    features = pretrained.extractor(pretrained.RANDOM, 32, seed=2)
    base = features.get_layer("resnet50")
    before = {weight.path: weight.numpy() for weight in base.weights}
    normalization.refresh(features, IMAGES[:12], frozen=True)
    changed = {w.path for w in base.weights if not np.array_equal(before[w.path], w.numpy())}
    assert changed == {path for path in before if "moving_" in path}
    assert not base.trainable_weights
