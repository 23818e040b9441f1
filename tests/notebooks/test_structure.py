"""The conventions of the notebooks, and that each of them can be broken."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from nbformat import v4

from cifar_utils import runs
from tools import notebooks
from tools.notebooks import Notebook

Change = Callable[[Notebook], None]


def test_every_stage_has_its_notebook() -> None:
    assert [path.stem for path in notebooks.course()] == list(runs.STAGES)


@pytest.mark.parametrize("path", notebooks.course(), ids=lambda path: path.stem)
def test_notebook_follows_the_conventions(path: Path) -> None:
    assert notebooks.complaints(notebooks.read(path)) == []


def test_badges_are_up_to_date() -> None:
    assert notebooks.write_badges(check=True) == 0


def test_good_notebook_gets_no_complaint(good: Notebook) -> None:
    assert notebooks.complaints(good) == []


def cell_with(notebook: Notebook, text: str):
    return next(cell for cell in notebook.cells if text in cell.source)


def replace(old: str, new: str) -> Change:
    def change(notebook: Notebook) -> None:
        cell = cell_with(notebook, old)
        cell.source = cell.source.replace(old, new, 1)

    return change


def add(text: str) -> Change:
    """Add a line to a plain code cell."""
    return replace("np.arange(5)", f"np.arange(5)\n{text}")


def output(kind: str, **fields: object) -> Change:
    return lambda notebook: cell_with(notebook, "np.arange(5)").outputs.append(
        v4.new_output(kind, **fields)
    )


def show(text: str) -> Change:
    return output("stream", name="stdout", text=text)


def move_setup_cell(notebook: Notebook) -> None:
    notebook.cells.insert(10, notebook.cells.pop(4))


def move_parameters_cell(notebook: Notebook) -> None:
    notebook.cells.insert(12, notebook.cells.pop(7))


def swap_sections(notebook: Notebook) -> None:
    notebook.cells[-1], notebook.cells[-2] = notebook.cells[-2], notebook.cells[-1]


def tag_two_parameter_cells(notebook: Notebook) -> None:
    cell_with(notebook, "np.arange(5)").metadata["tags"] = ["parameters"]


def add_cells(notebook: Notebook) -> None:
    notebook.cells.extend(v4.new_markdown_cell("More.") for _ in range(40))


def drop_cells(notebook: Notebook) -> None:
    del notebook.cells[-11:-5]


def lengthen_every_cell(notebook: Notebook) -> None:
    for cell in notebook.code:
        cell.source += "\nnp.ones(3)" * 12


def forget_execution(notebook: Notebook) -> None:
    notebook.code[3].execution_count = None


def run_out_of_order(notebook: Notebook) -> None:
    notebook.code[3].execution_count = 40


def drop_checked_output(notebook: Notebook) -> None:
    cell_with(notebook, "NBVAL_CHECK_OUTPUT").outputs.clear()


def keep_papermill_metadata(notebook: Notebook) -> None:
    notebook.content.metadata["papermill"] = {"duration": 3.5}


def keep_python_version(notebook: Notebook) -> None:
    notebook.content.metadata["language_info"] = {"name": "python", "version": "3.11.7"}


def keep_execution_times(notebook: Notebook) -> None:
    notebook.code[2].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}


def keep_injected_cell(notebook: Notebook) -> None:
    notebook.code[4].metadata["tags"] = ["injected-parameters"]


def repeat_cell_id(notebook: Notebook) -> None:
    notebook.cells[5].id = notebook.cells[6].id


def age_format(notebook: Notebook) -> None:
    notebook.content.nbformat_minor = 4


PNG = {"image/png": "A" * 700_000}
LONG_CELL = "\n".join(["np.ones(3)"] * 31)

BREAKAGES: list[tuple[str, Change, str]] = [
    ("second H1", replace("## Overview", "# Overview"), "expected one H1"),
    ("H1 not first", replace("# 05 ·", "## 05 ·"), "expected one H1"),
    ("wrong number", replace("# 05 ·", "# 04 ·"), "the H1 is"),
    ("renamed section", replace("## Takeaways", "## Conclusion"), "the H2s are"),
    ("swapped sections", swap_sections, "the H2s are"),
    ("missing section", replace("## Overview", "Overview"), "the H2s are"),
    ("misnumbered step", replace("## 2. ", "## 3. "), "expected '2. '"),
    ("step in lower case", replace("2. Count", "2. count"), "a capital letter"),
    ("step in title case", replace("Look at the", "Look At The"), "expected sentence case"),
    ("wrong badge", replace("/blob/", "/tree/"), "Colab badge"),
    ("upgrading setup", replace("%pip install -q", "%pip install -q -U"), "not the template"),
    ("setup elsewhere", move_setup_cell, "not under Setup"),
    ("two parameter cells", tag_two_parameter_cells, "one cell tagged parameters, found 2"),
    ("parameters elsewhere", move_parameters_cell, "not under Parameters"),
    ("annotated parameter", replace("SEED = 0", "SEED: int = 0"), "'SEED: int = 0' is not"),
    ("computed parameter", replace("(-1e-3, 1e-4)", "tuple([1])"), "'RATES = tuple([1])' is not"),
    ("lower-case parameter", replace("RATES", "rates"), "'rates = (-0.001, 0.0001)' is not"),
    ("missing parameter", replace('RUN = "auto"', ""), "expected RUN = 'auto'"),
    ("other default", replace("SEED = 0", "SEED = 1"), "expected SEED = 0"),
    ("late import", add("import json"), "'import json' is outside Setup"),
    ("late from-import", add("from os import path"), "'from os import path' is outside Setup"),
    ("pyplot", replace("as np", "as np\nimport matplotlib.pyplot as plt"), "not pyplot"),
    ("pyplot by from", replace("as np", "as np\nfrom matplotlib import pyplot"), "not pyplot"),
    ("magic", add("%run other"), "magic or shell command"),
    ("pip", add("!pip install -U keras"), "pip install outside"),
    ("other notebook", add('open("01_eda.ipynb")'), "a notebook does not use another"),
    ("sys.path", add('sys.path.insert(0, "..")'), "sys.path is used"),
    ("test split", add("dataset.test.images"), "'dataset.test': choices are made on validation"),
    ("bare except", add("try:\n    run\nexcept:\n    stage"), "bare except"),
    ("other stage", replace('"05_resnet50_finetuned"', '"03_augmentation"'), "expected `stage = "),
    ("stage opened twice", add('stage = run.stage("05_resnet50_finetuned")'), "expected `stage = "),
    ("undeclared upstream", add('run.stage("02_baseline_cnn")'), "opens ['02_baseline_cnn']"),
    ("too few cells", drop_cells, "cells; expected 30 to 60"),
    ("too many cells", add_cells, "cells; expected 30 to 60"),
    ("empty cell", replace("np.arange(5)", " "), "an empty cell"),
    ("too long a cell", replace("np.arange(5)", LONG_CELL), "a cell of 31 lines"),
    ("too much code", lengthen_every_cell, "lines of code; at most 200"),
    ("long median", lengthen_every_cell, "lines a cell; expected under 7"),
    ("not executed", forget_execution, "execution count None"),
    ("out of order", run_out_of_order, "execution count 40"),
    ("nothing to compare", drop_checked_output, "has no output"),
    ("skipped in tests", add("# NBVAL_SKIP"), "the only mark is"),
    ("error", output("error", ename="ValueError", evalue="", traceback=[]), "ended in ValueError"),
    ("stderr", output("stream", name="stderr", text="careful"), "wrote to stderr: 'careful'"),
    ("temporary folder", show("saved in /tmp/x/model.keras"), "shows '/tmp/x/model.keras'"),
    ("home folder", show("in /home/me/data"), "shows '/home/me/data'"),
    ("Windows folder", show("in C:\\Users\\me"), "shows 'C:\\\\Users\\\\me'"),
    ("this checkout", show(f"in {notebooks.ROOT}/data"), f"shows '{notebooks.ROOT}/data'"),
    ("address", output("display_data", data={"text/plain": "<f at 0x7f>"}), "shows ' at 0x7f'"),
    ("too large", output("display_data", data=PNG), "bytes; at most 600,000"),
    ("papermill metadata", keep_papermill_metadata, "is not the minimum"),
    ("Python version", keep_python_version, "is not the minimum"),
    ("execution times", keep_execution_times, "only tags are kept"),
    ("injected parameters", keep_injected_cell, "injected-parameters cell"),
    ("repeated id", repeat_cell_id, "cell ids repeat"),
    ("old format", age_format, "format 4.4"),
]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [pytest.param(change, complaint, id=name) for name, change, complaint in BREAKAGES],
)
def test_broken_convention_is_reported(good: Notebook, change: Change, complaint: str) -> None:
    change(good)
    assert [found for found in notebooks.complaints(good) if complaint in found]


def test_notebook_without_a_stage_is_reported(good: Notebook) -> None:
    stray = dataclasses.replace(good, path=good.path.with_name("05_stray.ipynb"))
    assert "05_stray.ipynb: 05_stray is not in runs.STAGES" in notebooks.complaints(stray)


def test_notebook_06_may_read_the_test_split(good: Notebook) -> None:
    add("dataset.test.images")(good)
    evaluation = dataclasses.replace(good, path=good.path.with_name("06_evaluation.ipynb"))
    assert not list(notebooks.check_honesty(evaluation))
