"""What watches a training: a line an epoch, averaged weights, the best epoch, a guard on the loss.

Those that carry something from one epoch to the next can say it (``numbers``, ``arrays``) and take
it back (``restore``), so that a training that was killed goes on as if it had not been.
"""

import math
import time
from typing import Any

import keras
import numpy as np
from keras import ops

from cifar_utils import supervision
from cifar_utils.data import CLASS_NAMES

_DIVERGED = 5
"""A loss this many times that of the start, or that of guessing, is no transient."""

_GUESSING = 0.95
"""From this share of the loss of guessing on, a network has hardly learned."""


class EpochLines(keras.callbacks.Callback):
    """Prints one line an epoch, the same in a notebook, a terminal and a log file.

    Attributes:
        rows: One an epoch: epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self._epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the time."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print the epoch's loss and accuracy on both splits and its seconds."""
        columns = ("loss", "accuracy", "val_loss", "val_accuracy")
        found = {name: float(logs[name]) for name in columns if logs and name in logs}
        seconds = time.perf_counter() - self._started
        rate = float(self.model.optimizer.learning_rate)
        self.rows.append({"epoch": epoch + 1, **found, "learning_rate": rate, "seconds": seconds})
        figures = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(f"epoch {epoch + 1:2d}/{self._epochs}  {figures}  {seconds:.1f} s")

    def numbers(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def arrays(self) -> list[np.ndarray]:
        """Return nothing."""
        return []

    def restore(self, numbers: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Take the rows back."""
        self.rows = numbers["rows"]


class Supervised(keras.callbacks.Callback):
    """Tells the pipeline that runs the notebook of each epoch, and stops after one if asked to.

    It stands behind what writes the state down.

    Args:
        epochs: How many there are.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tell, and raise what Ctrl-C raises if the pipeline wants to stop."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        about = {"model": self.model.name, "epoch": epoch + 1, "epochs": self._epochs}
        supervision.tell(about | figures)
        if supervision.stop_asked():
            raise KeyboardInterrupt


class LossGuard(keras.callbacks.Callback):
    """Ends a training that leads nowhere: loss not finite, far too high for long, or network dead.

    Args:
        steps: Steps of the whole training.
        samples: A few inputs that differ. A network that has fallen back to guessing is asked about
            them, and is dead if all get the same answer: then no unit passes a gradient on.

    Attributes:
        problem: What happened; empty while all is well.
    """

    async_safe = True  # it only reads the logs, so no step has to wait for it

    def __init__(self, steps: int, samples: np.ndarray) -> None:
        super().__init__()
        self.problem = ""
        self._samples = samples
        self._patience = max(20, steps // 20)
        self._first: float | None = None
        self._high = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the mean loss of the epoch so far."""
        loss = float((logs or {})["loss"])
        if self._first is None:
            self._first = loss
        limit = _DIVERGED * max(self._first, math.log(len(CLASS_NAMES)))
        self._high = self._high + 1 if loss > limit else 0
        if not math.isfinite(loss):
            self.problem = f"the loss became {loss}"
        elif self._high >= self._patience:
            self.problem = f"the loss diverged from {self._first:.3g} to {loss:.3g}"
        if self.problem:
            self._model.stop_training = True  # not self.model, which makes JAX copy its state

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the validation loss, and at what a network says that only guesses."""
        found = logs or {}
        judged = float(found.get("val_loss", 0))
        if not math.isfinite(judged):
            self.problem = f"the validation loss became {judged}"
            self.model.stop_training = True
        elif float(found["loss"]) > _GUESSING * math.log(len(CLASS_NAMES)):
            answers = ops.convert_to_numpy(self.model(self._samples, training=False))
            differ = (self._samples != self._samples[:1]).any()
            if differ and (answers == answers[:1]).all():
                self.problem = "the network died: every image gets the same answer"
                self.model.stop_training = True

    def numbers(self) -> dict[str, Any]:
        """Return the first loss and for how many steps it has been too high."""
        return {"first": self._first, "high": self._high}

    def arrays(self) -> list[np.ndarray]:
        """Return nothing."""
        return []

    def restore(self, numbers: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Take the numbers back."""
        self._first, self._high = numbers["first"], numbers["high"]


def floating(model: keras.Model) -> list[keras.Variable]:
    """Return weights and statistics of batch normalisation, not the state of random numbers."""
    return [weight for weight in model.variables if "float" in str(weight.dtype)]


def assign(model: keras.Model, values: list[Any]) -> None:
    """Give the variables that ``floating`` lists other values."""
    for weight, value in zip(floating(model), values, strict=True):
        weight.assign(ops.copy(value))  # JAX's training step destroys what it is given


class Averaging(keras.callbacks.Callback):
    """Keeps an average of the weights, batch normalisation's statistics included.

    Every fifth step the average moves towards the weights. With ``lookahead`` the weights then take
    its place, and it moves ever less of the way as training proceeds: what stays is 0.95**5 times
    the cube of the elapsed share (arXiv 1907.08610; schedule of airbench, arXiv 2404.00498).
    Validation sees the average.

    Args:
        kind: ``ema`` or ``lookahead``.
        steps: Steps of the whole training.
        epoch_steps: Steps of an epoch.
    """

    _EVERY = 5

    def __init__(self, kind: str, steps: int, epoch_steps: int) -> None:
        super().__init__()
        self._kind, self._steps, self._epoch_steps = kind, steps, epoch_steps
        self._epoch = self._updated = 0
        self._average: list[Any] = []
        self._aside: list[Any] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begin with the weights as they are."""
        if not self._average:
            self._average = self._values()

    def _values(self) -> list[Any]:
        """Return copies of the weights on the device."""
        return [ops.copy(weight.value) for weight in floating(self.model)]

    def _decay(self, step: int) -> float:
        if self._kind == "lookahead":
            return 0.95**self._EVERY * (step / self._steps) ** 3
        return max(0.0, 1 - 20 / self._steps) ** (step - self._updated)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Update after every fifth step, which is before the next one."""
        # Not at a batch's end: there TensorFlow would wait for the loss of every single step.
        step = self._epoch * self._epoch_steps + batch
        if step - self._updated >= self._EVERY:
            self._update(step)

    def _update(self, step: int) -> None:
        share = 1 - self._decay(step)
        weights = floating(self.model)
        self._average = [
            average + (weight.value - average) * share
            for average, weight in zip(self._average, weights, strict=True)
        ]
        if self._kind == "lookahead":
            assign(self.model, self._average)
        self._updated = step

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Lay the weights aside for the average."""
        self._aside = self._values()
        assign(self.model, self._average)

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Take the weights back."""
        assign(self.model, self._aside)
        self._aside = []

    def finish(self, model: keras.Model) -> None:
        """Give the model the average for good."""
        assign(model, self._average)

    def numbers(self) -> dict[str, Any]:
        """Return the step of the last update."""
        return {"updated": self._updated}

    def arrays(self) -> list[np.ndarray]:
        """Return the average."""
        return [ops.convert_to_numpy(value) for value in self._average]

    def restore(self, numbers: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Take step and average back."""
        self._updated = numbers["updated"]
        self._average = [ops.convert_to_tensor(array) for array in arrays]


class EarlyStopping(keras.callbacks.Callback):
    """Ends training when the validation loss has not improved for ``patience`` epochs.

    Args:
        patience: Epochs without a better validation loss.
        averaging: Whose average is what was validated, if not the weights.
    """

    def __init__(self, patience: int, averaging: Averaging | None) -> None:
        super().__init__()
        self._patience, self._averaging = patience, averaging
        self._best, self._wait = math.inf, 0
        self._weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keep the weights of a better epoch; end after too many that are not."""
        loss = float((logs or {})["val_loss"])
        if loss < self._best:
            self._best, self._wait = loss, 0
            if self._averaging:
                self._weights = self._averaging.arrays()
            else:
                self._weights = [ops.convert_to_numpy(w.value) for w in floating(self.model)]
            return
        self._wait += 1
        if self.over:
            self.model.stop_training = True

    @property
    def over(self) -> bool:
        """Whether there have been too many epochs that were not better."""
        return self._wait >= self._patience

    def finish(self, model: keras.Model) -> None:
        """Give the model the best epoch's weights for good."""
        assign(model, self._weights)

    def numbers(self) -> dict[str, Any]:
        """Return the best loss and the epochs since."""
        return {"best": self._best, "wait": self._wait}

    def arrays(self) -> list[np.ndarray]:
        """Return the best epoch's weights."""
        return self._weights

    def restore(self, numbers: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Take all of it back."""
        self._best, self._wait, self._weights = numbers["best"], numbers["wait"], arrays
