"""Measure what faults of servers and connections cost a download.

usage: python -m benchmarks.download_faults

Each scenario of tests/unit/faulty_server.py is played with an archive of 10 MB on 127.0.0.1, with a
patience of fractions of a second: a real download fetches the same shares again, but waits longer.
"At most" counts what the server handed to the system, though nobody may have read it any more.
"""

import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

from cifar_utils import download, runtime
from cifar_utils.errors import DataError
from tests.unit import faulty_server
from tests.unit.faulty_server import FaultyServer, Scenario

SIZE = 10_000_000


def play(scenario: Scenario, content: bytes) -> tuple[str, float, float]:
    """Return what happened, the share of the archive that was sent again, and the seconds."""
    with tempfile.TemporaryDirectory() as home, FaultyServer(content) as server:
        folder = Path(home) / "data"
        faulty_server.prepare(scenario, server, folder)
        os.environ["CIFAR_UTILS_MIRRORS"] = str(folder.with_name("sources.toml"))
        start = time.perf_counter()
        happened = outcome(scenario, content, folder)
        seconds = time.perf_counter() - start
        return happened, faulty_server.sent_again(scenario, server), seconds


def outcome(scenario: Scenario, content: bytes, folder: Path) -> str:
    """Download to ``folder`` and return what came of it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            path = download.fetch(folder=folder, patience=faulty_server.patience(len(content)))
    except DataError as error:
        expected = scenario.error and all(words in str(error) for words in scenario.error)
        return "an error that says why" if expected else f"UNEXPECTED: {error}"
    return "the right file" if path.read_bytes() == content else "A WRONG FILE"


def main() -> None:
    """Play the scenarios and print a table."""
    content = faulty_server.make_content(SIZE)
    print(f"{runtime.hardware()}; {len(content) / 1e6:.1f} MB from 127.0.0.1\n")
    print("| scenario | kept before | what happened | fetched again | seconds |")
    print("|---|--:|---|--:|--:|")
    for scenario in faulty_server.SCENARIOS:
        happened, again, seconds = play(scenario, content)
        fetched = f"{'at most ' if scenario.again is None else ''}{again * SIZE / 1e6:.1f} MB"
        print(f"| {scenario.name} | {scenario.kept:.0%} | {happened} | {fetched} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
