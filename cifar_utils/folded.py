"""Batch normalisation that costs nothing where it is in inference mode.

There it multiplies and shifts each channel by numbers that do not depend on the batch, which the
convolution before it can do as well: with its kernel times ``gamma / sqrt(variance + epsilon)``,
and another bias. The numbers are folded in float32, and cast afterwards.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from cifar_utils import fused


def _factors(normalization: layers.BatchNormalization) -> tuple[Any, Any]:
    """Return what inference mode multiplies each channel by, and what it adds: float32 ``(C,)``."""
    variance = ops.convert_to_tensor(normalization.moving_variance)
    scale = ops.rsqrt(variance + normalization.epsilon)
    if normalization.scale:
        scale = scale * normalization.gamma
    shift = -normalization.moving_mean * scale
    return scale, shift + normalization.beta if normalization.center else shift


def _folded(convolution: layers.Conv2D, normalization: layers.BatchNormalization) -> list[Any]:
    """Return kernel and bias of a convolution that does what both layers do."""
    scale, shift = _factors(normalization)
    kernel = convolution.kernel * scale
    return [kernel, shift if convolution.bias is None else convolution.bias * scale + shift]


def _name(convolution: layers.Conv2D) -> str:
    """Return the name of what replaces a convolution, which may be used elsewhere as well."""
    return f"{convolution.name}_folded"


class Convolution(layers.Conv2D):
    """``keras.layers.Conv2D`` that TensorFlow can merge with what follows it."""

    def call(self, inputs: Any) -> Any:
        """Return the convolution of ``(N, H, W, C)`` inputs, bias added."""
        return fused.with_bias(self.convolution_op(inputs, self.kernel), self.bias)


@keras.saving.register_keras_serializable("cifar_utils")
class Folded(layers.Layer):
    """A convolution and the batch normalisation after it, in inference mode, as one convolution.

    It has no weights of its own: kernel and bias, scale and statistics are those of the two layers,
    and what is trainable there is trained here. Outputs and gradients are the same.

    Args:
        convolution: Without an activation of its own.
        normalization: Over the last axis.
        **options: As for ``keras.layers.Layer``.
    """

    def __init__(
        self,
        convolution: layers.Conv2D,
        normalization: layers.BatchNormalization,
        **options: Any,
    ) -> None:
        # The weights are folded in float32; the convolution's own dtype is what it computes in.
        fixed = {"dtype": "float32", "autocast": False}
        super().__init__(**{"name": _name(convolution), **options, **fixed})
        self.convolution, self.normalization = convolution, normalization

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the two layers where they are not."""
        if not self.convolution.built:
            self.convolution.build(input_shape)
        if not self.normalization.built:
            self.normalization.build(self.convolution.compute_output_shape(input_shape))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the normalised convolution of ``(N, H, W, C)`` inputs."""
        kernel, bias = _folded(self.convolution, self.normalization)
        dtype = self.convolution.compute_dtype
        inputs, kernel, bias = (ops.cast(each, dtype) for each in (inputs, kernel, bias))
        outputs = fused.quick_to_train(self.convolution, inputs, kernel)
        if outputs is None:
            outputs = self.convolution.convolution_op(inputs, kernel)
        return fused.with_bias(outputs, bias)

    def get_config(self) -> dict[str, Any]:
        """Return the two layers."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "convolution": serialize(self.convolution),
            "normalization": serialize(self.normalization),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Folded":
        """Return the layer, its two layers not built."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("convolution", "normalization")
        }
        return cls(**parts, name=config["name"])


def _foldable(layer: Any) -> bool:
    """Return whether batch normalisation after ``layer`` can be folded into it."""
    return (
        isinstance(layer, layers.Conv2D)
        and layer.data_format == "channels_last"
        and layer.activation is keras.activations.linear
    )


Folding = Callable[[layers.Conv2D, layers.BatchNormalization, keras.KerasTensor], Any]
"""From a convolution, the normalisation after it and the input to the output of both."""


def _rebuilt(model: keras.Model, fold: Folding, frozen: bool) -> keras.Model:
    """Return the same function with each convolution and its normalisation merged by ``fold``.

    All other layers are shared with ``model``; models among them are rebuilt as well.

    Args:
        model: A functional model.
        fold: What takes the place of the two layers.
        frozen: Whether only normalisation that is not trainable counts: the other one would use
            the statistics of the batch in training.
    """
    # The outputs are kept, or another tensor could get the identity of one.
    convolved: dict[int, tuple[layers.Conv2D, keras.KerasTensor, keras.KerasTensor]] = {}

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(layer, keras.Model):
            return _rebuilt(layer, fold, frozen)(*arguments, **options)
        if isinstance(layer, layers.BatchNormalization) and id(arguments[0]) in convolved:
            convolution, inputs, outputs = convolved[id(arguments[0])]
            last = layer.axis in (-1, len(outputs.shape) - 1)
            renorm = getattr(layer, "renorm", False)  # Keras 3.13 has no such thing yet
            if last and not renorm and not (frozen and layer.trainable):
                return fold(convolution, layer, inputs)
        outputs = layer(*arguments, **options)
        if _foldable(layer):
            convolved[id(outputs)] = layer, arguments[0], outputs
        return outputs

    return keras.models.clone_model(
        keras.Model(model.input, model.output, name=model.name),  # not compiled
        clone_function=lambda layer: layer,
        call_function=call,
    )


def _constant(
    convolution: layers.Conv2D,
    normalization: layers.BatchNormalization,
    inputs: keras.KerasTensor,
) -> keras.KerasTensor:
    """Return the output of both layers from a new one, its weights kept as they are used."""
    dtype = convolution.compute_dtype
    changed = {"use_bias": True, "dtype": dtype, "kernel_initializer": "zeros", "trainable": False}
    options = {**convolution.get_config(), **changed, "name": _name(convolution)}
    layer = Convolution.from_config(options)
    outputs = layer(inputs)
    for weight, value in zip(layer.weights, _folded(convolution, normalization), strict=True):
        weight.assign(ops.cast(value, dtype))
    return outputs


def inference(model: keras.Model) -> keras.Model:
    """Return ``model`` for use, batch normalisation folded into the convolutions (notebook 04).

    Args:
        model: A functional model, models within it included.

    Returns:
        A model with the same outputs up to rounding. Its convolutions are what the weights give
        now: it does not follow when ``model`` is trained on.
    """
    return _rebuilt(model, _constant, frozen=False)


def trainable(model: keras.Model) -> keras.Model:
    """Return ``model`` for training, frozen batch normalisation folded (notebook 05 introduces it).

    Args:
        model: A functional model, models within it included, whose batch normalisation is not
            trainable; where it is, it stays as it is.

    Returns:
        A model with the same outputs and gradients up to rounding, and the same weights: who trains
        it trains ``model``, which is the one to save.
    """
    return _rebuilt(model, lambda conv, norm, inputs: Folded(conv, norm)(inputs), frozen=True)
