import math

import keras
import numpy as np
import pytest

from cifar_utils import (
    adversarial,
    architectures,
    augment,
    batches,
    callbacks,
    models,
    recipes,
    training,
    transfer,
)
from cifar_utils.data import Split
from cifar_utils.errors import CifarUtilsError, DataError, DivergedError, ParameterError
from tests.unit.trainable import coloured, small_model, small_network


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")


def test_fit_learns_and_prints_one_line_an_epoch(capsys):
    recipe = recipes.Recipe(epochs=6, batch_size=10, learning_rate=0.05)
    fitted = training.fit(small_model(), coloured(200), coloured(50, 1), recipe, seed=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 6
    assert lines[0].startswith("epoch  1/6  loss ")
    columns = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(fitted.history.columns) == columns
    assert fitted.history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert fitted.history["loss"].iloc[-1] < 0.7 * fitted.history["loss"].iloc[0]
    assert fitted.seconds >= fitted.history["seconds"].sum() * 0.9


def test_same_seed_gives_the_same_weights_and_another_does_not():
    def trained(seed):
        keras.utils.set_random_seed(seed)
        model = small_model()
        recipe = recipes.Recipe(epochs=2, batch_size=20, augmentation="strong")
        training.fit(model, coloured(60), coloured(20, 1), recipe, seed=seed)
        return np.concatenate([np.ravel(weight) for weight in model.get_weights()])

    np.testing.assert_array_equal(trained(1), trained(1))
    assert (trained(1) != trained(2)).any()


def test_batches_are_drawn_with_the_seed():
    """Whatever the network begins with: the seed decides the order of the images too."""

    def trained(seed):
        keras.utils.set_random_seed(0)
        model = small_model()
        recipe = recipes.Recipe(epochs=1, batch_size=20)
        training.fit(model, coloured(60), None, recipe, seed=seed)
        return np.concatenate([np.ravel(weight) for weight in model.get_weights()])

    assert (trained(1) != trained(2)).any()


def test_early_stopping_brings_the_best_weights_back():
    model = small_model()
    train, validation = coloured(100), coloured(50, 1)
    wrong = Split(train.images, (train.labels + 1) % 10)
    recipe = recipes.Recipe(epochs=30, batch_size=20, learning_rate=0.1, patience=2)
    fitted = training.fit(model, wrong, validation, recipe, seed=0)
    assert len(fitted.history) < 30
    outputs = model.predict(validation.images, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(validation.labels, outputs)
    assert float(loss) == pytest.approx(fitted.history["val_loss"].min(), rel=1e-3)


def test_infinite_loss_says_what_to_lower():
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1e38)(images))
    model = keras.Model(images, models.logits(x))
    recipe = recipes.Recipe(epochs=2, batch_size=20, learning_rate=0.5)
    with pytest.raises(CifarUtilsError, match=r"lower the learning rate \(now 0\.5\)"):
        training.fit(model, coloured(40), coloured(20), recipe, seed=0)


def test_a_diverging_loss_says_what_to_lower():
    recipe = recipes.Recipe(epochs=30, batch_size=10, optimizer="sgd", learning_rate=300.0)
    with pytest.raises(
        CifarUtilsError, match=r"(diverged|became|died).* lower the learning rate \(now"
    ):
        training.fit(small_model(), coloured(100), None, recipe, seed=0)


def test_a_validation_loss_that_is_no_number_says_what_to_lower(monkeypatch):
    model, validation = small_model(), coloured(20, 1)
    evaluate = model.evaluate
    lost = {"loss": math.nan, "accuracy": 0.1}
    monkeypatch.setattr(model, "evaluate", lambda *given, **named: evaluate(*given, **named) | lost)
    recipe = recipes.Recipe(epochs=3, batch_size=10, patience=1)
    with pytest.raises(DivergedError, match="validation loss became nan in epoch 1; lower the"):
        training.fit(model, coloured(100), validation, recipe, seed=0)


def test_a_loss_that_is_high_for_a_while_is_left_alone():
    guard = callbacks.LossGuard(steps=400, samples=coloured(2).images)
    guard.set_model(small_model())
    for loss in [2.3] + [100.0] * 19 + [2.0] + [100.0] * 19:
        guard.on_train_batch_end(0, {"loss": loss})
    assert not guard.problem
    guard.on_train_batch_end(0, {"loss": 100.0})
    assert guard.problem == "the loss diverged from 2.3 to 100"


def killed(model):
    """Give a small model biases that no input can overcome."""
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, np.full_like(bias, -1e6)])
    return model


def test_a_dead_network_says_what_to_lower():
    recipe = recipes.Recipe(epochs=9, batch_size=10)
    with pytest.raises(CifarUtilsError, match=r"the network died: .* in epoch 1; lower the learn"):
        training.fit(killed(small_model()), coloured(100), None, recipe, seed=0)


def test_a_network_that_has_not_learned_yet_is_left_alone():
    recipe = recipes.Recipe(epochs=2, batch_size=10, learning_rate=1e-9)
    fitted = training.fit(small_model(), coloured(100), None, recipe, seed=0)
    assert fitted.history.loss.min() > 0.95 * np.log(10)


def test_equal_images_may_get_equal_answers():
    images = np.zeros((20, 32, 32, 3), np.uint8)
    labels = np.arange(20) % 10
    recipe = recipes.Recipe(epochs=2, batch_size=10)
    assert len(training.fit(small_model(), Split(images, labels), None, recipe, seed=0).history)


class Exhausted(keras.callbacks.Callback):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_begin(self, batch, logs=None):
        raise self.error


class ResourceExhaustedError(Exception):
    """Called as TensorFlow's own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
    ],
)
def test_too_little_memory_says_what_to_lower(error):
    recipe = recipes.Recipe(epochs=1, batch_size=64)
    with pytest.raises(CifarUtilsError, match=r"lower batch_size \(now 64\), to 32 say"):
        training.fit(
            small_model(), coloured(20), None, recipe, seed=0, callbacks=[Exhausted(error)]
        )


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^something else$"):
        training.fit(
            small_model(),
            coloured(20),
            None,
            recipes.Recipe(epochs=1),
            seed=0,
            callbacks=[Exhausted(RuntimeError("something else"))],
        )


def test_without_validation_there_are_no_columns_for_it():
    fitted = training.fit(small_model(), coloured(20), None, recipes.Recipe(epochs=1), seed=0)
    assert list(fitted.history.columns) == ["epoch", "loss", "accuracy", "learning_rate", "seconds"]


def test_the_history_has_the_rate_at_the_end_of_each_epoch():
    recipe = recipes.Recipe(epochs=2, batch_size=10, schedule="one_cycle", warmup=0.5)
    fitted = training.fit(small_model(), coloured(40), None, recipe, seed=0)
    np.testing.assert_allclose(fitted.history["learning_rate"], [1e-3, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 1}, "patience needs validation"),
        ({"sizes": ((0.5, 24),)}, r"images of any size, and 'small_network' takes \(32, 32, 3\)"),
    ],
)
def test_a_recipe_that_does_not_suit_the_model_is_refused(options, message):
    recipe = recipes.Recipe(epochs=1, **options)
    with pytest.raises(ParameterError, match=message):
        training.fit(small_network(), coloured(20), None, recipe, seed=0)


def test_features_are_trained_on_but_not_varied_or_attacked():
    generator = np.random.default_rng(0)
    features = Split(generator.normal(size=(20, 2048)).astype(np.float16), np.arange(20) % 10)
    fitted = training.fit(transfer.head(), features, None, recipes.Recipe(epochs=1), seed=0)
    assert np.isfinite(fitted.history["loss"]).all()
    for options, message in (
        ({"augmentation": "flip"}, "is for images"),
        ({"adversarial": 4}, "uint8"),
    ):
        with pytest.raises(ParameterError, match=message):
            recipe = recipes.Recipe(epochs=1, **options)
            training.fit(transfer.head(), features, None, recipe, seed=0)


def test_unfit_images_are_refused_before_anything_starts(capsys):
    split = coloured(20)
    for train, validation in ((Split(split.images / 255, split.labels), split), (split, None)):
        if validation is None:
            validation = Split(split.images, split.labels + 5)
        with pytest.raises(DataError):
            training.fit(small_model(), train, validation, recipes.Recipe(epochs=1), seed=0)
    assert not capsys.readouterr().out


def test_images_grow_with_the_epochs():
    sides = []

    class Sides(keras.layers.Layer):
        def call(self, images):
            sides.append(images.shape[1])
            return images

    images = keras.Input((None, None, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(Sides()(keras.layers.Rescaling(1 / 255)(images)))
    model = keras.Model(images, models.logits(x))
    sides.clear()
    recipe = recipes.Recipe(epochs=3, batch_size=10, sizes=((0.3, 16), (0.6, 24)))
    fitted = training.fit(model, coloured(20), coloured(10), recipe, seed=0)
    # Each size is traced once for training; validation is always at 32.
    assert sides[0] == 16
    assert set(sides) == {16, 24, 32}
    assert fitted.history["epoch"].tolist() == [1, 2, 3]
    assert model.optimizer.iterations == 6


def weights(model):
    return [keras.ops.convert_to_numpy(variable) for variable in callbacks.floating(model)]


class Trace(keras.callbacks.Callback):
    """Keeps the weights after every step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(weights(self.model))


def test_lookahead_follows_its_definition():
    """Checked on the last weight, a bias, against the update done by hand in NumPy."""
    trace, model = Trace(), small_model()
    start = weights(model)[-1]
    recipe = recipes.Recipe(epochs=2, batch_size=10, averaging="lookahead", learning_rate=0.05)
    training.fit(model, coloured(100), coloured(20), recipe, seed=0, callbacks=[trace])
    average = start
    for step in (5, 10, 15):
        decay = 0.95**5 * (step / 20) ** 3
        average = decay * average + (1 - decay) * trace.seen[step - 1][-1]
    np.testing.assert_allclose(weights(model)[-1], average, rtol=1e-5, atol=1e-7)
    assert (trace.seen[-1][-1] != average).any()


@pytest.mark.parametrize("kind", ["ema", "lookahead"])
def test_validation_judges_the_averaged_weights_that_training_leaves(kind):
    model = small_network()
    recipe = recipes.Recipe(epochs=3, batch_size=10, averaging=kind, learning_rate=0.05)
    validation = coloured(50, 1)
    fitted = training.fit(model, coloured(100), validation, recipe, seed=0)
    outputs = model.predict(validation.images, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(validation.labels, outputs)
    assert float(loss) == pytest.approx(fitted.history["val_loss"].iloc[-1], rel=1e-3)


def test_ema_smooths_but_leaves_the_path_of_the_weights_alone():
    def path(averaging):
        keras.utils.set_random_seed(0)
        trace, model = Trace(), small_model()
        recipe = recipes.Recipe(epochs=3, batch_size=10, averaging=averaging, schedule="constant")
        training.fit(model, coloured(100), coloured(20), recipe, seed=0, callbacks=[trace])
        return trace.seen, weights(model)

    plain, _ = path("none")
    averaged, final = path("ema")
    for first, second in zip(plain, averaged, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
    low, high = (
        reduce(np.stack([step[-1] for step in plain]), axis=0) for reduce in (np.min, np.max)
    )
    assert ((low <= final[-1]) & (final[-1] <= high)).all()
    assert (final[-1] != plain[-1][-1]).any()


def robustness(step):
    """Accuracy under attack of a network whose images have a strong and a fragile clue."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    images = generator.normal(128, 3, (400, 32, 32, 3))
    images[:, 16:] += 4 * np.where(labels, 1, -1)[:, None, None, None]  # many faint pixels
    images[:, 0] += np.where(generator.random(400) < 0.9, 1, -1)[:, None, None] * (
        60 * np.where(labels, 1, -1)[:, None, None]
    )  # few bright ones, sometimes wrong
    split = Split(np.clip(images, 0, 255).astype(np.uint8), labels)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 32, offset=-4)(inputs))
    model = keras.Model(inputs, models.logits(x))
    recipe = recipes.Recipe(epochs=4, batch_size=50, learning_rate=3e-3, adversarial=step)
    training.fit(model, split, None, recipe, seed=0)
    twin = adversarial.float_twin(model)
    moved = adversarial.attacked(
        twin, split.images, np.eye(10)[labels], recipes.loss(recipe), step=8.0
    )
    assert np.abs(np.asarray(moved).astype(int) - split.images).max() == 8
    return (model.predict(np.asarray(moved), verbose=0).argmax(axis=1) == labels).mean()


def test_adversarial_training_makes_robust():
    assert robustness(0.0) < 0.3
    assert robustness(8.0) > 0.7


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_precision_reaches_every_layer_but_the_logits(policy):
    model = small_network()
    recipe = recipes.Recipe(epochs=1, batch_size=10, precision=policy)
    training.fit(model, coloured(20), None, recipe, seed=0)
    computed = {layer.name: layer.compute_dtype for layer in model.layers[1:]}
    assert computed.pop("logits") == "float32"
    assert set(computed.values()) == {policy.removeprefix("mixed_")}
    assert {weight.dtype for weight in callbacks.floating(model)} == {"float32"}
    assert hasattr(model.optimizer, "inner_optimizer") == (policy == "mixed_float16")
    hidden = keras.Model(model.inputs, model.get_layer("convolution").output)
    found = hidden(coloured(2).images)
    assert keras.backend.standardize_dtype(found.dtype) == policy.removeprefix("mixed_")


def test_precision_keeps_pinned_layers_and_those_of_models_inside():
    keras.config.set_dtype_policy("mixed_bfloat16")
    features = keras.Input((8,))
    x = keras.layers.Dense(4, name="hidden")(features)
    x = keras.layers.Dense(4, dtype="float32", name="pinned")(x)
    head = keras.Model(features, models.logits(x))
    outer = keras.Input((8,))
    model = keras.Model(outer, head(keras.layers.Dense(8, name="first")(outer)))
    training.set_precision(model, "mixed_float16")
    assert head.get_layer("pinned").compute_dtype == "float32"
    assert head.get_layer("logits").compute_dtype == "float32"
    assert head.get_layer("hidden").compute_dtype == "float16"
    assert model.get_layer("first").compute_dtype == "float16"


def test_precision_reaches_the_constants_of_normalisation():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = models.build("fast_cnn", coloured(20).images)
    training.set_precision(model, "float32")
    layer = model.get_layer("normalization")
    np.testing.assert_array_equal(np.ravel(layer.mean), np.float32(architectures.PIXEL_MEAN))
    deviation = np.sqrt(np.ravel(layer.variance))
    np.testing.assert_allclose(deviation, architectures.PIXEL_STD, rtol=1e-6)


def test_precision_reaches_what_normalisation_has_adapted_to():
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = keras.layers.Normalization()
    layer.adapt(np.float32([[1.001], [2.002]]))
    images = keras.Input((1,))
    training.set_precision(keras.Model(images, models.logits(layer(images))), "float32")
    np.testing.assert_allclose(np.ravel(layer.mean), 1.5015, rtol=1e-3)
    assert keras.backend.standardize_dtype(layer.mean.dtype) == "float32"


def test_alternating_flip_mirrors_the_others_in_every_other_epoch():
    policy = augment.Policy(alternating=True)
    images = np.zeros((10, 32, 32, 3), np.uint8)
    images[:, :, :16] = 200
    found = batches.Batches(images, np.arange(10), 10, policy=policy, seed=1)
    mirrored = []
    for epoch in (0, 1, 2):
        found.start(epoch)
        inputs, targets = found[0]
        mirrored.append((inputs[:, 0, 0, 0] == 0)[np.argsort(targets.argmax(axis=1))])
    assert (mirrored[0] != mirrored[1]).all()
    assert (mirrored[0] == mirrored[2]).all()


def test_tensorboard_without_its_package_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CifarUtilsError, match="TensorBoard needs the package tensorflow"):
        training.fit(
            small_model(),
            coloured(20),
            None,
            recipes.Recipe(epochs=1),
            seed=0,
            tensorboard=tmp_path,
        )
