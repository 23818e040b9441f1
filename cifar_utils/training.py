"""Training a model: recipe, batches, one line an epoch."""

import math
import time
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd

from cifar_utils import augment
from cifar_utils.data import CLASS_NAMES, Split
from cifar_utils.errors import CifarUtilsError, ParameterError


@dataclass(frozen=True)
class Recipe:
    """How to train (notebook 02 introduces it); refused with ParameterError if it cannot work.

    Attributes:
        epochs: Most passes over the training images.
        batch_size: Images a step.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine down to zero.
        warmup: Share of the steps that the warm-up takes, 0 to 1.
        weight_decay: Decoupled weight decay of AdamW (arXiv 1711.05101); 0 makes it Adam.
        label_smoothing: Share of each target spread over all classes (arXiv 1512.00567).
        augmentation: Name of a policy in ``augment.POLICIES``.
        patience: Epochs without a better validation loss before training ends, and the weights of
            the best epoch come back; None trains to the end and keeps the last.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: str = "none"
    patience: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.learning_rate <= 0:
            raise ParameterError(f"learning_rate is {self.learning_rate}; expected more than 0")
        augment.get(self.augmentation)


@dataclass(frozen=True)
class Fitted:
    """What training leaves besides the model.

    Attributes:
        history: One row an epoch: epoch, loss, accuracy, val_loss, val_accuracy, seconds.
        seconds: Wall time of training, validation after each epoch included.
    """

    history: pd.DataFrame
    seconds: float


class Batches(keras.utils.PyDataset):
    """Batches of inputs and one-hot targets; shuffled and augmented if a policy is given.

    A batch depends only on the seed, the epoch and its place, whatever ran before it.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        policy: augment.Policy | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._inputs, self._labels = inputs, labels
        self._batch_size, self._policy, self._seed = batch_size, policy, seed
        self._epoch = 0
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        """Return the order of the examples in this epoch."""
        if self._policy is None:
            return np.arange(len(self._inputs))
        return np.random.default_rng((self._seed, self._epoch)).permutation(len(self._inputs))

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the last one possibly smaller."""
        return math.ceil(len(self._inputs) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return batch ``index``: inputs and float32 ``(N, 10)`` targets."""
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        inputs = self._inputs[chosen]
        if inputs.dtype == np.float16:  # stored features; processors compute in float32
            inputs = inputs.astype(np.float32)
        targets = np.eye(len(CLASS_NAMES), dtype=np.float32)[self._labels[chosen]]
        if self._policy is None or self._policy == augment.Policy():
            return inputs, targets
        generator = np.random.default_rng((self._seed, self._epoch, index))
        return augment.apply(self._policy, inputs, targets, generator)

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        self._epoch += 1
        self._order = self._shuffled()


class EpochLines(keras.callbacks.Callback):
    """Prints one line an epoch, the same in a notebook, a terminal and a log file."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the time."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print the epoch's loss and accuracy on both splits and its seconds."""
        self.seconds.append(time.perf_counter() - self._started)
        columns = ("loss", "accuracy", "val_loss", "val_accuracy")
        figures = "  ".join(f"{name} {logs[name]:.3f}" for name in columns if logs and name in logs)
        print(f"epoch {epoch + 1:2d}/{self.params['epochs']}  {figures}  {self.seconds[-1]:.1f} s")


def fit(
    model: keras.Model, train: Split, validation: Split, recipe: Recipe, *, seed: int
) -> Fitted:
    """Train ``model`` in place (notebook 02 introduces it).

    Args:
        model: From inputs to ``(N, 10)`` logits. Inputs are images, or features where the split's
            ``images`` hold features.
        train: What to learn from.
        validation: What to judge each epoch by, never learned from.
        recipe: How.
        seed: Order of the images and augmentation.

    Returns:
        The history and the seconds.

    Raises:
        CifarUtilsError: The loss became NaN or infinite; the weights are of no use.
    """
    batches = Batches(
        train.images,
        train.labels,
        recipe.batch_size,
        policy=augment.get(recipe.augmentation),
        seed=seed,
    )
    steps = recipe.epochs * len(batches)
    warmup_steps = int(recipe.warmup * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else recipe.learning_rate,
        decay_steps=steps - warmup_steps,
        warmup_target=recipe.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    lines = EpochLines()
    callbacks: list[keras.callbacks.Callback] = [lines, keras.callbacks.TerminateOnNaN()]
    if recipe.patience is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(patience=recipe.patience, restore_best_weights=True)
        )
    started = time.perf_counter()
    history = model.fit(
        batches,
        epochs=recipe.epochs,
        validation_data=Batches(validation.images, validation.labels, 500),
        callbacks=callbacks,
        verbose=0,
    )
    seconds = time.perf_counter() - started
    frame = pd.DataFrame(history.history)
    if not np.isfinite(frame["loss"]).all():
        raise CifarUtilsError(
            f"the loss became {frame['loss'].iloc[-1]} in epoch {len(frame)}; lower the learning "
            f"rate (now {recipe.learning_rate:g})"
        )
    frame.insert(0, "epoch", np.arange(1, len(frame) + 1))
    frame["seconds"] = lines.seconds[: len(frame)]
    return Fitted(frame, seconds)
