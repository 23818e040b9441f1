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
        "n": 1000,
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
        row(0.4, n=100),
        row(None),
    ]
    found = leaderboard.comparable(rows)
    assert {title: [each["accuracy"] for each in group] for title, group in found.items()} == {
        "1,000 test images, official": [0.7, 0.5],
        "100 test images, official": [0.4],
        "1,000 test images, modified cccccccc": [0.6],
        "1,000 test images, modified dddddddd": [0.6],
        "1,000 test images, synthetic, which say nothing about CIFAR-10": [0.9],
        "1,000 validation images, official": [0.8],
    }
    assert list(found)[-1] == "1,000 validation images, official"


def test_results_that_do_not_name_their_images_have_a_place_too():
    old = row(0.5)
    del old["data_fingerprint"]
    assert list(leaderboard.comparable([old])) == ["1,000 test images, official"]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return what makes a run with a result, and settings of its stage."""
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))

    def made(
        name, accuracy, seed=0, stage="02_baseline_cnn", settings=None, created="2026", **fields
    ):
        run = runs.start(name, profile="cpu", seed=seed, provenance=PROVENANCE)
        run.manifest["created"] = created
        folder = run.stage(stage).folder
        runs.write_json(folder / "metrics.json", row(accuracy, seed=seed, stage=stage, **fields))
        parameters = {"SEED": seed, "RUN": name} | (settings or {})
        runs.write_json(folder / "stage.json", {"parameters": parameters})
        return run

    return made


def test_interval_over_seeds_is_students(make):
    values = [0.5, 0.53, 0.55]
    opened = [make(f"s{seed}", value, seed) for seed, value in enumerate(values)]
    opened += [
        make("gpu", 0.9, 9, profile="gpu"),
        make("larger", 0.1, 8, parameters=11),
        make("short", 0.1, 7, settings={"EPOCHS": 1}),
        make("fewer", 0.1, 6, n=10),
    ]
    (found,) = leaderboard.over_seeds(opened)
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert found.accuracy == pytest.approx((np.mean(values), *expected))
    assert (found.seeds, found.stage, found.profile) == (3, "02_baseline_cnn", "cpu")


def test_of_a_seed_the_newest_result_counts(make):
    opened = [
        make("new", 0.6, created="2026-02-02"),
        make("old", 0.5, created="2026-01-01"),
        make("other", 0.7, seed=1),
    ]
    (found,) = leaderboard.over_seeds(opened)
    assert found.seeds == 2
    assert found.accuracy.value == pytest.approx(0.65)
    assert leaderboard.over_seeds(opened[:2]) == []


def test_trainings_are_compared_seed_by_seed(make):
    ours, theirs = [0.8, 0.7, 0.9], [0.75, 0.68, 0.85]
    opened = [make(f"a{seed}", value, seed, "03_augmentation") for seed, value in enumerate(ours)]
    opened += [make(f"b{seed}", value, seed) for seed, value in enumerate(theirs)]
    opened += [make("c", 0.95, 5, "04_resnet50_frozen")]
    (gap,) = leaderboard.gaps_over_seeds(opened)
    assert gap[:2] == ("03_augmentation", "02_baseline_cnn")
    assert gap.seeds == 3
    low, high = stats.ttest_rel(ours, theirs).confidence_interval()
    assert gap.difference == pytest.approx((0.04, low, high))


def test_settings_tell_trainings_of_a_stage_apart(make):
    scores = {("3", 0.1): 0.6, ("5", 0.1): 0.7, ("5", 0.2): 0.8}
    opened = []
    for number, ((epochs, rate), score) in enumerate(scores.items()):
        for seed in (0, 1):
            name, value = f"r{number}-{seed}", score + seed / 50
            first = {"EPOCHS": epochs, "RATE": rate, "WIDTH": 7}
            opened.append(make(name, value, seed, settings=first, split="validation"))
            make(name, 1 - value, seed, "03_augmentation", {"EPOCHS": epochs}, split="validation")
            make(name, 0.1, seed, "04_resnet50_frozen", {"EPOCHS": 1}, split="validation")
    found = leaderboard.over_seeds(opened)
    assert [row[:2] for row in found] == [
        *[("02_baseline_cnn", f"EPOCHS={e} RATE={r}") for e, r in reversed(scores)],
        *[("03_augmentation", f"EPOCHS={e} RATE={r}") for e, r in scores],
        ("04_resnet50_frozen", ""),
    ]
    assert found[0].accuracy.value == pytest.approx(0.81)
    gaps = leaderboard.gaps_over_seeds(opened)
    assert {gap.best for gap in gaps} == {"02_baseline_cnn EPOCHS=5 RATE=0.2"}
    assert len(gaps) == 6
    (closest,) = (gap for gap in gaps if gap.other == "02_baseline_cnn EPOCHS=5 RATE=0.1")
    assert closest.difference == pytest.approx((0.1, 0.1, 0.1))


def test_settings_that_stages_do_not_share_have_their_numbers(make):
    opened = []
    for number, (first, second) in enumerate([(3, 3), (3, 5), (5, 5)]):
        for seed in (0, 1):
            run = make(f"r{number}-{seed}", 0.5, seed, settings={"EPOCHS": first})
            make(run.name, 0.5 + number / 10, seed, "03_augmentation", {"EPOCHS": second})
            opened.append(run)
    found = [row.settings for row in leaderboard.over_seeds(opened) if row.stage[:2] == "03"]
    assert found == ["EPOCHS=5", "02.EPOCHS=3 03.EPOCHS=5", "EPOCHS=3"]


def test_settings_are_not_chosen_by_the_test_set(make):
    opened = [
        make(f"e{epochs}-{seed}", 0.5 + seed / 50, seed, settings={"EPOCHS": epochs})
        for epochs in (3, 5)
        for seed in (0, 1)
    ]
    assert len(leaderboard.over_seeds(opened)) == 2
    assert leaderboard.gaps_over_seeds(opened) == []


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
    assert found.p_holm == pytest.approx(2 * 0.5**10), "ten images won, none lost"
    two[1].stage("02").save_logits("test", outputs[1], labels + 1)
    assert leaderboard.changes(*two)[0].gap is None
    two[1].stage("02").save_logits("test", outputs[1], labels)
    two[1].manifest["data"] = PROVENANCE | {"fingerprint": "b" * 64}
    assert leaderboard.changes(*two)[0].gap is None
