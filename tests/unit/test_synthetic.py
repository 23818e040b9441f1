import hashlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from cifar_utils import synthetic
from cifar_utils.errors import ParameterError


@pytest.fixture(scope="module")
def drawn():
    return synthetic.generate(1000, seed=0)


def by_class(images, labels):
    return [images[labels == label] for label in range(10)]


def test_shapes_and_types(drawn):
    images, labels = drawn
    assert images.shape == (1000, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.shape == (1000,)
    assert labels.dtype == np.int64


def test_classes_follow_cifar10_order():
    assert list(synthetic.SCENES) == [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ]  # fmt: skip


def test_every_ten_pictures_hold_each_class_once_in_varying_order(drawn):
    blocks = drawn[1].reshape(-1, 10)
    assert (np.sort(blocks, axis=1) == np.arange(10)).all()
    assert len(np.unique(blocks, axis=0)) > 95


def test_same_seed_gives_the_same_bytes_in_another_process():
    code = (
        "import hashlib; from cifar_utils import synthetic; "
        "print(hashlib.sha256(synthetic.generate(60, 7)[0].tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hashlib.sha256(synthetic.generate(60, 7)[0].tobytes()).hexdigest()
    assert other.stdout.strip() == here


def test_picture_depends_on_seed_and_position_only(drawn):
    images, labels = synthetic.generate(37, seed=0)
    assert (images == drawn[0][:37]).all()
    assert (labels == drawn[1][:37]).all()


def test_generating_leaves_the_global_random_state_alone():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthetic.generate(10)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_other_seed_gives_other_pictures_and_order(drawn):
    images, labels = synthetic.generate(100, seed=1)
    assert (images != drawn[0][:100]).any(axis=(1, 2, 3)).all()
    assert (labels != drawn[1][:100]).any()


def test_no_two_pictures_are_equal(drawn):
    other, _ = synthetic.generate(200, seed=1)
    images = np.concatenate([drawn[0], other])
    assert len({image.tobytes() for image in images}) == len(images)


def test_pictures_use_the_range_like_photographs(drawn):
    images, _ = drawn
    assert images.min() == 0
    assert images.max() == 255
    assert 100 < images.mean() < 140
    spread = images.std(axis=(1, 2, 3))
    assert np.quantile(spread, 0.01) > 20  # no blank or faint pictures
    clipped = ((images == 0) | (images == 255)).mean()
    assert clipped < 0.05
    light = images.mean(axis=(1, 2, 3))
    assert light.std() > 15


def test_pictures_have_colour_and_it_varies(drawn):
    colour = np.ptp(drawn[0].mean(axis=(1, 2)), axis=1)
    assert colour.mean() > 8
    assert colour.std() > 5


@pytest.mark.parametrize("label", range(10), ids=list(synthetic.SCENES))
def test_pictures_of_a_class_vary(drawn, label):
    images = by_class(*drawn)[label].reshape(100, -1).astype(np.float32)
    squares = (images**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * images @ images.T, 0) / 3072)
    nearest = (distance + 1e6 * np.eye(100, dtype=np.float32)).min(axis=1)
    assert nearest.min() > 20  # root mean square difference, in grey levels
    assert np.median(distance) > 55


@pytest.mark.parametrize("label", range(10), ids=list(synthetic.SCENES))
def test_subjects_face_both_ways(drawn, label):
    mean = by_class(*drawn)[label].mean(axis=0)
    assert np.abs(mean - mean[:, ::-1]).mean() < 8


@pytest.mark.parametrize("name", list(synthetic.SCENES))
def test_drawings_are_sound(name):
    for drawing in synthetic.SCENES[name].drawings:
        corners, shapes = synthetic._parse(drawing)
        assert len(shapes) >= 6
        assert {shape.colour for shape in shapes} <= set(synthetic.PALETTES)
        assert {shape.corners.stop for shape in shapes} >= {len(corners)}
        middle = (corners.max(axis=0) + corners.min(axis=0)) / 2
        assert np.isfinite(corners).all()
        assert np.abs(middle).max() < 0.75
        assert 1.2 < np.ptp(corners, axis=0).max() < 4


def test_scenes_use_known_settings():
    used = {setting for scene in synthetic.SCENES.values() for setting in scene.settings}
    assert used == set(synthetic.SETTINGS)


def test_mean_colour_does_not_tell_the_class(drawn):
    images, labels = drawn
    colour = images.mean(axis=(1, 2))
    centres = np.stack([colour[:700][labels[:700] == label].mean(axis=0) for label in range(10)])
    guess = ((colour[700:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    accuracy = (guess == labels[700:]).mean()
    assert accuracy < 0.3


def test_shape_tells_the_class(drawn):
    images, labels = drawn
    grey = images.mean(axis=3).reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4)).reshape(-1, 256)
    model = RidgeClassifier(alpha=1000).fit(grey[:700] / 64 - 2, labels[:700])
    accuracy = model.score(grey[700:] / 64 - 2, labels[700:])
    assert 0.2 < accuracy < 0.6


@pytest.mark.parametrize("count", [0, -5])
def test_count_below_one_is_refused(count):
    with pytest.raises(ParameterError, match=f"count .* is {count}; give 1 or more"):
        synthetic.generate(count)


def test_negative_seed_is_refused():
    with pytest.raises(ParameterError, match=r"seed .* is -1; give 0 or more"):
        synthetic.generate(10, seed=-1)


def test_import_needs_no_backend():
    code = "import sys; from cifar_utils import synthetic; print('keras' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
