"""Judging models from their logits: accuracy with its interval, scores a class, differences."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from scipy import cluster, spatial, special, stats
from sklearn import metrics

from cifar_utils import batches
from cifar_utils.errors import CifarUtilsError, ParameterError, nearest

Z95 = 1.959963984540054
"""The normal quantile of a two-sided 95% interval."""


class Interval(NamedTuple):
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the three in percent, such as ``71.2% [69.9, 72.4]``."""
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


VIEWS: dict[str, dict[tuple[int, int, bool], float]] = {
    "one": {(1, 1, False): 1.0},
    "mirror": {(1, 1, False): 0.5, (1, 1, True): 0.5},
    "crops": {
        (row, row, mirrored): weight
        for row, weight in ((1, 0.25), (0, 0.125), (2, 0.125))
        for mirrored in (False, True)
    },
}
"""Test-time augmentation: views of an image (row and column of the crop after one pixel of mirrored
padding, mirrored or not) and the weight of each; ``crops`` is that of arXiv 2404.00498."""


def predict_logits(
    model: keras.Model, images: np.ndarray, batch_size: int = 250, *, views: str = "one"
) -> np.ndarray:
    """Return the model's outputs, averaged over several views of each image if asked for.

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to ``(N, 10)`` logits.
        images: uint8 ``(N, 32, 32, 3)``.
        batch_size: Images at a time; changes speed and memory, not the result.
        views: A key of ``VIEWS`` (notebook 03 introduces them).

    Returns:
        float32 ``(N, 10)``.

    Raises:
        ParameterError: No set of views has that name.
    """
    if views not in VIEWS:
        raise ParameterError(f"unknown views {views!r}{nearest(views, list(VIEWS))}")
    if views == "one":
        return batches.predict(model, images, batch_size)
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    total = np.zeros((len(images), *model.output_shape[1:]), np.float32)
    for (row, column, mirrored), weight in VIEWS[views].items():
        view = padded[:, row : row + height, column : column + width]
        view = view[:, :, ::-1] if mirrored else view
        total += weight * batches.predict(model, view, batch_size)
    return total


def latency(model: keras.Model, image: np.ndarray, repeats: int = 20) -> float:
    """Return the seconds from one image to its logits, the median of several (notebook 06).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to logits.
        image: uint8 ``(32, 32, 3)``.
        repeats: How often it is timed, after three that do not count.
    """
    seconds = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        model.predict_on_batch(image[None])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[3:])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float32 ``(N, K)``, each row summing to one."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)


def wilson(right: int, n: int) -> Interval:
    """Return a share with its 95% Wilson score interval (Wilson 1927).

    Args:
        right: Number of successes, 0 to ``n``.
        n: Number of trials, at least 1.
    """
    if not 0 <= right <= n or n < 1:
        raise CifarUtilsError(f"{right} right of {n}: expected 0 <= right <= n and n >= 1")
    share, z2 = right / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    """Refuse logits and labels that do not belong together."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise CifarUtilsError(
            f"logits {logits.shape} and labels {labels.shape}: expected (N, K) and (N,), N >= 1"
        )


def right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which predictions are right, bool ``(N,)``."""
    _check(logits, labels)
    return logits.argmax(axis=1) == labels


def accuracy(logits: np.ndarray, labels: np.ndarray) -> Interval:
    """Return the share of right predictions with its 95% Wilson interval."""
    return wilson(int(right(logits, labels).sum()), len(labels))


def accuracy_fields(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | int]:
    """Return accuracy, its interval and n under the names a leaderboard row uses."""
    found = accuracy(logits, labels)
    return {
        "accuracy": found.value,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        "n": len(labels),
    }


def without(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, left_out: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Return how accurate models are on the images that are beyond doubt (notebook 06).

    Args:
        logits: float ``(N, K)`` of each model on the same images.
        labels: int64 ``(N,)``.
        left_out: Indices of the images to leave out, by why.

    Returns:
        A row for each reason and model, named by the index: ``accuracy`` with its interval and
        ``n``, as ``accuracy_fields``, and ``change`` against that on all images.

    Raises:
        ParameterError: Nothing would be left.
    """
    rows = {}
    for reason, places in left_out.items():
        kept = np.delete(np.arange(len(labels)), np.asarray(places, np.int64))
        if not len(kept):
            raise ParameterError(f"without {reason} no image is left; expected at least one")
        for name, outputs in logits.items():
            fields = accuracy_fields(outputs[kept], labels[kept])
            change = fields["accuracy"] - accuracy(outputs, labels).value
            rows[reason, name] = {**fields, "change": change}
    table = pd.DataFrame.from_dict(rows, orient="index").astype({"n": int})
    table.index = pd.MultiIndex.from_tuples(table.index, names=["left_out", "model"])
    return table


def top_k(logits: np.ndarray, labels: np.ndarray, k: int = 2) -> Interval:
    """Return the share of images whose class is among the ``k`` most likely, Wilson interval.

    Of equal logits those of the lower classes count as more likely, as for ``argmax``.

    Raises:
        ParameterError: There are not as many classes.
    """
    _check(logits, labels)
    if not 1 <= k <= logits.shape[1]:
        raise ParameterError(f"k is {k}; expected 1 to {logits.shape[1]}, the number of classes")
    likely = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return wilson(int((likely == labels[:, None]).any(axis=1).sum()), len(labels))


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats."""
    _check(logits, labels)
    likelihoods = special.log_softmax(logits.astype(np.float64), axis=1)
    return float(-likelihoods[np.arange(len(labels)), labels].mean())


def brier_score(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean squared distance of the probabilities from the truth, 0 to 2 (Brier 1950)."""
    _check(logits, labels)
    distances = special.softmax(logits.astype(np.float64), axis=1)
    distances[np.arange(len(labels)), labels] -= 1
    return float((distances**2).sum(axis=1).mean())


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return all that one number can say about a model (notebook 06 introduces it).

    Args:
        logits: float ``(N, K)``.
        labels: int64 ``(N,)``.

    Returns:
        ``accuracy`` and ``top_2``, shares; ``precision``, ``recall`` and ``f1``, means over the
        classes; ``log_loss`` in nats; ``brier``, 0 to 2.
    """
    names = tuple(str(place) for place in range(logits.shape[1]))
    average = class_report(logits, labels, names).loc["macro average"].to_dict()
    return {
        "accuracy": accuracy(logits, labels).value,
        "top_2": top_k(logits, labels, 2).value,
        **{name: average[name] for name in ("precision", "recall", "f1")},
        "log_loss": log_loss(logits, labels),
        "brier": brier_score(logits, labels),
    }


def mcnemar(logits: np.ndarray, other: np.ndarray, labels: np.ndarray) -> float:
    """Return how likely a gap as large is, were both models as good (McNemar 1947, exact).

    Only images on which exactly one of them is right count; were both as good, either would win
    half of those. Arguments are those of ``difference``.
    """
    first, second = right(logits, labels), right(other, labels)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values that allow for how many there are (Holm 1979), in the order given."""
    ranked = np.argsort(p, kind="stable")
    steps = np.asarray(p, float)[ranked] * np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[ranked] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found.tolist()


def against(logits: dict[str, np.ndarray], labels: np.ndarray, reference: str) -> pd.DataFrame:
    """Set one model against each of the others (notebook 06 introduces it).

    Args:
        logits: float ``(N, K)`` of each model on the same images.
        labels: int64 ``(N,)``.
        reference: A key of ``logits``.

    Returns:
        A row for each other model, named by the index: ``difference`` in accuracy, the reference
        minus the other, with its paired 95% interval from ``low`` to ``high``; McNemar's ``p``,
        and ``p_holm``, the same allowing for the number of comparisons (Holm 1979); ``verdict``:
        ``different`` if that is below 0.05, else ``within noise``.
    """
    rows = {}
    for name in logits.keys() - {reference}:
        gap = difference(logits[reference], logits[name], labels)
        p = mcnemar(logits[reference], logits[name], labels)
        rows[name] = {"difference": gap.value, "low": gap.low, "high": gap.high, "p": p}
    columns = ["difference", "low", "high", "p"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table["p_holm"] = holm(table["p"].tolist())
    table["verdict"] = np.where(table["p_holm"] < 0.05, "different", "within noise")
    return table.loc[[name for name in logits if name != reference]]


def reasons(
    board: pd.DataFrame, differences: pd.DataFrame, chosen: str, costs: Mapping[str, str]
) -> list[str]:
    """Return what speaks for a model and what against it, in sentences (notebook 06).

    Args:
        board: A row a model, named by the index: ``failed_tests`` and a column for each cost.
        differences: What ``against`` returned for the chosen model.
        chosen: The model with the highest validation accuracy.
        costs: Column to what it is, with its unit.
    """
    found = [f"{chosen} had the highest validation accuracy."]
    same = differences["verdict"] == "within noise"
    ahead = differences.index[~same & (differences["difference"] > 0)]
    behind = differences.index[~same & (differences["difference"] < 0)]
    if len(ahead):
        found.append(f"On test it is better than {', '.join(ahead)}.")
    if len(behind):
        found.append(f"On test {', '.join(behind)} is better, so validation misled us.")
    prices = board[list(costs)].astype(float)
    shares = prices / prices.loc[chosen]
    for name in differences.index[same]:
        cheaper = [
            f"{share:.0%} of its {costs[str(cost)]}"
            for cost, share in shares.loc[name].items()
            if share < 0.5
        ]
        if cheaper:
            found.append(f"{name} is within noise of it for {' and '.join(cheaper)}.")
        else:
            found.append(f"{name} is within noise of it and not much cheaper.")
    failed = int(board["failed_tests"].astype(int)[chosen])
    kind = "test" if failed == 1 else "tests"
    found.append(
        f"It fails {failed} {kind} of behaviour: look at them before anyone relies on it."
        if failed
        else "It passes all tests of behaviour."
    )
    return found


def difference(
    logits: np.ndarray, other: np.ndarray, labels: np.ndarray, *, resamples: int = 10_000
) -> Interval:
    """Return accuracy of ``logits`` minus accuracy of ``other`` with its paired 95% interval.

    Both models saw the same images, so images are resampled, not models: a paired bootstrap
    (Efron and Tibshirani 1993). Only the images on which exactly one model is right matter, so a
    resample is one multinomial draw.

    Args:
        logits: float ``(N, K)`` of one model.
        other: float ``(N, K)`` of the other, on the same images.
        labels: int64 ``(N,)``.
        resamples: Number of bootstrap samples.
    """
    first, second = right(logits, labels), right(other, labels)
    n = len(labels)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    shares = np.array([gained, lost, n - gained - lost]) / n
    draws = np.random.default_rng(0).multinomial(n, shares, size=resamples)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return Interval((gained - lost) / n, float(low), float(high))


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return counts, int64 ``(K, K)``: true class by row, predicted class by column."""
    _check(logits, labels)
    classes = np.arange(logits.shape[1])
    return metrics.confusion_matrix(labels, logits.argmax(axis=1), labels=classes)


def class_report(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """Return precision, recall, F1 and support, a row a class and a macro average.

    A class that is never predicted has precision 0.
    """
    _check(logits, labels)
    scores = metrics.precision_recall_fscore_support(
        labels, logits.argmax(axis=1), labels=np.arange(len(names)), zero_division=0
    )
    frame = pd.DataFrame(
        dict(zip(("precision", "recall", "f1", "support"), scores, strict=True)), index=list(names)
    )
    average = frame[["precision", "recall", "f1"]].mean()
    frame.loc["macro average"] = [*average, frame["support"].sum()]
    return frame.astype({"support": int})


def class_order(matrix: np.ndarray) -> list[int]:
    """Return the classes so that those that get confused stand together (notebook 06).

    Average linkage on how often two classes are taken for each other, leaves in optimal order
    (Bar-Joseph et al. 2001).

    Args:
        matrix: Counts ``(K, K)``, true class by row.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    likeness = (shares + shares.T) / 2
    np.fill_diagonal(likeness, 0)
    distances = spatial.distance.squareform(likeness.max() - likeness, checks=False)
    tree = cluster.hierarchy.linkage(distances, "average", optimal_ordering=True)
    return [int(place) for place in cluster.hierarchy.leaves_list(tree)]


def most_confused(matrix: np.ndarray, names: tuple[str, ...], count: int = 5) -> pd.DataFrame:
    """Return the ordered class pairs confused most often: true, predicted, images."""
    errors = matrix.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(errors, axis=None, kind="stable")[::-1][:count]
    rows, columns = np.unravel_index(order, errors.shape)
    return pd.DataFrame(
        {
            "true": [names[row] for row in rows],
            "predicted": [names[column] for column in columns],
            "images": errors[rows, columns],
        }
    )


def confident_mistakes(logits: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of at most ``count`` wrong predictions, the most confident first."""
    wrong = np.flatnonzero(~right(logits, labels))
    confidence = softmax(logits[wrong]).max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def mistakes_by_pair(
    logits: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    *,
    pairs: int = 5,
    each: int = 8,
) -> dict[str, np.ndarray]:
    """Return the mistakes of the class pairs confused most (notebook 06 introduces it).

    Args:
        logits: float ``(N, K)``.
        labels: int64 ``(N,)``.
        names: Of the K classes.
        pairs: How many pairs, the most frequent first; fewer if fewer are confused.
        each: How many images of each at most.

    Returns:
        Indices, the most confident mistakes first, by a title of two lines: the pair, and how many
        images it has.
    """
    surest = confident_mistakes(logits, labels, len(labels))
    true, predicted = labels[surest], logits[surest].argmax(axis=1)
    found = {}
    confused = most_confused(confusion_matrix(logits, labels), names, pairs)
    for label, answer, images in confused.itertuples(index=False, name=None):
        if images:
            here = (true == names.index(label)) & (predicted == names.index(answer))
            found[f"{label} taken for {answer}\n{images} images"] = surest[here][:each]
    return found
