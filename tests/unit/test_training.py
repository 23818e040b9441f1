import keras
import numpy as np
import pytest

from cifar_utils import augment, models, training
from cifar_utils.data import Split
from cifar_utils.errors import CifarUtilsError, ParameterError


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")


def coloured(count, seed=0):
    """Images whose class is their grey level: learnable by any network in a few steps."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    images = (labels * 25)[:, None, None, None] + generator.integers(0, 20, (count, 32, 32, 3))
    return Split(images.astype(np.uint8), labels.astype(np.int64))


def small_model():
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(32, activation="relu")(x)
    return keras.Model(images, models.logits(x))


def batches(**options):
    split = coloured(70)
    return training.Batches(split.images, split.labels, 32, **options)


def test_batches_cover_every_example_once_an_epoch():
    found = batches(policy=augment.Policy(), seed=3)
    assert [len(found[i][0]) for i in range(len(found))] == [32, 32, 6]
    means = np.concatenate([found[i][0].mean(axis=(1, 2, 3)) for i in range(len(found))])
    np.testing.assert_allclose(np.sort(means), np.sort(coloured(70).images.mean(axis=(1, 2, 3))))


def test_batches_keep_pixels_uint8_and_targets_one_hot():
    inputs, targets = batches(policy=augment.get("strong"))[0]
    assert inputs.dtype == np.uint8
    assert targets.shape == (32, 10)
    assert targets.dtype == np.float32


def test_a_batch_depends_on_seed_epoch_and_place_only():
    first, second = (batches(policy=augment.get("strong"), seed=5) for _ in range(2))
    for _ in range(len(second)):
        second[0]
    np.testing.assert_array_equal(first[1][0], second[1][0])
    second.on_epoch_end()
    assert (first[1][0] != second[1][0]).any()
    other = batches(policy=augment.get("strong"), seed=6)
    assert (first[1][0] != other[1][0]).any()


def test_validation_batches_are_neither_shuffled_nor_changed():
    split = coloured(70)
    found = batches()
    found.on_epoch_end()
    np.testing.assert_array_equal(found[1][0], split.images[32:64])
    np.testing.assert_array_equal(found[1][1].argmax(axis=1), split.labels[32:64])


def test_fit_learns_and_prints_one_line_an_epoch(capsys):
    recipe = training.Recipe(epochs=6, batch_size=10, learning_rate=0.05)
    fitted = training.fit(small_model(), coloured(200), coloured(50, 1), recipe, seed=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 6
    assert lines[0].startswith("epoch  1/6  loss ")
    columns = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "seconds"]
    assert list(fitted.history.columns) == columns
    assert fitted.history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert fitted.history["loss"].iloc[-1] < 0.7 * fitted.history["loss"].iloc[0]
    assert fitted.seconds >= fitted.history["seconds"].sum() * 0.9


def test_same_seed_gives_the_same_weights_and_another_does_not():
    def trained(seed):
        keras.utils.set_random_seed(seed)
        model = small_model()
        recipe = training.Recipe(epochs=2, batch_size=20, augmentation="strong")
        training.fit(model, coloured(60), coloured(20, 1), recipe, seed=seed)
        return np.concatenate([np.ravel(weight) for weight in model.get_weights()])

    np.testing.assert_array_equal(trained(1), trained(1))
    assert (trained(1) != trained(2)).any()


def test_schedule_warms_up_and_ends_at_zero():
    model = small_model()
    recipe = training.Recipe(epochs=5, batch_size=20, learning_rate=0.01, warmup=0.2)
    training.fit(model, coloured(100), coloured(20), recipe, seed=0)
    rate = model.optimizer._learning_rate
    values = [float(rate(step)) for step in range(26)]
    assert values[0] == 0
    assert values[5] == pytest.approx(0.01)
    assert values[25] == pytest.approx(0, abs=1e-9)
    assert max(values) == pytest.approx(0.01)


def test_early_stopping_brings_the_best_weights_back():
    model = small_model()
    train, validation = coloured(100), coloured(50, 1)
    wrong = Split(train.images, (train.labels + 1) % 10)
    recipe = training.Recipe(epochs=30, batch_size=20, learning_rate=0.1, patience=2)
    fitted = training.fit(model, wrong, validation, recipe, seed=0)
    assert len(fitted.history) < 30
    outputs = model.predict(validation.images, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(validation.labels, outputs)
    assert float(loss) == pytest.approx(fitted.history["val_loss"].min(), rel=1e-3)


def test_infinite_loss_says_what_to_lower():
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1e38)(images))
    model = keras.Model(images, models.logits(x))
    recipe = training.Recipe(epochs=2, batch_size=20, learning_rate=0.5)
    with pytest.raises(CifarUtilsError, match=r"lower the learning rate \(now 0\.5\)"):
        training.fit(model, coloured(40), coloured(20), recipe, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"epochs": 1, "batch_size": -1}, "batch_size is -1"),
        ({"epochs": 1, "learning_rate": 0.0}, "expected more than 0"),
        ({"epochs": 1, "augmentation": "flipp"}, "did you mean 'flip'"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        training.Recipe(**options)
