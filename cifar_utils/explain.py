"""Where does the model look, and which training images does it find alike?"""

from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from cifar_utils import batches, native, transfer
from cifar_utils.data import IMAGE_SHAPE
from cifar_utils.errors import DataError, ParameterError

_LEAST_SIDE = 4
"""Places along the side of a feature map below which a map of it says nothing about where."""

_GREY = 127
"""What hides a part of an image in ``occlusion``."""


def _cut(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return ``model`` in two: to its last feature map that still has places, and from there on."""
    if any(layer.name == "resnet50" for layer in model.layers):
        for stage in reversed(transfer.STAGES):
            lower, upper = transfer.boundary(model, stage)
            if lower.output.shape[1] >= _LEAST_SIDE:
                return lower, upper
    maps: list[keras.KerasTensor] = []

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        outputs = layer(*arguments, **options)
        convolved = maps or isinstance(layer, keras.layers.Conv2D)
        if convolved and len(outputs.shape) == 4 and min(outputs.shape[1:3]) >= _LEAST_SIDE:
            maps.append(outputs)
        return outputs

    whole = keras.models.clone_model(
        keras.Model(model.input, model.output, name=model.name),  # not compiled
        input_tensors=keras.Input(IMAGE_SHAPE, dtype="uint8"),
        clone_function=lambda layer: layer,
        call_function=call,
    )
    if not maps:
        raise ParameterError(
            f"{model.name!r} has no convolution whose output is {_LEAST_SIDE} x {_LEAST_SIDE} "
            "places or more; there is nothing to map"
        )
    return keras.Model(whole.input, maps[-1]), keras.Model(maps[-1], whole.output)


def _chosen(model: keras.Model, images: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """Return the classes asked for, those predicted by default; refuse what does not fit."""
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise DataError(f"images {images.dtype} {images.shape}: expected uint8 (N, 32, 32, 3)")
    if classes is None:
        return batches.predict(model, images, len(images)).argmax(axis=1)
    if classes.shape != (len(images),):
        raise DataError(f"classes {classes.shape}: expected one for each image, ({len(images)},)")
    return classes


def grad_cam(
    model: keras.Model, images: np.ndarray, classes: np.ndarray | None = None
) -> np.ndarray:
    """Return which places speak for a class, by gradients (notebook 06 introduces it).

    Grad-CAM (Selvaraju et al., arXiv 1610.02391) without its average over places, known as HiResCAM
    (Draelos and Carin, arXiv 2011.08891): a late feature map times how much each of its values
    would raise the class's logit, summed over channels, negative ones set to zero. The two are one
    where global average pooling follows; where maximum pooling does, the average is often negative
    for every channel, and the map empty. The map is the last one with at least 4 x 4 places, in
    ResNet50 the last one that a stage begins with, so it is coarse: it says where, not what.

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits.
        images: uint8 ``(N, 32, 32, 3)``.
        classes: Integers ``(N,)``; None for the class that the model predicts.

    Returns:
        float32 ``(N, 32, 32)`` of 0 to 1, 1 at the place that speaks most; all zero where none
        does.

    Raises:
        DataError: Images or classes have another shape.
        ParameterError: The model has no feature map that is large enough.
    """
    classes = _chosen(model, images, classes)
    lower, upper = _cut(model)
    features = ops.cast(lower(images, training=False), "float32")
    wanted = ops.one_hot(classes, upper.output.shape[-1])
    gradient = native.gradient(
        lambda seen: ops.sum(wanted * ops.cast(upper(seen, training=False), "float32")), features
    )
    maps = np.asarray(ops.relu(ops.sum(gradient * features, axis=-1)))
    return _scaled(maps, images.shape[1:3])


def occlusion(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    side: int = 8,
    step: int = 4,
) -> np.ndarray:
    """Return which places a class needs, without gradients (notebook 06 introduces it).

    A grey square hides one part of the image after the other; where the class's logit falls, it was
    needed (Zeiler and Fergus, arXiv 1311.2901).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits.
        images: uint8 ``(N, 32, 32, 3)``.
        classes: Integers ``(N,)``; None for the class that the model predicts.
        side: Of the square, in pixels.
        step: From one square to the next, in pixels.

    Returns:
        float32 ``(N, 32, 32)`` of 0 to 1, 1 where hiding costs most; all zero where it never does.

    Raises:
        DataError: Images or classes have another shape.
        ParameterError: The square does not fit.
    """
    height, width = images.shape[1:3]
    if not 1 <= side <= min(height, width) or step < 1:
        raise ParameterError(
            f"side {side} and step {step}: expected 1 to {min(height, width)} and at least 1"
        )
    classes = _chosen(model, images, classes)
    rows = range(0, height - side + 1, step)
    columns = range(0, width - side + 1, step)
    hidden = np.repeat(images[None], 1 + len(rows) * len(columns), axis=0)
    for place, (row, column) in enumerate(np.ndindex(len(rows), len(columns)), start=1):
        top, left = rows[row], columns[column]
        hidden[place, :, top : top + side, left : left + side] = _GREY
    logits = batches.predict(model, hidden.reshape(-1, *images.shape[1:]), len(images))
    logits = logits.reshape(len(hidden), len(images), -1)
    wanted = logits[:, np.arange(len(images)), classes]
    maps = np.maximum(wanted[0] - wanted[1:], 0).T
    maps = maps.reshape(-1, len(rows), len(columns))
    return _scaled(maps, (height, width), side / 2, step)


def _between(size: int, count: int, first: float, step: float) -> np.ndarray:
    """Return weights ``(size, count)`` that give pixels values between those of places.

    The centre of place ``n`` is ``first + n * step`` pixels from the edge; outside all centres a
    pixel gets the value of the nearest place.
    """
    where = np.clip((np.arange(size) + 0.5 - first) / step, 0, count - 1)
    return np.maximum(0, 1 - np.abs(where[:, None] - np.arange(count))).astype(np.float32)


def _scaled(
    maps: np.ndarray, shape: tuple[int, int], first: float | None = None, step: float | None = None
) -> np.ndarray:
    """Return maps of a shape, of 0 to 1; by default their places share the image evenly."""
    rows, columns = (
        _between(side, count, first or side / count / 2, step or side / count)
        for side, count in zip(shape, maps.shape[1:], strict=True)
    )
    large = rows @ maps.astype(np.float32) @ columns.T
    highest = large.max(axis=(1, 2), keepdims=True)
    return np.divide(large, highest, out=np.zeros_like(large), where=highest > 0)


def untrained(model: keras.Model, seed: int = 0) -> keras.Model:
    """Return the same network with random weights.

    A map that looks alike for it is one of the image, not of what the network knows (Adebayo et
    al., arXiv 1810.03292).
    """
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(model)


def compared(
    model: keras.Model, images: np.ndarray, classes: np.ndarray | None = None, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return maps with and without gradients, and one of random weights (notebook 06).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits.
        images: uint8 ``(N, 32, 32, 3)``.
        classes: Integers ``(N,)``; None for the class that the model predicts.
        seed: Of the random weights.

    Returns:
        float32 ``(N, 32, 32)`` of 0 to 1, by name.
    """
    classes = _chosen(model, images, classes)
    return {
        "Grad-CAM": grad_cam(model, images, classes),
        "hiding parts": occlusion(model, images, classes),
        "random weights": grad_cam(untrained(model, seed), images, classes),
    }


def likeness(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the rank correlation of each map with the other, ``(N,)``; 0 where one is flat.

    Args:
        maps: float ``(N, H, W)``.
        others: float ``(N, H, W)``.
    """
    found = np.zeros(len(maps))
    for place, (one, other) in enumerate(zip(maps, others, strict=True)):
        if np.ptp(one) and np.ptp(other):
            found[place] = stats.spearmanr(one.ravel(), other.ravel()).statistic
    return found


def last_features(model: keras.Model) -> keras.Model:
    """Return the part of ``model`` up to what its last layer sees: from images to ``(N, D)``.

    Args:
        model: With a last layer called ``logits``, or made by ``transfer.join``.
    """
    names = [layer.name for layer in model.layers]
    if "head" in names:
        return transfer.parts(model)[0]
    if "logits" not in names:
        raise ParameterError(f"{model.name!r} has no layer called 'logits' or 'head'")
    return keras.Model(model.input, model.get_layer("logits").input, name=f"{model.name}_features")


def neighbours(
    known: np.ndarray, features: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the known features most alike, by the angle between them (notebook 06).

    Args:
        known: float ``(M, D)``.
        features: float ``(N, D)``.
        count: How many, 1 to M.

    Returns:
        Distances of the features scaled to length one, float ``(N, count)``, ascending, and their
        indices, int64 ``(N, count)``.

    Raises:
        ParameterError: There are not as many.
        DataError: The features are of different widths, or not finite.
    """
    if not 1 <= count <= len(known):
        raise ParameterError(
            f"the number of neighbours is {count}; expected 1 to {len(known)}, all known features"
        )
    if known.ndim != 2 or known.shape[1:] != features.shape[1:]:
        raise DataError(
            f"known features {known.shape} and features {features.shape}: expected (M, D) and "
            "(N, D)"
        )
    if not (np.isfinite(known).all() and np.isfinite(features).all()):
        raise DataError("the features are not all finite; the model has diverged, train again")
    search = NearestNeighbors(n_neighbors=count, algorithm="brute")
    search.fit(normalize(known.astype(np.float32)))
    return search.kneighbors(normalize(features.astype(np.float32)))
