import keras
import numpy as np
import pytest
from scipy import special

from cifar_utils import patches, synthetic
from cifar_utils.errors import ParameterError


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return synthetic.generate(900, seed=11)


@pytest.fixture(scope="module")
def model(drawn: tuple[np.ndarray, np.ndarray]) -> keras.Model:
    return patches.network(drawn[0], filters=32, seed=0)


@pytest.fixture(scope="module")
def inputs(model: keras.Model, drawn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return patches.features(model, drawn[0])


def test_features_have_the_promised_shape_and_type(inputs: np.ndarray) -> None:
    assert inputs.shape == (900, 18 * 32)
    assert inputs.dtype == np.float16
    assert np.isfinite(inputs).all()
    assert (inputs >= 0).all()
    assert inputs.std(axis=0).min() > 0


def test_features_ignore_mirroring_and_little_else(
    model: keras.Model, drawn: tuple[np.ndarray, np.ndarray], inputs: np.ndarray
) -> None:
    mirrored = patches.features(model, drawn[0][:20, :, ::-1])
    np.testing.assert_allclose(mirrored, inputs[:20], atol=2e-3)
    upside_down = patches.features(model, drawn[0][:20, ::-1])
    assert np.abs(upside_down - inputs[:20]).max() > 0.05


def test_features_ignore_contrast(model: keras.Model) -> None:
    flat = np.full((2, 32, 32, 3), 90, np.uint8)
    assert np.abs(patches.features(model, flat)).max() < 0.05


def test_seed_decides_the_patches(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    kernels = [
        patches.network(drawn[0], filters=8, seed=seed).get_layer("patches").get_weights()[0]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01
    np.testing.assert_allclose(kernels[0].sum(axis=(0, 1, 2)), 0, atol=1e-4)


def test_classifier_learns_and_generalises(
    model: keras.Model, drawn: tuple[np.ndarray, np.ndarray], inputs: np.ndarray
) -> None:
    classifier = patches.fit(inputs[:600], drawn[1][:600])
    unseen = classifier.logits(inputs[600:])
    assert unseen.shape == (300, 10)
    assert (unseen.argmax(axis=1) == drawn[1][600:]).mean() > 0.5
    assert classifier.penalty in patches.PENALTIES


def test_held_out_logits_do_not_know_their_own_label(inputs: np.ndarray) -> None:
    labels = np.random.default_rng(0).integers(0, 10, len(inputs))
    classifier = patches.fit(inputs, labels)
    assert (classifier.logits(inputs).argmax(axis=1) == labels).mean() > 0.3
    assert (classifier.held_out.argmax(axis=1) == labels).mean() < 0.17


def test_held_out_probabilities_are_calibrated(
    drawn: tuple[np.ndarray, np.ndarray], inputs: np.ndarray
) -> None:
    classifier = patches.fit(inputs, drawn[1])
    confidence = special.softmax(classifier.held_out, axis=1).max(axis=1)
    right = classifier.held_out.argmax(axis=1) == drawn[1]
    assert abs(confidence.mean() - right.mean()) < 0.1


def test_closed_solution_equals_scikit_learns(
    drawn: tuple[np.ndarray, np.ndarray], inputs: np.ndarray
) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    classifier = patches.fit(inputs, drawn[1])
    standardised = StandardScaler().fit_transform(inputs.astype(np.float64))
    targets = np.eye(10)[drawn[1]] - 0.1
    alpha = classifier.penalty * 10 * len(inputs)
    expected = Ridge(alpha=alpha, fit_intercept=False).fit(standardised, targets)
    logits = classifier.scale * expected.predict(standardised)
    np.testing.assert_allclose(classifier.logits(inputs), logits, atol=0.02 * classifier.scale)


def test_quick_logits_predict_other_images(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = drawn
    logits = patches.quick_logits(images[:600], labels[:600], images[600:], filters=32)
    assert logits.shape == (300, 10)
    assert (logits.argmax(axis=1) == labels[600:]).mean() > 0.5


@pytest.mark.parametrize(("labels", "folds"), [(899, 5), (900, 1), (900, 901)])
def test_what_does_not_fit_is_refused(inputs: np.ndarray, labels: int, folds: int) -> None:
    with pytest.raises(ParameterError, match="expected one label an image"):
        patches.fit(inputs, np.zeros(labels, np.int64), folds=folds)
