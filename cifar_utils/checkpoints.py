"""Exact resume: everything a training carries from one epoch to the next, in one file."""

import dataclasses
import hashlib
import json
import shutil
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from cifar_utils import models, paths, recipes, supervision
from cifar_utils.data import Split
from cifar_utils.errors import RunError

SPARED = 20
"""How many times as long as writing a state took no other is written: a twentieth is its share."""


class Part(Protocol):
    """Something beside model and optimizer that carries a state from one epoch to the next."""

    def numbers(self) -> dict[str, Any]:
        """Return the part of the state that is plain values."""

    def arrays(self) -> list[np.ndarray]:
        """Return the part of the state that is arrays."""

    def restore(self, numbers: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Take the state back."""


def _described(split: Split | None) -> str:
    """Return shape, dtype and checksum of a split; a checksum of 150 MB takes 0.1 seconds."""
    if split is None:
        return "none"
    checksum = 0
    for array in (split.labels, split.images):
        for start in range(0, len(array), 10_000):
            part = np.ascontiguousarray(array[start : start + 10_000])
            checksum = zlib.crc32(part.view(np.uint8).data, checksum)
    return f"{split.images.dtype} {split.images.shape}, CRC-32 {checksum:08x}"


def fingerprint(
    model: keras.Model, train: Split, validation: Split | None, recipe: recipes.Recipe, seed: int
) -> dict[str, str]:
    """Return what has to be the same for a training to be the same, each with a name."""
    digest = hashlib.sha256(models.architecture(model)).hexdigest()[:16]
    return {
        **{f"recipe.{name}": repr(value) for name, value in dataclasses.asdict(recipe).items()},
        "seed": str(seed),
        "training data": _described(train),
        "validation data": _described(validation),
        "model": f"{model.count_params():,} weights, digest {digest}",
        "backend": f"{keras.backend.backend()}, Keras {keras.version()}",
    }


class Checkpoint(keras.callbacks.Callback):
    """Writes the state after an epoch to one file, whole or not at all, and reads it again.

    After every epoch, that is, unless epochs are so short that writing would slow them down.

    The file has the variables of the model (statistics and the state of dropout's random numbers
    included) and of the optimizer, the state of the parts, and the fingerprint. Batches need no
    state: each depends on seed, epoch and place alone.

    Args:
        folder: Where the file is; better one of its own.
        identity: What ``fingerprint`` returned.
        parts: By name, all that has a state, and stands before this in the list of callbacks.
    """

    def __init__(self, folder: Path, identity: dict[str, str], parts: dict[str, Part]) -> None:
        super().__init__()
        self._path = folder / "training.npz"
        self._identity, self._parts = identity, parts
        self._due = 0.0

    def _variables(self, model: keras.Model) -> dict[str, list[keras.Variable]]:
        return {"model": model.variables, "optimizer": model.optimizer.variables}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the state if it is time, or if there is no other epoch."""
        ends = epoch + 1 == self.params["epochs"] or self.model.stop_training
        started = time.monotonic()
        if started >= self._due or ends or supervision.stop_asked():
            self._write(epoch + 1)
            now = time.monotonic()
            self._due = now + SPARED * (now - started)

    def _write(self, epochs: int) -> None:
        arrays = {
            f"{name}/{index}": variable.numpy()
            for name, variables in self._variables(self.model).items()
            for index, variable in enumerate(variables)
        }
        for name, part in self._parts.items():
            arrays |= {f"{name}/{index}": array for index, array in enumerate(part.arrays())}
        about = {
            "identity": self._identity,
            "epochs": epochs,
            "parts": {name: part.numbers() for name, part in self._parts.items()},
        }
        with paths.atomic(self._path) as partial:
            np.savez(partial, about=np.array(json.dumps(about)), **arrays)

    def restore(self, model: keras.Model) -> int:
        """Put the state back if there is one.

        Args:
            model: Compiled, its optimizer built.

        Returns:
            The number of epochs that are done; 0 where there is no state, or a damaged one.

        Raises:
            RunError: The state is of another training.
        """
        if not self._path.is_file():
            return 0
        try:
            with np.load(self._path, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            about = json.loads(str(stored.pop("about")))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            print(f"{self._path} is damaged ({error}); the training starts anew")
            self._path.unlink()
            return 0
        was = about["identity"]
        differing = [
            f"{name} (was {was.get(name)}, is {self._identity.get(name)})"
            for name in sorted({*was, *self._identity})
            if was.get(name) != self._identity.get(name)
        ]
        if differing:
            raise RunError(
                f"{self._path} is the state of another training: {'; '.join(differing)}; go back "
                f"to what was, or delete the folder {self._path.parent} to start anew"
            )
        groups: dict[str, list[np.ndarray]] = {}
        for name, array in stored.items():  # in the order in which they were written
            groups.setdefault(name.partition("/")[0], []).append(array)
        for name, variables in self._variables(model).items():
            for variable, array in zip(variables, groups[name], strict=True):
                variable.assign(array)
        for name, part in self._parts.items():
            part.restore(about["parts"][name], groups.get(name, []))
        return about["epochs"]

    def clear(self) -> None:
        """Delete the file, what a kill left of one half written, and the folder if it is empty."""
        folder = self._path.parent
        if not folder.is_dir():
            return
        self._path.unlink(missing_ok=True)
        for partial in folder.glob(f".{self._path.name}.*"):
            shutil.rmtree(partial, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()
