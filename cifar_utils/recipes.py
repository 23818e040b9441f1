"""How to train: the numbers and names that make a recipe, its file, and what Keras makes of it."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from cifar_utils import augment, models, optimizers, paths
from cifar_utils.data import IMAGE_SHAPE
from cifar_utils.errors import ParameterError, nearest

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd", "muon")
SCHEDULES = ("constant", "cosine", "one_cycle")
LOSSES = ("categorical", "sparse")
AVERAGINGS = ("none", "ema", "lookahead")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")

_CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "averaging": AVERAGINGS,
    "precision": PRECISIONS,
}

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda value: value > 0, "more than 0"),
    "warmup": (lambda value: 0 <= value < 1, "0 to below 1"),
    "final": (lambda value: 0 <= value <= 1, "0 to 1"),
    "momentum": (lambda value: 0 <= value < 1, "0 to below 1"),
    "weight_decay": (lambda value: value >= 0, "0 or more"),
    "label_smoothing": (lambda value: 0 <= value < 1, "0 to below 1"),
    # Attacked images are rounded to whole grey levels, so less than one would change nothing.
    "adversarial": (lambda value: value == 0 or 1 <= value <= 255, "0, or 1 to 255 grey levels"),
}


@dataclass(frozen=True)
class Recipe:
    """How to train (notebook 02 introduces it); refused with ParameterError if it cannot work.

    Attributes:
        epochs: Most passes over the training images.
        batch_size: Images a step.
        optimizer: ``adam`` (arXiv 1412.6980), ``adamw`` (arXiv 1711.05101), ``rmsprop``, ``sgd``
            with Nesterov's momentum, or ``muon`` (``optimizers.Muon``).
        learning_rate: Peak of the schedule.
        schedule: ``constant``; ``cosine``, down to the final rate (arXiv 1608.03983); or
            ``one_cycle``, a straight line down to it (arXiv 1708.07120).
        warmup: Share of the steps in which the rate first climbs from zero in a straight line.
        final: Rate at the end, as a share of the peak; a constant schedule has no use for it.
        momentum: Of ``sgd`` and ``muon``.
        weight_decay: Decoupled weight decay (arXiv 1711.05101): share of a weight taken away in a
            step, times the learning rate.
        loss: ``categorical`` cross-entropy, or ``sparse``: the same from class numbers, which
            leaves no room for soft labels.
        label_smoothing: Share of each target spread over all classes (arXiv 1512.00567).
        augmentation: Name of a policy in ``augment.POLICIES``.
        adversarial: Step of the fast gradient sign method in grey levels of 255; if not 0, a batch
            is learned clean and attacked in the same step (arXiv 1412.6572).
        averaging: ``none``; ``ema``, an exponential moving average of the weights over a twentieth
            of the training; or ``lookahead`` (arXiv 1907.08610) as in arXiv 2404.00498. The model
            has the averaged weights in validation and at the end.
        patience: Epochs without a better validation loss before training ends, and the weights of
            the best epoch come back; None trains to the end and keeps the last.
        precision: Keras dtype policy of the model; ``auto`` leaves it as it was built.
        sizes: Progressive resizing, as in EfficientNetV2 (arXiv 2104.00298) without its changing
            regularisation: pairs of a share of the epochs and the side in pixels until then, such
            as ``((0.5, 24), (0.8, 28))``; after the last share images have 32.
        rates: Discriminative learning rates (arXiv 1801.06146): pairs of the beginning of layers'
            names and a factor on their rate, such as ``(("conv4", 0.1), ("conv5", 0.3))``; the
            first pair that fits counts, and weight decay follows.
    """

    epochs: int
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.05
    final: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    loss: str = "categorical"
    label_smoothing: float = 0.0
    augmentation: str = "none"
    adversarial: float = 0.0
    averaging: str = "none"
    patience: int | None = None
    precision: str = "auto"
    sizes: tuple[tuple[float, int], ...] = ()
    rates: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} is {value!r}; expected 1 or more, a whole number")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                hint = nearest(str(value), list(choices))
                raise ParameterError(f"unknown {name} {value!r}{hint}")
        for name, (fits, expected) in _RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value)
            if not number or not fits(value):
                raise ParameterError(f"{name} is {value!r}; expected {expected}")
        policy = augment.get(self.augmentation)
        if self.optimizer in ("adam", "muon") and self.weight_decay:
            raise ParameterError(
                f"weight_decay is {self.weight_decay:g}, and {self.optimizer} has none; choose "
                "adamw, or set it to 0"
            )
        if self.loss == "sparse" and (self.label_smoothing or augment.mixes(policy)):
            raise ParameterError(
                "the sparse loss knows no soft labels; set label_smoothing to 0 and choose an "
                "augmentation that does not mix images, or the loss categorical"
            )
        self._check_sizes()
        self._check_rates()

    def _check_sizes(self) -> None:
        """Refuse sizes that are not in order or out of range."""
        before = 0.0
        for pair in self.sizes:
            share, side = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, None)
            if (
                not isinstance(share, int | float)
                or not isinstance(side, int)
                or not before < share <= 1
                or not 8 <= side <= IMAGE_SHAPE[0]
            ):
                raise ParameterError(
                    f"sizes is {self.sizes!r}; expected pairs of a share of the epochs, growing up "
                    f"to 1, and a side of 8 to {IMAGE_SHAPE[0]} pixels, such as ((0.5, 24),)"
                )
            before = share

    def _check_rates(self) -> None:
        """Refuse rates that are no pairs of a name and a factor."""
        for pair in self.rates:
            name, value = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, None)
            number = isinstance(value, int | float) and math.isfinite(value)
            if not name or not isinstance(name, str) or not number or value <= 0:
                raise ParameterError(
                    f"rates is {self.rates!r}; expected pairs of the beginning of layers' names "
                    'and a factor above 0, such as (("conv5", 0.1),)'
                )

    def side(self, epoch: int) -> int:
        """Return the side of the training images in an epoch, counted from 0, in pixels."""
        for share, side in self.sizes:
            if epoch < round(share * self.epochs):
                return side
        return IMAGE_SHAPE[0]


@keras.saving.register_keras_serializable("cifar_utils")
class Line(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that climbs from zero to a peak and goes down again, each in a straight line.

    Args:
        peak: Highest rate.
        steps: Steps of the whole training.
        up: Steps of the climb.
        end: Rate after the last step; the peak makes the second line a level one.
    """

    def __init__(self, peak: float, steps: int, up: int, end: float) -> None:
        self.peak, self.steps, self.up, self.end = peak, steps, up, end

    def __call__(self, step: int | keras.KerasTensor) -> keras.KerasTensor:
        """Return the rate for ``step``, counted from 0."""
        step = ops.cast(step, "float32")
        share = ops.clip((step - self.up) / max(1, self.steps - self.up), 0.0, 1.0)
        down = self.peak + (self.end - self.peak) * share
        return ops.minimum(self.peak * step / self.up, down) if self.up else down

    def get_config(self) -> dict[str, float]:
        """Return the arguments."""
        return {"peak": self.peak, "steps": self.steps, "up": self.up, "end": self.end}


def schedule(recipe: Recipe, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate for each of a training's ``steps`` (notebook 02 introduces it)."""
    peak, up = recipe.learning_rate, int(recipe.warmup * steps)
    if recipe.schedule != "cosine":
        return Line(peak, steps, up, peak * (recipe.final if recipe.schedule == "one_cycle" else 1))
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if up else peak,
        decay_steps=steps - up,
        alpha=recipe.final,
        warmup_target=peak if up else None,
        warmup_steps=up,
    )


def optimizer(recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer with its schedule for a training of ``steps`` steps."""
    rate, name, rates = schedule(recipe, steps), recipe.optimizer, recipe.rates
    if name == "adam":
        return optimizers.Adam(rate, rates=rates)
    if name == "adamw":
        return optimizers.AdamW(rate, weight_decay=recipe.weight_decay, rates=rates)
    decay = {"weight_decay": recipe.weight_decay} if recipe.weight_decay else {}
    if name == "rmsprop":
        return optimizers.RMSprop(rate, rates=rates, **decay)
    if name == "sgd":
        momentum = recipe.momentum
        return optimizers.SGD(rate, momentum=momentum, nesterov=True, rates=rates, **decay)
    return optimizers.Muon(rate, momentum=recipe.momentum, rates=rates)


def loss(recipe: Recipe) -> keras.losses.Loss:
    """Return the cross-entropy of logits with one-hot or soft targets, or with class numbers."""
    if recipe.loss == "sparse":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing
    )


def metric(recipe: Recipe) -> keras.metrics.Metric:
    """Return the accuracy that suits the loss."""
    if recipe.loss == "sparse":
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    return keras.metrics.CategoricalAccuracy(name="accuracy")


TUTORIAL = Recipe(epochs=12, batch_size=64, schedule="constant", warmup=0.0, precision="float32")
"""How most tutorials train ``baseline_cnn``."""

FAST = Recipe(
    epochs=14,
    batch_size=1000,
    optimizer="muon",
    learning_rate=0.24,
    schedule="one_cycle",
    warmup=0.0,
    momentum=0.6,
    label_smoothing=0.2,
    augmentation="alternating",
    sizes=((0.4, 24), (0.75, 28)),
)
"""How ``fast_cnn`` is trained (notebook 03 introduces it); after airbench, arXiv 2404.00498."""


USUAL_RATES = {"adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "sgd": 0.02, "muon": 0.05}
"""A learning rate to train from scratch with, for each optimizer; it soon undoes pretraining."""


@dataclass(frozen=True)
class Plan:
    """A network and how to train it: what a recipe's file holds (notebook 07 introduces it).

    Attributes:
        model: A key of ``models.MODELS``.
        recipe: How to train it.
        options: What is set about the network, see ``models.options``.
    """

    model: str
    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, images: np.ndarray | None = None) -> keras.Model:
        """Return the new, untrained network; arguments and errors as for ``models.build``."""
        return models.build(self.model, images, **self.options)


PLANS = {
    "tutorial": Plan("baseline_cnn", TUTORIAL),
    "fast": Plan("fast_cnn", FAST),
    # For more accuracy in longer: deeper blocks, images of full size, wider shifts.
    "long": Plan(
        "fast_cnn",
        dataclasses.replace(FAST, epochs=24, augmentation="alternating_far", sizes=()),
        {"widths": [64, 256, 384], "convolutions": 3, "whitening_bias": True},
    ),
}
"""Networks and recipes by name; epochs and batches suit as many images as CIFAR-10 has."""


_FORMAT = "cifar-utils recipe, version 1"


def write(path: Path, plan: Plan, **found: Any) -> None:
    """Write a network and its recipe to a JSON file, whole or not at all.

    Args:
        path: What notebook 02 takes as ``RECIPE``.
        plan: What to write.
        **found: Where it comes from, as JSON values, for whoever reads the file.
    """
    content = {
        "format": _FORMAT,
        "model": plan.model,
        "options": plan.options,
        "recipe": dataclasses.asdict(plan.recipe),
        "found": found,
    }
    paths.write_text(path, json.dumps(content, indent=2) + "\n")


def read(choice: Path | str) -> Plan:
    """Return the network and recipe of a file that ``write`` has written, or of a name.

    Fields that the file's recipe lacks are as ``Recipe`` has them.

    Args:
        choice: The file's path, or, where there is no such file, a key of ``PLANS``.

    Raises:
        ParameterError: The file is missing or no such file, or names something unknown, or holds
            a value that cannot be trained with.
    """
    path = Path(choice).expanduser()
    if not path.is_file():
        if choice in PLANS:
            return PLANS[str(choice)]
        raise ParameterError(
            f"{path} does not exist; expected a recipe that cifar tune has written, or a name"
            f"{nearest(str(choice), list(PLANS))}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
        model, options, fields = content["model"], content["options"], dict(content["recipe"])
        for name in ("sizes", "rates"):
            if name in fields:
                fields[name] = tuple(tuple(pair) for pair in fields[name])
        known = {known.name for known in dataclasses.fields(Recipe)}
        if unknown := sorted(fields.keys() - known):
            raise ParameterError(f"unknown {unknown[0]!r}{nearest(unknown[0], sorted(known))}")
        plan = Plan(model, Recipe(**fields), options)
        known_options = models.options(model)
        if unknown := sorted(options.keys() - set(known_options)):
            raise ParameterError(
                f"{model} has no option {unknown[0]!r}{nearest(unknown[0], known_options)}"
            )
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParameterError(
            f"{path} is not a recipe: {error!r}; expected a file that cifar tune has written"
        ) from error
    return plan
