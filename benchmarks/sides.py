"""Commands that measure themselves, side by side."""

import json
import resource
import statistics
import subprocess


def peak_memory() -> float:
    """Return the most memory that this process has had so far, in GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


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
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[title].append(json.loads(output.splitlines()[-1]))
    rates = {title: [row["images_per_second"] for row in rows] for title, rows in found.items()}
    print(f"| network | images a second (of each round) | {reference} against it | peak memory |")
    print("|---|---|--:|--:|")
    for title, mine in rates.items():
        each = ", ".join(f"{rate:,.0f}" for rate in mine)
        memory = max(row["peak_memory_gib"] for row in found[title])
        ratios = [ours / rate for ours, rate in zip(rates[reference], mine, strict=True)]
        middle, ratio = statistics.median(mine), statistics.median(ratios)
        print(f"| {title} | {middle:,.0f} ({each}) | {ratio:.2f} x | {memory} GiB |")
