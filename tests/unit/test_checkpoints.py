import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cifar_utils import checkpoints, recipes, supervision, training
from cifar_utils.errors import RunError
from tests.unit.trainable import coloured, small_network

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS = 3, 4
OPTIONS = {
    "plain": {},
    "averaged and judged": {
        "optimizer": "sgd",
        "averaging": "lookahead",
        "patience": 2,
        "augmentation": "strong",
    },
    "attacked in bfloat16": {
        "adversarial": 8,
        "averaging": "ema",
        "precision": "mixed_bfloat16",
    },
    "growing images": {"sizes": ((0.5, 16),), "loss": "sparse"},
}


class Kill(keras.callbacks.Callback):
    """Ends the process the hard way before a step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def train(name, backup=None, callbacks=(), **changed):
    keras.utils.set_random_seed(0)
    options = {"epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.01, **OPTIONS[name]}
    model = small_network(None if "sizes" in options else 32)
    recipe = recipes.Recipe(**{**options, **changed})
    train, validation = coloured(32 * STEPS - 8), coloured(50, 1)
    fitted = training.fit(
        model, train, validation, recipe, seed=3, backup=backup, callbacks=callbacks
    )
    weights = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    return fitted.history.drop(columns="seconds"), weights


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("plain", 0),
        ("averaged and judged", STEPS),
        ("averaged and judged", 2 * STEPS + 2),
        ("attacked in bfloat16", STEPS + 2),
        ("growing images", 2 * STEPS + 2),
    ],
)
def test_a_killed_training_ends_as_one_left_alone(name, step, tmp_path, capsys):
    folder = tmp_path / "backup"
    code = (
        "import sys, pathlib; from tests.unit import test_checkpoints as t; "
        "t.checkpoints.SPARED = 0; "
        "t.train(sys.argv[1], pathlib.Path(sys.argv[2]), [t.Kill(int(sys.argv[3]))])"
    )
    command = [sys.executable, "-c", code, name, str(folder), str(step)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    history, weights = train(name)
    capsys.readouterr()
    resumed_history, resumed_weights = train(name, folder)
    assert capsys.readouterr().out.count("val_loss") == EPOCHS - step // STEPS
    assert resumed_history.equals(history)
    for left_alone, resumed in zip(weights, resumed_weights, strict=True):
        np.testing.assert_array_equal(resumed, left_alone)
    assert not folder.exists()


class StopError(Exception):
    pass


class Raise(keras.callbacks.Callback):
    """Interrupts after so many epochs, as Ctrl-C would."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            raise StopError


def interrupted(folder, name="plain", epochs=1):
    with pytest.raises(StopError):
        train(name, folder, [Raise(epochs)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.02}, r"recipe\.learning_rate \(was 0\.01, is 0\.02\)"),
        ({"epochs": 5}, r"recipe\.epochs \(was 3, is 5\)"),
    ],
)
def test_the_state_of_another_recipe_is_refused_with_the_difference(changed, message, tmp_path):
    interrupted(tmp_path / "backup")
    with pytest.raises(RunError, match=message + ".*delete the folder .*backup to start anew"):
        train("plain", tmp_path / "backup", **changed)
    assert (tmp_path / "backup").is_dir()


def test_the_state_of_other_data_or_another_model_is_refused(tmp_path):
    interrupted(tmp_path)
    recipe = recipes.Recipe(epochs=EPOCHS, batch_size=32, learning_rate=0.01)
    train, validation = coloured(120), coloured(50, 1)
    model = small_network()
    with pytest.raises(RunError, match=r"seed \(was 3, is 4\)"):
        training.fit(model, train, validation, recipe, seed=4, backup=tmp_path)
    with pytest.raises(RunError, match=r"training data .*120.*100"):
        training.fit(model, train.first(100), validation, recipe, seed=3, backup=tmp_path)
    train.images[0, 0, 0, 0] ^= 1
    with pytest.raises(RunError, match=r"training data .*CRC-32"):
        training.fit(model, train, validation, recipe, seed=3, backup=tmp_path)
    train.images[0, 0, 0, 0] ^= 1
    model.get_layer("dropout").rate = 0.3
    with pytest.raises(RunError, match=r"another training: model \(was"):
        training.fit(model, train, validation, recipe, seed=3, backup=tmp_path)


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_damaged_state_is_not_trusted(tmp_path, capsys, how):
    history, weights = train("plain")
    interrupted(tmp_path)
    (state,) = tmp_path.iterdir()
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 0xFF
    state.write_bytes(content if how == "changed" else content[:-100])
    capsys.readouterr()
    again, same = train("plain", tmp_path)
    assert re.search(r"is damaged \(.*\); the training starts anew", capsys.readouterr().out)
    assert again.equals(history)
    for left_alone, trained in zip(weights, same, strict=True):
        np.testing.assert_array_equal(trained, left_alone)


def test_a_pipeline_hears_of_epochs_stops_after_one_and_keeps_what_is_done(
    tmp_path, monkeypatch, capsys
):
    history, weights = train("plain")
    place, backup = tmp_path / "place", tmp_path / "backup"
    place.mkdir()
    monkeypatch.setenv(supervision.VARIABLE, str(place))
    supervision.ask_to_stop(place)
    with pytest.raises(KeyboardInterrupt):
        train("plain", backup)
    (told,), _ = supervision.told(place, 0)
    assert (told["epoch"], told["epochs"]) == (1, EPOCHS)
    assert told["val_accuracy"] == history["val_accuracy"][0]
    (place / "stop").unlink()
    resumed, _ = train("plain", backup)
    assert resumed.equals(history)
    assert "goes on after epoch 1" in capsys.readouterr().out
    # As it is done, it is not trained again in the same notebook.
    again, same = train("plain", backup)
    assert "val_loss" not in capsys.readouterr().out
    assert again.equals(history)
    for left_alone, trained in zip(weights, same, strict=True):
        np.testing.assert_array_equal(trained, left_alone)


def test_the_state_is_read_without_pickle_and_says_what_it_is_of(tmp_path):
    interrupted(tmp_path, "averaged and judged")
    with np.load(next(tmp_path.iterdir()), allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        groups = {name.partition("/")[0] for name in file.files}
    assert groups == {"about", "model", "optimizer", "averaging", "stopping"}
    assert about["identity"]["recipe.averaging"] == "'lookahead'"
    assert about["epochs"] == 1


@pytest.mark.parametrize(("spared", "kept"), [(0, 2), (1e9, 1)])
def test_writing_the_state_takes_a_small_share_of_the_time(
    tmp_path, monkeypatch, capsys, spared, kept
):
    monkeypatch.setattr(checkpoints, "SPARED", spared)
    history, _ = train("plain")
    interrupted(tmp_path, epochs=2)
    resumed, _ = train("plain", tmp_path)
    assert f"goes on after epoch {kept}," in capsys.readouterr().out
    assert resumed.equals(history)


def test_the_state_of_the_last_epoch_is_kept_however_short_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "SPARED", 1e9)
    (tmp_path / "place").mkdir()
    monkeypatch.setenv(supervision.VARIABLE, str(tmp_path / "place"))
    train("plain", tmp_path / "backup")
    train("plain", tmp_path / "backup")
    assert f"goes on after epoch {EPOCHS}," in capsys.readouterr().out


def test_a_folder_with_other_files_survives(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    train("plain", tmp_path, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_training_that_was_over_when_it_was_killed_does_not_go_on(tmp_path, monkeypatch):
    from cifar_utils import checkpoints

    options = {"patience": 1, "learning_rate": 0.5, "epochs": 6}
    history, weights = train("plain", **options)
    assert len(history) < 6
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoint, "clear", lambda self: None)
        train("plain", tmp_path, **options)
    assert list(tmp_path.iterdir())
    again, same = train("plain", tmp_path, **options)
    assert again.equals(history)
    floats = [index for index, weight in enumerate(weights) if weight.dtype == np.float32]
    for index in floats:
        np.testing.assert_array_equal(same[index], weights[index])
