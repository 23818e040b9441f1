"""Learning curves that grow while a notebook trains, where somebody watches."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

import keras
import pandas as pd

from cifar_utils import plots
from cifar_utils.errors import ParameterError

_silent = ContextVar("silent", default=False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Let trainings in the block print nothing and draw nothing: of many, it would be too much."""
    before = _silent.set(True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        _silent.reset(before)


def interactive() -> bool:
    """Return whether a person watches this session: Colab, JupyterLab, Notebook or VS Code.

    Notebooks that papermill, nbval or nbclient run, terminals, scripts and tests are not watched,
    so that their outputs are the same whoever runs them. ``CIFAR_UTILS_LIVE`` set to 0 or 1
    overrides what is found.

    Raises:
        ParameterError: ``CIFAR_UTILS_LIVE`` is neither 0 nor 1.
    """
    override = os.environ.get("CIFAR_UTILS_LIVE", "")
    if override not in ("", "0", "1"):
        raise ParameterError(
            f"CIFAR_UTILS_LIVE is {override!r}; expected 0 or 1, or leave it unset"
        )
    if override or "IPython" not in sys.modules:
        return override == "1"
    from IPython import get_ipython

    shell = get_ipython()
    if getattr(shell, "kernel", None) is None:  # a terminal, which cannot redraw a figure
        return False
    # Jupyter's server names the notebook in the environment of a kernel that it starts for one; VS
    # Code, which starts kernels itself, names it in a variable; Colab's kernel has its own package.
    return (
        "google.colab" in sys.modules
        or "JPY_SESSION_NAME" in os.environ
        or "__vsc_ipynb_file__" in shell.user_ns
    )


class Curves(keras.callbacks.Callback):
    """Shows loss and accuracy of training and validation, redrawn in place after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[dict[str, float]] = []
        self._last = -1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Draw what there is so far; without validation images there is nothing to compare."""
        from IPython.display import display

        if not logs or "val_loss" not in logs:
            return
        if epoch <= self._last:  # another training begins
            self._rows = []
        self._last = epoch
        columns = ("loss", "accuracy", "val_loss", "val_accuracy")
        self._rows.append({name: float(logs[name]) for name in columns})
        figure = plots.learning_curves({self.model.name: pd.DataFrame(self._rows)})
        if len(self._rows) == 1:
            self._shown = display(figure, display_id=True)
        else:
            self._shown.update(figure)


def callbacks() -> list[keras.callbacks.Callback]:
    """Return what shows a training while it runs, for ``training.fit`` (notebook 02 introduces it).

    Returns:
        One ``Curves`` where somebody watches, nothing elsewhere and in a ``silent`` block.

    Raises:
        ParameterError: ``CIFAR_UTILS_LIVE`` is neither 0 nor 1.
    """
    return [Curves()] if interactive() and not _silent.get() else []
