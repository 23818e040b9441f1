import re

import pytest

from cifar_utils import grids, parameters
from cifar_utils.errors import ParameterError
from tests.unit import tiny_course

STAGES = list(tiny_course.STAGES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0..2", ["0", "1", "2"]),
        ("7", ["7"]),
        ("0..1,7", ["0", "1", "7"]),
        ("-1..1", ["-1", "0", "1"]),
        ("adam, sgd", ["adam", "sgd"]),
        ("../a.h5,../b.h5", ["../a.h5", "../b.h5"]),
        ("(8,),[16, 32]", ["(8,)", "[16, 32]"]),
        (",x", ["", "x"]),
    ],
)
def test_values(text, expected):
    assert grids.expand("NAME", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4..0", "expected 0..4"), ("0..1000", "1,001 combinations; expected at most 1,000")],
)
def test_values_that_are_refused(text, expected):
    with pytest.raises(ParameterError, match=re.escape(expected)):
        grids.expand("NAME", text)


def test_options_go_before_a_file():
    filed = {"SEED": "0..1", "EPOCHS": [2, 3], "RATE": [0.1, 1], "SIZES": [[8], [16, 32]]}
    assert grids.read(["EPOCHS=5"], filed, {"SEED"}) == {
        "EPOCHS": "5",
        "RATE": "0.1,1",
        "SIZES": "[8],[16, 32]",
    }


@pytest.mark.parametrize("values", [[], None, [None], {"a": 1}, ["a,b", "c"]])
def test_a_file_lists_values(values):
    with pytest.raises(ParameterError, match=r"grid A: .*; expected such as 0\.\.4 or \[2, 3\]"):
        grids.read([], {"A": values}, set())


def labels(grid, stages=STAGES):
    return [(each.seed, *each.labels) for each in grids.combinations(grid, stages, 9)]


def test_combinations_are_the_product_in_an_order_of_their_own(root):
    assert labels({}) == [(9,)]
    expected = [
        *((0, "epochs3", "rate0.5"), (0, "epochs4", "rate0.5")),
        *((1, "epochs3", "rate0.5"), (1, "epochs4", "rate0.5")),
    ]
    grid = {"RATE": "0.5", "EPOCHS": "3,4", "SEED": "0..1"}
    assert labels(grid) == labels(dict(reversed(grid.items()))) == expected
    _, second, *_ = grids.combinations(grid, STAGES, 9)
    assert second.given == {stage: {"EPOCHS": 4, "RATE": 0.5} for stage in STAGES}


def test_only_stages_that_have_a_parameter_get_it(root):
    tiny_course.write(root, "01_first", parameters="SEED = 0\nEPOCHS = 2")
    tiny_course.write(root, "03_third", parameters="SEED = 0\nEPOCHS = 2")
    (found,) = grids.combinations({"RATE": "1"}, STAGES, 0)
    assert found.given == {"01_first": {}, "02_second": {"RATE": 1.0}, "03_third": {}}
    assert grids.repeated({"RATE": "1", "SEED": "0..1", "EPOCHS": "1"}, STAGES) == {
        "01_first": ["RATE"],
        "03_third": ["RATE"],
    }
    assert grids.repeated({"RATE": "1"}, ["02_second"]) == {}


def test_what_builds_on_a_stage_depends_on_its_parameters(root):
    tiny_course.write(root, "02_second", parameters="SEED = 0\nEPOCHS = 2")
    tiny_course.write(root, "03_third", parameters="SEED = 0\nEPOCHS = 2")
    assert grids.repeated({"RATE": "1"}, STAGES) == {"03_third": ["RATE"]}


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"RATE": "1,1.0"}, "--grid RATE=1,1.0: expected values that differ"),
        ({"FLIP": "true,True"}, "expected values that differ"),
        ({"SEED": "1,01"}, "expected values that differ"),
        ({"SEED": "0..9", "EPOCHS": "1..101"}, "1,010 combinations"),
        ({"EPOCHS": "2,x"}, "EPOCHS=x: expected an integer"),
        ({"EPOCH": "2"}, "did you mean 'EPOCHS'"),
        ({"seed": "0..1"}, "did you mean 'SEED'"),
        ({"RUN": "a,b"}, "use --run a"),
    ],
)
def test_combinations_that_are_refused(root, grid, expected):
    with pytest.raises(ParameterError, match=re.escape(expected)):
        grids.combinations(grid, STAGES, 0)


def test_a_parameter_that_nothing_reads_is_refused(root):
    tiny_course.write(root, "03_third", parameters='WORD = "a"\nEPOCHS = 2')
    with pytest.raises(ParameterError, match="03_third never reads its parameter WORD"):
        grids.combinations({"WORD": "b,c"}, ["03_third"], 0)


def test_a_file_is_one_value_however_it_is_spelled(root, tmp_path, monkeypatch):
    (tmp_path / "my weights.h5").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="expected values that differ"):
        grids.combinations({"WEIGHTS": f"my weights.h5,{tmp_path}/my weights.h5"}, STAGES, 0)
    (here,) = labels({"WEIGHTS": "my weights.h5"})
    assert re.fullmatch(r"weightsmy-weights\.h5-[0-9a-f]{8}", here[1])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert labels({"WEIGHTS": "../my weights.h5"}) == [here]
    (tmp_path / "elsewhere" / "my weights.h5").touch()
    assert labels({"WEIGHTS": "my weights.h5"}) != [here]


def test_values_become_names_of_folders_that_differ_everywhere(root):
    values = ["none", "None", "a+b", "a/b", "a b", "", "b" * 60, "b" * 61, "..", "-empty"]
    found = [label for _, label in labels({"WEIGHTS": ",".join(values[:-1])})]
    assert found[0] == "weightsnone"
    assert len({label.lower() for label in found}) == len(found) == 9
    for label in found:
        name = grids.run_name("smoke-synthetic-seed0", (label,))
        assert parameters.runs.resolve_name(name, profile="", kind="", seed=0) == name


def test_long_names_are_cut_and_still_differ():
    many = tuple(f"some_parameter{number}" for number in range(9))
    one, other = (grids.run_name("first", (*many, end)) for end in ("a", "b"))
    assert one != other and one[:71] == other[:71] and len(one) == grids.LONGEST_NAME
    assert one == grids.run_name("first", (*many, "a"))
    assert grids.run_name("x" * 100, ()) == "x" * 100
