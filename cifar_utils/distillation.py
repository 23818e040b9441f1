"""Teaching one small network what an ensemble knows."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
from scipy import special

from cifar_utils import training
from cifar_utils.data import Split
from cifar_utils.errors import DataError, ParameterError
from cifar_utils.recipes import Recipe


def soft_targets(
    logits: np.ndarray, labels: np.ndarray, *, temperature: float = 1.0, hard: float = 0.1
) -> np.ndarray:
    """Return what a student is to learn: mostly the teacher's answer (notebook 08 introduces it).

    Knowledge distillation (Hinton et al., arXiv 1503.02531): the teacher's probabilities say which
    other classes an image resembles. A temperature above 1 makes them softer, which a teacher needs
    that is sure of everything; one that was calibrated does not. The student learns to be as soft:
    its own temperature is to be fitted on validation afterwards, as any model's.

    Args:
        logits: float ``(N, K)`` of the teacher on training images.
        labels: int64 ``(N,)``.
        temperature: The logits are divided by it.
        hard: Share of the true label in a target, 0 to 1.

    Returns:
        float32 ``(N, K)``, rows that sum to 1.

    Raises:
        DataError: Logits and labels do not belong together, or are not finite.
        ParameterError: Temperature or share is out of range.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ParameterError(f"temperature is {temperature}; expected more than 0")
    if not 0 <= hard <= 1:
        raise ParameterError(f"hard is {hard}; expected 0 to 1")
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"the teacher's logits are {logits.shape}, the labels {labels.dtype} {labels.shape}; "
            "expected (N, K), and whole numbers (N,)"
        )
    if not np.isfinite(logits).all():
        raise DataError("the teacher's logits are not all finite; it has diverged, train it again")
    soft = special.softmax(logits.astype(np.float64) / temperature, axis=1)
    return ((1 - hard) * soft + hard * np.eye(logits.shape[1])[labels]).astype(np.float32)


def distil(
    student: keras.Model,
    train: Split,
    logits: np.ndarray,
    validation: Split | None,
    recipe: Recipe,
    *,
    seed: int,
    temperature: float = 1.0,
    hard: float = 0.1,
    backup: Path | None = None,
) -> training.Fitted:
    """Train a student in place on its teacher's answers (notebook 08 introduces it).

    Images, augmentation and recipe are those of any training; the teacher has answered once, for
    the images as they are. The accuracy in training is agreement with the teacher.

    Args:
        student: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits.
        train: Images and true labels.
        logits: float ``(N, K)`` of the teacher on these images.
        validation: What to judge each epoch by; may be None.
        recipe: How. Label smoothing is left out: the targets are soft already.
        seed: Order and augmentation.
        temperature: See ``soft_targets``.
        hard: See ``soft_targets``.
        backup: See ``training.fit``.

    Raises:
        CifarUtilsError: As ``soft_targets`` and ``training.fit``.
    """
    targets = soft_targets(logits, train.labels, temperature=temperature, hard=hard)
    return training.fit(
        student,
        Split(train.images, targets),
        validation,
        dataclasses.replace(recipe, label_smoothing=0.0),
        seed=seed,
        backup=backup,
    )
