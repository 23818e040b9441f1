"""Soft targets by hand, and a student that learns from them alone."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from cifar_utils import batches, distillation, evaluation, recipes, training
from cifar_utils.data import Split
from cifar_utils.errors import DataError, ParameterError
from tests.unit.trainable import coloured, small_model

TRAIN = coloured(100)


def test_soft_targets_by_hand():
    logits = np.log([[0.64, 0.36], [0.5, 0.5]])
    found = distillation.soft_targets(logits, np.array([0, 1]), temperature=2.0, hard=0.5)
    soft = np.array([[0.8, 0.6], [1, 1]]) / [[1.4], [2]]
    np.testing.assert_allclose(found, 0.5 * soft + 0.5 * np.eye(2), rtol=1e-6)
    assert found.dtype == np.float32


@given(
    st.integers(0, 1000), st.floats(0.1, 20), st.floats(0, 1), st.sampled_from([0.1, 5.0, 300.0])
)
@settings(deadline=None)
def test_soft_targets_are_probabilities(seed, temperature, hard, scale):
    logits = np.random.default_rng(seed).normal(0, scale, (20, 10))
    labels = np.arange(20) % 10
    found = distillation.soft_targets(logits, labels, temperature=temperature, hard=hard)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_only_hard_targets_are_the_labels():
    found = distillation.soft_targets(np.zeros((100, 10)), TRAIN.labels, hard=1)
    np.testing.assert_array_equal(found, np.eye(10)[TRAIN.labels])


def test_a_student_learns_from_its_teacher_alone():
    """The teacher calls each class by the next one's name, and so does its student."""
    keras.utils.set_random_seed(0)
    wrong = (TRAIN.labels + 1) % 10
    student = small_model()
    recipe = recipes.Recipe(epochs=20, batch_size=10, learning_rate=0.05, label_smoothing=0.2)
    teacher = 9 * np.eye(10)[wrong]
    fitted = distillation.distil(
        student, TRAIN, teacher, coloured(50, 1), recipe, seed=0, temperature=1.0, hard=0.0
    )
    logits = evaluation.predict_logits(student, TRAIN.images)
    assert evaluation.accuracy(logits, wrong).value > 0.6
    assert fitted.history["val_accuracy"].iloc[-1] < 0.2


def test_training_on_hard_targets_is_training_on_labels():
    recipe = recipes.Recipe(2, 20, augmentation="alternating", learning_rate=0.01)
    found = []
    for labels in (TRAIN.labels, np.eye(10, dtype=np.float32)[TRAIN.labels]):
        keras.utils.set_random_seed(0)
        model = small_model()
        training.fit(model, Split(TRAIN.images, labels), None, recipe, seed=0)
        found.append(model.get_weights())
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_soft_labels_follow_their_images_through_shuffling_and_augmentation():
    soft = distillation.soft_targets(4 * np.eye(10)[TRAIN.labels], TRAIN.labels)
    policy = batches.augment.get("flip+mixup")
    for chosen in (batches.augment.get("flip"), policy):
        inputs, targets = batches.Batches(TRAIN.images, soft, 40, policy=chosen, seed=1)[0]
        assert (inputs.dtype, targets.dtype) == (np.uint8, np.float32)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
        if chosen is not policy:
            np.testing.assert_array_equal(targets.argmax(axis=1), inputs.mean(axis=(1, 2, 3)) // 25)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(9, dtype=np.float32)[TRAIN.labels % 9], r"soft labels, floats \(100, 10\)"),
        (np.eye(10, dtype=np.float32)[:50], r"soft labels, floats"),
        (2 * np.eye(10, dtype=np.float32)[TRAIN.labels], "no probabilities"),
        (np.full((100, 10), np.nan), "no probabilities"),
        (np.eye(10, dtype=np.int64)[TRAIN.labels], "expected whole numbers"),
        (TRAIN.labels.astype(np.float32), "expected whole numbers"),
    ],
)
def test_labels_that_are_no_targets_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        training.fit(small_model(), Split(TRAIN.images, labels), None, recipes.Recipe(1), seed=0)


def test_the_sparse_loss_refuses_soft_labels():
    split = Split(TRAIN.images, np.eye(10, dtype=np.float32)[TRAIN.labels])
    with pytest.raises(ParameterError, match="knows no soft labels"):
        training.fit(small_model(), split, None, recipes.Recipe(1, loss="sparse"), seed=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ParameterError, "temperature is 0"),
        ({"hard": 1.5}, ParameterError, "hard is 1.5; expected 0 to 1"),
        ({"labels": TRAIN.labels[:9]}, DataError, "expected \\(N, K\\)"),
        ({"logits": np.full((100, 10), np.inf)}, DataError, "not all finite"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, message):
    given = {"logits": special.log_softmax(np.eye(10)[TRAIN.labels], axis=1), **options}
    labels = given.pop("labels", TRAIN.labels)
    with pytest.raises(error, match=message):
        distillation.soft_targets(given.pop("logits"), labels, **given)
