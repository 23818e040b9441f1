"""Small files of random images in the official formats, in a folder or packed."""

import gzip
import hashlib
import json
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cifar_utils import archives

RECORDS = 20
NAMES = list(archives.OFFICIAL_MD5)


def some_records(seed: int = 0, count: int = RECORDS) -> np.ndarray:
    """Six files' worth of records: every class equally often in each, in a shuffled order."""
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (6, count, 3073), np.uint8)
    records[:, :, 0] = rng.permuted(np.tile(np.arange(count) % 10, (6, 1)), axis=1)
    return records


def batch(part: np.ndarray) -> dict[bytes, object]:
    """The dictionary that a file of the python version holds."""
    return {b"data": part[:, 1:].copy(), b"labels": part[:, 0].tolist(), b"batch_label": b"one"}


def binary_files(records: np.ndarray) -> dict[str, bytes]:
    """The files of the binary version by name."""
    files = {f"{name}.bin": part.tobytes() for name, part in zip(NAMES, records, strict=True)}
    return files | {"batches.meta.txt": ("\n".join(archives.CLASS_NAMES) + "\n\n").encode()}


def python_files(records: np.ndarray, protocol: int = 2) -> dict[str, bytes]:
    """The files of the python version by name."""
    files = {
        name: pickle.dumps(batch(part), protocol) for name, part in zip(NAMES, records, strict=True)
    }
    names = {b"label_names": [name.encode() for name in archives.CLASS_NAMES]}
    return files | {"batches.meta": pickle.dumps(names, protocol)}


FILES = {"binary": binary_files, "python": python_files}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive, with any fields of its header set."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header, content


def members(layout: str, records: np.ndarray, folder: str | None = None) -> list:
    """The members of an official archive, in the official folder or another one."""
    folder = archives.FOLDERS[layout] if folder is None else folder
    files = FILES[layout](records)
    return [member(f"{folder}/{name}".lstrip("/"), files[name]) for name in files]


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """The bytes of an archive before compression; its headers may lie about the contents."""
    parts = [part for header, content in members for part in (header.tobuf(), _padded(content))]
    return b"".join([*parts, bytes(2 * tarfile.BLOCKSIZE)])


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def pack(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """Write an archive of members and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(tar(members), compresslevel=1))
    return path


def cifar100_records(count: int) -> np.ndarray:
    """The records of CIFAR-100's binary version: coarse label, fine label, planes."""
    records = np.random.default_rng(7).integers(0, 256, (count, 3074), np.uint8)
    records[:, 1] = np.arange(count) % 100
    return records


def cifar100(path: Path, count: int = RECORDS) -> Path:
    """Write a small archive of CIFAR-100 in the layout of its name."""
    layout, records = path.name.split("-")[2].partition(".")[0], cifar100_records(count)
    if layout == "binary":
        return pack(path, [member("cifar-100-binary/train.bin", records.tobytes())])
    batch = {
        b"filenames": [b"aeroplane_s_000021.png"] * count,
        b"fine_labels": records[:, 1].tolist(),
        b"coarse_labels": records[:, 0].tolist(),
        b"data": records[:, 2:].copy(),
    }
    meta = member("cifar-100-python/meta", pickle.dumps({}, 2))
    return pack(path, [meta, member("cifar-100-python/train", pickle.dumps(batch, 2))])


def list_source(path: Path, url: str, monkeypatch, archive: Path | None = None) -> None:
    """Let CIFAR_UTILS_MIRRORS name a file with the URL of one archive and nothing else."""
    content = archive.read_bytes() if archive else b""
    name = url.rpartition("/")[2] or archives.ARCHIVES["python"]
    fields = {
        "name": name,
        "layout": "python",
        "bytes": len(content) or 1,
        "sha256": hashlib.sha256(content).hexdigest(),
        "urls": [url],
    }
    lines = [f"{field} = {json.dumps(value)}\n" for field, value in fields.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[[archive]]\n" + "".join(lines))
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(path))
