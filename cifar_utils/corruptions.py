"""Images as bad cameras, weather and file formats make them.

The families and strengths of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261), in five
severities; the random parts are drawn anew, so results are near those on CIFAR-10-C, not the same.
Elastic distortion has strengths of its own and no shear, motion blur takes all directions, and
frost is left out, because it needs photographs of frost.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from cifar_utils.errors import DataError, ParameterError, nearest

SEVERITIES = (1, 2, 3, 4, 5)

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""From float ``(N, H, W, 3)`` images of 0 to 1, a place among the severities, and a generator."""


def _gaussian_noise(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Add what a sensor adds in the dark."""
    return images + generator.normal(0, (0.04, 0.06, 0.08, 0.09, 0.10)[place], images.shape)


def _shot_noise(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Count few photons."""
    photons = (500, 250, 100, 75, 50)[place]
    return generator.poisson(np.clip(images, 0, 1) * photons) / photons


def _impulse_noise(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Set single values to black or white."""
    drawn = generator.random(images.shape)
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[place]
    return np.where(drawn < share, np.where(drawn < share / 2, 0.0, 1.0), images)


def _convolved(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return images convolved with a ``(K, K)`` kernel, mirrored at their edges."""
    return ndimage.convolve(images, (kernel / kernel.sum())[None, :, :, None], mode="reflect")


def _defocus_blur(images: np.ndarray, place: int, _: np.random.Generator) -> np.ndarray:
    """Blur with a disk, as a lens out of focus does."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[place]
    reach = 8
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    return _convolved(images, ndimage.gaussian_filter(disk, softness))


def _glass_blur(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Look through uneven glass: pixels change places with a neighbour."""
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[place]
    spread = (0, sigma, sigma, 0)
    found = ndimage.gaussian_filter(images, spread)
    everyone = np.arange(len(images))
    for _ in range(rounds):
        for row in range(images.shape[1] - 1, 0, -1):
            for column in range(images.shape[2] - 1, 0, -1):
                up, left = generator.integers(0, 2, (2, len(images)))
                other = everyone, row - up, column - left
                kept = found[:, row, column].copy()
                found[:, row, column] = found[other]
                found[other] = kept
    return ndimage.gaussian_filter(found, spread)


def _motion_blur(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Blur along a line, in one of eight directions."""
    length, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[place]
    return _smeared(images, length, sigma, generator.integers(0, 8, len(images)) * np.pi / 8)


def _smeared(images: np.ndarray, length: int, sigma: float, angles: np.ndarray) -> np.ndarray:
    """Return each image blurred along its angle, in radians, to one side."""
    steps = np.arange(length + 1)
    found = np.empty_like(images)
    for angle in np.unique(angles):
        kernel = np.zeros((2 * length + 1, 2 * length + 1))
        rows = length + np.round(steps * np.sin(angle)).astype(int)
        columns = length + np.round(steps * np.cos(angle)).astype(int)
        np.add.at(kernel, (rows, columns), np.exp(-(steps**2) / (2 * sigma**2)))
        found[angles == angle] = _convolved(images[angles == angle], kernel)
    return found


def _zoom_blur(images: np.ndarray, place: int, _: np.random.Generator) -> np.ndarray:
    """Move towards the scene while the shutter is open."""
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[place], 0.01)
    return np.mean([_zoomed(images, factor) for factor in factors], axis=0)


def _zoomed(images: np.ndarray, factor: float) -> np.ndarray:
    """Return the middle of each image, as large as the whole."""
    height, width = images.shape[1:3]
    rows = (np.arange(height) - (height - 1) / 2) / factor + (height - 1) / 2
    columns = (np.arange(width) - (width - 1) / 2) / factor + (width - 1) / 2
    low = np.clip(np.floor(rows).astype(int), 0, height - 2)
    left = np.clip(np.floor(columns).astype(int), 0, width - 2)
    down, across = (rows - low)[:, None, None], (columns - left)[:, None]
    part = images[:, low] * (1 - down) + images[:, low + 1] * down
    return part[:, :, left] * (1 - across) + part[:, :, left + 1] * across


def _clouds(
    shape: tuple[int, int, int], smoothness: float, generator: np.random.Generator
) -> np.ndarray:
    """Return fractal noise of 0 to 1, ``(N, H, W)``: amplitudes fall with a power of frequency."""
    count, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    white = np.fft.rfft2(generator.normal(size=(count, height, width)))
    fields = np.fft.irfft2(white / frequency**smoothness, s=(height, width))
    fields -= fields.min(axis=(1, 2), keepdims=True)
    return fields / fields.max(axis=(1, 2), keepdims=True)


def _fog(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Lay a cloud before the scene."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[place]
    cloud = _clouds(images.shape[:3], 1 + np.log2(decay), generator)[..., None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + amount * cloud) * brightest / (brightest + amount)


def _snow(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Let flakes fall through the scene, and take its colours."""
    mean, spread, size, least, length, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[place]
    flakes = _zoomed(generator.normal(mean, spread, images.shape[:3])[..., None], size)
    flakes = np.where(flakes < least, 0, np.clip(flakes, 0, 1))
    steep = generator.integers(2, 7, len(images)) * np.pi / 8
    flakes = _smeared(flakes, length, sigma, steep)
    grey = images @ np.array([[0.299], [0.587], [0.114]])
    pale = kept * images + (1 - kept) * np.maximum(images, grey * 1.5 + 0.5)
    return pale + flakes + flakes[:, ::-1, ::-1]


def _brightness(images: np.ndarray, place: int, _: np.random.Generator) -> np.ndarray:
    """Raise the highest of the three colours of each pixel, and the others in proportion."""
    value = images.max(axis=-1, keepdims=True)
    raised = np.clip(value + (0.05, 0.1, 0.15, 0.2, 0.3)[place], 0, 1)
    return np.where(value > 0, images * raised / np.maximum(value, 1e-9), raised)


def _contrast(images: np.ndarray, place: int, _: np.random.Generator) -> np.ndarray:
    """Draw every value towards its image's mean."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return (images - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[place] + mean


def _elastic(images: np.ndarray, place: int, generator: np.random.Generator) -> np.ndarray:
    """Stretch the image here and compress it there."""
    reach, smooth = ((0.5, 6), (0.8, 5), (1.0, 4.5), (1.3, 4), (1.6, 3.5))[place]
    count, height, width = images.shape[:3]
    y, x = np.mgrid[:height, :width]
    shifts = ndimage.gaussian_filter(
        generator.normal(size=(2, count, height, width)), (0, 0, smooth, smooth), mode="reflect"
    )
    shifts *= reach / shifts.std(axis=(2, 3), keepdims=True)
    found = np.empty_like(images)
    for place, image in enumerate(images):
        places = [y + shifts[0, place], x + shifts[1, place]]
        for channel in range(image.shape[-1]):
            found[place, ..., channel] = ndimage.map_coordinates(
                image[..., channel], places, order=1, mode="reflect"
            )
    return found


def _pictures(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Return images changed one by one by Pillow."""
    bytes_ = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in bytes_]) / 255.0


def _pixelate(images: np.ndarray, place: int, _: np.random.Generator) -> np.ndarray:
    """Make the image small, and large again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[place]

    def change(picture: Image.Image) -> Image.Image:
        size = int(picture.width * share), int(picture.height * share)
        return picture.resize(size, Image.Resampling.BOX).resize(
            picture.size, Image.Resampling.NEAREST
        )

    return _pictures(images, change)


def _jpeg(images: np.ndarray, place: int, _: np.random.Generator) -> np.ndarray:
    """Save the image as a small file."""

    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[place])
        return Image.open(file)

    return _pictures(images, change)


FAMILIES: dict[str, dict[str, Corruption]] = {
    "noise": {
        "gaussian noise": _gaussian_noise,
        "shot noise": _shot_noise,
        "impulse noise": _impulse_noise,
    },
    "blur": {
        "defocus blur": _defocus_blur,
        "glass blur": _glass_blur,
        "motion blur": _motion_blur,
        "zoom blur": _zoom_blur,
    },
    "weather": {"fog": _fog, "snow": _snow, "brightness": _brightness},
    "digital": {
        "contrast": _contrast,
        "elastic": _elastic,
        "pixelate": _pixelate,
        "jpeg": _jpeg,
    },
}
"""Corruptions by family."""

CORRUPTIONS: dict[str, Corruption] = {
    name: function for family in FAMILIES.values() for name, function in family.items()
}
"""All corruptions by name."""


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int = 0) -> np.ndarray:
    """Return images as they look under a corruption (notebook 06 introduces it).

    Args:
        images: uint8 ``(N, H, W, 3)``.
        name: A key of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: Of what is drawn; the same images, name, severity and seed give the same result.

    Returns:
        uint8 ``(N, H, W, 3)``.

    Raises:
        ParameterError: There is no such corruption or severity.
        DataError: These are no uint8 images.
    """
    if name not in CORRUPTIONS:
        raise ParameterError(f"unknown corruption {name!r}{nearest(name, list(CORRUPTIONS))}")
    if severity not in SEVERITIES:
        raise ParameterError(f"severity is {severity!r}; expected 1 to {len(SEVERITIES)}")
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise DataError(f"images {images.dtype} {images.shape}: expected uint8 (N, H, W, 3)")
    generator = np.random.default_rng([seed, severity, list(CORRUPTIONS).index(name)])
    changed = CORRUPTIONS[name](images / 255.0, severity - 1, generator)
    return np.round(np.clip(changed, 0, 1) * 255).astype(np.uint8)
