"""What runs take on the disk, what of it is left over, and room for more."""

import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cifar_utils import paths, runs, stages
from cifar_utils.errors import DiskFullError, RunError

ROOM = {"smoke": 300_000_000, "cpu": 1_000_000_000, "gpu": 1_500_000_000}
"""Bytes that a stage of a profile may write before anybody knows better."""


@dataclass(frozen=True)
class Entry:
    """A run on the disk.

    Attributes:
        name: Its name; of a folder without a readable manifest, too.
        size: Bytes.
        finished: Stages that ``cifar run`` has finished.
        created: When it was begun, ISO 8601; empty where unknown.
        state: ``running``, ``damaged`` or nothing.
    """

    name: str
    size: int
    finished: tuple[str, ...]
    created: str
    state: str


def _open(folder: Path) -> runs.Run | None:
    """Return the run in a folder, None if its manifest is damaged."""
    try:
        return runs.load(folder.name)
    except RunError:
        return None


def entries() -> list[Entry]:
    """Return all runs, the oldest first."""
    found = []
    for name in runs.names():
        folder = paths.artifacts_dir() / name
        run = _open(folder)
        finished = [] if run is None else [s for s in runs.STAGES if run.stage(s).finished()]
        state = "running" if runs.busy(folder) else "" if run else "damaged"
        created = "" if run is None else run.manifest["created"]
        found.append(Entry(name, stages.size(folder), tuple(finished), created, state))
    return found


def contents(run: runs.Run) -> list[tuple[str, int, str]]:
    """Return what a run's folder holds: name, bytes, and what it is."""
    found = []
    for name in runs.STAGES:
        stage = run.stage(name)
        if record := stage.finished():
            found.append((name, stages.size(stage.folder), f"finished {record['finished'][:19]}"))
        elif stage.folder.exists():
            state = "failed" if (stage.folder / "failed.ipynb").is_file() else "not finished"
            found.append((name, stages.size(stage.folder), state))
        if stage.backup.is_dir() and not stage.finished():
            found.append((stage.backup.name, stages.size(stage.backup), "state of trainings"))
    found += [(path.name, stages.size(path), "left over") for path in leftovers(run.folder)]
    return found


def leftovers(folder: Path) -> list[Path]:
    """Return what a run's folder holds that nobody will ask for again.

    That is what kills left of files half written, and the state of trainings of stages that have
    finished since.

    Args:
        folder: Of a run.
    """
    run = runs.Run(folder, {})
    found = [
        path
        for path in folder.rglob(".*.????????")  # as paths.atomic names its folders
        if path.is_dir() and time.time() - path.stat().st_mtime > 60
    ]
    for name in runs.STAGES:
        stage = run.stage(name)
        if stage.finished() and stage.backup.is_dir():
            found.append(stage.backup)
    return sorted(found)


def remove(path: Path) -> int:
    """Remove a run's folder or a part of it and return its bytes.

    Raises:
        RunError: A command is writing to the run.
    """
    root = paths.artifacts_dir()
    folder = root / path.relative_to(root).parts[0]
    bytes_before = stages.size(path)
    with runs.alone(folder):
        if path != folder:
            shutil.rmtree(path)
            return bytes_before
        # First the manifest: what is left by a kill in between is no run any more.
        (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
    return bytes_before


def superfluous(keep: int | None = None, days: float | None = None) -> list[Path]:
    """Return what ``prune`` would remove: left over parts, and whole runs if asked for.

    Args:
        keep: How many runs to keep, the newest; None for all.
        days: Runs begun longer ago than that go; None for none.
    """
    found, newest = [], list(reversed(entries()))
    for place, entry in enumerate(newest):
        folder = paths.artifacts_dir() / entry.name
        if entry.state == "running":
            continue
        old = False
        if days is not None and entry.created:
            age = time.time() - datetime.fromisoformat(entry.created).timestamp()
            old = age > days * 86_400
        if (keep is not None and place >= keep) or old:
            found.append(folder)
        else:
            found += leftovers(folder)
    return found


def room(names: list[str], profile: str, folder: Path) -> int:
    """Return about how many bytes stages will write, by what they took before or by a guess.

    Args:
        names: Of the stages that will run.
        profile: Name of the profile.
        folder: Of the run, whose own earlier results count first.
    """
    total = 0
    for name in names:
        stage = runs.Run(folder, {}).stage(name)
        # Earlier results stay until the new ones are whole.
        total += int(1.2 * stages.size(stage.folder)) if stage.finished() else ROOM[profile]
    return total


def check_room(needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        DiskFullError: There is less room than that.
    """
    root = paths.artifacts_dir()
    existing = next(each for each in (root, *root.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFullError(
            f"the stages to run may write {needed / 1e6:,.0f} MB to {root}, and {free / 1e6:,.0f} "
            "MB are free; free some, for example with: cifar runs prune, or move the folder with "
            "CIFAR_UTILS_ARTIFACTS_DIR"
        )
