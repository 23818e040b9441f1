"""Small experiments: the same training again with one thing changed, and what that changed."""

import dataclasses
import functools
import itertools
import json
import math
import shutil
import statistics
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import stats

from cifar_utils import evaluation, live, paths, supervision, training
from cifar_utils.data import Split
from cifar_utils.errors import DivergedError, ParameterError
from cifar_utils.evaluation import Interval
from cifar_utils.recipes import Recipe

Variant = tuple[Callable[[], keras.Model], Recipe | Callable[..., training.Fitted]]
"""What makes a new network, and how to train it: a recipe, or what is called as ``training.fit`` is
but for the recipe."""


@dataclass(frozen=True)
class Comparison:
    """What training several variants gave.

    Attributes:
        table: A row a variant, named by the index, with means over the seeds: ``training`` and
            ``validation`` accuracy; ``difference`` in validation accuracy from the first variant
            with its 95% interval from ``low`` to ``high``, all missing for the first, and the
            ``verdict``; ``seconds`` of training. A variant that does not train with every seed has
            the verdict ``diverged`` and no difference.
        histories: The history of each variant's first seed, see ``training.Fitted``.
    """

    table: pd.DataFrame
    histories: dict[str, pd.DataFrame]


def variants(
    build: Callable[[], keras.Model], recipe: Recipe, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Variant]:
    """Return variants of one training, by name (notebook 02 introduces it).

    Args:
        build: What makes the network.
        recipe: How to train it.
        changes: Name to what differs: fields of the recipe, and ``build`` for another network.
    """
    made: dict[str, Variant] = {}
    for name, changed in changes.items():
        fields = dict(changed)
        made[name] = (fields.pop("build", build), dataclasses.replace(recipe, **fields))
    return made


def trainer(how: Recipe | Callable[..., training.Fitted]) -> Callable[..., training.Fitted]:
    """Return the training half of a variant as what is called as ``training.fit`` is."""
    return functools.partial(training.fit, recipe=how) if isinstance(how, Recipe) else how


def verdict(difference: Interval) -> str:
    """Return ``better``, ``worse``, or ``not told apart`` where the interval holds zero."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not told apart"


def _difference(
    outputs: list[np.ndarray], others: list[np.ndarray], labels: np.ndarray
) -> Interval:
    """Return how much more accurate the first outputs are, with the interval that can be had.

    Args:
        outputs: float ``(N, K)`` of one variant for each seed.
        others: Those of the other, of the same seeds.
        labels: int64 ``(N,)``.
    """
    if len(outputs) == 1:
        return evaluation.difference(outputs[0], others[0], labels)
    gaps = [
        evaluation.accuracy(first, labels).value - evaluation.accuracy(second, labels).value
        for first, second in zip(outputs, others, strict=True)
    ]
    mean, error = statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
    reach = float(stats.t.ppf(0.975, len(gaps) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class _Trial:
    """One training of a variant.

    Attributes:
        seconds: Of training.
        problem: Why it led nowhere; empty if it did not.
        history: See ``training.Fitted``.
        training: Accuracy on training images.
        logits: float32 ``(N, 10)`` for the validation images.
    """

    seconds: float
    problem: str = ""
    history: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    training: float = math.nan
    logits: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 10)))


def _train(
    model: keras.Model,
    how: Recipe | Callable[..., training.Fitted],
    train: Split,
    judged: Split | None,
    seed: int,
    place: Path | None,
) -> _Trial:
    """Train a variant, from where an earlier sitting was left if its state was kept."""
    fit = trainer(how)
    options = {} if place is None else {"backup": place / "state"}
    started = time.perf_counter()
    try:
        with live.silent():
            fitted = fit(model, train, judged, seed=seed, **options)
    except DivergedError as error:
        return _Trial(time.perf_counter() - started, str(error).partition(";")[0])
    return _Trial(fitted.seconds, history=fitted.history)


def _judge(trial: _Trial, model: keras.Model, learned: Split, validation: Split) -> _Trial:
    """Return a trial with what its network answers."""
    return dataclasses.replace(
        trial,
        training=evaluation.accuracy(
            evaluation.predict_logits(model, learned.images), learned.labels
        ).value,
        logits=evaluation.predict_logits(model, validation.images),
    )


def _read(place: Path | None) -> _Trial | None:
    """Return the trial that an earlier sitting finished, if it did and its file is whole."""
    path = None if place is None else place / "trial.npz"
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            about, logits = json.loads(str(file["about"])), file["logits"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        print(f"{path} is damaged ({error}); the variant is trained again")
        return None
    return _Trial(**about | {"history": pd.DataFrame(about["history"]), "logits": logits})


def _write(place: Path | None, trial: _Trial) -> None:
    """Keep a trial, whose training's state is of no more use."""
    if place is None:
        return
    fields = {name: getattr(trial, name) for name in ("seconds", "problem", "training")}
    about = json.dumps(fields | {"history": trial.history.to_dict("list")})
    with paths.atomic(place / "trial.npz") as partial:
        np.savez(partial, about=np.array(about), logits=trial.logits)
    shutil.rmtree(place / "state", ignore_errors=True)


def compare(
    variants: Mapping[str, Variant],
    train: Split,
    validation: Split,
    *,
    seeds: Sequence[int] = (0,),
    most: int | None = None,
    curves: bool = False,
    backup: Path | None = None,
) -> Comparison:
    """Train variants and set each against the first (notebook 02 introduces it).

    All begin from the same seeds, so that as little as possible differs besides what was changed.
    With one seed the interval is a paired bootstrap over the validation images, and says nothing
    about another training; with several it is Student's for the seeds' differences on these images.

    Args:
        variants: Name to network and training; the first is what the others are held against.
        train: What to learn from; training accuracy is measured on its first images, unchanged and
            as many as there are for validation.
        validation: What to judge by at the end.
        seeds: Seeds of weights, order and augmentation; each variant is trained once with each.
        most: Compare only so many variants, the first ones; None for all.
        curves: Whether to judge each epoch as well, which takes longer.
        backup: Folder of its own where ``cifar run``, if it runs the notebook, keeps what is done:
            a comparison that was killed goes on after the last epoch of the variant it was at.

    Raises:
        ParameterError: There are not two variants to compare, or there is no seed.
    """
    chosen = dict(itertools.islice(variants.items(), most))
    if len(chosen) < 2 or not len(seeds):
        raise ParameterError(
            f"got {len(chosen)} variants and {len(seeds)} seeds to compare; expected at least two "
            "variants and one seed"
        )
    learned = train.first(len(validation))
    judged = validation if curves else None
    logits: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    histories: dict[str, pd.DataFrame] = {}
    rows: list[dict[str, Any]] = []
    for (name, (build, how)), seed in itertools.product(chosen.items(), seeds):
        keras.utils.set_random_seed(seed)
        model = build()  # also if the trial is done, so that random numbers go on as they would
        place = supervision.kept(backup, f"{name} {seed}")
        trial = _read(place)
        if trial is None:
            trial = _train(model, how, train, judged, seed, place)
            if not trial.problem:
                trial = _judge(trial, model, learned, validation)
            _write(place, trial)
        if trial.problem:
            print(f"{name}, seed {seed}: {trial.problem}")
            rows.append({"variant": name, "seconds": trial.seconds})
            continue
        histories.setdefault(name, trial.history)
        logits[name].append(trial.logits)
        right = evaluation.accuracy(trial.logits, validation.labels).value
        print(f"{name}, seed {seed}: {right:.1%} in {trial.seconds:.1f} s")
        rows.append(
            {
                "variant": name,
                "training": trial.training,
                "validation": right,
                "seconds": trial.seconds,
            }
        )
    reference, *others = chosen
    gaps: list[dict[str, float | str]] = [{"verdict": "reference"}]
    for name in others:
        if len(logits[name]) < len(seeds) or len(logits[reference]) < len(seeds):
            gaps.append({"verdict": "diverged"})
            continue
        gap = _difference(logits[name], logits[reference], validation.labels)
        ends = {"difference": gap.value, "low": gap.low, "high": gap.high}
        gaps.append({**ends, "verdict": verdict(gap)})
    means = pd.DataFrame(rows).groupby("variant", sort=False).mean()
    table = means.join(pd.DataFrame(gaps, index=list(chosen)))
    columns = ["training", "validation", "difference", "low", "high", "verdict", "seconds"]
    return Comparison(table.reindex(columns=columns), histories)  # none of some if none trains


def views(model: keras.Model, images: Split) -> pd.DataFrame:
    """Return what test-time augmentation brings and costs (notebook 03 introduces it).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to ``(N, 10)`` logits.
        images: What to judge it by.

    Returns:
        A row for each of ``evaluation.VIEWS``, named by the index: ``passes``, how often the model
        looks at an image; ``accuracy``; ``difference`` from one view, with its paired 95% interval
        from ``low`` to ``high``, and the ``verdict``; ``seconds`` for all images.
    """
    one = evaluation.predict_logits(model, images.images)  # what is built once is not timed
    rows = []
    for name, weights in evaluation.VIEWS.items():
        started = time.perf_counter()
        logits = evaluation.predict_logits(model, images.images, views=name)
        seconds = time.perf_counter() - started
        gap = evaluation.difference(logits, one, images.labels)
        row = {
            "views": name,
            "passes": len(weights),
            "accuracy": evaluation.accuracy(logits, images.labels).value,
            "difference": gap.value,
            "low": gap.low,
            "high": gap.high,
            "verdict": "reference" if name == "one" else verdict(gap),
            "seconds": seconds,
        }
        rows.append(row)
    return pd.DataFrame(rows).set_index("views")
