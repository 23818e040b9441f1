import dataclasses

import numpy as np
import pytest

from cifar_utils import audit
from cifar_utils.data import CLASS_NAMES, Dataset, Provenance, Split
from cifar_utils.errors import ParameterError

COUNTS = {"train": 60, "validation": 20, "test": 20}


def make_split(count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Split(images, np.arange(count) % 10)


@pytest.fixture
def dataset():
    provenance = Provenance("synthetic", "synthetic", "0" * 64, "synthetic", COUNTS, "2026-01-01")
    splits = {name: make_split(count, seed) for seed, (name, count) in enumerate(COUNTS.items())}
    return Dataset(**splits, provenance=provenance)


def verdicts(dataset):
    table = audit.quality(dataset).set_index("check")
    return table[~table["ok"]]["found"].to_dict()


def test_clean_set_passes_every_check(dataset):
    table = audit.quality(dataset)
    assert list(table.columns) == ["check", "found", "expected", "ok"]
    assert table["ok"].all()
    assert table["check"].is_unique
    assert audit.exact_duplicates(dataset).empty


def test_finds_planted_duplicates_and_only_those(dataset):
    train, validation, test = dataset.train.images, dataset.validation.images, dataset.test.images
    train[41] = train[40] = train[3]
    validation[7] = train[50]
    test[2] = train[3]
    # One value of one pixel apart: not an exact duplicate.
    test[5] = train[20]
    test[5, 31, 31, 2] ^= 1
    found = audit.exact_duplicates(dataset)
    groups = [
        set(zip(group["split"], group["index"], strict=True)) for _, group in found.groupby("group")
    ]
    assert groups == [
        {("train", 3), ("train", 40), ("train", 41), ("test", 2)},
        {("train", 50), ("validation", 7)},
    ]
    assert verdicts(dataset) == {
        "surplus copies within train": "2",
        "images in both train and validation": "1",
        "images in both train and test": "1",
    }


def test_duplicates_found_once_can_be_passed_on(dataset):
    dataset.train.images[1] = dataset.train.images[0]
    found = audit.exact_duplicates(dataset)
    assert audit.quality(dataset, found).equals(audit.quality(dataset))
    assert audit.quality(dataset, found.head(0))["ok"].all()


def broken(dataset, **fields):
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, **fields))


def test_wrong_type_and_scale_are_found(dataset):
    wrong = broken(dataset, images=dataset.train.images / 255)
    assert verdicts(wrong) == {"type of the images": "float64, uint8"}
    everything = dataclasses.replace(
        dataset,
        **{
            name: Split(make_split(n, 0).images // 255, np.arange(n) % 10)
            for name, n in COUNTS.items()
        },
    )
    assert verdicts(everything)["values"] == "0 to 1"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_values_are_counted(dataset, value):
    images = dataset.train.images.astype(np.float32)
    images[4, 0, 0] = value
    assert verdicts(broken(dataset, images=images))["NaN or infinite values"] == "3"


def test_missing_labels_are_found(dataset):
    labels = dataset.train.labels.astype(np.float64)
    labels[0] = np.nan
    found = verdicts(broken(dataset, labels=labels))
    assert found["NaN or infinite values"] == "1"
    assert found["type of the labels"] == "float64, int64"
    assert verdicts(broken(dataset, labels=dataset.train.labels[:50])) == {
        "images without a label": "10"
    }


def test_wrong_size_is_found(dataset):
    found = verdicts(broken(dataset, images=dataset.train.images[:, :28]))
    assert found == {"size of an image": "28 x 32 x 3, 32 x 32 x 3"}


def test_blank_images_are_counted(dataset):
    dataset.validation.images[3] = 17
    assert verdicts(dataset) == {"blank images (a single value)": "1"}


def test_labels_out_of_range_and_imbalance_are_found(dataset):
    dataset.train.labels[0] = 10
    found = verdicts(dataset)
    assert found == {"labels": "0 to 10"}
    dataset.train.labels[:10] = 1
    assert verdicts(dataset) == {"images a class, train": "5 to 15"}


def test_empty_split_is_refused(dataset):
    with pytest.raises(ParameterError, match="train split is empty"):
        audit.quality(broken(dataset, images=dataset.train.images[:0], labels=np.arange(0)))


def test_extremes_agree_with_numpy():
    images = make_split(50, 0).images
    images[7], images[11] = 255, 1
    images[20] = np.where(np.indices((32, 32)).sum(axis=0) % 2, 255, 0)[..., None]
    found = audit.extremes(images, 5)
    flat = images.reshape(50, -1).astype(np.float64)
    assert found["brightest"][0] == 7
    assert found["darkest"][0] == 11
    assert found["highest contrast"][0] == 20
    assert set(found["lowest contrast"][:2]) == {7, 11}
    assert list(found["brightest"]) == list(np.argsort(-flat.mean(axis=1), kind="stable")[:5])
    assert list(found["highest contrast"]) == list(np.argsort(-flat.var(axis=1))[:5])


@pytest.mark.parametrize("count", [0, 51])
def test_extremes_refuse_an_impossible_count(count):
    with pytest.raises(ParameterError, match="of 50 images"):
        audit.extremes(make_split(50, 0).images, count)


def test_chunks_do_not_change_the_result(dataset, monkeypatch):
    dataset.train.images[58] = 9
    before = audit.quality(dataset), audit.extremes(dataset.train.images, 4)
    monkeypatch.setattr(audit, "_CHUNK", 7)
    after = audit.quality(dataset), audit.extremes(dataset.train.images, 4)
    assert after[0].equals(before[0])
    for kind, indices in before[1].items():
        np.testing.assert_array_equal(after[1][kind], indices)


def test_class_means_equal_those_of_each_class(dataset):
    images, labels = dataset.train.images, dataset.train.labels
    means = audit.class_means(images, labels)
    assert means.shape == (10, 32, 32, 3)
    np.testing.assert_allclose(means[4], images[labels == 4].mean(axis=0), atol=1e-3)


def test_class_without_images_has_no_mean(dataset):
    some = dataset.train.labels != 6
    means = audit.class_means(dataset.train.images[some], dataset.train.labels[some])
    assert np.isnan(means[6]).all()
    assert np.isfinite(means[[0, 5, 7, 9]]).all()


def test_class_colours_describe_the_images_mean_colours(dataset):
    images, labels = dataset.train.images, dataset.train.labels
    table = audit.class_colours(images, labels)
    assert list(table.index) == list(CLASS_NAMES)
    assert list(table) == ["red", "green", "blue", "red_std", "green_std", "blue_std"]
    blues = images[labels == 8][..., 2].mean(axis=(1, 2))
    assert table.loc["ship", "blue"] == pytest.approx(blues.mean(), abs=1e-3)
    assert table.loc["ship", "blue_std"] == pytest.approx(blues.std(), abs=1e-3)


def test_class_colours_leave_out_classes_without_images(dataset):
    table = audit.class_colours(dataset.train.images[:5], dataset.train.labels[:5])
    assert list(table.index) == list(CLASS_NAMES[:5])
    assert (table["red_std"] == 0).all()


@pytest.fixture(scope="module")
def clusters():
    """Return images and features of ten groups that lie far apart, with their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    levels = (25 * labels)[:, None, None, None]
    images = (levels + rng.integers(0, 5, (200, 32, 32, 3))).astype(np.uint8)
    return images, rng.normal(0, 0.1, (200, 60)) + 5 * np.eye(10, 60)[labels], labels


def test_maps_keep_groups_together(clusters):
    images, features, labels = clusters
    maps = audit.map_images(images, features)
    assert len(maps) == 2
    for points in maps.values():
        assert points.shape == (200, 2)
        assert audit.neighbour_agreement(points, labels) > 0.95


def test_neighbour_agreement_of_strangers_is_chance():
    points = np.random.default_rng(1).normal(size=(2000, 2))
    assert audit.neighbour_agreement(points, np.arange(2000) % 10) == pytest.approx(0.1, abs=0.03)


def test_neighbour_agreement_does_not_count_the_point_itself():
    points = np.array([[0.0], [1.0], [10.0], [11.5]])
    assert audit.neighbour_agreement(points, np.array([0, 1, 2, 2])) == 0.5


def test_too_few_images_are_not_mapped(clusters):
    images, features, _ = clusters
    with pytest.raises(ParameterError, match="expected 100 or more"):
        audit.map_images(images[:99], features[:99])
    with pytest.raises(ParameterError, match="with features of 199"):
        audit.map_images(images, features[:199])
