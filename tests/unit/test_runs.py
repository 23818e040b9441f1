import json
import os
import shlex

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cifar_utils import paths, runs, runtime
from cifar_utils.errors import ParameterError, RunError

OFFICIAL = {"kind": "official", "source": "/a folder/cifar", "fingerprint": "a" * 64}
SYNTHETIC = {"kind": "synthetic", "source": "synthetic", "fingerprint": "b" * 64}


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path / "some artifacts"))
    monkeypatch.setattr(runtime, "hardware", lambda: "a test")
    return tmp_path / "some artifacts"


def start(name="auto", profile="smoke", seed=0, provenance=SYNTHETIC):
    return runs.start(name, profile=profile, seed=seed, provenance=provenance)


@pytest.mark.parametrize("text", ["2", "02", "baseline_cnn", "02_baseline_cnn"])
def test_stage_name(text):
    assert runs.stage_name(text) == "02_baseline_cnn"


@pytest.mark.parametrize("text", ["basline", "0", "99", "", "_", "02_"])
def test_unknown_stages_are_refused(text):
    with pytest.raises(ParameterError, match="unknown stage") as caught:
        runs.stage_name(text)
    assert "baseline_cnn" in str(caught.value)


def test_the_nearest_stage_is_named():
    with pytest.raises(ParameterError, match="did you mean 'resnet50_frozen'"):
        runs.stage_name("resnet_frozen")


def test_stages_build_on_earlier_ones():
    known = list(runs.STAGES)
    assert known == sorted(known)
    for stage, upstream in runs.STAGES.items():
        assert all(known.index(name) < known.index(stage) for name in upstream)


def test_start_writes_a_manifest(artifacts):
    run = start()
    assert run.folder == artifacts / "smoke-synthetic-seed0"
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest == run.manifest
    assert set(manifest) == {
        *("profile", "seed", "data", "created", "hardware", "versions", "git_commit"),
    }
    assert manifest["data"] == SYNTHETIC


def test_start_opens_what_there_is():
    first = start("mine")
    again = start("mine")
    assert again.manifest == first.manifest
    assert runs.load("mine").manifest == first.manifest


def test_the_manifest_follows_images_that_moved(artifacts):
    first = start("mine", provenance=OFFICIAL)
    moved = OFFICIAL | {"source": "/elsewhere"}
    again = start("mine", provenance=moved)
    assert again.manifest["data"]["source"] == "/elsewhere"
    assert again.manifest["created"] == first.manifest["created"]
    assert runs.load("mine").manifest == again.manifest


def test_writing_by_hand_makes_a_finished_stage_unfinished(artifacts):
    stage = start("mine").stage("02_baseline_cnn")
    mark = stage.folder / "stage.json"
    writers = [
        lambda: stage.save_metrics(stage.result(n=1)),
        lambda: stage.save_table(pd.DataFrame({"a": [1]}), "history"),
        lambda: stage.save_figure(Figure(), "empty"),
    ]
    for write in writers:
        runs.write_json(mark, {"fingerprint": "x"})
        write()
        assert not mark.exists()
    runs.write_json(mark, {"fingerprint": "x"})
    stage.save_logits("test", np.zeros((2, 10)), np.zeros(2))  # as notebook 06 does from outside
    assert mark.exists()


@pytest.mark.parametrize(
    "other",
    [{"profile": "cpu"}, {"seed": 1}, {"provenance": OFFICIAL}],
    ids=lambda it: next(iter(it)),
)
def test_a_run_keeps_its_settings(other):
    start("mine")
    with pytest.raises(RunError, match="run 'mine' was made with profile smoke, seed 0 and synth"):
        start("mine", **other)
    assert runs.load("mine").manifest["profile"] == "smoke"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "x" * 101, "é"])
def test_unusable_names_are_refused(name, artifacts):
    with pytest.raises(ParameterError, match="is not usable"):
        start(name)
    assert not artifacts.exists()


def test_load_names_the_nearest_run():
    with pytest.raises(RunError, match="make one with: cifar run"):
        runs.load("mine")
    start("mine")
    with pytest.raises(RunError, match="did you mean 'mine'"):
        runs.load("mien")


def test_names_are_oldest_first(artifacts):
    for age, name in enumerate(["c", "a", "b"]):
        start(name)
        os.utime(artifacts / name / "manifest.json", (1000 + age, 1000 + age))
    (artifacts / "no run").mkdir()
    assert runs.names() == ["c", "a", "b"]


def test_options_make_the_same_run_again():
    assert start().options() == (
        "--profile smoke --data synthetic --seed 0 --run smoke-synthetic-seed0"
    )
    words = shlex.split(start("mine", "cpu", 3, OFFICIAL).options())
    settings = ["--profile", "cpu", "--data", OFFICIAL["source"], "--seed", "3", "--run", "mine"]
    assert words == settings


def test_a_missing_file_names_the_command_that_makes_it():
    stage = start().stage("02")
    with pytest.raises(RunError, match=r"model\.keras is missing; make it with: cifar run 02 --p"):
        stage.require("model.keras")
    stage.folder.mkdir()
    (stage.folder / "model.keras").touch()
    assert stage.require("model.keras") == stage.folder / "model.keras"


def test_results_are_written_with_the_facts_of_the_run():
    stage = start(seed=5).stage("02_baseline_cnn")
    result = stage.result(n=np.int64(300), split="validation", accuracy=np.float64(0.5))
    stage.save_metrics(result, macro_f1=np.float32(0.25))
    assert stage.metrics() == {
        **{"run": "smoke-synthetic-seed5", "stage": "02_baseline_cnn", "data": "synthetic"},
        **{"data_fingerprint": "b" * 16},
        **{"profile": "smoke", "seed": 5, "n": 300, "hardware": "a test", "split": "validation"},
        **{"accuracy": 0.5, "accuracy_low": None, "accuracy_high": None, "pretraining": "none"},
        **{"parameters": None, "training_seconds": None, "precision": None, "failed_tests": None},
        "macro_f1": 0.25,
    }


def test_results_of_a_run_are_stage_rows_and_the_leaderboard():
    run = start()
    for name in ("06_evaluation", "01_eda"):
        run.stage(name).save_metrics(run.stage(name).result(n=1))
    board = [run.stage("02_baseline_cnn").result(n=2, split="test")]
    runs.write_json(run.stage("06").folder / "leaderboard.json", board)
    rows = [(row["stage"], row["n"], row["split"]) for row in run.results()]
    assert rows == [("01_eda", 1, None), ("06_evaluation", 1, None), ("02_baseline_cnn", 2, "test")]


def test_logits_come_back_as_they_were():
    stage = start().stage("02")
    logits, labels = np.arange(20, dtype=np.float64).reshape(2, 10), np.array([3, 4], np.int32)
    with pytest.raises(RunError, match=r"validation\.npz is missing"):
        stage.load_logits("validation")
    stage.save_logits("validation", logits, labels)
    saved_logits, saved_labels = stage.load_logits("validation")
    np.testing.assert_array_equal(saved_logits, logits)
    np.testing.assert_array_equal(saved_labels, labels)
    assert (saved_logits.dtype, saved_labels.dtype) == (np.float32, np.int64)


def test_figures_are_saved_as_png():
    stage = start().stage("01")
    figure = Figure()
    figure.subplots().plot([1, 2])
    stage.save_figure(figure, "curve")
    assert (stage.folder / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_damaged_json_names_the_file(artifacts):
    stage = start().stage("01")
    paths.write_text(stage.folder / "metrics.json", '{"half": ')
    with pytest.raises(RunError, match=r"metrics\.json is damaged"):
        stage.metrics()


def test_json_refuses_what_it_cannot_hold(artifacts):
    with pytest.raises(TypeError, match=r"set cannot be written to x\.json"):
        runs.write_json(artifacts / "x.json", {1, 2})
    assert not (artifacts / "x.json").exists()


def test_a_failed_write_leaves_the_old_file(artifacts):
    path = artifacts / "x.txt"
    paths.write_text(path, "whole")
    with pytest.raises(ZeroDivisionError), paths.atomic(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "whole"
        raise ZeroDivisionError
    assert path.read_text() == "whole"
    assert list(artifacts.iterdir()) == [path]
