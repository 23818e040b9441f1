"""The networks trained from scratch, and saving and loading models."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
from keras import layers

from cifar_utils import paths
from cifar_utils.data import CLASS_NAMES, IMAGE_SHAPE
from cifar_utils.errors import ParameterError, RunError, nearest


def logits(features: keras.KerasTensor) -> keras.KerasTensor:
    """Return ``(N, 10)`` float32 logits; float32 under every precision policy, so none overflow."""
    return layers.Dense(len(CLASS_NAMES), dtype="float32", name="logits")(features)


def baseline_cnn() -> keras.Model:
    """Return the tutorials' network: four convolutions, two poolings, one hidden layer.

    Two blocks of 3x3 convolutions (32, 32 and 64, 64 channels), each followed by 2x2 max pooling
    and dropout, then 512 hidden units (notebook 02 builds it up). About 2.2 million weights.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 10)`` logits.
    """
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescaling")(images)
    for block, channels in enumerate((32, 64), start=1):
        for step in (1, 2):
            x = layers.Conv2D(
                channels, 3, padding="same", activation="relu", name=f"block{block}_conv{step}"
            )(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.Dropout(0.25, name=f"block{block}_dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(512, activation="relu", name="hidden")(x)
    x = layers.Dropout(0.5, name="hidden_dropout")(x)
    return keras.Model(images, logits(x), name="baseline_cnn")


MODELS: dict[str, Callable[[], keras.Model]] = {"baseline_cnn": baseline_cnn}
"""Every network by name; a new architecture is a function above and a line here."""


def build(name: str) -> keras.Model:
    """Return a new, untrained network (notebook 02 introduces it).

    Args:
        name: A key of ``MODELS``.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 10)`` logits.

    Raises:
        ParameterError: No network has that name.
    """
    if name not in MODELS:
        raise ParameterError(f"unknown model {name!r}{nearest(name, list(MODELS))}")
    return MODELS[name]()


def save(model: keras.Model, path: Path) -> None:
    """Write ``model`` to ``path`` (``.keras``), whole or not at all."""
    with paths.atomic(path) as partial:
        model.save(partial)


def load(path: Path) -> keras.Model:
    """Return the model saved at ``path``.

    Raises:
        RunError: The file is missing or is not a Keras model.
    """
    if not zipfile.is_zipfile(path):
        found = "is not a Keras model file" if path.is_file() else "does not exist"
        raise RunError(f"{path} {found}; run the stage that makes it again")
    return keras.models.load_model(path)
