import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import filters

from cifar_utils import preprocessing, synthetic
from cifar_utils.errors import ParameterError

IMAGES = synthetic.generate(12, seed=0)[0]
NAMES = list(preprocessing.METHODS)
WEIGHTS = np.array([0.2125, 0.7154, 0.0721])


def pixel(name, *rgb):
    """Return the value of the middle pixel of an image of one colour."""
    blank = np.full((1, 32, 32, 3), rgb, np.uint8)
    return preprocessing.apply(name, blank)[0, 16, 16].tolist()


def roughness(images):
    """Return the mean square of differences between neighbours."""
    return np.square(np.diff(images.astype(float), axis=2)).mean()


def ramps(low, high):
    """Return two grey images that go from ``low`` to ``high``, one across, one down."""
    ramp = np.tile(np.linspace(low, high, 32).astype(np.uint8), (32, 1))
    return np.repeat(np.stack([ramp, ramp.T])[..., None], 3, axis=-1)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_in_bytes_out_and_nothing_in_place(name):
    images = IMAGES.copy()
    images.flags.writeable = False
    processed = preprocessing.apply(name, images)
    assert processed.shape == images.shape
    assert processed.dtype == np.uint8
    assert not np.shares_memory(processed, images)
    np.testing.assert_array_equal(images, IMAGES)
    assert (name == "none") == np.array_equal(processed, images)
    assert preprocessing.apply(name, images[:0]).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", NAMES)
def test_memory_mapped_images_give_the_same_in_chunks(name, tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    whole = preprocessing.apply(name, IMAGES)
    monkeypatch.setattr(preprocessing, "_CHUNK", 5)
    processed = preprocessing.apply(name, mapped)
    assert type(processed) is np.ndarray
    np.testing.assert_array_equal(processed, whole)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**32 - 1),
    spreads=st.lists(st.sampled_from([0, 1, 3, 40, 256]), min_size=1, max_size=4),
)
def test_an_image_does_not_depend_on_the_others(name, seed, spreads):
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 256, (len(spreads), 1, 1, 3))
    noise = generator.random((len(spreads), 32, 32, 3)) * np.reshape(spreads, (-1, 1, 1, 1))
    images = np.clip(base + noise, 0, 255).astype(np.uint8)
    alone = [preprocessing.apply(name, image[None])[0] for image in images]
    np.testing.assert_array_equal(preprocessing.apply(name, images), alone)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 40, 90)])
def test_blank_images_stay_blank(name, colour):
    grey = len(set(colour)) == 1
    processed = preprocessing.apply(name, np.full((2, 32, 32, 3), colour, np.uint8))
    assert (processed == processed[0, 0, 0]).all()
    # Stretching moves the channels apart, up to 0 and 255, where they are not alike.
    kept = {"histogram equalisation", "CLAHE"} | ({"contrast stretching"} if grey else set())
    if name in kept or preprocessing.METHODS[name].family in ("smoothing", "sharpening"):
        assert tuple(processed[0, 0, 0]) == colour
    if name == "local contrast normalisation":
        assert tuple(processed[0, 0, 0]) == (128, 128, 128)


@pytest.mark.parametrize(
    ("name", "colour", "expected"),
    [
        ("grey", (255, 0, 0), [54, 54, 54]),
        ("grey", (0, 255, 0), [182, 182, 182]),
        ("grey", (0, 0, 255), [18, 18, 18]),
        ("HSV", (255, 0, 0), [0, 255, 255]),
        ("HSV", (0, 255, 0), [85, 255, 255]),
        ("HSV", (0, 0, 128), [170, 255, 128]),
        ("HSV", (90, 90, 90), [0, 0, 90]),
        # ITU-R BT.601 and CIE Lab (D65), as every table of the primaries has them.
        ("YCbCr", (255, 0, 0), [81, 90, 240]),
        ("YCbCr", (0, 0, 255), [41, 240, 110]),
        ("YCbCr", (255, 255, 255), [235, 128, 128]),
        ("Lab", (255, 0, 0), [136, 208, 195]),
        ("Lab", (0, 0, 255), [82, 207, 20]),
        ("Lab", (255, 255, 255), [255, 128, 128]),
    ],
)
def test_colour_spaces_on_known_colours(name, colour, expected):
    assert pixel(name, *colour) == expected


def test_contrast_stretching_reaches_black_and_white_and_keeps_the_order():
    images = ramps(90, 150)
    stretched = preprocessing.apply("contrast stretching", images)
    assert (stretched.min(axis=(1, 2, 3)) == 0).all()
    assert (stretched.max(axis=(1, 2, 3)) == 255).all()
    assert (np.diff(stretched[0, 0, :, 0].astype(int)) >= 0).all()


def test_contrast_stretching_keeps_a_colour_cast():
    images = ramps(60, 120)
    images[..., 2] += 60
    stretched = preprocessing.apply("contrast stretching", images).astype(int)
    assert stretched[..., 2].mean() > stretched[..., 0].mean() + 80


def test_histogram_equalisation_flattens_the_cumulative_histogram():
    generator = np.random.default_rng(0)
    grey = generator.normal(120, 12, (4, 32, 32, 1)).clip(0, 255).astype(np.uint8)
    equalised = preprocessing.apply("histogram equalisation", np.repeat(grey, 3, axis=-1))

    def distance(images):
        """Return how far the cumulative histogram is from that of evenly spread values."""
        counts = np.bincount(images.ravel(), minlength=256)
        return np.abs(np.cumsum(counts) / counts.sum() - np.arange(1, 257) / 256).max()

    assert distance(grey) > 0.3
    assert all(distance(image[..., 0]) < 0.06 for image in equalised)


@pytest.mark.parametrize("name", ["histogram equalisation", "CLAHE"])
def test_equalisation_raises_contrast_and_keeps_colour_differences(name):
    # Muted colours, so that nothing is clipped: differences then stay what they were.
    images = (96 + IMAGES.astype(int) // 8).astype(np.uint8)
    processed = preprocessing.apply(name, images)
    assert ((processed @ WEIGHTS).std(axis=(1, 2)) > 2 * (images @ WEIGHTS).std(axis=(1, 2))).all()
    inside = ((processed > 0) & (processed < 255)).all(axis=-1)
    assert inside.mean() > 0.8
    difference = np.diff(processed.astype(int)) - np.diff(images.astype(int))
    assert np.abs(difference[inside]).max() <= 1


def test_clahe_equalises_by_neighbourhood():
    """Faint texture in a dark half and a bright half: one map for the whole image leaves it so."""
    texture = np.indices((32, 32)).sum(axis=0) % 2 * 8
    image = np.where(np.arange(32) < 16, 40, 200) + texture
    images = np.repeat(image[None, ..., None], 3, axis=-1).astype(np.uint8)
    stretched, clahe = (
        roughness(preprocessing.apply(name, images)[:, :, :12])
        for name in ("contrast stretching", "CLAHE")
    )
    assert clahe > 1.5 * stretched


@pytest.mark.parametrize(("gain", "offset"), [(1, 40), (0.5, 0), (0.5, 90)])
def test_local_contrast_normalisation_ignores_light(gain, offset):
    images = (IMAGES // 4 * 2 + 40).astype(np.uint8)
    changed = images * gain + offset
    assert changed.max() <= 255
    assert (changed == changed.astype(np.uint8)).all()
    name = "local contrast normalisation"
    before, after = (preprocessing.apply(name, one) for one in (images, changed.astype(np.uint8)))
    assert np.abs(before.astype(int) - after).max() <= 1


def test_local_contrast_normalisation_is_centred_and_even():
    processed = preprocessing.apply("local contrast normalisation", IMAGES).astype(float)
    assert np.abs(processed.mean(axis=(1, 2, 3)) - 128).max() < 4
    clipped = np.isin(processed, (0, 255)).mean()
    assert clipped < 0.02
    assert 20 < processed.std() < 64


@pytest.mark.parametrize(
    # The bilateral filter keeps edges, which are most of the differences.
    ("name", "left"),
    [("Gaussian blur", 0.5), ("median filter", 0.8), ("bilateral filter", 0.95)],
)
def test_smoothing_lowers_differences_between_neighbours(name, left):
    processed = preprocessing.apply(name, IMAGES)
    assert roughness(processed) < left * roughness(IMAGES)
    assert np.abs(processed.mean(axis=(1, 2, 3)) - IMAGES.mean(axis=(1, 2, 3))).max() < 3


def test_the_median_removes_single_pixels_and_the_bilateral_filter_keeps_edges():
    images = np.full((1, 32, 32, 3), 40, np.uint8)
    images[:, 10, 20] = 255
    assert (preprocessing.apply("median filter", images) == 40).all()
    images = np.full((1, 32, 32, 3), 40, np.uint8)
    images[:, :, 16:] = 220
    assert np.abs(preprocessing.apply("bilateral filter", images) - images.astype(int)).max() <= 1
    assert preprocessing.apply("Gaussian blur", images)[0, 16, 15, 0] > 60


def test_unsharp_masking_raises_differences_in_every_channel_and_row():
    """As image by image and channel by channel: scikit-image can mistake one axis for another."""
    processed = preprocessing.apply("unsharp masking", IMAGES)
    assert roughness(processed) > 1.2 * roughness(IMAGES)
    for image, sharp in zip(IMAGES[:3], processed, strict=False):
        for channel in range(3):
            expected = 255 * filters.unsharp_mask(image[..., channel], radius=1, amount=1)
            assert np.abs(expected - sharp[..., channel]).max() < 0.51


def test_every_method_is_described():
    families = {"none", "colour space", "contrast", "smoothing", "sharpening"}
    assert {method.family for method in preprocessing.METHODS.values()} == families
    descriptions = [method.description for method in preprocessing.METHODS.values()]
    assert len(set(descriptions)) == len(NAMES)
    assert all(0 < len(description) < 70 for description in descriptions)


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("clahe", IMAGES, "unknown preprocessing 'clahe'; did you mean 'CLAHE'"),
        ("median", IMAGES, "did you mean 'median filter'"),
        ("grey", IMAGES / 255, r"float64 \(12, 32, 32, 3\); expected uint8"),
        ("grey", IMAGES[0], r"uint8 \(32, 32, 3\)"),
        ("grey", IMAGES[..., :1], r"uint8 \(12, 32, 32, 1\)"),
        ("grey", IMAGES.transpose(0, 3, 1, 2), r"uint8 \(12, 3, 32, 32\)"),
    ],
)
def test_what_cannot_be_processed_is_refused(name, images, message):
    with pytest.raises(ParameterError, match=message):
        preprocessing.apply(name, images)


def test_importing_is_quick():
    """scikit-image loads its parts, and SciPy with them, when they are first used."""
    code = (
        "import sys; from cifar_utils import preprocessing; "
        "print({'scipy.ndimage', 'keras', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
