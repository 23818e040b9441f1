"""Statistics of batch normalisation, computed anew from other images."""

from pathlib import Path

import keras
import numpy as np

from cifar_utils import features, paths, training


def refresh(
    model: keras.Model,
    images: np.ndarray,
    batch_size: int = 500,
    *,
    frozen: bool = False,
    backup: Path | None = None,
) -> None:
    """Compute the statistics of batch normalisation anew, in place (notebooks 05 and 08).

    They are the means over batches, each layer seeing what the layers below it give in training.
    Nothing else changes. On images unlike those that a network was trained on, this is AdaBN (arXiv
    1603.04779).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images.
        images: uint8 ``(N, 32, 32, 3)``, training images; their labels are not needed.
        batch_size: Images at a time.
        frozen: Whether layers that are not trainable get new statistics as well; they stay frozen.
            Without such layers to change, a model stays as it is.
        backup: Folder where they are kept, so that the same call after a kill gives them again to
            the last bit, which not every device would.
    """
    layers = [
        layer
        for layer in training.all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and (layer.trainable or frozen)
    ]
    if not layers:
        return
    kept = None
    if backup:
        kept = backup / f"{features.digest(model, images)}_{batch_size}.npz"
        if kept.is_file():
            with np.load(kept) as found:
                for variable, value in zip(_statistics(layers), found.values(), strict=True):
                    variable.assign(value)
            return
    usual = [(layer.trainable, layer.momentum) for layer in layers]
    parts = -(-len(images) // batch_size)
    try:
        for count, part in enumerate(np.array_split(np.arange(len(images)), parts), start=1):
            for layer in layers:
                # This momentum makes a plain mean of a moving one.
                layer.trainable, layer.momentum = True, (count - 1) / count
            model(images[part], training=True)
    finally:
        for layer, (trainable, momentum) in zip(layers, usual, strict=True):
            layer.trainable, layer.momentum = trainable, momentum
    if kept:
        with paths.atomic(kept) as partial:
            np.savez(partial, *_statistics(layers))


def _statistics(layers: list[keras.layers.BatchNormalization]) -> list[keras.Variable]:
    return [each for layer in layers for each in (layer.moving_mean, layer.moving_variance)]
