import json
import subprocess
import sys

import pytest

from cifar_utils import parameters
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


def test_missing_and_damaged_notebooks(root):
    path = parameters.notebook("01_first")
    path.write_text("{}")
    with pytest.raises(RunError, match="is not a notebook"):
        parameters.schema(path)
    path.unlink()
    with pytest.raises(RunError, match="is missing"):
        parameters.schema(path)
