import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cifar_utils import finetuning, models, pretrained, training, transfer
from cifar_utils.batches import Batches, Mirrored
from cifar_utils.data import Split
from cifar_utils.errors import DataError, ParameterError
from cifar_utils.finetuning import Phase
from cifar_utils.recipes import Recipe
from tests.unit.trainable import coloured

GENERATOR = np.random.default_rng(0)
GENTLE = Recipe(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.01)


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(tmp_path / "data"))
    keras.config.set_dtype_policy("float32")


def base_network(size=32):
    """A ResNet50 with one convolution a stage."""
    images = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(8, 7, 2, padding="same", name="conv1_conv")(images)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    x = keras.layers.ReLU(name="conv1_relu")(x)
    x = keras.layers.MaxPooling2D(name="pool1_pool")(x)
    for number, channels, side in ((2, 8, 3), (3, 8, 3), (4, 8, 3), (5, 2048, 1)):
        name = f"conv{number}_block1_{{}}".format
        strides = 1 if number == 2 else 2
        layer = keras.layers.Conv2D(channels, side, strides, padding="same", name=name("1_conv"))
        x = keras.layers.BatchNormalization(name=name("1_bn"))(layer(x))
        x = keras.layers.ReLU(name=name("out"))(x)
    return keras.Model(images, x, name="resnet50")


def stand_in(*, preprocessing="caffe", trained=True, base=base_network):
    """What ``transfer.join`` returns, with a base that is built in no time."""
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    x = keras.layers.Resizing(32, 32, dtype="float32", name="enlarge")(images)
    network = base()
    network.trainable = False
    x = network(pretrained.PREPROCESSING[preprocessing](x))
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    model = transfer.join(keras.Model(images, x), transfer.head(), "stand_in")
    if trained:
        model.get_layer("head").get_layer("logits").bias.assign(np.full(10, 0.01))
    return model


def tuned(phases, model=None, **options):
    model = model or stand_in()
    return model, finetuning.fine_tune(
        model, coloured(60), coloured(20, 1), phases, seed=3, **options
    )


def test_a_sound_model_passes():
    model = stand_in()
    transfer.unfreeze(model, "conv4")
    finetuning.check(model, None, GENTLE)


def test_a_random_head_on_a_network_that_learns_is_refused():
    model = stand_in(trained=False)
    finetuning.check(model)
    transfer.unfreeze(model, "conv5")
    with pytest.raises(ParameterError, match="head was never trained"):
        finetuning.check(model)
    transfer.unfreeze(model, "head")
    finetuning.check(model)


def test_normalisation_that_learns_is_refused():
    model = stand_in()
    model.get_layer("resnet50").trainable = True
    with pytest.raises(ParameterError, match=r"'conv1_bn' is trainable.*freeze it"):
        finetuning.check(model)


@pytest.mark.parametrize(("frozen", "message"), [(True, "is frozen"), (False, "is trainable")])
def test_flags_that_changed_after_compiling_are_refused(frozen, message):
    model = stand_in()
    transfer.unfreeze(model, "conv4" if frozen else "conv5")
    model.compile("sgd", "mse")
    finetuning.check(model)
    transfer.unfreeze(model, "conv5" if frozen else "conv4")
    with pytest.raises(ParameterError, match=f"'conv4_block1_1_conv' {message}.*compile the model"):
        finetuning.check(model)


def test_scaling_twice_is_refused():
    def twice():
        network = base_network()
        images = keras.Input((32, 32, 3))
        scaled = keras.layers.Rescaling(1 / 127.5, name="again")(images)
        return keras.Model(images, network(scaled), name="resnet50")

    with pytest.raises(ParameterError, match=r"scaled 2 times, by .*again"):
        finetuning.check(stand_in(base=twice))


@pytest.mark.parametrize("preprocessing", ["none", "divide by 255"])
def test_other_preprocessing_than_the_pretrained_network_knows_is_refused(preprocessing):
    with pytest.raises(ParameterError, match=r"expected -123\.7 to 151\.1, blue first"):
        finetuning.check(stand_in(preprocessing=preprocessing))


def test_other_inputs_are_refused():
    images = keras.Input((32, 32, 3), name="images")
    model = keras.Model(images, models.logits(keras.layers.Flatten()(images)), name="floats")
    with pytest.raises(
        ParameterError, match=r"'floats' takes float32 \(32, 32, 3\); expected uint8"
    ):
        finetuning.check(model)
    with pytest.raises(ParameterError, match=r"uint8 \(16, 16, 3\); expected"):
        small = keras.Input((16, 16, 3), dtype="uint8")
        finetuning.check(keras.Model(small, models.logits(keras.layers.Flatten()(small))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logits_of_half_precision_are_refused(dtype):
    model = stand_in()
    model.get_layer("head").get_layer("logits").dtype_policy = f"mixed_{dtype}"
    with pytest.raises(ParameterError, match=f"logits of 'stand_in' are {dtype}"):
        finetuning.check(model)


def test_a_learning_rate_for_training_from_scratch_is_warned_of(recwarn):
    model, fast = stand_in(), dataclasses.replace(GENTLE, learning_rate=0.05)
    finetuning.check(model, None, fast)  # only the head would learn
    transfer.unfreeze(model, "conv5")
    finetuning.check(model, pretrained.RANDOM, fast)
    finetuning.check(model, None, dataclasses.replace(fast, rates=(("conv", 0.1),)))
    assert not recwarn
    with pytest.warns(UserWarning, match=r"learning rate 0\.05 of sgd is one for training from"):
        finetuning.check(model, None, fast)


def test_phases_change_what_they_name(capsys):
    model = stand_in(trained=False)
    before = {weight.path: weight.numpy() for weight in model.weights}

    def changed():
        return {w.path.split("_")[0] for w in model.weights if (w.numpy() != before[w.path]).any()}

    tuned([Phase("head", GENTLE)], model)
    assert "logits" in str(changed())
    assert not any(name.startswith("conv") for name in changed())
    _, fitted = tuned([Phase("conv5", GENTLE), Phase("conv4", GENTLE)], model)
    assert {name for name in changed() if name.startswith("conv")} == {"conv4", "conv5"}
    normal = [w for w in model.weights if "_bn/" in w.path]
    assert all((w.numpy() == before[w.path]).all() for w in normal)
    assert fitted.history["epoch"].tolist() == [1, 2, 3, 4]
    assert fitted.history["from_stage"].tolist() == ["conv5", "conv5", "conv4", "conv4"]
    assert "phase 2/2, from conv4 on: " in capsys.readouterr().out


class KilledError(Exception):
    pass


class Killer(keras.callbacks.Callback):
    """Kills training at the beginning of the epoch of that number, counted through all phases."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def on_epoch_begin(self, epoch, logs=None):
        self.left -= 1
        if not self.left:
            raise KilledError


RICH = dataclasses.replace(GENTLE, augmentation="mixup", averaging="ema", patience=5, warmup=0.2)


TWO = [Phase("conv5", RICH), Phase("conv4", dataclasses.replace(RICH, learning_rate=0.005))]


@pytest.fixture(scope="module")
def uninterrupted():
    return tuned(TWO)


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_a_killed_fine_tuning_ends_like_one_that_was_not(tmp_path, epoch, uninterrupted, capsys):
    expected, whole = uninterrupted
    with pytest.raises(KilledError):
        tuned(TWO, backup=tmp_path / "state", callbacks=[Killer(epoch)])
    capsys.readouterr()
    found, resumed = tuned(TWO, backup=tmp_path / "state")
    assert "goes on after epoch" in capsys.readouterr().out
    columns = [name for name in whole.history if name != "seconds"]
    assert whole.history[columns].equals(resumed.history[columns])
    for one, other in zip(expected.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (tmp_path / "state").exists()


def test_cached_activations_train_as_images_do(capsys):
    slow = dataclasses.replace(GENTLE, learning_rate=1e-4)
    before = np.concatenate([weight.ravel() for weight in stand_in().get_weights()])
    changes, losses = [], []
    for cached in (False, True):
        model, fitted = tuned([Phase("conv4", slow, cached=cached)])
        changes.append(np.concatenate([w.ravel() for w in model.get_weights()]) - before)
        losses.append(fitted.history["loss"])
    assert "GB on disk" in capsys.readouterr().out
    np.testing.assert_allclose(*losses, rtol=1e-3)
    # They are kept in half precision.
    assert np.linalg.norm(changes[1] - changes[0]) < 0.02 * np.linalg.norm(changes[0])


def test_cached_activations_of_both_versions_are_drawn_anew():
    tuned([Phase("head", dataclasses.replace(GENTLE, augmentation="flip"), cached=True)])
    with pytest.raises(ParameterError, match="set it to 'none' or 'flip'"):
        tuned([Phase("conv5", RICH, cached=True)])


def test_mirrored_features_are_chosen_by_image_and_epoch():
    plain = np.arange(800, dtype=np.float16).reshape(400, 2)
    both = Mirrored(plain, plain + 0.5)
    training_policy = training.augment.get("flip")
    found = Batches(both, np.arange(400) % 10, 400, policy=training_policy, seed=1)
    first, targets = found[0]
    again, _ = found[0]
    np.testing.assert_array_equal(first, again)
    shares = (first[:, 0] % 1 > 0).mean()
    assert 0.4 < shares < 0.6
    assert first.dtype == np.float32
    np.testing.assert_array_equal(targets.argmax(axis=1), (first[:, 0] // 2) % 10)
    found.start(1)
    other = found[0][0]
    assert ((other[np.argsort(other[:, 0])] - first[np.argsort(first[:, 0])]) != 0).any()
    with pytest.raises(DataError, match="expected the same"):
        Mirrored(plain, plain[:5])


def test_activations_are_not_taken_for_images():
    lower, upper = transfer.boundary(stand_in(), "conv5")
    images = coloured(20)
    kept = Split(lower.predict(images.images, verbose=0), images.labels)
    training.fit(upper, kept, None, GENTLE, seed=0)
    with pytest.raises(ParameterError, match="is for images, and 'stand_in_upper' takes features"):
        mixed = dataclasses.replace(GENTLE, augmentation="mixup")
        training.fit(upper, kept, None, mixed, seed=0)
    with pytest.raises(ParameterError, match="sizes need a model for images"):
        resized = dataclasses.replace(GENTLE, sizes=((0.5, 24),))
        training.fit(upper, kept, None, resized, seed=0)


@pytest.mark.parametrize("stage", transfer.STAGES)
def test_both_parts_together_are_the_model(stage):
    model, images = stand_in(), coloured(6).images
    lower, upper = transfer.boundary(model, stage)
    found = upper.predict(lower.predict(images, verbose=0), verbose=0)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-4, atol=1e-6)
    names = {weight.path.split("_")[0] for weight in upper.weights}
    assert {name for name in names if name.startswith("conv")} == set(
        transfer.STAGES[transfer.stage_index(stage) :]
    )
    assert {id(w) for w in (*lower.weights, *upper.weights)} == {id(w) for w in model.weights}


def test_cost_counts_bytes_and_versions():
    lower, _ = transfer.boundary(stand_in(), "conv4")
    images = coloured(50).images
    once, twice = (finetuning.boundary_cost(lower, images, mirrored=both) for both in (False, True))
    assert once.bytes == 50 * 4 * 4 * 8 * 2
    assert (twice.bytes, twice.epochs) == (2 * once.bytes, 2)
    assert "pays from epoch 2 on" in str(once)


def test_another_size_shares_the_weights():
    model, images = stand_in(), coloured(6).images
    large = transfer.resized(model, 64)
    assert {id(w) for w in large.weights} == {id(w) for w in model.weights}
    assert large.get_layer("resnet50").input.shape == (None, 64, 64, 3)
    assert not np.allclose(large.predict(images, verbose=0), model.predict(images, verbose=0))
    same = transfer.resized(large, 32)
    np.testing.assert_array_equal(same.predict(images, verbose=0), model.predict(images, verbose=0))
    finetuning.check(large)
    with pytest.raises(ParameterError, match="32 pixels and more, not 16"):
        transfer.resized(model, 16)


def test_a_phase_of_another_size_changes_the_model_itself(tmp_path):
    model = stand_in()
    before = model.get_layer("resnet50").get_layer("conv5_block1_1_conv").kernel.numpy()
    tuned([Phase("conv5", GENTLE, size=48), Phase("conv5", GENTLE)], model)
    after = model.get_layer("resnet50").get_layer("conv5_block1_1_conv").kernel.numpy()
    assert (before != after).any()
    models.save(model, tmp_path / "model.keras")
    images = coloured(6).images
    np.testing.assert_allclose(
        models.load(tmp_path / "model.keras").predict(images, verbose=0),
        model.predict(images, verbose=0),
        rtol=1e-5,
    )


def test_precision_of_a_phase_reaches_the_folded_convolutions():
    recipe = dataclasses.replace(GENTLE, epochs=1, precision="mixed_bfloat16")
    model, _ = tuned([Phase("conv5", recipe)])
    layer = model.get_layer("resnet50").get_layer("conv5_block1_1_conv")
    assert layer.compute_dtype == "bfloat16"
    finetuning.check(model)


def test_stages_are_unfrozen_from_the_last_one_on():
    recipe = dataclasses.replace(GENTLE, epochs=5)
    phases = finetuning.progressive(recipe, "conv3")
    assert [(phase.from_stage, phase.recipe.epochs) for phase in phases] == [
        ("conv5", 1),
        ("conv4", 1),
        ("conv3", 3),
    ]
    with pytest.raises(ParameterError, match="2 epochs are too few"):
        finetuning.progressive(GENTLE, "conv3")
    with pytest.raises(ParameterError, match="did you mean 'conv3'"):
        Phase("conf3", recipe)


def test_rates_fall_from_stage_to_stage():
    rates = dict(finetuning.stage_rates(0.5))
    assert rates["conv5_"] == 0.5
    assert rates["conv1_"] == 0.5**5
    recipe = dataclasses.replace(GENTLE, rates=finetuning.stage_rates(0.5))
    tuned([Phase("conv5", recipe, cached=True)])
    with pytest.raises(ParameterError, match=r"rates name 'conv9'.*conv5_block1_1_conv"):
        tuned([Phase("conv4", dataclasses.replace(GENTLE, rates=(("conv9", 0.5),)))])


def test_rates_follow_the_size_of_the_weights():
    model = stand_in()
    rates = dict(finetuning.weight_rates(model, unit=0.1))
    kernels = {
        layer.name: np.std(layer.kernel)
        for layer in model.get_layer("resnet50").layers
        if "_conv" in layer.name
    }
    assert rates == pytest.approx({name: min(1, size / 0.1) for name, size in kernels.items()})
    assert len(rates) == 5


def test_it_works_on_the_other_backend(tmp_path):
    code = """
import pathlib, sys
import keras
assert keras.backend.backend() == "jax"
from tests.unit import test_finetuning as tuning, test_folded as folding
from tests.unit import test_normalization as statistics, test_optimizers as rates
folding.test_training_is_that_of_the_network_and_changes_the_same_weights()
for policy, tolerance in (("float32", 1e-5), ("mixed_bfloat16", 3e-2)):
    folding.test_inference_gives_the_same_outputs_without_normalisation(policy, tolerance)
keras.config.set_dtype_policy("float32")
rates.test_each_layer_learns_at_its_own_rate("sgd")
rates.test_each_layer_learns_at_its_own_rate("adamw")
tuning.test_rates_follow_the_size_of_the_weights()
statistics.test_statistics_are_those_of_the_images(False, 25)
statistics.test_only_the_statistics_of_a_frozen_resnet_change()
tuning.test_both_parts_together_are_the_model("conv4")
phases = [tuning.Phase("conv5", tuning.RICH), tuning.Phase("conv4", tuning.GENTLE, cached=True)]
expected, _ = tuning.tuned(phases)
try:
    tuning.tuned(phases, backup=pathlib.Path(sys.argv[1]), callbacks=[tuning.Killer(4)])
except tuning.KilledError:
    found, _ = tuning.tuned(phases, backup=pathlib.Path(sys.argv[1]))
for one, other in zip(expected.get_weights(), found.get_weights(), strict=True):
    tuning.np.testing.assert_array_equal(one, other)
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "state")],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
