"""Measure loading CIFAR-10 from its archive, beside `keras.datasets.cifar10.load_data()`.

usage: python benchmarks/data_loading.py PATH

PATH is an archive or an unpacked one; its images are packed as in the official python archive, and
both sides read that. Every figure is from a new process, the sides taking turns. Ours begins with
an empty cache; Keras begins with the archive where its download would have put it, and runs its own
code (hashing, unpacking to disk, reading) with only its hard-coded checksum replaced.

The two do not give the same: ours has also split, fingerprinted and cached the images after its
first load, and a later load maps them, so that they are read when they are used. Times leave out
starting Python and importing. Memory is the peak resident size above that just before the load: for
ours over the interpreter with `cifar_utils.data`, for Keras over the much larger one after `import
keras`. It is read from /proc, so this needs Linux.
"""

import argparse
import io
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifar_utils import archives, download, runtime

REPETITIONS = 5

MEASURE = """
import sys, time
def resident(field):
    return int(open("/proc/self/status").read().partition(field)[2].split()[0]) / 1e3
def measure(load):
    open("/proc/self/clear_refs", "w").write("5")  # forgets the peak that importing may have had
    before, start = resident("VmRSS:"), time.perf_counter()
    kept = load()
    print(time.perf_counter() - start, resident("VmHWM:") - before)
"""

OURS = """
from cifar_utils import data
measure(lambda: data.load(sys.argv[1]))
"""

KERAS = """
import keras
from keras.src.datasets import cifar10
def get_file(fname, origin, extract, file_hash):
    return keras.utils.get_file(fname, "file:///none", extract=extract, file_hash=sys.argv[1])
cifar10.get_file = get_file
measure(keras.datasets.cifar10.load_data)
"""


def pack(given: str, archive: Path) -> None:
    """Write the images of ``given`` as the official python archive has them."""
    source = archives.find(given)
    names = list(archives.OFFICIAL_MD5)
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for place, path in enumerate(source.files):
            batch = archives.read_file(path, source.layout)
            fields = {b"data": np.ascontiguousarray(batch.planes), b"labels": batch.labels.tolist()}
            content = pickle.dumps(fields, protocol=4)
            member = tarfile.TarInfo(f"{archives.FOLDERS['python']}/{names[place]}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def measure(code: str, argument: str, **environment: str) -> tuple[float, float]:
    """Return the seconds and the megabytes of one load in a new process."""
    command = [sys.executable, "-c", MEASURE + code, argument]
    settings = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    output = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=True)
    seconds, megabytes = map(float, output.stdout.splitlines()[-1].split())
    return seconds, megabytes


def ours(archive: Path, folder: Path) -> list[tuple[float, float]]:
    """Measure our first load, which fills the cache in ``folder``, and the next one."""
    return [measure(OURS, str(archive), CIFAR_UTILS_DATA_DIR=str(folder)) for _ in range(2)]


def keras(archive: Path, folder: Path) -> list[tuple[float, float]]:
    """Measure the first load of Keras with its home in ``folder``, and the next one."""
    (folder / "datasets").mkdir()
    shutil.copyfile(archive, folder / "datasets" / "cifar-10-batches-py-target_archive")
    sha256 = download.sha256(archive)
    return [measure(KERAS, sha256, KERAS_HOME=str(folder)) for _ in range(2)]


def row(what: str, pick: Callable[[list[tuple[float, float]]], float], sides: list[list]) -> str:
    """Return a line of the table: medians with the range, and how many times ours Keras needs."""
    mine, other = ([pick(figures) for figures in side] for side in sides)
    cells = [
        f"{statistics.median(values):,.2f} ({min(values):,.2f} to {max(values):,.2f})"
        for values in (mine, other)
    ]
    ratio = statistics.median(other) / statistics.median(mine)
    return f"| {what} | {cells[0]} | {cells[1]} | {ratio:,.1f} x |"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="an archive, or the folder of an unpacked one")
    given = parser.parse_args().path
    sides: list[list] = [[], []]
    with tempfile.TemporaryDirectory() as home:
        archive = Path(home) / archives.ARCHIVES["python"]
        pack(given, archive)
        for _ in range(REPETITIONS):
            for side, load in zip(sides, (ours, keras), strict=True):
                with tempfile.TemporaryDirectory() as folder:
                    side.append(load(archive, Path(folder)))
    print(f"{runtime.hardware()}; {REPETITIONS} repetitions; files may be in the system's cache\n")
    print(
        "| what, median (least to most) | cifar_utils | Keras | Keras / ours |\n|---|---|---|---|"
    )
    print(row("first load, s", lambda figures: figures[0][0], sides))
    print(row("every later load, ms", lambda figures: 1e3 * figures[1][0], sides))
    print(row("peak memory of the first load, MB", lambda figures: figures[0][1], sides))
    print(row("peak memory of a later load, MB", lambda figures: figures[1][1], sides))


if __name__ == "__main__":
    main()
