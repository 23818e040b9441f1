"""Does the model notice pictures that are none of its ten classes?

A score is higher for what looks like the training images. Three are compared: the highest
probability, the energy, and the distance from the training images in the network's own features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from sklearn import metrics

from cifar_utils import evaluation, explain, models, training
from cifar_utils.confidence import FROM_LOGITS
from cifar_utils.data import Split
from cifar_utils.errors import DataError, ParameterError
from cifar_utils.recipes import Recipe

TILE = 8
"""Side in pixels of the tiles of which a scrambled image is put together."""


def feature_nearness(known: np.ndarray, features: np.ndarray, neighbours: int = 10) -> np.ndarray:
    """Return minus the distance to the k-th nearest known feature, ``(N,)``.

    Features are scaled to length one first (Sun et al., arXiv 2204.06507).

    Args:
        known: float ``(M, D)``, of training images.
        features: float ``(N, D)``.
        neighbours: Which neighbour's distance counts, 1 to M.

    Raises:
        ParameterError: There are not as many.
        DataError: The features are of different widths, or not finite.
    """
    return -explain.neighbours(known, features, neighbours)[0][:, -1]


class Detection(NamedTuple):
    """How well a score tells images apart.

    Attributes:
        auroc: Chance that an image of the classes scores higher than another one; 0.5 is guessing.
        fpr95: Share of other images that pass where 95% of the images of the classes do.
    """

    auroc: float
    fpr95: float


def detection(inside: np.ndarray, outside: np.ndarray) -> Detection:
    """Return how well scores tell images of the classes from others (notebook 06).

    Args:
        inside: Scores of images of the classes, ``(N,)``.
        outside: Scores of others, ``(M,)``.

    Raises:
        DataError: There are none of one kind.
    """
    if not len(inside) or not len(outside):
        raise DataError(f"{len(inside)} scores inside and {len(outside)} outside: expected some")
    truth = np.repeat([1, 0], [len(inside), len(outside)])
    area = metrics.roc_auc_score(truth, np.concatenate([inside, outside]))
    return Detection(float(area), float((outside >= threshold(inside)).mean()))


def threshold(inside: np.ndarray, keep: float = 0.95) -> float:
    """Return the score from which on an image is answered, so that a share of the known ones is.

    Args:
        inside: Scores of validation images, ``(N,)``.
        keep: Share to answer, above 0 to 1.

    Raises:
        ParameterError: The share is none.
    """
    if not 0 < keep <= 1:
        raise ParameterError(f"keep is {keep}; expected a share above 0, at most 1")
    ranked = np.sort(inside)[::-1]
    return float(ranked[int(np.ceil(keep * len(ranked))) - 1])


def outsiders(images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Return pictures of nothing, as many of each kind as there are images (notebook 06).

    Args:
        images: uint8 ``(N, H, W, 3)``; the scrambled ones are made of them.
        seed: Of all that is drawn.

    Returns:
        uint8 ``(N, H, W, 3)`` by name: ``noise``, every value drawn on its own; ``flat colour``;
        ``scrambled``, tiles of 8 x 8 pixels in another order, with all the colours and textures
        of an image and none of its shape.

    Raises:
        DataError: The sides are no multiples of 8.
    """
    count, height, width, channels = images.shape
    if height % TILE or width % TILE:
        raise DataError(f"images {images.shape}: expected sides that are multiples of {TILE}")
    generator = np.random.default_rng(seed)
    rows, columns = height // TILE, width // TILE
    tiles = images.reshape(count, rows, TILE, columns, TILE, channels).swapaxes(2, 3)
    tiles = tiles.reshape(count, rows * columns, TILE, TILE, channels)
    order = generator.permuted(np.tile(np.arange(rows * columns), (count, 1)), axis=1)
    mixed = np.take_along_axis(tiles, order[:, :, None, None, None], axis=1)
    mixed = mixed.reshape(count, rows, columns, TILE, TILE, channels).swapaxes(2, 3)
    colours = generator.integers(0, 256, (count, 1, 1, channels), dtype=np.uint8)
    return {
        "noise": generator.integers(0, 256, images.shape, dtype=np.uint8),
        "flat colour": np.broadcast_to(colours, images.shape).copy(),
        "scrambled": mixed.reshape(images.shape),
    }


def scores(model: keras.Model, known: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the three scores of a model for images (notebook 06 introduces it).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to logits, see ``explain.last_features``.
        known: What its ``last_features`` are of training images, float ``(M, D)``.
        images: uint8 ``(N, 32, 32, 3)``.

    Returns:
        By name, float ``(N,)``; higher for what looks like the classes.
    """
    logits = evaluation.predict_logits(model, images)
    seen = evaluation.predict_logits(explain.last_features(model), images)
    found = {name: score(logits) for name, score in FROM_LOGITS.items()}
    return {**found, "nearness of features": feature_nearness(known, seen)}


def never_seen(
    train: Split,
    test: Split,
    classes: Sequence[int],
    recipe: Recipe,
    *,
    seed: int,
    backup: Path | None = None,
) -> dict[str, Detection]:
    """Return how well a network notices classes that it was not trained on (notebook 06).

    Args:
        train: What a small network learns from, less the classes.
        test: What it is asked about.
        classes: Labels to leave out.
        recipe: How to train it.
        seed: Of weights, order and augmentation.
        backup: Folder for the state, see ``training.fit``.

    Returns:
        By name of the score.
    """
    keras.utils.set_random_seed(seed)
    model, kept = models.build("baseline_cnn"), ~np.isin(train.labels, classes)
    learned = Split(train.images[kept], train.labels[kept])
    training.fit(model, learned, None, recipe, seed=seed, backup=backup)
    known = evaluation.predict_logits(explain.last_features(model), train.images[kept])
    inside = ~np.isin(test.labels, classes)
    return {
        name: detection(found[inside], found[~inside])
        for name, found in scores(model, known, test.images).items()
    }


def table(
    inside: Mapping[str, np.ndarray], outside: Mapping[str, Mapping[str, np.ndarray]]
) -> pd.DataFrame:
    """Return how well each score tells the classes' images from each kind of others (notebook 06).

    Args:
        inside: By name of the score, the scores of images of the classes, ``(N,)``.
        outside: By kind, then by name of the score, the scores of others, ``(M,)``.

    Returns:
        A row for each score and kind: ``score``, ``kind``, ``auroc``, ``fpr95``.
    """
    rows = [
        {"score": score, "kind": kind, **detection(known, scores[score])._asdict()}
        for score, known in inside.items()
        for kind, scores in outside.items()
    ]
    return pd.DataFrame(rows, columns=["score", "kind", "auroc", "fpr95"])


def serving(
    detected: pd.DataFrame,
    logits: Mapping[str, np.ndarray],
    temperatures: Mapping[str, float],
    *,
    keep: float = 0.95,
) -> dict[str, Any]:
    """Return what has to be known to serve models (notebook 06 introduces it).

    Args:
        detected: What ``table`` returned.
        logits: Of validation images, float ``(N, K)``, by model.
        temperatures: What ``calibration.fit_temperature`` returned, by model.
        keep: Share of validation images that a model still answers.

    Returns:
        ``score``: of ``FROM_LOGITS``, the one with the highest mean AUROC. ``models``: by name
        ``temperature``, to divide logits by for probabilities, and ``least_score``, of the logits
        as they are, below which a picture counts as none of the classes.
    """
    usable = detected[detected["score"].isin(list(FROM_LOGITS))]
    score = str(usable.groupby("score")["auroc"].mean().idxmax())
    models = {
        name: {
            "temperature": temperatures[name],
            "least_score": threshold(FROM_LOGITS[score](outputs), keep),
        }
        for name, outputs in logits.items()
    }
    return {"score": score, "models": models}
