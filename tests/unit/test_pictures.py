import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from cifar_utils import pictures
from cifar_utils.errors import ParameterError, PictureError
from tests.unit.corpus import BAD, GOOD, GREY, LARGE, SCENE, chunk, png, saved


def seen(array):
    """Return what the models would see of a scene that needs no decoding."""
    return pictures.from_array(np.asarray(array)).pixels.astype(int)


def test_the_corpus_is_large():
    assert len(GOOD) + len(BAD) >= 60


@pytest.mark.parametrize("name", GOOD)
def test_every_good_file_shows_the_scene(name):
    found = pictures.read(GOOD[name])
    assert found.pixels.shape == (32, 32, 3)
    assert found.pixels.dtype == np.uint8
    assert found.width / found.height == LARGE.width / LARGE.height
    assert found.format == name.split()[0].upper()
    grey = "grey" in name
    expected = seen(GREY if grey else LARGE)
    # Lossy files, palettes and other colour spaces move values a little, a turned picture a lot.
    assert np.abs(found.pixels - expected).mean() < 9
    exact = "lossless" in name or name.split()[0] in ("png", "bmp")
    if exact and not any(word in name for word in ("palette", "profile", "large")):
        assert np.abs(found.pixels - expected).max() <= 1
    assert ("the first of several frames" in found.notes) == (
        "animated" in name or "several pages" in name
    )
    assert ("turned as the camera noted" in found.notes) == (
        "orientation" in name and "99" not in name
    )


@pytest.mark.parametrize("name", BAD)
def test_every_bad_file_ends_in_a_message(name):
    content, message = BAD[name]
    with pytest.raises(PictureError, match=message):
        pictures.read(content)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(set(GOOD) - {"jpeg large", "png large"})),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    kept=st.integers(0, 10**6),
)
def test_damaged_files_end_in_a_picture_or_a_message(name, changes, kept):
    content = bytearray(GOOD[name])
    for place, value in changes:
        content[place % len(content)] = value
    try:
        found = pictures.read(bytes(content[: kept % (2 * len(content)) + 1]))
    except PictureError:
        return
    assert found.pixels.shape == (32, 32, 3)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_rubbish_ends_in_a_message(content):
    with pytest.raises(PictureError):
        pictures.read(content)


def test_what_is_32_pixels_already_stays_as_it_is():
    np.testing.assert_array_equal(pictures.read(saved(Image.fromarray(SCENE), "PNG")).pixels, SCENE)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (33, 31), (31, 33)])
@pytest.mark.parametrize("fit", pictures.FITS)
def test_every_size_becomes_32(width, height, fit):
    flat = Image.new("RGB", (width, height), (200, 30, 40))
    found = pictures.read(saved(flat, "PNG"), fit=fit)
    assert (found.width, found.height) == (width, height)
    assert (found.pixels == (200, 30, 40)).all(axis=-1).sum() >= 32
    if fit != "pad":
        assert (found.pixels == (200, 30, 40)).all()


def test_fits_differ_in_what_they_keep():
    wide = np.zeros((50, 150, 3), np.uint8)
    wide[:, :50, 0] = wide[:, 100:, 1] = 255
    crop, pad, squeezed = (pictures.from_array(wide, fit=fit).pixels for fit in pictures.FITS)
    assert crop.max() <= 30, "the middle is black"
    assert (pad[0] == 127).all()
    assert (pad[16, 0, 0], pad[16, -1, 1]) == (255, 255)
    assert (squeezed[0, 0, 0], squeezed[0, -1, 1]) == (255, 255)


def test_small_details_are_averaged_not_skipped():
    """A fine checkerboard is grey from afar; picking single pixels would give black or white."""
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(pictures.from_array(board).pixels.astype(int) - 127).max() <= 3


def test_transparent_parts_become_white():
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    found = pictures.read(saved(clear, "PNG"))
    assert (found.pixels == 255).all()
    assert "transparent parts shown on white" in found.notes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_profile_are_converted(mode):
    """A profile with red and blue exchanged: what looks blue must become blue."""
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    content = bytearray(swapped)
    content[red : red + 4], content[blue : blue + 4] = b"bXYZ", b"rXYZ"
    image = Image.new("RGB", (40, 40), (255, 0, 0)).convert(mode)
    found = pictures.read(saved(image, "PNG", icc_profile=bytes(content)))
    assert found.pixels[0, 0, 2] > 200 > 60 > found.pixels[0, 0, 0]


def test_arrays_and_images_are_taken_too():
    expected = seen(LARGE)
    np.testing.assert_array_equal(pictures.from_image(LARGE).pixels, expected)
    grey = np.asarray(GREY)
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(pictures.from_array(array).pixels, seen(grey))
    for array in (SCENE / 255, SCENE[None], SCENE[..., :2], SCENE.astype(np.int64)):
        with pytest.raises(PictureError, match="expected uint8"):
            pictures.from_array(array)
    with pytest.raises(PictureError, match="at least 1 x 1"):
        pictures.from_array(SCENE[:0])
    with pytest.raises(PictureError, match="damaged"):
        pictures.from_image(Image.open(io.BytesIO(GOOD["png"][:-200])))
    with pytest.raises(ParameterError, match="did you mean 'crop'"):
        pictures.from_image(LARGE, fit="croop")


_PEAK = """
import resource, sys
from cifar_utils import pictures
content = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = pictures.read(content, fit="pad")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000)
"""


@pytest.mark.parametrize(
    ("width", "height", "depth", "colour", "clear"),
    [(7000, 7000, 8, 3, b"\xff"), (7000, 7000, 8, 2, b"\0\0\0\0\0\0"), (65_535, 1, 8, 2, b"")],
)
def test_the_largest_pictures_do_not_exhaust_memory(tmp_path, width, height, depth, colour, clear):
    channels = 1 if colour == 3 else 3
    rows = (b"\0" + b"\0" * channels * width) * height
    palette = chunk(b"PLTE", b"\0\0\0") if colour == 3 else b""
    extra = palette + (chunk(b"tRNS", clear) if clear else b"")
    path = tmp_path / "large.png"
    path.write_bytes(png(width, height, depth, colour, rows, extra))
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 700, "megabytes"
