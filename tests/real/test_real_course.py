"""The main job on real images: the whole course, with pretrained weights where there are some."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_utils import runs

WEIGHTS = os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS", "none")


@pytest.fixture(scope="module")
def run_folder(real_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real course")
    command = [Path(sys.executable).with_name("cifar"), "run", "--profile", "smoke"]
    done = subprocess.run(
        [*command, "--data", str(real_folder), "--run", "real", "--jobs", "2"],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "CIFAR_UTILS_DATA_DIR": str(folder / "data"),
            "CIFAR_UTILS_ARTIFACTS_DIR": str(folder / "artifacts"),
            "CIFAR_UTILS_RESNET50_WEIGHTS": WEIGHTS,
        },
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "artifacts" / "real"


def metrics(run_folder: Path, stage: str) -> dict:
    return json.loads((run_folder / stage / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.real_data
@pytest.mark.parametrize("stage", runs.STAGES)
def test_every_stage_says_that_the_images_are_not_synthetic(run_folder, stage):
    assert metrics(run_folder, stage)["data"] in ("official", "modified")


@pytest.mark.real_data
@pytest.mark.parametrize("stage", ["02_baseline_cnn", "03_augmentation"])
def test_networks_from_scratch_learn(run_folder, stage):
    found = metrics(run_folder, stage)
    assert found["accuracy_low"] > 0.2
    assert found["pretraining"] == "none"


@pytest.mark.real_data
def test_pretrained_features_beat_random_ones(run_folder):
    """Wrong preprocessing, a misread file or batch normalisation in training mode shows here."""
    assert WEIGHTS != "none", "set CIFAR_UTILS_RESNET50_WEIGHTS to a file of pretrained weights"
    found = metrics(run_folder, "04_resnet50_frozen")
    assert found["pretraining"] not in ("none", "")
    probes = (run_folder / "04_resnet50_frozen" / "probes.csv").read_text().splitlines()
    columns = probes[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in probes[1:]]
    best = max(float(row["accuracy"]) for row in rows if row["pretraining"] != "none")
    random = max(float(row["accuracy"]) for row in rows if row["pretraining"] == "none")
    assert best > random + 0.05


@pytest.mark.real_data
def test_leaderboard_has_a_test_row_for_each_model(run_folder):
    board = json.loads((run_folder / "06_evaluation" / "leaderboard.json").read_text())
    assert [row["stage"][:2] for row in board] == ["02", "03", "04", "05"]
    assert all(row["split"] == "test" and row["n"] == 300 for row in board)
