import subprocess
import sys

import keras
import numpy as np
import pytest

from cifar_utils import fused, models, optimizers

GENERATOR = np.random.default_rng(0)


def steps(layers, inputs, targets, count=3):
    """Train a network of `layers` for a few steps; return its outputs and all its weights."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    model = keras.Sequential([keras.Input(inputs.shape[1:]), *layers()])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(count):
        model.train_on_batch(inputs, targets)
    return model.predict(inputs, verbose=0), model.get_weights()


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "momentum": 0.6}])
def test_batch_normalization_trains_as_the_built_in_one(options):
    inputs = GENERATOR.normal(3, 2, (64, 5, 5, 8)).astype("float32")
    targets = GENERATOR.normal(size=inputs.shape).astype("float32")
    ours = steps(lambda: [fused.BatchNormalization(**options)], inputs, targets)
    theirs = steps(lambda: [keras.layers.BatchNormalization(**options)], inputs, targets)
    # Ours averages the unbiased variance of a batch, as every framework but Keras does.
    np.testing.assert_allclose(ours[0], theirs[0], atol=5e-3)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-3, atol=1e-4)


def test_frozen_batch_normalization_keeps_its_statistics():
    layer = fused.BatchNormalization()
    layer.trainable = False
    inputs = GENERATOR.normal(3, 2, (16, 4, 4, 2)).astype("float32")
    np.testing.assert_allclose(np.asarray(layer(inputs, training=True)), inputs, rtol=1e-3)
    np.testing.assert_array_equal(np.asarray(layer.moving_mean), 0)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("side", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("images", [3, 10])
def test_convolution_trains_as_the_built_in_one(size, side, images):
    inputs = GENERATOR.normal(size=(images, side, side, 6)).astype("float32")
    targets = GENERATOR.normal(size=(images, side, side, 4)).astype("float32")
    options = {"padding": "same", "use_bias": False}

    def layers(kind):
        return lambda: [kind(6, size, **options), keras.layers.ReLU(), kind(4, size, **options)]

    ours = steps(layers(fused.Conv2D), inputs, targets)
    theirs = steps(layers(keras.layers.Conv2D), inputs, targets)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("side", [3, 4, 5, 12])
def test_strided_convolution_trains_as_the_built_in_one(side):
    inputs = GENERATOR.normal(size=(10, side, side, 6)).astype("float32")
    targets = GENERATOR.normal(size=(10, -(-side // 2), -(-side // 2), 4)).astype("float32")
    ours = steps(lambda: [fused.Conv2D(4, 1, 2)], inputs, targets)
    theirs = steps(lambda: [keras.layers.Conv2D(4, 1, 2)], inputs, targets)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)


def test_plain_copy_has_built_in_layers_and_the_same_numbers():
    images = keras.Input((6, 6, 3))
    x = fused.Conv2D(4, 3, padding="same")(images)
    x = fused.BatchNormalization()(x)
    model = keras.Model(images, x)
    model.compile("adam", "mse")
    inputs = GENERATOR.normal(size=(8, 6, 6, 3)).astype("float32")
    model.train_on_batch(inputs, np.zeros((8, 6, 6, 4)))
    copy = fused.plain(model)
    assert [type(layer) for layer in copy.layers[1:]] == [
        keras.layers.Conv2D,
        keras.layers.BatchNormalization,
    ]
    assert not copy.compiled
    np.testing.assert_array_equal(copy.predict(inputs, verbose=0), model.predict(inputs, verbose=0))


def test_a_saved_model_needs_no_library_though_a_part_was_trained_with_its_optimizer(tmp_path):
    part = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="head")
    inputs = GENERATOR.normal(size=(8, 4)).astype("float32")
    part.compile(optimizers.AdamW(0.1), "mse")
    part.train_on_batch(inputs, np.zeros((8, 2)))
    whole = keras.Input((4,))
    model = keras.Model(whole, part(keras.layers.Rescaling(2.0)(whole)))
    models.save(model, tmp_path / "model.keras")
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "outputs.npy", model.predict(inputs, verbose=0))
    code = (
        "import keras, numpy, sys, pathlib; folder = pathlib.Path(sys.argv[1]);"
        "assert 'cifar_utils' not in sys.modules;"
        "model = keras.models.load_model(folder / 'model.keras');"
        "found = model.predict(numpy.load(folder / 'inputs.npy'), verbose=0);"
        "numpy.testing.assert_allclose(found, numpy.load(folder / 'outputs.npy'), rtol=1e-5)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    assert part.compiled, "what was saved is a copy"
