import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cifar_utils import explain, models, occlusion, pretrained, training, transfer
from cifar_utils.data import Split
from cifar_utils.errors import DataError, ParameterError
from cifar_utils.recipes import Recipe
from tests.unit.trainable import small_model


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


def marked(count, seed=0):
    """Images of noise with two squares: a red or blue one, the class, and a green one, for nothing.

    Returns them and the corner of the one that counts.
    """
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 90, (count, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 2, count)
    corners = np.stack([generator.permutation(4)[:2] for _ in range(count)])
    for image, label, pair in zip(images, labels, corners, strict=True):
        for colour, corner in zip((2 * label, 1), pair, strict=True):
            top, left = 20 * (corner // 2), 20 * (corner % 2)
            image[top : top + 12, left : left + 12, colour] = 255
    return Split(images, labels.astype(np.int64)), corners[:, 0]


def seeing_network():
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, models.logits(x), name="seeing")


@pytest.fixture(scope="module")
def trained():
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    model = seeing_network()
    training.fit(model, marked(400)[0], None, Recipe(6, 20, learning_rate=0.01), seed=0)
    return model


def share_in_corner(maps, corners):
    """How much of each map lies in the quarter of the image with the square."""
    shares = []
    for each, corner in zip(maps, corners, strict=True):
        top, left = 16 * (corner // 2), 16 * (corner % 2)
        shares.append(each[top : top + 16, left : left + 16].sum() / max(each.sum(), 1))
    return np.array(shares)


@pytest.mark.parametrize("method", [explain.grad_cam, explain.occlusion])
def test_the_map_shows_what_the_class_depends_on(trained, method):
    split, corners = marked(40, seed=1)
    maps = method(trained, split.images, split.labels)
    assert maps.shape == (40, 32, 32)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1)
    known = share_in_corner(maps, corners).mean()
    random = share_in_corner(
        method(explain.untrained(trained), split.images, split.labels), corners
    ).mean()
    assert known > 0.4
    assert known > random + 0.1


def test_both_ways_agree_and_random_weights_change_the_map(trained):
    split, _ = marked(40, seed=1)
    maps = explain.grad_cam(trained, split.images)
    agreement = explain.likeness(maps, explain.occlusion(trained, split.images)).mean()
    random = explain.likeness(maps, explain.grad_cam(explain.untrained(trained), split.images))
    assert agreement > 0.3
    assert random.mean() < agreement


def test_all_maps_are_compared_on_the_same_classes(trained):
    split, _ = marked(6, seed=2)
    found = explain.compared(trained, split.images, split.labels, seed=3)
    assert list(found) == ["Grad-CAM", "hiding parts", "random weights"]
    np.testing.assert_array_equal(
        found["hiding parts"], explain.occlusion(trained, split.images, split.labels)
    )
    random = explain.grad_cam(explain.untrained(trained, 3), split.images, split.labels)
    np.testing.assert_array_equal(found["random weights"], random)
    assert not np.array_equal(found["Grad-CAM"], random)


def test_a_hidden_square_is_mapped_where_it_was():
    """Places of a map stand for the middles of the squares, not for even parts of the image."""
    weights = occlusion._between(32, 7, 4, 4)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        weights @ (4.0 * np.arange(1, 8)), np.clip(np.arange(32) + 0.5, 4, 28)
    )


def test_gradients_by_hand():
    """One convolution that copies red, averaged, times 3 for class 4: the map is red itself."""
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(1, 1, use_bias=False, name="red")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, models.logits(x))
    model.get_layer("red").set_weights([np.array([1, 0, 0], np.float32).reshape(1, 1, 3, 1)])
    kernel = np.zeros((1, 10), np.float32)
    kernel[0, 4], kernel[0, 5] = 3, -3
    model.get_layer("logits").set_weights([kernel, np.zeros(10, np.float32)])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    red = pixels[..., 0] / pixels[..., 0].max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(explain.grad_cam(model, pixels), red, rtol=1e-5)
    against = explain.grad_cam(model, pixels, np.array([5, 5]))
    assert not against.any(), "nothing speaks for a class that red speaks against"


def test_after_maximum_pooling_the_map_is_where_the_maximum_was():
    """Averaged over places the gradient would be the same everywhere, and so the map red itself."""
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(1, 1, use_bias=False, name="red")(x)
    model = keras.Model(images, models.logits(keras.layers.GlobalMaxPooling2D()(x)))
    model.get_layer("red").set_weights([np.array([1, 0, 0], np.float32).reshape(1, 1, 3, 1)])
    model.get_layer("logits").set_weights([np.ones((1, 10), np.float32), np.zeros(10, np.float32)])
    pixels = np.random.default_rng(0).integers(0, 200, (1, 32, 32, 3), dtype=np.uint8)
    pixels[0, 5, 20, 0] = 255
    (found,) = explain.grad_cam(model, pixels)
    assert found[5, 20] == 1
    assert np.count_nonzero(found) == 1


@pytest.mark.parametrize("make", [models.baseline_cnn, models.fast_cnn])
def test_networks_of_the_course_have_maps(make):
    images = marked(3)[0].images
    assert explain.grad_cam(make(), images).shape == (3, 32, 32)


def test_nested_network_has_maps_and_features():
    extractor = pretrained.extractor(pretrained.RANDOM, 32)
    model = transfer.join(extractor, transfer.head(), "model")
    images = marked(3)[0].images
    maps = explain.grad_cam(model, images)
    assert maps.shape == (3, 32, 32)
    assert len(np.unique(maps[0])) > 16, "more than one place"
    seen = explain.last_features(model)(images)
    np.testing.assert_allclose(np.asarray(seen), np.asarray(extractor(images)), rtol=1e-5)


def test_features_are_what_the_last_layer_sees(trained):
    images = marked(3)[0].images
    seen = np.asarray(explain.last_features(trained)(images))
    kernel, bias = trained.get_layer("logits").get_weights()
    np.testing.assert_allclose(seen @ kernel + bias, np.asarray(trained(images)), rtol=1e-4)


def test_nearest_goes_by_the_angle():
    known = np.array([[1, 0], [0, 1], [1, 1], [-1, 0]])
    _, found = explain.neighbours(known, np.array([[0.1, 9], [-3, 0.1]]), 2)
    assert found.tolist() == [[1, 2], [3, 1]]
    with pytest.raises(ParameterError, match="neighbours is 5; expected 1 to 4"):
        explain.neighbours(known, known, 5)


def test_likeness_of_flat_maps_is_none():
    maps = np.random.default_rng(0).random((2, 4, 4))
    np.testing.assert_allclose(explain.likeness(maps, maps), 1)
    assert explain.likeness(maps, np.ones((2, 4, 4))).tolist() == [0, 0]


def test_what_cannot_be_mapped_is_refused(trained):
    split, _ = marked(3)
    with pytest.raises(ParameterError, match="no convolution whose output is 4 x 4"):
        explain.grad_cam(small_model(), split.images)
    with pytest.raises(DataError, match="float64"):
        explain.grad_cam(trained, split.images / 255)
    with pytest.raises(DataError, match=r"one for each image, \(3,\)"):
        explain.occlusion(trained, split.images, split.labels[:2])
    with pytest.raises(ParameterError, match="side 33"):
        occlusion.occlusion_maps(lambda images: images, split.images, split.labels, side=33)
    with pytest.raises(ParameterError, match="'logits' or 'head'"):
        explain.last_features(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))


def test_it_works_on_the_other_backend():
    code = """
import keras
assert keras.backend.backend() == "jax"
from tests.unit import test_explain as t
t.test_gradients_by_hand()
t.test_networks_of_the_course_have_maps(t.models.fast_cnn)
t.test_nested_network_has_maps_and_features()
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
