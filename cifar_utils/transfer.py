"""Heads on a pretrained ResNet50, and unfreezing it."""

import math
from collections.abc import Callable
from typing import Any

import keras
import pandas as pd
from keras import layers

from cifar_utils import models
from cifar_utils.errors import ParameterError, nearest

STAGES = ("conv2", "conv3", "conv4", "conv5")


def head(hidden: int = 0, dropout: float = 0.0) -> keras.Model:
    """Return a new head from features to logits (notebook 04 introduces it).

    Args:
        hidden: Units of a hidden ReLU layer; 0 for a linear head.
        dropout: Share of activations dropped before the last layer, 0 to 1.

    Returns:
        A model from float ``(N, 2048)`` features to float32 ``(N, 10)`` logits.
    """
    features = keras.Input((2048,), name="features")
    # Not batch normalisation: this acts alike in training and inference, frozen or not.
    x = layers.LayerNormalization(dtype="float32", name="head_scale")(features)
    if hidden:
        x = layers.Dense(hidden, activation="relu", name="head_hidden")(x)
    if dropout:
        x = layers.Dropout(dropout, name="head_dropout")(x)
    return keras.Model(features, models.logits(x), name="head")


def join(features: keras.Model, classifier: keras.Model, name: str) -> keras.Model:
    """Return the whole function, images to logits; it shares the weights of its two parts."""
    return keras.Model(features.input, classifier(features.output), name=name)


def parts(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the extractor and the head that ``join`` made ``model`` from, sharing its weights."""
    features = keras.Model(
        model.input, model.get_layer("features").output, name="resnet50_features"
    )
    return features, model.get_layer("head")


def stage_index(name: str) -> int:
    """Return the place of a ResNet50 stage, 0 for ``conv2`` to 3 for ``conv5``.

    Raises:
        ParameterError: No stage has that name.
    """
    if name not in STAGES:
        raise ParameterError(f"unknown stage {name!r}{nearest(name, list(STAGES))}")
    return STAGES.index(name)


def unfreeze(model: keras.Model, from_stage: str) -> int:
    """Make the ResNet50 in ``model`` trainable from a stage on (notebook 05 introduces it).

    Batch normalisation stays frozen, which in Keras also keeps it in inference mode: its statistics
    come from thousands of images or more, and small batches would replace them with worse ones.

    Args:
        model: What ``join`` returned.
        from_stage: First stage to train, ``conv2`` to ``conv5``; those before stay frozen.
            ``head`` for nothing but the head.

    Returns:
        The number of weights that training will now change. Compile the model afterwards:
        Keras notes what is trainable when it compiles.

    Raises:
        ParameterError: No stage has that name.
    """
    thawed = () if from_stage == "head" else STAGES[stage_index(from_stage) :]
    base = model.get_layer("resnet50")
    base.trainable = True
    for layer in base.layers:
        late = layer.name.split("_")[0] in thawed
        layer.trainable = late and not isinstance(layer, layers.BatchNormalization)
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def counts(model: keras.Model) -> pd.DataFrame:
    """Return how many weights each part of ``model`` has, and how many may change (notebook 05).

    Args:
        model: What ``join`` returned.

    Returns:
        A row for each stage of ResNet50 that has weights and one for the head, named by the index:
        ``weights``, ``may change``.
    """
    base = [(layer.name.split("_")[0], layer) for layer in model.get_layer("resnet50").layers]
    rows = [
        (name, layer.count_params(), sum(math.prod(w.shape) for w in layer.trainable_weights))
        for name, layer in [*base, ("head", model.get_layer("head"))]
    ]
    table = pd.DataFrame(rows, columns=["stage", "weights", "may change"])
    return table[table.weights > 0].groupby("stage").sum()


def _same(layer: Any) -> Any:
    """Return the layer itself, so that a rebuilt model shares its weights."""
    return layer


def _with_input(model: keras.Model, shape: tuple[int | None, ...], name: str) -> keras.Model:
    """Return the same network for inputs of a shape and with a name, sharing its weights."""
    inputs = keras.Input(shape, dtype=model.input.dtype, name=name)
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=_same)


def resized(model: keras.Model, size: int) -> keras.Model:
    """Return the same network on images enlarged to another size (notebook 05 introduces it).

    Args:
        model: What ``join`` returned.
        size: Side in pixels to which images are enlarged, at least 32.

    Returns:
        A model that shares every weight with ``model``, so that who trains it trains both.

    Raises:
        ParameterError: The size is too small.
    """
    if size < 32:
        raise ParameterError(f"ResNet50 takes images of 32 pixels and more, not {size}")

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if layer.name == "enlarge":
            changed = {"height": size, "width": size}
            return layers.Resizing.from_config({**layer.get_config(), **changed})(*arguments)
        if layer.name == "resnet50":
            return _with_input(layer, (size, size, 3), "preprocessed")(*arguments)
        return layer(*arguments, **options)

    return _replayed(model, call)


def _replayed(model: keras.Model, call: Callable[..., Any]) -> keras.Model:
    """Return ``model`` rebuilt with its own layers, each called by ``call``; not compiled."""
    bare = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(bare, clone_function=_same, call_function=call)


def boundary(model: keras.Model, from_stage: str) -> tuple[keras.Model, keras.Model]:
    """Cut a network where its frozen part ends (notebook 05 introduces it).

    The lower part answers alike in every epoch, so its answers can be kept, and only the upper one
    has to run.

    Args:
        model: What ``join`` returned.
        from_stage: First stage of the upper part, ``conv2`` to ``conv5``.

    Returns:
        Lower, from uint8 ``(N, 32, 32, 3)`` images to ``(N, h, w, C)`` activations, and upper, from
        those to ``(N, 10)`` logits. They share the weights of ``model``, so that who trains the
        upper part trains ``model``.

    Raises:
        ParameterError: No stage has that name.
    """
    place = stage_index(from_stage)
    last = "pool1_pool" if place == 0 else _ends(model.get_layer("resnet50"), STAGES[place - 1])
    cuts: list[keras.KerasTensor] = []

    def inner(layer: Any, *arguments: Any, **options: Any) -> Any:
        outputs = layer(*arguments, **options)
        if layer.name == last:
            cuts.append(outputs)
        return outputs

    def outer(layer: Any, *arguments: Any, **options: Any) -> Any:
        if layer.name != "resnet50":
            return layer(*arguments, **options)
        base = _replayed(layer, inner)
        below = keras.Model(base.input, cuts.pop(), name="resnet50_lower")
        above = keras.Model(below.output, base.output, name="resnet50")
        above = _with_input(above, above.input.shape[1:], "activations")
        cuts.append(below(*arguments))
        return above(cuts[0])

    whole = _replayed(model, outer)
    lower = keras.Model(whole.input, cuts[0], name=f"{model.name}_lower")
    upper = keras.Model(cuts[0], whole.output, name=f"{model.name}_upper")
    return lower, _with_input(upper, upper.input.shape[1:], "activations")


def _ends(base: keras.Model, stage: str) -> str:
    """Return the name of the layer whose output is that of a stage."""
    return [layer.name for layer in base.layers if layer.name.startswith(f"{stage}_")][-1]


def before_base(model: keras.Model) -> keras.Model:
    """Return what ``model`` does to images before its ResNet50: enlarging and preprocessing."""
    found: list[keras.KerasTensor] = []

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if layer.name == "resnet50":
            found.append(arguments[0])
        return layer(*arguments, **options)

    return keras.Model(_replayed(model, call).input, found[0])
