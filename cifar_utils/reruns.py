"""A run once more, from what its manifest says of it, and whether it came out the same."""

import os

from cifar_utils import leaderboard, parameters, pipeline, runs
from cifar_utils.errors import RunError
from cifar_utils.leaderboard import Repeated

VARIABLES = {
    "backend": "KERAS_BACKEND",
    "devices": "CIFAR_UTILS_DEVICES",
    "weights": "CIFAR_UTILS_RESNET50_WEIGHTS",
}
"""What a manifest notes of the environment."""


def free_name(name: str) -> str:
    """Return a name for a rerun of the run called ``name`` that no run has yet."""
    taken, number = set(runs.names()), 1
    while f"{name}-again{number}" in taken:
        number += 1
    return f"{name}-again{number}"


def request(name: str, new: str | None = None) -> pipeline.Request:
    """Return what has to be asked for to have a run again.

    Args:
        name: Of the run.
        new: Name of the rerun; None for one that is free.

    Raises:
        RunError: There is no such run, or its manifest does not say enough.
    """
    manifest = runs.load(name).manifest
    again = manifest.get("rerun")
    if not again or not again["parameters"]:
        raise RunError(
            f"the manifest of {name!r} does not say how its stages were run; `cifar run` notes it"
        )
    chosen: dict[str, dict[str, object]] = {}
    for stage, values in again["parameters"].items():
        have = parameters.schema(parameters.notebook(stage))
        own = {
            each: v for each, v in values.items() if each not in have or not _same(v, have[each])
        }
        chosen |= {stage: own} if own else {}
    data = manifest["data"]
    return pipeline.Request(
        stages=list(again["parameters"]),
        profile=manifest["profile"],
        source="synthetic" if data["kind"] == "synthetic" else data["source"],
        seed=manifest["seed"],
        name=new or free_name(name),
        parameters=chosen,
        jobs=again["jobs"],
        repeats=name,
    )


def _same(value: object, default: object) -> bool:
    """Return whether a value read from JSON is the default; JSON makes lists of tuples."""
    return value == (list(default) if isinstance(default, tuple) else default)


def run(asked: pipeline.Request) -> tuple[runs.Run, list[Repeated]]:
    """Run what ``request`` returned and hold it against the run that it repeats.

    The environment becomes that of the run, as far as its manifest notes it.

    Raises:
        CifarUtilsError: See ``pipeline.run``.
    """
    first = runs.load(asked.repeats)
    for field, variable in VARIABLES.items():
        value = first.manifest["rerun"][field]
        os.environ.pop(variable, None)
        if value:
            os.environ[variable] = value
    (second,) = pipeline.run(asked)
    return second, leaderboard.repeated(first, second)
