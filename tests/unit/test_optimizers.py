import keras
import numpy as np
import pytest

from cifar_utils import optimizers


def network():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv")(images)
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.ReLU()(x))
    return keras.Model(images, keras.layers.Dense(4, name="logits")(x))


def data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 256)
    images = generator.normal(size=(256, 8, 8, 3)).astype("float32")
    images[np.arange(256), labels, labels] += 3
    return images, labels


def compiled(optimizer):
    model = network()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_a_step_of_a_kernel_is_orthogonal_and_its_norm_fixed():
    model = compiled(optimizers.Muon(0.25, momentum=0.0))
    kernel = model.get_layer("conv").kernel
    before = np.asarray(kernel).reshape(-1, 16)
    model.train_on_batch(*data())
    scaled = before * 4 / np.linalg.norm(before)
    step = (scaled - np.asarray(kernel).reshape(-1, 16)) / 0.25
    singular = np.linalg.svd(step, compute_uv=False)
    assert singular.max() < 1.3
    assert np.median(singular) > 0.5


def test_the_last_layer_follows_adam():
    model = compiled(optimizers.Muon(0.1, adam_ratio=0.02))
    bias = model.get_layer("logits").bias
    model.train_on_batch(*data())
    np.testing.assert_allclose(np.abs(np.asarray(bias)), 0.002, rtol=0.01)


def test_it_learns():
    model = compiled(optimizers.Muon(0.1, adam_ratio=0.1))
    images, labels = data()
    losses = [float(model.train_on_batch(images, labels)) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


def test_its_settings_survive_saving():
    optimizer = optimizers.Muon(0.1, momentum=0.7, adam_ratio=0.03)
    again = optimizers.Muon.from_config(optimizer.get_config())
    assert (again.momentum, again.adam_lr_ratio) == (0.7, 0.03)


def two_layers():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="conv4_dense")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


def steps(optimizer, count=3):
    """Return how far each layer's kernel went, and where it began."""
    model = two_layers()
    before = [model.get_layer(name).kernel.numpy() for name in ("conv4_dense", "logits")]
    model.compile(optimizer, "mse")
    inputs = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    for _ in range(count):
        model.train_on_batch(inputs, np.ones((8, 2), "float32"))
    after = [model.get_layer(name).kernel.numpy() for name in ("conv4_dense", "logits")]
    return [then - first for then, first in zip(after, before, strict=True)], before


OPTIMIZERS = {
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "rmsprop": optimizers.RMSprop,
    "sgd": optimizers.SGD,
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_each_layer_learns_at_its_own_rate(name):
    kind = OPTIMIZERS[name]
    slow, _ = steps(kind(0.01, rates=[("conv4", 0.25)]), 1)
    full, _ = steps(kind(0.01), 1)
    np.testing.assert_allclose(slow[0], 0.25 * full[0], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(slow[1], full[1], rtol=1e-5)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_without_rates_it_is_the_one_of_keras(name):
    kind = OPTIMIZERS[name]
    theirs = getattr(keras.optimizers, kind.__name__)
    for mine, other in zip(steps(kind(0.01))[0], steps(theirs(0.01))[0], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-7)


def test_weight_decay_follows_the_rate():
    plain, before = steps(optimizers.SGD(0.1, rates=[("conv4", 0.1)]), 1)
    decayed, _ = steps(optimizers.SGD(0.1, weight_decay=0.5, rates=[("conv4", 0.1)]), 1)
    for place, rate in enumerate((0.01, 0.1)):
        taken = plain[place] - decayed[place]
        np.testing.assert_allclose(taken, 0.5 * rate * before[place], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", [*OPTIMIZERS.values(), optimizers.Muon])
def test_rates_survive_saving(kind):
    optimizer = kind(0.1, rates=(("conv4", 0.5), ("conv5", 0.7)))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is kind
    assert again.rates == (("conv4", 0.5), ("conv5", 0.7))


def test_the_first_name_that_fits_counts():
    rates = (("conv4_block1", 0.1), ("conv4", 0.5))
    assert optimizers.factor(rates, "conv4_block1_1_conv/kernel") == 0.1
    assert optimizers.factor(rates, "resnet50/conv4_block2_1_conv/kernel") == 0.5
    assert optimizers.factor(rates, "head/my_conv4/kernel") == 1
