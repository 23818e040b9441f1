import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from cifar_utils import label_noise, planted, synthetic
from cifar_utils.data import Dataset, Provenance, Split

COUNTS = {"train": 1000, "validation": 200, "test": 50}


@pytest.fixture(scope="module")
def faulty() -> tuple[Dataset, pd.DataFrame]:
    images, labels, faults = planted.plant(*synthetic.generate(1250, seed=7))
    ends = np.cumsum([0, *COUNTS.values()])
    splits = [Split(images[start:end], labels[start:end]) for start, end in pairwise(ends)]
    provenance = Provenance("synthetic", "test", "0" * 64, "synthetic", COUNTS, "now")
    return Dataset(*splits, provenance), faults.tables(np.arange(1250), COUNTS)["wrong"]


@pytest.fixture(scope="module")
def ranked(faulty: tuple[Dataset, pd.DataFrame]) -> pd.DataFrame:
    return label_noise.candidates(faulty[0], filters=128)


def test_every_image_has_one_row(ranked: pd.DataFrame) -> None:
    places = set(zip(ranked["split"], ranked["index"], strict=True))
    assert len(places) == len(ranked) == 1250
    assert ranked["split"].value_counts().to_dict() == COUNTS


def test_the_labels_of_test_change_nothing_for_the_others(
    faulty: tuple[Dataset, pd.DataFrame], ranked: pd.DataFrame
) -> None:
    dataset = faulty[0]
    turned = Split(dataset.test.images, (dataset.test.labels + 1) % 10)
    again = label_noise.candidates(replace(dataset, test=turned), filters=128)
    columns = ["split", "index", "given", "suggested", "issue"]
    expected, found = (
        frame.loc[frame["split"] != "test", columns].reset_index(drop=True)
        for frame in (ranked, again)
    )
    pd.testing.assert_frame_equal(found, expected)


def test_planted_wrong_labels_come_first(
    faulty: tuple[Dataset, pd.DataFrame], ranked: pd.DataFrame
) -> None:
    wrong = faulty[1]
    score = planted.score(ranked.head(len(wrong)), wrong)
    # By chance both would be 2%.
    assert score["recall"] >= 0.5
    assert planted.score(ranked.head(2 * len(wrong)), wrong)["recall"] >= 0.65


def test_suggestions_are_mostly_the_true_labels(
    faulty: tuple[Dataset, pd.DataFrame], ranked: pd.DataFrame
) -> None:
    wrong = faulty[1]
    found = ranked.head(2 * len(wrong)).merge(wrong, on=["split", "index"])
    assert (found["suggested"] == found["true_label"]).mean() > 0.7


def test_columns_agree_with_each_other(
    faulty: tuple[Dataset, pd.DataFrame], ranked: pd.DataFrame
) -> None:
    splits = faulty[0].splits()
    rows = ranked.head(20).to_dict("records")
    assert all(splits[row["split"]].labels[row["index"]] == row["given"] for row in rows)
    assert (ranked["suggested"] != ranked["given"]).all()
    assert ranked[["given_probability", "suggested_probability"]].to_numpy().max() <= 1
    margin = ranked["given_probability"] - ranked["suggested_probability"]
    assert (margin.diff().dropna() > -1e-5).all()
    assert 0 < ranked["issue"].sum() < 300


def test_without_cleanlab_the_ranking_is_the_same_and_it_says_how_to_get_it(
    faulty: tuple[Dataset, pd.DataFrame],
    ranked: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cleanlab"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    without = label_noise.candidates(faulty[0], filters=128)
    assert "pip install 'cifar-utils[audit]'" in capsys.readouterr().out
    assert not without["issue"].any()
    assert without.head(20)["index"].tolist() == ranked.head(20)["index"].tolist()
