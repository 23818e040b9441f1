"""Classic preprocessing: what people did to images before networks learned to do without.

Every method takes and gives bytes, so that its result can be looked at and trained on like the
images themselves. None looks at more than one image: there is nothing to fit, and nothing can leak
from validation or test. All the work is scikit-image's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage import color, exposure, filters, restoration

from cifar_utils.errors import ParameterError, nearest

_CHUNK = 1000
"""Images converted at a time, so that a memory-mapped set is never held as floats."""


@dataclass(frozen=True)
class Method:
    """One way to preprocess images.

    Attributes:
        family: ``none``, ``colour space``, ``contrast``, ``smoothing`` or ``sharpening``.
        description: What it does, in one line.
        function: uint8 ``(N, 32, 32, 3)`` to uint8 of the same shape; for a whole set call
            ``apply``, which checks the images and needs less memory.
    """

    family: str
    description: str
    function: Callable[[np.ndarray], np.ndarray]


def apply(name: str, images: np.ndarray) -> np.ndarray:
    """Return preprocessed images (notebook 01 introduces it).

    On one core 10,000 images take from 0.1 (grey) to 5 seconds (CLAHE).

    Args:
        name: A key of ``METHODS``.
        images: uint8 ``(N, 32, 32, 3)`` RGB, read in chunks and left as they are.

    Returns:
        uint8 ``(N, 32, 32, 3)``. Each image depends on its original alone.

    Raises:
        ParameterError: No method has that name, or the array does not hold RGB images.
    """
    if name not in METHODS:
        raise ParameterError(f"unknown preprocessing {name!r}{nearest(name, list(METHODS))}")
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
        raise ParameterError(
            f"cannot preprocess {images.dtype} {images.shape}; expected uint8 (N, 32, 32, 3) as "
            "the data set has them, before any rescaling"
        )
    processed = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        processed[part] = METHODS[name].function(np.asarray(images[part]))
    return processed


def _floats(images: np.ndarray) -> np.ndarray:
    """Return bytes as float32, 0 to 1."""
    return images / np.float32(255)


def _bytes(values: np.ndarray) -> np.ndarray:
    """Return values as bytes, 0 to 1 becoming 0 to 255; what lies outside is clipped."""
    return np.rint(255 * values).clip(0, 255).astype(np.uint8)


def _unchanged(images: np.ndarray) -> np.ndarray:
    return images


def _grey(images: np.ndarray) -> np.ndarray:
    return _bytes(np.repeat(color.rgb2gray(_floats(images))[..., None], 3, axis=-1))


def _hsv(images: np.ndarray) -> np.ndarray:
    return _bytes(color.rgb2hsv(_floats(images)))


def _ycbcr(images: np.ndarray) -> np.ndarray:
    return _bytes(color.rgb2ycbcr(_floats(images)) / 255)


def _lab(images: np.ndarray) -> np.ndarray:
    """Return L, 0 to 100, stretched over the bytes; a and b, -128 to 127, moved by 128."""
    lightness, a, b = np.moveaxis(color.rgb2lab(_floats(images)), -1, 0)
    return _bytes(np.stack([lightness / 100, (a + 128) / 255, (b + 128) / 255], axis=-1))


def _with_luma(images: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return images whose luma ``change`` has replaced; takes and gives ``(32, 32)``, 0 to 1."""
    luma = color.rgb2gray(_floats(images))
    # Of a blank image scikit-image would make a white one: it has no contrast to raise.
    changed = np.stack([change(one) if np.ptp(one) > 1e-3 else one for one in luma])
    # The same step in red, green and blue changes luma and leaves both colour differences.
    return _bytes(_floats(images) + (changed - luma)[..., None])


def _equalised(images: np.ndarray) -> np.ndarray:
    return _with_luma(images, lambda luma: exposure.equalize_hist(_bytes(luma)))


def _clahe(images: np.ndarray) -> np.ndarray:
    """Apply contrast-limited adaptive histogram equalisation (Zuiderveld 1994).

    Tiles of a quarter of the image and 64 grey levels: four pixels a level, none too few to count.
    """
    return _with_luma(
        images,
        lambda luma: exposure.equalize_adapthist(luma, kernel_size=16, clip_limit=0.03, nbins=64),
    )


def _stretched(images: np.ndarray) -> np.ndarray:
    # All channels by the same amount, so that an orange cast stays an orange cast.
    ranges = np.percentile(images, (1, 99), axis=(1, 2, 3)).T
    stretched = [
        exposure.rescale_intensity(image, in_range=(low, high), out_range=(0, 1))
        if low < high
        else _floats(image)
        for image, (low, high) in zip(images, ranges, strict=True)
    ]
    return _bytes(np.stack(stretched))


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """Return ``(N, H, W, C)`` smoothed along H and W."""
    return filters.gaussian(values, sigma=(0, sigma, sigma), channel_axis=-1)


def _locally_normalised(images: np.ndarray) -> np.ndarray:
    """Apply local contrast normalisation (Jarrett et al., ICCV 2009).

    Where an image is smoother than it is on average, that average divides: sky stays smooth. Three
    standard deviations either side reach black and white.
    """
    values = _floats(images)
    values -= _smoothed(values, sigma=2)
    spread = np.sqrt(_smoothed(values**2, sigma=2).mean(axis=-1, keepdims=True))
    average = spread.mean(axis=(1, 2, 3), keepdims=True)
    # The last term, a quarter of a grey level, is there for blank images.
    return _bytes(0.5 + values / np.maximum(np.maximum(spread, average), 1e-3) / 6)


def _blurred(images: np.ndarray) -> np.ndarray:
    return _bytes(_smoothed(_floats(images), sigma=1))


def _median(images: np.ndarray) -> np.ndarray:
    return filters.median(images, footprint=np.ones((1, 3, 3, 1)))


def _bilateral(images: np.ndarray) -> np.ndarray:
    """Average neighbours of similar colour (Tomasi and Manduchi, ICCV 1998)."""
    smoothed = [
        restoration.denoise_bilateral(
            image, win_size=5, sigma_color=0.05, sigma_spatial=1.5, mode="edge", channel_axis=-1
        )
        for image in _floats(images)
    ]
    return _bytes(np.stack(smoothed))


def _sharpened(images: np.ndarray) -> np.ndarray:
    # A radius for each axis, as scikit-image 0.26 takes `channel_axis=-1` for the first axis.
    return _bytes(filters.unsharp_mask(_floats(images), radius=(0, 1, 1, 0), amount=1))


METHODS: dict[str, Method] = {
    "none": Method("none", "the image as it is", _unchanged),
    "grey": Method("colour space", "luma, the weighted mean of the channels, three times", _grey),
    "HSV": Method("colour space", "hue (a circle: 0 and 255 are red), saturation, value", _hsv),
    "YCbCr": Method("colour space", "luma, 16 to 235, blueness and redness around 128", _ycbcr),
    "Lab": Method("colour space", "lightness, green to red and blue to yellow around 128", _lab),
    "contrast stretching": Method(
        "contrast", "the darkest 1% of values to 0, the brightest 1% to 255", _stretched
    ),
    "histogram equalisation": Method(
        "contrast", "every luma about equally often, colour differences kept", _equalised
    ),
    "CLAHE": Method("contrast", "equalised by neighbourhood, within limits", _clahe),
    "local contrast normalisation": Method(
        "contrast", "less the local mean, by the local standard deviation", _locally_normalised
    ),
    "Gaussian blur": Method("smoothing", "mean weighted by distance, sigma 1 pixel", _blurred),
    "median filter": Method("smoothing", "median of 3 x 3 pixels, each channel alone", _median),
    "bilateral filter": Method("smoothing", "mean of near pixels of similar colour", _bilateral),
    "unsharp masking": Method(
        "sharpening", "what blurring takes away, added once more", _sharpened
    ),
}
"""Every method by name; a new one is a function above and a line here."""
