"""What may be done to the pixels of a batch of images, with nothing left to chance.

Images are uint8 ``(N, H, W, 3)`` and come back as new arrays of that shape. Work goes in portions
of a few images, because their intermediate arrays then stay in the processor's cache; whole batches
take up to five times as long.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cifar_utils.errors import ParameterError

Operation = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From images and strengths ``(N,)``, -1 to 1, to images."""

PORTION = 32
"""Images worked on at a time."""


def _portions(count: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` images."""
    for start in range(0, count, PORTION):
        yield slice(start, start + PORTION)


def _padded(images: np.ndarray, mirror: np.ndarray, reach: int) -> np.ndarray:
    """Return images, some of them mirrored, with ``reach`` more pixels on each side.

    The same as ``np.pad(..., mode="reflect")``, in half the time: bytes are copied in long runs,
    never three by three.
    """
    count, height, width, channels = images.shape
    tall, wide = height + 2 * reach, width + 2 * reach
    out = np.empty((count, tall, wide, channels), np.uint8)
    inside = out[:, reach : reach + height, reach : reach + width]
    inside[...] = images
    if mirror.any():
        turned = images[mirror]
        reverse = np.empty_like(turned)
        for channel in range(channels):
            reverse[..., channel] = turned[:, :, ::-1, channel]
        inside[mirror] = reverse
    for step in range(reach):
        out[:, step] = out[:, 2 * reach - step]
        out[:, tall - 1 - step] = out[:, tall - 1 - 2 * reach + step]
    flat = out.reshape(count * tall, wide * channels)
    for step in range(reach):
        for channel in range(channels):
            flat[:, channels * step + channel] = flat[:, channels * (2 * reach - step) + channel]
            last, source = wide - 1 - step, wide - 1 - 2 * reach + step
            flat[:, channels * last + channel] = flat[:, channels * source + channel]
    return out


def shift(
    images: np.ndarray, mirror: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return images mirrored left to right, then shifted; pixels from outside mirror the edge.

    Args:
        images: uint8 ``(N, H, W, 3)``.
        mirror: bool ``(N,)``, which are mirrored.
        rows: Integers ``(N,)``: row of the mirrored image that becomes row 0.
        columns: The same for columns.

    Raises:
        ParameterError: An image would be shifted by its whole side or more.
    """
    count, height, width, channels = images.shape
    reach = int(max(np.abs(rows).max(initial=0), np.abs(columns).max(initial=0)))
    if reach >= min(height, width):
        raise ParameterError(
            f"a shift by {reach} pixels leaves nothing of {height} x {width} images; expected "
            f"fewer than {min(height, width)}"
        )
    padded = _padded(images, mirror, reach)
    if not reach:
        return padded
    # Each image is cut out of its padded one as rows of bytes, with no index for each pixel.
    flat = padded.reshape(count, height + 2 * reach, (width + 2 * reach) * channels)
    cuts = np.lib.stride_tricks.sliding_window_view(flat, (height, width * channels), axis=(1, 2))
    return cuts[np.arange(count), rows + reach, channels * (columns + reach)].reshape(images.shape)


def _mirrored_at_edges(positions: np.ndarray, size: int) -> np.ndarray:
    """Return float32 ``positions`` in sixteenths of a pixel, int32, inside 0 to ``size`` - 1."""
    period = np.float32(2 * (size - 1))
    positions -= np.rint(positions / period) * period
    return np.rint(np.abs(positions) * np.float32(16)).astype(np.int32)


def resample(images: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return images moved by affine maps; pixels from outside mirror the edge.

    Bilinear, at positions rounded to a sixteenth of a pixel. The three channels of a pixel lie in
    one 64-bit number, 16 bits each, so that one multiplication weights all of them, and nothing can
    run over into the next channel: the four weights are whole numbers that sum to 256.

    Args:
        images: uint8 ``(N, H, W, 3)``.
        matrix: ``(N, 2, 2)``: takes a (row, column) of the result, from the centre, to where in the
            image its pixel comes from.
        offset: ``(N, 2)``: what is added to that, in pixels.
    """
    count, height, width, channels = images.shape
    y = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    matrix = matrix.astype(np.float32)[..., None, None]
    offset = offset.astype(np.float32)[..., None, None]
    out = np.empty_like(images)
    for portion in _portions(count):
        part, turn, move = images[portion], matrix[portion], offset[portion]
        rows = turn[:, 0, 0] * y + (turn[:, 0, 1] * x + (move[:, 0] + (height - 1) / 2))
        columns = turn[:, 1, 0] * y + (turn[:, 1, 1] * x + (move[:, 1] + (width - 1) / 2))
        down, right = _mirrored_at_edges(rows, height), _mirrored_at_edges(columns, width)
        top, left = np.minimum(down >> 4, height - 2), np.minimum(right >> 4, width - 2)
        down, right = down - 16 * top, right - 16 * left
        both = down * right
        lanes = np.zeros((*part.shape[:3], 4), np.uint16)
        for channel in range(channels):
            lanes[..., channel] = part[..., channel]
        pixels = lanes.view(np.uint64).ravel()
        first = np.arange(len(part))[:, None, None] * (height * width) + top * width + left
        total = np.full(first.shape, 0x0080_0080_0080_0080, np.uint64)  # rounds to the nearest
        for step, weight in (
            (0, 256 - 16 * (down + right) + both),
            (1, 16 * right - both),
            (width, 16 * down - both),
            (width + 1, both),
        ):
            total += pixels.take(first + step, mode="clip") * weight.astype(np.uint64)
        total >>= np.uint64(8)
        for channel in range(channels):
            out[portion, ..., channel] = total.view(np.uint16).reshape(lanes.shape)[..., channel]
    return out


def scale(images: np.ndarray, factor: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return ``images * factor + offset``, rounded and held inside 0 to 255; both ``(N,)``."""
    factor, offset = (
        np.asarray(values, np.float32)[:, None, None, None] for values in (factor, offset)
    )
    out = np.empty_like(images)
    for portion in _portions(len(images)):
        scaled = np.multiply(images[portion], factor[portion], dtype=np.float32)
        scaled += offset[portion] + np.float32(0.5)
        out[portion] = np.clip(scaled, 0, 255, out=scaled)
    return out


def level(images: np.ndarray) -> np.ndarray:
    """Return the mean value of each image, float32 ``(N,)``."""
    return images.mean(axis=(1, 2, 3), dtype=np.float32)


def weights(shares: np.ndarray) -> np.ndarray:
    """Return ``(K, N)`` shares that sum to 1 as whole 256ths that sum to 256, uint16."""
    bounds = np.rint(256 * np.cumsum(shares, axis=0)).astype(np.int64)
    return np.diff(bounds, axis=0, prepend=0).astype(np.uint16)


def blend(parts: Sequence[np.ndarray], shares: np.ndarray) -> np.ndarray:
    """Return the weighted mean of several batches of images.

    Args:
        parts: ``K`` batches, each uint8 ``(N, H, W, 3)``.
        shares: uint16 ``(K, N)`` from ``weights``.
    """
    out = np.empty_like(parts[0])
    shares = shares[..., None, None, None]
    for portion in _portions(len(out)):
        total = np.full(out[portion].shape, 128, np.uint16)
        for part, share in zip(parts, shares, strict=True):
            total += np.multiply(part[portion], share[portion], dtype=np.uint16)
        out[portion] = total >> 8
    return out


def look_up(images: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Return images with every value replaced by its entry in uint8 tables ``(N, 3, 256)``."""
    out = np.empty_like(images)
    for portion in _portions(len(images)):
        part = images[portion]
        start = 256 * np.arange(3 * len(part)).reshape(-1, 1, 1, 3)
        out[portion] = tables[portion].ravel().take(part + start, mode="clip")
    return out


def _extremes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of each channel, both ``(N, 3)``.

    Rows first, a long run of bytes each: over both axes at once it takes 15 times as long.
    """
    return images.min(axis=1).min(axis=1), images.max(axis=1).max(axis=1)


def _equalizing_tables(images: np.ndarray) -> np.ndarray:
    """Return tables that spread each channel's values evenly, as Pillow's ``equalize`` does."""
    counts = np.empty((len(images), 3, 256), np.float32)
    for portion in _portions(len(images)):
        part = images[portion]
        start = 256 * np.arange(3 * len(part)).reshape(-1, 1, 1, 3)
        found = np.bincount((part + start).ravel(), minlength=768 * len(part))
        counts[portion] = found.reshape(-1, 3, 256)
    upto = np.cumsum(counts, axis=2)
    highest = _extremes(images)[1].astype(int)[..., None]
    # All but the pixels of the highest value, in 255 steps; float32 holds these counts exactly.
    step = (upto[..., -1:] - np.take_along_axis(counts, highest, axis=2)) // 255
    spread = (upto - counts + step // 2) / np.maximum(step, 1)
    return np.where(step > 0, np.minimum(spread, 255), np.arange(256)).astype(np.uint8)


def _stretching_tables(images: np.ndarray) -> np.ndarray:
    """Return tables that stretch each channel to 0 to 255, as Pillow's ``autocontrast`` does."""
    low, high = (edge.astype(np.float64)[..., None] for edge in _extremes(images))
    slope = 255 / np.maximum(high - low, 1)
    stretched = np.arange(256) * slope - low * slope
    return np.where(high > low, np.clip(stretched, 0, 255), np.arange(256)).astype(np.uint8)


def _grey(images: np.ndarray) -> np.ndarray:
    """Return the brightness of each pixel (ITU-R BT.601), float32 ``(N, H, W, 1)``."""
    shares = np.array([0.299, 0.587, 0.114], np.float32)
    parts = [images[..., channel] * share for channel, share in enumerate(shares)]
    return sum(parts[1:], parts[0])[..., None]


def _smooth(images: np.ndarray) -> np.ndarray:
    """Return float32 images averaged over 3x3 pixels, the middle one five-fold; edges stay."""
    wide = images.astype(np.float32)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    wide[:, 1:-1, 1:-1] = (box + 4 * wide[:, 1:-1, 1:-1]) / 13
    return wide


def _away(plain: Callable[[np.ndarray], np.ndarray]) -> Operation:
    """Return an operation that leads images towards or away from what ``plain`` makes of them."""

    def lead(images: np.ndarray, strength: np.ndarray) -> np.ndarray:
        factor = (1 + 0.9 * strength).astype(np.float32)[:, None, None, None]
        out = np.empty_like(images)
        for portion in _portions(len(images)):
            dull = plain(images[portion])
            changed = (images[portion] - dull) * factor[portion] + dull + np.float32(0.5)
            out[portion] = np.clip(changed, 0, 255, out=changed)
        return out

    return lead


def contrast(images: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return images whose distance from their mean grey level is multiplied by factors ``(N,)``."""
    return scale(images, factor, level(images) * (1 - factor))


def _posterize(images: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return images with 8 bits a channel, down to 4 at full strength."""
    dropped = np.rint(4 * np.abs(strength)).astype(np.uint8)
    return images & (np.uint8(255) << dropped)[:, None, None, None]


def _solarize(images: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return images with values at or above a threshold, from 256 down to 0, turned over."""
    threshold = np.rint(256 * (1 - np.abs(strength))).astype(np.uint16)[:, None, None, None]
    # Turning a byte over is flipping its bits; all of them where the value is at the threshold.
    return images ^ (np.uint8(255) * (images >= threshold))


def _linear(column: Sequence[Sequence[float]]) -> Operation:
    """Return an operation: the affine map ``identity + strength * column``, no offset."""

    def move(images: np.ndarray, strength: np.ndarray) -> np.ndarray:
        matrix = np.eye(2) + strength[:, None, None] * np.array(column)
        return resample(images, matrix, np.zeros((len(images), 2)))

    return move


def _rotate(images: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return images rotated by up to 30 degrees."""
    return resample(images, rotation(np.deg2rad(30 * strength)), np.zeros((len(images), 2)))


def rotation(angle: np.ndarray) -> np.ndarray:
    """Return ``(N, 2, 2)`` matrices for ``resample`` that rotate clockwise, angles in radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(-1, 2, 2)


def _translate(axis: int) -> Operation:
    """Return an operation: a shift by up to 10 pixels along an axis."""

    def move(images: np.ndarray, strength: np.ndarray) -> np.ndarray:
        offset = np.zeros((2, len(images)), int)
        offset[axis] = np.rint(10 * strength)
        return shift(images, np.zeros(len(images), bool), *offset)

    return move


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda images, strength: look_up(images, _stretching_tables(images)),
    "equalize": lambda images, strength: look_up(images, _equalizing_tables(images)),
    "posterize": _posterize,
    "solarize": _solarize,
    "rotate": _rotate,
    "shear_x": _linear([[0, 0], [0.3, 0]]),
    "shear_y": _linear([[0, 0.3], [0, 0]]),
    "translate_x": _translate(1),
    "translate_y": _translate(0),
    "identity": lambda images, strength: images,
    "brightness": lambda images, strength: scale(images, 1 + 0.9 * strength, 0 * strength),
    "contrast": lambda images, strength: contrast(images, 1 + 0.9 * strength),
    "color": _away(_grey),
    "sharpness": _away(_smooth),
}
"""The operations of AutoAugment (arXiv 1805.09501) in its ranges for CIFAR-10, by name.

Each takes images and strengths ``(N,)``, -1 to 1, and does the most at either end.
"""


def operate(images: np.ndarray, chosen: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return images after one of the ``OPERATIONS`` each.

    Args:
        images: uint8 ``(N, H, W, 3)``.
        chosen: Integers ``(N,)``: places in ``OPERATIONS``.
        strength: ``(N,)``, -1 to 1.
    """
    out = images.copy()
    for place, operation in enumerate(OPERATIONS.values()):
        group = np.flatnonzero(chosen == place)
        if len(group):
            out[group] = operation(images[group], strength[group])
    return out
