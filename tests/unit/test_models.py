import keras
import numpy as np
import pytest

from cifar_utils import models, recipes, training
from cifar_utils.data import Split
from cifar_utils.errors import ParameterError, RunError

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def float32_policy():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_takes_raw_pixels_and_gives_float32_logits(name, policy):
    keras.config.set_dtype_policy(policy)
    model = models.build(name, IMAGES)
    assert model.input.dtype == "uint8"
    outputs = model(IMAGES)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    assert outputs.shape == (8, 10)
    assert not np.allclose(np.asarray(outputs).sum(axis=1), 1), "logits, not probabilities"


def test_baseline_is_the_tutorials_network():
    model = models.build("baseline_cnn")
    kernels = [w.shape for w in model.trainable_weights if w.name == "kernel"]
    assert kernels == [
        (3, 3, 3, 32),
        (3, 3, 32, 32),
        (3, 3, 32, 64),
        (3, 3, 64, 64),
        (4096, 512),
        (512, 10),
    ]


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [("baseline_cnn", 0, 255), ("fast_cnn", (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))],
)
def test_the_first_convolution_gets_normalised_pixels(name, mean, deviation):
    model = models.build(name, IMAGES)
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    found = np.asarray(keras.Model(model.input, first.input)(IMAGES))
    np.testing.assert_allclose(found, (IMAGES - np.array(mean)) / deviation, atol=1e-5)


def test_baseline_takes_its_regularisation_by_name():
    plain = models.baseline_cnn(dropout=0)
    assert not [layer for layer in plain.layers if isinstance(layer, keras.layers.Dropout)]
    assert not plain.losses
    bound = models.baseline_cnn(dropout=0, l2=0.1)
    kernels = [w for w in bound.trainable_weights if w.name == "kernel"][:-1]
    expected = 0.1 * sum(float(np.square(np.asarray(kernel)).sum()) for kernel in kernels)
    assert float(sum(bound.losses)) == pytest.approx(expected, rel=1e-4)
    normal = models.baseline_cnn(batch_normalization=True)
    names = [layer.name for layer in normal.layers]
    order = ["block2_conv2", "block2_norm2", "block2_relu2", "block2_pool", "block2_dropout"]
    assert names[names.index("block2_conv2") :][:5] == order
    maps = keras.Model(normal.input, normal.get_layer("block2_conv2").output)(IMAGES)
    assert np.asarray(maps).min() < 0, "normalised before the ReLU"


def test_baseline_takes_its_width_dropout_and_activation():
    model = models.build("baseline_cnn", width=8, dropout=0.4, activation="gelu")
    shapes = [w.shape for w in model.trainable_weights if w.name == "kernel"]
    assert shapes == [
        (3, 3, 3, 8),
        (3, 3, 8, 8),
        (3, 3, 8, 16),
        (3, 3, 16, 16),
        (1024, 128),
        (128, 10),
    ]
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.2, 0.2, 0.4]
    assert model.get_layer("block1_conv1").activation is keras.activations.gelu
    assert model.get_layer("hidden").activation is keras.activations.gelu


@pytest.mark.parametrize("name", [*models.MODELS][2:])
def test_known_architectures_take_width_and_dropout(name):
    narrow = models.build(name, width=8, dropout=0.3)
    *_, last, _ = narrow.layers
    assert isinstance(last, keras.layers.Dropout)
    assert last.rate == 0.3
    assert models.multiply_adds(narrow) < 30e6
    grey = np.asarray(narrow.get_layer("normalization")(np.full((1, 1, 1, 3), 125, "float32")))
    assert abs(grey).max() < 0.2, "pixels are normalised inside"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 8}, "has no option 'widht'; did you mean 'width'"),
        ({"activation": "reluu"}, "baseline_cnn cannot be built with"),
        ({"width": -1}, "baseline_cnn cannot be built with"),
    ],
)
def test_unknown_options_and_values_are_refused(settings, message):
    with pytest.raises(ParameterError, match=message):
        models.build("baseline_cnn", **settings)


def test_unknown_model_names_the_nearest():
    with pytest.raises(ParameterError, match="did you mean 'baseline_cnn'"):
        models.build("baselin_cnn")


def test_the_fast_network_needs_training_images():
    with pytest.raises(ParameterError, match=r"build\(\"fast_cnn\", train.images\)"):
        models.build("fast_cnn")


def test_whitening_makes_the_directions_of_real_patches_equally_strong():
    smooth = np.repeat(np.repeat(IMAGES[:, :8, :8], 4, axis=1), 4, axis=2)
    model = models.build("fast_cnn", smooth)
    pixels = model.get_layer("normalization")(smooth)
    whitened = np.asarray(model.get_layer("whitening")(pixels)).reshape(-1, 24)
    np.testing.assert_allclose(whitened[:, :12], -whitened[:, 12:], atol=1e-4)
    covariance = whitened[:, :12].T @ whitened[:, :12] / len(whitened)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=0.01)
    assert (np.diag(covariance) > 0.9).sum() >= 3
    assert np.diag(covariance).max() < 1.01
    assert not model.get_layer("whitening").trainable


def test_of_the_whitening_layer_only_a_bias_learns():
    model = models.build("fast_cnn", IMAGES, widths=(4, 6, 8), whitening_bias=True)
    layer = model.get_layer("whitening")
    filters, bias = layer.get_weights()
    assert not bias.any()
    recipe = recipes.Recipe(epochs=1, batch_size=4, optimizer="muon", learning_rate=0.1)
    labels = np.arange(len(IMAGES)) % 10
    training.fit(model, Split(IMAGES, labels), None, recipe, seed=0)
    learned, moved = layer.get_weights()
    np.testing.assert_array_equal(learned, filters)
    assert moved.any()


def test_convolutions_of_the_fast_network_begin_as_the_identity():
    model = models.build("fast_cnn", IMAGES)
    layer = model.get_layer("block2_conv2")
    maps = np.random.default_rng(1).normal(size=(2, 6, 6, 256)).astype("float32")
    np.testing.assert_allclose(np.asarray(layer(maps)), maps, atol=1e-5)


def test_blocks_of_more_convolutions_add_their_first_maps():
    model = models.build("fast_cnn", IMAGES, widths=(4, 6, 8), convolutions=3)
    first, last, added, ends = (
        model.get_layer(f"block2_{name}").output for name in ("relu1", "norm3", "add3", "relu3")
    )
    first, last, added, ends = map(
        np.asarray, keras.Model(model.input, [first, last, added, ends])(IMAGES)
    )
    np.testing.assert_allclose(added, first + last, atol=1e-5)
    np.testing.assert_array_equal(ends, np.maximum(added, 0))
    with pytest.raises(ParameterError, match="convolutions is 1; expected 2 or more"):
        models.build("fast_cnn", IMAGES, convolutions=1)


def test_the_fast_network_takes_smaller_images():
    model = models.build("fast_cnn", IMAGES)
    assert model(IMAGES[:, :24, :24]).shape == (8, 10)


def test_multiply_adds_are_counted_by_hand():
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(images)
    x = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    expected = 16 * 16 * 3 * 3 * 3 * 4 + 16 * 16 * 4 * 5
    assert models.multiply_adds(keras.Model(images, x)) == expected


def test_multiply_adds_of_grouped_depthwise_and_separable_convolutions():
    grouped = keras.layers.Conv2D(16, 3, groups=4, padding="same")
    depthwise = keras.layers.DepthwiseConv2D(5, strides=2, depth_multiplier=2, padding="same")
    separable = keras.layers.SeparableConv2D(10, 3, depth_multiplier=2, padding="same")
    expected = 32 * 32 * 3 * 3 * (8 // 4) * 16
    expected += 16 * 16 * 5 * 5 * 32  # each of 32 outputs sees one channel
    expected += 16 * 16 * (3 * 3 * 64 + 64 * 10)
    expected += 32 * 32 * 3 * 8  # the first layer
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 1)(images)
    model = keras.Model(images, separable(depthwise(grouped(x))))
    assert models.multiply_adds(model) == expected


def test_table_has_a_row_for_each_network():
    table = models.table().set_index("model")
    assert list(table.index) == list(models.MODELS)
    assert table.loc["baseline_cnn", "parameters"] == 2_168_362
    assert table.loc["resnet", ["original", "published"]].tolist() == ["ResNet-20", 91.25]
    assert table["multiply_adds"].between(20, 120).all(), "what two cores can train"
    known = table["published"].notna()
    assert (known == table["source"].notna()).all()
    assert table.loc[known, "published"].between(70, 100).all(), "percent"


@pytest.mark.parametrize("name", models.MODELS)
def test_saved_model_gives_the_same_numbers_and_needs_no_code_of_ours(name, tmp_path):
    model = models.build(name, IMAGES)
    models.save(model, tmp_path / "folder" / "model.keras")
    again = models.load(tmp_path / "folder" / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in again.layers)
    for found, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    # On the tiny maps at VGG's end ``fused`` adds in another order than Keras.
    rounding = 1e-5 if name == "vgg" else 0
    found, expected = (each.predict(IMAGES, verbose=0) for each in (again, model))
    np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model = models.build("baseline_cnn")
    models.save(model, path)
    before = path.read_bytes()

    def broken(self, partial):
        partial.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        models.save(model, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.keras"]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(RunError, match=r"gone\.keras does not exist"):
        models.load(tmp_path / "gone.keras")
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(RunError, match=r"text\.keras is not a Keras model file"):
        models.load(tmp_path / "text.keras")
