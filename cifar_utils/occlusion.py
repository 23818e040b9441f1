"""Which places of an image a model needs, asked without gradients; nothing here needs Keras."""

from collections.abc import Callable

import numpy as np

from cifar_utils.errors import ParameterError

_GREY = 127


def occlusion_maps(
    network: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    classes: np.ndarray,
    *,
    side: int = 8,
    step: int = 4,
) -> np.ndarray:
    """Return which places a class needs.

    A grey square hides one part of the image after the other; where the class's logit falls, it was
    needed (Zeiler and Fergus, arXiv 1311.2901).

    Args:
        network: From uint8 ``(M, 32, 32, 3)`` images to ``(M, K)`` logits.
        images: uint8 ``(N, 32, 32, 3)``.
        classes: Integers ``(N,)``.
        side: Of the square, in pixels.
        step: From one square to the next, in pixels.

    Returns:
        float32 ``(N, 32, 32)`` of 0 to 1, 1 where hiding costs most; all zero where it never does.

    Raises:
        ParameterError: The square does not fit.
    """
    height, width = images.shape[1:3]
    if not 1 <= side <= min(height, width) or step < 1:
        raise ParameterError(
            f"side {side} and step {step}: expected 1 to {min(height, width)} and at least 1"
        )
    rows = range(0, height - side + 1, step)
    columns = range(0, width - side + 1, step)
    hidden = np.repeat(images[None], 1 + len(rows) * len(columns), axis=0)
    for place, (row, column) in enumerate(np.ndindex(len(rows), len(columns)), start=1):
        top, left = rows[row], columns[column]
        hidden[place, :, top : top + side, left : left + side] = _GREY
    logits = network(hidden.reshape(-1, *images.shape[1:]))
    logits = logits.reshape(len(hidden), len(images), -1)
    wanted = logits[:, np.arange(len(images)), classes]
    maps = np.maximum(wanted[0] - wanted[1:], 0).T
    maps = maps.reshape(-1, len(rows), len(columns))
    return scaled(maps, (height, width), side / 2, step)


def _between(size: int, count: int, first: float, step: float) -> np.ndarray:
    """Return weights ``(size, count)`` that give pixels values between those of places.

    The centre of place ``n`` is ``first + n * step`` pixels from the edge; outside all centres a
    pixel gets the value of the nearest place.
    """
    where = np.clip((np.arange(size) + 0.5 - first) / step, 0, count - 1)
    return np.maximum(0, 1 - np.abs(where[:, None] - np.arange(count))).astype(np.float32)


def scaled(
    maps: np.ndarray, shape: tuple[int, int], first: float | None = None, step: float | None = None
) -> np.ndarray:
    """Return maps of another size, each of 0 to 1.

    Args:
        maps: float ``(N, R, C)``.
        shape: Height and width of the result, in pixels.
        first: Of the first place's centre from the edge, in pixels; None if the places share the
            image evenly.
        step: From one place to the next, in pixels; None likewise.

    Returns:
        float32 ``(N, height, width)``, the highest of each 1; all zero where no place is above 0.
    """
    rows, columns = (
        _between(side, count, first or side / count / 2, step or side / count)
        for side, count in zip(shape, maps.shape[1:], strict=True)
    )
    large = rows @ maps.astype(np.float32) @ columns.T
    highest = large.max(axis=(1, 2), keepdims=True)
    return np.divide(large, highest, out=np.zeros_like(large), where=highest > 0)
