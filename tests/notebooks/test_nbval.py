"""What notebooks/conftest.py promises, on a course of three notebooks that take no time."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from cifar_utils import runs
from tools import notebooks

COURSE = {
    "01_eda": "",
    "02_baseline_cnn": "import time; time.sleep(1)",
    "03_augmentation": "(artifacts / '02_baseline_cnn').read_text()",
}
"""Names of real stages, because the real one says which reads which; what a cell of each does."""


def write(root: Path, stage: str, body: str, *, shown: str = "ten\n") -> None:
    """Write a notebook that does ``body``, leaves a file and shows a text that is compared."""
    setup = (
        "import os, pathlib\n"
        "artifacts = pathlib.Path(os.environ['CIFAR_UTILS_ARTIFACTS_DIR'])\n"
        "artifacts.mkdir(parents=True, exist_ok=True)"
    )
    told = [v4.new_output("stream", name="stdout", text=shown)]
    checked = v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint('ten')", outputs=told)
    stale = [v4.new_output("stream", name="stdout", text="of another run")]
    last = v4.new_code_cell(f"print((artifacts / {stage!r}).write_text('{stage}'))", outputs=stale)
    cells = [v4.new_code_cell(setup), v4.new_code_cell(body or "1"), checked, last]
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
    nbformat.write(
        v4.new_notebook(cells=cells, metadata=nbformat.from_dict(notebooks.METADATA)),
        root / "notebooks" / f"{stage}.ipynb",
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the tiny course in the place of the real one."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(notebooks.NOTEBOOKS / "conftest.py", tmp_path / "notebooks")
    shutil.copytree(notebooks.ROOT / "tools", tmp_path / "tools")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    for stage, body in COURSE.items():
        write(tmp_path, stage, body)
    return tmp_path


def nbval(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run pytest as `make test` does; return its status and what it printed."""
    options = ["--nbval-lax", "--nbval-current-env", "--import-mode=importlib", "-rs"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


XDIST = ("-n", "2", "--dist", "loadscope")
PLACES = {"root": (".", "notebooks"), "inside": ("notebooks", ".")}


@pytest.mark.parametrize("way", [(), XDIST], ids=["serial", "xdist"])
@pytest.mark.parametrize("place", PLACES)
def test_every_cell_passes(root: Path, place: str, way: tuple[str, ...]) -> None:
    folder, argument = PLACES[place]
    status, text = nbval(root / folder, argument, *way)
    assert status == 0, text
    assert "12 passed" in text
    assert not (root / "build").exists()


@pytest.mark.parametrize("others", [[], ["02_baseline_cnn"]], ids=["alone", "before it"])
def test_what_a_notebook_reads_is_made_where_it_is_not_there_yet(
    root: Path, others: list[str]
) -> None:
    names = ["03_augmentation", *others]
    status, text = nbval(root, *(f"notebooks/{name}.ipynb" for name in names))
    assert status == 0, text
    assert f"{4 * len(names)} passed" in text


@pytest.mark.parametrize("way", [(), XDIST], ids=["serial", "xdist"])
def test_failing_cell_is_named_and_its_notebook_kept(root: Path, way: tuple[str, ...]) -> None:
    write(root, "02_baseline_cnn", "print('before')\nraise ValueError('no such class')")
    status, text = nbval(root, "notebooks/02_baseline_cnn.ipynb", *way)
    assert status == 1
    assert re.search(r"1 failed, 3 passed", text)
    kept = root / "build" / "failed-notebooks" / "02_baseline_cnn.ipynb"
    assert "02_baseline_cnn.ipynb::Cell 1" in text
    assert "no such class" in text
    assert f"the notebook up to this cell -{'-' * 10}" in text
    assert str(kept) in text
    setup, failed, *later = nbformat.read(kept, 4).cells
    assert setup.outputs == []
    assert [output.output_type for output in failed.outputs] == ["stream", "error"]
    assert failed.outputs[0].text == "before\n"
    assert [cell.outputs for cell in later] == [[], []]


def test_changed_output_fails_where_it_is_compared_and_only_there(root: Path) -> None:
    write(root, "01_eda", "", shown="eleven\n")
    status, text = nbval(root, "notebooks/01_eda.ipynb")
    assert status == 1
    assert re.search(r"1 failed, 3 passed", text)
    assert "'eleven" in text
    kept = nbformat.read(root / "build" / "failed-notebooks" / "01_eda.ipynb", 4)
    assert kept.cells[2].outputs[0].text == "ten\n"
    # A later session that passes leaves nothing behind that looks like a failure.
    write(root, "01_eda", "")
    assert nbval(root, "notebooks/01_eda.ipynb")[0] == 0
    assert not (root / "build" / "failed-notebooks").exists()


@pytest.mark.parametrize("body", ["1 / 0", "os._exit(9)"], ids=["error", "dead kernel"])
def test_notebook_whose_upstream_fails_says_so_once(root: Path, body: str) -> None:
    write(root, "02_baseline_cnn", body)
    status, text = nbval(root, "notebooks/03_augmentation.ipynb")
    assert status == 1
    assert "3 skipped, 1 error" in text
    assert "reads from 02_baseline_cnn, which failed" in text
    assert (root / "build" / "failed-notebooks" / "02_baseline_cnn.ipynb").is_file()


def test_cells_of_one_notebook_are_never_split(root: Path) -> None:
    status, text = nbval(root, "notebooks", "-n", "2")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "add --dist loadscope" in text


def test_the_tiny_course_reads_what_the_real_one_reads() -> None:
    assert {name: runs.STAGES[name] for name in COURSE} == {
        "01_eda": (),
        "02_baseline_cnn": (),
        "03_augmentation": ("02_baseline_cnn",),
    }
