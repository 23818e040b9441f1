"""Search spaces: which settings of a training may take which values (notebook 07).

A space is data. It can be written as a TOML file with a table for each dimension:

    [learning_rate_factor]
    low = 0.1
    high = 10.0
    log = true

    [augmentation]
    choices = ["none", "flip", "standard"]
"""

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_utils import models
from cifar_utils.errors import ParameterError, nearest
from cifar_utils.recipes import USUAL_RATES, Plan, Recipe

Value = str | int | float | bool

_NOT_TUNED = ("epochs", "patience", "precision", "sizes", "rates", "learning_rate")
"""Fields of a recipe that no dimension may have: the budget, pairs, and the rate, for which there
is a factor."""


@dataclass(frozen=True)
class Dimension:
    """The values that one setting may take: some choices, or all numbers of a range.

    Attributes:
        choices: All of them; empty for a range.
        low: Lower end of the range.
        high: Upper end of the range. Both ends whole numbers make it one of whole numbers.
        log: Whether the range is searched by ratios, not by differences.
        steps: Values of the range that a grid has, its ends among them.
    """

    choices: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    steps: int = 3

    def __post_init__(self) -> None:
        """Refuse what is neither choices nor a range."""
        ends = (self.low, self.high)
        if self.choices:
            if ends != (None, None) or len(set(self.choices)) < len(self.choices):
                raise ParameterError(f"{self}: expected different choices, or low and high")
            if not all(isinstance(choice, str | int | float) for choice in self.choices):
                raise ParameterError(f"{self}: expected choices that are text, numbers or booleans")
            return
        for end in ends:
            if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
                raise ParameterError(f"{self}: expected choices, or two numbers low and high")
        low, high = self.ends
        if not low < high or (self.log and low <= 0) or self.steps < 2:
            raise ParameterError(
                f"{self}: expected low below high, above 0 where log is true, and 2 steps or more"
            )

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the range."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def whole(self) -> bool:
        """Whether the range is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def grid(self) -> list[Value]:
        """Return the choices, or ``steps`` values of the range at equal distances or ratios."""
        if self.choices:
            return list(self.choices)
        low, high = self.ends
        shares = [step / (self.steps - 1) for step in range(self.steps)]
        if self.log:
            values = [low * (high / low) ** share for share in shares]
        else:
            values = [low + (high - low) * share for share in shares]
        if self.whole:
            return sorted({round(value) for value in values})
        return [low, *values[1:-1], high]

    def sample(self, trial: Any, name: str) -> Value:
        """Return what an Optuna trial suggests for this dimension.

        Args:
            trial: ``optuna.Trial``.
            name: What the value is for.
        """
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.log)


Space = Mapping[str, Dimension]
"""Dimensions by what they set: a field of ``recipes.Recipe``, an option of the network, or
``learning_rate_factor``, the learning rate divided by ``recipes.USUAL_RATES`` of the optimizer."""

_TRAINING = {
    "learning_rate_factor": Dimension(low=0.1, high=10.0, log=True),
    "weight_decay": Dimension(low=0.001, high=0.3, log=True),
    "batch_size": Dimension(choices=(8, 16, 32, 64)),
    "optimizer": Dimension(choices=("adamw", "sgd", "rmsprop")),
    "schedule": Dimension(choices=("constant", "cosine", "one_cycle")),
    "augmentation": Dimension(choices=("none", "flip", "standard", "strong")),
}

SPACES: dict[str, Space] = {
    "training": _TRAINING,
    "default": {
        **_TRAINING,
        "dropout": Dimension(low=0.0, high=0.7),
        "l2": Dimension(low=1e-6, high=1e-3, log=True),
        "width": Dimension(choices=(16, 32, 48)),
        "activation": Dimension(choices=("relu", "silu", "tanh")),
    },
}
"""Spaces by name: ``training`` suits every network, ``default`` those with all its options."""


def get(name: str) -> Space:
    """Return a space by its name in ``SPACES``, or from a TOML file.

    Raises:
        ParameterError: There is no such name or file, or the file is not a space.
    """
    if name in SPACES:
        return SPACES[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ParameterError(
            f"{name!r} is neither a file nor a search space{nearest(name, list(SPACES))}"
        )
    known = [field.name for field in dataclasses.fields(Dimension)]
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not a TOML file: {error}") from error
    if not tables:
        raise ParameterError(f"{path} is empty; expected a table for each dimension")
    space = {}
    for dimension, table in tables.items():
        if not isinstance(table, dict):
            raise ParameterError(f"{path}: {dimension} is {table!r}; expected a table")
        for key in table:
            if key not in known:
                raise ParameterError(f"{path}, {dimension}: unknown {key!r}{nearest(key, known)}")
        fields = dict(table)
        if isinstance(fields.get("choices"), list):
            fields["choices"] = tuple(fields["choices"])
        try:
            space[dimension] = Dimension(**fields)
        except (ParameterError, TypeError) as error:
            raise ParameterError(f"{path}, {dimension}: {error}") from error
    return space


def record(space: Space) -> dict[str, Any]:
    """Return a space as plain JSON values."""
    return {
        name: dataclasses.asdict(dimension) | {"choices": list(dimension.choices)}
        for name, dimension in space.items()
    }


def planned(model: str, base: Recipe, values: Mapping[str, Value]) -> Plan:
    """Return the network and recipe that values of a space stand for.

    Args:
        model: A key of ``models.MODELS``.
        base: Gives what is not among the values.
        values: By the dimensions' names.

    Raises:
        ParameterError: A name is neither the recipe's nor the network's, or the values do not go
            with each other.
    """
    rest, options = dict(values), models.options(model)
    factor = rest.pop("learning_rate_factor", None)
    fields = [field.name for field in dataclasses.fields(Recipe) if field.name not in _NOT_TUNED]
    for name in rest:
        if name not in fields and name not in options:
            known = ["learning_rate_factor", *fields, *options]
            raise ParameterError(f"{model} has no {name!r} to tune{nearest(name, known)}")
    changed: dict[str, Any] = {name: rest[name] for name in fields if name in rest}
    if factor is not None:
        usual = USUAL_RATES[changed.get("optimizer", base.optimizer)]
        changed["learning_rate"] = usual * float(factor)
    recipe = dataclasses.replace(base, **changed)
    return Plan(model, recipe, {name: rest[name] for name in options if name in rest})


def check(space: Space, model: str, base: Recipe) -> None:
    """Refuse a space with a dimension, a value or two choices that cannot be trained with.

    Raises:
        ParameterError: What was wrong with which values.
    """
    first = {name: dimension.grid()[0] for name, dimension in space.items()}
    for one, other in itertools.combinations_with_replacement(space, 2):
        for pair in itertools.product(space[one].grid(), space[other].grid()):
            planned(model, base, first | dict(zip((one, other), pair, strict=True)))
