"""Fetching a file from whichever source is fast enough, and proving that it is the right one.

What was received is kept in ``.downloads/`` of the data folder: ``NAME.SUM.part`` (SUM: the first
eight digits of the file's checksum), beside it ``.json``, which says where the bytes came from, and
``.lock``. A later call goes on from there, from any source and also after ``kill -9``. Only a file
whose checksum is right gets its final name: SHA-256 for an archive, MD5 for pretrained weights.
"""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import client
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from cifar_utils import __version__, paths, runs, sources
from cifar_utils.errors import DataError, ParameterError, nearest

if TYPE_CHECKING:
    from requests import Response
    from rich.progress import Progress

File = sources.Archive | sources.WeightsFile
"""What can be downloaded."""

_CHUNK = 1 << 16
# What files begin with, and what to call such a file.
_MAGIC = {
    "archive": (b"\x1f\x8b", "a gzip file"),
    "weights file": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
}
_SPARE_BYTES = 10_000_000
_LONGEST_WAIT = 30.0
# A source that sent nothing may have been unlucky that often before a slow one is preferred to it.
_CHANCES = 3
# Bytes per second that even an only source has to deliver: a week for the archive, otherwise.
_CRAWL = 1000.0
_REDIRECTS = 10
_REPORT_SECONDS = 10.0
# A round over the sources that brings less than this share of the archive has brought nothing, so
# a source that sends a byte a connection cannot keep us busy for ever.
_PROGRESS = 1 / 10_000
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TRY_LATER = {408, 425, 429}


@dataclass(frozen=True)
class Patience:
    """How long a source may take before the next one gets its turn.

    Attributes:
        connect: Seconds until the connection stands.
        stall: Seconds without a byte, also before the first one.
        floor: Bytes per second, over ``window`` seconds, that a source has to deliver as long as
            another one may be faster.
        window: Seconds over which speed is measured.
        rounds: Rounds over all sources without progress before giving up.
        backoff: Seconds to wait after the first such round, doubled after each, at most 30.
    """

    connect: float = 5.0
    stall: float = 6.0
    floor: float = 250_000.0
    window: float = 8.0
    rounds: int = 5
    backoff: float = 1.0


@dataclass(frozen=True)
class Receipt:
    """How a file was downloaded; it lies beside the file as ``NAME.json``.

    Attributes:
        archive: File name.
        sha256: SHA-256 of the file.
        bytes: Size.
        sources: Bytes by the URL that sent them, without credentials and query; ``unknown`` for
            those of an interrupted download whose record was lost.
        fetched: When, ISO 8601 in UTC.
    """

    archive: str
    sha256: str
    bytes: int
    sources: dict[str, int]
    fetched: str


_PATIENCE = Patience()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    return _digest(path, "sha256")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def proven(path: Path, file: File) -> bool:
    """Return whether there is a file at ``path`` and it has the size and checksum of ``file``."""
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    return _digest(path, file.checksum.algorithm) == file.checksum.digest


def receipt(path: Path) -> Receipt | None:
    """Return how the file at ``path`` was downloaded.

    Returns:
        None where nothing is known: the receipt is missing, damaged or about another file.
    """
    with suppress(OSError, ValueError, TypeError):
        found = Receipt(**json.loads(_receipt_path(path).read_text(encoding="utf-8")))
        if found.bytes == path.stat().st_size and found.sha256 == sha256(path):
            return found
    return None


def fetch(
    name: str | None = None,
    *,
    mirrors: Sequence[str] = (),
    folder: Path | None = None,
    patience: Patience = _PATIENCE,
) -> Path:
    """Download an archive, or go on with a download, unless it is already there.

    Sources are asked in turn, and again, until the archive is whole; one that fails, stalls or is
    slow is left for the next.

    Args:
        name: File name of a known archive, None for the default one.
        mirrors: URLs to try first, each of an archive or, with ``/`` at its end, of its folder.
            Where ``name`` is None, the one they name is meant.
        folder: Where to put the archive, None for ``paths.data_dir()``.
        patience: How long sources may take.

    Returns:
        Path of the archive, its SHA-256 checked.

    Raises:
        ParameterError: The name is unknown, or a mirror is not the URL of one archive.
        DataError: No source delivered the archive, the folder cannot be used, or another file has
            the archive's name; the message says what to do.
        KeyboardInterrupt: The user stopped it; the message says how much is kept.
    """
    archive = _chosen(name, mirrors)
    urls = [url + archive.name if url.endswith("/") else url for url in mirrors]
    return _fetched(archive, [*urls, *archive.urls], folder, patience)


def fetch_imagenet(*, folder: Path | None = None, patience: Patience = _PATIENCE) -> Path:
    """Download Keras's ImageNet weights of ResNet50, as ``fetch`` does an archive.

    Args:
        folder: Where to put the file, None for ``paths.data_dir()``.
        patience: How long sources may take.

    Returns:
        Path of the file, its MD5 checked.

    Raises:
        ParameterError: The list that ``CIFAR_UTILS_MIRRORS`` names cannot be used.
        DataError: As for ``fetch``.
        KeyboardInterrupt: The user stopped it; the message says how much is kept.
    """
    file = sources.imagenet()
    return _fetched(file, file.urls, folder, patience)


def _fetched(file: File, urls: Iterable[str], folder: Path | None, patience: Patience) -> Path:
    """Return the path of a file in the folder, downloaded unless it is there."""
    folder = folder or paths.data_dir()
    path = folder / file.name
    with _usable(folder, file.kind, file.bytes):
        if _present(path, file):
            return path
        partial = folder / ".downloads" / f"{file.name}.{file.checksum.digest[:8]}.part"
        waiting = f"another process downloads {file.name}; waiting for it (Ctrl-C stops waiting)"
        with paths.locked(partial.with_suffix(".lock"), waiting):
            if not _present(path, file):
                with _Part(partial, file.bytes, file.kind) as part, _Reporter(part) as reporter:
                    _Download(file, urls, part, patience, reporter).run(path)
    return path


# Which archive, from where


def _chosen(name: str | None, mirrors: Sequence[str]) -> sources.Archive:
    """Return the archive that is meant by a name or by the mirrors' last path parts."""
    known = {archive.name: archive for archive in sources.archives()}
    for url in mirrors:
        if problem := sources.url_problem(url):
            raise ParameterError(f"mirror {url!r}: {problem}")
    if name is not None and name not in known:
        raise ParameterError(f"unknown archive {name!r}{nearest(name, list(known))}")
    named = {urlsplit(url).path.rpartition("/")[2] for url in mirrors} & known.keys()
    if name is None and len(named) > 1:
        raise ParameterError(f"the mirrors are of different archives: {', '.join(sorted(named))}")
    return known[name or next(iter(named), next(iter(known)))]


# The folder


def _receipt_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _present(path: Path, file: File) -> bool:
    """Return whether the file is there; another one of its name is the user's, so an error."""
    if not path.exists():
        return False
    expected, found = _identity(file.bytes, file.checksum), "a folder"
    if path.is_file():
        algorithm = file.checksum.algorithm
        checksum = sources.Checksum(algorithm, _digest(path, algorithm))
        found = _identity(path.stat().st_size, checksum)
    if found == expected:
        return True
    raise DataError(
        f"{path} is not the {file.kind} of that name: found {found}; expected {expected}; move it "
        "away, or choose another folder with CIFAR_UTILS_DATA_DIR, and try again"
    )


def _identity(size: int, checksum: sources.Checksum) -> str:
    return f"{size:,} bytes, {checksum.algorithm} {checksum.digest}"


@contextmanager
def _usable(folder: Path, kind: str, missing: int) -> Iterator[None]:
    """Turn an error of the file system into one that says what to do about the folder."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(folder, kind, missing, error.strerror) from error
        raise DataError(
            f"cannot use the folder {folder}: {error.strerror or error}; expected one that you may "
            "write to; choose it with CIFAR_UTILS_DATA_DIR"
        ) from error


def _no_room(folder: Path, kind: str, missing: int, reason: str | None) -> DataError:
    free = shutil.disk_usage(folder).free
    return DataError(
        f"no room for the {kind} in {folder}: {_megabytes(missing)} MB more are needed, "
        f"{_megabytes(free)} MB are free ({reason}); make room, or choose a folder on another disk "
        "with CIFAR_UTILS_DATA_DIR; the same command goes on from what is kept"
    )


class _Segment(NamedTuple):
    """Bytes of the part from ``offset`` on, until the next segment, came from ``url``."""

    offset: int
    url: str
    etag: str | None


class _Part:
    """The bytes received so far, and in a record beside them which source sent which of them.

    A segment is recorded before its first byte is written, so that both fit after ``kill -9``.

    Attributes:
        length: Bytes that are there.
        inherited: How many of them were there when the program started.
    """

    def __init__(self, path: Path, expected: int, kind: str = "archive") -> None:
        self.path, self.expected, self.kind = path, expected, kind
        self._record = path.with_suffix(".json")
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._segments = self._read_record()
        self.length = self.inherited = path.stat().st_size
        self.truncate(min(self.length, expected))

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def missing(self) -> int:
        return self.expected - self.length

    def _read_record(self) -> list[_Segment]:
        """Return the segments on record; one of unknown source if it is missing or damaged."""
        with suppress(OSError, ValueError, TypeError):
            found = [_Segment(*entry) for entry in json.loads(self._record.read_text("utf-8"))]
            typed = all(
                type(offset) is int and isinstance(url, str) and isinstance(etag, str | None)
                for offset, url, etag in found
            )
            offsets = [segment.offset for segment in found]
            if typed and offsets[:1] == [0] and offsets == sorted(set(offsets)):
                return found
        return [_Segment(0, "unknown", None)]

    def _save(self) -> None:
        runs.write_json(self._record, self._segments)

    def progress(self) -> str:
        """Return how much is there, such as ``43.1 of 170.5 MB``."""
        return f"{_megabytes(self.length)} of {_megabytes(self.expected)} MB"

    def sources(self) -> dict[str, int]:
        """Return how many of the bytes came from which URL."""
        ends = [segment.offset for segment in self._segments[1:]] + [self.length]
        counts: dict[str, int] = {}
        for segment, end in zip(self._segments, ends, strict=True):
            counts[segment.url] = counts.get(segment.url, 0) + end - segment.offset
        return counts

    def etag(self, url: str) -> str | None:
        """Return the entity tag of the file that the URL has sent bytes of, if it is known."""
        return next((each.etag for each in reversed(self._segments) if each.url == url), None)

    def write(self, offset: int, data: bytes, url: str, etag: str | None) -> None:
        """Put bytes to their place, which begins at most where the part ends.

        Bytes that are kept already are compared: equal ones are skipped; where they differ, the
        part is cut and written anew from there.
        """
        with _usable(self.path.parent, self.kind, self.missing):
            self._file.seek(offset)
            kept = self._file.read(min(len(data), self.length - offset))
            if not data.startswith(kept):
                kept = kept[: _first_difference(kept, data)]
                self.truncate(offset + len(kept))
            if rest := data[len(kept) :]:
                self._append(rest, url, etag)

    def _append(self, data: bytes, url: str, etag: str | None) -> None:
        if not self._segments or self._segments[-1][1:] != (url, etag):
            self._segments.append(_Segment(self.length, url, etag))
            self._save()
        self._file.seek(self.length)
        while data:
            written = self._file.write(data)
            self.length += written
            data = data[written:]

    def truncate(self, length: int) -> None:
        """Forget what is kept from ``length`` on."""
        self._file.truncate(length)
        self.length, self.inherited = length, min(self.inherited, length)
        kept = [segment for segment in self._segments if segment.offset < length]
        if kept != self._segments:
            self._segments = kept
            self._save()

    def finish(self, path: Path) -> None:
        """Give the part, on disk for certain, its final name."""
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.replace(path)
        self._record.unlink(missing_ok=True)


def _first_difference(one: bytes, other: bytes) -> int:
    """Return the offset of the first byte that differs, else the length of the shorter."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


# Asking a source


class _LeftError(Exception):
    """Why a source is left for the next one.

    Args:
        reason: For people.
        for_good: Asking it again is pointless.
        whole: It is to be asked for the whole file, not for a range.
        wait: Seconds before which it is not to be asked again.
    """

    def __init__(
        self, reason: str, *, for_good: bool = False, whole: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.for_good, self.whole, self.wait = for_good, whole, wait


class _Meter:
    """Measures the speed of a source over windows of time that follow each other."""

    def __init__(self, window: float) -> None:
        self._window, self._start, self._count = window, time.monotonic(), 0
        self._last: float | None = None

    def add(self, count: int) -> float | None:
        """Count bytes; where that ends a window, return its bytes per second."""
        self._count += count
        elapsed = time.monotonic() - self._start
        if elapsed < self._window:
            return None
        self._last = self._count / elapsed
        self._start, self._count = time.monotonic(), 0
        return self._last

    def latest(self) -> float:
        """Return the bytes per second of the last window, or of all before the first has ended."""
        elapsed = time.monotonic() - self._start
        if self._last is None or elapsed >= self._window:
            return self._count / max(elapsed, 1e-6)
        return self._last


class _Source:
    """A URL, and what asking it has shown.

    Attributes:
        speed: Bytes per second when it was asked last, None if nothing came or before that.
        failures: How often it was asked and nothing came.
        due: Time (monotonic) before which it wants not to be asked.
        ranges: Whether it may be asked for a range of the file.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        # Credentials and signed queries belong neither on the screen nor in a receipt.
        self.label = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self.host = parts.hostname or ""
        self.said = "not asked"
        self.dead, self.ranges = False, True
        self.speed: float | None = None
        self.failures = 0
        self.due = 0.0

    def left(self, error: _LeftError) -> None:
        """Note why the source was left."""
        self.said = str(error)
        self.dead |= error.for_good or (error.whole and not self.ranges)
        self.ranges &= not error.whole
        self.due = time.monotonic() + error.wait


class _Download:
    """Fills one part from several sources, as many requests as it takes."""

    def __init__(
        self,
        file: File,
        urls: Iterable[str],
        part: _Part,
        patience: Patience,
        reporter: "_Reporter",
    ) -> None:
        from requests import Session

        self.file, self.part = file, part
        self.sources = [_Source(url) for url in dict.fromkeys(urls)]
        self.patience, self.reporter = patience, reporter
        self.session = Session()
        self.session.max_redirects = _REDIRECTS
        self.session.headers["User-Agent"] = f"cifar-utils/{__version__}"
        # Any other encoding would be of other bytes than those that ranges and checksums count.
        self.session.headers["Accept-Encoding"] = "identity"

    def run(self, path: Path) -> None:
        """Fetch what is missing, check everything and put it at ``path`` with its receipt."""
        folder, part = path.parent, self.part
        if part.missing and shutil.disk_usage(folder).free < part.missing + _SPARE_BYTES:
            raise _no_room(folder, part.kind, part.missing, "counted beforehand")
        try:
            with self.session:
                self._fetch(path)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; {part.progress()} are kept; the same command goes on from there"
            ) from None
        record = Receipt(
            archive=self.file.name,
            sha256=sha256(part.path),
            bytes=self.file.bytes,
            sources=part.sources(),
            fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        part.finish(path)
        runs.write_json(_receipt_path(path), record)
        self.reporter.finish(path, self.file.checksum.algorithm)

    def _fetch(self, path: Path) -> None:
        """Fill the part until its checksum is right.

        A wrong sum over bytes of one source is its own. Over bytes of several it blames none of
        them: everything is fetched afresh, from one source alone, and then from the next alone.
        """
        algorithm, expected = self.file.checksum
        alone = False
        while alive := self._alive(self.sources):
            if alone:
                del alive[1:]
                self.part.truncate(0)
            if not self._fill(alive):
                if not alone:
                    break
                alive[0].dead = True
                continue
            found = _digest(self.part.path, algorithm)
            if found == expected:
                return
            self.reporter.say(
                f"what was received has the wrong {algorithm} {found}; starting afresh"
            )
            # What an earlier call left may be all that is wrong.
            urls = [] if self.part.inherited else list(self.part.sources())
            self.part.truncate(0)
            alone |= len(urls) > 1
            for source in self.sources:
                if urls == [source.label]:
                    source.left(_LeftError(f"sends a file of {algorithm} {found}", for_good=True))
        raise self._failure(path)

    def _failure(self, path: Path) -> DataError:
        said = "".join(f"\n  {source.label}: {source.said}" for source in self.sources)
        expected = _identity(self.file.bytes, self.file.checksum)
        return DataError(
            f"{self.file.name} ({expected}) could not be downloaded; "
            f"what each source said:{said}\n"
            f"{self.part.progress()} are kept. What to do:\n"
            "  try again later: the same command goes on from there\n"
            f"  name another source: {self.file.option}\n"
            f"  download the {self.file.kind} by other means and put it at {path}"
        )

    def _alive(self, group: list[_Source]) -> list[_Source]:
        """Return the sources worth asking in the order to ask them: due ones, fast ones first."""
        now = time.monotonic()
        alive = [source for source in group if not source.dead]
        return sorted(alive, key=lambda each: (max(each.due, now), -(each.speed or 0.0)))

    def _fill(self, group: list[_Source]) -> bool:
        """Ask the sources in turn; return whether the part is whole."""
        fruitless, furthest = 0, self.part.length
        while self.part.missing and fruitless < self.patience.rounds:
            if not (alive := self._alive(group)):
                return False
            if fruitless:
                longest = min(_LONGEST_WAIT, self.patience.backoff * 2 ** (fruitless - 1))
                self._wait(longest * random.uniform(0.5, 1.0), "before asking again")
            for source in alive:
                self._ask(source, self._floor(source, group))
                if not self.part.missing:
                    return True
            gained = self.part.length - furthest >= max(1, self.file.bytes * _PROGRESS)
            fruitless = 0 if gained else fruitless + 1
            furthest = max(furthest, self.part.length)
        return not self.part.missing

    def _wait(self, seconds: float, purpose: str) -> None:
        if seconds > 0:
            self.reporter.say(f"waiting {seconds:.1f} s {purpose}")
            time.sleep(seconds)

    def _floor(self, source: _Source, group: list[_Source]) -> float:
        """Return the speed under which another source is likely to be faster than this one."""
        floor = self.patience.floor
        speeds = [
            # Half of it, so that two slow sources do not take turns.
            other.speed / 2 if other.speed else floor * (other.failures < _CHANCES)
            for other in group
            if other is not source and not other.dead
        ]
        return max(min(floor, _CRAWL), min(floor, max(speeds, default=0.0)))

    def _ask(self, source: _Source, floor: float) -> None:
        """Send one request and keep what comes; note why, where that is not all of it."""
        from urllib3.exceptions import HTTPError

        self._wait(source.due - time.monotonic(), f"as {source.host} wants")
        self.reporter.source(source.host)
        source.speed = None
        try:
            self._receive(source, floor)
            return
        except _LeftError as error:
            source.left(error)
        except (OSError, ValueError, HTTPError) as error:
            source.left(_explained(error, self.patience))
        source.failures += source.speed is None
        self.reporter.left(f"{source.host}: {source.said}")

    def _receive(self, source: _Source, floor: float) -> None:
        """Write the answer to one request into the part."""
        part = self.part
        with self._request(source) as response:
            etag, offset = _strong_etag(response), _first_byte(response, part)
            known = part.etag(source.label)
            # Some servers do not know If-Range.
            if response.status_code == 206 and known and etag and known != etag:
                raise _LeftError("has another file now", whole=True)
            meter = _Meter(self.patience.window)
            try:
                for data in _body(response, offset, self.file):
                    part.write(offset, data, source.label, etag)
                    offset += len(data)
                    self.reporter.received(len(data))
                    speed = meter.add(len(data))
                    if speed is not None and speed < floor and part.missing:
                        raise _LeftError(f"{_rate(speed)}, under {_rate(floor)}")
            finally:
                source.speed = meter.latest() or None

    def _request(self, source: _Source) -> "Response":
        """Ask for what is missing, but for the whole file if it is another one by now."""
        headers = {}
        if self.part.length and source.ranges:
            headers["Range"] = f"bytes={self.part.length}-"
            if etag := self.part.etag(source.label):
                headers["If-Range"] = etag
        timeouts = (self.patience.connect, self.patience.stall)
        return self.session.get(source.url, headers=headers, stream=True, timeout=timeouts)


def _first_byte(response: "Response", part: _Part) -> int:
    """Return where in the archive a body begins; refuse one that cannot be the archive's."""
    status, headers, expected = response.status_code, response.headers, part.expected
    if status == 416:
        raise _LeftError("416: cannot go on from there", whole=True)
    if status not in (200, 206):
        raise _LeftError(
            f"{status} {client.responses.get(status, '')}".rstrip(),
            for_good=status < 500 and status not in _TRY_LATER,
            wait=_retry_after(response),
        )
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise _LeftError("sends a web page (is a login needed?)", for_good=True)
    length = headers.get("Content-Length", "")
    start, end, total = 0, expected - 1, length or "*"
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
        if not found or int(found[1]) > part.length:
            raise _LeftError("goes on at the wrong place", whole=True)
        start, end, total = int(found[1]), int(found[2]), found[3]
    if total not in ("*", str(expected)):
        raise _LeftError(f"has {total} bytes, expected {expected}", for_good=True)
    if length not in ("", str(end - start + 1)):
        raise _LeftError(f"sends {length} bytes of bytes {start} to {end}", for_good=True)
    return start


def _body(response: "Response", offset: int, file: File) -> Iterator[bytes]:
    """Yield a body, which begins at ``offset``, as it arrives, up to the file's end."""
    if offset == 0:
        magic, called = _MAGIC[file.kind]
        data = response.raw.read(len(magic), decode_content=False)
        if not data:
            raise _LeftError("ended its answer early")
        if not magic.startswith(data):
            raise _LeftError(f"sends something else than {called}", for_good=True)
        yield data
        offset = len(data)
    while offset < file.bytes:
        # `read` would wait for a whole chunk: minutes, from a source that trickles.
        data = response.raw.read1(min(_CHUNK, file.bytes - offset), decode_content=False)
        if not data:
            raise _LeftError("ended its answer early")
        yield data
        offset += len(data)


def _strong_etag(response: "Response") -> str | None:
    """Return the entity tag that names exactly these bytes; a weak one (``W/``) does not."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None


def _retry_after(response: "Response") -> float:
    """Return the seconds that an answer asks to wait, at most 30."""
    value = response.headers.get("Retry-After", "").strip()
    seconds = 0.0
    if value.isdecimal():
        seconds = float(value)
    elif value:
        with suppress(ValueError):
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _nested(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those it wraps, the outermost first."""
    yield error
    for inner in (error.__cause__, getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            yield from _nested(inner)


def _explained(error: BaseException, patience: Patience) -> _LeftError:
    """Return a failed request as a sentence for people."""
    import requests
    import urllib3

    proxy = "the proxy that HTTPS_PROXY or HTTP_PROXY names refuses or does not answer"
    certificate = (
        "its certificate cannot be verified (REQUESTS_CA_BUNDLE names those of a company's proxy)"
    )
    sentences: list[tuple[type[BaseException], str, bool]] = [
        (requests.TooManyRedirects, f"redirects more than {_REDIRECTS} times", True),
        (requests.exceptions.InvalidSchema, str(error), True),
        (requests.exceptions.ProxyError, proxy, False),
        (ssl.SSLCertVerificationError, certificate, True),
        (requests.exceptions.SSLError, "TLS, the encryption, failed", False),
        (urllib3.exceptions.SSLError, "TLS, the encryption, failed", False),
        (socket.gaierror, "its name is not known (is there a network?)", False),
        (ConnectionRefusedError, "refuses the connection", False),
        (requests.ConnectTimeout, f"no connection within {patience.connect:g} s", False),
        (requests.ReadTimeout, f"no answer within {patience.stall:g} s", False),
        (urllib3.exceptions.ReadTimeoutError, f"nothing came for {patience.stall:g} s", False),
        (client.IncompleteRead, "closed the connection early", False),
        (ConnectionError, "closed the connection", False),
        (client.HTTPException, "answers with something else than HTTP", False),
    ]
    nested = list(_nested(error))
    for kind, sentence, for_good in sentences:
        if any(isinstance(each, kind) for each in nested):
            return _LeftError(sentence, for_good=for_good)
    innermost = nested[-1]
    return _LeftError(f"cannot be asked: {getattr(innermost, 'strerror', None) or innermost}")


# Saying how it goes


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f}"


def _rate(speed: float) -> str:
    return f"{speed / 1e6:,.1f} MB/s" if speed >= 1e6 else f"{speed / 1e3:,.0f} kB/s"


class _Reporter:
    """Says how a download goes: with a bar on a terminal, elsewhere with a line now and then."""

    def __init__(self, part: _Part) -> None:
        self._part, self._left, self._count = part, "", 0
        self._start = time.monotonic()
        # When and at which count the last line was printed.
        self._last = self._start, 0
        self._bar = _bar(part) if sys.stdout.isatty() else None

    def __enter__(self) -> "_Reporter":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line, after why the last source was left if that has not been said yet."""
        if self._left:
            text, self._left = f"{self._left}; {text}", ""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def source(self, host: str) -> None:
        """Say which source is asked now."""
        verb = "going on with" if self._part.length else "downloading from"
        self.say(f"{verb} {host} at {self._part.progress()}")
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=host)

    def left(self, reason: str) -> None:
        """Take note of why a source was left."""
        self._left = reason

    def received(self, count: int) -> None:
        """Count bytes; show it, without a terminal only once in a while."""
        self._count += count
        now, (then, before) = time.monotonic(), self._last
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self._part.length)
        elif now - then >= _REPORT_SECONDS:
            speed = (self._count - before) / (now - then)
            seconds = self._part.missing / speed
            self.say(f"{self._part.progress()}, {_rate(speed)}, about {seconds:,.0f} s left")
            self._last = now, self._count

    def finish(self, path: Path, algorithm: str) -> None:
        """Say what was done, and how fast."""
        seconds = time.monotonic() - self._start
        speed = _rate(self._count / max(seconds, 1e-3))
        received = f"{_megabytes(self._count)} MB received in {seconds:.1f} s ({speed})"
        self.say(f"{path}: {received}, {algorithm} checked")


def _bar(part: _Part) -> "Progress":
    """Return a progress bar for a download."""
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    bar.add_task("", total=part.expected, completed=part.length)
    return bar
