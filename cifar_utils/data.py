"""The images: three doors (an official archive, an unpacked one, the synthetic set), one result.

Whatever the source, images are uint8 ``(N, 32, 32, 3)`` RGB and labels int64 ``(N,)``, read once,
checked, split, and cached as memory-mapped ``.npy`` with a record of where they came from.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_utils import archives, download, paths, planted, runs, sources, synthetic
from cifar_utils.archives import CLASS_NAMES, IMAGE_SHAPE, PIXELS
from cifar_utils.errors import DataError, ParameterError
from cifar_utils.profiles import PROFILES, Profile

if TYPE_CHECKING:
    import pandas as pd

SPLIT_SEED = 10
SYNTHETIC_SEED = 0
CACHE_VERSION = 2

SYNTHETIC_NOTICE = (
    "Note: no CIFAR-10 images in the data folder, so this uses the synthetic set (drawn pictures); "
    "get the images with: cifar data fetch"
)


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split with their labels.

    Attributes:
        images: uint8 ``(N, 32, 32, 3)`` RGB, memory-mapped and read-only where ``load`` made it;
            notebook 04 puts features ``(N, ...)`` here instead.
        labels: int64 ``(N,)``, 0 to 9; notebook 08 puts soft labels, float ``(N, 10)``, here
            instead.
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
        kind: ``official`` only where the known checksum of the archive, or those of all six files
            of the python version, prove it, else ``modified``; ``synthetic``.
        source: Folder or archive the files were read from, or ``synthetic``.
        fingerprint: SHA-256 of labels and pixels in the order of the official files, each record
            as the binary layout has it. It depends on nothing else: both layouts of the same
            images share it, and for the binary one ``cat data_batch_?.bin test_batch.bin |
            sha256sum`` prints it.
        layout: ``python``, ``binary`` or ``synthetic``.
        counts: Images of each split in the whole set, before a profile limits them.
        created: When the files were read, ISO 8601 in UTC.
        archive_sha256: SHA-256 of the archive they were read from, None where it was unpacked.
        downloaded_from: Bytes of that archive by the URL that sent them, None where it was not
            ``cifar data fetch`` that got it.
    """

    kind: str
    source: str
    fingerprint: str
    layout: str
    counts: dict[str, int]
    created: str
    archive_sha256: str | None = None
    downloaded_from: dict[str, int] | None = None

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
class Check:
    """What ``verify`` found out about one file.

    Attributes:
        path: The file.
        bytes: Its size, 0 if it is missing.
        state: ``ok`` where a known checksum proves it; ``modified`` where it can be used but there
            is none; ``DAMAGED``.
        note: Why, and what to do.
    """

    path: Path
    bytes: int
    state: str
    note: str


def load(source: str | Path = "auto", profile: Profile | None = None) -> Dataset:
    """Load the images with their fixed split (notebook 01 introduces it).

    Train and validation (45,000 and 5,000 images) are stratified and their order cycles through
    the classes, so the first n images are balanced for any n. Test keeps the order of its file.

    Args:
        source: An official archive (python or binary version), the folder it was unpacked to or the
            one above; ``synthetic``; or ``auto``: what is in the data folder, else the archive is
            downloaded there. Only with the smoke profile ``auto`` downloads nothing: without images
            it takes the synthetic set, and a printed line says so.
        profile: Limits each split to the profile's numbers, None for every image. It also sets the
            size of the synthetic set (None: that of smoke).

    Returns:
        The data set, memory-mapped from the cache under ``paths.data_dir()``.

    Raises:
        DataError: The images are missing, damaged or not CIFAR-10, or the cache cannot be written;
            the message names the file, what was found, what was expected and what to do.
    """
    if source == "auto":
        source = _installed() or _fallback(profile)
    if source == "synthetic":
        counts = (profile or PROFILES["smoke"]).synthetic_images
        dataset = _load_synthetic(counts)
    else:
        dataset = _load_files(archives.find(source))
    return dataset.limit(profile) if profile else dataset


def locate(source: str | Path = "auto") -> str | Path:
    """Return what ``auto`` stands for where nothing may be downloaded, any other source as it is.

    Raises:
        DataError: The data folder holds no images; the message says how to get them.
    """
    found = _installed() if source == "auto" else source
    if found is None:
        raise DataError(archives.nothing_in(paths.data_dir()))
    return found


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


def planted_faults(dataset: Dataset) -> "dict[str, pd.DataFrame]":
    """Return the faults that were planted in the synthetic set (notebook 01 introduces it).

    Returns:
        The tables of ``planted.Planted.tables``; none for any other data set.
    """
    import pandas as pd

    if dataset.cache is None or dataset.provenance.kind != "synthetic":
        return {}
    return {name: pd.read_csv(dataset.cache / f"planted_{name}.csv") for name in planted.TABLES}


def describe(dataset: Dataset) -> list[tuple[str, str]]:
    """Return what there is to say about a data set as pairs of label and value, ready to print."""
    provenance = dataset.provenance
    meaning = {
        "official": "official (known checksums prove it)",
        "modified": "modified (no known checksum proves that these are the official files)",
        "synthetic": "synthetic (drawn pictures, not CIFAR-10)",
    }
    total = sum(provenance.counts.values())
    counts = ", ".join(f"{count:,} {name}" for name, count in provenance.counts.items())
    height, width, channels = IMAGE_SHAPE
    lines = [
        ("source", provenance.source + _on_disk(provenance.source)),
        ("layout", provenance.layout),
        ("data", meaning[provenance.kind]),
        ("images", f"{total:,}: {counts}"),
        ("size", f"{height} x {width} x {channels} uint8, {total * PIXELS / 1e6:,.1f} MB in all"),
        ("fingerprint", f"sha256 {provenance.fingerprint}"),
        ("read", provenance.created),
    ]
    if provenance.archive_sha256:
        lines.append(("archive", f"sha256 {provenance.archive_sha256}"))
    for url, count in (provenance.downloaded_from or {}).items():
        lines.append(("downloaded", f"{count / 1e6:,.1f} MB from {url}"))
    if dataset.cache:
        size = sum(path.stat().st_size for path in dataset.cache.iterdir())
        lines.append(("cache", f"{dataset.cache} ({size / 1e6:,.1f} MB on disk)"))
    return lines


def _on_disk(source: str) -> str:
    """Return the size of a source's files, in brackets; empty for the synthetic set."""
    if source == "synthetic":
        return ""
    size = sum(path.stat().st_size for path in archives.find(source).files)
    return f" ({size / 1e6:,.1f} MB on disk)"


# Finding the files


def _installed() -> Path | None:
    """Return what there is in the data folder; of two the one that can prove official."""
    home = paths.data_dir()
    unpacked = [
        *((home / name, layout) for layout, name in archives.FOLDERS.items()),
        *((home, layout) for layout in archives.FOLDERS),
    ]
    for folder, layout in unpacked:
        if archives.Source(folder, layout).exists():
            return folder
    known = [*archives.ARCHIVES.values(), *(archive.name for archive in sources.archives())]
    return next((home / name for name in known if (home / name).is_file()), None)


def _fallback(profile: Profile | None) -> str | Path:
    """Return what ``auto`` takes where there are no images yet."""
    if profile and profile.name == "smoke":
        print(SYNTHETIC_NOTICE)
        return "synthetic"
    return download.fetch()


# Verifying


def verify(source: str | Path = "auto") -> list[Check]:
    """Read every file of a source, and the arrays cached from it, once more and check them.

    Args:
        source: As for ``load``, but nothing is downloaded or drawn.

    Returns:
        The archive or the six files, then the cached files if there are any.

    Raises:
        DataError: There are no images.
        ParameterError: The source is ``synthetic``.
    """
    if source == "synthetic":
        raise ParameterError(
            "the synthetic set has no files to verify; expected auto, an archive or a folder"
        )
    found = archives.find(locate(source))
    if found.layout is None:
        checks = [_check_archive(found)]
    else:
        checks = [_check_file(path, found.layout) for path in found.all_files]
    if all(path.exists() for path in found.files):
        checks += _check_cache(_cache_folder(*_key(found)))
    return checks


def _check_archive(source: archives.Source) -> Check:
    """Compare an archive with the known checksums; without one, read all of it."""
    path = source.path
    size, sha256 = path.stat().st_size, download.sha256(path)
    if sha256 in sources.official():
        return Check(path, size, "ok", "the official archive, by its sha256")
    if sha256 in {archive.sha256 for archive in sources.archives()}:
        return Check(path, size, "ok", "as listed in CIFAR_UTILS_MIRRORS, by its sha256")
    cached = _open(_cache_folder(*_key(source)))
    if cached and cached.provenance.archive_sha256 != sha256:
        advice = "it has changed since it was read; remove it and use: cifar data fetch"
        return Check(path, size, "DAMAGED", advice)
    try:
        for _ in source.batches(hashlib.sha256()):
            pass
    except DataError as error:
        return Check(path, size, "DAMAGED", str(error))
    return Check(path, size, "modified", "no known checksum")


def _check_file(path: Path, layout: str) -> Check:
    """Compare a file of an unpacked archive with its known checksum, if it has one."""
    size = path.stat().st_size if path.exists() else 0
    try:
        batch = archives.read_file(path, layout)
    except DataError as error:
        return Check(path, size, "DAMAGED", str(error))
    if batch is None:
        return Check(path, size, "ok", "names the ten classes")
    if batch.official:
        return Check(path, size, "ok", "the official file, by its md5")
    return Check(path, size, "modified", "no known checksum")


def _check_cache(folder: Path) -> list[Check]:
    """Compare cached files with the checksums written beside them."""
    if not folder.exists():
        return []
    lines = []
    with suppress(OSError, UnicodeDecodeError):
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
    expected = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    checks = []
    for path in (folder / name for name in _CACHED):
        size = path.stat().st_size if path.is_file() else 0
        if size and download.sha256(path) == expected.get(path.name):
            checks.append(Check(path, size, "ok", "as it was written, by its sha256"))
        else:
            advice = (
                f"{path} is not as it was written; remove {folder}, the next load makes it anew"
            )
            checks.append(Check(path, size, "DAMAGED", advice))
    return checks


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


_CACHED = ("images.npy", "labels.npy", "provenance.json")
_SUMS = "SHA256SUMS"


def _cache_folder(key: tuple[Any, ...], layout: str) -> Path:
    """Return the folder in which a data set is cached."""
    identity = repr((CACHE_VERSION, SPLIT_SEED, *key)).encode()
    return paths.data_dir() / "cache" / f"{layout}-{hashlib.sha256(identity).hexdigest()[:16]}"


def _cached(key: tuple[Any, ...], layout: str, build: Callable[[Path], None]) -> Dataset:
    """Open a cached data set; if there is none or it is damaged, build it first."""
    folder = _cache_folder(key, layout)
    dataset = _open(folder)
    if dataset is not None:
        return dataset
    failure: OSError | None = None
    try:
        _sweep(folder.parent)
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
    # In the form that `sha256sum -c` reads.
    sums = [f"{download.sha256(folder / name)}  {name}\n" for name in _CACHED]
    paths.write_text(folder / _SUMS, "".join(sums))


def _key(source: archives.Source) -> tuple[tuple[Any, ...], str]:
    """Return what ``_cached`` knows a source by."""
    return source.identity(), source.layout or "archive"


def _load_files(source: archives.Source) -> Dataset:
    """Load an archive, packed or unpacked."""
    return _cached(*_key(source), lambda folder: _build_files(source, folder))


def _build_files(source: archives.Source, folder: Path) -> None:
    """Check, split and write the images of an archive into ``folder``."""
    test = archives.RECORDS_PER_FILE
    total = test * len(archives.OFFICIAL_MD5)
    images, labels = np.empty((total, *IMAGE_SHAPE), np.uint8), np.empty(total, np.int64)
    digest, official = hashlib.sha256(), True
    for batch in source.batches(digest):
        part = slice(batch.place * test, (batch.place + 1) * test)
        images[part] = batch.planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels[part] = batch.labels
        official &= batch.official
    sha256 = digest.hexdigest() if source.layout is None else None
    official |= sha256 in sources.official()
    receipt = download.receipt(source.path) if sha256 else None
    validation = (total - test) // 10
    order = np.arange(total)
    order[:-test] = _interleaved(labels[:-test])
    provenance = Provenance(
        kind="official" if official else "modified",
        source=str(source.path),
        fingerprint=_fingerprint(images, labels),
        layout=batch.layout,
        counts={"train": total - test - validation, "validation": validation, "test": test},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        archive_sha256=sha256,
        downloaded_from=receipt.sources if receipt and receipt.sha256 == sha256 else None,
    )
    _write(folder, images, labels, order, provenance)


def _load_synthetic(counts: tuple[int, int, int]) -> Dataset:
    """Load the synthetic set with so many images for train, validation and test."""
    key = (synthetic.VERSION, planted.VERSION, counts, SYNTHETIC_SEED)
    return _cached(key, "synthetic", lambda folder: _build_synthetic(counts, folder))


def _build_synthetic(counts: tuple[int, int, int], folder: Path) -> None:
    """Draw, split and write the synthetic set into ``folder``."""
    drawn = synthetic.generate(sum(counts), seed=SYNTHETIC_SEED)
    images, labels, faults = planted.plant(*drawn, seed=SYNTHETIC_SEED)
    order = _interleaved(labels)
    provenance = Provenance(
        kind="synthetic",
        source="synthetic",
        fingerprint=_fingerprint(images, labels),
        layout="synthetic",
        counts=dict(zip(("train", "validation", "test"), counts, strict=True)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    for name, table in faults.tables(order, provenance.counts).items():
        table.to_csv(folder / f"planted_{name}.csv", index=False)
    _write(folder, images, labels, order, provenance)
