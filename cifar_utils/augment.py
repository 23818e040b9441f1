"""Image policies: what is done to training images, batch by batch, as NumPy arrays.

Images stay uint8 RGB throughout, as the models take them, and every random number comes from the
generator that is passed in, so that a batch depends on the seed, the epoch and its place alone.
"""

from dataclasses import dataclass

import numpy as np

from cifar_utils.errors import ParameterError, nearest


@dataclass(frozen=True)
class Policy:
    """How images are varied; zero turns a step off.

    Attributes:
        flip: Probability of a left-right mirror image.
        shift: Largest shift along each axis, in pixels.
        rotate: Largest rotation either way, in degrees.
        zoom: Largest relative change of size either way, 0.1 for 90% to 110%.
        brightness: Largest relative change of brightness either way.
        cutout: Side of the square painted grey, in pixels (DeVries and Taylor, arXiv 1708.04552).
        mixup: Beta parameter of the blend of two images and their labels (Zhang et al.,
            arXiv 1710.09412).
    """

    flip: float = 0.0
    shift: int = 0
    rotate: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    cutout: int = 0
    mixup: float = 0.0


POLICIES: dict[str, Policy] = {
    "none": Policy(),
    "flip": Policy(flip=0.5),
    "shift": Policy(shift=4),
    "rotate": Policy(rotate=15),
    "zoom": Policy(zoom=0.2),
    "brightness": Policy(brightness=0.3),
    "cutout": Policy(cutout=12),
    "mixup": Policy(mixup=0.4),
    "standard": Policy(flip=0.5, shift=2),
    "strong": Policy(flip=0.5, shift=2, rotate=10, zoom=0.1, brightness=0.2, cutout=8),
}
"""Every policy by name; a new augmentation is a step in ``apply`` and a line here."""


def get(name: str) -> Policy:
    """Return the policy called ``name`` (notebook 03 introduces it).

    Raises:
        ParameterError: No policy has that name.
    """
    if name not in POLICIES:
        raise ParameterError(f"unknown augmentation {name!r}{nearest(name, list(POLICIES))}")
    return POLICIES[name]


def apply(
    policy: Policy, images: np.ndarray, targets: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a varied copy of a batch (notebook 03 introduces it).

    Args:
        policy: What to do.
        images: uint8 ``(N, H, W, 3)``; left as they are.
        targets: float32 ``(N, K)``, one-hot or soft labels; left as they are.
        generator: Where every random number comes from.

    Returns:
        Images (uint8) and targets (float32) of the same shapes.
    """
    images = _move(policy, images, generator)
    if policy.brightness:
        factor = 1 + generator.uniform(-policy.brightness, policy.brightness, len(images))
        brighter = images * factor.astype(np.float32)[:, None, None, None]
        images = np.clip(brighter + 0.5, 0, 255).astype(np.uint8)
    if policy.cutout:
        images = _cut_out(images, policy.cutout, generator)
    if policy.mixup:
        images, targets = _mix(images, targets, policy.mixup, generator)
    return images, targets


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Return ``index`` mirrored into 0..size-1 at both edges, without repeating the edge."""
    return size - 1 - np.abs(size - 1 - np.abs(index) % (2 * size - 2))


def _move(policy: Policy, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the images flipped, shifted, rotated and zoomed, resampled once at most."""
    count, height, width, _ = images.shape
    mirror = np.where(generator.random(count) < policy.flip, -1.0, 1.0)
    shift = generator.integers(-policy.shift, policy.shift + 1, (2, count))
    if not (policy.rotate or policy.zoom):
        rows = _reflect(np.arange(height) + shift[0][:, None], height)
        columns = np.arange(width) + shift[1][:, None]
        columns = np.where(mirror[:, None] < 0, width - 1 - columns, columns)
        columns = _reflect(columns, width)
        return images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    angle = np.deg2rad(generator.uniform(-policy.rotate, policy.rotate, count))
    scale = 1 / (1 + generator.uniform(-policy.zoom, policy.zoom, count))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    cosine, sine = ((f(angle) * scale)[:, None, None] for f in (np.cos, np.sin))
    rows = cosine * y - sine * x + shift[0][:, None, None] + (height - 1) / 2
    columns = (sine * y + cosine * x) * mirror[:, None, None]
    columns = columns + shift[1][:, None, None] + (width - 1) / 2
    return _bilinear(images, rows, columns)


def _bilinear(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the images sampled at fractional rows and columns, each ``(N, H, W)``."""
    _, height, width, _ = images.shape
    index = np.arange(len(images))[:, None, None]
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down = (rows - top).astype(np.float32)[..., None]
    right = (columns - left).astype(np.float32)[..., None]
    sampled = np.zeros(images.shape, np.float32)
    for row, row_weight in ((top, 1 - down), (top + 1, down)):
        for column, column_weight in ((left, 1 - right), (left + 1, right)):
            corner = images[index, _reflect(row, height), _reflect(column, width)]
            sampled += corner * (row_weight * column_weight)
    return (sampled + 0.5).astype(np.uint8)


def _cut_out(images: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    """Return the images with one square each painted mid-grey; it may reach over the edge."""
    count, height, width, _ = images.shape
    top = generator.integers(0, height, (count, 1)) - side // 2
    left = generator.integers(0, width, (count, 1)) - side // 2
    rows = (np.arange(height) >= top) & (np.arange(height) < top + side)
    columns = (np.arange(width) >= left) & (np.arange(width) < left + side)
    return np.where((rows[:, :, None] & columns[:, None, :])[..., None], np.uint8(128), images)


def _mix(
    images: np.ndarray, targets: np.ndarray, alpha: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return each image and target blended with those of a partner from the same batch."""
    share = generator.beta(alpha, alpha, len(images)).astype(np.float32)
    partner = generator.permutation(len(images))
    weight = share[:, None, None, None]
    blended = images * weight + images[partner] * (1 - weight)
    mixed = targets * share[:, None] + targets[partner] * (1 - share[:, None])
    return (blended + 0.5).astype(np.uint8), mixed.astype(np.float32)
