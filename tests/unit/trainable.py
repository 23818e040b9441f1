"""Images that any network learns in a few steps, and a network small enough for it."""

import keras
import numpy as np

from cifar_utils import models
from cifar_utils.data import Split


def coloured(count, seed=0):
    """Images whose class is their grey level."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    images = (labels * 25)[:, None, None, None] + generator.integers(0, 20, (count, 32, 32, 3))
    return Split(images.astype(np.uint8), labels.astype(np.int64))


def small_model(size=32):
    images = keras.Input((size, size, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(32, activation="relu")(x)
    return keras.Model(images, models.logits(x))


def small_network(size=32):
    """One of everything that has a state: convolution, batch normalisation, dropout."""
    images = keras.Input((size, size, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, name="rescaling")(images)
    x = keras.layers.Conv2D(8, 3, strides=4, use_bias=False, name="convolution")(x)
    x = keras.layers.BatchNormalization(name="normalisation")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    x = keras.layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(images, models.logits(x), name="small_network")
