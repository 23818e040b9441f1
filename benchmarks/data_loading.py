"""Measure loading CIFAR-10: the first time, from the cache, and the memory it takes.

usage: python benchmarks/data_loading.py FOLDER

FOLDER is an unpacked archive. Each repetition is a new process with a new, empty cache; times leave
out starting Python and importing. Memory is the peak resident size above that of `python -c pass`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from cifar_utils import runtime

REPETITIONS = 3
OPENINGS = 20

WORKER = """
import resource, sys, time
times = []
if len(sys.argv) > 1:
    from cifar_utils import data
    for _ in range(int(sys.argv[2])):
        start = time.perf_counter()
        data.load(sys.argv[1])
        times.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024), *times)
"""


def measure(cache: str, *arguments: str) -> tuple[float, list[float]]:
    """Return the peak resident megabytes of a new process and the seconds of each load in it."""
    environment = os.environ | {"CIFAR_UTILS_DATA_DIR": cache}
    command = [sys.executable, "-c", WORKER, *arguments]
    finished = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    peak, *times = map(float, finished.stdout.split())
    return peak / 1e6, times


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="an unpacked archive, or the folder above it")
    folder = parser.parse_args().folder
    first, opened, memory = [], [], []
    for _ in range(REPETITIONS):
        with tempfile.TemporaryDirectory() as cache:
            bare, _ = measure(cache)
            peak, times = measure(cache, folder, "1")
            first += times
            memory.append(peak - bare)
            opened += measure(cache, folder, str(OPENINGS))[1]
    print(f"{runtime.hardware()}; {REPETITIONS} repetitions; files may be in the system's cache\n")
    print(f"{'what':<40} {'median':>9} {'least':>9} {'most':>9}")
    for what, values in (
        ("first load, seconds", first),
        (f"opening the cache, ms ({OPENINGS} a process)", [1e3 * each for each in opened]),
        ("peak memory of the first load, MB", memory),
    ):
        print(f"{what:<40} {statistics.median(values):9.2f} {min(values):9.2f} {max(values):9.2f}")


if __name__ == "__main__":
    main()
