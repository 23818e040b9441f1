import itertools

import numpy as np
import pytest

from cifar_utils import corruptions, synthetic
from cifar_utils.errors import DataError, ParameterError

NAMES = list(corruptions.CORRUPTIONS)


@pytest.fixture(scope="module")
def images():
    return synthetic.generate(40)[0]


@pytest.mark.parametrize("name", NAMES)
def test_more_severe_is_further_away(images, name):
    before = images.copy()
    distances = []
    for severity in corruptions.SEVERITIES:
        changed = corruptions.corrupt(images, name, severity)
        assert changed.shape == images.shape
        assert changed.dtype == np.uint8
        distances.append(np.abs(changed.astype(float) - images).mean())
    assert distances[0] > 0
    assert distances[-1] > 1.15 * distances[0]
    # The published strengths of glass blur exchange fewer pixels as they blur more.
    steady = 0.85 if name == "glass blur" else 0.95
    assert all(later > steady * earlier for earlier, later in itertools.pairwise(distances))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(images, name):
    first, again = (corruptions.corrupt(images, name, 3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    drawn = {"defocus blur", "zoom blur", "brightness", "contrast", "pixelate", "jpeg"}
    other = corruptions.corrupt(images, name, 3, seed=6)
    assert (first == other).all() == (name in drawn)


def test_noise_has_the_strength_it_should(images):
    grey = np.full((200, 32, 32, 3), 128, np.uint8)
    gaussian = corruptions.corrupt(grey, "gaussian noise", 5) / 255.0
    assert gaussian.std() == pytest.approx(0.10, rel=0.02)
    shot = corruptions.corrupt(grey, "shot noise", 5) / 255.0
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 50), rel=0.02)
    impulse = corruptions.corrupt(grey, "impulse noise", 5)
    assert (impulse == 0).mean() == pytest.approx(0.035, rel=0.05)
    assert (impulse == 255).mean() == pytest.approx(0.035, rel=0.05)
    contrast = corruptions.corrupt(images, "contrast", 5)
    assert contrast.std(axis=(1, 2)) == pytest.approx(images.std(axis=(1, 2)) * 0.15, abs=0.5)


@pytest.mark.parametrize(
    "name", ["defocus blur", "glass blur", "motion blur", "zoom blur", "elastic"]
)
def test_what_moves_light_around_leaves_flat_images_alone(name):
    flat = np.full((3, 32, 32, 3), 77, np.uint8)
    np.testing.assert_array_equal(corruptions.corrupt(flat, name, 5), flat)


def test_families_are_those_of_cifar_10_c():
    assert list(corruptions.FAMILIES) == ["noise", "blur", "weather", "digital"]
    assert len(NAMES) == 14


def test_what_cannot_be_is_refused(images):
    with pytest.raises(ParameterError, match="did you mean 'snow'"):
        corruptions.corrupt(images, "snwo", 1)
    with pytest.raises(ParameterError, match="severity is 6; expected 1 to 5"):
        corruptions.corrupt(images, "snow", 6)
    with pytest.raises(DataError, match="float64"):
        corruptions.corrupt(images / 255, "snow", 1)


def test_scenes_stay_recognisable(images):
    """No corruption erases what is there: what remains goes up and down with the original."""
    for name in NAMES:
        changed = corruptions.corrupt(images, name, 5)
        for before, after in zip(images, changed, strict=True):
            assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.2, name
