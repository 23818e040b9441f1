import subprocess
import sys

import keras
import numpy as np
import pytest

from cifar_utils import folded, models, pretrained, transfer

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_policy():
    yield
    keras.config.set_dtype_policy("float32")


def statistics(model):
    """Give batch normalisation numbers that matter."""
    generator = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                low = -1.0 if weight.path.endswith(("beta", "moving_mean")) else 0.5
                weight.assign(generator.uniform(low, 1.5, weight.shape))
    return model


def network(**options):
    """Convolutions with and without bias, stride and normalisation, some in a model within."""
    keras.utils.set_random_seed(0)
    inside = keras.Input((16, 16, 6))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="three")(inside)
    x = keras.layers.BatchNormalization(name="three_norm", **options)(x)
    short = keras.layers.Conv2D(8, 1, strides=2, name="short")(keras.layers.ReLU()(x))
    short = keras.layers.BatchNormalization(name="short_norm", scale=False)(short)
    long = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="long")(x)
    kept = keras.layers.BatchNormalization(name="long_norm", center=False)(long)
    x = keras.layers.Add()([short, kept, long])  # the convolution itself is used as well
    base = keras.Model(inside, x, name="base")
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="own")(x)
    x = base(keras.layers.BatchNormalization(name="own_norm")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = statistics(keras.Model(images, models.logits(x), name="model"))
    for layer in (*base.layers, model.get_layer("own_norm")):
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return model


def close(found, expected, tolerance):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=tolerance * scale)


def normalisations(model):
    kind = keras.layers.BatchNormalization
    return [x.name for x in model.get_layer("base").layers if isinstance(x, kind)]


@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 3e-2)])
def test_inference_gives_the_same_outputs_without_normalisation(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    model = network()
    fast = folded.inference(model)
    assert not normalisations(fast)
    assert any(layer.name == "own_norm" for layer in fast.layers)  # a ReLU stands before it
    expected = model.predict(IMAGES, verbose=0)
    close(fast.predict(IMAGES, verbose=0), expected, tolerance)
    assert fast.output.dtype == "float32"
    model.get_layer("base").get_layer("three").kernel.assign(np.zeros((3, 3, 6, 8)))
    close(fast.predict(IMAGES, verbose=0), expected, tolerance)


def trained(model, optimizer):
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(IMAGES, np.arange(6))


def test_training_is_that_of_the_network_and_changes_the_same_weights():
    ours, theirs = network(), network()
    before = ours.get_weights()
    fast = folded.trainable(ours)
    assert not normalisations(fast)
    for model in (fast, theirs):
        trained(model, keras.optimizers.SGD(0.1))  # one step, which is the gradients
    changed = 0
    for found, expected, was in zip(ours.get_weights(), theirs.get_weights(), before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
        changed += not np.array_equal(found, was)
    assert changed == len(ours.trainable_weights) == len(fast.trainable_weights)
    close(ours.predict(IMAGES, verbose=0), fast.predict(IMAGES, verbose=0), 1e-5)


def test_folding_is_done_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = network()
    layer = folded.inference(model).get_layer("base").get_layer("three_folded")
    base = model.get_layer("base")
    norm = base.get_layer("three_norm")
    gamma, _, _, variance = (np.asarray(weight) for weight in norm.weights)
    kernel = np.asarray(base.get_layer("three").kernel) * (gamma / np.sqrt(variance + norm.epsilon))
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == "bfloat16"
    # One rounding to 8 bits of precision; two would be off by up to twice as much.
    found = np.asarray(keras.ops.cast(layer.kernel.value, "float32"))
    np.testing.assert_allclose(found, kernel, rtol=2**-8 * 1.01)


def test_normalisation_that_learns_stays():
    model = network()
    model.get_layer("base").get_layer("three_norm").trainable = True
    assert normalisations(folded.trainable(model)) == ["three_norm"]
    assert not normalisations(folded.inference(model))


def test_the_trained_network_saves_with_built_in_layers(tmp_path):
    model = network()
    trained(folded.trainable(model), "adam")
    models.save(model, tmp_path / "model.keras")
    code = (
        "import keras, numpy, sys; model = keras.models.load_model(sys.argv[1]);"
        "assert 'cifar_utils' not in sys.modules;"
        "numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2]), verbose=0))"
    )
    files = [str(tmp_path / name) for name in ("model.keras", "images.npy", "found.npy")]
    np.save(files[1], IMAGES)
    subprocess.run([sys.executable, "-c", code, *files], check=True, timeout=120)
    close(np.load(files[2]), model.predict(IMAGES, verbose=0), 1e-5)


def test_it_is_described_alike_each_time():
    first, second = (models.architecture(folded.trainable(network())) for _ in range(2))
    assert first == second
    assert first != models.architecture(folded.trainable(network(epsilon=0.01)))


def test_a_layer_can_be_made_from_its_description():
    layer = folded.trainable(network()).get_layer("base").get_layer("long_folded")
    again = folded.Folded.from_config(layer.get_config())
    again.build((None, 16, 16, 8))
    again.convolution.set_weights(layer.convolution.get_weights())
    again.normalization.set_weights(layer.normalization.get_weights())
    inputs = GENERATOR.normal(size=(2, 16, 16, 8)).astype("float32")
    np.testing.assert_array_equal(np.asarray(again(inputs)), np.asarray(layer(inputs)))


@pytest.fixture(scope="module")
def resnet50():
    keras.config.set_dtype_policy("float32")
    extractor = pretrained.extractor(pretrained.RANDOM, 32, seed=1)
    return transfer.join(statistics(extractor), transfer.head(), "whole")


def test_resnet50_keeps_its_outputs(resnet50):
    transfer.unfreeze(resnet50, "conv4")
    expected = resnet50.predict(IMAGES, verbose=0)
    for made in (folded.inference(resnet50), folded.trainable(resnet50)):
        names = [layer.name for layer in made.get_layer("resnet50").layers]
        assert not [name for name in names if name.endswith("_bn")]
        close(made.predict(IMAGES, verbose=0), expected, 1e-3)
    assert len(folded.trainable(resnet50).trainable_weights) == len(resnet50.trainable_weights)
