"""Small experiments: the same training again with one thing changed, and what that changed."""

import contextlib
import dataclasses
import functools
import io
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import stats

from cifar_utils import evaluation, training
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


def compare(
    variants: Mapping[str, Variant],
    train: Split,
    validation: Split,
    *,
    seeds: Sequence[int] = (0,),
    most: int | None = None,
    curves: bool = False,
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
    logits: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    histories: dict[str, pd.DataFrame] = {}
    rows: list[dict[str, Any]] = []
    for (name, (build, how)), seed in itertools.product(chosen.items(), seeds):
        keras.utils.set_random_seed(seed)
        model, started = build(), time.perf_counter()
        fit = trainer(how)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a line an epoch would be too many
                fitted = fit(model, train, validation if curves else None, seed=seed)
        except DivergedError as error:
            print(f"{name}, seed {seed}: {str(error).partition(';')[0]}")
            rows.append({"variant": name, "seconds": time.perf_counter() - started})
            continue
        histories.setdefault(name, fitted.history)
        logits[name].append(evaluation.predict_logits(model, validation.images))
        row = {
            "variant": name,
            "training": evaluation.accuracy(
                evaluation.predict_logits(model, learned.images), learned.labels
            ).value,
            "validation": evaluation.accuracy(logits[name][-1], validation.labels).value,
            "seconds": fitted.seconds,
        }
        print(f"{name}, seed {seed}: {row['validation']:.1%} in {row['seconds']:.1f} s")
        rows.append(row)
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
