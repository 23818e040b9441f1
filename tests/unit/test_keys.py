import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_utils import keys, parameters, profiles, runs, runtime
from tests.unit import tiny_course


def _change_notebook(stage, values, monkeypatch):
    tiny_course.write(parameters.notebook("x").parent.parent, stage.name, "other = 1")


def _change_parameter(stage, values, monkeypatch):
    values["EPOCHS"] = 3


def _change_data(stage, values, monkeypatch):
    stage.run.manifest["data"]["fingerprint"] = "0" * 64


def _change_profile(stage, values, monkeypatch):
    changed = replace(profiles.PROFILES["smoke"], cnn_epochs=99)
    monkeypatch.setitem(profiles.PROFILES, "smoke", changed)


def _change_library(stage, values, monkeypatch):
    tiny_course.write(parameters.notebook("x").parent.parent, stage.name, "import cifar_utils.data")


def _change_versions(stage, values, monkeypatch):
    monkeypatch.setattr(runtime, "versions", lambda: {"keras": "0"})


def _change_backend(stage, values, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "another")


def _change_devices(stage, values, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_DEVICES", "2")


def _change_hosts(stage, values, monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")


def _change_upstream(stage, values, monkeypatch):
    again = {"files": {"metrics.json": "other"}, "finished": "later"}
    runs.write_json(stage.folder.with_name("01_first") / "stage.json", again)


def _change_weights(stage, values, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_RESNET50_WEIGHTS", "none")


@pytest.mark.parametrize(
    "change",
    [
        _change_notebook,
        _change_parameter,
        _change_data,
        _change_profile,
        _change_library,
        _change_versions,
        _change_backend,
        _change_devices,
        _change_hosts,
        _change_upstream,
        _change_weights,
    ],
)
def test_the_key_notices(stage, monkeypatch, change):
    values = parameters.schema(parameters.notebook(stage.name))
    before = keys.facts(stage, values)
    assert keys.facts(stage, values) == before
    change(stage, values, monkeypatch)
    assert keys.facts(stage, values) != before


def test_the_key_does_not_depend_on_places(stage):
    values = parameters.schema(parameters.notebook(stage.name))
    before = keys.facts(stage, values)
    assert keys.facts(stage, values | {"DATA": "/elsewhere", "RUN": "x"}) == before


def test_the_key_notices_another_weights_file(stage, tmp_path, monkeypatch):
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"one")
    values = {"WEIGHTS": str(weights)}
    before = keys.facts(stage, values)
    weights.write_bytes(b"other")
    assert keys.facts(stage, values) != before
