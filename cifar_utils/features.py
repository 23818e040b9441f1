"""What a frozen network sees in images: computed once, kept on disk, read many times.

An entry is a folder ``features/DIGEST`` of the data folder with ``values.npy`` and ``about.json``,
which says for people what it is. While it is made it is ``.DIGEST.partial``, and ``about.json``
says how many images are done: it is written after their features, so that a start after a kill
goes on there.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from cifar_utils import (
    audit,
    batches,
    folded,
    live,
    models,
    paths,
    pretrained,
    runs,
    supervision,
    training,
    transfer,
)
from cifar_utils.data import Split
from cifar_utils.errors import CifarUtilsError, DataError, ParameterError
from cifar_utils.pretrained import PREPROCESSING, Weights
from cifar_utils.recipes import Recipe

_PIXELS = 5_000_000
"""Pixels of enlarged images in a batch, at most; a ResNet50 takes about 1 GB for them."""

_BATCHES = 4
"""Batches between two records of what is done; each costs a few milliseconds."""


class Features(NamedTuple):
    """Stored features and what they cost when they were computed.

    Attributes:
        values: float16 ``(N, ...)``, memory-mapped and read-only.
        seconds: Wall time of computing them, then and not now, summed over all sittings. The first
            look of each sitting, in which the backend compiles, is left out.
    """

    values: np.ndarray
    seconds: float


def extract(
    model: keras.Model,
    images: np.ndarray,
    *,
    mirrored: bool = False,
    batch_size: int = 250,
    pretraining: str | None = None,
) -> Features:
    """Return the features of images, computed once and then read from disk (notebook 04).

    They are kept in the data folder under a digest of the model's layers with their precision, its
    weights, the images, whether these are mirrored, and the backend, so that nothing can be mixed
    up. Killed half way, it goes on where it was; a second process waits for the first.

    Args:
        model: Such as ``pretrained.extractor`` returns; from images to one float array.
        images: uint8 ``(N, H, W, 3)``.
        mirrored: Whether to look at the images mirrored left to right.
        batch_size: Images at a time, fewer of images that the model enlarges beyond 141 pixels;
            changes speed and memory, not the result.
        pretraining: What to call the weights in ``about.json``.

    Returns:
        The features, read from disk, and the seconds that computing them took.

    Raises:
        DataError: The images do not suit the model.
        CifarUtilsError: A feature is no finite number in half precision.
    """
    wanted = tuple(model.input.shape[1:])
    fits = images.ndim == len(wanted) + 1 and all(
        side in (None, found) for side, found in zip(wanted, images.shape[1:], strict=True)
    )
    if images.dtype != np.uint8 or not fits or not len(images):
        raise DataError(
            f"the images are {images.dtype} {images.shape}; expected at least one, uint8 "
            f"(N, {', '.join('any' if side is None else str(side) for side in wanted)})"
        )
    key = digest(model, images, mirrored)
    folder = paths.data_dir() / "features" / key
    if not folder.is_dir():
        waiting = "another process computes these features; waiting for it (Ctrl-C stops waiting)"
        with paths.locked(folder.with_name(f".{key}.lock"), waiting):
            if not folder.is_dir():
                about = {
                    "model": model.name,
                    "pretraining": pretraining,
                    "size": _size(model),
                    "mirrored": mirrored,
                    "precision": _precision(model),
                    "backend": keras.backend.backend(),
                    "images": len(images),
                }
                _compute(model, images, mirrored, batch_size, about, folder)
    about = runs.read_json(folder / "about.json")
    return Features(np.load(folder / "values.npy", mmap_mode="r"), about["seconds"])


def digest(model: keras.Model, images: np.ndarray, mirrored: bool = False) -> str:
    """Return a name for these images seen by this very model: its layers and its weights.

    Args:
        model: Any; that it was compiled or trained further counts only by its weights.
        images: uint8.
        mirrored: Whether their mirrored images are seen as well.
    """
    found = hashlib.sha256(models.architecture(model))
    found.update(f"{keras.backend.backend()} {mirrored} {images.shape}".encode())
    for weight in model.weights:
        found.update(np.ascontiguousarray(weight.numpy()).data)
    for start in range(0, len(images), 10_000):
        found.update(np.ascontiguousarray(images[start : start + 10_000]).data)
    return found.hexdigest()[:24]


def _size(model: keras.Model) -> int | None:
    """Return the side in pixels to which a model enlarges images; its input's where it does not."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Resizing):
            return layer.height
    return model.input.shape[1]


def _precision(model: keras.Model) -> str:
    """Return the dtype that most of the layers compute in, those of a model inside included."""
    parts = [part for part in (model, *model.layers) if isinstance(part, keras.Model)]
    found = [layer.compute_dtype for part in parts for layer in part.layers]
    return max(set(found), key=found.count)


def _forward(model: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what computes a model's outputs for images in the fastest way that we know."""
    quick = folded.inference(model)
    return lambda images: batches.predict(quick, images, batch_size)


def _compute(
    model: keras.Model,
    images: np.ndarray,
    mirrored: bool,
    batch_size: int,
    about: dict[str, Any],
    folder: Path,
) -> None:
    """Fill an entry of the cache, from where an earlier sitting was left."""
    partial = folder.with_name(f".{folder.name}.partial")
    shape = (len(images), *model.output.shape[1:])
    offset, about = _begun(partial, shape, about)
    done, side = about["computed"], about["size"] or 1
    size = max(1, min(batch_size, len(images), _PIXELS // side**2))
    if done:
        print(f"features: goes on after {done:,} of {len(images):,} images")

    def look(start: int, stop: int) -> np.ndarray:
        part = images[start:stop]
        return forward(np.ascontiguousarray(part[:, :, ::-1]) if mirrored else np.asarray(part))

    if done < len(images):
        forward = _forward(model, size)
        look(0, size)  # compiling is not what looking at images costs
    while done < len(images):
        started = time.perf_counter()
        stop = done + min(_BATCHES, (len(images) - done) // size) * size
        if stop == done:
            stop = len(images)
        # The last batch takes some images once more: another size would have to be compiled anew.
        start = min(done, stop - size)
        with np.errstate(over="ignore"):  # said below
            found = look(start, stop)[done - start :].astype(np.float16)
        if not np.isfinite(found).all():
            raise CifarUtilsError(
                f"the features of images {done:,} to {stop - 1:,} are not all finite numbers in "
                "half precision; the weights are damaged, or made for other preprocessing"
            )
        _write(partial / "values.npy", found, offset + done * found[0].nbytes, shape)
        done = stop
        about["computed"] = done
        about["seconds"] += time.perf_counter() - started
        runs.write_json(partial / "about.json", about)
    partial.rename(folder)


def _begun(
    partial: Path, shape: tuple[int, ...], about: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Find what an earlier sitting left, or begin.

    Args:
        partial: The folder.
        shape: Of all features.
        about: What the entry is.

    Returns:
        The byte of ``values.npy`` at which the features begin; and ``about`` with the images that
        are ``computed`` and the ``seconds`` that took, both 0 where nothing fits.
    """
    values, record = partial / "values.npy", partial / "about.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, CifarUtilsError):
        known, found = runs.read_json(record), np.load(values, mmap_mode="r")
        whole = found.shape == shape and found.dtype == np.float16
        if whole and 0 <= known["computed"] <= len(found) and known["seconds"] >= 0:
            return found.offset, about | {name: known[name] for name in ("computed", "seconds")}
    partial.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)  # before the values that it was about
    empty = np.lib.format.open_memmap(values, "w+", np.float16, shape)
    return empty.offset, about | {"computed": 0, "seconds": 0.0}


def _write(path: Path, values: np.ndarray, offset: int, shape: tuple[int, ...]) -> None:
    """Write to a place in a file, on disk for certain; a full disk would kill a memory map."""
    try:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CifarUtilsError(
            f"cannot write features to {path} ({error.strerror or error}); all of them take "
            f"{2 * math.prod(shape) / 1e6:,.1f} MB; make room, or choose a folder on another disk "
            "with CIFAR_UTILS_DATA_DIR; the same call goes on from what is kept"
        ) from error


# What they know


def _checked(
    train: np.ndarray, train_labels: np.ndarray, validation: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return both features as float32; refuse what does not go together."""
    for name, values, classes in (
        ("training", train, train_labels),
        ("validation", validation, labels),
    ):
        if values.ndim != 2 or values.dtype.kind != "f" or not len(values):
            raise DataError(
                f"the {name} features are {values.dtype} {values.shape}; expected floats (N, D), "
                "N at least 1"
            )
        if classes.shape != (len(values),) or classes.dtype.kind not in "iu":
            raise DataError(
                f"the {name} labels are {classes.dtype} {classes.shape}; expected whole numbers, "
                f"one for each of the {len(values)} features: ({len(values)},)"
            )
    if train.shape[1] != validation.shape[1]:
        raise DataError(
            f"training features have {train.shape[1]} numbers each, validation features "
            f"{validation.shape[1]}; expected as many, from one model"
        )
    return train.astype(np.float32), validation.astype(np.float32)


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    *,
    strength: float = 0.01,
) -> float:
    """Return the accuracy of a logistic regression on standardised features (notebook 04).

    Args:
        train: float ``(N, D)``, what it learns from.
        train_labels: Integers ``(N,)``, of at least two classes.
        validation: float ``(M, D)``, what it is judged by.
        validation_labels: Integers ``(M,)``.
        strength: Inverse of the regularisation, scikit-learn's ``C``.

    Raises:
        DataError: Features and labels do not go together.
        ParameterError: The strength is not above 0.
    """
    if strength <= 0:
        raise ParameterError(f"strength is {strength!r}; expected a number above 0")
    seen, unseen = _checked(train, train_labels, validation, validation_labels)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    classifier.fit(seen, train_labels)
    return float(classifier.score(unseen, validation_labels))


def nearest_neighbours(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    *,
    neighbours: int = 20,
) -> float:
    """Return the accuracy of a vote among the most similar training images (notebook 04).

    Similar is what has a small angle between its features (cosine similarity); nothing is trained.

    Args:
        train: float ``(N, D)``, those who vote.
        train_labels: Integers ``(N,)``.
        validation: float ``(M, D)``, those voted on.
        validation_labels: Integers ``(M,)``.
        neighbours: How many vote on each, 1 to N; ties go to the lower class.

    Raises:
        DataError: Features and labels do not go together.
        ParameterError: There are not as many neighbours.
    """
    if not 1 <= neighbours <= len(train):
        raise ParameterError(
            f"neighbours is {neighbours}; expected 1 to {len(train)}, the number of training images"
        )
    seen, unseen = _checked(train, train_labels, validation, validation_labels)
    # Between vectors of length 1 the nearest is the one with the smallest angle.
    classifier = KNeighborsClassifier(neighbours, algorithm="brute")
    classifier.fit(normalize(seen, copy=False), train_labels)
    return float(classifier.score(normalize(unseen, copy=False), validation_labels))


def map_2d(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lay images out in the plane by their features, neighbours together (notebook 04).

    Args:
        values: float ``(N, D)``, N at least 100.
        seed: Of principal components and t-SNE, see ``audit.map_images``.

    Returns:
        float32 ``(N, 2)``; distances between groups mean nothing.

    Raises:
        DataError: There are too few features, or they have another shape.
    """
    if values.ndim != 2 or len(values) < 100 or values.dtype.kind != "f":
        raise DataError(
            f"cannot map features {values.dtype} {values.shape}; expected floats (N, D), N 100 or "
            "more"
        )
    return audit.neighbour_map(values, seed)


class HeadChoice(NamedTuple):
    """A head to try, see ``transfer.head`` (notebook 04 introduces it).

    Attributes:
        hidden: Units of its hidden layer, 0 for a linear head.
        dropout: Share of activations dropped before the last layer.
        weight_decay: Of the optimizer.
    """

    hidden: int = 0
    dropout: float = 0.0
    weight_decay: float = 0.0


def heads(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    choices: Sequence[HeadChoice],
    recipe: Recipe,
    *,
    seed: int = 0,
    backup: Path | None = None,
) -> pd.DataFrame:
    """Train several heads, judged on validation (notebook 04 introduces it).

    Args:
        train: float ``(N, 2048)``.
        train_labels: Integers ``(N,)``, 0 to 9.
        validation: float ``(M, 2048)``.
        validation_labels: Integers ``(M,)``, 0 to 9.
        choices: What to try.
        recipe: How to train each, apart from its weight decay; its optimizer must have one.
        seed: Of weights and order, the same for all.
        backup: Folder of its own where ``cifar run``, if it runs the notebook, keeps their state:
            after a kill they go on after their last epoch.

    Returns:
        A row a choice: ``hidden``, ``dropout``, ``weight_decay``, ``training`` and ``validation``
        accuracy at the end, ``seconds`` of training.

    Raises:
        DataError: Features or labels do not suit the head.
        ParameterError: There is nothing to try, or the optimizer has no weight decay.
    """
    if not len(choices):
        raise ParameterError("choices is empty; expected at least one head to try")
    seen, unseen = Split(train, train_labels), Split(validation, validation_labels)
    rows = []
    for number, choice in enumerate(choices):
        keras.utils.set_random_seed(seed)
        head = transfer.head(choice.hidden, choice.dropout)
        tried = dataclasses.replace(recipe, weight_decay=choice.weight_decay)
        with live.silent():
            state = supervision.kept(backup, f"head {number}")
            fitted = training.fit(head, seen, unseen, tried, seed=seed, backup=state)
        last = fitted.history.iloc[-1]
        row = {
            **choice._asdict(),
            "training": last["accuracy"],
            "validation": last["val_accuracy"],
            "seconds": fitted.seconds,
        }
        settings = f"hidden {choice.hidden}, dropout {choice.dropout:g}"
        print(
            f"{settings}, weight decay {choice.weight_decay:g}: {row['validation']:.1%} "
            f"in {row['seconds']:.1f} s"
        )
        rows.append(row)
    return pd.DataFrame(rows)


def probe(
    weights: Weights,
    train: Split,
    validation: Split,
    size: int,
    preprocessing: Sequence[str] = tuple(PREPROCESSING),
    *,
    seed: int = 0,
) -> list[dict[str, str | int | float]]:
    """Measure what frozen features know: a linear classifier on them (notebook 04 introduces it).

    Args:
        weights: What ``pretrained.resolve`` returned.
        train: Images the classifier learns from, a few thousand at most.
        validation: Images it is judged by.
        size: Side in pixels to which images are enlarged.
        preprocessing: Keys of ``PREPROCESSING``; all but ``caffe`` are there to be measured.
        seed: Of the random weights, where ``weights`` are ``none``.

    Returns:
        A row for each preprocessing: pretraining, size, preprocessing, accuracy on validation,
        seconds for the features, when they were computed.

    Raises:
        ParameterError: The size is too small, or a preprocessing is unknown.
        WeightsError: The weights' file does not fit.
    """
    base = pretrained.network(weights, size, seed=seed)
    images = np.concatenate([train.images, validation.images])
    rows: list[dict[str, str | int | float]] = []
    for name, model in [(name, pretrained.fed(base, name)) for name in preprocessing]:
        found = extract(model, images, pretraining=weights.pretraining)
        seen, unseen = np.split(found.values, [len(train)])
        rows.append(
            {
                "pretraining": weights.pretraining,
                "size": size,
                "preprocessing": name,
                "accuracy": linear_probe(seen, train.labels, unseen, validation.labels),
                "seconds": found.seconds,
            }
        )
    return rows
