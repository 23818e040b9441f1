"""The whole course in one command, as a user runs it: smoke profile, synthetic images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_utils import runs
from tools import notebooks

TRAINING = [name for name in runs.STAGES if name[:2] in ("02", "03", "04", "05")]


def cifar_run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the course in ``folder``; return what it printed."""
    cifar = Path(sys.executable).with_name("cifar")
    command = [str(cifar), "run", "--profile", "smoke", "--data", "synthetic"]
    environment = os.environ | notebooks.smoke_environment(folder)
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("course")


@pytest.fixture(scope="module")
def first(folder: Path) -> subprocess.CompletedProcess[str]:
    return cifar_run(folder)


@pytest.fixture(scope="module")
def run_folder(folder: Path, first: object) -> Path:
    return (
        folder / "artifacts" / runs.resolve_name("auto", profile="smoke", kind="synthetic", seed=0)
    )


def test_the_course_ends_well_and_prints_its_results(
    first: subprocess.CompletedProcess[str], run_folder: Path
) -> None:
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-4000:]
    for name in TRAINING:
        assert name in first.stdout
    assert "synthetic" in first.stdout
    # Lines may be folded at the width of the terminal.
    assert str(run_folder / "report.html") in first.stdout.replace("\n", "")


@pytest.mark.parametrize("name", runs.STAGES)
def test_stage_leaves_its_artifacts(run_folder: Path, name: str) -> None:
    stage = run_folder / name
    for file in ("notebook.ipynb", "report.html", "metrics.json"):
        assert (stage / file).stat().st_size > 0
    assert list(stage.glob("figures/*.png"))
    metrics = json.loads((stage / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["stage"], metrics["data"], metrics["profile"]) == (name, "synthetic", "smoke")


@pytest.mark.parametrize("name", TRAINING)
def test_trained_model_is_saved_and_better_than_chance(run_folder: Path, name: str) -> None:
    assert (run_folder / name / "model.keras").stat().st_size > 0
    metrics = json.loads((run_folder / name / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["accuracy_low"] > 0.1
    assert metrics["pretraining"] == "none"


def test_run_has_a_manifest_and_a_report(run_folder: Path) -> None:
    manifest = json.loads((run_folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["profile"] == "smoke"
    assert "<table" in (run_folder / "report.html").read_text(encoding="utf-8")


def test_second_run_reuses_everything(
    first: subprocess.CompletedProcess[str], folder: Path, run_folder: Path
) -> None:
    files = [file for name in runs.STAGES for file in (run_folder / name).rglob("*")]
    before = {file: file.stat().st_mtime_ns for file in files if file.is_file()}
    assert before
    again = cifar_run(folder)
    assert again.returncode == 0, again.stdout[-4000:] + again.stderr[-4000:]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert again.stdout.count("already finished") == len(runs.STAGES)
