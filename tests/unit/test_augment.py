import numpy as np
import pytest

from cifar_utils import augment
from cifar_utils.errors import ParameterError

GENERATOR = np.random.default_rng(1)
IMAGES = GENERATOR.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
TARGETS = np.eye(10, dtype=np.float32)[GENERATOR.integers(0, 10, 64)]


def run(policy, images=IMAGES, targets=TARGETS, seed=0):
    return augment.apply(policy, images, targets, np.random.default_rng(seed))


@pytest.mark.parametrize("name", augment.POLICIES)
def test_shapes_dtypes_inputs_and_seed(name):
    policy = augment.get(name)
    kept = IMAGES.copy(), TARGETS.copy()
    images, targets = run(policy)
    assert images.shape == IMAGES.shape
    assert images.dtype == np.uint8
    assert targets.shape == TARGETS.shape
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(IMAGES, kept[0])
    np.testing.assert_array_equal(TARGETS, kept[1])
    np.testing.assert_array_equal(images, run(policy)[0])
    if name != "none":
        assert (images != IMAGES).any()
        assert (images != run(policy, seed=1)[0]).any()


def test_none_changes_nothing():
    images, targets = run(augment.get("none"))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)


def test_certain_flip_mirrors_columns():
    np.testing.assert_array_equal(run(augment.Policy(flip=1.0))[0], IMAGES[:, :, ::-1])


def test_flip_rate_is_its_probability():
    many = np.repeat(IMAGES[:1], 2000, axis=0)
    images, _ = run(augment.Policy(flip=0.5), many, np.zeros((2000, 10), np.float32))
    flipped = (images == many[:, :, ::-1]).all(axis=(1, 2, 3)).mean()
    assert 0.45 < flipped < 0.55


def test_shift_moves_by_whole_pixels_and_mirrors_the_edge():
    images, _ = run(augment.Policy(shift=2))
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    offsets = set()
    for original, moved in zip(padded, images, strict=True):
        matches = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if (original[y : y + 32, x : x + 32] == moved).all()
        ]
        assert len(matches) == 1
        offsets.update(matches)
    assert len(offsets) > 15


def test_flip_and_shift_are_independent_of_each_other():
    """Both directions of a shift must occur in mirrored images too."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, None, :, None], (500, 32, 32, 3))
    images, _ = run(augment.Policy(flip=1.0, shift=3), ramp, np.zeros((500, 10), np.float32))
    assert set(np.unique(images[:, 0, 16, 0])) == set(range(15 - 3, 15 + 4))


def test_rotation_by_a_right_angle_matches_rot90():
    square = np.zeros((1, 32, 32, 3), np.uint8)
    square[0, 4:10, 5:20] = 200
    rows, columns = (grid.astype(np.float32)[None] for grid in np.mgrid[:32, :32])
    turned = augment._bilinear(square, columns, 31 - rows)
    np.testing.assert_array_equal(turned[0], np.rot90(square[0], 1))


def test_rotation_keeps_the_centre_and_the_grey_level():
    flat = np.full((32, 32, 32, 3), 77, np.uint8)
    images, _ = run(augment.Policy(rotate=45, zoom=0.2), flat, np.zeros((32, 10), np.float32))
    np.testing.assert_array_equal(images, flat)


def test_zoom_in_and_out_both_occur():
    disc = np.hypot(*np.mgrid[-15.5:16, -15.5:16]) < 8
    images = np.repeat((disc * 255).astype(np.uint8)[None, :, :, None], 3, axis=3)
    many = np.repeat(images, 200, axis=0)
    zoomed, _ = run(augment.Policy(zoom=0.2), many, np.zeros((200, 10), np.float32))
    areas = (zoomed[..., 0] > 127).sum(axis=(1, 2)) / disc.sum()
    assert areas.min() < 0.8
    assert areas.max() > 1.25


def test_brightness_clips_instead_of_wrapping():
    white = np.full((50, 32, 32, 3), 250, np.uint8)
    images, _ = run(augment.Policy(brightness=0.5), white, np.zeros((50, 10), np.float32))
    assert images.max() == 255
    assert images.min() >= 124


def test_cutout_paints_one_square_at_most_its_size():
    black = np.zeros((300, 32, 32, 3), np.uint8)
    images, _ = run(augment.Policy(cutout=8), black, np.zeros((300, 10), np.float32))
    painted = (images[..., 0] == 128).sum(axis=(1, 2))
    assert painted.max() == 64
    assert painted.min() >= 16
    assert set(np.unique(images)) == {0, 128}


def test_mixup_blends_labels_like_pixels():
    images = np.zeros((40, 32, 32, 3), np.uint8)
    images[20:] = 200
    targets = np.eye(10, dtype=np.float32)[np.repeat([0, 1], 20)]
    mixed, soft = run(augment.Policy(mixup=1.0), images, targets)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], 200 * soft[:, 1], atol=1)
    assert ((soft[:, 1] > 0.05) & (soft[:, 1] < 0.95)).any()


def test_unknown_policy_names_the_nearest():
    with pytest.raises(ParameterError, match="did you mean 'standard'"):
        augment.get("standart")
