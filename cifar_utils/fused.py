"""Keras layers with faster training steps where TensorFlow runs on a processor.

They compute what the built-in ones do, up to rounding (but moving variances are means of unbiased
ones), and are replaced by those when a model is saved. Where TensorFlow has one operation for batch
normalisation Keras calls a dozen small ones. For the kernels of small feature maps nine matrix
products are quicker than the gradient that TensorFlow computes (``python -m benchmarks.layers``),
and on maps of two by two so is a matrix product in the convolution's place.
"""

import itertools
from typing import Any

import keras

from cifar_utils import native

_SMALL = 8
"""Largest side of a feature map, in pixels, for which the kernel's gradient is computed our way."""

_TINY = 2
"""Largest side for which the convolution itself is a matrix product too."""


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
    """``keras.layers.Conv2D``, quicker for small feature maps."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Return the convolution of ``(N, H, W, C)`` inputs with the kernel."""
        found = quick_to_train(self, inputs, kernel)
        return super().convolution_op(inputs, kernel) if found is None else found


def quick_to_train(layer: keras.layers.Conv2D, inputs: Any, kernel: Any) -> Any:
    """Return a convolution made for training on small feature maps; None where that does not pay.

    Args:
        layer: Whose strides, padding and so on count.
        inputs: ``(N, H, W, C_in)``.
        kernel: ``(K, K, C_in, C_out)``, of the inputs' dtype.
    """
    tensorflow, sides = native.on_processor(), inputs.shape[1:3]
    usual = layer.data_format == "channels_last" and layer.groups == layer.dilation_rate[0] == 1
    if tensorflow is None or None in sides or not usual:
        return None
    kernel = tensorflow.convert_to_tensor(kernel)
    if layer.kernel_size == (1, 1):
        if layer.strides == (2, 2):
            inputs = _every_other(tensorflow, inputs)
        elif layer.strides != (1, 1) or max(sides) > _SMALL:
            return None
        return _pointwise(tensorflow, inputs, kernel)
    fits = layer.kernel_size == (3, 3) and layer.strides == (1, 1) and layer.padding == "same"
    if not fits or max(sides) > _SMALL:
        return None
    return (_product if max(sides) <= _TINY else _convolution)(tensorflow, inputs, kernel)


def _every_other(tensorflow: Any, inputs: Any) -> Any:
    """Return every other row and column of ``(N, H, W, C)`` inputs, without TensorFlow's strides.

    Odd sides get zeros at their end, of which none is returned.

    A slice with strides takes ten times as long as one of a reshaped tensor without, and so does
    the gradient of either; joining with zeros does the same.
    """
    odd = [side % 2 for side in inputs.shape[1:3]]
    if any(odd):
        inputs = tensorflow.pad(inputs, [[0, 0], *([0, more] for more in odd), [0, 0]])
    _, height, width, channels = inputs.shape

    @tensorflow.custom_gradient
    def every_other(inputs: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            rows = tensorflow.concat([upstream, tensorflow.zeros_like(upstream)], -1)
            rows = tensorflow.reshape(rows, (-1, height // 2, 1, width * channels))
            both = tensorflow.concat([rows, tensorflow.zeros_like(rows)], 2)
            return tensorflow.reshape(both, (-1, height, width, channels))

        pairs = tensorflow.reshape(inputs, (-1, height // 2, 2, width // 2, 2 * channels))
        return pairs[:, :, 0, :, :channels], gradient

    return every_other(inputs)


def _product(tensorflow: Any, inputs: Any, kernel: Any) -> Any:
    """Return a convolution with ``(3, 3, C_in, C_out)`` as one product of whole maps.

    On maps of two by two each place sees all others, each through one part of the kernel, so that
    no part multiplies the zeros around the map: 16 products where TensorFlow does 36.
    """
    _, height, width, channels = inputs.shape
    filters = kernel.shape[-1]
    parts = tensorflow.unstack(tensorflow.reshape(kernel, (9, channels, filters)))
    places = list(itertools.product(range(height), range(width)))

    def seen(row: int, column: int) -> Any:
        """Return what a place of the inputs is multiplied by, for all places of the outputs."""
        return tensorflow.concat([parts[3 * (row - y + 1) + column - x + 1] for y, x in places], 1)

    matrix = tensorflow.concat([seen(*place) for place in places], 0)
    maps = tensorflow.reshape(inputs, (-1, height * width * channels))
    return tensorflow.reshape(tensorflow.matmul(maps, matrix), (-1, height, width, filters))


def _pointwise(tensorflow: Any, inputs: Any, kernel: Any) -> Any:
    """Return a convolution with ``(1, 1, C_in, C_out)`` as a matrix product, its gradients too."""
    nn, matmul = tensorflow.nn, tensorflow.matmul
    _, height, width, channels = inputs.shape
    filters = kernel.shape[-1]

    @tensorflow.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> Any:
        places = tensorflow.reshape(inputs, (-1, channels))
        matrix = tensorflow.reshape(kernel, (channels, filters))

        def gradients(upstream: Any) -> tuple[Any, Any]:
            upstream = tensorflow.reshape(upstream, (-1, filters))
            below = matmul(upstream, matrix, transpose_b=True)
            return (
                tensorflow.reshape(below, (-1, height, width, channels)),
                tensorflow.reshape(matmul(places, upstream, transpose_a=True), kernel.shape),
            )

        if max(height, width) > _TINY:
            return nn.conv2d(inputs, kernel, 1, "VALID"), gradients
        outputs = matmul(places, matrix)
        return tensorflow.reshape(outputs, (-1, height, width, filters)), gradients

    return convolve(inputs, kernel)


def _convolution(tensorflow: Any, inputs: Any, kernel: Any) -> Any:
    """Return the convolution; its kernel's gradient is a matrix product for each of its places."""
    nn = tensorflow.nn
    rows, columns, channels, filters = kernel.shape
    _, height, width, _ = inputs.shape

    @tensorflow.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> Any:
        def gradients(upstream: Any) -> tuple[Any, Any]:
            padded = tensorflow.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]])
            flat = tensorflow.reshape(upstream, (-1, filters))
            products: list[Any] = []
            for row, column in itertools.product(range(rows), range(columns)):
                with tensorflow.control_dependencies(products[-1:]):  # one copy at a time in memory
                    seen = padded[:, row : row + height, column : column + width]
                    seen = tensorflow.reshape(seen, (-1, channels))
                products.append(tensorflow.matmul(seen, flat, transpose_a=True))
            return (
                nn.conv2d_transpose(upstream, kernel, tensorflow.shape(inputs), 1, "SAME"),
                tensorflow.reshape(tensorflow.stack(products), kernel.shape),
            )

        return nn.conv2d(inputs, kernel, 1, "SAME"), gradients

    return convolve(inputs, kernel)


def with_bias(outputs: Any, bias: Any) -> Any:
    """Return ``(N, H, W, C)`` outputs plus a ``(C,)`` bias; TensorFlow can merge what follows.

    Keras adds the bias as any two tensors are added, which hides from TensorFlow that the
    convolution can do it, and the ReLU after it too.
    """
    tensorflow = native.tensorflow()
    if tensorflow is None:
        return outputs + bias
    return tensorflow.nn.bias_add(outputs, tensorflow.convert_to_tensor(bias))


_BUILT_IN = {BatchNormalization: keras.layers.BatchNormalization, Conv2D: keras.layers.Conv2D}


def _of_ours(layer: Any) -> bool:
    """Return whether a layer could not be read without this library, or is a compiled model."""
    if isinstance(layer, keras.Model):
        return layer.compiled or any(_of_ours(part) for part in layer.layers)
    return type(layer) in _BUILT_IN


def plain(model: keras.Model) -> keras.Model:
    """Return ``model`` uncompiled; a copy with Keras's own layers if it has some of these.

    Models in it are treated alike.
    """
    uncompiled = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not any(_of_ours(layer) for layer in model.layers):
        return uncompiled

    def same(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return plain(layer) if _of_ours(layer) else layer
        kind = _BUILT_IN.get(type(layer))
        return kind.from_config(layer.get_config()) if kind else layer

    copy = keras.models.clone_model(uncompiled, clone_function=same)
    copy.set_weights(model.get_weights())
    return copy
