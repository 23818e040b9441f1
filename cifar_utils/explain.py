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
from cifar_utils.occlusion import occlusion_maps, scaled

_LEAST_SIDE = 4
"""Places along the side of a feature map below which a map of it says nothing about where."""


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
    return scaled(maps, images.shape[1:3])


def occlusion(
    model: keras.Model, images: np.ndarray, classes: np.ndarray | None = None
) -> np.ndarray:
    """Return which places a class needs, without gradients (notebook 06 introduces it).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits.
        images: uint8 ``(N, 32, 32, 3)``.
        classes: Integers ``(N,)``; None for the class that the model predicts.

    Returns:
        See ``occlusion.occlusion_maps``.

    Raises:
        DataError: Images or classes have another shape.
    """
    classes = _chosen(model, images, classes)
    return occlusion_maps(
        lambda hidden: batches.predict(model, hidden, len(images)), images, classes
    )


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
