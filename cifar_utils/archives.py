"""The six official files, unpacked or still in their ``.tar.gz``: found, checked, read.

Nothing here trusts a file. An archive is read in one pass, nothing of it is written to disk, and
only members named as the official files are looked into; pickles are read through an allow-list.
"""

import gzip
import hashlib
import io
import math
import pickle
import pickletools
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from cifar_utils.errors import DataError, nearest

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""The ten classes; a label is an index into them."""

RECORDS_PER_FILE = 10_000
IMAGE_SHAPE = (32, 32, 3)
PIXELS = 3072

FOLDERS = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}
"""What the official archives unpack to, by layout."""

ARCHIVES = {"python": "cifar-10-python.tar.gz", "binary": "cifar-10-binary.tar.gz"}
"""What the official archives are called, by layout."""

# https://github.com/pytorch/vision/blob/main/torchvision/datasets/cifar.py lists the same sums. For
# the binary layout only the archive's checksum is published, and it says nothing about the unpacked
# files: they are `modified`, even where they are the official ones, because nothing can prove it.
OFFICIAL_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

CIFAR100_MD5 = {
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
"""The official archives of CIFAR-100, and their checksums, from the page of the data set."""

_CIFAR100_OPCODES = 2_000_000

# The official archives hold 8 or 9 members, the largest of 31.0 MB, and 186.2 MB in all.
MAX_MEMBERS = 100
MAX_MEMBER_BYTES = 32_000_000
MAX_TOTAL_BYTES = 200_000_000
MAX_OPCODES = 200_000
MAX_STATED_BYTES = 1 << 34

_PIECE = 1 << 18

_UNPACK_AGAIN = (
    "unpack the official archive again, or remove what is left of it and get the archive with: "
    "cifar data fetch"
)

# All that a pickled array needs; even these are only taken note of, never called.
_PICKLE_GLOBALS = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
}
_UINT8 = {"u1", "|u1", "uint8"}


class Batch(NamedTuple):
    """One of the six files, checked.

    Attributes:
        place: 0 to 4 for the training files, 5 for the test file.
        layout: ``python`` or ``binary``.
        labels: uint8 ``(N,)``, 0 to 9.
        planes: uint8 ``(N, 3072)``, the red, green and blue plane of each image.
        official: Whether the file has the checksum of the official one.
    """

    place: int
    layout: str
    labels: np.ndarray
    planes: np.ndarray
    official: bool


@dataclass(frozen=True)
class Source:
    """The six files in a folder or in an archive; they need not all be there.

    Attributes:
        path: The folder or the archive.
        layout: ``python`` or ``binary`` for a folder; None for an archive, which says it when read.
    """

    path: Path
    layout: str | None = None

    @property
    def files(self) -> list[Path]:
        """The five training files and the test file, in that order; or the archive."""
        if self.layout is None:
            return [self.path]
        return [self.path / name for name in _batch_names(self.layout)]

    @property
    def all_files(self) -> list[Path]:
        """Those files and, where it is there, the one with the names of the classes."""
        names = self.path / _names_file(self.layout) if self.layout else None
        return [names, *self.files] if names and names.exists() else self.files

    def exists(self) -> bool:
        """Return whether at least one of the files is there."""
        return any(path.exists() for path in self.files)

    def identity(self) -> tuple[Any, ...]:
        """Return the path and every file's name, size in bytes and time of change in ns.

        Raises:
            DataError: A file is missing or may not be looked at.
        """
        identity = []
        for path in self.files:
            with _reading(path):
                status = path.stat()
            identity.append((path.name, status.st_size, status.st_mtime_ns))
        return (str(self.path), *identity)

    def batches(self, digest: "hashlib._Hash") -> Iterator[Batch]:
        """Read and check the six files, one at a time, in the order in which they lie there.

        Args:
            digest: Taken through every byte of an archive, so that in the end it stands for exactly
                what was read; left as it is for a folder.

        Raises:
            DataError: Something is missing, damaged, hostile or not CIFAR-10.
        """
        if self.layout is None:
            yield from _packed(self.path, digest)
            return
        for path in self.all_files:
            batch = read_file(path, self.layout)
            if batch:
                yield batch


def find(given: str | Path) -> Source:
    """Return the source at ``given``: an archive, or a folder with one, unpacked or not.

    Raises:
        DataError: There is none, or more than one; the message says what to do.
    """
    path = Path(given).expanduser().resolve()
    with _reading(path):
        exists, is_folder = path.exists(), path.is_dir()
    if not exists:
        hint = nearest(str(given), ["auto", "synthetic"]) if str(given) == Path(given).name else ""
        raise DataError(
            f"there is no file or folder {path}{hint}; expected a CIFAR-10 archive, packed or "
            "unpacked; check its name"
        )
    if not is_folder:
        return _archive(path)
    for candidates in (
        [Source(path, layout) for layout in FOLDERS],
        [Source(path / name, layout) for layout, name in FOLDERS.items()],
        [Source(path / name) for name in ARCHIVES.values()],
    ):
        found = [source for source in candidates if source.exists()]
        if len(found) > 1:
            places = " and ".join(str(source.files[0]) for source in found)
            raise DataError(
                f"{path} holds both versions of CIFAR-10, {places}; expected one; name the one "
                "you want, or remove the other"
            )
        if found:
            return found[0]
    raise DataError(nothing_in(path))


def nothing_in(folder: Path) -> str:
    """Return the message for a folder without images."""
    return (
        f"no CIFAR-10 images in {folder}; expected {FOLDERS['python']} or {FOLDERS['binary']}, the "
        "files data_batch_1 to data_batch_5 and test_batch (binary version: .bin), or "
        f"{ARCHIVES['python']} or {ARCHIVES['binary']}; get them with: cifar data fetch; or name "
        "another place, or use the drawn pictures: --data PATH or --data synthetic, in a notebook "
        'DATA = "PATH" or DATA = "synthetic", with PROFILE = "smoke" for a first look'
    )


def _archive(path: Path) -> Source:
    """Return the archive at ``path`` if it begins like one."""
    head = b""
    if path.is_file():
        with _reading(path), path.open("rb") as file:
            head = file.read(512)
    if not head.startswith(b"\x1f\x8b"):
        raise DataError(
            f"{path} is a file but no .tar.gz{_looks_like(head)}; expected a CIFAR-10 archive or "
            "the folder of an unpacked one; if it is one of the six files, name the folder it is "
            "in; if it is a failed download, remove it and use: cifar data fetch"
        )
    return Source(path)


# What the files are called


def _batch_names(layout: str) -> list[str]:
    """Return the names of the training files and the test file."""
    return [f"{name}.bin" if layout == "binary" else name for name in OFFICIAL_MD5]


def _names_file(layout: str) -> str:
    """Return the name of the file that lists the classes."""
    return "batches.meta.txt" if layout == "binary" else "batches.meta"


# A folder


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn failures of the file system into errors that name the file."""
    try:
        yield
    except FileNotFoundError as error:
        found = sorted(each.name for each in path.parent.glob("*_batch*"))
        raise DataError(
            f"{path} is missing; found {', '.join(found) or 'none of the batches'} in its folder; "
            f"{_UNPACK_AGAIN}"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}; check that it is a file you may read"
        ) from error


def read_file(path: Path, layout: str) -> Batch | None:
    """Read and check one file of an unpacked archive.

    Args:
        path: One of the six files, or the one with the names of the classes.
        layout: ``python`` or ``binary``.

    Returns:
        Its images; None for the names of the classes.

    Raises:
        DataError: It is missing, damaged or not CIFAR-10.
    """
    with _reading(path):
        content = path.read_bytes()
    try:
        return _checked(path.name, layout, content, str(path))
    except DataError as error:
        raise DataError(f"{error}; {_UNPACK_AGAIN}") from error.__cause__


# An archive


class _Hashed(io.RawIOBase):
    """A file whose bytes go through a digest as they are read."""

    def __init__(self, file: BinaryIO, digest: "hashlib._Hash") -> None:
        self._file = file
        self._digest = digest

    def read(self, size: int = -1) -> bytes:
        """Read from the file."""
        content = self._file.read(size)
        self._digest.update(content)
        return content


class _Limited(io.RawIOBase):
    """A decompressed stream that ends in an error where a bomb would go on."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._total = 0

    def read(self, size: int = -1) -> bytes:
        """Read from the file, in pieces that the caller keeps small."""
        content = self._file.read(size)
        self._total += len(content)
        if self._total > MAX_TOTAL_BYTES:
            raise DataError(f"it unpacks to more than {MAX_TOTAL_BYTES:,} bytes")
        return content


@contextmanager
def _unpacking(archive: Path) -> Iterator[None]:
    """Turn whatever a damaged or hostile archive ends in into an error that names it."""
    advice = "remove it and get the archive again with: cifar data fetch"
    try:
        yield
    except DataError as error:
        raise DataError(f"{archive}: {error}; {advice}") from error.__cause__
    except (OSError, MemoryError) as error:
        if not isinstance(error, gzip.BadGzipFile):
            raise
        raise DataError(f"{archive} is damaged: {error}; {advice}") from error
    except Exception as error:  # a damaged tar can raise anything
        what = error or type(error).__name__
        raise DataError(f"{archive} is not a whole .tar.gz: {what}; {advice}") from error


def _layout_of(member: PurePosixPath) -> str | None:
    """Return the layout an archive's member belongs to, None if it is no file of CIFAR-10."""
    for layout, folder in FOLDERS.items():
        known = (*_batch_names(layout), _names_file(layout))
        if member.name in known and str(member.parent) in (".", folder):
            return layout
    return None


class _Header(tarfile.TarInfo):
    """A member's header, refused at once if its size is beyond all reason.

    tarfile skips a member block by block, also past the end of the file: for ever, if the header
    says 2**60 bytes. Sizes below 0 are CVE-2025-8194.
    """

    def _block(self, count: int) -> int:
        if not 0 <= count <= MAX_STATED_BYTES:
            raise DataError(f"a member says that it has {count:,} bytes; do not trust the archive")
        return super()._block(count)  # type: ignore[misc]


def _check_member(member: tarfile.TarInfo) -> None:
    """Refuse what no official archive has, whether it would be read or not."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"member {member.name!r} points out of the archive; do not trust it")
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not (plain or member.isdir()):
        raise DataError(
            f"member {member.name!r} is a link, a device or another special file; expected plain "
            "files; do not trust it"
        )


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Yield layout, name and content of each file of CIFAR-10 in an archive, as they lie there."""
    seen: set[PurePosixPath] = set()
    for member in tar:
        _check_member(member)
        path = PurePosixPath(member.name)
        layout = _layout_of(path)
        # An official file is the same file in its folder and at the top.
        key = PurePosixPath(path.name) if layout else path
        if key in seen:
            raise DataError(f"member {member.name!r} is there twice; expected once")
        seen.add(key)
        if len(seen) > MAX_MEMBERS:
            raise DataError(f"it has more than {MAX_MEMBERS} members; an official one has 9")
        if layout is None or not member.isfile():
            continue
        if member.size > MAX_MEMBER_BYTES:
            raise DataError(
                f"member {member.name!r} has {member.size:,} bytes; expected at most "
                f"{MAX_MEMBER_BYTES:,}"
            )
        yield layout, path.name, _content(tar, member)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Read a member in pieces: at once, tarfile would hold it three times."""
    content, file = io.BytesIO(), tar.extractfile(member)
    if file:
        shutil.copyfileobj(file, content, _PIECE)
    return content.getvalue()


def _packed(archive: Path, digest: "hashlib._Hash") -> Iterator[Batch]:
    """Read the files in an archive, one at a time, as their places in it come."""
    layouts, places = set(), set()
    with (
        _reading(archive),
        _unpacking(archive),
        archive.open("rb") as file,
        gzip.open(_Hashed(file, digest)) as unpacked,
    ):
        stream = _Limited(unpacked)
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE, tarinfo=_Header) as tar:
            for layout, name, content in _members(tar):
                layouts.add(layout)
                if len(layouts) > 1:
                    raise DataError("it holds both versions of CIFAR-10; expected one")
                batch = _checked(name, layout, content, name)
                if batch:
                    places.add(batch.place)
                    yield batch
        missing = [name for place, name in enumerate(OFFICIAL_MD5) if place not in places]
        if missing:
            raise DataError(f"it lacks {', '.join(missing)}; expected all six files of CIFAR-10")
        # To the end, so that gzip compares its checksum and the digest is that of the whole file.
        while stream.read(_PIECE):
            pass


# Their content


def _looks_like(content: bytes) -> str:
    """Return what foreign content looks like, as the end of a sentence; empty if unknown."""
    head = content[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " (it looks like a web page)"
    if head.startswith((b"\x1f\x8b", b"pk\x03\x04")):
        return " (it looks like an archive that is still packed)"
    if head.startswith(b"\x80") and head[1:2] <= b"\x05":
        return " (it looks like a pickle, as in the python version)"
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return " (it looks like text)"
    return ""


class _Call:
    """A global that a pickle names, and what it would have been called with."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments, self.state = name, arguments, arguments

    def __call__(self, *arguments: Any) -> "_Call | bytes":
        if self.name == "encode":  # how Python 3 writes bytes for Python 2
            return arguments[0].encode("latin-1")
        return _Call(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RecordingUnpickler(pickle.Unpickler):
    """Loads plain values; takes note of what makes an array, and refuses any other global.

    NumPy's own ``__setstate__`` believes what a file says: it makes pointers of its bytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in; NumPy 1 wrote ``numpy.core`` where NumPy 2 has ``_core``."""
        current = module.replace("numpy.core.", "numpy._core.")
        if (current, name) not in _PICKLE_GLOBALS:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no CIFAR-10 file needs; do not trust it"
            )
        return _Call(name)


def _unpickle(content: bytes, where: str, most: int = MAX_OPCODES) -> dict[str, Any]:
    """Return the pickled dictionary in ``content`` with text keys, its arrays as ``_Call``."""
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count == most:
                raise pickle.UnpicklingError(f"it has more than {most:,} instructions")
            # The unpickler makes room for that many values before it sees that there are none.
            if "PUT" in opcode.name and int(argument or 0) > len(content):
                raise pickle.UnpicklingError(f"it numbers a value {argument}; do not trust it")
        value = _RecordingUnpickler(io.BytesIO(content), encoding="bytes").load()
        # Python 2 wrote the keys of the official files as bytes; Python 3 writes text.
        return {key.decode() if isinstance(key, bytes) else key: value[key] for key in value}
    except Exception as error:  # a damaged pickle can raise anything
        looks = "" if content.startswith(b"\x80") else _looks_like(content)
        raise DataError(
            f"{where} is not a whole file of the python version{looks}: "
            f"{error or type(error).__name__}"
        ) from error


def _array(value: Any, where: str, records: int) -> np.ndarray:
    """Return the uint8 array ``(records, 3072)`` that a pickle describes."""
    shape = (records, PIXELS)
    found = type(value).__name__
    with suppress(AttributeError, TypeError, ValueError, UnicodeError):
        if value.name == "_frombuffer":
            raw, dtype, size, order = value.arguments
        else:
            _, size, dtype, order, raw = value.state
        kind = dtype.arguments[0]
        kind = kind.decode() if isinstance(kind, bytes) else kind
        found = f"{np.dtype(kind)} {size}"
        if kind in _UINT8 and size == shape and len(raw) == math.prod(shape):
            ordered: Literal["C", "F"] = "F" if order in (True, "F") else "C"
            return np.frombuffer(raw, np.uint8).reshape(shape, order=ordered)
    raise DataError(f"'data' in {where} is {found}; expected uint8 {shape}")


def _python_images(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and planes in a python-layout file."""
    batch = _unpickle(content, where)
    pixels, given = _array(batch.get("data"), where, RECORDS_PER_FILE), batch.get("labels")
    if not isinstance(given, list) or not all(type(label) is int for label in given):
        raise DataError(
            f"'labels' in {where} is not a list of whole numbers but {type(given).__name__}; "
            f"expected {RECORDS_PER_FILE:,} labels from 0 to 9"
        )
    if len(given) != RECORDS_PER_FILE:
        raise DataError(f"{where} has {len(given):,} labels; expected {RECORDS_PER_FILE:,}")
    # Checked before the narrowing to uint8, which has no room for other numbers.
    _check_labels(given, where)
    return np.array(given, np.uint8), pixels


def _binary_images(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and planes in a binary-layout file."""
    size, record = len(content), 1 + PIXELS
    if size != RECORDS_PER_FILE * record:
        whole, rest = divmod(size, record)
        raise DataError(
            f"{where} has {size:,} bytes, which is {whole:,} records and {rest:,} bytes"
            f"{_looks_like(content)}; expected {RECORDS_PER_FILE * record:,} bytes, "
            f"{RECORDS_PER_FILE:,} records of {record:,}"
        )
    records = np.frombuffer(content, np.uint8).reshape(RECORDS_PER_FILE, record)
    _check_labels(records[:, 0].tolist(), where, _looks_like(content))
    return records[:, 0], records[:, 1:]


def _check_labels(labels: list[int], where: str, looks: str = "") -> None:
    """Refuse labels that name no class."""
    for place, label in enumerate(labels):
        if not 0 <= label < len(CLASS_NAMES):
            raise DataError(
                f"record {place:,} of {where} has label {label}{looks}; expected 0 to 9"
            )


def _check_names(layout: str, content: bytes, where: str) -> None:
    """Refuse a list of class names that is not CIFAR-10's."""
    if layout == "binary":
        found = content.decode("utf-8", errors="replace").split()
    else:
        listed = _unpickle(content, where).get("label_names")
        names = listed if isinstance(listed, list) else []
        found = [
            name.decode(errors="replace") if isinstance(name, bytes) else str(name)
            for name in names
        ]
    if found != list(CLASS_NAMES):
        raise DataError(
            f"{where} names the classes {', '.join(found)[:200]}; expected "
            f"{', '.join(CLASS_NAMES)}: this is not CIFAR-10, or the file is damaged"
        )


def _checked(name: str, layout: str, content: bytes, where: str) -> Batch | None:
    """Check the content of a file.

    Args:
        name: The file's own name.
        layout: ``python`` or ``binary``.
        content: All of it.
        where: What error messages call the file.

    Returns:
        Its images; None for the names of the classes.
    """
    if name == _names_file(layout):
        _check_names(layout, content, where)
        return None
    labels, planes = (_binary_images if layout == "binary" else _python_images)(content, where)
    known = OFFICIAL_MD5.get(name)
    official = bool(known) and hashlib.md5(content, usedforsecurity=False).hexdigest() == known
    return Batch(_batch_names(layout).index(name), layout, labels, planes, official)


# CIFAR-100


def cifar100(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the training images of an official archive of CIFAR-100, in either layout.

    Args:
        archive: A key of ``CIFAR100_MD5`` in any folder.

    Returns:
        uint8 ``(N, 32, 32, 3)`` images and int64 ``(N,)`` fine labels, 0 to 99.

    Raises:
        DataError: It has another checksum, or cannot be read.
    """
    expected = CIFAR100_MD5[archive.name]
    with _reading(archive), archive.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
        if found != expected:
            raise DataError(
                f"{archive} is not the official archive: found md5 {found}, expected {expected}; "
                "remove it and get it again"
            )
        file.seek(0)
        with gzip.open(file) as stream, tarfile.open(fileobj=stream, tarinfo=_Header) as tar:
            for member in tar:
                _check_member(member)
                if PurePosixPath(member.name).name in ("train", "train.bin"):
                    content = _content(tar, member)
                    break
            else:
                raise DataError(f"{archive} lacks the file train; remove it and get it again")
    where = f"train in {archive}"
    if member.name.endswith(".bin"):
        records = np.frombuffer(content, np.uint8).reshape(-1, 2 + PIXELS)  # coarse, fine, planes
        labels, planes = records[:, 1], records[:, 2:]
    else:
        batch = _unpickle(content, where, _CIFAR100_OPCODES)
        labels = np.array(batch["fine_labels"])
        planes = _array(batch["data"], where, len(labels))
    images = planes.reshape(-1, 3, *IMAGE_SHAPE[:2]).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int64)
