import keras
import numpy as np

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
