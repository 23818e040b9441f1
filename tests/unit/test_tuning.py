"""Trials that train: what they report, which wins, and what cross-validation makes of it."""

import keras
import numpy as np
import optuna
import pandas as pd
import pytest

from cifar_utils import (
    cli,
    data,
    live,
    models,
    paths,
    plots,
    profiles,
    recipes,
    spaces,
    studies,
    supervision,
    tuning,
)
from cifar_utils.errors import ParameterError, RunError
from cifar_utils.recipes import Recipe
from cifar_utils.spaces import Dimension
from tests.unit.trainable import coloured, small_model

TRAIN, VALIDATION = coloured(60), coloured(45, seed=1)
BASE = Recipe(epochs=3, batch_size=20, optimizer="adamw", learning_rate=0.01)
SPACE = {
    "learning_rate_factor": Dimension(low=0.1, high=30.0, log=True),
    "width": Dimension(choices=(4, 32)),
}
IDENTITY = {"profile": "smoke", "data": "synthetic", "data_fingerprint": "0"}


def tiny(*, width: int = 32):
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
    x = keras.layers.Dense(width, activation="relu")(x)
    return keras.Model(images, models.logits(x))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch, tmp_path):
    keras.config.set_dtype_policy("float32")
    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))


def made(**changes):
    fields = {
        "model": "tiny",
        "space": SPACE,
        "base": BASE,
        "train": TRAIN,
        "validation": VALIDATION,
        "objectives": ("accuracy",),
        "seed": 0,
        "identity": IDENTITY,
    }
    return tuning.Task(**fields | changes)


def test_a_study_finds_trains_and_writes_the_winner(tmp_path):
    task = made()
    study = task.open("s", pruner="none")
    studies.search(study, task, 5)
    table = tuning.table(study)
    assert list(table.index) == [0, 1, 2, 3, 4]
    assert set(table["state"]) == {"complete"}
    assert (table["epochs"] == 3).all()
    assert (table["seconds"] > 0).all()
    assert table["width"].isin([4, 32]).all()
    best = tuning.best(study)
    assert best.user_attrs["accuracy"] == table["accuracy"].max()
    plan = tuning.write_winner(study, task, tmp_path / "recipe.json")
    assert recipes.read(tmp_path / "recipe.json") == plan
    assert plan.options == {"width": best.params["width"]}
    factor = best.params["learning_rate_factor"]
    assert plan.recipe.learning_rate == pytest.approx(factor * recipes.USUAL_RATES["adamw"])
    right = tuning.right(study, len(VALIDATION))
    assert right.shape == (5, 45)
    assert right.mean(axis=1) == pytest.approx(table["accuracy"].to_numpy())
    shares = tuning.importance(study)
    assert set(shares.index) == set(SPACE)
    assert shares.sum() == pytest.approx(1, abs=1e-6) or (shares == 0).all()
    figure = plots.parallel_coordinates(table, list(SPACE), "accuracy")
    assert len(figure.axes[0].lines) == 5 + 3


def test_trials_begin_alike_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_LIVE", "1")
    monkeypatch.setattr(live, "Curves", None)  # none is drawn: of many trials, it would be too many
    task, values = made(), {"learning_rate_factor": 5.0, "width": 32}
    study = task.open("s")
    for _ in range(2):
        study.optuna.enqueue_trial(values)
    studies.search(study, task, 2)
    first, second = study.trials()
    assert first.user_attrs["right"] == second.user_attrs["right"]


def test_what_lags_behind_is_ended_early(monkeypatch):
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda *_: True)
    task = made()
    study = task.open("s")
    studies.search(study, task, 1)
    (trial,) = study.trials()
    assert trial.state.name == "PRUNED"
    assert trial.user_attrs["epochs"] == 1
    table = tuning.table(study)
    assert table.loc[0, "state"] == "pruned"
    assert table.loc[0, "accuracy"] == trial.intermediate_values[1]
    assert "pruned after epoch 1" in tuning.described(trial)
    with pytest.raises(RunError, match="no complete trial"):
        tuning.best(study)
    with pytest.raises(RunError, match="0 complete trials"):
        tuning.importance(study)


def test_a_trial_that_diverges_counts_and_does_not_win():
    wild = {
        "learning_rate_factor": Dimension(low=1e7, high=1e8),
        "optimizer": Dimension(choices=("sgd",)),
    }
    task = made(space=wild)
    study = task.open("s")
    studies.search(study, task, 1)
    table = tuning.table(study)
    assert table.loc[0, "state"] == "diverged"
    assert np.isnan(table["accuracy"].astype(float)[0])
    assert "the " in tuning.described(study.trials()[0])


def test_accuracy_against_seconds_has_a_front():
    task = made(objectives=("accuracy", "seconds"))
    study = task.open("s")
    studies.search(study, task, 3)
    table = tuning.table(study)
    front = table[table["front"]]
    assert len(front)
    for trial in table.index:
        as_good = table["accuracy"] >= table.loc[trial, "accuracy"]
        quicker = table["seconds"] < table.loc[trial, "seconds"]
        if table.loc[trial, "front"]:
            assert not (as_good & quicker).any()
    assert tuning.best(study).user_attrs["accuracy"] == table["accuracy"].max()


def test_an_empty_study_is_told():
    with pytest.raises(RunError, match="has no finished trial yet"):
        tuning.table(made().open("s"))


def test_another_space_or_network_is_refused():
    made().open("s")
    space = SPACE | {"width": Dimension(choices=(4, 8))}
    with pytest.raises(
        ParameterError, match=r"space\.width\.choices is \[4, 32\] there and \[4, 8\]"
    ):
        made(space=space).open("s")
    identity = IDENTITY | {"profile": "cpu", "data_fingerprint": "1"}
    with pytest.raises(ParameterError, match=r"data_fingerprint is .0. there.*profile is .smoke."):
        made(identity=identity).open("s")


def test_a_task_comes_from_profile_and_data_and_leaves_test_alone():
    profile = profiles.resolve("smoke")
    provenance = data.Provenance("synthetic", "synthetic", "ab" * 32, "synthetic", {}, "now")
    dataset = data.Dataset(coloured(400), VALIDATION, None, provenance)
    task = tuning.task(profile, dataset, model="tiny", space="training", seed=3)
    assert len(task.train) == profile.trial_images
    assert task.validation is VALIDATION
    assert task.base.epochs == profile.trial_epochs
    assert task.identity["data_fingerprint"] == "ab" * 8
    for changes, message in (
        ({"objectives": ["speed"]}, "unknown objective 'speed'"),
        ({"objectives": ["accuracy", "accuracy"]}, "expected different ones"),
        ({"model": "tinny"}, "unknown model 'tinny'; did you mean 'tiny'"),
        ({"space": "default"}, "tiny has no 'dropout' to tune"),
    ):
        with pytest.raises(ParameterError, match=message):
            tuning.task(profile, dataset, **{"model": "tiny", "space": "training"} | changes)


def test_folds_are_stratified_and_disjoint():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 13))
    found = tuning.folds(labels, 4, seed=1)
    judged = np.concatenate([fold for _, fold in found])
    assert sorted(judged) == list(range(130))
    for learned, fold in found:
        assert not set(learned) & set(fold)
        assert len(learned) + len(fold) == 130
        counts = np.bincount(labels[fold], minlength=10)
        assert counts.min() >= 3
        assert counts.max() <= 4
    assert not np.array_equal(found[0][1], tuning.folds(labels, 4, seed=2)[0][1])


@pytest.mark.parametrize("count", [1, 14])
def test_folds_that_cannot_be_made_are_refused(count):
    with pytest.raises(ParameterError, match=f"{count} folds of 130 images, 13 of the rarest"):
        tuning.folds(np.repeat(np.arange(10), 13), count)


def test_no_network_judges_what_it_learned_from(monkeypatch):
    learned, judged = [], []

    def fit(model, train, validation, *, seed, backup):
        assert validation is None
        assert backup is None
        learned.append(set(train.images[:, 0, 0, 0].tolist()))
        return tuning.training.Fitted(pd.DataFrame(), 1.0)

    def predict(model, images):
        judged.append(set(images[:, 0, 0, 0].tolist()))
        return np.eye(10, dtype=np.float32)[images[:, 0, 0, 0] % 10]

    monkeypatch.setattr(tuning.evaluation, "predict_logits", predict)
    numbered = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), "uint8")
    images = data.Split(numbered, np.arange(60) % 10)
    found = tuning.cross_validate({"a": (tiny, fit), "b": (tiny, fit)}, images, count=3)
    for seen, asked in zip(learned, judged, strict=True):
        assert not seen & asked
        assert len(seen) == 40
        assert len(asked) == 20
    assert judged[:3] == judged[3:], "all variants have the same folds"
    assert found.table.groupby("variant")["fold"].apply(list).to_dict() == {
        "a": [1, 2, 3],
        "b": [1, 2, 3],
    }
    assert (found.table["accuracy"] == 1).all(), "outputs are put where their images are"
    assert (found.logits["a"].argmax(1) == images.labels).all()
    assert found.difference("b", "a") == (0, 0, 0)


def test_a_killed_cross_validation_trains_no_fold_twice(tmp_path, monkeypatch):
    recipe = Recipe(epochs=2, batch_size=50, learning_rate=0.03)
    variants = dict.fromkeys(("a", "b"), (small_model, recipe))
    whole = tuning.cross_validate(variants, TRAIN, count=2)
    monkeypatch.setenv(supervision.VARIABLE, str(tmp_path))
    fit, trained = tuning.training.fit, []

    def killed(*arguments, **options):
        trained.append(options["backup"].name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning.training, "fit", killed)
        tuning.cross_validate(variants, TRAIN, count=2, backup=tmp_path / "folds")
    assert trained == ["a_1", "a_2", "b_1"]
    learn, calls = keras.Model.fit, []

    def counted(*arguments, **options):
        calls.append(arguments)
        return learn(*arguments, **options)

    monkeypatch.setattr(keras.Model, "fit", counted)
    found = tuning.cross_validate(variants, TRAIN, count=2, backup=tmp_path / "folds")
    assert len(calls) == 2, "only those of b"
    for name in variants:
        np.testing.assert_array_equal(found.logits[name], whole.logits[name])


def test_cross_validation_tells_a_good_recipe_from_a_bad_one():
    variants = {
        "bad": (small_model, Recipe(epochs=1, batch_size=60, learning_rate=1e-5)),
        "good": (small_model, Recipe(epochs=20, batch_size=20, learning_rate=0.03)),
    }
    found = tuning.cross_validate(variants, TRAIN, count=2)
    assert found.difference("good", "bad").low > 0


def test_the_chosen_of_equal_networks_looks_better_than_it_is():
    right = np.random.default_rng(0).random((50, 1000)) < 0.7
    table = tuning.selection_bias(right, halvings=300)
    assert list(table.index) == list(range(1, 51))
    assert abs(table.loc[1, "gap"]) < 0.01, "one network was not chosen"
    # The largest of 50 normal deviates is 2.25 on average; that of 500 images is 2.05 points each.
    assert table.loc[50, "chose"] == pytest.approx(0.7 + 2.25 * 0.0205, abs=0.012)
    assert table.loc[50, "other"] == pytest.approx(0.7, abs=0.012)
    assert table.loc[50, "low"] < table.loc[50, "gap"] < table.loc[50, "high"]
    plots.selection_bias(table)


def test_a_network_that_is_much_better_is_not_overstated():
    generator = np.random.default_rng(0)
    right = np.concatenate([generator.random((9, 1000)) < 0.3, generator.random((1, 1000)) < 0.9])
    assert abs(tuning.selection_bias(right, halvings=200).loc[10, "gap"]) < 0.005


@pytest.mark.parametrize("shape", [(0, 10), (3, 1)])
def test_nothing_to_choose_from_is_refused(shape):
    with pytest.raises(ParameterError, match=f"got {shape[0]} networks and {shape[1]} images"):
        tuning.selection_bias(np.ones(shape, bool))


@pytest.fixture
def command(monkeypatch, tmp_path):
    """What `cifar tune` needs, with few grey images in place of the drawn ones."""
    provenance = data.Provenance("synthetic", "synthetic", "0" * 64, "synthetic", {}, "now")
    dataset = data.Dataset(TRAIN, VALIDATION, None, provenance)
    monkeypatch.setattr(data, "load", lambda *_: dataset)
    monkeypatch.setitem(spaces.SPACES, "tiny", SPACE)
    return ["tune", "--study", "s", "--model", "tiny", "--profile", "smoke", "--space", "tiny"]


def test_the_command_tunes_and_goes_on(command, capsys):
    assert cli.main([*command, "--trials", "2"]) == 0
    assert "2 of 2 trials are over; the best: trial " in capsys.readouterr().out
    assert cli.main([*command, "--trials", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines if line.startswith("trial ")] == ["trial 2:"]
    path = paths.artifacts_dir() / "studies" / "s.recipe.json"
    assert lines[-1] == f"recipe: {path}"
    assert recipes.read(path).model == "tiny"


def test_the_command_refuses_another_study(command, capsys):
    assert cli.main([*command, "--trials", "1"]) == 0
    assert cli.main([*command, "--trials", "1", "--seed", "1"]) == 2
    assert "seed is 0 there and 1 here" in capsys.readouterr().err
    assert cli.main([*command, "--sampler", "tpo"]) == 2


def test_the_command_says_what_to_install(command, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(command) == 1
    assert "pip install optuna" in capsys.readouterr().err
