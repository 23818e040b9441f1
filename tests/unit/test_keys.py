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


@pytest.mark.parametrize("name", ["RECIPE", "SPACE"])
def test_the_key_notices_other_content_of_the_same_file(stage, tmp_path, name):
    path = tmp_path / "file"
    path.write_text("one")
    before = keys.facts(stage, {name: str(path)})
    path.write_text("two")
    assert keys.facts(stage, {name: str(path)}) != before
    assert name.lower() not in keys.facts(stage, {name: ""})


LIBRARY = {
    "first.py": "from cifar_utils import second\nfrom cifar_utils.web import app",
    "second.py": "def late():\n    import cifar_utils.third",
    "third.py": "",
    "typed.py": "",
    "unrelated.py": "from cifar_utils import first",
    "web/__init__.py": "",
    "web/app.py": "if TYPE_CHECKING:\n    import cifar_utils.typed",
}


def test_a_notebook_uses_the_modules_it_imports_also_through_others(root, tmp_path):
    library = tmp_path / "library"
    (library / "web").mkdir(parents=True)
    for name, source in LIBRARY.items():
        (library / name).write_text(source)
    body = "%matplotlib inline\nfrom cifar_utils.first import thing\nif True:\n    !ls"
    tiny_course.write(root, "01_first", body)
    path = parameters.notebook("01_first")
    before = keys.modules(path, library)
    assert list(before) == [
        f"module {name}" for name in ("first", "second", "third", "web", "web.app")
    ]
    (library / "unrelated.py").write_text("changed = 1")
    (library / "typed.py").write_text("changed = 1")
    assert keys.modules(path, library) == before
    (library / "third.py").write_text("changed = 1")
    after = keys.modules(path, library)
    assert keys.differences(before, after) == ["module third changed"]


def test_every_notebook_uses_what_it_trains_with_and_nothing_of_the_page():
    folder = Path(__file__).parents[2] / "notebooks"
    found = keys.modules(folder / "02_baseline_cnn.ipynb")
    assert {"module training", "module recipes", "module checkpoints", "module data"} <= set(found)
    assert not {name for name in found if "web" in name or "report" in name or "cli" in name}


def test_differences_say_what_was_and_is():
    was = {"parameter EPOCHS": "2", "notebook": "a", "module gone": "x", "data": "same"}
    now = {"parameter EPOCHS": "3", "notebook": "b", "data": "same", "version of keras": "4"}
    assert keys.differences(was, now) == [
        "parameter EPOCHS was 2, is 3",
        "notebook changed",
        "version of keras was None, is 4",
        "module gone changed",
    ]
    assert keys.differences(now, now) == []


@pytest.mark.parametrize("how", ["cut", "changed", "removed"])
def test_a_damaged_file_is_found(stage, how):
    first = stage.run.stage("01_first")
    path = first.folder / "model.keras"
    path.write_bytes(b"weights")
    files = keys.digests([path, first.folder / "metrics.json"], stage.run.folder)
    runs.write_json(first.folder / "stage.json", {"files": files})
    assert keys.damaged(first) == []
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(b"weight" if how == "cut" else b"wEights")
    assert keys.damaged(first) == ["01_first/model.keras"]
