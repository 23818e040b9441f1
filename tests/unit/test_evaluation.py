import math

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.stats import binomtest
from sklearn import metrics

from cifar_utils import evaluation
from cifar_utils.errors import CifarUtilsError, ParameterError

NAMES = tuple("abcdefghij")


def logits_for(predictions, classes=10):
    return np.eye(classes, dtype=np.float32)[np.asarray(predictions)] * 5


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(pair):
    hits, n = pair
    found = evaluation.wilson(hits, n)
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert found.value == hits / n
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)


def test_wilson_refuses_what_cannot_be():
    for hits, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(CifarUtilsError, match="expected 0 <= right <= n"):
            evaluation.wilson(hits, n)


def test_softmax_sums_to_one_and_survives_large_logits():
    found = evaluation.softmax(np.array([[1000.0, 999.0, -1000.0], [0, 0, 0]]))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[1], 1 / 3, rtol=1e-6)
    assert found[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_accuracy_counts():
    found = evaluation.accuracy(logits_for([0, 1, 2, 3]), np.array([0, 1, 2, 4]))
    assert found.value == 0.75
    assert str(found) == "75.0% [30.1, 95.4]"


def test_logits_and_labels_must_belong_together():
    with pytest.raises(CifarUtilsError, match="expected"):
        evaluation.accuracy(logits_for([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(CifarUtilsError, match="expected"):
        evaluation.accuracy(np.zeros((0, 10)), np.zeros(0, int))


def test_difference_of_a_model_with_itself_is_exactly_zero():
    labels = np.arange(100) % 10
    logits = logits_for((labels + (np.arange(100) % 3 == 0)) % 10)
    assert tuple(evaluation.difference(logits, logits, labels)) == (0, 0, 0)


def test_difference_is_paired_and_signed():
    labels = np.zeros(1000, int)
    better = logits_for(np.where(np.arange(1000) < 900, 0, 1))
    worse = logits_for(np.where(np.arange(1000) < 850, 0, 1))
    found = evaluation.difference(better, worse, labels)
    assert found.value == pytest.approx(0.05)
    assert 0.03 < found.low < found.value < found.high < 0.07
    back = evaluation.difference(worse, better, labels)
    assert back.value == pytest.approx(-0.05)


def test_difference_covers_the_truth_about_19_times_in_20():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        hits = generator.random((2, 400)) < np.array([[0.8], [0.7]])
        first, second = (logits_for(np.where(hit, 0, 1)) for hit in hits)
        found = evaluation.difference(first, second, np.zeros(400, int), resamples=500)
        covered += found.low <= 0.1 <= found.high
    assert 180 <= covered <= 199


def test_confusion_matrix_is_true_by_row():
    found = evaluation.confusion_matrix(logits_for([1, 1, 2]), np.array([0, 1, 2]))
    assert found.shape == (10, 10)
    assert found[0, 1] == 1
    assert found[1, 0] == 0
    assert np.trace(found) == 2


def test_class_report_by_hand():
    labels = np.array([0, 0, 0, 1])
    report = evaluation.class_report(logits_for([0, 0, 1, 1]), labels, NAMES)
    assert report.loc["a", ["precision", "recall", "f1"]].tolist() == pytest.approx([1, 2 / 3, 0.8])
    assert report.loc["b", ["precision", "recall"]].tolist() == [0.5, 1.0]
    assert report.loc["c", "precision"] == 0
    assert report.loc["macro average", "f1"] == pytest.approx((0.8 + 2 / 3) / 10)
    assert report.loc["macro average", "support"] == 4


def test_most_confused_ignores_the_diagonal():
    matrix = np.diag([50] * 10)
    matrix[3, 5], matrix[5, 3] = 9, 4
    found = evaluation.most_confused(matrix, NAMES, count=2)
    assert found.values.tolist() == [["d", "f", 9], ["f", "d", 4]]


def test_confident_mistakes_are_wrong_and_sorted():
    logits = np.zeros((4, 10), np.float32)
    logits[:, 1] = [1, 9, 5, 7]
    found = evaluation.confident_mistakes(logits, np.array([0, 1, 0, 0]), count=2)
    assert found.tolist() == [3, 2]


def test_accuracy_without_some_images_is_that_on_the_others():
    logits = {"always zero": np.eye(3)[[0, 0, 0, 0]], "right": np.eye(3)[[0, 1, 2, 0]]}
    labels = np.array([0, 1, 2, 0])
    found = evaluation.without(
        logits, labels, {"copies": np.array([1, 2]), "none": np.array([], int)}
    )
    assert found.loc[("copies", "always zero"), ["accuracy", "n", "change"]].tolist() == [1, 2, 0.5]
    assert found.loc[("none", "always zero"), ["accuracy", "n", "change"]].tolist() == [0.5, 4, 0]
    assert found.loc[(slice(None), "right"), "change"].tolist() == [0, 0]
    with pytest.raises(ParameterError, match="without all no image is left"):
        evaluation.without(logits, labels, {"all": np.arange(4)})


def first_pixels():
    """A model that returns an image's top left pixel three times over."""
    images = keras.Input((32, 32, 3), dtype="uint8")
    return keras.Model(images, keras.ops.cast(images, "float32")[:, 0, 0, :])


def test_views_are_averaged_with_their_weights():
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    model = first_pixels()
    one = evaluation.predict_logits(model, images)
    np.testing.assert_array_equal(one, images[:, 0, 0])
    mirror = evaluation.predict_logits(model, images, views="mirror")
    np.testing.assert_allclose(mirror, (images[:, 0, 0] / 2 + images[:, 0, -1] / 2))
    crops = evaluation.predict_logits(model, images, views="crops")
    # The crop at (0, 0) begins one pixel outside, where the padding mirrors row and column 1; that
    # at (2, 2) begins at row and column 1, and ends on the mirrored last but one.
    corners = 2 * (images[:, 1, 1] / 8) + 2 * (images[:, 1, -2] / 8)
    expected = images[:, 0, 0] / 4 + images[:, 0, -1] / 4 + corners
    np.testing.assert_allclose(crops, expected)


def test_views_without_a_name_are_refused():
    with pytest.raises(ParameterError, match="did you mean 'crops'"):
        evaluation.predict_logits(first_pixels(), np.zeros((1, 32, 32, 3), np.uint8), views="crop")


def random_outputs(seed=0, count=400):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count)
    logits = generator.normal(0, 1, (count, 10))
    logits[np.arange(count), labels] += 1.5
    return logits.astype(np.float32), labels


def test_scores_are_those_of_scikit_learn():
    logits, labels = random_outputs()
    shares = special.softmax(logits.astype(np.float64), axis=1)
    found = evaluation.scores(logits, labels)
    answers = logits.argmax(axis=1)
    assert found == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(labels, answers),
            "top_2": metrics.top_k_accuracy_score(labels, logits, k=2),
            "precision": metrics.precision_score(labels, answers, average="macro"),
            "recall": metrics.recall_score(labels, answers, average="macro"),
            "f1": metrics.f1_score(labels, answers, average="macro"),
            "log_loss": metrics.log_loss(labels, shares),
            "brier": ((shares - np.eye(10)[labels]) ** 2).sum(axis=1).mean(),
        }
    )
    assert evaluation.top_k(logits, labels, 10).value == 1
    assert evaluation.top_k(logits, labels, 1) == evaluation.accuracy(logits, labels)
    with pytest.raises(ParameterError, match="k is 11; expected 1 to 10"):
        evaluation.top_k(logits, labels, 11)


def test_log_loss_of_certain_mistakes_is_finite():
    logits = np.array([[1000.0, 0], [1000, 0]], np.float32)
    assert evaluation.log_loss(logits, np.array([0, 1])) == 500
    assert evaluation.brier_score(logits, np.array([0, 1])) == 1


def one_hot(answers):
    return np.eye(10, dtype=np.float32)[answers]


def test_mcnemar_is_the_exact_binomial():
    labels = np.zeros(40, int)
    first, second = np.ones(40, int), np.ones(40, int)
    first[:15], second[10:20] = 0, 0  # 10 right for the first alone, 5 for the second alone
    found = evaluation.mcnemar(one_hot(first), one_hot(second), labels)
    tail = sum(math.comb(15, k) for k in range(6)) / 2**15
    assert found == pytest.approx(2 * tail)
    assert evaluation.mcnemar(one_hot(first), one_hot(first), labels) == 1


def test_one_model_against_the_others():
    labels = np.zeros(1000, int)
    shares = {"chosen": 900, "same": 900, "close": 880, "far": 500}
    logits = {
        name: one_hot((np.arange(1000) >= right).astype(int)) for name, right in shares.items()
    }
    table = evaluation.against(logits, labels, "chosen")
    assert list(table.index) == ["same", "close", "far"]
    assert table["difference"].tolist() == pytest.approx([0, 0.02, 0.4])
    assert table["verdict"].tolist() == ["within noise", "different", "different"]
    # Holm: the smallest times 3, the next times 2, the largest as it is.
    smallest, middle, largest = table.loc[["far", "close", "same"], "p"]
    assert table.loc[["far", "close", "same"], "p_holm"].tolist() == pytest.approx(
        [3 * smallest, 2 * middle, largest]
    )
    assert (table["low"] <= table["difference"]).all()


def test_classes_that_get_confused_stand_together():
    matrix = np.diag([90] * 6)
    for one, other in ((0, 4), (1, 3), (2, 5)):
        matrix[one, other] = matrix[other, one] = 10
    matrix[4, 1] = 2
    order = evaluation.class_order(matrix)
    assert sorted(order) == list(range(6))
    places = {label: place for place, label in enumerate(order)}
    for one, other in ((0, 4), (1, 3), (2, 5), (4, 1)):
        assert abs(places[one] - places[other]) == 1
    assert sorted(evaluation.class_order(np.zeros((4, 4), int))) == [0, 1, 2, 3]


def test_mistakes_by_pair_shows_the_surest_of_the_most_frequent_pairs():
    labels = np.array([3, 3, 3, 5, 0, 3])
    logits = logits_for([5, 5, 5, 3, 0, 3])
    logits[:3, 5] = [4, 6, 5]
    found = evaluation.mistakes_by_pair(logits, labels, NAMES, each=2)
    assert list(found) == ["d taken for f\n3 images", "f taken for d\n1 images"]
    assert found["d taken for f\n3 images"].tolist() == [1, 2]
    assert found["f taken for d\n1 images"].tolist() == [3]
    assert evaluation.mistakes_by_pair(logits_for(labels), labels, NAMES) == {}


def test_holm_by_hand():
    assert evaluation.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert evaluation.holm([0.9, 0.8]) == [1.0, 1.0]
    assert evaluation.holm([]) == []


def test_reasons_say_what_speaks_against_the_choice_too():
    board = pd.DataFrame(
        {"failed_tests": [1, 0, 0, 0], "seconds": [100, 10, 90, 5]},
        index=["chosen", "cheap", "same", "worse"],
    )
    differences = pd.DataFrame(
        {"difference": [0.01, 0.0, 0.2], "verdict": ["within noise", "within noise", "different"]},
        index=["cheap", "same", "worse"],
    )
    found = evaluation.reasons(board, differences, "chosen", {"seconds": "seconds"})
    assert found == [
        "chosen had the highest validation accuracy.",
        "On test it is better than worse.",
        "cheap is within noise of it for 10% of its seconds.",
        "same is within noise of it and not much cheaper.",
        "It fails 1 test of behaviour: look at them before anyone relies on it.",
    ]
    differences.loc["worse", "difference"] = -0.2
    board.loc["chosen", "failed_tests"] = 0
    found = evaluation.reasons(board, differences, "chosen", {"seconds": "seconds"})
    assert "On test worse is better, so validation misled us." in found
    assert found[-1] == "It passes all tests of behaviour."
