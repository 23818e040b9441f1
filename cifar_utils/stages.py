"""One stage of a run: is it done, why not, and how it runs so that nothing half done is trusted."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar_utils import execution, keys, parameters, paths, runs
from cifar_utils.errors import CifarUtilsError, RunError, StoppedError
from cifar_utils.execution import Control, Limits, Listener

BADGE = re.compile(r"!\[[^\]]*\]\(https?:")
"""An image from the network in a text cell."""

REPORT = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""
"""nbconvert's own page without the scripts it would load from the network."""


def reasons(stage: runs.Stage, values: dict[str, Any]) -> list[str]:
    """Return why a stage would have to run; nothing if it is done and whole.

    Args:
        stage: The stage.
        values: The value of each of the notebook's parameters.
    """
    record = stage.finished()
    if record is None:
        if stage.under_way:
            return ["it was interrupted; it goes on where it was"]
        return ["it has not finished yet"]
    if "facts" not in record:
        return ["its record is of an earlier version of this library"]
    found = keys.differences(record["facts"], keys.facts(stage, values))
    broken = keys.damaged(stage)
    return found + [f"{name} is missing or not as it was left" for name in broken]


def forget(stage: runs.Stage) -> None:
    """Have a stage run again from its first cell; its files stay until it has finished."""
    (stage.folder / "stage.json").unlink(missing_ok=True)
    shutil.rmtree(stage.backup, ignore_errors=True)


def _aside(stage: runs.Stage) -> Path:
    """Return where a stage's earlier results wait while it runs again."""
    return stage.folder.with_name(f".{stage.name}.earlier")


def _kernel(stage: runs.Stage) -> Path:
    """Return the file that names the process in which a stage runs."""
    return stage.folder.with_name(f".{stage.name}.kernel.json")


def recover(stage: runs.Stage) -> None:
    """Put a stage's folder in order after a run that was killed; its kernel may still be alive."""
    _end_orphan(stage)
    aside = _aside(stage)
    if not aside.exists():
        return
    if stage.finished() is None and (aside / "metrics.json").is_file():
        shutil.rmtree(stage.folder, ignore_errors=True)
        aside.replace(stage.folder)
    else:
        shutil.rmtree(aside)


def _end_orphan(stage: runs.Stage) -> None:
    """End the kernel of a run that was killed, lest it writes into what goes on from there."""
    import psutil

    path = _kernel(stage)
    if not path.is_file():
        return
    with suppress(ValueError, KeyError, psutil.Error):
        left = json.loads(path.read_text(encoding="utf-8"))
        process = psutil.Process(left["pid"])
        if process.create_time() == left["started"]:
            execution.end(process.pid)
            process.wait(20)
    path.unlink(missing_ok=True)


@dataclass
class _Attempt:
    """What is kept of a stage that has not finished: the state of its trainings.

    It is of use as long as all that led to it is the same: the facts, and the cells that had begun.
    So a cell that failed after a long training can be mended, and the training is not lost. What
    the mended cell itself had trained is.
    """

    stage: runs.Stage
    facts: keys.Facts
    cells: list[str]
    begun: int = 0
    entered: float = 0.0

    @property
    def path(self) -> Path:
        return self.stage.backup / "attempt.json"

    def prepare(self) -> str:
        """Keep what an earlier attempt left, or drop it; return why it was dropped, if it was."""
        self.facts = {name: value for name, value in self.facts.items() if name != "notebook"}
        left = self.stage.backup.exists() and any(self.stage.backup.iterdir())
        why = self._drop() if left else ""
        self.stage.backup.mkdir(parents=True, exist_ok=True)
        self._write()
        return why

    def _drop(self) -> str:
        """Remove what is of no use any more and return why."""
        try:
            was = json.loads(self.path.read_text(encoding="utf-8"))
            begun, entered = was["begun"], was["entered"]
            differing = keys.differences(was["facts"], self.facts)
            same = [old == new for old, new in zip(was["cells"], self.cells, strict=False)][:begun]
        except (OSError, ValueError, KeyError):
            differing = ["what it belongs to is not known"]
        else:
            if not all(same[: begun - 1]) or len(same) < begun - 1:
                differing.append("a cell changed that had run already")
            elif not differing:
                self.begun, self.entered = begun, entered
                if all(same) and len(same) == begun:
                    return ""
                self.begun -= 1
                return self._drop_newer(entered)
        shutil.rmtree(self.stage.backup)
        return "; ".join(differing[:3])

    def _drop_newer(self, entered: float) -> str:
        """Remove what was trained since the last cell began, which is another one now."""
        newer = [
            path
            for path in self.stage.backup.iterdir()
            if path != self.path
            and any(each.stat().st_mtime >= entered for each in [path, *path.rglob("*")])
        ]
        for path in newer:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return "its cell changed" if newer else ""

    def _write(self) -> None:
        """Note how far it is."""
        names = ("facts", "cells", "begun", "entered")
        runs.write_json(self.path, {name: getattr(self, name) for name in names})

    def enter(self, begun: int) -> None:
        """Note that so many code cells have begun."""
        if begun > self.begun:
            self.begun, self.entered = begun, time.time()
            self._write()


def _begun(stage: runs.Stage, attempt: _Attempt) -> Callable[[int, int], None]:
    """Return what notes down each cell that begins, and the process it runs in."""
    import psutil

    own = parameters.cells(parameters.notebook(stage.name))
    tags = [cell.get("metadata", {}).get("tags", []) for cell in own]
    injected = next(index for index, each in enumerate(tags) if "parameters" in each) + 1

    def begun(pid: int, cell_index: int) -> None:
        if not _kernel(stage).is_file():
            with suppress(psutil.Error):
                started = psutil.Process(pid).create_time()
                runs.write_json(_kernel(stage), {"pid": pid, "started": started})
        # papermill puts a cell with the values behind the one with the parameters.
        last = cell_index - (cell_index >= injected)
        attempt.enter(sum(parameters.is_code(cell) for cell in own[: last + 1]))

    return begun


def _render(path: Path, title: str) -> None:
    """Write ``report.html`` beside an executed notebook: one file, nothing from the network."""
    import nbformat
    from nbconvert import HTMLExporter

    document = nbformat.read(path, as_version=4)
    # A badge that opens the notebook elsewhere is an image from the network, and no use here.
    document.cells = [
        cell for cell in document.cells if parameters.is_code(cell) or not BADGE.search(cell.source)
    ]
    exporter = HTMLExporter(raw_template=REPORT, embed_images=True)
    page, _ = exporter.from_notebook_node(document, resources={"metadata": {"name": title}})
    paths.write_text(path.with_name("report.html"), page)


def _left(stage: runs.Stage, since: float) -> list[Path]:
    """Return the files that a stage has left, also with the stages that it builds on."""
    own = [path for path in stage.folder.rglob("*") if path.is_file()]
    others = [stage.run.stage(name).folder / "test.npz" for name in runs.STAGES[stage.name]]
    return own + [path for path in others if path.is_file() and path.stat().st_mtime >= since]


def run(
    stage: runs.Stage,
    values: dict[str, Any],
    *,
    listener: Listener,
    control: Control,
    limits: Limits,
    say: Callable[[str], None],
    where: Callable[[], str],
) -> dict[str, Any]:
    """Run one stage; a failure leaves earlier results as they were.

    Args:
        stage: The stage; those it builds on have finished.
        values: The value of each of the notebook's parameters.
        listener: Told about all that happens.
        control: Stops it.
        limits: What it may use.
        say: Tells the user.
        where: Returns the place in the notebook, for the message of a failure.

    Returns:
        What ``stage.json`` says then.

    Raises:
        RunError: It failed; the kind says how, the message where.
        StoppedError: The user stopped it.
    """
    folder, aside = stage.folder, _aside(stage)
    started, since = time.monotonic(), time.time()
    earlier = stage.finished()
    facts = keys.facts(stage, values)
    working, failed = folder / "working.ipynb", folder / "failed.ipynb"
    try:
        attempt = _Attempt(stage, facts, keys.code(parameters.notebook(stage.name)))
        if why := attempt.prepare():
            say(f"what an earlier attempt had trained is not used: {why}")
        if folder.exists():
            folder.replace(aside)
        folder.mkdir(parents=True)
        peak = execution.execute(
            parameters.notebook(stage.name),
            working,
            values,
            listener=listener,
            control=control,
            limits=limits,
            begun=_begun(stage, attempt),
        )
        if not (folder / "metrics.json").is_file():
            raise RunError("it ended without saving its metrics (stage.save_metrics)")
        working.replace(folder / "notebook.ipynb")
        _render(folder / "notebook.ipynb", f"{stage.name} · {stage.run.name}")
        record = {
            "facts": facts,
            "parameters": values,
            "versions": stage.run.manifest["versions"],
            "git_commit": stage.run.manifest["git_commit"],
            "files": keys.digests(_left(stage, since), stage.run.folder),
            "seconds": round(time.monotonic() - started, 3),
            "memory": peak,
            "cores": len(limits.cores) or None,
            "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        runs.write_json(folder / "stage.json", record)
    except BaseException as error:
        if isinstance(error, OSError):
            named: BaseException = execution.failed_to_write(error, working)
        else:
            named = error
        with suppress(OSError):
            _put_back(stage, keep=not isinstance(named, StoppedError))
        if isinstance(named, StoppedError) or not isinstance(named, CifarUtilsError):
            raise named from error
        lines = [f"{stage.name} failed in {where()}", str(named)]
        if failed.is_file():
            lines.append(f"as far as it got: {failed}")
        if earlier is not None:
            lines.append("the results of its earlier run are kept")
        raise type(named)("\n".join(lines)) from error
    finally:
        _kernel(stage).unlink(missing_ok=True)
    for left in (aside, stage.backup):
        shutil.rmtree(left, ignore_errors=True)
    return record


def _put_back(stage: runs.Stage, keep: bool) -> None:
    """Put earlier results back after a failure, with the failed notebook beside them if wanted."""
    folder, aside = stage.folder, _aside(stage)
    if not folder.exists():
        return
    for left in (folder / "notebook.ipynb", folder / "working.ipynb"):
        if left.is_file():
            left.replace(folder / "failed.ipynb")
    (folder / "metrics.json").unlink(missing_ok=True)
    witnesses = [folder / name for name in ("failed.ipynb", "traceback.txt")]
    if not keep:
        for witness in witnesses:
            witness.unlink(missing_ok=True)
    if (aside / "metrics.json").is_file():
        for witness in witnesses:
            if witness.is_file():
                witness.replace(aside / witness.name)
        shutil.rmtree(folder)
        aside.replace(folder)
    shutil.rmtree(aside, ignore_errors=True)


def size(path: Path) -> int:
    """Return the bytes that a folder or file takes."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total + (path.stat().st_size if path.is_file() else 0)
