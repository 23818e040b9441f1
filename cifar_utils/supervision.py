"""What a training and the pipeline that runs its notebook tell each other, by files in a folder.

The pipeline names the folder in the environment of the notebook's kernel. A notebook that somebody
runs by hand, or that a test runs, has none: then a training keeps to itself.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

VARIABLE = "CIFAR_UTILS_SUPERVISOR"
"""Environment variable with the folder."""


def folder() -> Path | None:
    """Return the folder, None where no pipeline runs this process."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else None


def supervised() -> bool:
    """Return whether a pipeline runs this process, and clears up what trainings keep."""
    return folder() is not None


def kept(backup: Path | None, name: str) -> Path | None:
    """Return the folder for the state of one of many short trainings, None where nobody keeps it.

    By hand they are begun anew, as whoever runs them again would expect.

    Args:
        backup: Folder for all of them, if there is one.
        name: Of this one.
    """
    if backup is None or not supervised():
        return None
    return backup / re.sub(r"[^A-Za-z0-9]+", "_", name)


def clear(backup: Path | None) -> None:
    """Remove the state of trainings that are all done, if there is any and no pipeline does so."""
    if backup is not None and not supervised():
        shutil.rmtree(backup, ignore_errors=True)


def tell(fact: dict[str, Any]) -> None:
    """Let the pipeline know; nothing where there is none."""
    place = folder()
    if place is not None:
        with (place / "told.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(fact) + "\n")


def told(place: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Return what was told since, and where to go on.

    Args:
        place: The folder.
        start: Where the last call ended, in bytes; 0 at first.
    """
    path = place / "told.jsonl"
    if not path.is_file():
        return [], start
    with path.open("rb") as stream:
        stream.seek(start)
        whole, newline, _ = stream.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()], start + len(whole) + len(newline)


def ask_to_stop(place: Path) -> None:
    """Ask the trainings that use the folder to stop after the epoch they are in."""
    (place / "stop").touch()


def stop_asked() -> bool:
    """Return whether this process was asked to stop after the epoch it is in."""
    place = folder()
    return place is not None and (place / "stop").exists()
