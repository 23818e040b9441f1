"""How many trials a minute do workers share, and how many could the storage take?

usage: python -m benchmarks.tuning [--trials 8] [--workers 1 2 4] [--ceiling 200] [--no-training]

Prints two Markdown tables. The first runs `cifar tune --profile smoke` on synthetic images in so
many processes at once: trials a minute from the first trial's start to the last one's end, and from
the command to its end, loading TensorFlow included. The second has trials that do nothing, so that
only the storage limits: a journal file, and PostgreSQL where its binaries are found, which is
started on the loopback address from a temporary folder and ended again (needs psycopg).
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cifar_utils import runtime, studies


def opened(storage: str, name: str) -> studies.Study:
    """Return a study of trials that do nothing."""
    return studies.opened(name, {}, grid={}, storage=storage, sampler="random")


def together(commands: list[list[str]], environment: dict[str, str]) -> float:
    """Run processes at once and return the seconds until the last has ended."""
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for command in commands
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors.decode())
    return time.perf_counter() - started


def span(study: optuna.Study, total: int) -> float:
    """Return seconds from the first trial's start to the last one's end.

    Stops the benchmark if there are not exactly as many trials as asked for.
    """
    trials = study.get_trials(states=studies.SETTLED)
    if len(trials) != total:
        raise SystemExit(f"{len(trials)} trials are over; expected {total}")
    first = min(trial.datetime_start for trial in trials)
    last = max(trial.datetime_complete for trial in trials)
    return (last - first).total_seconds()


def print_training(counts: list[int], total: int) -> None:
    """Print how the rate of trials that train grows with the workers."""
    print(f"| workers | {total} trials in | trials a minute | with start-up | against the first |")
    print("|--:|--:|--:|--:|--:|")
    first = None
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            # A grid of as many points: the same trials for each count, none of them pruned.
            space = Path(folder) / "space.toml"
            space.write_text(f"[learning_rate_factor]\nlow = 0.5\nhigh = 2.0\nsteps = {total}\n")
            command = [str(Path(sys.executable).with_name("cifar")), "tune", "--study", "shared"]
            command += ["--trials", str(total), "--profile", "smoke", "--data", "synthetic"]
            command += ["--sampler", "grid", "--pruner", "none", "--space", str(space)]
            environment = os.environ | {"CIFAR_UTILS_ARTIFACTS_DIR": folder}
            whole = together([command] * count, environment)
            journal = str(Path(folder) / "studies" / "shared.journal")
            storage = JournalStorage(JournalFileBackend(journal))
            seconds = span(optuna.load_study(study_name="shared", storage=storage), total)
        first = first or seconds
        rates = f"{60 * total / seconds:.1f} | {60 * total / whole:.1f} | {first / seconds:.2f} x"
        print(f"| {count} | {seconds:.0f} s | {rates} |", flush=True)


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Yield the URL of a new PostgreSQL server, which ends with the block."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    path = os.pathsep.join([os.environ["PATH"], *map(str, found)])
    initdb, postgres = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
    assert initdb, "checked by the caller"
    assert postgres, "checked by the caller"
    owner = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        shutil.chown(folder, "nobody")
        owner = {"user": "nobody"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **owner}
    subprocess.run([initdb, "-D", data, "-U", "tuner", "-A", "trust"], check=True, **options)
    server = subprocess.Popen(
        [postgres, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)], **options
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        time.sleep(1)
        yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for clients to go
        server.wait()


def print_ceiling(counts: list[int], total: int) -> None:
    """Print how many trials a second each storage takes."""
    print("| storage | workers | trials a second |")
    print("|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        places = {"journal file": lambda count: f"{folder}/{count}.journal"}
        if shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
            server = stack.enter_context(tempfile.TemporaryDirectory())
            url = stack.enter_context(postgresql(Path(server)))
            places["PostgreSQL"] = lambda count: url
        for name, place in places.items():
            for count in counts:
                study = f"ceiling{count}"
                command = [sys.executable, "-m", "benchmarks.tuning", "--work", place(count), study]
                together([[*command, "--ceiling", str(total)]] * count, dict(os.environ))
                seconds = span(opened(place(count), study).optuna, total)
                print(f"| {name} | {count} | {total / seconds:.0f} |", flush=True)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--ceiling", type=int, default=200, help="trials that do nothing")
    parser.add_argument("--no-training", action="store_true", help="only the second table")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        storage, name = options.work
        studies.search(
            opened(storage, name), lambda trial: trial.suggest_float("x", 0, 1), options.ceiling
        )
        return
    if not options.no_training:
        print(runtime.hardware())
        print_training(options.workers, options.trials)
        print()
    print_ceiling(options.workers, options.ceiling)


if __name__ == "__main__":
    main()
