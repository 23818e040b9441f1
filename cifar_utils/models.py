"""The networks trained from scratch, and saving and loading models."""

import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers

from cifar_utils import fused, paths
from cifar_utils.data import CLASS_NAMES, IMAGE_SHAPE
from cifar_utils.errors import ParameterError, RunError, nearest


def logits(features: keras.KerasTensor) -> keras.KerasTensor:
    """Return ``(N, 10)`` float32 logits; float32 under every precision policy, so none overflow."""
    return layers.Dense(len(CLASS_NAMES), dtype="float32", name="logits")(features)


def baseline_cnn(
    *, dropout: bool = True, l2: float = 0.0, batch_normalization: bool = False
) -> keras.Model:
    """Return the tutorials' network: four convolutions, two poolings, one hidden layer.

    Two blocks of 3x3 convolutions (32, 32 and 64, 64 channels), each followed by 2x2 max pooling
    and dropout, then 512 hidden units (notebook 02 builds it up). About 2.2 million weights.

    Args:
        dropout: Whether a share of the numbers is dropped after each block and the hidden layer.
        l2: Share of the squared weights of convolutions and hidden layer that joins the loss.
        batch_normalization: Whether each convolution is followed by batch normalisation (Ioffe and
            Szegedy, arXiv 1502.03167).

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 10)`` logits.
    """
    penalty = keras.regularizers.L2(l2) if l2 else None
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescaling")(images)
    for block, channels in enumerate((32, 64), start=1):
        for step in (1, 2):
            x = layers.Conv2D(
                channels,
                3,
                padding="same",
                activation=None if batch_normalization else "relu",
                kernel_regularizer=penalty,
                name=f"block{block}_conv{step}",
            )(x)
            if batch_normalization:
                # Keras's 0.99 needs hundreds of steps before validation gets along with it.
                x = fused.BatchNormalization(momentum=0.9, name=f"block{block}_norm{step}")(x)
                x = layers.ReLU(name=f"block{block}_relu{step}")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        if dropout:
            x = layers.Dropout(0.25, name=f"block{block}_dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(512, activation="relu", kernel_regularizer=penalty, name="hidden")(x)
    if dropout:
        x = layers.Dropout(0.5, name="hidden_dropout")(x)
    return keras.Model(images, logits(x), name="baseline_cnn")


PIXEL_MEAN = (125.3, 123.0, 113.9)
"""Mean of CIFAR-10's red, green and blue pixels, 0 to 255."""

PIXEL_STD = (63.0, 62.1, 66.7)
"""Their standard deviation."""


def fast_cnn(widths: tuple[int, int, int] = (64, 256, 256)) -> keras.Model:
    """Return the network with the best accuracy for its seconds (notebook 03 introduces it).

    After cifar10-airbench (arXiv 2404.00498): a fixed 2x2 convolution that whitens the pixels, then
    three blocks of two 3x3 convolutions, the first followed by 2x2 max pooling, each by batch
    normalisation without scale and a ReLU, then the largest value of each channel and logits that
    are scaled down. Convolutions begin as the identity. ``build`` sets the whitening filters. About
    2.0 million weights.

    Args:
        widths: Channels of the three blocks.

    Returns:
        A model from uint8 ``(N, H, W, 3)`` RGB images, made for 32x32 and able to train on smaller
        ones, to float32 ``(N, 10)`` logits.
    """
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    variance = [deviation**2 for deviation in PIXEL_STD]
    x = layers.Normalization(mean=PIXEL_MEAN, variance=variance, name="normalization")(images)
    whitening = layers.Conv2D(24, 2, use_bias=False, trainable=False, name="whitening")
    x = layers.ReLU(name="whitening_relu")(whitening(x))
    for block, channels in enumerate(widths, start=1):
        for step in (1, 2):
            name = f"block{block}_{{}}{step}".format
            convolution = fused.Conv2D(
                channels, 3, padding="same", use_bias=False, name=name("conv")
            )
            x = convolution(x)
            convolution.kernel.assign(_identity_first(convolution.kernel))
            if step == 1:
                x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
            x = fused.BatchNormalization(
                scale=False, momentum=0.6, epsilon=1e-5, name=name("norm")
            )(x)
            x = layers.ReLU(name=name("relu"))(x)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    x = layers.Dense(len(CLASS_NAMES), use_bias=False, dtype="float32", name="logits")(x)
    scaled = layers.Rescaling(1 / 9, dtype="float32", name="scaled_logits")(x)
    return keras.Model(images, scaled, name="fast_cnn")


def _identity_first(kernel: keras.Variable) -> np.ndarray:
    """Return a ``(3, 3, C_in, C_out)`` kernel whose first filters each pass one channel on.

    The signal then reaches the last layer from the first step on (arXiv 1706.00388).
    """
    values = keras.ops.convert_to_numpy(kernel).copy()
    passed = min(values.shape[2:])
    values[..., :passed] = 0
    values[1, 1, range(passed), range(passed)] = 1
    return values


def _whiten(model: keras.Model, images: np.ndarray) -> None:
    """Set the filters of the layer ``whitening`` from uint8 ``(N, 32, 32, 3)`` images.

    Filters are the eigenvectors of the patches' covariance, each divided by the standard deviation
    along it, and their negatives, so that no direction outweighs another (arXiv 2404.00498).
    """
    layer = model.get_layer("whitening")
    size = layer.kernel_size[0]
    pixels = np.asarray(model.get_layer("normalization")(images[:5000]), dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * 3)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = directions / np.sqrt(variances + 5e-4)
    both = np.concatenate([filters, -filters], axis=1)
    layer.kernel.assign(both.reshape(layer.kernel.shape))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "baseline_cnn": baseline_cnn,
    "fast_cnn": fast_cnn,
}
"""Every network by name; a new architecture is a function above and a line here."""


def build(name: str, images: np.ndarray | None = None) -> keras.Model:
    """Return a new, untrained network (notebook 02 introduces it).

    Args:
        name: A key of ``MODELS``.
        images: Training images, uint8 ``(N, 32, 32, 3)``, for networks whose first layer is
            computed from them.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 10)`` logits.

    Raises:
        ParameterError: No network has that name, or it needs images and there are none.
    """
    if name not in MODELS:
        raise ParameterError(f"unknown model {name!r}{nearest(name, list(MODELS))}")
    model = MODELS[name]()
    if any(layer.name == "whitening" for layer in model.layers):
        if images is None or not len(images):
            raise ParameterError(
                f"the first layer of {name} is computed from training images: "
                f'models.build("{name}", train.images)'
            )
        _whiten(model, images)
    return model


def architecture(model: keras.Model) -> bytes:
    """Return what a model is made of, whatever its weights are; equal if built alike."""
    config = json.dumps(model.get_config(), sort_keys=True, default=str)
    # Keras counts unnamed layers and operations through a whole session: add, add_1, add_2, ...
    return re.sub(r'_\d+"', '"', config).encode()


def multiply_adds(model: keras.Model) -> int:
    """Return the multiply-adds of convolutions and dense layers for one image (notebook 03).

    Args:
        model: From ``(N, 32, 32, 3)`` images.
    """
    images = keras.Input(IMAGE_SHAPE, dtype=model.input.dtype)
    total = 0
    for layer in keras.models.clone_model(model, input_tensors=images).layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            places = math.prod(layer.output.shape[1:-1])
            total += places * math.prod(layer.kernel.shape)
    return total


def table() -> pd.DataFrame:
    """Return one row for each network: name, parameters, millions of multiply-adds an image."""
    rows = []
    for name, make in MODELS.items():
        model = make()
        millions = multiply_adds(model) / 1e6
        rows.append({"model": name, "parameters": model.count_params(), "multiply_adds": millions})
    return pd.DataFrame(rows)


def save(model: keras.Model, path: Path) -> None:
    """Write ``model`` to ``path`` (``.keras``), whole or not at all.

    The file holds layers that Keras itself has, and neither optimizer nor loss: it loads without
    this library.
    """
    with paths.atomic(path) as partial:
        fused.plain(model).save(partial)


def load(path: Path) -> keras.Model:
    """Return the model saved at ``path``.

    Raises:
        RunError: The file is missing or is not a Keras model.
    """
    if not zipfile.is_zipfile(path):
        found = "is not a Keras model file" if path.is_file() else "does not exist"
        raise RunError(f"{path} {found}; run the stage that makes it again")
    return keras.models.load_model(path)
