"""The images: two doors (an unpacked official archive, the synthetic set) and one result.

Whatever the source, images are uint8 ``(N, 32, 32, 3)`` RGB and labels int64 ``(N,)``, read once,
checked, split, and cached as memory-mapped ``.npy`` with a record of where they came from.
"""

import dataclasses
import hashlib
import io
import json
import pickle
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cifar_utils import paths, runs, synthetic
from cifar_utils.errors import DataError, nearest
from cifar_utils.profiles import PROFILES, Profile

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
SPLIT_SEED = 10
SYNTHETIC_SEED = 0
CACHE_VERSION = 1

FOLDERS = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}
"""What the official archives unpack to, by layout."""

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

SYNTHETIC_NOTICE = (
    "Note: no CIFAR-10 images in the data folder, so this uses the synthetic set (drawn pictures)"
)

_UNPACK_AGAIN = "unpack the official archive again"

# All that a pickled array needs, and nothing that can run code.
_PICKLE_GLOBALS = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
}


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split with their labels.

    Attributes:
        images: uint8 ``(N, 32, 32, 3)`` RGB, memory-mapped and read-only where ``load`` made it;
            notebook 04 puts features ``(N, ...)`` here instead.
        labels: int64 ``(N,)``, 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> "Split":
        """Return the first ``count`` images without copying them; all of them for None."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Provenance:
    """Where the images came from, and what exactly they are.

    Attributes:
        kind: ``official`` only where known checksums prove it, else ``modified``; ``synthetic``.
        source: Folder the files were read from, or ``synthetic``.
        fingerprint: SHA-256 of labels and pixels in the order of the official files, each record
            as the binary layout has it. It depends on nothing else: both layouts of the same
            images share it, and for the binary one ``cat data_batch_?.bin test_batch.bin |
            sha256sum`` prints it.
        layout: ``python``, ``binary`` or ``synthetic``.
        counts: Images of each split in the whole set, before a profile limits them.
        created: When the files were read, ISO 8601 in UTC.
    """

    kind: str
    source: str
    fingerprint: str
    layout: str
    counts: dict[str, int]
    created: str

    def record(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, for a run's manifest."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three splits and where they came from.

    Attributes:
        train: For fitting.
        validation: For every choice between models.
        test: For notebook 06 and benchmarks, nowhere else.
        provenance: Source, fingerprint, official or not.
        cache: Folder of the memory-mapped arrays, None for a set made in memory.
    """

    train: Split
    validation: Split
    test: Split
    provenance: Provenance
    cache: Path | None = None

    def splits(self) -> dict[str, Split]:
        """Return the splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def limit(self, profile: Profile) -> "Dataset":
        """Return the data set with at most the profile's number of images in each split."""
        return dataclasses.replace(
            self,
            train=self.train.first(profile.train_images),
            validation=self.validation.first(profile.validation_images),
            test=self.test.first(profile.test_images),
        )


@dataclass(frozen=True)
class _Source:
    """An unpacked archive."""

    folder: Path
    layout: str

    @property
    def files(self) -> list[Path]:
        """The five training files and the test file, in that order."""
        suffix = ".bin" if self.layout == "binary" else ""
        return [self.folder / f"{name}{suffix}" for name in OFFICIAL_MD5]

    @property
    def names_file(self) -> Path:
        """The file with the names of the classes, which may be missing."""
        return self.folder / ("batches.meta.txt" if self.layout == "binary" else "batches.meta")


def load(source: str | Path = "auto", profile: Profile | None = None) -> Dataset:
    """Load the images with their fixed split (notebook 01 introduces it).

    Train and validation (45,000 and 5,000 images) are stratified and their order cycles through
    the classes, so the first n images are balanced for any n. Test keeps the order of its file.

    Args:
        source: A folder with the unpacked official archive (python or binary version) or the
            folder above it; ``synthetic``; or ``auto``: the unpacked archive in the data folder,
            else, with the smoke profile only, the synthetic set, and a printed line says so.
        profile: Limits each split to the profile's numbers, None for every image. It also sets the
            size of the synthetic set (None: that of smoke).

    Returns:
        The data set, memory-mapped from the cache under ``paths.data_dir()``.

    Raises:
        DataError: The images are missing, damaged or not CIFAR-10, or the cache cannot be written;
            the message names the file, what was found, what was expected and what to do.
    """
    if source == "auto":
        folder = _installed()
        if folder is None and (profile is None or profile.name != "smoke"):
            raise DataError(_nothing_in(paths.data_dir()))
        if folder is None:
            print(SYNTHETIC_NOTICE + _unpack_first(paths.data_dir()))
        source = folder or "synthetic"
    if source == "synthetic":
        counts = (profile or PROFILES["smoke"]).synthetic_images
        dataset = _load_synthetic(counts)
    else:
        dataset = _load_files(_find(source))
    return dataset.limit(profile) if profile else dataset


def names(labels: np.ndarray) -> list[str]:
    """Return the class name of each of the labels ``(N,)``."""
    return [CLASS_NAMES[label] for label in labels]


def class_counts(dataset: Dataset) -> dict[str, np.ndarray]:
    """Count the images of each class (notebook 01 introduces it).

    Returns:
        For ``train``, ``validation`` and ``test``: int64 ``(10,)``.
    """
    splits = dataset.splits()
    return {
        name: np.bincount(split.labels, minlength=len(CLASS_NAMES))
        for name, split in splits.items()
    }


def pixel_histogram(images: np.ndarray) -> np.ndarray:
    """Count how often each intensity occurs in each channel (notebook 01 introduces it).

    Args:
        images: uint8 ``(N, height, width, 3)``.

    Returns:
        int64 ``(3, 256)``, in the order red, green, blue.
    """
    histogram = np.zeros((3, 256), np.int64)
    # bincount widens its input to int64: in pieces, that costs 8 MB instead of 8 times the images.
    for start in range(0, len(images), 1000):
        for channel in range(3):
            values = images[start : start + 1000, ..., channel].ravel()
            histogram[channel] += np.bincount(values, minlength=256)
    return histogram


def pixel_statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mean and standard deviation of each channel over all pixels, exactly.

    Notebook 01 introduces it.

    Args:
        images: uint8 ``(N, height, width, 3)``, at least one.

    Returns:
        float64 ``(3,)`` each, red, green, blue: ``mean`` and ``std`` in intensities 0 to 255,
        ``unit_mean`` and ``unit_std`` with intensities divided by 255.
    """
    histogram = pixel_histogram(images)
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    intensities = np.arange(256)
    mean = shares @ intensities
    std = np.sqrt((shares * (intensities - mean[:, None]) ** 2).sum(axis=1))
    return {"mean": mean, "std": std, "unit_mean": mean / 255, "unit_std": std / 255}


def sample(split: Split, count: int = 25, seed: int = 0) -> Split:
    """Draw ``count`` different images at random, by default a 5 x 5 grid's worth.

    For as many of every class, ``split.first(10 * rows)`` is the simpler way: train and validation
    cycle through the classes. Notebook 01 introduces it.
    """
    chosen = np.random.default_rng(seed).permutation(len(split))[:count]
    return Split(np.asarray(split.images[chosen]), np.asarray(split.labels[chosen]))


def describe(dataset: Dataset) -> list[tuple[str, str]]:
    """Return what there is to say about a data set as pairs of label and value, ready to print."""
    provenance = dataset.provenance
    meaning = {
        "official": "official (every file has its known checksum)",
        "modified": "modified (no known checksum proves that these are the official files)",
        "synthetic": "synthetic (drawn pictures, not CIFAR-10)",
    }
    total = sum(provenance.counts.values())
    counts = ", ".join(f"{count:,} {name}" for name, count in provenance.counts.items())
    height, width, channels = IMAGE_SHAPE
    lines = [
        ("source", provenance.source),
        ("layout", provenance.layout),
        ("data", meaning[provenance.kind]),
        ("images", f"{total:,}: {counts}"),
        ("size", f"{height} x {width} x {channels} uint8, {total * PIXELS / 1e6:,.1f} MB in all"),
        ("fingerprint", f"sha256 {provenance.fingerprint}"),
        ("read", provenance.created),
    ]
    return [*lines, ("cache", str(dataset.cache))] if dataset.cache else lines


# Finding the files


def _installed() -> Path | None:
    """Return the unpacked archive in the data folder; of two the one that can prove official."""
    home = paths.data_dir()
    folders = [home / name for name in FOLDERS.values()]
    loose = [home for layout in FOLDERS if _Source(home, layout).files[0].exists()]
    return next((folder for folder in [*folders, *loose] if folder.is_dir()), None)


def _find(given: str | Path) -> _Source:
    """Return the unpacked archive in the given folder or one level below it."""
    folder = Path(given).expanduser().resolve()
    with _reading(folder):
        exists, is_folder = folder.exists(), folder.is_dir()
    if not exists:
        hint = nearest(str(given), ["auto", "synthetic"]) if str(given) == Path(given).name else ""
        raise DataError(
            f"there is no folder {folder}{hint}; expected one with an unpacked CIFAR-10 archive; "
            "check its name"
        )
    if not is_folder:
        advice = _unpack(folder) or "; name the folder it is in"
        raise DataError(f"{folder} is a file; expected an unpacked CIFAR-10 archive{advice}")
    for candidates in (
        [_Source(folder, layout) for layout in FOLDERS],
        [_Source(folder / name, layout) for layout, name in FOLDERS.items()],
    ):
        found = [source for source in candidates if any(path.exists() for path in source.files)]
        if len(found) > 1:
            places = " and ".join(str(source.files[0]) for source in found)
            raise DataError(
                f"{folder} holds both versions of CIFAR-10, {places}; expected one; name the "
                "folder of the one you want, or remove the other"
            )
        if found:
            return found[0]
    raise DataError(_nothing_in(folder))


def _unpack(archive: Path) -> str:
    """Return the advice to unpack ``archive``, empty if it is not one."""
    if not archive.name.endswith((".tar.gz", ".tgz")):
        return ""
    command = shlex.join(["tar", "-xzf", str(archive), "-C", str(archive.parent)])
    return f"; unpack {archive.name} first: {command}"


def _unpack_first(folder: Path) -> str:
    """Return the advice to unpack the archive in ``folder``, empty if there is none."""
    archives = sorted(folder.glob("cifar-10*gz"))
    return _unpack(archives[0]) if archives else ""


def _nothing_in(folder: Path) -> str:
    """Return the message for a folder without images."""
    advice = _unpack_first(folder) or f"; unpack cifar-10-python.tar.gz into {folder}"
    return (
        f"no CIFAR-10 images in {folder}; expected {FOLDERS['python']} or {FOLDERS['binary']}, or "
        f"the files data_batch_1 to data_batch_5 and test_batch (binary version: .bin){advice}; "
        "or name another folder, or use the drawn pictures: --data DIR or --data synthetic, in a "
        'notebook DATA = "DIR" or DATA = "synthetic", with PROFILE = "smoke" for a first look'
    )


# Reading the files


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


class _ArrayUnpickler(pickle.Unpickler):
    """Loads plain values and NumPy arrays; any other global in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed global; NumPy 1 wrote ``numpy.core`` where NumPy 2 has ``_core``."""
        current = module.replace("numpy.core.", "numpy._core.")
        if (current, name) not in _PICKLE_GLOBALS:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no CIFAR-10 file needs; do not trust it"
            )
        return super().find_class(current, name)


def _unpickle(path: Path, content: bytes) -> dict[str, Any]:
    """Return the pickled dictionary in ``content`` with text keys."""
    try:
        value = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        # Python 2 wrote the keys of the official files as bytes; Python 3 writes text.
        return {key.decode() if isinstance(key, bytes) else key: value[key] for key in value}
    except Exception as error:  # a damaged pickle can raise anything
        looks = "" if content.startswith(b"\x80") else _looks_like(content)
        raise DataError(
            f"{path} is not a whole file of the python version{looks}: "
            f"{error or type(error).__name__}; {_UNPACK_AGAIN}"
        ) from error


def _python_records(path: Path, content: bytes) -> np.ndarray:
    """Return the images of a python-layout file as records of the binary layout."""
    batch = _unpickle(path, content)
    pixels, given = batch.get("data"), batch.get("labels")
    shape = (RECORDS_PER_FILE, PIXELS)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != shape:
        found = (
            f"{pixels.dtype} {pixels.shape}"
            if isinstance(pixels, np.ndarray)
            else type(pixels).__name__
        )
        raise DataError(f"'data' in {path} is {found}; expected uint8 {shape}; {_UNPACK_AGAIN}")
    if not isinstance(given, list) or not all(type(label) is int for label in given):
        raise DataError(
            f"'labels' in {path} is not a list of whole numbers but {type(given).__name__}; "
            f"expected {RECORDS_PER_FILE:,} labels from 0 to 9; {_UNPACK_AGAIN}"
        )
    if len(given) != RECORDS_PER_FILE:
        raise DataError(
            f"{path} has {len(given):,} labels; expected {RECORDS_PER_FILE:,}; {_UNPACK_AGAIN}"
        )
    # Checked before the narrowing to uint8, which has no room for other numbers.
    _check_labels(path, given)
    return np.column_stack([np.array(given, np.uint8), pixels])


def _binary_records(path: Path, content: bytes) -> np.ndarray:
    """Return the records of a binary-layout file."""
    size, record = len(content), 1 + PIXELS
    if size != RECORDS_PER_FILE * record:
        whole, rest = divmod(size, record)
        raise DataError(
            f"{path} has {size:,} bytes, which is {whole:,} records and {rest:,} bytes"
            f"{_looks_like(content)}; expected {RECORDS_PER_FILE * record:,} bytes, "
            f"{RECORDS_PER_FILE:,} records of {record:,}; {_UNPACK_AGAIN}"
        )
    records = np.frombuffer(content, np.uint8).reshape(RECORDS_PER_FILE, record)
    _check_labels(path, records[:, 0].tolist(), _looks_like(content))
    return records


def _check_labels(path: Path, labels: list[int], looks: str = "") -> None:
    """Refuse labels that name no class."""
    for place, label in enumerate(labels):
        if not 0 <= label < len(CLASS_NAMES):
            raise DataError(
                f"record {place:,} of {path} has label {label}{looks}; expected 0 to 9; "
                f"{_UNPACK_AGAIN}"
            )


def _read(source: _Source, path: Path) -> tuple[np.ndarray, bool]:
    """Read one file.

    Returns:
        uint8 ``(N, 3073)``, each row a label and the red, green and blue planes; and whether the
        file has the checksum of the official one.
    """
    with _reading(path):
        content = path.read_bytes()
    known = OFFICIAL_MD5.get(path.name)
    official = bool(known) and hashlib.md5(content, usedforsecurity=False).hexdigest() == known
    records = _binary_records if source.layout == "binary" else _python_records
    return records(path, content), official


def _check_names(source: _Source) -> None:
    """Refuse a folder whose own list of class names is not CIFAR-10's."""
    path = source.names_file
    if not path.exists():
        return
    with _reading(path):
        content = path.read_bytes()
    if source.layout == "binary":
        found = content.decode("utf-8", errors="replace").split()
    else:
        listed = _unpickle(path, content).get("label_names") or []
        found = [name.decode() if isinstance(name, bytes) else str(name) for name in listed]
    if found != list(CLASS_NAMES):
        raise DataError(
            f"{path} names the classes {', '.join(found)[:200]}; expected "
            f"{', '.join(CLASS_NAMES)}: this is not CIFAR-10, or the file is damaged; "
            f"{_UNPACK_AGAIN}"
        )


# Splitting


def _interleaved(labels: np.ndarray) -> np.ndarray:
    """Return a fixed shuffle that cycles through the classes.

    Any run of consecutive places holds every class in proportion, so cutting the order in pieces
    splits the images in a stratified way, and every prefix of a piece is balanced too.

    Args:
        labels: Integers ``(N,)``.

    Returns:
        int64 ``(N,)``, the places of the images in their new order.
    """
    # The raw stream of a bit generator is the same in every version of NumPy; that of
    # Generator.permutation is not promised to be.
    shuffled = np.argsort(np.random.PCG64(SPLIT_SEED).random_raw(len(labels)), kind="stable")
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    progress = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return by_class[np.argsort(progress, kind="stable")]


# Caching


def _cached(key: tuple[Any, ...], layout: str, build: Callable[[Path], None]) -> Dataset:
    """Open a cached data set; if there is none or it is damaged, build it first."""
    identity = repr((CACHE_VERSION, SPLIT_SEED, *key)).encode()
    root = paths.data_dir() / "cache"
    folder = root / f"{layout}-{hashlib.sha256(identity).hexdigest()[:16]}"
    dataset = _open(folder)
    if dataset is not None:
        return dataset
    failure: OSError | None = None
    try:
        _sweep(root)
        with paths.atomic(folder) as partial:
            partial.mkdir()
            build(partial)
            # A folder cannot replace one that has files in it. A damaged one moves out of the way,
            # a good one another process has just made stays, and the renaming fails.
            if _open(folder) is None:
                with suppress(FileNotFoundError):
                    folder.rename(partial.with_name("damaged"))
    except OSError as error:
        failure = error
    dataset = _open(folder)
    if dataset is None:
        raise DataError(
            f"cannot write the image cache {folder}: {failure or 'it vanished'}; it needs a folder "
            "that can be written, with 200 MB free: set CIFAR_UTILS_DATA_DIR to one"
        ) from failure
    return dataset


def _sweep(root: Path) -> None:
    """Remove what killed processes left; building takes seconds, so an hour old means dead."""
    for partial in root.glob(".*"):
        with suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > 3600:
                shutil.rmtree(partial, ignore_errors=True)


def _open(folder: Path) -> Dataset | None:
    """Map the cached arrays; None if they are missing or damaged."""
    try:
        record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        provenance = Provenance(**record)
        total = sum(provenance.counts.values())
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy", mmap_mode="r")
        end = provenance.counts["train"]
        middle = end + provenance.counts["validation"]
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if (images.dtype, images.shape) != (np.uint8, (total, *IMAGE_SHAPE)):
        return None
    if (labels.dtype, labels.shape) != (np.int64, (total,)):
        return None
    if labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        return None
    parts = (slice(end), slice(end, middle), slice(middle, total))
    train, validation, test = (Split(images[part], labels[part]) for part in parts)
    return Dataset(train, validation, test, provenance, folder)


def _fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 of the images as records of the binary layout."""
    digest = hashlib.sha256()
    for start in range(0, len(labels), 1000):
        part = slice(start, start + 1000)
        planes = images[part].transpose(0, 3, 1, 2).reshape(-1, PIXELS)
        digest.update(np.column_stack([labels[part].astype(np.uint8), planes]).data)
    return digest.hexdigest()


def _write(
    folder: Path, images: np.ndarray, labels: np.ndarray, order: np.ndarray, provenance: Provenance
) -> None:
    """Write a data set into ``folder``, its images in the given order."""
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
        np.lib.format.write_array_header_1_0(file, header)
        # In pieces, because a reordered copy of everything would double the memory; not through a
        # memory map, because a full disk would then kill the process instead of raising.
        for start in range(0, len(order), 1000):
            file.write(images[order[start : start + 1000]].data)
    np.save(folder / "labels.npy", labels[order].astype(np.int64))
    runs.write_json(folder / "provenance.json", provenance)


def _load_files(source: _Source) -> Dataset:
    """Load an unpacked archive."""
    identity = []
    for path in source.files:
        with _reading(path):
            status = path.stat()
        identity.append((path.name, status.st_size, status.st_mtime_ns))
    key = (str(source.folder), *identity)
    return _cached(key, source.layout, lambda folder: _build_files(source, folder))


def _build_files(source: _Source, folder: Path) -> None:
    """Check, split and write the images of an unpacked archive into ``folder``."""
    _check_names(source)
    total = RECORDS_PER_FILE * len(source.files)
    images, labels = np.empty((total, *IMAGE_SHAPE), np.uint8), np.empty(total, np.int64)
    official = True
    for index, path in enumerate(source.files):
        records, known = _read(source, path)
        part = slice(index * RECORDS_PER_FILE, (index + 1) * RECORDS_PER_FILE)
        images[part] = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels[part] = records[:, 0]
        official &= known
    test = RECORDS_PER_FILE
    validation = (total - test) // 10
    order = np.arange(total)
    order[:-test] = _interleaved(labels[:-test])
    provenance = Provenance(
        kind="official" if official else "modified",
        source=str(source.folder),
        fingerprint=_fingerprint(images, labels),
        layout=source.layout,
        counts={"train": total - test - validation, "validation": validation, "test": test},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(folder, images, labels, order, provenance)


def _load_synthetic(counts: tuple[int, int, int]) -> Dataset:
    """Load the synthetic set with so many images for train, validation and test."""
    key = (synthetic.VERSION, counts, SYNTHETIC_SEED)
    return _cached(key, "synthetic", lambda folder: _build_synthetic(counts, folder))


def _build_synthetic(counts: tuple[int, int, int], folder: Path) -> None:
    """Draw, split and write the synthetic set into ``folder``."""
    images, labels = synthetic.generate(sum(counts), seed=SYNTHETIC_SEED)
    provenance = Provenance(
        kind="synthetic",
        source="synthetic",
        fingerprint=_fingerprint(images, labels),
        layout="synthetic",
        counts=dict(zip(("train", "validation", "test"), counts, strict=True)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(folder, images, labels, _interleaved(labels), provenance)
