import errno
import json
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cifar_utils import audit, features, pretrained, recipes
from cifar_utils.data import Split
from cifar_utils.errors import CifarUtilsError, DataError, ParameterError
from cifar_utils.features import HeadChoice

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)

# What a process of its own runs: it is killed where it should look at a third part of the images.
SCRIPT = """
import os, signal
import numpy as np
from cifar_utils import features
from tests.unit.test_features import IMAGES, small
forward = features._forward

def deadly(model, size):
    left = iter(range(3))
    look = forward(model, size)
    return lambda images: look(images) if next(left, None) is not None else os.kill(os.getpid(), 9)

features._forward = deadly
features.extract(small(), IMAGES, batch_size=4)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(tmp_path / "data"))
    keras.config.set_dtype_policy("float32")
    return tmp_path / "data" / "features"


def small(seed=0, scale=1 / 255, **kwargs):
    """Return a network from images to 16 features, in the place of ResNet50."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(scale)(images)
    x = keras.layers.Conv2D(16, 5, strides=4, activation="relu", name="conv", **kwargs)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(name="features")(x))


class Watched:
    """What ``_forward`` returned, noting what was looked at; fails at a call if told so."""

    def __init__(self, monkeypatch, fails_at=None):
        self.sizes, self._forward, self._fails_at = [], features._forward, fails_at
        monkeypatch.setattr(features, "_forward", self)

    def __call__(self, model, size):
        forward = self._forward(model, size)

        def look(images):
            if len(self.sizes) == self._fails_at:
                raise KeyboardInterrupt
            self.sizes.append(len(images))
            return forward(images)

        return look


def interrupt(model, fails_at):
    """Compute features in batches of 4 until looking fails, the first look being a rehearsal."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Watched(patch, fails_at)
        features.extract(model, IMAGES, batch_size=4)


# Computed once


def test_features_are_the_outputs_in_half_precision_computed_once(monkeypatch, folder):
    model = small()
    watched = Watched(monkeypatch)
    first = features.extract(model, IMAGES, pretraining="somewhere")
    assert first.values.dtype == np.float16
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(first.values, expected.astype(np.float16))
    assert first.seconds > 0
    with pytest.raises(ValueError, match="read-only"):
        first.values[0] = 0
    looks = len(watched.sizes)
    again = features.extract(model, IMAGES)
    np.testing.assert_array_equal(again.values, first.values)
    assert again.seconds == first.seconds
    assert len(watched.sizes) == looks
    (entry,) = (each for each in folder.iterdir() if each.is_dir())
    about = json.loads((entry / "about.json").read_text())
    assert about == {
        "model": model.name,
        "pretraining": "somewhere",
        "size": 32,
        "mirrored": False,
        "precision": "float32",
        "backend": keras.backend.backend(),
        "images": 50,
        "computed": 50,
        "seconds": first.seconds,
    }


def test_mirrored_features_are_those_of_mirrored_images():
    model = small()
    straight = features.extract(model, IMAGES).values
    mirrored = features.extract(model, IMAGES, mirrored=True).values
    np.testing.assert_array_equal(mirrored, features.extract(model, IMAGES[:, :, ::-1]).values)
    assert not np.array_equal(mirrored, straight)


def test_activations_keep_their_shape():
    model = small()
    lower = keras.Model(model.input, model.get_layer("conv").output)
    assert features.extract(lower, IMAGES).values.shape == (50, 7, 7, 16)


def test_features_are_never_mixed_up():
    base = features.digest(small(), IMAGES, False)
    assert features.digest(small(), IMAGES, False) == base
    keras.config.set_dtype_policy("mixed_bfloat16")
    others = [
        features.digest(small(), IMAGES, False),
        features.digest(small(dtype="float32"), IMAGES, True),
    ]
    keras.config.set_dtype_policy("float32")
    others += [
        features.digest(small(), IMAGES[::-1], False),
        features.digest(small(), IMAGES[:49], False),
        features.digest(small(), IMAGES, True),
        features.digest(small(seed=1), IMAGES, False),
        features.digest(small(scale=1 / 128), IMAGES, False),
        features.digest(small(padding="same"), IMAGES, False),
    ]
    assert len({base, *others}) == 1 + len(others)


@pytest.mark.parametrize(
    "images", [IMAGES / 255, IMAGES[:, :31], IMAGES[0], IMAGES[:0], IMAGES.astype("int64")]
)
def test_what_is_not_the_models_images_is_refused(images):
    with pytest.raises(DataError, match=r"expected at least one, uint8 \(N, 32, 32, 3\)"):
        features.extract(small(), images)


def test_features_too_large_for_half_precision_are_refused():
    with pytest.raises(CifarUtilsError, match="images 0 to 49 are not all finite"):
        features.extract(small(scale=1000.0), IMAGES)


def test_batches_of_large_images_are_smaller(monkeypatch):
    monkeypatch.setattr(features, "_PIXELS", 20 * 32**2)
    watched = Watched(monkeypatch)
    features.extract(small(), IMAGES)
    assert watched.sizes == [20, 40, 20]  # a rehearsal; the last batch overlaps the one before it


# Interrupted


def test_only_what_is_missing_is_computed_and_that_in_whole_batches(monkeypatch, capsys):
    model = small()
    expected = model.predict(IMAGES, verbose=0).astype(np.float16)
    interrupt(model, fails_at=3)
    capsys.readouterr()
    watched = Watched(monkeypatch)
    found = features.extract(model, IMAGES, batch_size=4)
    assert capsys.readouterr().out == "features: goes on after 32 of 50 images\n"
    assert watched.sizes == [4, 16, 4]
    np.testing.assert_array_equal(found.values, expected)


def test_the_seconds_of_all_sittings_are_added_up(folder):
    interrupt(small(), fails_at=2)
    (record,) = folder.glob(".*.partial/about.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 1000.0}))
    assert 1000 < features.extract(small(), IMAGES, batch_size=4).seconds < 1100


@pytest.mark.parametrize("file", ["about.json", "values.npy"])
def test_a_damaged_beginning_is_not_gone_on_with(folder, file, capsys):
    interrupt(small(), fails_at=2)
    (path,) = folder.glob(f".*.partial/{file}")
    path.write_bytes(path.read_bytes()[:40])
    found = features.extract(small(), IMAGES, batch_size=4).values
    assert "goes on" not in capsys.readouterr().out
    expected = small().predict(IMAGES, verbose=0).astype(np.float16)
    np.testing.assert_array_equal(found, expected)


def test_a_killed_process_is_gone_on_from(capsys):
    killed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    found = features.extract(small(), IMAGES, batch_size=4).values
    assert "goes on after 32 of 50 images" in capsys.readouterr().out
    expected = small().predict(IMAGES, verbose=0).astype(np.float16)
    np.testing.assert_array_equal(found, expected)


def test_a_full_disk_says_what_to_do_and_loses_nothing(monkeypatch, capsys):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(features.os, "fsync", full)
        with pytest.raises(CifarUtilsError, match=r"No space left.*CIFAR_UTILS_DATA_DIR"):
            features.extract(small(), IMAGES)
    assert len(features.extract(small(), IMAGES).values) == 50


def test_two_at_once_compute_once(monkeypatch, capsys):
    model, found = small(), []
    watched = Watched(monkeypatch)
    begun, go_on = threading.Event(), threading.Event()
    forward = features._forward

    def slow(model, size):
        begun.set()
        go_on.wait(10)
        return forward(model, size)

    monkeypatch.setattr(features, "_forward", slow)
    threads = [
        threading.Thread(target=lambda: found.append(features.extract(model, IMAGES).values))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    begun.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert watched.sizes == [50, 50]  # the first look, in which the backend compiles, and the one
    np.testing.assert_array_equal(*found)


# What they know


def clusters(seed=0, classes=3, count=60, width=20, spread=1.0):
    """Return features around a few centres, and which."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, width))
    labels = np.arange(count) % classes
    values = centres[labels] + spread * random.normal(size=(count, width))
    return values.astype(np.float16), labels


def test_nearest_neighbours_are_those_of_the_definition():
    train, labels = clusters(spread=2.0)
    unseen, wanted = clusters(seed=1, spread=2.0)
    one, other = train.astype(float), unseen.astype(float)
    cosines = (other @ one.T) / np.outer(np.linalg.norm(other, axis=1), np.linalg.norm(one, axis=1))
    for neighbours in (1, 7):
        votes = labels[np.argsort(-cosines, axis=1)[:, :neighbours]]
        winners = [np.bincount(vote).argmax() for vote in votes]
        found = features.nearest_neighbours(train, labels, unseen, wanted, neighbours=neighbours)
        assert found == np.mean(winners == wanted)
        assert 0.4 < found < 1


def test_a_linear_probe_is_a_logistic_regression_on_standardised_features():
    train, labels = clusters(spread=2.0)
    unseen, wanted = clusters(seed=1, spread=2.0)
    mean, deviation = train.astype(float).mean(axis=0), train.astype(float).std(axis=0)
    expected = LogisticRegression(C=0.01, max_iter=300)
    expected.fit((train - mean) / deviation, labels)
    accuracy = expected.score((unseen - mean) / deviation, wanted)
    assert features.linear_probe(train, labels, unseen, wanted) == accuracy
    assert 0.4 < accuracy < 1


@pytest.mark.parametrize("judge", [features.linear_probe, features.nearest_neighbours])
def test_what_does_not_go_together_is_refused(judge):
    train, labels = clusters()
    with pytest.raises(DataError, match=r"training features are int64 \(60, 20\)"):
        judge(train.astype(int), labels, train, labels)
    with pytest.raises(DataError, match=r"validation features are float16 \(1200,\)"):
        judge(train, labels, train.ravel(), labels)
    with pytest.raises(DataError, match=r"validation labels are int64 \(59,\)"):
        judge(train, labels, train, labels[1:])
    with pytest.raises(DataError, match="have 20 numbers each, validation features 19"):
        judge(train, labels, train[:, 1:], labels)


def test_settings_out_of_range_are_refused():
    train, labels = clusters()
    with pytest.raises(ParameterError, match="neighbours is 61; expected 1 to 60"):
        features.nearest_neighbours(train, labels, train, labels, neighbours=61)
    with pytest.raises(ParameterError, match="strength is 0"):
        features.linear_probe(train, labels, train, labels, strength=0)
    with pytest.raises(ParameterError, match="choices is empty"):
        features.heads(train, labels, train, labels, [], recipes.Recipe(epochs=1))
    with pytest.raises(DataError, match=r"cannot map features float16 \(60, 20\)"):
        features.map_2d(train)


def test_the_map_keeps_neighbours_together():
    values, labels = clusters(classes=4, count=120, width=60, spread=0.3)
    points = features.map_2d(values, seed=1)
    assert points.shape == (120, 2)
    assert audit.neighbour_agreement(points, labels) > 0.95


def test_heads_are_judged_one_by_one(capsys):
    train, labels = clusters(classes=10, count=300, width=2048, spread=3.0)
    unseen, wanted = clusters(seed=1, classes=10, count=200, width=2048, spread=3.0)
    recipe = recipes.Recipe(epochs=3, batch_size=50, optimizer="adamw", schedule="constant")
    choices = [HeadChoice(), HeadChoice(weight_decay=1000.0), HeadChoice(16, 0.9)]
    table = features.heads(train, labels, unseen, wanted, choices, recipe, seed=1)
    assert table[["hidden", "dropout", "weight_decay"]].to_numpy().tolist() == [
        [0, 0, 0],
        [0, 0, 1000],
        [16, 0.9, 0],
    ]
    assert table.validation[0] > 0.9 > 0.3 > table.validation[1]
    assert table.training[2] < table.validation[2], "dropout is there in training alone"
    assert capsys.readouterr().out.count("weight decay") == 3


def test_probe_sees_what_the_extractor_sees(folder):
    """A class that only the features can tell apart, and one row for each preprocessing."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 60, (60, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1] += 150
    split = Split(images, labels)
    rows = features.probe(pretrained.RANDOM, split, split, 32, ["caffe", "none"], seed=1)
    assert [row["preprocessing"] for row in rows] == ["caffe", "none"]
    assert rows[0]["accuracy"] == 1.0
    assert rows[0]["pretraining"] == "none"
    assert features.probe(pretrained.RANDOM, split, split, 32, ["caffe"], seed=1) == rows[:1]
    sizes = [json.loads(path.read_text())["size"] for path in folder.glob("*/about.json")]
    assert sizes == [32, 32]
