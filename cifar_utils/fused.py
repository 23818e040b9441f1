"""Keras layers with faster training steps where TensorFlow runs on a processor.

They compute what the built-in ones do, and are replaced by those when a model is saved. Where
TensorFlow has one operation for batch normalisation Keras calls a dozen small ones. The gradient
that TensorFlow computes for the kernels of small feature maps takes two to three times as long as
the same numbers from a forward convolution (``python -m benchmarks.layers``).
"""

from typing import Any

import keras

from cifar_utils import native

_SMALL = 8
"""Largest side of a feature map, in pixels, for which the kernel's gradient is computed our way."""

_PARTS = 4
"""Parts of a batch that give their kernel gradients one after the other, to stay in the cache."""


class BatchNormalization(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` over the last axis, in one operation when training."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return the normalised ``(N, H, W, C)`` inputs."""
        tensorflow = native.tensorflow()
        if tensorflow is None or not training or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        channels = (inputs.shape[-1],)
        outputs, mean, variance, *_ = tensorflow.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value if self.scale else tensorflow.ones(channels),
            offset=self.beta.value if self.center else tensorflow.zeros(channels),
            mean=tensorflow.zeros(channels),
            variance=tensorflow.ones(channels),
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


class Conv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D``, 3x3 with stride 1 and padding ``same``."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Return the convolution of ``(N, H, W, C)`` inputs with the kernel."""
        tensorflow = native.tensorflow()
        if tensorflow is None or tensorflow.config.list_physical_devices("GPU"):
            return super().convolution_op(inputs, kernel)
        height = inputs.shape[1]
        if height is None or height > _SMALL:
            return super().convolution_op(inputs, kernel)
        return _convolution(tensorflow, inputs, kernel)


def _convolution(tensorflow: Any, inputs: Any, kernel: Any) -> Any:
    """Return the convolution; the kernel's gradient is another one, with images as channels."""
    nn, strides = tensorflow.nn, [1, 1, 1, 1]

    @tensorflow.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> Any:
        def gradients(upstream: Any) -> tuple[Any, Any]:
            count = tensorflow.shape(inputs)[0]

            def part(number: int) -> Any:
                images = slice(count * number // _PARTS, count * (number + 1) // _PARTS)
                return nn.conv2d(
                    tensorflow.transpose(inputs[images], (3, 1, 2, 0)),
                    tensorflow.transpose(upstream[images], (1, 2, 0, 3)),
                    strides,
                    [[0, 0], [1, 1], [1, 1], [0, 0]],
                )

            def in_parts() -> Any:
                total = tensorflow.add_n([part(number) for number in range(_PARTS)])
                return tensorflow.transpose(total, (1, 2, 0, 3))

            def at_once() -> Any:
                return tensorflow.raw_ops.Conv2DBackpropFilter(
                    input=inputs,
                    filter_sizes=kernel.shape,
                    out_backprop=upstream,
                    strides=strides,
                    padding="SAME",
                )

            return (
                nn.conv2d_transpose(upstream, kernel, tensorflow.shape(inputs), strides, "SAME"),
                tensorflow.cond(count < _PARTS, at_once, in_parts),
            )

        return nn.conv2d(inputs, kernel, strides, "SAME"), gradients

    return convolve(inputs, tensorflow.convert_to_tensor(kernel))


_BUILT_IN = {BatchNormalization: keras.layers.BatchNormalization, Conv2D: keras.layers.Conv2D}


def plain(model: keras.Model) -> keras.Model:
    """Return ``model`` uncompiled; a copy with Keras's own layers if it has some of these."""
    uncompiled = keras.Model(model.input, model.output, name=model.name)
    if not any(type(layer) in _BUILT_IN for layer in model.layers):
        return uncompiled

    def same(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = _BUILT_IN.get(type(layer), type(layer))
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(uncompiled, clone_function=same)
    copy.set_weights(model.get_weights())
    return copy
