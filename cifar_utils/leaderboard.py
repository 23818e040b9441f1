"""Results side by side: which may be compared, what several seeds say, what two runs differ in."""

import math
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from cifar_utils import evaluation, runs
from cifar_utils.evaluation import Interval

Row = dict[str, Any]
"""A result, see ``runs.Result``."""


def _measured(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that have an accuracy."""
    return [row for row in rows if row.get("accuracy") is not None]


def comparable(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return results in groups that were measured on the same images, the best first.

    Args:
        rows: As ``runs.Run.results`` returns them; those without an accuracy are left out.

    Returns:
        By title: test before validation, official images before modified before synthetic ones.
    """
    kinds, splits = ("official", "modified", "synthetic"), ("test", "validation")
    groups: dict[tuple[int, int, str], list[Row]] = {}
    for row in _measured(rows):
        key = splits.index(row["split"]), kinds.index(row["data"]), row["data_fingerprint"]
        groups.setdefault(key, []).append(row)
    same = [key[:2] for key in groups]
    found = {}
    for key in sorted(groups):
        split, kind, fingerprint = splits[key[0]], kinds[key[1]], key[2]
        title = f"{split}, {kind} images"
        if same.count(key[:2]) > 1:
            title += f" {fingerprint[:8]}"
        if kind == "synthetic":
            title += ", which say nothing about CIFAR-10"
        order = sorted(groups[key], key=lambda row: (-row["accuracy"], row["run"], row["stage"]))
        found[title] = order
    return found


class Seeds(NamedTuple):
    """What the same training gives from several seeds.

    Attributes:
        stage: Name of the stage.
        split: ``validation`` or ``test``.
        data: ``official``, ``modified`` or ``synthetic``.
        profile: Name of the profile.
        pretraining: What the weights were pretrained on.
        seeds: How many there are.
        accuracy: Mean with its 95% interval for other seeds, by Student's distribution.
    """

    stage: str
    split: str
    data: str
    profile: str
    pretraining: str
    seeds: int
    accuracy: Interval


def over_seeds(rows: Iterable[Row]) -> list[Seeds]:
    """Return the mean over seeds of results that differ in nothing else (notebook 06).

    Args:
        rows: As ``runs.Run.results`` returns them, of several runs.

    Returns:
        One for each stage with at least two seeds; the newest result where a seed has several.
    """
    same = ("stage", "split", "data", "data_fingerprint", "profile", "pretraining", "parameters")
    groups: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in _measured(rows):
        key = tuple(row[name] for name in same)
        groups.setdefault(key, {})[row["seed"]] = row["accuracy"]
    found = []
    for (stage, split, data, _, profile, pretraining, _), each in groups.items():
        if len(each) > 1:
            mean = statistics.mean(each.values())
            error = statistics.stdev(each.values()) / math.sqrt(len(each))
            reach = float(stats.t.ppf(0.975, len(each) - 1)) * error
            interval = Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))
            found.append(Seeds(stage, split, data, profile, pretraining, len(each), interval))
    return found


class Differing(NamedTuple):
    """One thing in which two runs differ.

    Attributes:
        what: A setting such as ``seed``, ``versions.keras`` or ``03_augmentation.POLICY``.
        first: In the one run; None where it has none.
        second: In the other.
    """

    what: str
    first: Any
    second: Any


def _settings(run: runs.Run) -> dict[str, Any]:
    """Return what a run was made with, flat."""
    manifest = run.manifest
    found = {name: manifest.get(name) for name in ("profile", "seed", "hardware", "git_commit")}
    found |= {f"data.{name}": manifest["data"].get(name) for name in ("kind", "fingerprint")}
    found |= {f"versions.{name}": version for name, version in manifest["versions"].items()}
    for name in runs.STAGES:
        path = run.stage(name).folder / "stage.json"
        if path.is_file():
            values = runs.read_json(path)["parameters"]
            own = values.keys() - {"PROFILE", "DATA", "SEED", "RUN"}
            found |= {f"{name}.{parameter}": values[parameter] for parameter in sorted(own)}
    return found


def differing(first: runs.Run, second: runs.Run) -> list[Differing]:
    """Return in which settings, versions and data two runs differ."""
    one, other = _settings(first), _settings(second)
    return [
        Differing(name, one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


class Change(NamedTuple):
    """How the result of a stage changed from one run to another.

    Attributes:
        stage: Name of the stage.
        split: ``validation`` or ``test``.
        first: Accuracy in the one run, with its interval.
        second: Accuracy in the other.
        gap: The second minus the first, paired; None where they were measured on other images.
    """

    stage: str
    split: str
    first: Interval
    second: Interval
    gap: Interval | None


def changes(first: runs.Run, second: runs.Run) -> list[Change]:
    """Return how the results of two runs differ, for stages that both have."""
    found = []
    for name in runs.STAGES:
        for split in ("validation", "test"):
            stages = first.stage(name), second.stage(name)
            if all((stage.folder / f"{split}.npz").is_file() for stage in stages):
                (logits, labels), (others, theirs) = (stage.load_logits(split) for stage in stages)
                same = np.array_equal(labels, theirs) and (
                    first.manifest["data"]["fingerprint"] == second.manifest["data"]["fingerprint"]
                )
                found.append(
                    Change(
                        name,
                        split,
                        evaluation.accuracy(logits, labels),
                        evaluation.accuracy(others, theirs),
                        evaluation.difference(others, logits, labels) if same else None,
                    )
                )
    return found
