"""What ``pytest --nbval-lax notebooks`` needs: each notebook's upstream, and failures kept.

Serial or with ``-n 2 --dist loadscope``, all notebooks or one, from any folder: a notebook finds
what the stages that it reads from left. A stage that this session has not run yet is run on the
spot; one that another worker is running is waited for.
"""

import copy
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

import nbformat
import pytest
from filelock import FileLock
from nbclient.exceptions import CellExecutionError, DeadKernelError

from cifar_utils import runs
from tools import notebooks


class Course:
    """The artifacts of one session: for each notebook a folder with its own and its upstream's."""

    def __init__(self, folder: Path, failed: Path) -> None:
        self.folder = folder
        self.failed = failed

    def lock(self, stage: str) -> FileLock:
        """Return the lock of who runs a stage.

        Its holder waits only for stages that it reads from, so nobody waits in a circle.
        """
        return FileLock(self.folder / f"{stage}.lock")

    def finished(self, stage: str) -> Path:
        """Return the mark that others may read what a stage left."""
        return self.folder / f"{stage}.finished"

    def environment(self, stage: str) -> dict[str, str]:
        """Return the variables for the notebook of a stage, its upstream in place."""
        # What others may be reading is not written again.
        name = f"{stage}-again" if self.finished(stage).exists() else stage
        artifacts = self.folder / name
        for upstream in runs.STAGES[stage]:
            self._make(upstream)
            for file in (self.folder / upstream).rglob("*"):
                link = artifacts / file.relative_to(self.folder / upstream)
                if file.is_file():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    # The library replaces files and never writes into them: a link is a copy.
                    with suppress(FileExistsError):
                        os.link(file, link)
        smoke = notebooks.smoke_environment(self.folder)
        return smoke | {"CIFAR_UTILS_ARTIFACTS_DIR": str(artifacts)}

    def _make(self, stage: str) -> None:
        """Run the notebook of a stage, unless that has been done."""
        with self.lock(stage):
            if self.finished(stage).exists():
                return
            notebook = notebooks.read(notebooks.NOTEBOOKS / f"{stage}.ipynb")
            try:
                notebooks.run(notebook, os.environ | self.environment(stage))
            except (CellExecutionError, DeadKernelError) as error:
                kept = self.keep(stage, notebook.content)
                pytest.fail(f"reads from {stage}, which failed; as far as it got: {kept}\n{error}")
            self.finished(stage).touch()

    def keep(self, stage: str, content: nbformat.NotebookNode) -> Path:
        """Write a notebook with a failing cell, and return its path."""
        path = self.failed / f"{stage}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(content, path)
        return path


COURSE = pytest.StashKey[Course]()
LOCK = pytest.StashKey[FileLock]()
MISSING = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose the folder that all notebooks of the session, whichever worker runs them, share."""
    failed = config.rootpath / "build" / "failed-notebooks"
    if config.getoption("dist", "no") not in ("no", "loadscope", "loadfile"):
        raise pytest.UsageError("the cells of a notebook stay together: add --dist loadscope")
    if hasattr(config, "workerinput"):
        folder = config.workerinput["course"]
    else:
        temporary = tempfile.TemporaryDirectory(prefix="nbval-")
        config.add_cleanup(temporary.cleanup)
        folder = temporary.name
        rmtree(failed, ignore_errors=True)
    config.stash[COURSE] = Course(Path(folder), failed)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Tell a worker of pytest-xdist the folder."""
    node.workerinput["course"] = str(node.config.stash[COURSE].folder)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Leave stderr, where drivers write as they please, out of the comparison."""
    if collector.name.endswith(".ipynb"):
        collector.skip_compare += ("stderr",)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before a notebook's first cell, and so before its kernel starts: make what it reads."""
    course, notebook = item.config.stash[COURSE], item.parent
    if MISSING in notebook.stash:
        pytest.skip(notebook.stash[MISSING])
    if LOCK not in notebook.stash:
        stage = notebook.path.stem
        notebook.stash[LOCK] = course.lock(stage)
        notebook.stash[LOCK].acquire()
        notebook.stash[MISSING] = "what it reads is missing: see its first cell"
        os.environ.update(course.environment(stage))
        del notebook.stash[MISSING]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Keep the notebook of a failing cell, as executed so far, and say where."""
    report = yield
    if report.when == "call":
        # By now nbval has compared; what the cell wrote takes the place of what it should write.
        item.cell.outputs = item.test_outputs or []
    if report.when == "call" and report.failed:
        content = copy.deepcopy(item.parent.nb)
        code = [cell for cell in content.cells if cell.cell_type == "code"]
        for cell in code[item.cell_num + 1 :]:
            cell.update(outputs=[], execution_count=None)
        kept = item.config.stash[COURSE].keep(item.parent.path.stem, content)
        report.sections.append(("the notebook up to this cell", str(kept)))
    return report


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After a notebook's last cell: let others read what it left."""
    notebook = item.parent
    if nextitem is None or nextitem.parent is not notebook:
        if MISSING not in notebook.stash:
            item.config.stash[COURSE].finished(notebook.path.stem).touch()
        notebook.stash[LOCK].release()
