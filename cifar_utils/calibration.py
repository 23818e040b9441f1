"""Are the probabilities right? Reliability, temperature, and which answers to give.

A network is calibrated if of the images it calls a cat with 80% confidence 80% are cats.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy import optimize

from cifar_utils import evaluation
from cifar_utils.confidence import highest_probability
from cifar_utils.errors import CifarUtilsError, ParameterError, nearest
from cifar_utils.evaluation import Interval

Bins = Literal["width", "mass"]
"""How confidences are grouped: bins of one width, or of as many images each."""


def _binned(confidence: np.ndarray, bins: int, kind: Bins) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of bins from 0 to 1, and the bin of each confidence, int64 ``(N,)``."""
    if kind not in ("width", "mass"):
        raise ParameterError(f"unknown bins {kind!r}{nearest(kind, ['width', 'mass'])}")
    if bins < 1:
        raise ParameterError(f"bins is {bins}; expected at least 1")
    edges = np.linspace(0, 1, bins + 1)
    if kind == "mass":
        edges = np.unique([0.0, *np.quantile(confidence, edges[1:-1]), 1.0])
    return edges, np.clip(np.searchsorted(edges, confidence) - 1, 0, len(edges) - 2)


def reliability(
    logits: np.ndarray, labels: np.ndarray, *, bins: int = 15, kind: Bins = "width"
) -> pd.DataFrame:
    """Return confidence beside accuracy, by bins of confidence (notebook 06 introduces it).

    Args:
        logits: float ``(N, K)``.
        labels: int64 ``(N,)``.
        bins: How many at most.
        kind: ``width`` for bins of one width, ``mass`` for as many images each.

    Returns:
        A row for each bin that has images: its ends ``from`` and ``to``; mean ``confidence``;
        ``accuracy`` with its 95% interval from ``low`` to ``high``; ``images``.

    Raises:
        ParameterError: There are no such bins.
    """
    right, confidence = evaluation.right(logits, labels), highest_probability(logits)
    edges, place = _binned(confidence, bins, kind)
    rows = []
    for number in np.unique(place):
        inside = place == number
        share = evaluation.wilson(int(right[inside].sum()), int(inside.sum()))
        rows.append(
            {
                "from": edges[number],
                "to": edges[number + 1],
                "confidence": confidence[inside].mean(),
                "accuracy": share.value,
                "low": share.low,
                "high": share.high,
                "images": int(inside.sum()),
            }
        )
    return pd.DataFrame(rows)


def _error(excess: np.ndarray, place: np.ndarray) -> float:
    """Return the mean distance of confidence from accuracy over bins.

    Args:
        excess: Confidence minus whether the answer is right, ``(N,)``.
        place: The bin of each, int64 ``(N,)``.
    """
    return float(np.abs(np.bincount(place, excess)).sum() / len(excess))


def calibration_error(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    bins: int = 15,
    kind: Bins = "width",
    resamples: int = 1000,
) -> Interval:
    """Return the expected calibration error with its 95% interval (notebook 06 introduces it).

    The mean distance of confidence from accuracy over bins, weighted by their images (Guo et al.,
    arXiv 1706.04599; bins of equal mass: Nixon et al., arXiv 1904.01685). The estimate is never
    below zero and therefore too high for few images. The interval is of basic bootstrap type: it
    covers an error that is well above what chance alone gives, see ``error_by_chance``.

    Args:
        logits: float ``(N, K)``.
        labels: int64 ``(N,)``.
        bins: How many at most.
        kind: ``width`` for bins of one width, ``mass`` for as many images each.
        resamples: Number of bootstrap samples.

    Raises:
        ParameterError: There are no such bins.
    """
    confidence = highest_probability(logits)
    excess, count = confidence - evaluation.right(logits, labels), len(labels)
    _, place = _binned(confidence, bins, kind)
    found = _error(excess, place)
    generator = np.random.default_rng(0)
    drawn = [
        _error(excess * np.bincount(generator.integers(0, count, count), minlength=count), place)
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(found, max(0.0, 2 * found - high), max(0.0, 2 * found - low))


def error_by_chance(
    logits: np.ndarray, *, bins: int = 15, kind: Bins = "width", draws: int = 500
) -> float:
    """Return the calibration error that a calibrated model stays below in 95% of cases.

    A model with these confidences that is right as often as it says, on as many images: drawn
    many times. An error below this says nothing against the probabilities.

    Args:
        logits: float ``(N, K)``.
        bins: How many at most.
        kind: As for ``calibration_error``.
        draws: How often.

    Raises:
        ParameterError: There are no such bins.
    """
    confidence = highest_probability(logits)
    _, place = _binned(confidence, bins, kind)
    generator = np.random.default_rng(0)
    errors = [
        _error(confidence - (generator.random(len(confidence)) < confidence), place)
        for _ in range(draws)
    ]
    return float(np.quantile(errors, 0.95))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the number to divide logits by so that the probabilities fit (notebook 06).

    The one with the lowest log loss on these images (Guo et al., arXiv 1706.04599). Above 1, the
    network was too sure. No prediction changes.

    Args:
        logits: float ``(N, K)`` on validation images, which were not trained on.
        labels: int64 ``(N,)``.

    Returns:
        A temperature between 0.01 and 100.

    Raises:
        CifarUtilsError: Logits and labels do not belong together, or are not finite.
    """
    if not np.isfinite(logits).all():
        raise CifarUtilsError("the logits are not all finite; the model has diverged, train again")
    found = optimize.minimize_scalar(
        lambda power: evaluation.log_loss(logits / np.exp(power), labels),
        bounds=(np.log(0.01), np.log(100)),
        method="bounded",
        options={"xatol": 1e-5},
    )
    return float(np.exp(found.x))


def selective(logits: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return accuracy if only the surest answers are given (notebook 06 introduces it).

    Args:
        logits: float ``(N, K)``.
        labels: int64 ``(N,)``.

    Returns:
        A row for each confidence that occurs, the highest first: ``threshold``, the confidence
        from which on an answer is given; ``coverage``, the share of images that get one;
        ``accuracy`` among those. The last row has all images.
    """
    right, confidence = evaluation.right(logits, labels), highest_probability(logits)
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(labels) + 1)
    last = np.append(np.diff(confidence[order]) != 0, True)
    return pd.DataFrame(
        {
            "threshold": confidence[order],
            "coverage": answered / len(labels),
            "accuracy": right[order].cumsum() / answered,
        }
    )[last].reset_index(drop=True)


def coverage_at(curve: pd.DataFrame, accuracy: float) -> float:
    """Return the largest share of images that can be answered with an accuracy.

    Args:
        curve: What ``selective`` returned.
        accuracy: Wanted among the answers, 0 to 1.

    Returns:
        A coverage; 0 if no threshold gives the accuracy.
    """
    enough = curve.loc[curve["accuracy"] >= accuracy, "coverage"]
    return float(enough.max()) if len(enough) else 0.0


def summary(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, temperatures: Mapping[str, float]
) -> pd.DataFrame:
    """Return what a temperature mends, model by model (notebook 06 introduces it).

    Args:
        logits: float ``(N, K)`` of each model on the same images.
        labels: int64 ``(N,)``.
        temperatures: What ``fit_temperature`` returned for each on other images.

    Returns:
        A row a model, named by the index: ``temperature``; calibration error ``before`` and
        ``after``, with its interval, after with bins of equal mass, and what a calibrated model
        stays below ``by chance``; ``answered_at_95``, the
        share of images that can be answered with an accuracy of 95%.
    """
    rows = {}
    for name, outputs in logits.items():
        mended = outputs / temperatures[name]
        rows[name] = {
            "temperature": temperatures[name],
            "before": str(calibration_error(outputs, labels)),
            "after": str(calibration_error(mended, labels)),
            "by chance": f"{error_by_chance(mended):.1%}",
            "after, equal mass": str(calibration_error(mended, labels, kind="mass")),
            "answered_at_95": coverage_at(selective(mended, labels), 0.95),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
