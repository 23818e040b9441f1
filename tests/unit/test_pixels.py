import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from cifar_utils import pixels
from cifar_utils.errors import ParameterError

GENERATOR = np.random.default_rng(1)
IMAGES = GENERATOR.integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
NAMES = list(pixels.OPERATIONS)


def kinds():
    """Return noise, dull images, images of one colour, and of two."""
    images = IMAGES.copy()
    images[::2] = images[::2] // 3 + 40
    images[1::4] = images[1::4, :1, :1]
    images[3, :16], images[3, 16:] = 0, 200
    return images


def operate(name, strength, images):
    count = len(images)
    return pixels.operate(images, np.full(count, NAMES.index(name)), np.full(count, strength))


@pytest.mark.parametrize(("height", "width", "reach"), [(32, 32, 2), (32, 32, 31), (5, 9, 4)])
def test_shift_cuts_out_of_what_numpy_pads(height, width, reach):
    images = IMAGES[:, :height, :width]
    mirror = GENERATOR.random(70) < 0.5
    rows, columns = GENERATOR.integers(-reach, reach + 1, (2, 70))
    shifted = pixels.shift(images, mirror, rows, columns)
    turned = np.where(mirror[:, None, None, None], images[:, :, ::-1], images)
    widths = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(turned, widths, mode="reflect")
    for found, source, row, column in zip(shifted, padded, rows, columns, strict=True):
        top, left = row + reach, column + reach
        np.testing.assert_array_equal(found, source[top : top + height, left : left + width])


def test_a_shift_by_the_whole_side_is_refused():
    zeros = np.zeros(70, int)
    with pytest.raises(ParameterError, match="32 pixels leaves nothing of 32 x 32"):
        pixels.shift(IMAGES, zeros > 0, zeros, zeros + 32)


@hypothesis.given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_mirror_twice_is_the_image(flags):
    mirror, zeros = np.array(flags), np.zeros(len(flags), int)
    images = IMAGES[: len(flags)]
    once = pixels.shift(images, mirror, zeros, zeros)
    np.testing.assert_array_equal(once[mirror], images[mirror][:, :, ::-1])
    np.testing.assert_array_equal(pixels.shift(once, mirror, zeros, zeros), images)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_go_clockwise_and_lose_nothing(turns):
    angles = np.full(70, turns * np.pi / 2)
    turned = pixels.resample(IMAGES, pixels.rotation(angles), np.zeros((70, 2)))
    np.testing.assert_array_equal(turned, np.rot90(IMAGES, -turns, axes=(1, 2)))


@hypothesis.given(
    st.floats(-4, 4), st.floats(0.3, 3), st.floats(-40, 40), st.floats(-40, 40), st.integers(0, 70)
)
@hypothesis.settings(deadline=None)
def test_resample_is_bilinear_between_mirrored_edges(angle, size, down, right, count):
    """Checked on a smooth image, where a sixteenth of a pixel is less than a grey level."""
    y, x = np.mgrid[:32, :32]
    smooth = np.stack([3 * y + x, 100 + 2 * x, 190 - 4 * y + 2 * x], axis=-1).astype(np.uint8)
    matrix = pixels.rotation(np.full(count, angle)) * size
    offset = np.tile([down, right], (count, 1))
    found = pixels.resample(np.repeat(smooth[None], count, axis=0), matrix, offset)
    cosine, sine = size * np.cos(angle), size * np.sin(angle)
    rows = cosine * (y - 15.5) - sine * (x - 15.5) + down + 15.5
    columns = sine * (y - 15.5) + cosine * (x - 15.5) + right + 15.5
    rows, columns = (31 - np.abs(31 - at % 62) for at in (rows, columns))
    expected = np.stack(
        [3 * rows + columns, 100 + 2 * columns, 190 - 4 * rows + 2 * columns], axis=-1
    )
    assert np.abs(found - expected[None]).max(initial=0) < 1


def test_resample_by_whole_pixels_is_a_shift():
    rows, columns = GENERATOR.integers(-9, 10, (2, 70))
    matrix = np.repeat(np.eye(2)[None], 70, axis=0)
    np.testing.assert_array_equal(
        pixels.resample(IMAGES, matrix, np.stack([rows, columns], axis=1)),
        pixels.shift(IMAGES, np.zeros(70, bool), rows, columns),
    )


def test_scale_rounds_and_clips():
    images = np.full((3, 2, 2, 3), 100, np.uint8)
    found = pixels.scale(images, np.array([1.006, 3, 1]), np.array([0, 0, -300]))
    np.testing.assert_array_equal(found[:, 0, 0, 0], [101, 255, 0])


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=5).filter(lambda s: sum(s) > 0.1))
def test_weights_sum_to_256_whatever_the_shares(shares):
    shares = np.array(shares)[:, None] / sum(shares)
    found = pixels.weights(shares)
    assert found.sum() == 256
    assert np.abs(found / 256 - shares).max() <= 1 / 256


def test_blend_is_the_weighted_mean_to_the_nearest():
    shares = pixels.weights(GENERATOR.dirichlet([1, 1, 1], 70).T)
    parts = [IMAGES, IMAGES[::-1], np.full_like(IMAGES, 255)]
    exact = sum(
        part * share[:, None, None, None].astype(float) / 256
        for part, share in zip(parts, shares, strict=True)
    )
    assert np.abs(pixels.blend(parts, shares) - exact).max() <= 0.5


@pytest.mark.parametrize(
    ("name", "strength", "theirs"),
    [
        ("autocontrast", 0.5, ImageOps.autocontrast),
        ("equalize", 0.5, ImageOps.equalize),
        ("posterize", -0.5, lambda image: ImageOps.posterize(image, 6)),
        ("posterize", 1, lambda image: ImageOps.posterize(image, 4)),
        ("solarize", 0.25, lambda image: ImageOps.solarize(image, 192)),
        ("solarize", 0, lambda image: image),
        ("identity", 1, lambda image: image),
    ],
)
def test_operations_equal_pillows(name, strength, theirs):
    expected = np.stack([np.asarray(theirs(Image.fromarray(image))) for image in kinds()])
    np.testing.assert_array_equal(operate(name, strength, kinds()), expected)


@pytest.mark.parametrize("strength", [-1, -0.4, 0, 0.5, 1])
@pytest.mark.parametrize("name", ["color", "brightness", "sharpness"])
def test_enhancements_are_pillows_but_for_rounding(name, strength):
    enhance = getattr(ImageEnhance, name.capitalize())
    expected = np.stack(
        [
            np.asarray(enhance(Image.fromarray(image)).enhance(1 + 0.9 * strength))
            for image in kinds()
        ]
    )
    difference = operate(name, strength, kinds()).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_contrast_keeps_the_mean_and_changes_the_spread():
    images = (IMAGES // 4 + 96).astype(np.uint8)
    for strength, factor in ((-1, 0.1), (0.5, 1.45)):
        found = operate("contrast", strength, images)
        np.testing.assert_allclose(found.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.1)
        np.testing.assert_allclose(found.std(), images.std() * factor, rtol=0.05)


def dot_after(name, strength, row, column):
    """Return where the centre of a blob lies after an operation, in rows and columns."""
    y, x = np.mgrid[:32, :32]
    blob = 255 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 4)
    images = np.repeat(blob[None, :, :, None], 3, axis=3).astype(np.uint8)
    found = operate(name, strength, images)[0, :, :, 0].astype(float)
    return (found * y).sum() / found.sum(), (found * x).sum() / found.sum()


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("shear_x", (20, 15.5 - 0.15 * 4.5)),
        ("shear_y", (20 - 0.15 * 3, 18.5)),
        ("translate_x", (20, 10.5)),
        ("translate_y", (15, 15.5)),
        ("rotate", (15.5 + 4.5 * np.cos(np.pi / 12), 15.5 - 4.5 * np.sin(np.pi / 12))),
    ],
)
def test_moves_go_as_far_as_they_say(name, moved):
    start = (20, 18.5) if name == "shear_y" else (20, 15.5)
    np.testing.assert_allclose(dot_after(name, 0.5, *start), moved, atol=0.1)


def test_every_image_gets_its_own_operation():
    chosen = GENERATOR.integers(0, len(NAMES), 70)
    strength = GENERATOR.uniform(-1, 1, 70)
    together = pixels.operate(IMAGES, chosen, strength)
    for i in range(70):
        alone = pixels.operate(IMAGES[i : i + 1], chosen[i : i + 1], strength[i : i + 1])
        np.testing.assert_array_equal(together[i], alone[0])
