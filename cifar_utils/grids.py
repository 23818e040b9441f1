"""Sweeps over parameters: the combinations of their values, and what tells their runs apart."""

import hashlib
import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cifar_utils import keys, parameters, runs
from cifar_utils.errors import ParameterError

Grid = dict[str, str]
"""Names of parameters to the values they shall have, a text such as ``0..4`` or ``adam,sgd``."""

MOST = 1000
"""Combinations that a grid may have."""

SEPARATOR = re.compile(r",(?![^(\[]*[)\]])")
"""A comma between values, not one inside brackets, which belongs to a value."""

LONGEST_VALUE = 24
"""Characters of a value that stands in a run's name as it is."""

LONGEST_NAME = 80
"""Characters of a run's name that a grid makes; a rerun adds some to it."""


class Combination(NamedTuple):
    """One value for each parameter of a grid.

    Attributes:
        seed: Of the run.
        given: Stage to the values that its parameters get.
        labels: What tells it from others beside the seed, such as ``("epochs3",)``.
    """

    seed: int
    given: dict[str, dict[str, Any]]
    labels: tuple[str, ...]


def read(options: list[str], filed: Mapping[str, Any], fixed: set[str]) -> Grid:
    """Return the grid that options ask for, and a file where no option says otherwise.

    Args:
        options: Of ``--grid``, such as ``["SEED=0..4", "EPOCHS=2,3"]``.
        filed: Of a file, names to texts such as ``0..4`` or to lists of values.
        fixed: Parameters that other options give one value.

    Raises:
        ParameterError: An option has no ``=``, a parameter is given twice, or what the file says is
            no list of values.
    """
    found: Grid = {}
    for option in options:
        name, equals, values = option.partition("=")
        if not equals:
            raise ParameterError(f"--grid {option}: expected NAME=VALUES, such as SEED=0..4")
        if name in found:
            raise ParameterError(f"--grid {option}: expected all values of {name} in one --grid")
        if name in fixed:
            raise ParameterError(f"--grid {option}: {name} has one value already; give either")
        found[name] = values
    for name, values in filed.items():
        if str(name) not in fixed | found.keys():
            found[str(name)] = _listed(str(name), values)
    return found


def _listed(name: str, values: Any) -> str:
    """Return values that came with types as the text that lists them.

    Raises:
        ParameterError: They cannot be listed.
    """
    items = values if isinstance(values, list) else [values]
    text = ",".join(map(str, items))
    usual = all(isinstance(item, str | int | float | list) for item in items)
    if not usual or (isinstance(values, list) and len(SEPARATOR.split(text)) != len(items)):
        raise ParameterError(
            f"grid {name}: {values!r}; expected such as 0..4 or [2, 3], no value with a comma"
        )
    return text


def expand(name: str, text: str) -> list[str]:
    """Return the values that a text lists: ``0..2,7`` means 0, 1, 2 and 7.

    Raises:
        ParameterError: A range begins with its larger number, or the values are too many.
    """
    found: list[str] = []
    for part in SEPARATOR.split(text):
        ends = re.fullmatch(r"\s*(-?\d+)\.\.(-?\d+)\s*", part)
        if ends is None:
            found.append(part.strip())
            continue
        first, last = int(ends[1]), int(ends[2])
        if last < first:
            raise ParameterError(f"--grid {name}={text}: expected {last}..{first}")
        _check_count(last - first + 1)
        found += map(str, range(first, last + 1))
    return found


def _check_count(count: int) -> None:
    """Refuse a grid that nobody can want.

    Raises:
        ParameterError: There are too many combinations.
    """
    if count > MOST:
        raise ParameterError(f"--grid: {count:,} combinations; expected at most {MOST:,}")


def combinations(grid: Grid, stages: list[str], seed: int) -> list[Combination]:
    """Return each combination of a grid's values; without a grid the one with ``seed``.

    Args:
        grid: ``SEED`` and parameters of the notebooks.
        stages: The stages asked for.
        seed: What the seed is where the grid does not say it.

    Raises:
        ParameterError: A parameter is refused as ``parameters.assign`` does, a value occurs twice,
            or there are too many combinations.
    """
    seeds = [seed]
    if "SEED" in grid:
        seeds = [parameters.convert("SEED", text, 0) for text in expand("SEED", grid["SEED"])]
        _check_differ("SEED", grid["SEED"], list(map(str, seeds)))
    axes = [_axis(name, grid[name], stages) for name in sorted(grid) if name != "SEED"]
    _check_count(len(seeds) * math.prod(len(axis) for axis in axes))
    found = []
    for number, *chosen in itertools.product(seeds, *axes):
        given: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
        for stage, (_, placed) in itertools.product(stages, chosen):
            given[stage] |= placed[stage]
        found.append(Combination(number, given, tuple(label for label, _ in chosen)))
    return found


def _axis(name: str, text: str, stages: list[str]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Return for each value of a parameter what names it, and the stages that get it."""
    found = []
    for value in expand(name, text):
        value = keys.anywhere(name, value)
        placed = parameters.assign([], stages, {name: value})
        typed = next(each[name] for each in placed.values() if each)
        found.append((name.lower() + _written(typed), placed))
    _check_differ(name, text, [label for label, _ in found])
    return found


def _check_differ(name: str, text: str, written: list[str]) -> None:
    """Refuse a value that occurs twice, in whatever spelling.

    Raises:
        ParameterError: One does.
    """
    if len(set(written)) < len(written):
        raise ParameterError(f"--grid {name}={text}: expected values that differ")


def _digest(text: str) -> str:
    """Return what tells texts apart that look alike once they are made safe."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _written(value: Any) -> str:
    """Return a value as part of a folder's name; of a path its last part and a digest."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    # No capitals: some systems take names for the same that differ only in them.
    if re.fullmatch(rf"[a-z0-9._-]{{1,{LONGEST_VALUE}}}", text):
        return text
    if not text:
        return "-empty"
    readable = re.sub(r"[^a-z0-9._]+", "-", Path(text).name.lower()).strip("-")
    return f"{readable[: LONGEST_VALUE - 9]}-{_digest(text)}"


def run_name(first: str, labels: tuple[str, ...]) -> str:
    """Return the name of a combination's run, the same at every time.

    Args:
        first: What it begins with.
        labels: Those of the combination.
    """
    name = "-".join([first, *labels])
    if not labels or len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{_digest(name)}"


def repeated(grid: Grid, stages: list[str]) -> dict[str, list[str]]:
    """Return the stages that some of a grid's parameters make no difference to, and these.

    They run for each value all the same, because every run has a folder of its own.
    """
    reached: dict[str, set[str]] = {}
    for stage in stages:
        reached[stage] = grid.keys() & parameters.schema(parameters.notebook(stage)).keys()
        for upstream in runs.STAGES[stage]:
            reached[stage] |= reached.get(upstream, set())
    found = {stage: sorted(grid.keys() - names) for stage, names in reached.items()}
    return {stage: names for stage, names in found.items() if names}
