"""Training a model: batches through a recipe, watched, and resumed after a kill."""

import importlib.util
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from cifar_utils import (
    adversarial,
    augment,
    checkpoints,
    distribution,
    live,
    native,
    optimizers,
    recipes,
    supervision,
)
from cifar_utils.batches import Batches, Mirrored, check
from cifar_utils.callbacks import Averaging, EarlyStopping, EpochLines, LossGuard, Supervised
from cifar_utils.data import Split
from cifar_utils.errors import CifarUtilsError, DivergedError, ParameterError
from cifar_utils.recipes import Recipe


@dataclass(frozen=True)
class Fitted:
    """What training leaves besides the model.

    Attributes:
        history: One row an epoch: epoch, loss, accuracy, val_loss, val_accuracy, learning_rate (at
            the epoch's end), seconds. The losses and accuracies of validation are those of the
            averaged weights, if the recipe averages; they are missing without validation.
        seconds: Wall time of training, validation after each epoch included.
    """

    history: pd.DataFrame
    seconds: float


def all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield a model, its layers, and those of the models among them."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def output_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers that make a model's outputs."""
    for output in model.outputs:
        layer = output._keras_history.operation
        if isinstance(layer, keras.Model):
            yield from output_layers(layer)
        else:
            yield layer


def set_precision(model: keras.Model, policy: str) -> None:
    """Give a model's layers another dtype policy, in place; compile the model afterwards.

    Layers pinned to float32 keep it. In a model built under float32 nobody can tell which were, so
    there the layers that make its outputs keep it, because logits must not overflow.

    Args:
        model: A functional model.
        policy: ``float32``, ``mixed_bfloat16`` or ``mixed_float16``: weights stay float32.
    """
    layers = list(all_layers(model))
    pinned = [layer for layer in layers if layer.compute_dtype == "float32"]
    if len(pinned) == len(layers):
        pinned = list(output_layers(model))
    kept = {id(layer) for layer in pinned}
    for layer in layers:
        if id(layer) not in kept:
            layer.dtype_policy = policy
            if isinstance(layer, keras.layers.Normalization):
                _recast(layer)


def _recast(layer: keras.layers.Normalization) -> None:
    """Give a layer its constants again, which keep the precision they were made in."""
    if layer.input_mean is None:
        layer.finalize_state()
    else:
        layer.build(layer.input.shape)


def check_rates(model: keras.Model, recipe: Recipe) -> None:
    """Refuse rates for layers that ``model`` does not have.

    Raises:
        ParameterError: No layer's name begins like that.
    """
    for pair in recipe.rates:
        if not optimizers.fitting([pair], model.weights):
            names = sorted({weight.path.split("/")[-2] for weight in model.weights})
            raise ParameterError(
                f"rates name {pair[0]!r}, and no layer begins so; known: {', '.join(names)}"
            )


def _check(model: keras.Model, train: Split, validation: Split | None, recipe: Recipe) -> None:
    """Refuse what cannot be trained together."""
    check(train, model, "training")
    if recipe.loss == "sparse" and train.labels.ndim == 2:
        raise ParameterError(
            "the sparse loss knows no soft labels, and these images have them; choose the loss "
            "categorical"
        )
    if validation is not None:
        check(validation, model, "validation")
    elif recipe.patience is not None:
        raise ParameterError(
            "patience needs validation images to judge epochs by; pass them, or set it to None"
        )
    # The activations of a convolution have four dimensions too, but only images are uint8.
    images = keras.backend.standardize_dtype(model.inputs[0].dtype) == "uint8"
    mirrored = isinstance(train.images, Mirrored)
    if not images and recipe.augmentation not in (("none", "flip") if mirrored else ("none",)):
        others = "'none', or to 'flip', which both versions are there for" if mirrored else "'none'"
        raise ParameterError(
            f"augmentation {recipe.augmentation!r} is for images, and {model.name!r} takes "
            f"features; set it to {others}"
        )
    if recipe.sizes and not (images and model.inputs[0].shape[1:3] == (None, None)):
        raise ParameterError(
            f"sizes need a model for images of any size, and {model.name!r} takes "
            f"{tuple(model.inputs[0].shape[1:])}; choose fast_cnn, or leave sizes empty"
        )
    check_rates(model, recipe)


@contextmanager
def _advised(recipe: Recipe) -> Iterator[None]:
    """Turn what the backends raise when memory runs out into advice."""
    try:
        yield
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        # JAX has no class of its own for it, only this word in a RuntimeError.
        if not names & {"MemoryError", "ResourceExhaustedError"} and (
            "RESOURCE_EXHAUSTED" not in str(error)
        ):
            raise
        smaller = max(1, recipe.batch_size // 2)
        raise CifarUtilsError(
            f"memory ran out while training; lower batch_size (now {recipe.batch_size}), to "
            f"{smaller} say, or choose a smaller model"
        ) from error


def _starter(batches: Batches) -> keras.callbacks.Callback:
    """Return what tells the batches which epoch it is."""

    def start(epoch: int, logs: dict[str, float] | None) -> None:
        batches.start(epoch)

    return keras.callbacks.LambdaCallback(on_epoch_begin=start)


def _tensorboard(folder: Path) -> keras.callbacks.Callback:
    """Return Keras's callback that writes for TensorBoard into ``folder``."""
    for package in ("tensorflow", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            raise CifarUtilsError(
                f"TensorBoard needs the package {package}, which is not installed; run `pip "
                f"install {package}`, or leave tensorboard out"
            )
    return keras.callbacks.TensorBoard(folder)


def fit(
    model: keras.Model,
    train: Split,
    validation: Split | None,
    recipe: Recipe,
    *,
    seed: int,
    backup: Path | None = None,
    keep_backup: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    tensorboard: Path | None = None,
) -> Fitted:
    """Train ``model`` in place (notebook 02 introduces it).

    Args:
        model: From inputs to ``(N, K)`` logits of K classes. uint8 inputs are images, others
            features, which the split's ``images`` hold then, ``batches.Mirrored`` if there are two
            versions.
        train: What to learn from; its labels may be soft ones, float ``(N, K)``, as those of
            ``distillation.soft_targets``.
        validation: What to judge each epoch by, never learned from; may be None.
        recipe: How.
        seed: Order of the images and augmentation.
        backup: Folder of its own for the state after an epoch. A training that was killed goes on
            from there when it is started again in the same way; it is gone after the last epoch,
            but where ``cifar run`` runs the notebook, only once that has ended.
        keep_backup: Whether it stays there in any case, so that a training that is done can be had
            again at once; for one that is part of a longer one.
        callbacks: More to be told about steps and epochs.
        tensorboard: Folder for TensorBoard's files, if they are wanted.

    Returns:
        The history and the seconds.

    Raises:
        DataError: Images, features or labels do not suit the model.
        ParameterError: The recipe does not suit the model.
        DivergedError: The loss became infinite or diverged, or the network died.
        CifarUtilsError: The memory did not suffice; or the package for TensorBoard is missing.
    """
    _check(model, train, validation, recipe)
    if recipe.precision != "auto":
        set_precision(model, recipe.precision)
    epoch_steps = -(-len(train) // recipe.batch_size)
    steps = recipe.epochs * epoch_steps
    loss = recipes.loss(recipe)
    trained = adversarial.hardened(model, loss, recipe.adversarial) if recipe.adversarial else model
    metrics = [recipes.metric(recipe)]
    trained.compile(optimizer=recipes.optimizer(recipe, steps), loss=loss, metrics=metrics)
    trained.optimizer.build(trained.trainable_variables)
    averaging = stopping = checkpoint = None
    lines, guard = EpochLines(recipe.epochs), LossGuard(steps, np.array(train.images[:16]))
    parts: dict[str, Any] = {"lines": lines, "guard": guard}
    if recipe.averaging != "none":
        averaging = parts["averaging"] = Averaging(recipe.averaging, steps, epoch_steps)
    if recipe.patience is not None:
        stopping = parts["stopping"] = EarlyStopping(recipe.patience, averaging)
    watchers: list[keras.callbacks.Callback] = [*callbacks, *live.callbacks(), *parts.values()]
    if tensorboard is not None:
        watchers.append(_tensorboard(tensorboard))
    done = 0
    if backup is not None:
        identity = checkpoints.fingerprint(model, train, validation, recipe, seed)
        checkpoint = checkpoints.Checkpoint(backup, identity, parts)
        done = checkpoint.restore(trained)
        if done:
            print(f"goes on after epoch {done}, from {backup}")
        watchers.append(checkpoint)  # behind the others, so that it sees what they did
    if supervision.supervised():
        watchers.append(Supervised(recipe.epochs))
    earlier = sum(row["seconds"] for row in lines.rows)
    targets: Any = {"sparse": recipe.loss == "sparse", "classes": model.outputs[0].shape[-1]}
    judged = None
    if validation is not None:
        size = distribution.judging_size(len(validation), 500)
        judged = native.feed(Batches(validation.images, validation.labels, size, **targets))
    left = [] if stopping and stopping.over else range(done, recipe.epochs)
    started = time.perf_counter()
    with distribution.spread(trained, metrics) as spreading:
        # Keras fixes the size of images when `fit` begins, so each size has a `fit` of its own.
        for side, phase in itertools.groupby(left, recipe.side):
            epochs = list(phase)
            batches = Batches(
                train.images,
                train.labels,
                recipe.batch_size,
                policy=augment.get(recipe.augmentation),
                seed=seed,
                side=side if recipe.sizes else None,
                **targets,
            )
            if recipe.sizes:  # or TensorFlow compiles the second size for any size, which is slow
                trained.train_function = None
            with _advised(recipe):
                trained.fit(
                    native.feed(distribution.share(batches)),
                    initial_epoch=epochs[0],
                    epochs=epochs[-1] + 1,
                    validation_data=judged,
                    callbacks=[_starter(batches), *spreading, *watchers],
                    shuffle=False,
                    verbose=0,
                )
            if guard.problem or trained.stop_training:
                break
        final = stopping or averaging
        if final and not guard.problem:
            final.finish(trained)
    kept = keep_backup or supervision.supervised()
    if checkpoint and not (kept and not guard.problem):
        checkpoint.clear()
    if guard.problem:
        raise DivergedError(
            f"{guard.problem} in epoch {len(lines.rows)}; lower the learning rate (now "
            f"{recipe.learning_rate:g})"
        )
    return Fitted(pd.DataFrame(lines.rows), earlier + time.perf_counter() - started)
