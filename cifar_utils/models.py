"""The networks trained from scratch by name, what they cost, and saving and loading models."""

import inspect
import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import layers

from cifar_utils import architectures, fused, paths
from cifar_utils.architectures import logits
from cifar_utils.data import CLASS_NAMES, IMAGE_SHAPE
from cifar_utils.errors import ParameterError, RunError, nearest


def baseline_cnn(
    *,
    width: int = 32,
    activation: str = "relu",
    dropout: float = 0.5,
    l2: float = 0.0,
    batch_normalization: bool = False,
) -> keras.Model:
    """Return the tutorials' network: four convolutions, two poolings, one hidden layer.

    Two blocks of 3x3 convolutions (32, 32 and 64, 64 channels), each followed by 2x2 max pooling
    and dropout, then 512 hidden units (notebook 02 builds it up). About 2.2 million weights.

    Args:
        width: Channels of the first block; all other layers follow.
        activation: Of convolutions and hidden layer, by Keras's name.
        dropout: Share of the hidden units that is dropped; half of it is dropped after each block.
        l2: Share of the squared weights of convolutions and hidden layer that joins the loss.
        batch_normalization: Whether each convolution is followed by batch normalisation (Ioffe and
            Szegedy, arXiv 1502.03167).

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 10)`` logits.
    """
    penalty = keras.regularizers.L2(l2) if l2 else None
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescaling")(images)
    for block, channels in enumerate((width, 2 * width), start=1):
        for step in (1, 2):
            x = layers.Conv2D(
                channels,
                3,
                padding="same",
                activation=None if batch_normalization else activation,
                kernel_regularizer=penalty,
                name=f"block{block}_conv{step}",
            )(x)
            if batch_normalization:
                # Keras's 0.99 needs hundreds of steps before validation gets along with it.
                x = fused.BatchNormalization(momentum=0.9, name=f"block{block}_norm{step}")(x)
                x = layers.Activation(activation, name=f"block{block}_{activation}{step}")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        if dropout:
            x = layers.Dropout(dropout / 2, name=f"block{block}_dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    hidden = layers.Dense(
        16 * width, activation=activation, kernel_regularizer=penalty, name="hidden"
    )
    x = hidden(x)
    if dropout:
        x = layers.Dropout(dropout, name="hidden_dropout")(x)
    return keras.Model(images, logits(x), name="baseline_cnn")


def fast_cnn(
    widths: tuple[int, int, int] = (64, 256, 256),
    convolutions: int = 2,
    whitening_bias: bool = False,
) -> keras.Model:
    """Return the network with the best accuracy for its seconds (notebook 03 introduces it).

    After cifar10-airbench (arXiv 2404.00498): a fixed 2x2 convolution that whitens the pixels, then
    three blocks of two 3x3 convolutions, the first followed by 2x2 max pooling, each by batch
    normalisation without scale and a ReLU, then the largest value of each channel and logits that
    are scaled down. Convolutions begin as the identity. ``build`` sets the whitening filters. About
    2.0 million weights.

    Args:
        widths: Channels of the three blocks.
        convolutions: Of a block, 2 or more. From 3 on a block's first feature maps are added before
            its last ReLU (a residual connection, arXiv 1512.03385).
        whitening_bias: Whether the whitening layer has a bias, which learns; its filters do not. In
            a network that was saved and loaded they would, too.

    Returns:
        A model from uint8 ``(N, H, W, 3)`` RGB images, made for 32x32 and able to train on smaller
        ones, to float32 ``(N, 10)`` logits.

    Raises:
        ValueError: There are fewer convolutions.
    """
    if convolutions < 2:
        raise ValueError(f"convolutions is {convolutions}; expected 2 or more")
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    x = architectures.normalized(images)
    whitening = layers.Conv2D(
        24, 2, use_bias=whitening_bias, trainable=whitening_bias, name="whitening"
    )
    x = layers.ReLU(name="whitening_relu")(whitening(x))
    # Beside a bias that learns; without one the whole layer is fixed, which a saved file keeps.
    whitening.kernel.trainable = False
    for block, channels in enumerate(widths, start=1):
        x = first = _convolved(x, channels, f"block{block}_{{}}1", pooled=True)
        for step in range(2, convolutions + 1):
            added = first if step == convolutions > 2 else None
            x = _convolved(x, channels, f"block{block}_{{}}{step}", added=added)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    x = layers.Dense(len(CLASS_NAMES), use_bias=False, dtype="float32", name="logits")(x)
    scaled = layers.Rescaling(1 / 9, dtype="float32", name="scaled_logits")(x)
    return keras.Model(images, scaled, name="fast_cnn")


def _convolved(x: Any, channels: int, name: str, *, pooled: bool = False, added: Any = None) -> Any:
    """Return what a convolution of ``fast_cnn`` and all that follows it make of feature maps.

    Args:
        x: The maps.
        channels: Of the result.
        name: Of the layers, with ``{}`` for what each is.
        pooled: Whether 2x2 max pooling follows.
        added: Maps that are added before the ReLU.
    """
    convolution = fused.Conv2D(
        channels, 3, padding="same", use_bias=False, name=name.format("conv")
    )
    x = convolution(x)
    convolution.kernel.assign(_identity_first(convolution.kernel))
    if pooled:
        x = layers.MaxPooling2D(name=name.format("pool"))(x)
    normalization = fused.BatchNormalization(
        scale=False, momentum=0.6, epsilon=1e-5, name=name.format("norm")
    )
    x = normalization(x)
    if added is not None:
        x = layers.Add(name=name.format("add"))([x, added])
    return layers.ReLU(name=name.format("relu"))(x)


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


MODELS: dict[str, Callable[..., keras.Model]] = {
    "baseline_cnn": baseline_cnn,
    "fast_cnn": fast_cnn,
    "resnet": architectures.resnet,
    "wide_resnet": architectures.wide_resnet,
    "densenet": architectures.densenet,
    "inception": architectures.inception,
    "vgg": architectures.vgg,
    "mobilenet": architectures.mobilenet,
}
"""Every network by name; a new architecture is a function and a line here."""


PUBLISHED: dict[str, tuple[str, float, str]] = {
    "baseline_cnn": ("the same network", 79.0, "Keras, examples/cifar10_cnn.py"),
    "fast_cnn": ("airbench94", 94.0, "arXiv 2404.00498"),
    "resnet": ("ResNet-20", 91.25, "arXiv 1512.03385"),
    "wide_resnet": ("WRN-28-10", 96.0, "arXiv 1605.07146"),
    "densenet": ("DenseNet-BC-100, k=12", 95.49, "arXiv 1608.06993"),
    "vgg": ("VGG16", 92.64, "kuangliu/pytorch-cifar"),
}
"""By network: an original, its published test accuracy in percent, and where. Most are larger than
ours, and all but airbench94 were trained for 50 to 350 epochs. The papers of VGG, GoogLeNet and
MobileNetV2 are not about CIFAR-10; VGG's figure is of a well-known repository."""


def options(name: str) -> list[str]:
    """Return what can be set about a network (notebook 07).

    Args:
        name: A key of ``MODELS``.

    Raises:
        ParameterError: No network has that name.
    """
    if name not in MODELS:
        raise ParameterError(f"unknown model {name!r}{nearest(name, list(MODELS))}")
    return list(inspect.signature(MODELS[name]).parameters)


def build(name: str, images: np.ndarray | None = None, **settings: Any) -> keras.Model:
    """Return a new, untrained network (notebook 02 introduces it).

    Args:
        name: A key of ``MODELS``.
        images: Training images, uint8 ``(N, 32, 32, 3)``, for networks whose first layer is
            computed from them.
        **settings: What ``options`` names; the rest is as the network has it.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 10)`` logits.

    Raises:
        ParameterError: No network has that name, it has no such option or the option not that
            value, or it needs images and there are none.
    """
    known = options(name)
    for setting in settings:
        if setting not in known:
            raise ParameterError(f"{name} has no option {setting!r}{nearest(setting, known)}")
    try:
        model = MODELS[name](**settings)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} cannot be built with {settings}: {error}") from error
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

    A grouped convolution sees only its group's channels, a depthwise one only its own, and a
    separable one is a depthwise and a 1x1 convolution.

    Args:
        model: From ``(N, 32, 32, 3)`` images.
    """
    images = keras.Input(IMAGE_SHAPE, dtype=model.input.dtype)
    total = 0
    for layer in keras.models.clone_model(model, input_tensors=images).layers:
        if isinstance(layer, layers.SeparableConv2D):
            kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
        elif isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
            kernels = [layer.kernel]
        else:
            continue
        places = math.prod(layer.output.shape[1:-1])
        total += places * sum(math.prod(kernel.shape) for kernel in kernels)
    return total


def table() -> pd.DataFrame:
    """Return one row for each network (notebook 03; notebook 07 says more).

    Columns are the model's name, its parameters, millions of multiply-adds an image, and of an
    original the name, the published test accuracy in percent and its source, missing for some.
    """
    rows = []
    for name, make in MODELS.items():
        model = make()
        original, percent, source = PUBLISHED.get(name, (None, None, None))
        row = {
            "model": name,
            "parameters": model.count_params(),
            "multiply_adds": multiply_adds(model) / 1e6,
            "original": original,
            "published": percent,
            "source": source,
        }
        rows.append(row)
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
