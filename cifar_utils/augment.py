"""Image policies: what is done to training images, batch by batch, as NumPy arrays.

Images stay uint8 RGB throughout, as the models take them, and every random number comes from the
generator that is passed in, so that a batch depends on the seed, the epoch and its place alone.
"""

# Why not Keras's layers: their random numbers depend on how often they were called, AugMix's even
# on Python's global ones; RandAugment draws one operation for a whole batch and computes them all;
# and most take many times as long on a CPU (benchmarks/augmentation.py).

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cifar_utils import pixels
from cifar_utils.errors import ParameterError, nearest

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "flip": (lambda value: 0 <= value <= 1, "a probability, 0 to 1"),
    "shift": (lambda value: 0 <= value < 32 and value == int(value), "whole pixels, 0 to 31"),
    "rotate": (lambda value: 0 <= value <= 180, "0 to 180 degrees"),
    "zoom": (lambda value: 0 <= value < 1, "0 to below 1"),
    "brightness": (lambda value: 0 <= value <= 1, "0 to 1"),
    "contrast": (lambda value: 0 <= value <= 1, "0 to 1"),
    "augmix": (lambda value: 0 <= value <= 10, "a severity, 0 to 10"),
    "cutout": (lambda value: value >= 0 and value == int(value), "whole pixels, 0 or more"),
    "erasing": (lambda value: 0 <= value <= 1, "a probability, 0 to 1"),
    "mixup": (lambda value: value >= 0, "0 or more"),
    "cutmix": (lambda value: value >= 0, "0 or more"),
}


def _is_randaugment(value: object) -> bool:
    """Return whether ``value`` is a number of operations and a magnitude."""
    if not (isinstance(value, tuple) and len(value) == 2):
        return False
    count, magnitude = value
    fits = isinstance(count, int) and isinstance(magnitude, int | float)
    return fits and count >= 1 and 0 <= magnitude <= 10


@dataclass(frozen=True)
class Policy:
    """How images are varied; zero turns a step off; refused with ParameterError if out of range.

    Steps are taken in this order. Moves, from ``flip`` to ``zoom``, are one resampling.

    Attributes:
        flip: Probability of a left-right mirror image.
        alternating: Whether each image is mirrored in every other epoch instead, half of them
            beginning so (Jordan, arXiv 2404.00498).
        shift: Largest shift along each axis, in pixels.
        rotate: Largest rotation either way, in degrees.
        zoom: Largest relative change of size either way, 0.1 for 90% to 110%.
        brightness: Largest relative change of brightness either way.
        contrast: Largest relative change of contrast either way.
        randaugment: How many of ``pixels.OPERATIONS`` an image goes through, each drawn anew, and
            their magnitude, 0 to 10 (Cubuk et al., arXiv 1909.13719).
        augmix: Severity, 0 to 10, of three chains of operations that are blended with the image
            (Hendrycks et al., arXiv 1912.02781, without its consistency loss).
        cutout: Side of the square painted grey, in pixels (DeVries and Taylor, arXiv 1708.04552).
        erasing: Probability that a rectangle of random area and aspect is painted over (Zhong et
            al., arXiv 1708.04896).
        erasing_mean: Whether it gets the mean colour of the batch instead of random values.
        mixup: Beta parameter of the blend of two images and their labels (Zhang et al.,
            arXiv 1710.09412).
        cutmix: Beta parameter of the area of a rectangle taken from another image, whose label
            counts by the area (Yun et al., arXiv 1905.04899).
    """

    flip: float = 0.0
    alternating: bool = False
    shift: int = 0
    rotate: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    randaugment: tuple[int, float] | None = None
    augmix: float = 0.0
    cutout: int = 0
    erasing: float = 0.0
    erasing_mean: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name, (fits, expected) in _RANGES.items():
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and fits(value)):
                raise ParameterError(f"{name} is {value!r}; expected {expected}")
        if self.flip and self.alternating:
            raise ParameterError("flip and alternating both mirror images; choose one of them")
        if self.erasing_mean and not self.erasing:
            raise ParameterError("erasing_mean needs erasing; set that to a probability")
        if self.randaugment is not None and not _is_randaugment(self.randaugment):
            raise ParameterError(
                f"randaugment is {self.randaugment!r}; expected a number of operations, 1 or more, "
                "and a magnitude, 0 to 10, such as (2, 5)"
            )


POLICIES: dict[str, Policy] = {
    "none": Policy(),
    "flip": Policy(flip=0.5),
    "shift": Policy(shift=4),
    "rotate": Policy(rotate=15),
    "zoom": Policy(zoom=0.2),
    "brightness": Policy(brightness=0.3),
    "contrast": Policy(contrast=0.4),
    "cutout": Policy(cutout=12),
    "erasing": Policy(erasing=0.5),
    "mixup": Policy(mixup=0.4),
    "cutmix": Policy(cutmix=1.0),
    "randaugment": Policy(randaugment=(2, 5)),
    "augmix": Policy(augmix=3),
    "alternating": Policy(alternating=True, shift=2),
    "alternating_far": Policy(alternating=True, shift=4),
    "standard": Policy(flip=0.5, shift=2),
    "strong": Policy(flip=0.5, shift=2, rotate=10, zoom=0.1, brightness=0.2, cutout=8),
}
"""Every policy by name; a new augmentation is a step in ``apply`` and a line here."""


def get(name: str) -> Policy:
    """Return the policy called ``name`` (notebook 03 introduces it).

    Args:
        name: A key of ``POLICIES``, or several joined by ``+``, such as ``"alternating+cutout"``.

    Raises:
        ParameterError: No policy has that name, or two of them set the same step.
    """
    steps: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for part in name.split("+"):
        if part not in POLICIES:
            raise ParameterError(f"unknown augmentation {part!r}{nearest(part, list(POLICIES))}")
        for field in fields(Policy):
            value = getattr(POLICIES[part], field.name)
            if value == field.default:
                continue
            if field.name in steps:
                raise ParameterError(
                    f"{name!r} cannot be put together: {origin[field.name]!r} and {part!r} both "
                    f"set {field.name}; leave one of them out"
                )
            steps[field.name], origin[field.name] = value, part
    return Policy(**steps)


def mixes(policy: Policy) -> bool:
    """Return whether a policy makes soft targets of one-hot ones (notebook 03)."""
    return policy.mixup > 0 or policy.cutmix > 0


def alternating(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return which of all training images alternating flip mirrors in an epoch (notebook 03).

    Any two epochs in a row show each image both ways, where a coin would show half of them one way
    twice (Jordan, arXiv 2404.00498).

    Args:
        count: Number of training images.
        seed: Which half is mirrored first.
        epoch: Counted from 0.

    Returns:
        bool ``(count,)``.
    """
    # NumPy takes (seed,) and (seed, 0) for the same; the constant keeps this apart from the numbers
    # that are drawn for epochs and batches.
    first = np.random.default_rng((seed, 240_400_498)).random(count) < 0.5
    return first ^ bool(epoch % 2)


def apply(
    policy: Policy,
    images: np.ndarray,
    targets: np.ndarray,
    generator: np.random.Generator,
    *,
    mirror: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a varied copy of a batch (notebook 03 introduces it).

    Args:
        policy: What to do.
        images: uint8 ``(N, H, W, 3)``; left as they are.
        targets: float32 ``(N, K)``, one-hot or soft labels; left as they are. Class numbers
            ``(N,)`` will do for a policy that does not mix.
        generator: Where every random number comes from.
        mirror: bool ``(N,)``, which images an alternating policy mirrors, from ``alternating``; if
            it is missing, a coin decides, as in a first epoch.

    Returns:
        Images (uint8) and targets of the same shapes and dtypes.

    Raises:
        ParameterError: ``mirror`` has another shape, or the policy does not alternate; or it mixes,
            and the targets are class numbers.
    """
    if mirror is not None and (not policy.alternating or mirror.shape != images.shape[:1]):
        raise ParameterError(
            f"mirror has shape {mirror.shape} for {len(images)} images and alternating is "
            f"{policy.alternating}; expected one value an image, and a policy that alternates"
        )
    if mixes(policy) and targets.ndim != 2:
        raise ParameterError(
            f"targets have shape {targets.shape}, and this policy mixes them; expected (N, K), "
            "one-hot or soft labels"
        )
    images = _move(policy, images, mirror, generator)
    if policy.brightness or policy.contrast:
        images = _relight(policy, images, generator)
    if policy.randaugment is not None:
        images = _randaugment(images, *policy.randaugment, generator)
    if policy.augmix:
        images = _augmix(images, policy.augmix, generator)
    if policy.cutout:
        sides = np.full(len(images), policy.cutout)
        boxes = _boxes(images, sides, sides, generator)
        images = _painted(images, boxes, np.array(128, np.uint8))
    if policy.erasing:
        images = _erase(images, policy.erasing, policy.erasing_mean, generator)
    if policy.mixup:
        images, targets = _mix(images, targets, policy.mixup, generator)
    if policy.cutmix:
        images, targets = _cut_and_mix(images, targets, policy.cutmix, generator)
    return images, targets


def _move(
    policy: Policy,
    images: np.ndarray,
    mirror: np.ndarray | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the images flipped, shifted, rotated and zoomed, resampled once at most."""
    count = len(images)
    if mirror is None:
        mirror = generator.random(count) < (0.5 if policy.alternating else policy.flip)
    offset = generator.integers(-policy.shift, policy.shift + 1, (2, count))
    if not (policy.rotate or policy.zoom):
        # A shift to the right before a mirror is one to the left after it; both occur as often.
        return pixels.shift(images, mirror, *offset)
    angle = np.deg2rad(generator.uniform(-policy.rotate, policy.rotate, count))
    size = 1 + generator.uniform(-policy.zoom, policy.zoom, count)
    matrix = pixels.rotation(angle) / size[:, None, None]
    matrix[:, 1] *= np.where(mirror, -1, 1)[:, None]
    return pixels.resample(images, matrix, offset.T)


def _relight(policy: Policy, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the images brighter or darker and with more or less contrast, rounded once."""
    light, spread = (
        1 + generator.uniform(-reach, reach, len(images))
        for reach in (policy.brightness, policy.contrast)
    )
    return pixels.scale(images, light * spread, light * (1 - spread) * pixels.level(images))


def _randaugment(
    images: np.ndarray, operations: int, magnitude: float, generator: np.random.Generator
) -> np.ndarray:
    """Return the images after operations drawn for each, all of one magnitude, of either sign."""
    for _ in range(operations):
        chosen = generator.integers(0, len(pixels.OPERATIONS), len(images))
        strength = magnitude / 10 * generator.choice([-1.0, 1.0], len(images))
        images = pixels.operate(images, chosen, strength)
    return images


AUGMIX_OPERATIONS = 9
"""AugMix draws from the first nine; the others resemble the corruptions that it is tested on."""


def _augmix(images: np.ndarray, severity: float, generator: np.random.Generator) -> np.ndarray:
    """Return the images blended with three chains of one to three operations each."""
    count, chains = len(images), 3
    depth = generator.integers(1, 4, chains * count)
    several = np.concatenate([images] * chains)
    for step in range(3):
        chosen = generator.integers(0, AUGMIX_OPERATIONS, chains * count)
        strength = generator.uniform(0.1, max(severity, 0.1), chains * count) / 10
        strength *= generator.choice([-1.0, 1.0], chains * count)
        going = depth > step
        several[going] = pixels.operate(several[going], chosen[going], strength[going])
    kept = generator.beta(1, 1, count)
    shares = generator.dirichlet(np.ones(chains), count).T * (1 - kept)
    shares = pixels.weights(np.concatenate([kept[None], shares]))
    return pixels.blend([images, *np.split(several, chains)], shares)


def _boxes(
    images: np.ndarray, tall: np.ndarray, wide: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return rectangles around random pixels, cut off at the edges: ``(N, 4)``.

    A row is top, bottom, left and right, bottom and right excluded.
    """
    count, height, width, _ = images.shape
    top = generator.integers(0, height, count) - tall // 2
    left = generator.integers(0, width, count) - wide // 2
    rows = np.clip(np.stack([top, top + tall], axis=1), 0, height)
    columns = np.clip(np.stack([left, left + wide], axis=1), 0, width)
    return np.concatenate([rows, columns], axis=1)


def _painted(images: np.ndarray, boxes: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """Return the images with each box taken from ``paint``, which broadcasts to their shape."""
    out, paint = images.copy(), np.broadcast_to(paint, images.shape)
    # A loop over slices: masks for whole images, most of them false, take 30 times as long.
    for target, source, (top, bottom, left, right) in zip(out, paint, boxes.tolist(), strict=True):
        target[top:bottom, left:right] = source[top:bottom, left:right]
    return out


def _erase(
    images: np.ndarray, probability: float, mean: bool, generator: np.random.Generator
) -> np.ndarray:
    """Return the images, some with a rectangle of 2% to 40% of the area painted over.

    Its height is 0.3 to 3.3 times its width, cut to the image where it would be larger.
    """
    count, height, width, _ = images.shape
    area = generator.uniform(0.02, 0.4, count) * height * width
    aspect = np.exp(generator.uniform(np.log(0.3), -np.log(0.3), count))
    tall = np.minimum(np.rint(np.sqrt(area * aspect)).astype(int), height)
    wide = np.minimum(np.rint(np.sqrt(area / aspect)).astype(int), width)
    top = generator.integers(0, height - tall + 1)
    left = generator.integers(0, width - wide + 1)
    boxes = np.stack([top, top + tall, left, left + wide], axis=1)
    boxes[generator.random(count) >= probability] = 0
    if mean:
        paint = np.rint(images.mean(axis=(0, 1, 2), dtype=np.float64)).astype(np.uint8)
    else:
        paint = generator.integers(0, 256, images.shape, dtype=np.uint8)
    return _painted(images, boxes, paint)


def _mix(
    images: np.ndarray, targets: np.ndarray, alpha: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return each image and target blended with those of a partner from the same batch."""
    share = generator.beta(alpha, alpha, len(images))
    partner = generator.permutation(len(images))
    shares = pixels.weights(np.stack([share, 1 - share]))
    own = (shares[0] / np.float32(256))[:, None]
    return (
        pixels.blend([images, images[partner]], shares),
        targets * own + targets[partner] * (1 - own),
    )


def _cut_and_mix(
    images: np.ndarray, targets: np.ndarray, alpha: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return each image with a rectangle of a partner's, and the targets shared by area."""
    count, height, width, _ = images.shape
    root = np.sqrt(generator.beta(alpha, alpha, count))
    partner = generator.permutation(count)
    tall, wide = (np.rint(side * root).astype(int) for side in (height, width))
    boxes = _boxes(images, tall, wide, generator)
    # The box may be cut off at an edge, so its share is counted, not taken from the draw.
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    other = (area / np.float32(height * width)).astype(np.float32)[:, None]
    mixed = targets * (1 - other) + targets[partner] * other
    return _painted(images, boxes, images[partner]), mixed
