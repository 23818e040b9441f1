"""Which archives can be downloaded, from where, and what proves that they are the right ones.

The list is ``sources.toml``, beside this file; ``CIFAR_UTILS_MIRRORS`` names one that replaces it.
"""

import os
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cifar_utils.archives import FOLDERS
from cifar_utils.errors import ParameterError, nearest

PACKAGED = Path(__file__).with_name("sources.toml")

_SEE = f"see {PACKAGED} for an example"
_FIELDS = {"name": str, "layout": str, "bytes": int, "sha256": str, "urls": list}


@dataclass(frozen=True)
class Archive:
    """An archive that can be downloaded.

    Attributes:
        name: File name.
        layout: ``python`` or ``binary``.
        bytes: Size.
        sha256: SHA-256 of the whole file, 64 hexadecimal digits.
        urls: Where it can be had, the best source first.
    """

    name: str
    layout: str
    bytes: int
    sha256: str
    urls: tuple[str, ...]


def archives() -> list[Archive]:
    """Return the archives that can be downloaded, the default one first.

    Raises:
        ParameterError: The file that ``CIFAR_UTILS_MIRRORS`` names cannot be used.
    """
    chosen = os.environ.get("CIFAR_UTILS_MIRRORS")
    return _read_sources(Path(chosen).expanduser() if chosen else PACKAGED)


def official() -> dict[str, Archive]:
    """Return the official archives by SHA-256, whatever ``CIFAR_UTILS_MIRRORS`` says."""
    return {archive.sha256: archive for archive in _read_sources(PACKAGED)}


def url_problem(url: str) -> str | None:
    """Return why a URL cannot be asked, None if it can."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return None
    return "expected a URL that starts with http:// or https:// and a host"


def _read_sources(path: Path) -> list[Archive]:
    """Read a list of archives and their sources, as ``sources.toml`` has it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(
            f"cannot read {path}, the list of sources: {error.strerror}; correct "
            "CIFAR_UTILS_MIRRORS or unset it"
        ) from None
    except ValueError as error:
        raise ParameterError(f"{path} is not a TOML file: {error}; {_SEE}") from None
    entries = content.pop("archive", None)
    if content or not entries or not isinstance(entries, list):
        raise ParameterError(
            f"{path}: expected [[archive]] tables and nothing else, found "
            f"{', '.join(content) or 'none'}; {_SEE}"
        )
    for number, entry in enumerate(entries, start=1):
        if problem := _entry_problem(entry):
            raise ParameterError(f"{path}, archive {number}: {problem}; {_SEE}")
    names = [entry["name"] for entry in entries]
    if len(set(names)) < len(names):
        raise ParameterError(f"{path}: two archives have the same name; expected each once")
    return [
        Archive(**entry | {"urls": tuple(entry["urls"]), "sha256": entry["sha256"].lower()})
        for entry in entries
    ]


def _entry_problem(entry: Any) -> str | None:
    """Return what is wrong with one table of the list of sources, None if nothing is."""
    if not isinstance(entry, dict) or entry.keys() != _FIELDS.keys():
        found = ", ".join(entry) if isinstance(entry, dict) else "no table"
        return f"expected the fields {', '.join(_FIELDS)}, found {found}"
    for field, kind in _FIELDS.items():
        if type(entry[field]) is not kind:
            return f"{field} is {entry[field]!r}, expected {kind.__name__}"
    if not re.fullmatch(r"\w[\w.+-]*", entry["name"]):
        return f"name is {entry['name']!r}, expected a file name without folders and spaces"
    if entry["layout"] not in FOLDERS:
        return f"layout is {entry['layout']!r}{nearest(entry['layout'], list(FOLDERS))}"
    if entry["bytes"] <= 0:
        return f"bytes is {entry['bytes']}, expected the size of the archive"
    if not re.fullmatch("[0-9a-fA-F]{64}", entry["sha256"]):
        return f"sha256 is {entry['sha256']!r}, expected 64 hexadecimal digits"
    if not entry["urls"]:
        return "urls is empty, expected at least one"
    for url in entry["urls"]:
        if problem := url_problem(url) if isinstance(url, str) else "expected str":
            return f"URL {url!r}: {problem}"
    return None
