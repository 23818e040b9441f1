import numpy as np
import pytest
from scipy import stats

from cifar_utils import leaderboard, runs
from cifar_utils.evaluation import difference

PROVENANCE = {"kind": "official", "source": "here", "fingerprint": "a" * 64}


def row(accuracy=0.5, **fields):
    usual = {
        "run": "a",
        "stage": "02_baseline_cnn",
        "split": "test",
        "data": "official",
        "data_fingerprint": "a" * 16,
        "profile": "cpu",
        "pretraining": "none",
        "parameters": 10,
        "seed": 0,
        "accuracy": accuracy,
    }
    return usual | fields


def test_only_results_on_the_same_images_stand_together_best_first():
    rows = [
        row(0.5),
        row(0.9, data="synthetic", data_fingerprint="b" * 16),
        row(0.7, run="b"),
        row(0.8, split="validation"),
        row(0.6, data="modified", data_fingerprint="c" * 16),
        row(0.6, data="modified", data_fingerprint="d" * 16),
        row(None),
    ]
    found = leaderboard.comparable(rows)
    assert {title: [each["accuracy"] for each in group] for title, group in found.items()} == {
        "test, official images": [0.7, 0.5],
        "test, modified images cccccccc": [0.6],
        "test, modified images dddddddd": [0.6],
        "test, synthetic images, which say nothing about CIFAR-10": [0.9],
        "validation, official images": [0.8],
    }
    assert list(found)[-1].startswith("validation")


def test_interval_over_seeds_is_students():
    values = [0.5, 0.53, 0.55]
    rows = [row(value, seed=seed, run=str(seed)) for seed, value in enumerate(values)]
    others = [row(0.9, profile="gpu", seed=9), row(0.1, parameters=11, seed=8)]
    (found,) = leaderboard.over_seeds([*rows, *others])
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert found.accuracy == pytest.approx((np.mean(values), *expected))
    assert (found.seeds, found.stage, found.profile) == (3, "02_baseline_cnn", "cpu")


def test_a_seed_counts_once():
    rows = [row(0.5, run="old"), row(0.6, run="new"), row(0.7, seed=1)]
    (found,) = leaderboard.over_seeds(rows)
    assert found.seeds == 2
    assert found.accuracy.value == pytest.approx(0.65)
    assert leaderboard.over_seeds(rows[:2]) == []


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))
    return [
        runs.start(name, profile="cpu", seed=seed, provenance=PROVENANCE)
        for name, seed in (("a", 0), ("b", 1))
    ]


def test_runs_differ_in_what_was_set(two):
    for run, rate in zip(two, (0.1, 0.2), strict=True):
        values = {"RATE": rate, "FLIP": True, "SEED": 5, "RUN": run.name}
        runs.write_json(run.stage("03").folder / "stage.json", {"parameters": values})
    runs.write_json(two[1].stage("02").folder / "stage.json", {"parameters": {"EPOCHS": 3}})
    two[0].manifest["versions"]["keras"] = "3.0"
    two[1].manifest["versions"]["keras"] = "3.1"
    assert leaderboard.differing(*two) == [
        ("seed", 0, 1),
        ("versions.keras", "3.0", "3.1"),
        ("03_augmentation.RATE", 0.1, 0.2),
        ("02_baseline_cnn.EPOCHS", None, 3),
    ]
    assert leaderboard.differing(two[0], two[0]) == []


def test_results_are_paired_where_the_images_are_the_same(two):
    labels = np.zeros(50, np.int64)
    outputs = [np.eye(10)[(np.arange(50) >= right).astype(int)] for right in (30, 40)]
    for run, logits in zip(two, outputs, strict=True):
        run.stage("02").save_logits("test", logits, labels)
    (found,) = leaderboard.changes(*two)
    assert (found.stage, found.split) == ("02_baseline_cnn", "test")
    assert (found.first.value, found.second.value) == (0.6, 0.8)
    assert found.gap == difference(outputs[1], outputs[0], labels)
    two[1].stage("02").save_logits("test", outputs[1], labels + 1)
    assert leaderboard.changes(*two)[0].gap is None
    two[1].stage("02").save_logits("test", outputs[1], labels)
    two[1].manifest["data"] = PROVENANCE | {"fingerprint": "b" * 64}
    assert leaderboard.changes(*two)[0].gap is None
