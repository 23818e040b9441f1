import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

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


STEPS = {
    "flip": st.sampled_from([0.5, 1.0]),
    "shift": st.integers(1, 31),
    "rotate": st.floats(1, 180),
    "zoom": st.floats(0.01, 0.99),
    "brightness": st.floats(0.01, 1),
    "contrast": st.floats(0.01, 1),
    "randaugment": st.tuples(st.integers(1, 3), st.floats(0, 10)),
    "augmix": st.floats(0.1, 10),
    "cutout": st.integers(1, 40),
    "erasing": st.floats(0.01, 1),
    "mixup": st.floats(0.1, 2),
    "cutmix": st.floats(0.1, 2),
}


@hypothesis.given(
    st.lists(st.sampled_from(list(STEPS)), unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: STEPS[name] for name in names})
    ),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
@hypothesis.settings(deadline=None)
def test_any_steps_go_together(steps, count, seed):
    policy = augment.Policy(**steps)
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    soft = generator.dirichlet(np.ones(10), count).astype(np.float32)
    kept = images.copy(), soft.copy()
    found, targets = run(policy, images, soft, seed)
    assert found.shape == images.shape
    assert found.dtype == np.uint8
    assert not np.shares_memory(found, images)
    assert targets.shape == soft.shape
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    assert augment.mixes(policy) or (targets == soft).all()
    np.testing.assert_array_equal(images, kept[0])
    np.testing.assert_array_equal(soft, kept[1])
    again, same = run(policy, images, soft, seed)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(same, targets)


@hypothesis.given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 200))
def test_alternating_shows_each_image_both_ways_in_any_two_epochs(seed, epoch, count):
    first, second, third = (augment.alternating(count, seed, epoch + i) for i in range(3))
    np.testing.assert_array_equal(first, ~second)
    np.testing.assert_array_equal(first, third)


def test_alternating_mirrors_another_half_for_another_seed():
    first, other = (augment.alternating(2000, seed, 0) for seed in (0, 1))
    assert 0.45 < first.mean() < 0.55
    assert 0.45 < (first == other).mean() < 0.55


def test_alternating_policy_mirrors_what_it_is_told():
    mirror = augment.alternating(64, 3, 0)
    still = dataclasses.replace(augment.get("alternating"), shift=0)
    generator = np.random.default_rng(0)
    images, _ = augment.apply(still, IMAGES, TARGETS, generator, mirror=mirror)
    np.testing.assert_array_equal(images[mirror], IMAGES[mirror][:, :, ::-1])
    np.testing.assert_array_equal(images[~mirror], IMAGES[~mirror])
    tossed = run(still)[0]
    turned = (tossed == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 16 < turned.sum() < 48


@pytest.mark.parametrize(
    ("name", "mirror"), [("standard", np.ones(64, bool)), ("alternating", np.ones(63, bool))]
)
def test_a_mirror_that_cannot_be_used_is_refused(name, mirror):
    with pytest.raises(ParameterError, match="mirror has shape"):
        augment.apply(augment.get(name), IMAGES, TARGETS, np.random.default_rng(0), mirror=mirror)


def test_contrast_spreads_around_the_mean_either_way():
    images, _ = run(augment.Policy(contrast=0.5), (IMAGES // 4 + 96).astype(np.uint8))
    ratio = images.std(axis=(1, 2, 3)) / (IMAGES // 4).std(axis=(1, 2, 3))
    assert 0.49 < ratio.min() < 0.7
    assert 1.3 < ratio.max() < 1.51
    np.testing.assert_allclose(
        images.mean(axis=(1, 2, 3)), (IMAGES // 4 + 96).mean(axis=(1, 2, 3)), atol=0.5
    )


def changed(images, before):
    """Return the height, width and area of what differs, for each image."""
    where = (images != before).any(axis=3)
    return np.array(
        [[mask.any(axis=1).sum(), mask.any(axis=0).sum(), mask.sum()] for mask in where]
    ).T


def test_erasing_paints_rectangles_of_the_published_sizes():
    flat = np.full((2000, 32, 32, 3), 0, np.uint8)
    images, _ = run(augment.Policy(erasing=0.6), flat, np.zeros((2000, 10), np.float32))
    tall, wide, area = changed(images, flat)
    erased = area > 0
    assert 0.55 < erased.mean() < 0.65
    # One value in 16 million is black as the image is; sides are rounded to whole pixels.
    np.testing.assert_array_equal(tall * wide, area)
    assert 0.015 < area[erased].min() / 1024 < 0.03
    assert 0.36 < area[erased].max() / 1024 < 0.42
    assert 0.25 < (wide < tall)[erased].mean() < 0.55
    assert (tall / np.maximum(wide, 1)).max() < 4.5
    painted = images[images.any(axis=3)]
    assert abs(painted.mean() - 127.5) < 1
    assert len(np.unique(painted)) == 256


def test_erasing_may_paint_the_mean_colour():
    flat = np.full((50, 32, 32, 3), (10, 20, 30), np.uint8)
    flat[:, :16] = (30, 40, 50)
    images, _ = run(augment.Policy(erasing=1, erasing_mean=True), flat, np.eye(10)[[0] * 50])
    where = (images != flat).any(axis=3)
    assert where.any(axis=(1, 2)).all()
    assert {tuple(colour) for colour in images[where].tolist()} == {(20, 30, 40)}


@hypothesis.given(st.integers(0, 2**32), st.floats(0.1, 3))
@hypothesis.settings(deadline=None)
def test_cutmix_shares_labels_by_the_pasted_area(seed, alpha):
    """Image i has the one value i, so that every pixel tells where it is from."""
    images = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None, None], (50, 32, 32, 3))
    mixed, targets = run(augment.Policy(cutmix=alpha), images, np.eye(50, dtype=np.float32), seed)
    counts = np.stack([(mixed[..., 0] == i).sum(axis=(1, 2)) for i in range(50)], axis=1)
    np.testing.assert_array_equal(targets, counts / 1024)
    tall, wide, area = changed(mixed, images)
    np.testing.assert_array_equal(tall * wide, area)


def test_cutmix_areas_are_spread_as_their_beta_says():
    images = np.repeat(np.arange(2, dtype=np.uint8), 1000)[:, None, None, None]
    images = np.broadcast_to(images, (2000, 32, 32, 3))
    targets = np.eye(2, dtype=np.float32)[np.repeat([0, 1], 1000)]
    _, soft = run(augment.Policy(cutmix=1.0), images, targets)
    other = 1 - soft.max(axis=1)
    assert other.max() > 0.4
    assert len(np.unique(soft)) > 200


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


@pytest.mark.parametrize("step", ["mixup", "cutmix"])
def test_policies_that_mix_refuse_class_numbers(step):
    with pytest.raises(ParameterError, match=r"targets have shape \(64,\).*expected \(N, K\)"):
        run(augment.Policy(**{step: 1.0}), IMAGES, np.zeros(64, int))


def test_class_numbers_pass_through_policies_that_do_not_mix():
    labels = np.arange(64)
    np.testing.assert_array_equal(run(augment.get("strong"), IMAGES, labels)[1], labels)


def test_mixes_names_exactly_the_policies_that_change_targets():
    for name, policy in augment.POLICIES.items():
        assert augment.mixes(policy) == (run(policy)[1] != TARGETS).any(), name


def test_randaugment_draws_for_each_image_and_grows_with_its_magnitude():
    smooth = np.repeat(IMAGES[:1, ::8, ::8], 8, axis=1).repeat(8, axis=2).repeat(200, axis=0)
    targets = np.zeros((200, 10), np.float32)
    weak, strong = (
        run(augment.Policy(randaugment=(1, magnitude)), smooth, targets)[0] for magnitude in (1, 9)
    )
    assert len(np.unique(weak.reshape(200, -1), axis=0)) > 8
    far = [np.abs(images.astype(int) - smooth).mean() for images in (weak, strong)]
    assert far[1] > 1.5 * far[0] > 0


def test_augmix_stays_between_the_image_and_its_chains():
    """What each operation leaves of a flat image is as flat, so the blend must be too."""
    flat = np.full((100, 32, 32, 3), 93, np.uint8)
    images, _ = run(augment.Policy(augmix=10), flat, np.zeros((100, 10), np.float32))
    assert (images == images[:, :1, :1]).all()
    assert len(np.unique(images)) > 2
    seen, _ = run(augment.Policy(augmix=3))
    assert len(np.unique(np.abs(seen.astype(int) - IMAGES).mean(axis=(1, 2, 3)))) == 64


def test_policies_are_composed_by_name():
    assert augment.get("alternating+cutout+mixup") == augment.Policy(
        alternating=True, shift=2, cutout=12, mixup=0.4
    )
    assert augment.get("none+flip") == augment.get("flip")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("standard+cutout+flip", "'standard' and 'flip' both set flip"),
        ("cutout+cutout", "both set cutout"),
        ("flip+alternating", "flip and alternating both mirror"),
        ("flip+cutuot", "unknown augmentation 'cutuot'; did you mean 'cutout'"),
        ("flip+", "unknown augmentation ''"),
    ],
)
def test_what_cannot_be_composed_is_refused(name, message):
    with pytest.raises(ParameterError, match=message):
        augment.get(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"flip": 1.5},
        {"shift": 32},
        {"shift": 1.5},
        {"rotate": -1},
        {"zoom": 1},
        {"brightness": float("nan")},
        {"contrast": "much"},
        {"randaugment": (0, 5)},
        {"randaugment": (2, 11)},
        {"randaugment": 5},
        {"augmix": 11},
        {"cutout": -2},
        {"erasing": 2},
        {"erasing_mean": True},
        {"mixup": -0.1},
        {"cutmix": float("inf")},
        {"flip": 0.5, "alternating": True},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ParameterError, match=next(iter(fields))):
        augment.Policy(**fields)
