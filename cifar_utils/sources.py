"""Which files can be downloaded, from where, and what proves that they are the right ones.

The list is ``sources.toml``, beside this file; ``CIFAR_UTILS_MIRRORS`` names one that replaces it.
"""

import os
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from cifar_utils.archives import FOLDERS
from cifar_utils.errors import ParameterError, nearest

PACKAGED = Path(__file__).with_name("sources.toml")

_SEE = f"see {PACKAGED} for an example"
_FIELDS = {
    "archive": {"name": str, "layout": str, "bytes": int, "sha256": str, "urls": list},
    "weights": {"name": str, "bytes": int, "md5": str, "urls": list},
}
_DIGITS = {"sha256": 64, "md5": 32}


class Checksum(NamedTuple):
    """What proves a file: the name of a hash in ``hashlib``, and its hexadecimal digits."""

    algorithm: str
    digest: str


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

    kind: ClassVar[str] = "archive"
    option: ClassVar[str] = "cifar data fetch --mirror URL, or CIFAR_UTILS_MIRRORS=FILE"

    @property
    def checksum(self) -> Checksum:
        """What proves it."""
        return Checksum("sha256", self.sha256)


@dataclass(frozen=True)
class WeightsFile:
    """A file of pretrained weights that can be downloaded.

    Attributes:
        name: File name.
        bytes: Size.
        md5: MD5 of the whole file, 32 hexadecimal digits: all that is published for Keras's.
        urls: Where it can be had, the best source first.
    """

    name: str
    bytes: int
    md5: str
    urls: tuple[str, ...]

    kind: ClassVar[str] = "weights file"
    option: ClassVar[str] = "CIFAR_UTILS_MIRRORS=FILE, with a table [[weights]]"

    @property
    def checksum(self) -> Checksum:
        """What proves it."""
        return Checksum("md5", self.md5)


class _Listed(NamedTuple):
    """What a list of sources holds."""

    archives: list[Archive]
    weights: list[WeightsFile]


def archives() -> list[Archive]:
    """Return the archives that can be downloaded, the default one first.

    Raises:
        ParameterError: The file that ``CIFAR_UTILS_MIRRORS`` names cannot be used.
    """
    return _chosen().archives


def official() -> dict[str, Archive]:
    """Return the official archives by SHA-256, whatever ``CIFAR_UTILS_MIRRORS`` says."""
    return {archive.sha256: archive for archive in _read_sources(PACKAGED).archives}


def imagenet() -> WeightsFile:
    """Return Keras's ImageNet weights of ResNet50 without top.

    A list that ``CIFAR_UTILS_MIRRORS`` names may say where to get them, not what they are.

    Raises:
        ParameterError: The list cannot be used, or has other weights.
    """
    (keras,) = _read_sources(PACKAGED).weights
    listed = _chosen().weights or [keras]
    if [(each.name, each.bytes, each.md5) for each in listed] != [
        (keras.name, keras.bytes, keras.md5)
    ]:
        raise ParameterError(
            f"CIFAR_UTILS_MIRRORS lists other weights than {keras.name} ({keras.bytes:,} bytes, "
            f"md5 {keras.md5}); expected these and other urls; for weights of your own set "
            "CIFAR_UTILS_RESNET50_WEIGHTS to their file"
        )
    return listed[0]


def _chosen() -> _Listed:
    chosen = os.environ.get("CIFAR_UTILS_MIRRORS")
    return _read_sources(Path(chosen).expanduser() if chosen else PACKAGED)


def url_problem(url: str) -> str | None:
    """Return why a URL cannot be asked, None if it can."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return None
    return "expected a URL that starts with http:// or https:// and a host"


def _read_sources(path: Path) -> _Listed:
    """Read a list of files and their sources, as ``sources.toml`` has it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(
            f"cannot read {path}, the list of sources: {error.strerror}; correct "
            "CIFAR_UTILS_MIRRORS or unset it"
        ) from None
    except ValueError as error:
        raise ParameterError(f"{path} is not a TOML file: {error}; {_SEE}") from None
    entries, weights = content.pop("archive", None), content.pop("weights", [])
    if content or not entries or not isinstance(entries, list) or not isinstance(weights, list):
        raise ParameterError(
            f"{path}: expected [[archive]] tables and nothing else, found "
            f"{', '.join(content) or 'none'}; {_SEE}"
        )
    for kind, tables in (("archive", entries), ("weights", weights)):
        for number, entry in enumerate(tables, start=1):
            if problem := _entry_problem(entry, _FIELDS[kind]):
                raise ParameterError(f"{path}, {kind} {number}: {problem}; {_SEE}")
    names = [entry["name"] for entry in entries]
    if len(set(names)) < len(names):
        raise ParameterError(f"{path}: two archives have the same name; expected each once")
    return _Listed(
        [Archive(**_normalised(entry)) for entry in entries],
        [WeightsFile(**_normalised(entry)) for entry in weights],
    )


def _normalised(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a table's fields as the classes have them."""
    digests = {field: entry[field].lower() for field in _DIGITS if field in entry}
    return entry | digests | {"urls": tuple(entry["urls"])}


def _entry_problem(entry: Any, fields: dict[str, type]) -> str | None:
    """Return what is wrong with one table of the list of sources, None if nothing is."""
    if not isinstance(entry, dict) or entry.keys() != fields.keys():
        found = ", ".join(entry) if isinstance(entry, dict) else "no table"
        return f"expected the fields {', '.join(fields)}, found {found}"
    for field, kind in fields.items():
        if type(entry[field]) is not kind:
            return f"{field} is {entry[field]!r}, expected {kind.__name__}"
    if not re.fullmatch(r"\w[\w.+-]*", entry["name"]):
        return f"name is {entry['name']!r}, expected a file name without folders and spaces"
    if entry.get("layout", "python") not in FOLDERS:
        return f"layout is {entry['layout']!r}{nearest(entry['layout'], list(FOLDERS))}"
    if entry["bytes"] <= 0:
        return f"bytes is {entry['bytes']}, expected the size of the file"
    for field, digits in _DIGITS.items():
        if not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", entry.get(field, "0" * digits)):
            return f"{field} is {entry[field]!r}, expected {digits} hexadecimal digits"
    if not entry["urls"]:
        return "urls is empty, expected at least one"
    for url in entry["urls"]:
        if problem := url_problem(url) if isinstance(url, str) else "expected str":
            return f"URL {url!r}: {problem}"
    return None
