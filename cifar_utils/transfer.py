"""Heads on a pretrained ResNet50, and unfreezing it."""

import keras
import numpy as np
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
    come from millions of images, and a few small batches would replace them with worse ones.

    Args:
        model: What ``join`` returned.
        from_stage: First stage to train, ``conv2`` to ``conv5``; those before stay frozen.

    Returns:
        The number of weights that training will now change. Compile the model afterwards:
        Keras notes what is trainable when it compiles.

    Raises:
        ParameterError: No stage has that name.
    """
    thawed = STAGES[stage_index(from_stage) :]
    base = model.get_layer("resnet50")
    base.trainable = True
    for layer in base.layers:
        late = layer.name.split("_")[0] in thawed
        layer.trainable = late and not isinstance(layer, layers.BatchNormalization)
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
