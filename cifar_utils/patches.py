"""A classifier for quick questions about data: one layer of whitened patches, and ridge regression.

The filters are patches cut from the images and whitened, not trained; the weights on top have a
closed solution (Coates, Lee and Ng 2011). It sees shapes, as a network does, and takes seconds
where training one takes minutes; a closed solution also gives every fold of a cross-validation
almost for free, because only small tables of sums have to be solved again.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops
from scipy import linalg, optimize, special

from cifar_utils import runtime
from cifar_utils.data import CLASS_NAMES
from cifar_utils.errors import ParameterError

SIDE = 6
POOL = 9
THRESHOLD = 0.5
PENALTIES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Ridge penalties to choose from, in units of the features' variance."""

_BATCH = 250
_NOISE = (10 / 255) ** 2
"""Added to a patch's variance, so that flat ones are not blown up to noise."""


def _filters(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return whitened patches as a convolution's kernel, float32 ``(SIDE, SIDE, 3, count)``."""
    rng = np.random.default_rng(seed)
    drawn = 40_000
    which = rng.integers(0, len(images), drawn)
    rows, columns = rng.integers(0, images.shape[1] + 1 - SIDE, (2, drawn))
    windows = np.lib.stride_tricks.sliding_window_view(images, (SIDE, SIDE), axis=(1, 2))
    patches = windows[which, rows, columns].transpose(0, 2, 3, 1).reshape(drawn, -1) / np.float32(
        255
    )
    patches -= patches.mean(axis=1, keepdims=True)
    patches /= np.sqrt(patches.var(axis=1, keepdims=True) + _NOISE)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whitening = (vectors / np.sqrt(values + 0.1)) @ vectors.T
    chosen = patches[:count] @ whitening
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True) + 1e-6
    kernel = chosen @ whitening
    kernel -= kernel.mean(axis=1, keepdims=True)
    return kernel.T.reshape(SIDE, SIDE, 3, count).astype(np.float32)


def network(images: np.ndarray, *, filters: int = 256, seed: int = 0) -> keras.Model:
    """Build the network that turns images into features (notebook 01 introduces it).

    Each patch of an image is brought to the same contrast and compared with ``filters`` whitened
    patches; what is clearly like one, or clearly its negative, is averaged over a 3 x 3 grid.

    Args:
        images: uint8 ``(N, 32, 32, 3)``, where the patches are cut from.
        filters: Number of patches.
        seed: Which patches.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` to float32 ``(N, 18 * filters)``.
    """
    kernel = _filters(images, filters, seed)
    policy = runtime.precision()
    inputs = keras.Input(images.shape[1:], dtype="uint8")
    pixels = layers.Rescaling(1 / 255, dtype="float32")(inputs)
    mean, square = (
        layers.AveragePooling2D(SIDE, 1, dtype="float32")(ops.mean(values, axis=-1, keepdims=True))
        for values in (pixels, pixels * pixels)
    )
    contrast = ops.sqrt(ops.relu(square - mean * mean) + _NOISE)
    matched = layers.Conv2D(filters, SIDE, use_bias=False, dtype=policy, name="patches")(pixels)
    matched = matched / ops.cast(contrast, matched.dtype)
    likes = [ops.relu(matched - THRESHOLD), ops.relu(-matched - THRESHOLD)]
    pooled = layers.AveragePooling2D(POOL, dtype=policy)(ops.concatenate(likes, axis=-1))
    model = keras.Model(inputs, layers.Flatten(dtype="float32")(pooled))
    model.get_layer("patches").set_weights([kernel])
    return model


def features(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the features of images, the same for an image and its mirror image.

    Args:
        model: From ``network``.
        images: uint8 ``(N, 32, 32, 3)``.

    Returns:
        float16 ``(N, D)``.
    """
    found = np.empty((len(images), model.output_shape[1]), np.float16)
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        # Called, not `predict`: that compiles each model anew, which takes longer than a small set.
        both = [ops.convert_to_numpy(model(turned)) for turned in (part, part[:, :, ::-1])]
        found[start : start + _BATCH] = (both[0] + both[1]) / 2
    return found


@dataclass(frozen=True, eq=False)
class Classifier:
    """Ridge regression to one-hot labels, its scores scaled to be logits.

    Attributes:
        mean: float32 ``(D,)``, of the features it was fitted on.
        deviation: float32 ``(D,)``, their standard deviation.
        weights: float32 ``(D, 10)``.
        scale: What turns scores into logits; fitted on held-out images, so they are calibrated.
        penalty: The one of ``PENALTIES`` that did best on held-out images.
        held_out: Logits of the images it was fitted on, float32 ``(N, 10)``; those of each fold are
            from weights that have not seen it.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    scale: float
    penalty: float
    held_out: np.ndarray

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Return float32 ``(N, 10)`` for features ``(N, D)``."""
        return self.scale * (_standardised(inputs, self.mean, self.deviation) @ self.weights)


def _standardised(inputs: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    outputs = inputs.astype(np.float32)
    outputs -= mean
    outputs /= deviation
    return outputs


def _moments(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, float32 ``(D,)``, without a wide copy."""
    sums, squares = np.zeros((2, inputs.shape[1]))
    for start in range(0, len(inputs), 1000):
        part = inputs[start : start + 1000].astype(np.float64)
        sums += part.sum(axis=0)
        squares += np.einsum("ij,ij->j", part, part)
    mean = sums / len(inputs)
    variance = (squares / len(inputs) - mean**2).clip(min=0)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32) + np.float32(1e-4)


def _solve(products: np.ndarray, answers: np.ndarray, count: int, penalty: float) -> np.ndarray:
    """Return the weights of ridge regression, float32 ``(D, 10)``, from sums over images."""
    matrix = products / count
    matrix[np.diag_indices(len(matrix))] += penalty * len(CLASS_NAMES)
    return linalg.solve(matrix, answers / count, assume_a="pos", overwrite_a=True)


def _scale(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor that makes the scores the best logits (Guo et al. 2017, temperature)."""

    def loss(factor: float) -> float:
        chances = special.log_softmax(factor * scores, axis=1)
        return -float(chances[np.arange(len(labels)), labels].mean())

    return float(optimize.minimize_scalar(loss, bounds=(0.1, 50), method="bounded").x)


def fit(inputs: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0) -> Classifier:
    """Fit a classifier, and give every image a prediction by one that has not seen it.

    Notebook 01 introduces it.

    Args:
        inputs: Features ``(N, D)``, as from ``features``.
        labels: int64 ``(N,)``, 0 to 9.
        folds: Parts of the cross-validation, 2 to N.
        seed: Which image is in which part.

    Raises:
        ParameterError: There are fewer images than folds, or not as many labels as images.
    """
    if not 2 <= folds <= len(inputs) == len(labels):
        raise ParameterError(
            f"cannot fit {len(inputs):,} images with {len(labels):,} labels in {folds} folds; "
            "expected one label an image and 2 or more folds of at least one image"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    parts = np.array_split(order, folds)
    mean, deviation = _moments(inputs)
    targets = np.eye(len(CLASS_NAMES), dtype=np.float32)[labels] - 1 / np.float32(len(CLASS_NAMES))

    products, answers = [], []
    for part in parts:
        chunk = _standardised(inputs[part], mean, deviation)
        products.append(chunk.T @ chunk)
        answers.append(chunk.T @ targets[part])
    all_products, all_answers = sum(products), sum(answers)

    def held_out(fold: int, penalty: float) -> np.ndarray:
        rest = (all_products - products[fold], all_answers - answers[fold])
        weights = _solve(*rest, len(labels) - len(parts[fold]), penalty)
        return _standardised(inputs[parts[fold]], mean, deviation) @ weights

    first = labels[parts[0]]
    right = [(held_out(0, value).argmax(axis=1) == first).mean() for value in PENALTIES]
    penalty = PENALTIES[int(np.argmax(right))]
    scores = np.empty((len(labels), len(CLASS_NAMES)), np.float32)
    for fold, part in enumerate(parts):
        scores[part] = held_out(fold, penalty)
    scale = _scale(scores, labels)
    weights = _solve(all_products, all_answers, len(labels), penalty)
    return Classifier(mean, deviation, weights, scale, penalty, scale * scores)


def quick_logits(
    train: np.ndarray, labels: np.ndarray, images: np.ndarray, *, filters: int = 128, seed: int = 0
) -> np.ndarray:
    """Train on one set of images, predict another: what does a change of the data do?

    Notebook 01 uses it to measure preprocessing.

    Args:
        train: uint8 ``(N, 32, 32, 3)``.
        labels: int64 ``(N,)`` of ``train``.
        images: uint8 ``(M, 32, 32, 3)``.
        filters: See ``network``.
        seed: See ``network``.

    Returns:
        Logits of ``images``, float32 ``(M, 10)``.
    """
    model = network(train, filters=filters, seed=seed)
    return fit(features(model, train), labels, seed=seed).logits(features(model, images))
