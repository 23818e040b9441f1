"""What do the layers of ``cifar_utils.fused`` save of a training step?

usage: python -m benchmarks.layers [--batch 500] [--rounds 7]

Prints a Markdown table: milliseconds of a step (forward, backward) of one layer, Keras's own and
ours alternating in one process, medians.
"""

import argparse
import statistics
from collections.abc import Callable

import keras
import numpy as np
import tensorflow

from benchmarks import sides
from cifar_utils import fused, runtime

SHAPES = ((15, 64), (15, 256), (7, 256), (3, 256), (2, 512), (1, 512))
"""Sides and channels of feature maps of ``fast_cnn``, then of ResNet50 at 64 and 32 pixels."""


def stepper(layer: keras.layers.Layer, inputs: tensorflow.Tensor) -> Callable[[], None]:
    """Return a function that runs the layer forward and backward once."""
    layer.build(inputs.shape)
    upstream = tensorflow.cast(tensorflow.random.normal(inputs.shape), inputs.dtype)

    @tensorflow.function
    def step() -> list[tensorflow.Tensor]:
        with tensorflow.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        return tape.gradient(outputs, [inputs, *layer.trainable_weights], upstream)

    return lambda: [part.numpy() for part in step()[1:]] and None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    session = runtime.start(0)
    print(f"{session}; batch {options.batch}\n")
    print("| layer | feature map | Keras's | ours | ratio |")
    print("|---|---|--:|--:|--:|")
    for side, channels in SHAPES:
        pixels = np.random.default_rng(0).normal(size=(options.batch, side, side, channels))
        inputs = tensorflow.cast(pixels, keras.config.dtype_policy().compute_dtype)
        for name, arguments in (
            ("BatchNormalization", {"scale": False}),
            ("Conv2D", {"filters": channels, "kernel_size": 3, "padding": "same"}),
        ):
            kinds = (getattr(keras.layers, name), getattr(fused, name))
            steps = {kind: stepper(kind(**arguments), inputs) for kind in kinds}
            seconds = sides.in_turn(steps, options.rounds + 2)
            theirs, ours = (1000 * statistics.median(times[2:]) for times in seconds.values())
            shape = f"{side} x {side} x {channels}"
            print(f"| {name} | {shape} | {theirs:.0f} ms | {ours:.0f} ms | {theirs / ours:.2f} x |")


if __name__ == "__main__":
    main()
