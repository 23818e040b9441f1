from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from cifar_utils import near_duplicates, planted, synthetic
from cifar_utils.data import Dataset, Provenance, Split
from cifar_utils.errors import ParameterError

COUNTS = {"train": 900, "validation": 150, "test": 150}


def dataset(images: np.ndarray, labels: np.ndarray | None = None) -> Dataset:
    """Return a data set whose splits share the images as COUNTS says, in that order."""
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    shares = np.array([0.75, 0.125, 0.125]) * len(images)
    ends = [0, *np.cumsum(shares.round().astype(int))]
    splits = [Split(images[start:end], labels[start:end]) for start, end in pairwise(ends)]
    counts = dict(zip(COUNTS, map(len, splits), strict=True))
    return Dataset(*splits, Provenance("synthetic", "test", "0" * 64, "synthetic", counts, "now"))


@pytest.fixture(scope="module")
def faulty() -> tuple[Dataset, dict[str, pd.DataFrame]]:
    images, labels, faults = planted.plant(*synthetic.generate(1200, seed=5))
    return dataset(images, labels), faults.tables(np.arange(1200), COUNTS)


@pytest.fixture(scope="module")
def search(faulty: tuple[Dataset, dict[str, pd.DataFrame]]) -> near_duplicates.Search:
    return near_duplicates.find(faulty[0])


def test_planted_copies_are_found_and_little_else(
    faulty: tuple[Dataset, dict[str, pd.DataFrame]], search: near_duplicates.Search
) -> None:
    score = planted.score(search.pairs, faulty[1]["copies"])
    assert score["recall"] >= 0.9
    assert score["precision"] >= 0.9


@pytest.mark.parametrize("kind", planted.KINDS)
def test_every_kind_of_copy_is_found(
    faulty: tuple[Dataset, dict[str, pd.DataFrame]], search: near_duplicates.Search, kind: str
) -> None:
    copies = faulty[1]["copies"]
    assert planted.score(search.pairs, copies[copies["kind"] == kind])["recall"] >= 0.6


def test_pairs_are_ordered_and_name_the_later_image_second(search: near_duplicates.Search) -> None:
    pairs = search.pairs
    assert pairs["similarity"].is_monotonic_decreasing
    assert pairs["similarity"].between(near_duplicates.THRESHOLD, 1).all()
    rank = {name: place for place, name in enumerate(COUNTS)}
    first = pairs["split"].map(rank) * 10_000 + pairs["index"]
    second = pairs["other_split"].map(rank) * 10_000 + pairs["other_index"]
    assert (first < second).all()
    assert not pairs.duplicated(["split", "index", "other_split", "other_index"]).any()


def test_mirrored_copies_are_said_to_be(
    faulty: tuple[Dataset, dict[str, pd.DataFrame]], search: near_duplicates.Search
) -> None:
    copies = faulty[1]["copies"]
    found = search.pairs.merge(copies, on=["split", "index", "other_split", "other_index"])
    assert (found["mirrored"] == (found["kind"] == "mirrored")).all()


def test_nearest_holds_each_images_best_pair(search: near_duplicates.Search) -> None:
    assert {name: len(values) for name, values in search.nearest.items()} == COUNTS
    best = search.pairs.iloc[0]
    assert search.nearest[best["split"]][best["index"]] == pytest.approx(best["similarity"])
    for values in search.nearest.values():
        assert values.dtype == np.float32
        assert ((values >= 0) & (values <= 1)).all()


def test_a_higher_threshold_keeps_the_best(
    faulty: tuple[Dataset, dict[str, pd.DataFrame]], search: near_duplicates.Search
) -> None:
    strict = near_duplicates.find(faulty[0], threshold=0.95).pairs
    expected = search.pairs[search.pairs["similarity"] >= 0.95]
    pd.testing.assert_frame_equal(strict, expected.reset_index(drop=True))


def test_blank_images_are_like_none() -> None:
    images = synthetic.generate(80, seed=1)[0]
    images[:40] = np.arange(40, dtype=np.uint8)[:, None, None, None]
    assert not len(near_duplicates.find(dataset(images)).pairs)


def test_one_picture_many_times_stays_bounded() -> None:
    images = np.repeat(synthetic.generate(1, seed=1)[0], 200, axis=0)
    found = near_duplicates.find(dataset(images))
    assert len(found.pairs) <= 2 * 200
    assert len(near_duplicates.groups(found.pairs)[0]) == 200


def test_a_set_without_candidates_has_no_pairs() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), np.uint8)
    found = near_duplicates.find(dataset(noise))
    assert list(found.pairs) == list(near_duplicates.find(dataset(noise)).pairs)
    assert not len(found.pairs)
    assert near_duplicates.groups(found.pairs) == []
    assert near_duplicates.leaked(found.pairs).tolist() == []


@pytest.mark.parametrize("threshold", [0.4, 1.01, float("nan")])
def test_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ParameterError, match=r"expected 0\.5 to 1"):
        near_duplicates.find(dataset(synthetic.generate(80)[0]), threshold=threshold)


PAIRS = pd.DataFrame(
    [
        ("train", 1, "test", 7, 0.9, False),
        ("train", 2, "train", 1, 0.9, False),
        ("validation", 0, "test", 3, 0.9, True),
        ("test", 3, "test", 5, 0.9, False),
        ("train", 4, "train", 6, 0.8, False),
    ],
    columns=["split", "index", "other_split", "other_index", "similarity", "mirrored"],
)


def test_leaked_are_test_images_with_a_copy_outside() -> None:
    assert near_duplicates.leaked(PAIRS).tolist() == [3, 7]


def test_groups_join_in_steps_largest_first() -> None:
    found = [set(group) for group in near_duplicates.groups(PAIRS)]
    assert sorted(map(len, found), reverse=True) == [3, 3, 2] == list(map(len, found))
    assert {("train", 1), ("train", 2), ("test", 7)} in found
    assert {("validation", 0), ("test", 3), ("test", 5)} in found


def test_show_turns_the_mirror_image_back() -> None:
    images, labels = synthetic.generate(80, seed=2)
    pairs = pd.DataFrame(
        [("train", 1, "test", 2, 0.9, False), ("train", 3, "test", 4, 0.85, True)],
        columns=list(PAIRS),
    )
    faulty = dataset(images, labels)
    first, second, titles = near_duplicates.show(faulty, pairs)
    np.testing.assert_array_equal(first, faulty.train.images[[1, 3]])
    np.testing.assert_array_equal(second[0], faulty.test.images[2])
    np.testing.assert_array_equal(second[1], faulty.test.images[4][:, ::-1])
    assert titles[0].startswith("train / test\n")
    assert titles[0].endswith("0.90")
    assert near_duplicates.show(faulty, pairs[:0])[0].shape == (0, 32, 32, 3)
