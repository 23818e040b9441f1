import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cifar_utils import parameters, runs
from cifar_utils.errors import ParameterError, RunError
from tests.unit import tiny_course


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("7", 1, 7),
        ("-7", 1, -7),
        ("7", 1.0, 7.0),
        ("1e-4", 1.0, 0.0001),
        ("False", True, False),
        ("true", False, True),
        ("none", "auto", "none"),
        ("7", "auto", "7"),
        ("a=b", "auto", "a=b"),
        ("(1, 2)", (3,), (1, 2)),
        ("1,2", [3], [1, 2]),
        ("[1, 2.5]", (0.5,), (1, 2.5)),
        ("3", None, 3),
    ],
)
def test_convert(text, default, expected):
    value = parameters.convert("NAME", text, default)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("1.5", 1, "expected an integer, such as 1"),
        ("true", 1, "expected an integer"),
        ("1", True, "expected true or false, such as True"),
        ("many", 0.5, "expected a number, such as 0.5"),
        ("nan", 0.5, "expected a number"),
        ("3", (1, 2), r"expected a tuple, such as \(1, 2\)"),
        ("(1, 'a')", (1, 2), "expected a tuple"),
        ("(True,)", (1, 2), "expected a tuple"),
        ("(1,", (1, 2), "expected a tuple"),
        ("[1]", {"a": 1}, "expected a dict"),
    ],
)
def test_convert_refuses(text, default, expected):
    with pytest.raises(ParameterError, match=expected):
        parameters.convert("NAME", text, default)


def test_a_setting_goes_to_every_stage_that_has_it(root):
    tiny_course.write(root, "03_third", "WORD", parameters='WORD = "a"\nEPOCHS = 1.5')
    given = parameters.assign(["EPOCHS=3", "WORD=b", "WORD=c"], ["01_first", "03_third"])
    assert given == {"01_first": {"EPOCHS": 3}, "03_third": {"EPOCHS": 3.0, "WORD": "c"}}
    assert type(given["03_third"]["EPOCHS"]) is float


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("EPOCHS: int = 2", "line 1 is not of the form NAME = literal"),
        ("EPOCHS = 2\nSTEPS = EPOCHS * 2", "cannot be read"),
        ("import os", "line 1 is not of the form"),
        ("A, B = 1, 2", "does not set a plain name"),
        ("A = (", "cannot be read"),
    ],
)
def test_a_parameters_cell_holds_literals_only(root, cell, expected):
    tiny_course.write(root, "01_first", parameters=cell)
    with pytest.raises(RunError, match=expected):
        parameters.schema(parameters.notebook("01_first"))


def test_threads_parse_side_by_side():
    """Collecting garbage while CPython makes a tree lets other threads begin theirs."""
    source = Path(parameters.__file__).read_bytes()
    others = list(gc.callbacks)
    threshold = gc.get_threshold()
    gc.callbacks.append(lambda *_: time.sleep(0))
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(4) as pool:
            trees = list(pool.map(parameters.parsed, [source] * 40))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks[:] = others
    assert [len(tree.body) for tree in trees] == [len(trees[0].body)] * 40


def test_missing_and_damaged_notebooks(root):
    path = parameters.notebook("01_first")
    path.write_text("{}")
    with pytest.raises(RunError, match="is not a notebook"):
        parameters.schema(path)
    path.unlink()
    with pytest.raises(RunError, match="is missing"):
        parameters.schema(path)


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ("1e-4", 0.5, 1e-4),
        (3, 0.5, 3.0),
        ([1, 2], (3,), (1, 2)),
        ([0.5], [1.0, 2.0], [0.5]),
        ("none", "auto", "none"),
        (False, True, False),
    ],
)
def test_a_value_with_a_type_is_checked(value, default, expected):
    found = parameters.check("NAME", value, default)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "default"),
    [(True, 1), (1, True), (1.5, 1), (["a"], (1,)), (7, "auto"), ("x", 1), (float("nan"), 0.5)],
)
def test_a_value_of_another_type_is_refused(value, default):
    with pytest.raises(ParameterError, match=r"NAME=.*: expected .*, such as"):
        parameters.check("NAME", value, default)


def test_a_parameter_that_nothing_reads_is_refused(root):
    tiny_course.write(root, "03_third", parameters='WORD = "a"\nEPOCHS = 2')
    assert "WORD" in parameters.unread(parameters.notebook("03_third"))
    with pytest.raises(ParameterError, match="03_third never reads its parameter WORD"):
        parameters.assign(["WORD=b"], ["03_third"])


def test_the_course_reads_all_its_parameters():
    folder = Path(__file__).parents[2] / "notebooks"
    unread = {path.name: parameters.unread(path) for path in sorted(folder.glob("*.ipynb"))}
    assert list(unread) == [f"{name}.ipynb" for name in runs.STAGES]
    assert not any(unread.values()), unread


def test_a_file_is_for_all_stages_for_one_and_behind_set(root):
    filed = {"EPOCHS": 3, "RATE": 1, "01_first": {"EPOCHS": 4}, "third": {"SIZES": [8]}}
    given = parameters.assign(["RATE=0.25"], ["01_first", "03_third"], filed)
    assert given == {
        "01_first": {"EPOCHS": 4, "RATE": 0.25},
        "03_third": {"EPOCHS": 3, "RATE": 0.25, "SIZES": (8,)},
    }


@pytest.mark.parametrize(
    ("filed", "expected"),
    [
        ({"EPOCH": 3}, "parameter EPOCH: no stage asked for .* did you mean 'EPOCHS'"),
        ({"EPOCHS": "many"}, "EPOCHS=many: expected an integer"),
        ({"01_first": {"EPOCH": 3}}, "parameter EPOCH of 01_first: .* did you mean 'EPOCHS'"),
        ({"frist": {"EPOCHS": 3}}, "unknown stage 'frist'; did you mean 'first'"),
        ({"02": {"EPOCHS": 3}}, "02_second, which is not among the stages asked"),
        ({"SEED": 3}, "use --seed 3, or the file's seed"),
    ],
)
def test_what_a_file_may_not_say_of_parameters(root, filed, expected):
    with pytest.raises(ParameterError, match=expected):
        parameters.assign([], ["01_first"], filed)


def test_a_file_of_settings(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "profile: cpu\nstages: [02, baseline_cnn]\ngrid: {SEED: 0..1}\nparameters: {A: 1}"
    )
    assert parameters.read(path) == parameters.Filed(
        ["2", "baseline_cnn"], "cpu", None, None, {"SEED": "0..1"}, None, {"A": 1}
    )
    path.write_text("seed: 4")
    assert parameters.read(path).seed == 4
    path.write_text("")
    assert parameters.read(path) == parameters.Filed(None, None, None, None, {}, None, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("profil: cpu", "unknown field 'profil'; did you mean 'profile'"),
        ("seed: one", "seed is 'one'; expected such as seed: 0"),
        ("seed: true", "seed is True"),
        ("seeds: [0, 1]", "unknown field 'seeds'; did you mean 'seed'"),
        ("grid: [0, 1]", "expected such as grid: {SEED: 0..4}"),
        ("seed: 1\ngrid: {SEED: 0..1}", "give SEED either one value or a grid"),
        ("parameters: {A: 1}\ngrid: {A: 1}", "give A either"),
        ("parameters: {02: {A: 1}}\ngrid: {A: 1}", "give A either"),
        ("stages: 02", "expected such as stages"),
        ("parameters: [1]", "expected such as parameters"),
        ("- a", "expected lines such as 'profile: cpu'"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_file_of_settings_that_is_refused(tmp_path, text, expected):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=expected):
        parameters.read(path)
    with pytest.raises(ParameterError, match="cannot be read"):
        parameters.read(tmp_path / "missing.yaml")
