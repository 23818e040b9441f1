"""How far a run is: one stream of events, for a file, for a log and for a table in a terminal."""

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from cifar_utils import parameters, report

Event = dict[str, Any]
"""``event`` says what kind it is, ``run`` and ``stage`` where; see the README for the others."""

SILENCE = 30.0
"""Seconds without a line of progress after which a line says that the cell still runs."""

GROWN = 1.1
"""How many times the last memory noted a stage must hold for another line of events."""

STATES = {
    "waits": "dim",
    "runs": "bold",
    "done": "green",
    "reused": "green",
    "failed": "red",
    "stopped": "yellow",
    "skipped": "yellow",
}
"""What a stage can be, and how a terminal shows it."""


def headings(cells: list[Any]) -> list[str]:
    """Return the nearest heading above each cell, or in it, such as ``## 3. Train the network``."""
    found, current = [], ""
    for cell in cells:
        if not parameters.is_code(cell):
            # Lines between fences are code, where # begins a comment.
            prose = re.sub(r"^```.*?^```", "", cell["source"], flags=re.DOTALL | re.MULTILINE)
            current = ([current, *re.findall(r"^#{1,3} .*", prose, flags=re.MULTILINE)])[-1]
        found.append(current.strip())
    return found


class Sink(Protocol):
    """Where events go."""

    def take(self, event: Event) -> None:
        """Take one."""


class File:
    """Appends events to a file, a JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, event: Event) -> None:
        """Write one down; a full disk stops nothing here, the stage will say so itself."""
        if event["event"] in ("line", "memory", "note"):
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, **event}) + "\n"
        with suppress(OSError), self._path.open("a+b", buffering=0) as stream:
            _cut_half_line(stream)
            stream.write(line.encode())


def _cut_half_line(stream: io.FileIO) -> None:
    """Remove what a kill or a full disk left of a last line, or the next would be part of it."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - 1))
    if stream.read() not in (b"", b"\n"):
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


class Lines:
    """Prints a line a section of a notebook and a line an epoch, the same whoever looks.

    Args:
        tasks: How many stages there are in all.
        several: Whether some run side by side, so that each line has to say of which it is.
        runs: Whether there are several runs.
    """

    def __init__(self, tasks: int, several: bool, runs: bool) -> None:
        self._tasks, self._several, self._runs = tasks, several, runs
        self._places: dict[str, int] = {}

    def take(self, event: Event) -> None:
        """Print what belongs into a log."""
        kind = event["event"]
        if kind == "note":
            _say(event["text"])
        elif kind == "line":
            minutes, seconds = divmod(int(event["seconds"]), 60)
            _say(f"  {minutes:3d}:{seconds:02d}  {self._of(event)}{event['text']}")
        elif kind == "stage" and event["state"] != "waits":
            self._stage(event)

    def _of(self, event: Event) -> str:
        return f"{self._name(event)}  " if self._several else ""

    def _name(self, event: Event) -> str:
        return f"{event['run']}/{event['stage']}" if self._runs else str(event["stage"])

    def _stage(self, event: Event) -> None:
        name, state = self._name(event), event["state"]
        place = self._places.setdefault(name, len(self._places) + 1)
        if state == "runs":
            _say(f"[{place}/{self._tasks}] {name}")
        elif state == "reused":
            took = report.duration(event["seconds"])
            _say(f"[{place}/{self._tasks}] {name}  already finished ({took}), reusing")
        elif state == "skipped":
            _say(f"[{place}/{self._tasks}] {name}  skipped: {event['why']}")
        elif state == "done":
            _say(f"        {self._of(event)}done in {report.duration(event['seconds'])}")
        else:
            _say(f"        {self._of(event)}{state}")


class Table:
    """Shows all stages in a terminal, in place: cell, epoch, accuracy, time to come, memory."""

    def __init__(self, runs: bool) -> None:
        from rich.live import Live

        self._runs = runs
        self._rows: dict[tuple[str, str], Event] = {}
        self.live = Live(get_renderable=self._table, refresh_per_second=2)

    def take(self, event: Event) -> None:
        """Remember what the table shows."""
        if event["event"] == "note":
            self.live.console.print(event["text"], markup=False, highlight=False)
        elif "stage" in event:
            row = self._rows.setdefault((event["run"], event["stage"]), {})
            if event["event"] == "stage" and event["state"] == "runs":
                row["began"] = time.monotonic()
            row |= event
            if event["event"] == "epoch":
                now = time.monotonic()
                row["pace"] = now - float(row.get("last") or row.get("began") or now)
                row["last"] = now

    def _table(self) -> Any:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD)
        for name in ("stage", "state", "cell", "", "epoch", "validation", "time", "left", "memory"):
            table.add_column(name, justify="left" if name in ("stage", "state", "") else "right")
        for (run, stage), row in list(self._rows.items()):
            name = f"{run}/{stage}" if self._runs else stage
            state = row.get("state", "waits")
            cells = [name, state, *_columns(row)]
            table.add_row(*(Text(text, style=STATES[state]) for text in cells))
        return table


def _columns(row: Event) -> list[str]:
    """Return what a row of the table says of a stage beside its name and state."""
    if row.get("state") not in ("runs", "stopped", "failed"):
        seconds = row.get("seconds")
        took = report.duration(seconds) if seconds and row.get("state") != "waits" else ""
        return ["", "", "", _accuracy(row), took, "", ""]
    cell = f"{row['cell']}/{row['cells']}" if "cell" in row else ""
    epoch = f"{row['epoch']}/{row['epochs']}" if "epoch" in row else ""
    spent = time.monotonic() - row["began"] if "began" in row else 0.0
    memory = f"{row['bytes'] / 1e9:.1f} GB" if row.get("bytes") else ""
    heading = row.get("heading", "").lstrip("# ")[:32]
    return [cell, heading, epoch, _accuracy(row), report.duration(spent), left(row, spent), memory]


def _accuracy(row: Event) -> str:
    """Return the validation accuracy of the last epoch."""
    return f"{row['val_accuracy']:.1%}" if "val_accuracy" in row else ""


def left(row: Event, spent: float) -> str:
    """Return about how long a stage still takes, as far as that can be known.

    Args:
        row: With ``expected`` seconds if the stage ran before on this machine, else with ``epoch``,
            ``epochs`` and the ``pace`` of an epoch, for the training alone.
        spent: Seconds that it has run.
    """
    if row.get("expected") and row["expected"] > spent:
        return "about " + report.duration(row["expected"] - spent)
    if row.get("pace") and row["epochs"] > row["epoch"]:
        return "training " + report.duration(row["pace"] * (row["epochs"] - row["epoch"]))
    return ""


class Board:
    """Takes events from all that runs and hands them on, one at a time.

    Args:
        tasks: How many stages there are in all.
        several: Whether some run side by side.
        runs: Whether there are several runs.
        files: The file of events of each run, by its name.
    """

    def __init__(self, tasks: int, several: bool, runs: bool, files: dict[str, Path]) -> None:
        self._lock = threading.Lock()
        self._files = {name: File(path) for name, path in files.items()}
        self._table = Table(runs) if watched() else None
        self._shown: Sink = self._table or Lines(tasks, several, runs)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._table is not None:
            live: AbstractContextManager[Any] = self._table.live
            self._stack.enter_context(live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def take(self, event: Event) -> None:
        """Hand an event on to the file of its run and to whoever looks."""
        with self._lock:
            for name, file in self._files.items():
                if event.get("run", name) == name:
                    file.take(event)
            self._shown.take(event)

    def say(self, text: str) -> None:
        """Tell the user something."""
        self.take({"event": "note", "text": text})


def watched() -> bool:
    """Return whether a person looks at a terminal that can be drawn in."""
    dumb = os.environ.get("TERM", "dumb") == "dumb" or bool(os.environ.get("CI"))
    return sys.stdout.isatty() and not dumb


def _say(text: str) -> None:
    """Print a line of progress at once, also into a pipe."""
    print(text, flush=True)


class Watch:
    """Makes events of what one notebook does; the listener that ``execution.execute`` wants.

    Args:
        take: Takes them.
        run: Name of the run.
        stage: Name of the stage.
    """

    def __init__(self, take: Callable[[Event], None], run: str, stage: str) -> None:
        self._take, self._about = take, {"run": run, "stage": stage}
        self._place = "before its first cell"
        self._started = self._last = time.monotonic()
        self._headings: list[str] = []
        self._shown = self._where = self._unfinished = ""
        self._noted = 0

    def place(self) -> str:
        """Return where the notebook is, for an error message."""
        return self._place

    def _emit(self, kind: str, **fields: Any) -> None:
        self._take({"event": kind, **self._about, **fields})

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        self._emit("line", text=text, seconds=self._last - self._started)

    def start(self, notebook: Any) -> None:
        """Note the headings of the notebook, whose kernel has just started."""
        self._headings = headings(notebook.cells)

    def enter(self, cell: Any, cell_index: int) -> None:
        """Note that a code cell starts; say so if it is the first of its section."""
        total, heading = len(self._headings), self._headings[cell_index]
        self._where = f"cell {cell_index + 1:{len(str(total))}d}/{total}  {heading}".rstrip()
        self._place = f"cell {cell_index + 1} of {total}" + (f", under {heading!r}" * bool(heading))
        self._emit("cell", cell=cell_index + 1, cells=total, heading=heading)
        self._last = time.monotonic()
        if heading != self._shown:
            self._shown = heading
            self._line(self._where)

    def write(self, text: str) -> None:
        """Show the lines that begin with ``epoch``."""
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            if line.startswith("epoch "):
                self._line(line)

    def flush(self) -> None:
        """Do nothing: every line is shown at once."""

    def sample(self, memory: int, told: list[Event]) -> None:
        """Pass on what trainings told; say after long silence that the cell still runs."""
        for fact in told:
            self._emit("epoch", **fact)
        if memory:
            self._emit("memory", bytes=memory)
        if memory > GROWN * self._noted:
            self._noted = memory
            self._emit("held", bytes=memory)
        if time.monotonic() - self._last > SILENCE:
            self._line(f"{self._where}  still running")
