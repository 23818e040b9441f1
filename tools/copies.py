"""Copies of the repository, to do things to that the repository itself should not see."""

import shutil
from pathlib import Path

from tools import notebooks


def copied(names: tuple[str, ...], folder: Path) -> Path:
    """Copy files and folders of the repository's root into ``folder``, and return that."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in names:
        source = notebooks.ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder)
    return folder
