"""What a model does when the pictures change a little: by accident, on purpose, and not at all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from cifar_utils import adversarial, corruptions, evaluation, native
from cifar_utils.data import Split
from cifar_utils.errors import ParameterError


def corrupted(
    models: Mapping[str, keras.Model],
    split: Split,
    *,
    names: Sequence[str] = tuple(corruptions.CORRUPTIONS),
    severities: Sequence[int] = corruptions.SEVERITIES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return accuracy on corrupted images (notebook 06 introduces it).

    Args:
        models: From uint8 images to logits, by name.
        split: Images and labels; all models get the same corrupted images.
        names: Keys of ``corruptions.CORRUPTIONS``.
        severities: 1 to 5.
        seed: Of what the corruptions draw.

    Returns:
        A row for each model, corruption and severity: ``model``, ``family``, ``corruption``,
        ``severity``, ``accuracy``, ``low``, ``high``, ``n``.

    Raises:
        ParameterError: There is no such corruption or severity.
    """
    family = {name: title for title, members in corruptions.FAMILIES.items() for name in members}
    kinds = [(name, severity) for name in names for severity in severities]
    images = np.concatenate([corruptions.corrupt(split.images, *kind, seed=seed) for kind in kinds])
    rows = []
    for title, model in models.items():
        # All at once: each call of `predict` costs about as much as a few hundred images.
        logits = evaluation.predict_logits(model, images)
        for (name, severity), part in zip(kinds, np.split(logits, len(kinds)), strict=True):
            found = evaluation.accuracy(part, split.labels)
            rows.append(
                {
                    "model": title,
                    "family": family[name],
                    "corruption": name,
                    "severity": severity,
                    "accuracy": found.value,
                    "low": found.low,
                    "high": found.high,
                    "n": len(split),
                }
            )
    return pd.DataFrame(rows)


_BATCH = 100
"""Images that are attacked at a time."""


def attack(
    model: keras.Model,
    split: Split,
    epsilon: float,
    *,
    steps: int = 1,
    seed: int = 0,
    batch_size: int = _BATCH,
) -> np.ndarray:
    """Return images moved so that the model errs, by at most ``epsilon`` grey levels a value.

    With one step the fast gradient sign method (Goodfellow et al., arXiv 1412.6572); with more,
    projected gradient descent from a random start (Madry et al., arXiv 1706.06083). Notebook 06
    introduces it.

    Args:
        model: From uint8 ``(N, H, W, 3)`` images to logits.
        split: Images and labels.
        epsilon: Most that a value may move, in grey levels of 255.
        steps: How often the gradient is asked; one moves values by epsilon, more by a quarter each.
        seed: Of the random start.
        batch_size: Images at a time.

    Returns:
        uint8 ``(N, H, W, 3)``.

    Raises:
        ParameterError: Epsilon or the number of steps is not above 0.
    """
    if epsilon <= 0 or steps < 1:
        raise ParameterError(f"epsilon {epsilon} and steps {steps}: expected both above 0")
    return _attack(_uphill(model), split, epsilon, steps, seed, batch_size)


def _uphill(model: keras.Model) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Return what gives the gradient of a model's loss at float32 images, for their labels."""
    twin = adversarial.float_twin(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def uphill(images: Any, labels: Any) -> Any:
        return native.gradient(
            lambda seen: ops.sum(loss(labels, twin(seen, training=False))), images
        )

    return native.compiled(uphill)


def _attack(
    uphill: Callable[[np.ndarray, np.ndarray], Any],
    split: Split,
    epsilon: float,
    steps: int,
    seed: int,
    batch_size: int,
) -> np.ndarray:
    """Return images moved uphill; see ``attack``."""
    size = epsilon if steps == 1 else epsilon / 4
    generator = np.random.default_rng(seed)
    found = np.empty(split.images.shape, np.uint8)
    for start in range(0, len(split), batch_size):
        clean = split.images[start : start + batch_size].astype(np.float32)
        labels = split.labels[start : start + batch_size]
        moved = clean
        if steps > 1:
            shifts = generator.uniform(-epsilon, epsilon, clean.shape)
            moved = np.clip(clean + shifts, 0, 255).astype(np.float32)
        for _ in range(steps):
            moved = moved + np.float32(size) * np.sign(np.asarray(uphill(moved, labels)))
            moved = np.clip(np.clip(moved, clean - epsilon, clean + epsilon), 0, 255)
        # Rounded towards the clean image, or half a grey level could leave the allowed range.
        found[start : start + batch_size] = clean + np.trunc(moved - clean)
    return found


ATTACKS = {
    "one step, 2 levels": (2.0, 1),
    "ten steps, 2 levels": (2.0, 10),
    "ten steps, 8 levels": (8.0, 10),
}
"""Most that a value moves, in grey levels of 255, and the number of steps, by name."""


def attacked(models: Mapping[str, keras.Model], split: Split, *, seed: int = 0) -> pd.DataFrame:
    """Return accuracy on images moved against each model itself (notebook 06 introduces it).

    Args:
        models: From uint8 images to logits, by name.
        split: Images and labels.
        seed: Of the random starts.

    Returns:
        A row a model, named by the index; a column for each of ``ATTACKS``.
    """
    found: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        found[name], uphill = {}, _uphill(model)
        for title, (epsilon, steps) in ATTACKS.items():
            moved = _attack(uphill, split, epsilon, steps, seed, _BATCH)
            logits = evaluation.predict_logits(model, moved)
            found[name][title] = evaluation.accuracy(logits, split.labels).value
    return pd.DataFrame.from_dict(found, orient="index")


def _shifted(rows: int, columns: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what moves images by whole pixels, mirrored at the edges."""

    def move(images: np.ndarray) -> np.ndarray:
        most = max(abs(rows), abs(columns))
        padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
        height, width = images.shape[1:3]
        top, left = most - rows, most - columns
        return padded[:, top : top + height, left : left + width]

    return move


def _smaller(images: np.ndarray) -> np.ndarray:
    """Return the middle 28 of 32 pixels, as large as the whole."""
    height, width = images.shape[1:3]
    inner = images[:, height // 16 : -height // 16, width // 16 : -width // 16]
    return np.asarray(
        ops.cast(ops.round(ops.image.resize(ops.cast(inner, "float32"), (height, width))), "uint8")
    )


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": lambda images: images[:, :, ::-1],
    "one pixel right": _shifted(0, 1),
    "two pixels down": _shifted(2, 0),
    "a seventh larger": _smaller,
}
"""Changes that leave the answer as it was: to a person these are the same pictures."""


def consistency(model: keras.Model, images: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """Return how often the answer stays under changes that should not matter (notebook 06).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to logits.
        images: uint8 ``(N, 32, 32, 3)``.
        logits: Those of the unchanged images, float ``(N, K)``.

    Returns:
        A row for each of ``CHANGES``: ``change``, ``same``, the share of images with the same
        answer, with its 95% interval from ``low`` to ``high``.
    """
    answers, rows = logits.argmax(axis=1), []
    changed = np.concatenate([change(images) for change in CHANGES.values()])
    found = evaluation.predict_logits(model, changed)
    for name, part in zip(CHANGES, np.split(found, len(CHANGES)), strict=True):
        same = evaluation.accuracy(part, answers)
        rows.append({"change": name, "same": same.value, "low": same.low, "high": same.high})
    return pd.DataFrame(rows)


LIMITS = {
    "mirrored": 0.8,
    "one pixel right": 0.9,
    "two pixels down": 0.8,
    "a seventh larger": 0.75,
}
"""Least share of answers that must stay as they are under each of ``CHANGES``."""


def behaviour(
    logits: np.ndarray, labels: np.ndarray, consistent: pd.DataFrame, spoiled: pd.DataFrame
) -> pd.DataFrame:
    """Return what a model must and must not do, and whether it does (notebook 06 introduces it).

    Tests as for software (Ribeiro et al., arXiv 2005.04118): invariance, the answer stays under
    changes that do not matter; direction, no corruption makes for better answers when it is severe
    than when it is mild, by more than chance would; and a least that every class can expect, half
    of the mean recall.

    Args:
        logits: float ``(N, K)`` of the model.
        labels: int64 ``(N,)``.
        consistent: What ``consistency`` returned for it.
        spoiled: Its rows of what ``corrupted`` returned, of at least two severities.

    Returns:
        A row a test: ``test``, ``value``, ``limit``, ``passed``.
    """
    rows = [
        (f"same answer when {change}", same, LIMITS[change])
        for change, same in zip(consistent["change"], consistent["same"], strict=True)
    ]
    recalls = np.diag(evaluation.confusion_matrix(logits, labels)) / np.maximum(
        np.bincount(labels, minlength=logits.shape[1]), 1
    )
    rows.append(("lowest recall of a class", recalls.min(), recalls.mean() / 2))
    levels = spoiled.groupby(["corruption", "severity"])["accuracy"].mean().unstack()
    fallen = (levels.iloc[:, 0] - levels.iloc[:, -1]).min()
    # Two standard errors of a difference of two shares, at their largest.
    noise = 2 * np.sqrt(0.5 / spoiled["n"].min())
    rows.append(("accuracy lost to any corruption", fallen, -noise))
    table = pd.DataFrame(rows, columns=["test", "value", "limit"])
    return table.assign(passed=table["value"] >= table["limit"])
