"""Search spaces: what they hold, what a file may say, what they make of values."""

import optuna
import pytest

from cifar_utils import models, recipes, spaces
from cifar_utils.errors import ParameterError
from cifar_utils.recipes import Recipe
from cifar_utils.spaces import Dimension

BASE = Recipe(epochs=2, optimizer="adamw")


@pytest.mark.parametrize("name", spaces.SPACES)
def test_every_space_suits_the_baseline(name):
    spaces.check(spaces.SPACES[name], "baseline_cnn", BASE)


@pytest.mark.parametrize("model", models.MODELS)
def test_the_training_space_suits_every_network(model):
    spaces.check(spaces.SPACES["training"], model, BASE)


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (Dimension(choices=("a", "b")), ["a", "b"]),
        (Dimension(low=0.0, high=1.0), [0.0, 0.5, 1.0]),
        (Dimension(low=0.01, high=1.0, log=True), [0.01, pytest.approx(0.1), 1.0]),
        (Dimension(low=1, high=10, steps=4), [1, 4, 7, 10]),
        (Dimension(low=1, high=2, steps=9), [1, 2]),
    ],
)
def test_grids(dimension, expected):
    assert dimension.grid() == expected


def test_samples_stay_inside_and_have_their_type():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        assert Dimension(choices=("a", "b")).sample(trial, "letter") in ("a", "b")
        count = Dimension(low=1, high=3).sample(trial, "count")
        assert type(count) is int
        assert 1 <= count <= 3
        assert 0.1 <= Dimension(low=0.1, high=0.2, log=True).sample(trial, "share") <= 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected choices, or two numbers"),
        ({"low": 1.0}, "expected choices, or two numbers"),
        ({"low": 2.0, "high": 1.0}, "expected low below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above 0 where log"),
        ({"low": 0.0, "high": 1.0, "steps": 1}, "2 steps or more"),
        ({"low": True, "high": 2}, "expected choices, or two numbers"),
        ({"low": 0.0, "high": float("inf")}, "expected choices, or two numbers"),
        ({"choices": ("a", "a")}, "expected different choices"),
        ({"choices": ("a",), "low": 1.0}, "expected different choices, or low"),
        ({"choices": (("a",),)}, "text, numbers or booleans"),
    ],
)
def test_what_is_no_dimension_is_refused(fields, message):
    with pytest.raises(ParameterError, match=message):
        Dimension(**fields)


def test_a_space_is_read_from_a_file(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(
        "[learning_rate_factor]\nlow = 0.1\nhigh = 10.0\nlog = true\n"
        '[augmentation]\nchoices = ["none", "flip"]\n'
    )
    assert spaces.get(str(path)) == {
        "learning_rate_factor": Dimension(low=0.1, high=10.0, log=True),
        "augmentation": Dimension(choices=("none", "flip")),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[a\n", "is not a TOML file"),
        ("a = 1\n", "a is 1; expected a table"),
        ("[a]\nmin = 1\n", r"a: unknown 'min' \(known: choices"),
        ("[a]\nlow = 1\n", "a: .*expected choices, or two numbers"),
        ('[a]\nlow = "x"\nhigh = 2\n', "a: .*expected choices, or two numbers"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"space\.toml.*" + message):
        spaces.get(str(path))


def test_unknown_names_are_refused():
    with pytest.raises(ParameterError, match="neither a file nor a search space; did you mean"):
        spaces.get("defualt")


def test_values_become_a_network_and_a_recipe():
    values = {"optimizer": "sgd", "learning_rate_factor": 2.0, "width": 16, "batch_size": 8}
    plan = spaces.planned("baseline_cnn", BASE, values)
    assert plan.model == "baseline_cnn"
    assert plan.options == {"width": 16}
    assert plan.recipe == Recipe(
        epochs=2, optimizer="sgd", batch_size=8, learning_rate=2 * recipes.USUAL_RATES["sgd"]
    )


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"widht": Dimension(low=1, high=2)}, "baseline_cnn has no 'widht' to tune; did you mean"),
        ({"epochs": Dimension(low=1, high=2)}, "has no 'epochs' to tune"),
        ({"augmentation": Dimension(choices=("none", "flipp"))}, "unknown augmentation 'flipp'"),
        ({"label_smoothing": Dimension(low=0.0, high=2.0)}, "label_smoothing is 1.0"),
        (
            {
                "weight_decay": Dimension(low=0.1, high=0.2),
                "schedule": Dimension(choices=("constant", "cosine")),
                "optimizer": Dimension(choices=("adamw", "muon")),
            },
            "muon has none",
        ),
    ],
)
def test_spaces_that_cannot_be_trained_with_are_refused(space, message):
    with pytest.raises(ParameterError, match=message):
        spaces.check(space, "baseline_cnn", BASE)
