"""The tiny course, installed for a test, and one of its runs."""

import copy

import pytest

from cifar_utils import runs
from tests.unit import tiny_course

NAME = "smoke-synthetic-seed0"


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = tmp_path / "a {course} with spaces"
    for stage in tiny_course.STAGES:
        tiny_course.write(root, stage)
    tiny_course.install(root, monkeypatch.setattr)
    monkeypatch.delenv("CIFAR_UTILS_PROFILE", raising=False)
    monkeypatch.delenv("CIFAR_UTILS_RESNET50_WEIGHTS", raising=False)
    return root


@pytest.fixture
def folder(root):
    return root / "artifacts" / NAME


@pytest.fixture
def stage(root):
    """A stage that builds on another one, both opened but neither run."""
    provenance = copy.deepcopy(tiny_course.PROVENANCE)
    opened = runs.start("auto", profile="smoke", seed=0, provenance=provenance)
    first = opened.stage("01_first")
    first.folder.mkdir()
    for name in runs.LEFT_BEHIND:
        (first.folder / name).touch()
    runs.write_json(first.folder / "stage.json", {"files": {}, "finished": "now"})
    return opened.stage("02_second")
