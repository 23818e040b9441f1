import numpy as np
import pandas as pd
import pytest

from cifar_utils import planted, synthetic
from cifar_utils.errors import ParameterError


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return synthetic.generate(800, seed=3)


def test_as_many_of_every_class_as_before(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    _, labels, _ = planted.plant(*drawn)
    assert np.bincount(labels).tolist() == np.bincount(drawn[1]).tolist()


def test_what_is_written_down_is_all_that_changed(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels, faults = planted.plant(*drawn)
    assert set(np.flatnonzero(labels != drawn[1])) == set(faults.wrong)
    np.testing.assert_array_equal(faults.true_labels, drawn[1][faults.wrong])
    changed = np.flatnonzero((images != drawn[0]).any(axis=(1, 2, 3)))
    assert set(changed) == set(faults.copies[:, 1])


def test_copies_share_a_class_and_only_equal_ones_all_pixels(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    images, labels, faults = planted.plant(*drawn)
    first, second = faults.copies.T
    np.testing.assert_array_equal(labels[first], labels[second])
    equal = (images[first] == images[second]).all(axis=(1, 2, 3))
    assert [kind == "equal" for kind in faults.kinds] == equal.tolist()
    assert set(faults.kinds) == set(planted.KINDS)


def test_no_image_has_two_faults(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    _, _, faults = planted.plant(*drawn)
    places = [*faults.copies.ravel(), *faults.wrong]
    assert len(places) == len(set(places))
    assert len(faults.copies) == 800 * planted.SHARE


def test_seed_decides_and_input_stays(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    before = drawn[0].copy(), drawn[1].copy()
    once, again, other = (planted.plant(*drawn, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    assert (once[1] != other[1]).any()
    np.testing.assert_array_equal(drawn[0], before[0])
    np.testing.assert_array_equal(drawn[1], before[1])


@pytest.mark.parametrize("count", [1, 2, 10, 49])
def test_small_sets_stay_whole(count: int) -> None:
    images, labels, faults = planted.plant(*synthetic.generate(count))
    assert images.shape == (count, 32, 32, 3)
    assert len(labels) == count
    assert len(faults.copies) <= 1


def test_tables_name_the_images_by_split(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    _, labels, faults = planted.plant(*drawn)
    order = np.random.default_rng(0).permutation(800)
    counts = {"train": 600, "validation": 100, "test": 100}
    starts = {"train": 0, "validation": 600, "test": 700}
    tables = faults.tables(order, counts)
    for row, kind in zip(tables["copies"].to_dict("records"), faults.kinds, strict=True):
        first = order[starts[row["split"]] + row["index"]]
        second = order[starts[row["other_split"]] + row["other_index"]]
        assert row["kind"] == kind
        assert {first, second} in [set(pair) for pair in faults.copies]
        assert starts[row["split"]] + row["index"] < starts[row["other_split"]] + row["other_index"]
    wrong = tables["wrong"]
    places = order[[starts[split] for split in wrong["split"]] + wrong["index"]]
    np.testing.assert_array_equal(drawn[1][places], wrong["true_label"])
    assert (labels[places] != wrong["true_label"]).all()


def test_score_counts_what_was_found_of_what_was_planted() -> None:
    truth = pd.DataFrame({"split": ["train"] * 4, "index": range(4), "true_label": 0})
    found = pd.DataFrame({"split": ["train", "train", "test"], "index": [0, 9, 1], "x": 1})
    assert planted.score(found, truth) == {"recall": 1 / 4, "precision": 1 / 3}
    assert np.isnan(planted.score(found[:0], truth)["precision"])
    assert np.isnan(planted.score(found, truth[:0])["recall"])


def test_negative_seed_is_refused(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ParameterError, match="seed of the planted faults is -1"):
        planted.plant(*drawn, seed=-1)
