"""Batches for training, validation and prediction, and what may become one."""

import functools
import math
from typing import Any

import keras
import numpy as np

from cifar_utils import augment, native
from cifar_utils.data import Split
from cifar_utils.errors import DataError


def check(split: Split, model: keras.Model, name: str) -> None:
    """Refuse inputs or labels that ``model`` cannot learn from.

    Args:
        split: Images and labels, or features and labels.
        model: What they are for.
        name: What to call the split in a message.

    Raises:
        DataError: A shape, a range or a dtype is another than the model expects.
    """
    inputs, labels = split.images, split.labels
    expected = model.inputs[0]
    shape, dtype = expected.shape[1:], keras.backend.standardize_dtype(expected.dtype)
    fits = len(inputs.shape) == len(shape) + 1 and all(
        wanted in (None, found) for wanted, found in zip(shape, inputs.shape[1:], strict=True)
    )
    # Stored features are float16, those of a notebook may be float32; pixels are uint8 or wrong.
    if not fits or (inputs.dtype != dtype and (dtype == "uint8" or inputs.dtype.kind != "f")):
        sides = ", ".join("any" if side is None else str(side) for side in shape)
        hint = "; pixels are whole numbers 0 to 255 here, the model itself rescales them"
        raise DataError(
            f"the {name} inputs are {inputs.dtype} {inputs.shape}; the model {model.name!r} takes "
            f"{dtype} (N, {sides}){hint if dtype == 'uint8' and inputs.dtype != dtype else ''}"
        )
    classes = model.outputs[0].shape[-1]
    soft = labels.ndim == 2 and labels.dtype.kind == "f"
    wanted_labels = (len(inputs), classes) if soft else (len(inputs),)
    if labels.shape != wanted_labels or not (soft or labels.dtype.kind in "iu"):
        raise DataError(
            f"the {name} labels are {labels.dtype} {labels.shape}; expected whole numbers, one for "
            f"each of the {len(inputs)} inputs: ({len(inputs)},); or soft labels, floats "
            f"({len(inputs)}, {classes})"
        )
    if not len(labels):
        raise DataError(f"the {name} split is empty; expected at least one image")
    if soft:
        if not (labels >= 0).all() or not np.allclose(labels.sum(axis=1), 1, atol=1e-3):
            raise DataError(
                f"the {name} soft labels are no probabilities; expected rows of 0 or more that sum "
                "to 1"
            )
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"the {name} labels go from {low} to {high}; expected 0 to {classes - 1}")


@functools.cache
def _triangles(size: int, side: int) -> np.ndarray:
    """Return float32 ``(side, size)`` weights that average ``size`` pixels to ``side``.

    Each target pixel is a triangle as wide as two of its own steps: bilinear interpolation without
    the aliasing that comes from looking at two source pixels only.
    """
    scale = size / side
    centres = (np.arange(side)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(size) + 0.5 - centres) / scale, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """Return smaller images (notebook 03 introduces it).

    Args:
        images: uint8 ``(N, S, S, 3)``.
        side: Side of the result in pixels, at most ``S``.

    Returns:
        uint8 ``(N, side, side, 3)``, bilinear with antialiasing; the images themselves if the side
        is theirs.
    """
    count, size, _, channels = images.shape
    if side == size:
        return images
    weights = _triangles(size, side)
    lower = weights @ images.reshape(count, size, size * channels).astype(np.float32)
    smaller = weights @ lower.reshape(count, side, size, channels)
    return (smaller + 0.5).astype(np.uint8)


class Mirrored:
    """Features of images with those of the mirrored images; indexed, it gives the former.

    Attributes:
        plain: float ``(N, ...)``.
        mirrored: The same of the mirrored images.
        shape: Of either.
        dtype: Of either.
    """

    def __init__(self, plain: np.ndarray, mirrored: np.ndarray) -> None:
        if plain.shape != mirrored.shape or plain.dtype != mirrored.dtype:
            raise DataError(
                f"the features are {plain.dtype} {plain.shape}, those of the mirrored images "
                f"{mirrored.dtype} {mirrored.shape}; expected the same"
            )
        self.plain, self.mirrored = plain, mirrored
        self.shape, self.dtype = plain.shape, plain.dtype

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.plain[index]

    def choose(self, index: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """Return features, where ``mirror`` is set those of the mirrored images.

        Args:
            index: Integers ``(M,)``.
            mirror: bool ``(M,)``.
        """
        chosen = self.plain[index]
        chosen[mirror] = self.mirrored[index[mirror]]
        return chosen


class Batches(keras.utils.PyDataset):
    """Batches of inputs and targets; shuffled and augmented if a policy is given.

    A batch depends only on the seed, the epoch and its place, whatever ran before it. ``fit`` must
    get ``shuffle=False``, or Keras takes the batches of an epoch in an order of its own.

    Args:
        inputs: uint8 ``(N, 32, 32, 3)`` images, float ``(N, ...)`` features, or ``Mirrored`` ones,
            of which the policy's ``flip`` is the share of the second version.
        labels: Integers ``(N,)``, from 0; or soft labels, float ``(N, K)``.
        batch_size: Images a batch; the last of an epoch may be smaller.
        policy: How to vary images; None for validation.
        seed: Of order and augmentation.
        side: Side in pixels to which images are reduced.
        sparse: Whether targets are the labels themselves and not one-hot.
        classes: How many there are.
    """

    def __init__(
        self,
        inputs: np.ndarray | Mirrored,
        labels: np.ndarray,
        batch_size: int,
        *,
        policy: augment.Policy | None = None,
        seed: int = 0,
        side: int | None = None,
        sparse: bool = False,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self._inputs, self._labels = inputs, labels
        self._batch_size, self._policy, self._seed = batch_size, policy, seed
        self._side, self._sparse, self._classes = side, sparse, classes
        self.start(0)

    def start(self, epoch: int) -> None:
        """Draw the order of an epoch, counted from 0, and which images are mirrored in it.

        Keras's own calls would not do: it says that an epoch ended before the first one began.
        """
        self._epoch, count = epoch, len(self._inputs)
        self._order, self._mirror = np.arange(count), None
        if self._policy is None:
            return
        self._order = np.random.default_rng((self._seed, self._epoch)).permutation(count)
        if self._policy.alternating:
            self._mirror = augment.alternating(count, self._seed, self._epoch)

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the last one possibly smaller."""
        return math.ceil(len(self._inputs) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return batch ``index``: inputs, and float32 ``(N, K)`` targets or the labels."""
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        targets = self._labels[chosen]
        if targets.ndim == 2:
            targets = targets.astype(np.float32)
        elif not self._sparse:
            targets = np.eye(self._classes, dtype=np.float32)[targets]
        generator = np.random.default_rng((self._seed, self._epoch, index))
        if isinstance(self._inputs, Mirrored):
            share = self._policy.flip if self._policy else 0.0
            inputs = self._inputs.choose(chosen, generator.random(len(chosen)) < share)
            return inputs.astype(np.float32), targets
        inputs = self._inputs[chosen]
        if inputs.dtype == np.float16:  # stored features; processors compute in float32
            inputs = inputs.astype(np.float32)
        if self._policy is not None and self._policy != augment.Policy():
            mirror = None if self._mirror is None else self._mirror[chosen]
            inputs, targets = augment.apply(self._policy, inputs, targets, generator, mirror=mirror)
        return (inputs if self._side is None else resized(inputs, self._side)), targets


def predict(model: keras.Model, inputs: np.ndarray, batch_size: int) -> np.ndarray:
    """Return a model's float32 outputs for all inputs.

    Args:
        model: Of one input and one output.
        inputs: uint8 ``(N, 32, 32, 3)`` images, or float ``(N, ...)`` features.
        batch_size: Inputs at a time.
    """
    batches = Batches(inputs, np.zeros(len(inputs), np.int64), batch_size, sparse=True)
    return model.predict(native.feed(batches), verbose=0).astype(np.float32)
