"""Comparing short trainings: which variant is held against which, with what interval."""

import functools

import keras
import numpy as np
import pandas as pd
import pytest

from cifar_utils import checkpoints, experiments, plots, supervision, training
from cifar_utils.errors import DivergedError, ParameterError
from cifar_utils.evaluation import Interval
from cifar_utils.recipes import Recipe
from tests.unit.trainable import coloured, small_model

TRAIN, VALIDATION = coloured(300), coloured(100, seed=1)
LONG = Recipe(epochs=6, batch_size=20, learning_rate=0.03)
SHORT = Recipe(epochs=1, batch_size=300, learning_rate=1e-5)


@pytest.fixture(scope="module")
def found():
    keras.config.set_dtype_policy("float32")
    variants = {
        "short": (small_model, SHORT),
        "long": (small_model, LONG),
        "again": (small_model, SHORT),
        "left out": (small_model, LONG),
    }
    return experiments.compare(variants, TRAIN, VALIDATION, most=3)


def test_each_variant_is_held_against_the_first(found):
    table = found.table
    assert list(table.index) == ["short", "long", "again"]
    assert list(table["verdict"]) == ["reference", "better", "not told apart"]
    assert table.loc["short", ["difference", "low", "high"]].isna().all()
    gap = table.loc["long", "validation"] - table.loc["short", "validation"]
    assert table.loc["long", "difference"] == pytest.approx(gap)
    assert table.loc["long", "low"] < gap < table.loc["long", "high"]
    assert table.loc["long", "training"] > table.loc["short", "training"]
    assert (table["seconds"] > 0).all()


def test_the_same_recipe_and_seed_give_the_same_network(found):
    assert list(found.table.loc["again", ["difference", "low", "high"]]) == [0, 0, 0]


def test_another_way_to_train_gets_what_a_recipe_gets():
    asked = []

    def fit(*data, seed):
        asked.append((*data[1:], seed))
        return training.fit(*data, SHORT, seed=seed)

    variants = {"recipe": (small_model, SHORT), "other": (small_model, fit)}
    table = experiments.compare(variants, TRAIN, VALIDATION, seeds=[7], curves=True).table
    assert asked == [(TRAIN, VALIDATION, 7)]
    assert list(table.loc["other", ["difference", "low", "high"]]) == [0, 0, 0]


def test_epochs_are_judged_only_if_curves_are_wanted(found):
    assert "val_loss" not in found.histories["long"]
    watched = experiments.compare(
        {"a": (small_model, LONG), "b": (small_model, SHORT)}, TRAIN, VALIDATION, curves=True
    )
    assert [len(history) for history in watched.histories.values()] == [6, 1]
    plots.learning_curves(watched.histories)


def test_several_seeds_are_averaged_and_give_their_own_interval(monkeypatch, capsys):
    """Accuracies that are made up, so that the interval can be computed by hand."""
    right = {("a", 0): 50, ("a", 1): 60, ("a", 2): 70, ("b", 0): 52, ("b", 1): 64, ("b", 2): 76}
    trained = []

    def fit(model, train, validation, recipe, *, seed):
        trained.append((model, seed))
        return training.Fitted(pd.DataFrame({"loss": [float(seed)]}), 1.0 + seed)

    def predict(model, images):
        count = right[trained[-1]]
        answers = np.where(np.arange(100) < count, VALIDATION.labels, VALIDATION.labels + 1)
        return np.eye(10, dtype=np.float32)[answers % 10]

    monkeypatch.setattr(experiments.training, "fit", fit)
    monkeypatch.setattr(experiments.evaluation, "predict_logits", predict)
    variants = {"a": (lambda: "a", SHORT), "b": (lambda: "b", SHORT)}
    found = experiments.compare(variants, TRAIN, VALIDATION, seeds=range(3))
    assert trained == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)]
    row = found.table.loc["b"]
    assert found.table.loc["a", "validation"] == pytest.approx(0.60)
    assert row["validation"] == pytest.approx(0.64)
    # Differences 2, 4 and 6 points: standard error 2 / sqrt(3), Student's 4.303 for two degrees.
    reach = 0.02 / 3**0.5 * 4.30265
    assert row[["difference", "low", "high"]].tolist() == pytest.approx(
        [0.04, 0.04 - reach, 0.04 + reach], abs=1e-6
    )
    assert row["verdict"] == "not told apart"
    assert row["seconds"] == 2
    assert found.histories["a"]["loss"].tolist() == [0.0], "that of the first seed"
    assert "b, seed 2: 76.0% in 3.0 s" in capsys.readouterr().out


def test_a_variant_that_does_not_train_is_a_result_too(capsys):
    wild = Recipe(epochs=6, batch_size=20, optimizer="sgd", learning_rate=1e6)
    variants = {
        "good": (small_model, LONG),
        "wild": (small_model, wild),
        "too": (small_model, LONG),
    }
    found = experiments.compare(variants, TRAIN, VALIDATION)
    table = found.table
    assert table["verdict"].tolist() == ["reference", "diverged", "not told apart"]
    assert table.loc["wild", ["training", "validation", "difference"]].isna().all()
    assert table.loc["wild", "seconds"] > 0
    assert "wild, seed 0: the " in capsys.readouterr().out
    plots.differences(table, "accuracy")


def test_all_variants_may_fail_to_train():
    wild = Recipe(epochs=6, batch_size=20, optimizer="sgd", learning_rate=1e6)
    variants = {"one": (small_model, wild), "other": (small_model, wild)}
    table = experiments.compare(variants, TRAIN, VALIDATION).table
    assert table[["training", "validation", "difference"]].isna().all(axis=None)
    assert table.loc["other", "verdict"] == "diverged"


def test_one_line_a_training(capsys):
    variants = {"a": (small_model, SHORT), "b": (small_model, SHORT)}
    experiments.compare(variants, TRAIN, VALIDATION)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_variants_change_the_recipe_or_the_network():
    changes = {"plain": {}, "slow": {"epochs": 9}, "other": {"build": keras.Model, "epochs": 2}}
    made = experiments.variants(small_model, SHORT, changes)
    assert made["plain"] == (small_model, SHORT)
    assert made["slow"][0] is small_model
    assert made["slow"][1].epochs == 9
    assert made["other"][0] is keras.Model
    assert made["other"][1].epochs == 2
    assert changes["other"]["build"] is keras.Model, "what was given is left as it is"


def test_views_are_held_against_one_view(monkeypatch):
    right = {"one": 50, "mirror": 50, "crops": 80}

    def predict(model, images, *, views="one"):
        answers = np.where(np.arange(100) < right[views], VALIDATION.labels, VALIDATION.labels + 1)
        return np.eye(10, dtype=np.float32)[answers % 10]

    monkeypatch.setattr(experiments.evaluation, "predict_logits", predict)
    table = experiments.views(None, VALIDATION)
    assert table["passes"].tolist() == [1, 2, 6]
    assert table["accuracy"].tolist() == [0.5, 0.5, 0.8]
    assert table["difference"].tolist() == pytest.approx([0, 0, 0.3])
    assert table["verdict"].tolist() == ["reference", "not told apart", "better"]
    assert (table["seconds"] >= 0).all()


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0.1, 0.01, 0.2), "better"), ((-0.1, -0.2, -0.01), "worse"), ((0.1, 0, 0.2), "not told")],
)
def test_verdict(interval, expected):
    assert experiments.verdict(Interval(*interval)).startswith(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"most": 1}, "got 1 variants and 1 seeds"), ({"seeds": ()}, "got 2 variants and 0 seeds")],
)
def test_nothing_to_compare_is_refused(options, message):
    variants = {"a": (small_model, SHORT), "b": (small_model, SHORT)}
    with pytest.raises(ParameterError, match=message):
        experiments.compare(variants, TRAIN, VALIDATION, **options)


class Stop(keras.callbacks.Callback):
    """Ends a comparison in the third epoch of its second training, as a kill would."""

    trainings = 0

    def on_train_begin(self, logs=None):
        Stop.trainings += 1

    def on_epoch_begin(self, epoch, logs=None):
        if Stop.trainings == 2 and epoch == 2:
            raise InterruptedError


def test_a_comparison_under_the_pipeline_goes_on_after_its_last_epoch(
    tmp_path, monkeypatch, capsys
):
    place, backup = tmp_path / "place", tmp_path / "backup"
    place.mkdir()
    monkeypatch.setattr(checkpoints, "SPARED", 0)
    variants = {
        "one: a": (small_model, LONG),
        "two": (small_model, LONG),
        "three": (small_model, SHORT),
    }
    alone = experiments.compare(variants, TRAIN, VALIDATION)
    monkeypatch.setenv(supervision.VARIABLE, str(place))
    stopped = {
        name: (build, functools.partial(training.fit, recipe=recipe, callbacks=[Stop()]))
        for name, (build, recipe) in variants.items()
    }
    with pytest.raises(InterruptedError):
        experiments.compare(stopped, TRAIN, VALIDATION, backup=backup)
    assert sorted(path.name for path in backup.iterdir()) == ["one_a_0", "two_0"]
    told, read = supervision.told(place, 0)
    assert len(told) == 6 + 2
    again = experiments.compare(variants, TRAIN, VALIDATION, backup=backup)
    assert [fact["epoch"] for fact in supervision.told(place, read)[0]] == [3, 4, 5, 6, 1]
    pd.testing.assert_frame_equal(
        again.table.drop(columns="seconds"), alone.table.drop(columns="seconds")
    )
    for name, history in alone.histories.items():
        other = again.histories[name].drop(columns="seconds")
        pd.testing.assert_frame_equal(other, history.drop(columns="seconds"))
    for trial in backup.glob("*/trial.npz"):
        trial.write_bytes(trial.read_bytes()[:-50])
    capsys.readouterr()
    experiments.compare(variants, TRAIN, VALIDATION, backup=backup)
    assert capsys.readouterr().out.count("the variant is trained again") == 3


def test_a_diverged_variant_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv(supervision.VARIABLE, str(tmp_path))
    calls = []

    def diverge(*data, seed, backup):
        calls.append(backup)
        raise DivergedError("the loss became nan; lower the rate")

    variants = {"short": (small_model, SHORT), "wild": (small_model, diverge)}
    for _ in range(2):
        table = experiments.compare(variants, TRAIN, VALIDATION, backup=tmp_path / "b").table
        assert table.loc["wild", "verdict"] == "diverged"
    assert calls == [tmp_path / "b" / "wild_0" / "state"]
