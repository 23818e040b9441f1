"""Commands that measure themselves, side by side, and what they measure with."""

import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

Key = TypeVar("Key")


def peak_memory() -> float:
    """Return the most memory that this process has had so far, in GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _operations(step: Callable[[], object], count: int = 4) -> dict[str, float]:
    """Return the milliseconds of a step, and those in each kind of TensorFlow's operations.

    Operations run side by side, so that they sum to more than the step.

    Args:
        step: What to run; it ran before.
        count: How often to run it.
    """
    from tensorflow.profiler import experimental as profiler
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        profiler.start(folder)
        started = time.perf_counter()
        for _ in range(count):
            step()
        whole = time.perf_counter() - started
        profiler.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    spent: Counter[str] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if name and kind.isidentifier() and not name.endswith(":"):  # no function
                    spent[kind] += event.duration_ps / 1e9 / count
    return {"a step": 1000 * whole / count, "sum of the operations": sum(spent.values()), **spent}


def rated(
    step: Callable[[], object], images: int, *, operations: bool, rounds: int = 8, repeats: int = 1
) -> dict:
    """Return the images a second of a step; or, if asked for, the time of its ``operations``.

    Args:
        step: What to run.
        images: How many one step takes in.
        operations: What to return.
        rounds: How often it is timed; the first two do not count.
        repeats: Steps in a round.
    """
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(repeats):
            step()
        seconds.append((time.perf_counter() - started) / repeats)
    if operations:
        return {"operations": _operations(step)}
    return {"images_per_second": images / statistics.median(seconds[2:])}


def in_turn(calls: dict[Key, Callable[[], object]], rounds: int) -> dict[Key, list[float]]:
    """Return the seconds of each call in each round, all of them timed once a round."""
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[key].append(time.perf_counter() - started)
    return seconds


def answer(command: list[str]) -> dict:
    """Run a command and return the JSON object that is its last line."""
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def print_operations(commands: dict[str, list[str]]) -> None:
    """Print a Markdown table of operations that take at least 1% of a step, a column a command.

    Args:
        commands: Title and command. The last line that a command prints is a JSON object with
            ``operations``.
    """
    found = {title: answer(command)["operations"] for title, command in commands.items()}
    table = pd.DataFrame(found).fillna(0.0)
    table = table[(table / table.loc["a step"]).max(axis=1) >= 0.01]
    table = table.sort_values(table.columns[-1], ascending=False)
    print("| milliseconds of | " + " | ".join(table.columns) + " |")
    print("|---|" + "--:|" * len(table.columns))
    for name, row in table.iterrows():
        print(f"| {name} | " + " | ".join(f"{value:,.0f}" for value in row) + " |")


def print_rates(commands: dict[str, list[str]], reference: str, rounds: int) -> None:
    """Print a Markdown table of images a second, measured in turn, each in a process of its own.

    The ratio is the median of those of the rounds: the speed of a shared machine drifts by more
    than networks differ, so only neighbours in time are compared.

    Args:
        commands: Title and command. The last line that a command prints is a JSON object with
            ``images_per_second`` and ``peak_memory_gib``.
        reference: Title of what the others are held against.
        rounds: How often each is measured.
    """
    found: dict[str, list[dict]] = {title: [] for title in commands}
    for _ in range(rounds):
        for title, command in commands.items():
            found[title].append(answer(command))
    rates = {title: [row["images_per_second"] for row in rows] for title, rows in found.items()}
    print(f"| network | images a second (of each round) | {reference} against it | peak memory |")
    print("|---|---|--:|--:|")
    for title, mine in rates.items():
        each = ", ".join(f"{rate:,.0f}" for rate in mine)
        memory = max(row["peak_memory_gib"] for row in found[title])
        ratios = [ours / rate for ours, rate in zip(rates[reference], mine, strict=True)]
        middle, ratio = statistics.median(mine), statistics.median(ratios)
        print(f"| {title} | {middle:,.0f} ({each}) | {ratio:.2f} x | {memory} GiB |")
