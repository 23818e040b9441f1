"""Results side by side: which may be compared, what several seeds say, what two runs differ in."""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cifar_utils import runs

if TYPE_CHECKING:
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
    groups: dict[tuple[int, int, int, str], list[Row]] = {}
    for row in _measured(rows):
        place = splits.index(row["split"]), kinds.index(row["data"])
        groups.setdefault((*place, -row["n"], _fingerprint(row)), []).append(row)
    same = [key[:3] for key in groups]
    found = {}
    for key in sorted(groups):
        title = f"{-key[2]:,} {splits[key[0]]} images, {kinds[key[1]]}"
        if same.count(key[:3]) > 1:
            title += f" {key[3][:8]}"
        if kinds[key[1]] == "synthetic":
            title += ", which say nothing about CIFAR-10"
        order = sorted(groups[key], key=lambda row: (-row["accuracy"], row["run"], row["stage"]))
        found[title] = order
    return found


def _fingerprint(row: Row) -> str:
    """Return what identifies the images; results of the first versions do not say it."""
    return row.get("data_fingerprint") or ""


class Seeds(NamedTuple):
    """What the same training gives from several seeds.

    Attributes:
        stage: Name of the stage.
        settings: Those in which it differs from others of the stage, such as ``EPOCHS=3``.
        split: ``validation`` or ``test``.
        data: ``official``, ``modified`` or ``synthetic``.
        profile: Name of the profile.
        pretraining: What the weights were pretrained on.
        seeds: How many there are.
        accuracy: Mean with its 95% interval for other seeds, by Student's distribution.
    """

    stage: str
    settings: str
    split: str
    data: str
    profile: str
    pretraining: str
    seeds: int
    accuracy: "Interval"


class Gap(NamedTuple):
    """What several seeds say of two trainings.

    Attributes:
        best: Name of the stage with the higher mean, and its settings as in ``Seeds``.
        other: Those of another.
        split: ``validation`` or ``test``.
        data: ``official``, ``modified`` or ``synthetic``.
        profile: Name of the profile.
        seeds: That both have.
        difference: Mean of best minus other, seed by seed, with its 95% interval for other seeds.
    """

    best: str
    other: str
    split: str
    data: str
    profile: str
    seeds: int
    difference: "Interval"


def _mean(values: Sequence[float]) -> "Interval":
    """Return a mean over seeds with its 95% interval by Student's distribution."""
    from scipy import stats

    from cifar_utils.evaluation import Interval

    mean = statistics.mean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


class _Training(NamedTuple):
    """What has to be the same for results to differ by their seed alone."""

    images: tuple[Any, ...]
    stage: str
    pretraining: str
    parameters: int | None
    settings: tuple[tuple[str, str], ...]

    @property
    def split(self) -> str:
        return self.images[0]


def _line(stage: str) -> list[str]:
    """Return the stages that a stage builds on, also through others, and itself."""
    found = {stage}
    for name in reversed(runs.STAGES):
        found |= set(runs.STAGES[name]) if name in found else set()
    return [name for name in runs.STAGES if name in found]


def _decided(run: runs.Run, stage: str) -> tuple[tuple[str, str], ...]:
    """Return the settings that a result depends on, such as ``("02.EPOCHS", "3")``."""
    return tuple(
        (f"{name.partition('_')[0]}.{setting}", str(value))
        for name in _line(stage)
        for setting, value in _parameters(run, name).items()
    )


def _by_seed(opened: Iterable[runs.Run]) -> dict[_Training, dict[int, float]]:
    """Return accuracies of what was trained with several seeds, by seed."""
    groups: dict[_Training, dict[int, float]] = {}
    for run in sorted(opened, key=lambda run: run.manifest["created"]):
        for row in _measured(run.results()):
            training = _Training(
                (row["split"], row["data"], row["profile"], row["n"], _fingerprint(row)),
                *(row["stage"], row["pretraining"], row["parameters"]),
                _decided(run, row["stage"]),
            )
            groups.setdefault(training, {})[row["seed"]] = row["accuracy"]
    return {training: each for training, each in groups.items() if len(each) > 1}


def _told_apart(trainings: Iterable[_Training]) -> dict[_Training, str]:
    """Return the settings in which trainings of one stage differ, such as ``EPOCHS=3``.

    They have the numbers of their stages, ``02.EPOCHS=3``, only where several have one of the name
    that is not the same in all.
    """
    common: dict[str, set[tuple[str, str]]] = {}
    for each in trainings:
        settings = set(each.settings)
        common[each.stage] = common.get(each.stage, settings) & settings
    found = {}
    for each in trainings:
        numbered = [pair for pair in each.settings if pair not in common[each.stage]]
        pairs = [*dict.fromkeys((name.partition(".")[2], value) for name, value in numbered)]
        if len(dict(pairs)) < len(pairs):
            pairs = numbered
        found[each] = " ".join(f"{name}={value}" for name, value in pairs)
    return found


def over_seeds(opened: Iterable[runs.Run]) -> list[Seeds]:
    """Return the mean over seeds of what was trained with the same settings (notebook 06).

    The settings of the stages that it builds on count, too.

    Args:
        opened: Several runs.

    Returns:
        One for each training with at least two seeds, by stage, the best settings first; the newest
        result where a seed has several.
    """
    found, groups = [], _by_seed(opened)
    told = _told_apart(groups)
    for training, each in groups.items():
        split, data, profile, *_ = training.images
        mean = _mean(list(each.values()))
        within = mean._replace(low=max(0.0, mean.low), high=min(1.0, mean.high))
        about = (training.stage, told[training], split, data, profile, training.pretraining)
        found.append(Seeds(*about, len(each), within))
    return sorted(found, key=lambda row: (row.split != "validation", row.stage, -row.accuracy[0]))


def gaps_over_seeds(opened: Iterable[runs.Run]) -> list[Gap]:
    """Return how far the training with the highest mean is ahead of others (notebook 06).

    Trainings of one stage with several settings are compared on validation images only: settings
    are not chosen by the test set.

    Args:
        opened: Several runs.

    Returns:
        One for each other training that shares at least two seeds with the best on the same images.
    """
    groups = _by_seed(opened)
    told = _told_apart(groups)
    rivals: dict[tuple[Any, ...], dict[str, dict[int, float]]] = {}
    for training, each in groups.items():
        if training.split == "validation" or not told[training]:
            name = f"{training.stage} {told[training]}".rstrip()
            rivals.setdefault(training.images, {})[name] = each
    found = []
    for (split, data, profile, _, _), named in rivals.items():
        best = max(named, key=lambda name: statistics.mean(named[name].values()))
        for other in named.keys() - {best}:
            shared = named[best].keys() & named[other].keys()
            if len(shared) > 1:
                gap = _mean([named[best][seed] - named[other][seed] for seed in shared])
                found.append(Gap(best, other, split, data, profile, len(shared), gap))
    return sorted(found, key=lambda gap: gap[:5])


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


def _parameters(run: runs.Run, stage: str) -> dict[str, Any]:
    """Return the parameters of a stage's notebook, without those that every notebook has."""
    path = run.stage(stage).folder / "stage.json"
    values = runs.read_json(path)["parameters"] if path.is_file() else {}
    return {name: values[name] for name in sorted(values.keys() - runs.COMMON)}


def _settings(run: runs.Run) -> dict[str, Any]:
    """Return what a run was made with, flat."""
    manifest = run.manifest
    found = {name: manifest.get(name) for name in ("profile", "seed", "hardware", "git_commit")}
    found |= {f"data.{name}": manifest["data"].get(name) for name in ("kind", "fingerprint")}
    found |= {f"versions.{name}": version for name, version in manifest["versions"].items()}
    for stage in runs.STAGES:
        found |= {f"{stage}.{name}": value for name, value in _parameters(run, stage).items()}
    return found


def differing(first: runs.Run, second: runs.Run) -> list[Differing]:
    """Return in which settings, versions and data two runs differ."""
    one, other = _settings(first), _settings(second)
    return [
        Differing(name, one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


VOLATILE = re.compile(r"seconds|^run$|^reasons$|^hardware$")
"""Fields of metrics that may differ between two runs that came out the same."""


class Repeated(NamedTuple):
    """Whether a stage of a rerun came out as in the run that it repeats.

    Attributes:
        stage: Name of the stage.
        differing: Names of what is not the same, bit for bit: fields of the metrics and files of
            logits.
    """

    stage: str
    differing: list[str]


def repeated(first: runs.Run, second: runs.Run) -> list[Repeated]:
    """Return whether two runs came out the same, for each stage that the first has finished.

    Args:
        first: The run.
        second: Its rerun.
    """
    found = []
    for name in runs.STAGES:
        one, other = first.stage(name), second.stage(name)
        if one.finished() is None:
            continue
        if other.finished() is None:
            found.append(Repeated(name, ["not finished"]))
            continue
        was, now = one.metrics(), other.metrics()
        differing = [
            field
            for field in dict.fromkeys([*was, *now])
            if not VOLATILE.search(field) and repr(was.get(field)) != repr(now.get(field))
        ]
        for split in ("validation", "test"):
            logits = [
                stage.load_logits(split)[0].tobytes()
                for stage in (one, other)
                if (stage.folder / f"{split}.npz").is_file()
            ]
            if logits and (len(logits) == 1 or logits[0] != logits[1]):
                differing.append(f"{split}.npz")
        found.append(Repeated(name, differing))
    return found


class Change(NamedTuple):
    """How the result of a stage changed from one run to another.

    Attributes:
        stage: Name of the stage.
        split: ``validation`` or ``test``.
        first: Accuracy in the one run, with its interval.
        second: Accuracy in the other.
        gap: The second minus the first, paired; None where they were measured on other images.
        p_holm: McNemar's p, allowing for the number of comparisons; None where there is no gap.
    """

    stage: str
    split: str
    first: "Interval"
    second: "Interval"
    gap: "Interval | None"
    p_holm: float | None


def changes(first: runs.Run, second: runs.Run) -> list[Change]:
    """Return how the results of two runs differ, for stages that both have."""
    from cifar_utils import evaluation

    found: list[Change] = []
    for name in runs.STAGES:
        for split in ("validation", "test"):
            stages = first.stage(name), second.stage(name)
            if all((stage.folder / f"{split}.npz").is_file() for stage in stages):
                (logits, labels), (others, theirs) = (stage.load_logits(split) for stage in stages)
                accuracies = (
                    evaluation.accuracy(logits, labels),
                    evaluation.accuracy(others, theirs),
                )
                gap = p = None
                if np.array_equal(labels, theirs) and (
                    first.manifest["data"]["fingerprint"] == second.manifest["data"]["fingerprint"]
                ):
                    gap = evaluation.difference(others, logits, labels)
                    p = evaluation.mcnemar(others, logits, labels)
                found.append(Change(name, split, *accuracies, gap, p))
    paired = [change.p_holm for change in found if change.p_holm is not None]
    corrected = iter(evaluation.holm(paired))
    return [
        change if change.p_holm is None else change._replace(p_holm=next(corrected))
        for change in found
    ]
