"""Pictures from outside: checked before they are decoded, turned upright, made 32 x 32.

Nothing is trusted: not the name, not the size that a file claims, not that it is a picture at all.
What cannot be read ends in a ``PictureError`` whose message is meant for the person who sent it.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from cifar_utils.errors import ParameterError, PictureError, nearest

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are decoded; a file's content decides, not the end of its name."""

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How the names of pictures in a folder end; a file that is named itself may be called anything."""

MOST_BYTES = 20_000_000
"""Size of the largest file."""

MOST_PIXELS = 50_000_000
"""Pixels of the largest picture, a little more than a phone's camera makes."""

MOST_SIDE = 65_535
"""Pixels along the longer side; longer ones come from files made to exhaust memory."""

SIDE = 32
"""Width and height in pixels of what the models see."""

Fit = Literal["crop", "pad", "stretch"]
"""What happens to pictures that are not square: cut to the middle, set on grey, or squeezed."""

FITS: dict[Fit, str] = {
    "crop": "cut to the middle square",
    "pad": "set on grey to make it square",
    "stretch": "squeezed to a square",
}
"""What each of them does to a picture."""

_GREY = (127, 127, 127)
_DECODED_SIDE = 3 * SIDE
"""Large pictures are first brought near this size: quicker, and they take less memory."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation that a camera notes (EXIF)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the models see it.

    Attributes:
        pixels: uint8 ``(32, 32, 3)`` RGB.
        width: In pixels, as sent, upright.
        height: In pixels, as sent, upright.
        format: One of ``FORMATS``, or ``array``.
        notes: What was done that somebody may want to know, such as which frame was taken.
    """

    pixels: np.ndarray
    width: int
    height: int
    format: str
    notes: tuple[str, ...] = ()


def content(path: Path) -> bytes:
    """Return what is in a file, not more than may be read.

    Raises:
        PictureError: It is no file, cannot be read or is too large.
    """
    try:
        if not path.is_file():
            raise PictureError("it is not a file" if path.exists() else "there is no such file")
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise PictureError(f"the file cannot be read: {error.strerror}") from error


def read(content: bytes, *, fit: Fit = "crop") -> Picture:
    """Decode a file's content (notebook 09 introduces it).

    Animations give their first frame, transparent parts become white, colour profiles are
    converted to sRGB, and the orientation that a camera noted is applied.

    Args:
        content: Of a file in one of ``FORMATS``.
        fit: See ``Fit``.

    Raises:
        PictureError: It is empty, too large, damaged or no picture.
        ParameterError: There is no such fit.
    """
    check_fit(fit)
    if not content:
        raise PictureError("the file is empty")
    if len(content) > MOST_BYTES:
        raise PictureError(f"the file is too large; at most {MOST_BYTES / 1e6:.0f} MB are read")
    try:
        with _damage_named(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.width, image.height)
            return _read(image, fit)
    except UnidentifiedImageError:
        raise PictureError(_unknown(content)) from None


def from_image(image: Image.Image, *, fit: Fit = "crop") -> Picture:
    """Return what the models see of a Pillow image; arguments and errors are those of ``read``."""
    check_fit(fit)
    _check_size(image.width, image.height)
    with _damage_named():
        copied = image.copy()
        copied.format = image.format
        return _read(copied, fit)


def from_array(array: np.ndarray, *, fit: Fit = "crop") -> Picture:
    """Return what the models see of an array.

    Args:
        array: uint8 ``(H, W)`` grey, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGB with alpha.
        fit: See ``Fit``.

    Raises:
        PictureError: It has another type or shape, or too many pixels.
        ParameterError: There is no such fit.
    """
    check_fit(fit)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise PictureError(
            f"the array is {array.dtype} {array.shape}; expected uint8, 0 to 255, and "
            "(height, width), (height, width, 3) or (height, width, 4)"
        )
    _check_size(array.shape[1], array.shape[0])
    return _read(
        Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array), fit
    )


@contextmanager
def _damage_named() -> Iterator[None]:
    """Say of a picture what is wrong, whatever the decoder says of it."""
    try:
        yield
    except (PictureError, UnidentifiedImageError):
        raise
    except Image.DecompressionBombError:
        raise PictureError(_too_many_pixels()) from None
    except MemoryError:
        raise PictureError("the picture does not fit into memory; make it smaller") from None
    # Pillow's decoders raise nearly anything on files made to break them.
    except Exception as error:
        raise PictureError(
            f"the picture is damaged: {str(error) or type(error).__name__}"
        ) from error


def check_fit(fit: str) -> Fit:
    """Return a ``Fit`` by its name.

    Raises:
        ParameterError: There is no such fit.
    """
    for known in FITS:
        if known == fit:
            return known
    raise ParameterError(f"unknown fit {fit!r}{nearest(fit, list(FITS))}")


def _check_size(width: int, height: int) -> None:
    """Refuse pictures without or with too many pixels, before one is decoded."""
    if width < 1 or height < 1:
        raise PictureError(f"the picture is {width} x {height} pixels; expected at least 1 x 1")
    if max(width, height) > MOST_SIDE:
        raise PictureError(
            f"the picture is {width:,} x {height:,} pixels; at most {MOST_SIDE:,} along a side"
        )
    if width * height > MOST_PIXELS:
        raise PictureError(_too_many_pixels(f"{width:,} x {height:,} are"))


def _too_many_pixels(what: str = "it has") -> str:
    return f"the picture has too many pixels: {what} more than {MOST_PIXELS:,}; make it smaller"


def _unknown(content: bytes) -> str:
    """Return what to tell about content that no decoder knows."""
    known = "expected " + ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml")) or b"<svg" in start:
        return f"the file is an SVG drawing; {known}, so save it as a PNG first"
    if start.startswith(b"%pdf"):
        return f"the file is a PDF document; {known}, so save its page as a PNG first"
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return f"the file is a HEIC or AVIF picture; {known}, so save it as a JPEG first"
    return f"the file is not a picture that can be read; {known}"


def _read(image: Image.Image, fit: Fit) -> Picture:
    """Return what the models see of an image that has been opened."""
    notes = []
    # Cameras append previews to a JPEG; Pillow calls that MPO, and it is still one picture.
    format = {None: "array", "MPO": "JPEG"}.get(image.format, image.format or "")
    if format != "JPEG" and getattr(image, "is_animated", False):
        image.seek(0)
        notes.append("the first of several frames")
    noted = image.getexif().get(ExifTags.Base.Orientation)
    width, height = image.size
    if format == "JPEG":
        times = _times(image)
        image.draft(None, (width // times, height // times))
        image.load()
    else:
        image.load()
        width, height = image.size  # Pillow has turned a TIFF by now
    left = image.getexif().get(ExifTags.Base.Orientation)
    if left in _TURNS and left >= 5:
        width, height = height, width
    if noted in _TURNS:
        notes.append("turned as the camera noted")
    rgb = _rgb(image, notes)
    if left in _TURNS:
        rgb = rgb.transpose(_TURNS[left])
    if width != height:
        notes.append(FITS[fit])
    return Picture(_fitted(rgb, fit), width, height, format, tuple(notes))


def _times(image: Image.Image) -> int:
    """Return by how much an image may shrink before it is looked at closely."""
    return max(1, min(image.size) // _DECODED_SIDE)


def _rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return a smaller image in RGB: transparent parts on white, 16 bits as 8, colours as sRGB."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        notes.append("16 bits a value made 8")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise PictureError(
            f"the picture has values of 32 bits ({image.mode}); save it with 8 bits a value"
        )
    profile, clear = image.info.get("icc_profile"), image.has_transparency_data
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or "transparency" in image.info:
        image = image.convert("RGBA" if clear else "RGB")
    image = image.reduce(_times(image))
    alpha = image.getchannel("A") if clear else None
    if alpha:
        image = image.convert("L" if image.mode == "LA" else "RGB")
    image = _standard_colours(image, profile, notes).convert("RGB")
    if alpha and np.asarray(alpha).min() < 255:
        notes.append("transparent parts shown on white")
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _standard_colours(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert from the colours of an embedded profile, if there is one that can be read."""
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("its colour profile could not be read")
        return image


def _fitted(image: Image.Image, fit: Fit) -> np.ndarray:
    """Return uint8 ``(32, 32, 3)``, smoothed before it is thinned out."""
    width, height = image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    elif fit == "pad":
        side = max(width, height)
        if max(1, round(SIDE * min(width, height) / side)) < SIDE:
            inner = (max(1, round(SIDE * width / side)), max(1, round(SIDE * height / side)))
            small = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=3.0)
            image = Image.new("RGB", (SIDE, SIDE), _GREY)
            image.paste(small, ((SIDE - inner[0]) // 2, (SIDE - inner[1]) // 2))
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(image)
