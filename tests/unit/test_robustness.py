import keras
import numpy as np
import pandas as pd
import pytest

from cifar_utils import models, robustness, training
from cifar_utils.data import Split
from cifar_utils.errors import ParameterError
from cifar_utils.recipes import Recipe
from tests.unit.trainable import coloured, small_model

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained():
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    model = small_model()
    training.fit(model, coloured(300), None, Recipe(30, 20, learning_rate=0.03), seed=0)
    return model


def red_network():
    """Class 1 if the mean of red is above 100, else class 0."""
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1.0)(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, models.logits(x))
    kernel = np.zeros((3, 10), np.float32)
    kernel[0, 1] = 1
    bias = np.full(10, -1000, np.float32)
    bias[:2] = 0, -100
    model.get_layer("logits").set_weights([kernel, bias])
    return model


def test_attacks_go_where_they_should_and_no_further():
    model = red_network()
    split = Split(np.full((4, 32, 32, 3), 103, np.uint8), np.ones(4, np.int64))
    moved = robustness.attack(model, split, 2)
    np.testing.assert_array_equal(moved[..., 0], 101)
    np.testing.assert_array_equal(moved[..., 1:], 103)
    assert (model.predict(moved, verbose=0).argmax(axis=1) == 1).all(), "101 is still above 100"
    for steps in (1, 8):
        moved = robustness.attack(model, split, 4, steps=steps, batch_size=3)
        assert np.abs(moved.astype(int) - split.images).max() == 4
        assert (model.predict(moved, verbose=0).argmax(axis=1) == 0).all()


def test_values_stay_in_range_and_the_seed_decides():
    model = red_network()
    split = Split(IMAGES, np.ones(12, np.int64))
    moved = robustness.attack(model, split, 3.5, steps=3, seed=1)
    assert np.abs(moved.astype(int) - IMAGES).max() <= 3
    np.testing.assert_array_equal(moved, robustness.attack(model, split, 3.5, steps=3, seed=1))
    assert (moved != robustness.attack(model, split, 3.5, steps=3, seed=2)).any()


def test_more_steps_hurt_a_trained_network_more(trained):
    split = coloured(200, seed=1)
    right = [
        (trained.predict(images, verbose=0).argmax(axis=1) == split.labels).mean()
        for images in (
            split.images,
            robustness.attack(trained, split, 14),
            robustness.attack(trained, split, 14, steps=10),
        )
    ]
    assert right[0] > 0.8
    assert right[1] < right[0] - 0.2
    assert right[2] <= right[1]


def test_corrupted_images_are_judged_by_family(trained):
    split = coloured(100, seed=1)
    table = robustness.corrupted(
        {"one": trained, "two": small_model()},
        split,
        names=["brightness", "jpeg"],
        severities=[1, 5],
    )
    assert len(table) == 8
    assert set(table["family"]) == {"weather", "digital"}
    one = table[table["model"] == "one"].set_index(["corruption", "severity"])["accuracy"]
    assert one["brightness", 5] < 0.5 < 0.8 < one["jpeg", 1]
    assert (table["low"] <= table["accuracy"]).all()
    assert set(table["n"]) == {100}


def test_an_answer_by_colour_alone_does_not_change_with_place(trained):
    shown = coloured(50).images
    table = robustness.consistency(trained, shown, trained.predict(shown, verbose=0))
    assert table["change"].tolist() == list(robustness.CHANGES)
    assert table.set_index("change").loc["mirrored", "same"] == 1


def test_changes_are_what_they_are_called():
    moved = {name: change(IMAGES) for name, change in robustness.CHANGES.items()}
    np.testing.assert_array_equal(moved["mirrored"][:, :, 0], IMAGES[:, :, 31])
    np.testing.assert_array_equal(moved["one pixel right"][:, :, 1:], IMAGES[:, :, :-1])
    np.testing.assert_array_equal(moved["two pixels down"][:, 2:], IMAGES[:, :-2])
    assert moved["a seventh larger"].shape == IMAGES.shape
    middle = np.zeros((1, 32, 32, 3), np.uint8)
    middle[:, 8:24, 8:24] = 200
    assert (robustness.CHANGES["a seventh larger"](middle) > 100).mean() == pytest.approx(
        (18 / 32) ** 2, rel=0.15
    )


def test_attacks_of_no_strength_are_refused(trained):
    with pytest.raises(ParameterError, match="epsilon 0 and steps 1"):
        robustness.attack(trained, coloured(4), 0)


def behaviour_of(recalls, same=1.0, severe=0.5):
    """Behaviour of a model with these recalls, this consistency and accuracy when it gets bad."""
    labels = np.repeat(np.arange(10), 20)
    right = np.tile(np.arange(20), 10) < 20 * np.repeat(recalls, 20)
    logits = np.eye(10)[np.where(right, labels, (labels + 1) % 10)]
    consistent = pd.DataFrame({"change": list(robustness.CHANGES), "same": same})
    spoiled = pd.DataFrame(
        {"corruption": "snow", "severity": [1, 5], "accuracy": [0.7, severe], "n": 800}
    )
    return robustness.behaviour(logits, labels, consistent, spoiled)


def test_behaviour_is_held_to_its_limits():
    good = behaviour_of([0.9] * 10)
    assert good["passed"].all()
    assert len(good) == len(robustness.CHANGES) + 2
    assert set(robustness.LIMITS) == set(robustness.CHANGES)
    for bad, name in (
        (behaviour_of([0.9] * 9 + [0.4]), "lowest recall of a class"),
        (behaviour_of([0.9] * 10, severe=0.76), "accuracy lost to any corruption"),
    ):
        assert bad.loc[~bad["passed"], "test"].tolist() == [name]
    assert behaviour_of([0.9] * 10, severe=0.74)["passed"].all(), "within noise for 800 images"
    assert (~behaviour_of([0.9] * 10, same=0.5)["passed"]).sum() == len(robustness.CHANGES)


def test_each_model_is_attacked_by_its_own_gradients(trained):
    split = coloured(30, seed=4)
    found = robustness.attacked({"one": trained, "red": red_network()}, split, seed=1)
    assert list(found.columns) == list(robustness.ATTACKS)
    for title, (epsilon, steps) in robustness.ATTACKS.items():
        moved = robustness.attack(trained, split, epsilon, steps=steps, seed=1)
        right = trained.predict(moved, verbose=0).argmax(axis=1) == split.labels
        assert found.loc["one", title] == right.mean()
