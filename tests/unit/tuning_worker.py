"""A worker of a shared study with an objective that needs no network.

Run as ``python -m tests.unit.tuning_worker STORAGE TOTAL LOG SECONDS``: begins a line in LOG with
each trial it starts and writes another when the trial is over.
"""

import os
import sys
import time
from pathlib import Path

import optuna

from cifar_utils import studies


def open_study(storage: str, **options) -> studies.Study:
    return studies.opened(
        "shared", {"what": "a parabola"}, grid={"x": [0, 1, 2, 3]}, storage=storage, **options
    )


def main(storage: str, total: int, log: Path, seconds: float, **options) -> int:
    def note(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{line} {os.getpid()}\n")

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 3)
        note(f"begun {trial.number}")
        time.sleep(seconds)
        note(f"over {trial.number}")
        return -((x - 1) ** 2)

    return studies.search(open_study(storage, **options), objective, total)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
