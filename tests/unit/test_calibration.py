"""Calibration, held against closed forms and simulations whose truth is known."""

import numpy as np
import pytest
from scipy import special

from cifar_utils import calibration, evaluation
from cifar_utils.errors import CifarUtilsError, ParameterError


def drawn(count, *, temperature=1.0, classes=10, seed=0):
    """Logits, and labels drawn from the probabilities that these divided by a temperature give."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, classes))
    shares = special.softmax(logits / temperature, axis=1)
    labels = (shares.cumsum(axis=1) > generator.random((count, 1))).argmax(axis=1)
    return logits.astype(np.float32), labels


def two_classes(confidences, right):
    """Logits of two classes with these confidences for the first one, and labels."""
    logits = np.stack([special.logit(confidences), np.zeros(len(confidences))], axis=1)
    return logits, np.where(right, 0, 1)


def test_calibration_error_by_hand():
    logits, labels = two_classes([0.95, 0.95, 0.65, 0.65], [True, False, True, True])
    found = calibration.calibration_error(logits, labels, bins=10)
    assert found.value == pytest.approx((2 * 0.45 + 2 * 0.35) / 4)
    table = calibration.reliability(logits, labels, bins=10)
    assert table[["from", "to"]].round(6).to_numpy().tolist() == [[0.6, 0.7], [0.9, 1.0]]
    assert table["images"].tolist() == [2, 2]
    assert table["confidence"].tolist() == pytest.approx([0.65, 0.95])
    assert table["accuracy"].tolist() == [1.0, 0.5]
    assert table.loc[1, "low"] == evaluation.wilson(1, 2).low


def test_bins_of_equal_mass_have_as_many_images():
    logits, labels = drawn(1000)
    assert set(calibration.reliability(logits, labels, bins=10, kind="mass")["images"]) == {100}
    certain = np.eye(10, dtype=np.float32)[labels] * 100
    table = calibration.reliability(certain, labels, bins=10, kind="mass")
    assert table["images"].tolist() == [1000], "confidences that are all the same share a bin"
    assert calibration.calibration_error(certain, labels, kind="mass").value == pytest.approx(0)


@pytest.mark.parametrize("kind", ["width", "mass"])
def test_calibrated_models_stay_below_what_chance_gives(kind):
    below = 0
    for seed in range(100):
        logits, labels = drawn(500, seed=seed)
        error = calibration.calibration_error(logits, labels, kind=kind, resamples=1).value
        below += error <= calibration.error_by_chance(logits, kind=kind, draws=200)
    assert 88 <= below <= 100
    logits, labels = drawn(2000, temperature=2.0)
    error = calibration.calibration_error(logits, labels, kind=kind, resamples=1).value
    assert error > calibration.error_by_chance(logits, kind=kind)


@pytest.mark.parametrize("kind", ["width", "mass"])
def test_interval_covers_the_error_that_is_there(kind):
    """A network that is too sure by a factor: its true error from very many images."""
    truth = calibration.calibration_error(
        *drawn(400_000, temperature=2.0, seed=99), kind=kind, resamples=1
    ).value
    assert truth > 0.1
    covered = 0
    for seed in range(60):
        found = calibration.calibration_error(
            *drawn(2000, temperature=2.0, seed=seed), kind=kind, resamples=200
        )
        covered += found.low <= truth <= found.high
    # Of 60 at 95%, fewer than 51 have a chance below one in a thousand.
    assert covered >= 51


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_the_one_that_the_labels_were_drawn_with(temperature):
    logits, labels = drawn(20_000, temperature=temperature)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    best = evaluation.log_loss(logits / found, labels)
    for other in (0.98 * found, 1.02 * found):
        assert evaluation.log_loss(logits / other, labels) > best
    assert calibration.calibration_error(logits / found, labels).value < 0.02


def test_selective_accuracy_by_hand():
    logits, labels = two_classes([0.9, 0.8, 0.8, 0.6], [True, True, False, False])
    curve = calibration.selective(logits, labels)
    assert curve["coverage"].tolist() == [0.25, 0.75, 1.0], "equal confidences go together"
    assert curve["accuracy"].tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert curve["threshold"].tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert calibration.coverage_at(curve, 0.6) == 0.75
    assert calibration.coverage_at(curve, 1.0) == 0.25
    assert calibration.coverage_at(curve.iloc[1:], 0.9) == 0


def test_settings_and_outputs_that_make_no_sense_are_refused():
    logits, labels = drawn(10)
    with pytest.raises(ParameterError, match="did you mean 'width'"):
        calibration.reliability(logits, labels, kind="widht")
    with pytest.raises(ParameterError, match="bins is 0"):
        calibration.calibration_error(logits, labels, bins=0)
    with pytest.raises(CifarUtilsError, match="not all finite"):
        calibration.fit_temperature(np.full((3, 10), np.nan), np.zeros(3, int))
    with pytest.raises(CifarUtilsError, match=r"expected \(N, K\) and \(N,\)"):
        calibration.selective(logits, labels[:3])


def test_summary_shows_what_a_temperature_mends():
    logits, labels = drawn(4000, temperature=2.0)
    found = calibration.summary({"sure": logits}, labels, {"sure": 2.0}).loc["sure"]
    before, after = (float(found[name].split("%")[0]) for name in ("before", "after"))
    assert before > 10 > 4 > after
    assert found["temperature"] == 2.0
    assert 0 < float(found["by chance"].rstrip("%")) < 4
    assert 0 <= found["answered_at_95"] <= 1
