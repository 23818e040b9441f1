"""A corpus of pictures as people, cameras and attackers make them; all of it is made here."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from cifar_utils import pictures, synthetic

SCENE = synthetic.generate(1, seed=5)[0][0]
LARGE = Image.fromarray(SCENE).resize((120, 96), Image.Resampling.BICUBIC)


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width, height, depth=8, colour=2, rows=None, extra=b""):
    """Return a PNG whose header says what it is told to, whatever the rows hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(rows if rows is not None else b"")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def sixteen_bits():
    rows = b"".join(
        b"\0" + (row.astype(">u2") * 257).tobytes() for row in np.asarray(LARGE, np.uint16)
    )
    return png(*LARGE.size, 16, 2, rows)


def oriented(format, number):
    exif = Image.Exif()
    exif[0x0112] = number
    undo = {value: key for key, value in {6: 8, 8: 6}.items()}
    sensor = LARGE.transpose(pictures._TURNS[undo.get(number, number)])
    return saved(sensor, format, exif=exif, **({"quality": 98} if format == "JPEG" else {}))


def profile(name="sRGB"):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def alpha(mode="RGBA"):
    clear = LARGE.convert(mode)
    clear.putalpha(255)
    return clear


def animated(format, **options):
    others = [Image.new("RGB", LARGE.size, colour) for colour in ("red", "blue")]
    return saved(LARGE, format, save_all=True, append_images=others, **options)


GREY = LARGE.convert("L")
PALETTE = LARGE.quantize(256)

GOOD = {
    "png": saved(LARGE, "PNG"),
    "png interlaced by nothing, no compression": saved(LARGE, "PNG", compress_level=0),
    "png grey": saved(GREY, "PNG"),
    "png grey and alpha": saved(alpha("LA"), "PNG"),
    "png rgb and alpha": saved(alpha(), "PNG"),
    "png palette": saved(PALETTE, "PNG"),
    "png palette and transparency": saved(PALETTE, "PNG", transparency=b"\xff" * 256),
    "png rgb and a transparent colour": saved(LARGE, "PNG", transparency=(1, 2, 3)),
    "png 16 bits rgb": sixteen_bits(),
    "png 16 bits grey": saved(
        Image.fromarray(np.asarray(GREY, np.uint16) * 257), "PNG"
    ),
    "png srgb profile": saved(LARGE, "PNG", icc_profile=profile()),
    "png alpha and srgb profile": saved(alpha(), "PNG", icc_profile=profile()),
    "png palette and srgb profile": saved(PALETTE, "PNG", icc_profile=profile()),
    "png profile of another kind": saved(LARGE, "PNG", icc_profile=profile("LAB")),
    "png profile of rubbish": saved(LARGE, "PNG", icc_profile=b"rubbish" * 9),
    "png long text": png(
        *LARGE.size, rows=b"".join(b"\0" + row.tobytes() for row in np.asarray(LARGE)),
        extra=chunk(b"tEXt", b"Comment\0" + b"x" * 100_000),
    ),
    "png animated": animated("PNG"),
    "jpeg": saved(LARGE, "JPEG", quality=95),
    "jpeg progressive": saved(LARGE, "JPEG", quality=95, progressive=True),
    "jpeg grey": saved(GREY, "JPEG", quality=95),
    "jpeg cmyk": saved(LARGE.convert("CMYK"), "JPEG", quality=98),
    "jpeg no subsampling": saved(LARGE, "JPEG", quality=98, subsampling=0),
    "jpeg srgb profile": saved(LARGE, "JPEG", quality=95, icc_profile=profile()),
    "jpeg large": saved(LARGE.resize((3000, 2400)), "JPEG"),
    "jpeg and more after its end": saved(LARGE, "JPEG", quality=95) + b"more" * 100,
    **{f"jpeg orientation {number}": oriented("JPEG", number) for number in range(2, 9)},
    "png orientation 6": oriented("PNG", 6),
    "webp orientation 8": oriented("WEBP", 8),
    **{f"tiff orientation {number}": oriented("TIFF", number) for number in range(2, 9)},
    "jpeg with a preview": animated("MPO", quality=95),
    "jpeg orientation 99": saved(LARGE, "JPEG", quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0"
                                 b"\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0"),
    "jpeg broken exif": saved(LARGE, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "bmp": saved(LARGE, "BMP"),
    "bmp grey": saved(GREY, "BMP"),
    "bmp palette": saved(PALETTE, "BMP"),
    "gif": saved(PALETTE, "GIF"),
    "gif transparent": saved(PALETTE, "GIF", transparency=255),
    "gif animated": animated("GIF"),
    "tiff": saved(LARGE, "TIFF"),
    "tiff lzw": saved(LARGE, "TIFF", compression="tiff_lzw"),
    "tiff cmyk": saved(LARGE.convert("CMYK"), "TIFF"),
    "tiff of several pages": animated("TIFF"),
    "webp": saved(LARGE, "WEBP", quality=95),
    "webp lossless": saved(LARGE, "WEBP", lossless=True),
    "webp alpha": saved(alpha(), "WEBP", lossless=True),
    "webp animated": animated("WEBP", lossless=True),
    "png large": saved(LARGE.resize((2000, 1600)), "PNG"),
}  # fmt: skip
"""Files that all show the same scene."""

BAD = {
    "empty": (b"", "empty"),
    "one byte": (b"\xff", "not a picture"),
    "text": (b"not a picture, whatever its name says", "not a picture"),
    "html": (b"<!doctype html><title>x</title>", "not a picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "svg with a declaration": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "SVG"),
    "pdf": (b"%PDF-1.7 ...", "PDF"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "not a picture"),
    "png without an end": (saved(LARGE, "PNG")[:-200], "damaged"),
    "png of its signature": (b"\x89PNG\r\n\x1a\n", "damaged|not a picture"),
    "png of 0 x 0": (png(0, 0), "pixels|not a picture|damaged"),
    "png that claims a gigapixel": (png(50_000, 50_000), "too many pixels"),
    "png of one long row": (png(40_000_000, 1, 1, 0), "along a side"),
    "png that claims 60 megapixels": (png(10_000, 6_000), "too many pixels"),
    "png with too few rows": (png(96, 96, rows=b"\0" * 97), "damaged"),
    "png with a wrong checksum": (
        GOOD["png"][:40] + b"\0\0\0\0" + GOOD["png"][44:],
        "damaged|not a picture",
    ),
    "png whose text unpacks to 100 MB": (
        png(1, 1, rows=b"\0\0\0\0",
            extra=chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 100_000_000))),
        "damaged",
    ),
    "jpeg cut off": (GOOD["jpeg"][: len(GOOD["jpeg"]) // 2], "damaged"),
    "jpeg of its header": (GOOD["jpeg"][:20], "damaged|not a picture"),
    "gif without frames": (b"GIF89a\x10\0\x10\0\0\0\0;", "damaged|not a picture"),
    "bmp that claims a gigapixel": (
        GOOD["bmp"][:18] + struct.pack("<ii", 40_000, 40_000) + GOOD["bmp"][26:],
        "too many pixels",
    ),
    "tiff cut off": (GOOD["tiff lzw"][:200], "damaged|not a picture"),
    "tiff of floats": (saved(GREY.convert("F"), "TIFF"), "32 bits"),
    "tiff of 32 bit integers": (saved(GREY.convert("I"), "TIFF"), "32 bits"),
    "webp cut off": (GOOD["webp"][:100], "damaged|not a picture"),
    "icon": (saved(LARGE, "ICO"), "not a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "more than 20 MB": (b"\x89PNG" + b"\0" * 20_000_000, "at most 20 MB"),
}  # fmt: skip
"""Files that end in a message, and a word of it."""
