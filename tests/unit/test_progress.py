import io
import json

import pytest
from rich.console import Console

from cifar_utils import progress, report
from cifar_utils.progress import Board, File, Table, Watch

ABOUT = {"run": "r", "stage": "01_first"}


def test_the_file_of_events_has_what_a_program_wants(tmp_path):
    path = tmp_path / "events.jsonl"
    for kind in ("stage", "line", "memory", "note", "epoch"):
        File(path).take({"event": kind, **ABOUT})
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["stage", "epoch"]
    assert all(event["time"].endswith("+00:00") for event in events)


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path):
    File(tmp_path / "missing" / "events.jsonl").take({"event": "stage"})


@pytest.mark.parametrize("left", ["", '{"event": "first"}\n'])
def test_half_a_line_is_gone_before_the_next(tmp_path, left):
    path = tmp_path / "events.jsonl"
    path.write_text(left + '{"time": "2026-')
    File(path).take({"event": "stage"})
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["first"] * bool(left) + ["stage"]


def test_events_of_a_run_go_to_its_own_file(tmp_path):
    files = {name: tmp_path / name for name in ("a", "b")}
    board = Board(2, several=True, runs=True, files=files)
    board.take({"event": "epoch", "run": "a", "stage": "x"})
    assert (tmp_path / "a").read_text() and not (tmp_path / "b").exists()


def test_lines_of_stages_side_by_side_say_whose_they_are(capsys):
    board = Board(2, several=True, runs=True, files={})
    for stage in ("01_first", "03_third"):
        about = {"run": "r", "stage": stage}
        board.take({"event": "stage", **about, "state": "runs"})
        board.take({"event": "line", **about, "text": "epoch 1/2", "seconds": 61.0})
    board.take({"event": "stage", **ABOUT, "state": "skipped", "why": "02 failed"})
    assert capsys.readouterr().out.splitlines() == [
        "[1/2] r/01_first",
        "    1:01  r/01_first  epoch 1/2",
        "[2/2] r/03_third",
        "    1:01  r/03_third  epoch 1/2",
        "[1/2] r/01_first  skipped: 02 failed",
    ]


def shown(table):
    console = Console(width=140, file=io.StringIO())
    console.print(table._table())
    return console.file.getvalue()


def test_the_table_shows_cell_epoch_accuracy_time_and_memory():
    table = Table(runs=False)
    table.take({"event": "stage", **ABOUT, "state": "runs", "expected": 1e5})
    table.take({"event": "cell", **ABOUT, "cell": 7, "cells": 40, "heading": "## 2. Train it"})
    table.take({"event": "epoch", **ABOUT, "epoch": 3, "epochs": 9, "val_accuracy": 0.512})
    table.take({"event": "memory", **ABOUT, "bytes": 1_500_000_000})
    table.take({"event": "stage", "run": "r", "stage": "02_second", "state": "waits"})
    text = shown(table)
    for part in ("01_first", "runs", "7/40", "2. Train it", "3/9", "51.2%", "1.5 GB", "about"):
        assert part in text
    assert "waits" in text
    table.take({"event": "stage", **ABOUT, "state": "done", "seconds": 12.0})
    text = shown(table)
    assert "done" in text and report.duration(12.0) in text and "7/40" not in text


def test_what_is_left_of_a_stage():
    assert progress.left({"expected": 100.0}, 40) == f"about {report.duration(60)}"
    row = {"expected": 30.0, "pace": 2.0, "epoch": 4, "epochs": 9}
    assert progress.left(row, 40) == f"training {report.duration(10)}"
    assert progress.left({}, 40) == ""


@pytest.mark.parametrize(
    ("tty", "term", "ci", "expected"),
    [
        (True, "xterm", "", True),
        (True, "dumb", "", False),
        (True, "xterm", "true", False),
        (False, "xterm", "", False),
    ],
)
def test_only_a_terminal_is_drawn_in(monkeypatch, tty, term, ci, expected):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: tty, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("CI", ci)
    assert progress.watched() is expected


def test_a_watch_passes_on_what_trainings_tell_and_memory_that_grew():
    events = []
    watch = Watch(events.append, "r", "01_first")
    for memory in (100, 105, 120):
        watch.sample(memory, [])
    watch.sample(0, [{"model": "m", "epoch": 1, "epochs": 2, "val_accuracy": 0.5}])
    kinds = [event["event"] for event in events]
    assert kinds == ["memory", "held", "memory", "memory", "held", "epoch"]
    assert events[-1] == {
        "event": "epoch",
        **ABOUT,
        "model": "m",
        "epoch": 1,
        "epochs": 2,
        "val_accuracy": 0.5,
    }
