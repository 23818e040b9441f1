import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cifar_utils import evaluation, explain
from cifar_utils import out_of_distribution as ood
from cifar_utils.errors import DataError, ParameterError
from cifar_utils.recipes import Recipe
from tests.unit.trainable import coloured, small_model

GENERATOR = np.random.default_rng(0)


def test_scores_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]])
    np.testing.assert_allclose(ood.FROM_LOGITS["highest probability"](logits), [0.7, 0.4])
    np.testing.assert_allclose(ood.FROM_LOGITS["energy"](logits + 5), [5, 5])
    known = np.array([[1, 0], [0, 2], [3, 4]])
    seen = np.array([[2, 0], [-1, 0]])
    np.testing.assert_allclose(ood.feature_nearness(known, seen, 1), [0, -np.sqrt(2)], atol=1e-6)
    np.testing.assert_allclose(
        ood.feature_nearness(known, seen, 2), [-np.sqrt(0.8), -np.sqrt(3.2)], atol=1e-6
    )


def test_detection_is_that_of_two_normal_distributions():
    """Two unit normals d apart have an AUROC of Phi(d / sqrt 2)."""
    distance = 1.5
    inside, outside = GENERATOR.normal(distance, 1, 40_000), GENERATOR.normal(0, 1, 40_000)
    found = ood.detection(inside, outside)
    assert found.auroc == pytest.approx(stats.norm.cdf(distance / np.sqrt(2)), abs=0.01)
    passing = stats.norm.sf(distance + stats.norm.ppf(0.05))
    assert found.fpr95 == pytest.approx(passing, abs=0.015)


def test_threshold_lets_the_share_pass():
    scores = GENERATOR.permutation(np.arange(200.0))
    for keep in (0.05, 0.95, 1.0):
        assert (scores >= ood.threshold(scores, keep)).mean() == pytest.approx(keep)
    assert (np.zeros(7) >= ood.threshold(np.zeros(7))).all()


def test_outsiders_are_of_the_same_size_and_each_of_its_kind():
    images = GENERATOR.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    found = ood.outsiders(images, seed=3)
    assert {each.shape for each in found.values()} == {images.shape}
    assert {each.dtype for each in found.values()} == {np.dtype(np.uint8)}
    flat = found["flat colour"]
    assert (flat == flat[:, :1, :1]).all()
    assert len(np.unique(flat[:, 0, 0], axis=0)) == 20
    for image, mixed in zip(images, found["scrambled"], strict=True):
        np.testing.assert_array_equal(np.sort(image, axis=None), np.sort(mixed, axis=None))
        assert (image != mixed).any()
    tiles = {
        images[0, y : y + 8, x : x + 8].tobytes() for y in range(0, 32, 8) for x in range(0, 32, 8)
    }
    mixed = found["scrambled"][0]
    assert tiles == {
        mixed[y : y + 8, x : x + 8].tobytes() for y in range(0, 32, 8) for x in range(0, 32, 8)
    }
    again = ood.outsiders(images, seed=3)
    assert all((again[name] == found[name]).all() for name in found)


def test_table_has_a_row_for_each_score_and_kind():
    inside = {"a": np.array([1.0, 2, 3]), "b": np.array([0.0, 0, 0])}
    outside = {"noise": {"a": np.array([0.0, 0.5]), "b": np.array([0.0, 0.0])}}
    table = ood.table(inside, outside)
    assert table.to_numpy().tolist() == [["a", "noise", 1.0, 0.0], ["b", "noise", 0.5, 1.0]]


def test_what_cannot_be_is_refused():
    known = np.ones((3, 4))
    with pytest.raises(ParameterError, match="neighbours is 4; expected 1 to 3"):
        ood.feature_nearness(known, known, 4)
    with pytest.raises(DataError, match=r"\(3, 4\) and features \(3, 3\)"):
        ood.feature_nearness(known, known[:, :3], 1)
    with pytest.raises(DataError, match="not all finite"):
        ood.feature_nearness(known, known * np.nan, 1)
    with pytest.raises(DataError, match="0 scores inside"):
        ood.detection(known[0, :0], known[0])
    with pytest.raises(ParameterError, match="keep is 0"):
        ood.threshold(known[0], 0)
    with pytest.raises(DataError, match="multiples of 8"):
        ood.outsiders(np.zeros((2, 30, 32, 3), np.uint8))


def test_serving_takes_the_best_score_that_needs_only_logits():
    detected = pd.DataFrame(
        [("energy", 0.6), ("energy", 0.8), ("highest probability", 0.69),
         ("highest probability", 0.7), ("nearness of features", 1.0)],
        columns=["score", "auroc"],
    )  # fmt: skip
    logits = np.log(np.arange(1, 21, dtype=float))[:, None] + np.log([[0.5, 0.5]])
    found = ood.serving(detected, {"cnn": logits}, {"cnn": 1.5})
    assert found["score"] == "energy"
    # The lowest of the 20 has energy log 1 and is the one in twenty to be refused.
    assert found["models"]["cnn"] == {"temperature": 1.5, "least_score": pytest.approx(np.log(2))}


def test_scores_know_which_images_are_known():
    keras.utils.set_random_seed(0)
    model = small_model()
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    eye = explain.last_features(model)
    known = evaluation.predict_logits(eye, images)
    found = ood.scores(model, known, images[:3])
    logits = evaluation.predict_logits(model, images[:3])
    np.testing.assert_allclose(found["energy"], ood.FROM_LOGITS["energy"](logits))
    near = ood.feature_nearness(known, known[:3])
    np.testing.assert_allclose(found["nearness of features"], near, atol=1e-4)
    assert [len(each) for each in found.values()] == [3, 3, 3]


def test_classes_never_seen_are_kept_from_the_network(monkeypatch):
    learnt = []

    def fit(model, train, validation, recipe, *, seed, backup):
        learnt.append(set(train.labels))
        assert validation is None

    monkeypatch.setattr(ood.training, "fit", fit)
    found = ood.never_seen(coloured(60), coloured(40, seed=1), (1, 7), Recipe(1, 20), seed=0)
    assert learnt == [set(range(10)) - {1, 7}]
    assert list(found) == ["highest probability", "energy", "nearness of features"]
    assert all(0 <= share <= 1 for each in found.values() for share in each)
