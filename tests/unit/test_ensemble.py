"""Combinations, held against hand calculations, SciPy and scikit-learn."""

import ast
import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression

from cifar_utils import (
    batches,
    calibration,
    distillation,
    ensemble,
    evaluation,
    members,
    models,
    predict,
)
from cifar_utils.errors import DataError, ParameterError
from tests.unit.trainable import coloured, small_model, small_network


def drawn(strengths, count=200, classes=4, seed=0):
    """Logits of members that know the labels the better the higher their strength, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return [
        (generator.normal(size=(count, classes)) + strength * np.eye(classes)[labels]).astype(
            np.float32
        )
        for strength in strengths
    ], labels


SIZES = st.integers(1, 5)


@st.composite
def outputs(draw, members=SIZES):
    shape = draw(members), draw(st.integers(1, 6)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return list(generator.normal(0, draw(st.sampled_from([0.1, 3.0, 50.0])), shape))


def test_averages_by_hand():
    first = np.log([[0.8, 0.2], [0.5, 0.5]])
    second = np.log([[0.2, 0.8], [0.1, 0.9]])
    mean = ensemble.Average((0.75, 0.25), (1.0, 1.0))([first, second])
    np.testing.assert_allclose(np.exp(mean), [[0.65, 0.35], [0.4, 0.6]], rtol=1e-6)
    product = ensemble.uniform(2, "logits")([first, second])
    expected = np.sqrt([[0.16, 0.16], [0.05, 0.45]])
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(product), expected, rtol=1e-6)
    cooled = ensemble.Average((1.0,), (2.0,))([first])
    np.testing.assert_allclose(np.exp(cooled[0]), [2 / 3, 1 / 3], rtol=1e-6)
    assert mean.dtype == np.float32


@given(outputs(), st.sampled_from(["probabilities", "logits"]))
@settings(deadline=None)
def test_an_ensemble_gives_log_probabilities(logits, of):
    found = ensemble.uniform(len(logits), of)(logits)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)


@given(outputs(st.just(1)), st.integers(1, 4), st.sampled_from(["probabilities", "logits"]))
@settings(deadline=None)
def test_the_average_of_equal_members_is_the_member(logits, count, of):
    found = ensemble.uniform(count, of)(logits * count)
    np.testing.assert_allclose(found, special.log_softmax(logits[0], axis=1), rtol=1e-5, atol=1e-6)


@given(outputs(), st.randoms(), st.sampled_from(["probabilities", "logits"]))
@settings(deadline=None)
def test_the_order_of_members_does_not_matter(logits, random, of):
    found = ensemble.uniform(len(logits), of)(logits)
    shuffled = random.sample(logits, len(logits))
    np.testing.assert_allclose(
        ensemble.uniform(len(logits), of)(shuffled), found, rtol=1e-5, atol=1e-5
    )


@given(st.lists(st.floats(0, 3), min_size=1, max_size=4), st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_fitted_weights_are_on_the_simplex(strengths, seed):
    logits, labels = drawn(strengths, 40, seed=seed)
    for fit in (ensemble.fit_weights, ensemble.greedy):
        weights = np.array(fit(logits, labels).weights)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)


def test_temperatures_are_those_of_each_member():
    logits, labels = drawn([1, 2])
    found = ensemble.fit_temperatures([logits[0], 7 * logits[1]], labels)
    each = [calibration.fit_temperature(member, labels) for member in logits]
    assert found.temperatures == pytest.approx((each[0], 7 * each[1]), rel=1e-3)
    assert found.weights == (0.5, 0.5)


def test_weights_are_those_of_a_general_optimiser():
    logits, labels = drawn([0.5, 1.5, 2.0], 300)
    found = ensemble.fit_weights(logits, labels, prior=5)
    scaled = np.stack(logits) / np.array(found.temperatures)[:, None, None]
    likelihoods = special.softmax(scaled, axis=2)[:, np.arange(300), labels]

    def loss(weights):
        return -np.log(weights @ likelihoods).sum() - 5 * np.log(weights).sum()

    best = optimize.minimize(
        loss,
        np.full(3, 1 / 3),
        method="SLSQP",
        bounds=[(1e-9, 1)] * 3,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(found.weights, best.x, atol=1e-3)


def test_members_that_are_sure_and_wrong_leave_weights_that_are_numbers():
    _, labels = drawn([1.0])
    logits = [-1e6 * np.eye(4)[labels]] * 2
    for fit in (ensemble.fit_weights, ensemble.greedy):
        assert sum(fit(logits, labels).weights) == pytest.approx(1)


def test_nothing_here_reads_the_test_set():
    for module in (ensemble, members, distillation):
        nodes = ast.walk(ast.parse(inspect.getsource(module)))
        assert not [
            node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "test"
        ]


def test_a_prior_pulls_weights_towards_equal_ones():
    logits, labels = drawn([0.0, 3.0])
    free, held, fixed = (
        ensemble.fit_weights(logits, labels, prior=prior).weights[1] for prior in (0, 50, 1e9)
    )
    assert free > held > fixed
    assert fixed == pytest.approx(0.5)


def test_greedy_selection_by_hand():
    """It takes the best, then what completes it, and leaves out what is never right."""
    labels = np.array([0, 0, 1, 1] * 25)
    right = np.where(labels[:, None] == [0, 1], 2.0, -2.0)
    half, other = right.copy(), right.copy()
    half[::2], other[1::2] = 0.0, 0.0
    found = ensemble.greedy([-right, half, other], labels)
    assert found.weights == pytest.approx((0, 0.5, 0.5))
    assert found.asked == (1, 2)
    alone = ensemble.greedy([-right, half, other], labels, rounds=1)
    assert sorted(alone.weights) == [0, 0, 1]


def test_greedy_selection_is_never_worse_than_the_best_member_it_chose_from():
    logits, labels = drawn([0.5, 1.0, 1.5, 2.0])
    found = ensemble.greedy(logits, labels)
    alone = [
        evaluation.log_loss(member / heat, labels)
        for member, heat in zip(logits, found.temperatures, strict=True)
    ]
    assert evaluation.log_loss(found(logits), labels) <= min(alone) + 1e-6


def test_stacking_is_logistic_regression_on_log_probabilities():
    logits, labels = drawn([1.0, 2.0])
    features = np.concatenate([special.log_softmax(each, axis=1) for each in logits], axis=1)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(features, labels)
    found = ensemble.fit_stack(logits, labels, strength=0.1)(logits)
    np.testing.assert_allclose(np.exp(found), model.predict_proba(features), atol=1e-4)


def test_out_of_fold_outputs_know_nothing_of_their_labels():
    """A stack without penalty learns random labels by heart, and out of fold it guesses."""
    logits, _ = drawn([0.0] * 10, 60)
    labels = np.random.default_rng(1).permutation(np.arange(60) % 4)

    def fit(logits, labels):
        return ensemble.fit_stack(logits, labels, strength=1e4)

    seen = evaluation.accuracy(fit(logits, labels)(logits), labels).value
    honest = evaluation.accuracy(ensemble.out_of_fold(fit, logits, labels), labels).value
    assert seen > 0.9
    assert honest < 0.5


@pytest.mark.parametrize("name", ensemble.METHODS)
def test_what_learns_nothing_is_the_same_out_of_fold(name):
    logits, labels = drawn([1.0, 2.0])
    fit = ensemble.METHODS[name]
    inside, outside = fit(logits, labels)(logits), ensemble.out_of_fold(fit, logits, labels)
    assert outside.shape == inside.shape
    assert np.isfinite(outside).all()
    same = np.allclose(inside, outside, atol=1e-5)
    assert same == (name in ("mean of probabilities", "mean of logits"))


def answers(right):
    """Logits of two classes that are right, for label 0, where asked."""
    return np.where(np.array(right)[:, None], [1.0, 0.0], [0.0, 1.0])


def test_diversity_by_hand():
    labels = np.zeros(8, np.int64)
    first = answers([1, 1, 1, 1, 1, 0, 0, 0])
    second = answers([1, 1, 1, 0, 0, 1, 0, 0])
    row = ensemble.diversity({"a": first, "b": second}, labels).loc[("a", "b")]
    assert row["disagreement"] == 3 / 8
    assert row["double_fault"] == 2 / 8
    assert row["q"] == pytest.approx((3 * 2 - 2 * 1) / (3 * 2 + 2 * 1))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
@settings(deadline=None)
def test_q_is_between_minus_one_and_one_and_the_same_both_ways(pairs):
    first, second = (answers(each) for each in zip(*pairs, strict=True))
    labels = np.zeros(len(pairs), np.int64)
    one = ensemble.diversity({"a": first, "b": second}, labels).iloc[0]
    other = ensemble.diversity({"b": second, "a": first}, labels).iloc[0]
    assert np.isnan(one["q"]) or -1 <= one["q"] <= 1
    np.testing.assert_array_equal(one, other)


def test_q_of_a_model_with_itself_is_one():
    logits, labels = drawn([1.0])
    row = ensemble.diversity({"a": logits[0], "b": logits[0]}, labels).iloc[0]
    assert (row["q"], row["disagreement"]) == (1, 0)


def test_gains_are_the_paired_differences():
    logits, labels = drawn([1.0, 3.0])
    table = ensemble.gains({"strong": logits[1], "weak": logits[0]}, labels, "weak")
    assert table.index.tolist() == ["weak", "strong"]
    expected = evaluation.difference(logits[1], logits[0], labels)
    assert table.loc["strong", ["difference", "low", "high"]].tolist() == list(expected)
    assert table["verdict"].tolist() == ["reference", "better"]
    assert table.loc["weak", "accuracy"] == evaluation.accuracy(logits[0], labels).value


def networks():
    keras.utils.set_random_seed(0)
    return [small_model(), small_network(), models.build("fast_cnn", coloured(100).images)]


COMBINATIONS = {
    "unequal": lambda *_: ensemble.Average((0.7, 0.0, 0.3), (0.5, 1.0, 3.0)),
    "unequal logits": lambda *_: ensemble.Average((0.7, 0.0, 0.3), (0.5, 1.0, 3.0), "logits"),
    "fitted": ensemble.fit_weights,
    "stack": ensemble.fit_stack,
}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_saved_ensemble_is_the_combination_of_its_members(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        parts = networks()
        images = coloured(50, 1)
        logits = [batches.predict(part, images.images, 50) for part in parts]
        for name, fit in COMBINATIONS.items():
            combination = fit(logits, images.labels)
            model = ensemble.assemble(parts, combination)
            assert (model.input.dtype, model.output.dtype) == ("uint8", "float32")
            assert (model.input.shape, model.output.shape) == ((None, 32, 32, 3), (None, 10))
            path = tmp_path / f"{name}.keras"
            models.save(model, path)
            found = predict.Predictor(path).logits(images.images)
            # Convolutions may round otherwise in batches of another size.
            close = 1e-4 if policy == "float32" else 0.05
            np.testing.assert_allclose(found, combination(logits), atol=close, err_msg=name)
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_saved_ensemble_loads_without_this_library(tmp_path):
    parts = networks()
    path = tmp_path / "model.keras"
    logits = [batches.predict(part, coloured(50).images, 50) for part in parts]
    stack = ensemble.fit_stack(logits, coloured(50).labels)
    models.save(ensemble.with_views(ensemble.assemble(parts, stack), "crops"), path)
    code = (
        "import sys, keras, numpy; sys.modules['cifar_utils'] = None; "
        f"model = keras.models.load_model({str(path)!r}); "
        "print(model.predict(numpy.zeros((2, 32, 32, 3), 'uint8'), verbose=0).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("(2, 10)"), done.stderr[-2000:]


def test_members_that_do_not_count_are_not_asked():
    parts = networks()
    model = ensemble.assemble(parts, ensemble.Average((0.5, 0.5, 0.0), (1.0,) * 3))
    assert model.count_params() == sum(part.count_params() for part in parts[:2])


@pytest.mark.parametrize("views", evaluation.VIEWS)
def test_a_model_of_views_is_test_time_augmentation(views):
    model = networks()[1]
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    expected = evaluation.predict_logits(model, images, views=views)
    found = batches.predict(ensemble.with_views(model, views), images, 6)
    np.testing.assert_allclose(found, expected, atol=1e-5)


GOOD, LABELS = drawn([1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ensemble.uniform(0), ParameterError, "no members"),
        (lambda: ensemble.uniform(2, "votes"), ParameterError, "unknown|an average is of 'votes'"),
        (lambda: ensemble.Average((), ()), ParameterError, "one a member"),
        (lambda: ensemble.Average((0.5, 0.6), (1, 1)), ParameterError, "summing to 1"),
        (lambda: ensemble.Average((1.5, -0.5), (1, 1)), ParameterError, "none below 0"),
        (lambda: ensemble.Average((float("nan"),), (1,)), ParameterError, "one a member"),
        (lambda: ensemble.Average((1.0,), (0.0,)), ParameterError, "above 0"),
        (lambda: ensemble.Average((0.5, 0.5), (1.0,)), ParameterError, "expected 2 above 0"),
        (lambda: ensemble.uniform(3)(GOOD), ParameterError, "2 members, .* for 3"),
        (lambda: ensemble.uniform(1)([]), ParameterError, "no members"),
        (lambda: ensemble.uniform(2)([GOOD[0], GOOD[1][:, :3]]), DataError, "same classes"),
        (lambda: ensemble.uniform(2)([GOOD[0], GOOD[1][:9]]), DataError, "same images"),
        (lambda: ensemble.uniform(1)([GOOD[0] * np.nan]), DataError, "not all finite"),
        (lambda: ensemble.fit_weights(GOOD, LABELS[:-1]), DataError, "one whole number for each"),
        (lambda: ensemble.fit_weights(GOOD, LABELS * 1.0), DataError, "whole number"),
        (lambda: ensemble.fit_weights(GOOD, LABELS, prior=-1), ParameterError, "prior is -1"),
        (lambda: ensemble.greedy(GOOD, LABELS, rounds=0), ParameterError, "rounds is 0"),
        (lambda: ensemble.fit_stack(GOOD, LABELS * 0), DataError, "classes 1, 2, 3"),
        (lambda: ensemble.fit_stack(GOOD, LABELS, strength=0), ParameterError, "strength is 0"),
        (
            lambda: ensemble.fit_stack(GOOD, LABELS)([GOOD[0][:, :3]] * 2),
            DataError,
            "3 classes; expected 4",
        ),
        (
            lambda: ensemble.out_of_fold(ensemble.greedy, GOOD, LABELS, folds=51),
            ParameterError,
            "the rarest class has 50 images; expected 2 to 50",
        ),
        (lambda: ensemble.diversity({"a": GOOD[0]}, LABELS), ParameterError, "only one"),
        (lambda: ensemble.gains({"a": GOOD[0]}, LABELS, "b"), ParameterError, "unknown reference"),
        (lambda: ensemble.assemble([], ensemble.uniform(1)), ParameterError, "no members"),
        (
            lambda: ensemble.assemble([small_model()] * 2, ensemble.uniform(2)),
            ParameterError,
            "a member is there twice.* twice the weight",
        ),
        (
            lambda: ensemble.assemble([small_model()], ensemble.uniform(2)),
            ParameterError,
            "1 members, .* for 2",
        ),
        (
            lambda: ensemble.assemble([small_model(), small_model(16)], ensemble.uniform(2)),
            ParameterError,
            "member 1, .* takes uint8 .*16, 16, 3",
        ),
        (lambda: ensemble.with_views(small_model(), "mirrr"), ParameterError, "did you mean"),
        (lambda: ensemble.check_method("stackin"), ParameterError, "did you mean 'stacking'"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_members_of_other_classes_or_inputs_are_refused():
    images = keras.Input((32, 32, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    three = keras.Model(images, keras.layers.Dense(3)(flat), name="three")
    with pytest.raises(ParameterError, match=r"'three', gives \(None, 3\).* same classes"):
        ensemble.assemble([small_model(), three], ensemble.uniform(2))
    floats = keras.Input((32, 32, 3))
    other = keras.Model(floats, models.logits(keras.layers.Flatten()(floats)))
    with pytest.raises(ParameterError, match="takes float32"):
        ensemble.assemble([other], ensemble.uniform(1))
