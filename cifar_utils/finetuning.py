"""Fine-tuning a pretrained network: in phases, resumed after a kill, refusing silent mistakes."""

import dataclasses
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import keras
import numpy as np
import pandas as pd
from keras import layers

from cifar_utils import batches, features, folded, optimizers, supervision, training, transfer
from cifar_utils.batches import Mirrored
from cifar_utils.data import IMAGE_SHAPE, Split
from cifar_utils.errors import ParameterError
from cifar_utils.pretrained import Weights
from cifar_utils.recipes import USUAL_RATES, Recipe
from cifar_utils.transfer import STAGES

_ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide")
"""Operations on tensors, not layers, that scale or shift."""


@dataclass(frozen=True)
class Phase:
    """One part of fine-tuning (notebook 05 introduces it).

    Attributes:
        from_stage: First stage of ResNet50 that trains, ``conv2`` to ``conv5``; ``head`` for
            nothing but the head.
        recipe: How. Each phase has an optimizer and a learning rate schedule of its own.
        size: Side in pixels to which images are enlarged in this phase; None for the model's own.
            Smaller ones first are progressive resizing.
        cached: Whether the activations below ``from_stage`` are computed once and kept on disk. The
            recipe's augmentation must be ``none``, or ``flip``, for which both versions are kept.
    """

    from_stage: str
    recipe: Recipe
    size: int | None = None
    cached: bool = False

    def __post_init__(self) -> None:
        """Refuse a stage that does not exist."""
        if self.from_stage != "head":
            transfer.stage_index(self.from_stage)


def progressive(recipe: Recipe, from_stage: str, epochs: int = 1) -> list[Phase]:
    """Return phases that unfreeze one stage after the other, the last ones first (notebook 05).

    After ULMFiT (arXiv 1801.06146).

    Args:
        recipe: How to train in all phases; its epochs are those of all together.
        from_stage: First stage that trains in the end, ``conv2`` to ``conv5``.
        epochs: Of each phase but the last one, which has the rest.

    Raises:
        ParameterError: No stage has that name, or there are too few epochs.
    """
    stages = STAGES[: transfer.stage_index(from_stage) : -1]
    left = recipe.epochs - epochs * len(stages)
    if left < 1:
        raise ParameterError(
            f"{recipe.epochs} epochs are too few for {len(stages)} phases of {epochs} and one more "
            f"from {from_stage} on; expected {1 + epochs * len(stages)} or more"
        )
    short = dataclasses.replace(recipe, epochs=epochs)
    last = Phase(from_stage, dataclasses.replace(recipe, epochs=left))
    return [*(Phase(stage, short) for stage in stages), last]


def stage_rates(factor: float) -> tuple[tuple[str, float], ...]:
    """Return rates for a recipe that are multiplied by ``factor`` from each stage to the one below.

    The head keeps the recipe's own rate.
    """
    stages = ("conv1", *STAGES)
    return tuple((f"{name}_", factor ** (len(stages) - place)) for place, name in enumerate(stages))


def weight_rates(model: keras.Model, unit: float = 0.05) -> tuple[tuple[str, float], ...]:
    """Return rates for a recipe in proportion to the size of each convolution's weights, at most 1.

    Adam moves every weight by about the rate, large or small. Where there are more inputs weights
    are smaller, so that one rate for all changes the upper stages by the largest share. LAMB (arXiv
    1904.00962) takes the size of the weights into account at each step; this does so once, before.

    Args:
        model: What ``transfer.join`` returned.
        unit: Standard deviation from which on weights learn at the recipe's own rate, as the head.
    """
    return tuple(
        (layer.name, min(1.0, float(np.std(layer.kernel)) / unit))
        for layer in model.get_layer("resnet50").layers
        if isinstance(layer, layers.Conv2D)
    )


def _flat(model: keras.Model) -> Iterator[Any]:
    """Yield the layers and operations of a model and of those within, roughly as they are used."""
    for operation in model.operations:
        if isinstance(operation, keras.Model):
            yield from _flat(operation)
        else:
            yield operation


def _check_input(model: keras.Model) -> None:
    """Refuse a model for anything but images as they are stored."""
    shape = tuple(model.inputs[0].shape[1:])
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    if dtype != "uint8" or shape != IMAGE_SHAPE:
        raise ParameterError(
            f"{model.name!r} takes {dtype} {shape}; expected uint8 {IMAGE_SHAPE}: images go in as "
            "they are stored, and the model itself enlarges and preprocesses them"
        )


def _check_scaling(model: keras.Model) -> None:
    """Refuse pixels that are scaled twice, or otherwise than the pretrained network knows them."""
    found: list[str] = []
    before = None
    for operation in _flat(model):
        if isinstance(operation, layers.Conv2D | layers.Dense):
            break
        arithmetic = type(operation).__name__ in _ARITHMETIC
        if isinstance(operation, layers.Rescaling | layers.Normalization) or (
            arithmetic and before is not True
        ):
            found.append(operation.name)
        before = arithmetic
    if len(found) > 1:
        raise ParameterError(
            f"the pixels of {model.name!r} are scaled {len(found)} times, by {', '.join(found)}; "
            "keep the one that the pretrained network was trained with"
        )
    if not any(layer.name == "resnet50" for layer in model.layers):
        return
    colours = np.array([(0, 0, 0), (255, 255, 255), (255, 0, 0)], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, *IMAGE_SHAPE))
    seen = np.asarray(transfer.before_base(model)(images), np.float32)
    expected = colours[:, ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    if np.abs(seen - expected[:, None, None]).max() > 1:
        raise ParameterError(
            f"ResNet50 gets values from {seen.min():.1f} to {seen.max():.1f} in {model.name!r} for "
            f"black, white and red; expected {expected.min():.1f} to {expected.max():.1f}, blue "
            "first: keras.applications.resnet50.preprocess_input, and nothing else, on pixels of "
            "0 to 255"
        )


def _check_logits(model: keras.Model) -> None:
    """Refuse logits that can overflow or lose digits."""
    for layer in training.output_layers(model):
        dtype = getattr(layer, "compute_dtype", model.outputs[0].dtype)
        if dtype != "float32":
            raise ParameterError(
                f"the logits of {model.name!r} are {dtype}; make {layer.name!r} with "
                'dtype="float32" (models.logits does)'
            )


def _check_compiled(model: keras.Model) -> None:
    """Refuse flags that changed after Keras noted them."""
    noted = getattr(model, "_compiled_trainable_state", None) if model.compiled else None
    for layer, was in (noted or {}).items():
        if layer.trainable != was and layer.weights:
            names = {True: "trainable", False: "frozen"}
            raise ParameterError(
                f"layer {layer.name!r} is {names[layer.trainable]} and was {names[was]} when "
                f"{model.name!r} was compiled, which is what counts; compile the model again"
            )


def _check_weights(model: keras.Model, weights: Weights | None, recipe: Recipe | None) -> None:
    """Refuse to train a pretrained base in a way that destroys it."""
    head = model.get_layer("head") if any(x.name == "head" for x in model.layers) else None
    inside = {id(layer) for layer in _flat(head)} if head else set()
    base = [layer for layer in _flat(model) if id(layer) not in inside]
    learning = [w for layer in base for w in getattr(layer, "trainable_weights", ())]
    for layer in base:
        if isinstance(layer, layers.BatchNormalization) and layer.trainable:
            raise ParameterError(
                f"batch normalisation {layer.name!r} is trainable, so that it would use and learn "
                "the statistics of small batches; freeze it (transfer.unfreeze does)"
            )
    if not learning:
        return
    if head is not None:
        biases = [getattr(layer, "bias", None) for layer in training.output_layers(head)]
        if any(bias is not None and not np.asarray(bias).any() for bias in biases):
            raise ParameterError(
                "the head was never trained, and its random gradients would destroy the network "
                "below; train it first, on frozen features or in a phase from 'head' on"
            )
    if recipe is None or (weights is not None and weights.pretraining == "none"):
        return
    most = max(optimizers.factor(recipe.rates, w.path) for w in learning) * recipe.learning_rate
    if most >= USUAL_RATES[recipe.optimizer]:
        warnings.warn(
            f"learning rate {most:g} of {recipe.optimizer} is one for training from scratch; "
            "pretrained weights need a tenth of it or less",
            stacklevel=3,
        )


def check(model: keras.Model, weights: Weights | None = None, recipe: Recipe | None = None) -> None:
    """Refuse the mistakes that fine-tuning hides in a bad result (notebook 05 introduces it).

    Args:
        model: From images to logits, what ``transfer.join`` returned or alike, its layers frozen as
            they will be in training.
        weights: Where the pretrained weights come from, if known.
        recipe: How it will be trained, if known; a learning rate for training from scratch is
            warned of.

    Raises:
        ParameterError: Inputs are not uint8 images; pixels are scaled twice, or not as ResNet50
            wants them; batch normalisation is trainable; the head is random and the network is not
            frozen; logits are not float32; a layer was frozen or unfrozen after compiling.
    """
    _check_input(model)
    _check_scaling(model)
    _check_logits(model)
    _check_compiled(model)
    _check_weights(model, weights, recipe)


class Cost(NamedTuple):
    """What keeping activations costs and saves.

    Attributes:
        bytes: On disk.
        seconds: For computing them once.
        saved: Seconds an epoch that the lower part does not run.
        epochs: Epochs from which on it has paid, reading from disk not counted.
    """

    bytes: int
    seconds: float
    saved: float
    epochs: int

    def __str__(self) -> str:
        """Return the numbers on one line."""
        return (
            f"{self.bytes / 1e9:.2f} GB on disk, {self.seconds:.0f} s once, saves {self.saved:.0f} "
            f"s an epoch: pays from epoch {self.epochs + 1} on"
        )


def boundary_cost(
    lower: keras.Model, images: np.ndarray, *, mirrored: bool = False, sample: int = 250
) -> Cost:
    """Estimate what keeping the activations of a frozen part costs and saves (notebook 05).

    Args:
        lower: What ``transfer.boundary`` returned first.
        images: uint8 ``(N, 32, 32, 3)``, all that are trained with.
        mirrored: Whether their mirror images are kept too.
        sample: Images to measure with.
    """
    few = images[:sample]
    batches.predict(lower, few, len(few))  # tracing is not what is measured
    started = time.perf_counter()
    batches.predict(lower, few, len(few))
    saved = (time.perf_counter() - started) / len(few) * len(images)
    versions = 2 if mirrored else 1
    size = 2 * math.prod(lower.output.shape[1:]) * len(images) * versions
    return Cost(size, saved * versions, saved, versions)


def _stored(lower: keras.Model, images: np.ndarray, mirrored: bool) -> np.ndarray:
    """Return what the lower part makes of images, from disk."""
    plain = features.extract(lower, images).values
    if not mirrored:
        return plain
    return cast(np.ndarray, Mirrored(plain, features.extract(lower, images, mirrored=True).values))


def _cut(
    model: keras.Model, phase: Phase, train: Split, validation: Split | None
) -> tuple[keras.Model, Split, Split | None]:
    """Return the part of the network that trains, and what it learns from."""
    if phase.from_stage == "head":
        lower, upper = transfer.parts(model)
    else:
        lower, upper = transfer.boundary(model, phase.from_stage)
    mirrored = phase.recipe.augmentation == "flip"
    if phase.recipe.augmentation not in ("none", "flip"):
        raise ParameterError(
            f"augmentation {phase.recipe.augmentation!r} changes images anew in each epoch, and "
            "a cached phase has kept what the lower part made of them; set it to 'none' or 'flip', "
            "or cached to False"
        )
    print(f"cached: {boundary_cost(lower, train.images, mirrored=mirrored)}")
    kept = Split(_stored(lower, train.images, mirrored), train.labels)
    if validation is None:
        return upper, kept, None
    return upper, kept, Split(_stored(lower, validation.images, False), validation.labels)


def fine_tune(
    model: keras.Model,
    train: Split,
    validation: Split | None,
    phases: Sequence[Phase],
    *,
    seed: int,
    weights: Weights | None = None,
    backup: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> training.Fitted:
    """Fine-tune ``model`` in place, phase by phase (notebook 05 introduces it).

    Frozen batch normalisation is folded into the convolutions while it trains.

    Args:
        model: What ``transfer.join`` returned, its head trained unless the first phase does that.
        train: What to learn from.
        validation: What to judge each epoch by; may be None.
        phases: One after the other.
        seed: Order of the images and augmentation.
        weights: Where the pretrained weights come from, if known.
        backup: Folder of its own for the state. A fine-tuning that was killed goes on after the
            last epoch that was written when it is started again in the same way, from the same
            weights; the state is gone after the last phase, but where ``cifar run`` runs the
            notebook, only once that has ended.
        callbacks: More to be told about steps and epochs.

    Returns:
        The history, epochs counted through all phases and with a column ``from_stage``, and the
        seconds, computing cached activations included.

    Raises:
        ParameterError: See ``check``; or a recipe does not suit its phase.
        DataError: Images or labels do not suit the model.
        CifarUtilsError: See ``training.fit``.
    """
    histories: list[pd.DataFrame] = []
    seconds = 0.0
    for number, phase in enumerate(phases, start=1):
        recipe = phase.recipe
        if recipe.precision != "auto":
            training.set_precision(model, recipe.precision)
            recipe = dataclasses.replace(recipe, precision="auto")
        training.check_rates(model, recipe)
        changing = transfer.unfreeze(model, phase.from_stage)
        check(model, weights, recipe)
        print(f"phase {number}/{len(phases)}, from {phase.from_stage} on: {changing:,} weights")
        target = transfer.resized(model, phase.size) if phase.size else model
        started = time.perf_counter()
        seen, judged = train, validation
        if phase.cached:
            target, seen, judged = _cut(target, phase, train, validation)
        seconds += time.perf_counter() - started
        # A part of the network lacks some of the layers that rates are for.
        recipe = dataclasses.replace(recipe, rates=optimizers.fitting(recipe.rates, target.weights))
        folder = None if backup is None else backup / f"phase_{number}"
        fitted = training.fit(
            folded.trainable(target),
            seen,
            judged,
            recipe,
            seed=seed + number - 1,
            backup=folder,
            keep_backup=True,
            callbacks=callbacks,
        )
        seconds += fitted.seconds
        history = fitted.history.assign(from_stage=phase.from_stage)
        history["epoch"] += sum(len(earlier) for earlier in histories)
        histories.append(history)
    supervision.clear(backup)
    return training.Fitted(pd.concat(histories, ignore_index=True), seconds)
