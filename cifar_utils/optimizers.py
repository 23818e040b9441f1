"""Keras's optimizers with a learning rate of its own for each layer, and Muon for convolutions."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from cifar_utils import native

FINAL_LAYERS = ["logits"]
"""Layers whose kernel Adam updates: Muon suits weights between hidden units."""

Rates = Sequence[tuple[str, float]]
"""Pairs of the beginning of layers' names and a factor on their learning rate."""


def factor(rates: Rates, path: str) -> float:
    """Return the factor for the weight at ``path``: that of the first pair that fits, else 1.

    Args:
        rates: Such as ``(("conv4", 0.1), ("conv5", 0.3))``.
        path: Of a Keras variable, such as ``conv4_block1_1_conv/kernel``.
    """
    names = path.split("/")
    found = (value for start, value in rates if any(name.startswith(start) for name in names))
    return next(found, 1.0)


def fitting(rates: Rates, weights: Sequence[keras.Variable]) -> tuple[tuple[str, float], ...]:
    """Return those of the pairs that fit one of the weights."""
    return tuple(
        (start, value)
        for start, value in rates
        if any(name.startswith(start) for weight in weights for name in weight.path.split("/"))
    )


class _Discriminative(keras.optimizers.Optimizer):
    """Learning rates that differ between layers (ULMFiT, arXiv 1801.06146), for any optimizer.

    Weight decay is decoupled, a share of the weight times the learning rate, and follows the
    layer's rate: a layer that learns a tenth as fast also forgets a tenth as fast.

    Args:
        *arguments: As for the optimizer.
        rates: See ``factor``; none leaves the optimizer as Keras has it.
        **options: As for the optimizer.
    """

    weight_decay: float | None

    def __init__(self, *arguments: Any, rates: Rates = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rates = tuple((start, float(value)) for start, value in rates)
        self._factors: tuple[float, ...] = ()

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the optimizer's variables and look up each weight's factor."""
        if not self.built:
            self._factors = tuple(factor(self.rates, variable.path) for variable in variables)
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a weight at its own rate."""
        own = self._factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate if own == 1 else learning_rate * own)

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Take from each weight its share, at its own rate."""
        decay = self.weight_decay
        if not decay:
            return
        for own in sorted(set(self._factors)):
            group = [v for v in variables if self._factors[self._get_variable_index(v)] == own]
            self.weight_decay = decay * own
            super()._apply_weight_decay(group)
        self.weight_decay = decay

    def get_config(self) -> dict[str, Any]:
        """Return the settings, for saving."""
        return {**super().get_config(), "rates": [list(pair) for pair in self.rates]}


class _OneOperation(keras.optimizers.Optimizer):
    """Adam's update of a weight in one operation where TensorFlow runs on a processor.

    Keras makes a dozen of it, each of which reads and writes as many numbers as the weight has.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a weight and its two moments."""
        tensorflow = native.on_processor()
        if tensorflow is None or self.amsgrad or tensorflow.distribute.has_strategy():
            super().update_step(gradient, variable, learning_rate)
            return
        index, dtype = self._get_variable_index(variable), variable.dtype
        step = tensorflow.cast(self.iterations + 1, dtype)
        resources = (variable, self._momentums[index].value, self._velocities[index].value)
        handles = dict(zip(("var", "m", "v"), (each.handle for each in resources), strict=True))
        tensorflow.raw_ops.ResourceApplyAdam(
            **handles,
            beta1_power=tensorflow.cast(self.beta_1, dtype) ** step,
            beta2_power=tensorflow.cast(self.beta_2, dtype) ** step,
            lr=tensorflow.cast(learning_rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tensorflow.cast(gradient, dtype),
        )

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Take from each weight its share, with one product less than Keras."""
        tensorflow = native.on_processor()
        if tensorflow is None or tensorflow.distribute.has_strategy() or not self.weight_decay:
            super()._apply_weight_decay(variables)
            return
        share = self.learning_rate * self.weight_decay
        for variable in filter(self._use_weight_decay, variables):
            self.assign_sub(variable, variable.value * tensorflow.cast(share, variable.dtype))


@keras.saving.register_keras_serializable("cifar_utils")
class Adam(_Discriminative, _OneOperation, keras.optimizers.Adam):
    """``keras.optimizers.Adam`` with discriminative learning rates."""


@keras.saving.register_keras_serializable("cifar_utils")
class AdamW(_Discriminative, _OneOperation, keras.optimizers.AdamW):
    """``keras.optimizers.AdamW`` with discriminative learning rates."""


@keras.saving.register_keras_serializable("cifar_utils")
class RMSprop(_Discriminative, keras.optimizers.RMSprop):
    """``keras.optimizers.RMSprop`` with discriminative learning rates."""


@keras.saving.register_keras_serializable("cifar_utils")
class SGD(_Discriminative, keras.optimizers.SGD):
    """``keras.optimizers.SGD`` with discriminative learning rates."""


@keras.saving.register_keras_serializable("cifar_utils")
class Muon(_Discriminative, keras.optimizers.Muon):
    """Keras's Muon, for convolution kernels too, with kernels of a fixed norm.

    A step replaces the momentum of a kernel, seen as a matrix of ``9 C_in`` rows and ``C_out``
    columns, by the nearest matrix with orthogonal columns (Newton-Schulz iteration, Jordan et al.,
    https://kellerjordan.github.io/posts/muon), so that all directions learn at the same rate.
    Kernels are first scaled to the norm ``sqrt(C_out)``: in a network with batch normalisation
    their length means nothing, and a fixed one makes the learning rate the relative size of a step
    (airbench, arXiv 2404.00498). Biases, scales and the last layer follow Adam.

    Args:
        learning_rate: Size of a step relative to the kernel, number or schedule.
        momentum: Of Nesterov's momentum, 0 to below 1.
        adam_ratio: Adam's learning rate as a share of ``learning_rate``.
        **options: As for ``keras.optimizers.Optimizer``.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.2,
        momentum: float = 0.6,
        adam_ratio: float = 0.01,
        **options: Any,
    ) -> None:
        options.setdefault("exclude_layers", FINAL_LAYERS)
        super().__init__(
            learning_rate,
            momentum=momentum,
            adam_lr_ratio=adam_ratio,
            ns_steps=3,
            weight_decay=None,
            adam_weight_decay=None,
            rms_rate=None,
            **options,
        )

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        """Return whether Adam updates ``variable``."""
        return len(variable.shape) != 4 or any(
            name in variable.path for name in self.exclude_layers
        )

    def _muon_update_step(
        self,
        gradient: keras.KerasTensor,
        variable: keras.Variable,
        lr: keras.KerasTensor,
        m: keras.Variable,
    ) -> None:
        """Update a convolution kernel."""
        self.assign(m, gradient + self.momentum * m)
        matrix = ops.reshape(gradient + self.momentum * m, (-1, variable.shape[-1]))
        if keras.config.dtype_policy().compute_dtype == "bfloat16":
            # The iteration tolerates it once the scale is right, and matrix units are quick in it.
            matrix = ops.cast(matrix / (ops.norm(matrix) + 1e-7), "bfloat16")
        update = ops.cast(self.zeropower_via_newtonschulz5(matrix, self.ns_steps), variable.dtype)
        length = math.sqrt(variable.shape[-1]) / ops.sqrt(ops.sum(ops.square(variable)))
        self.assign(variable, variable * length - lr * ops.reshape(update, variable.shape))

    def get_config(self) -> dict[str, object]:
        """Return the settings this class takes, for saving."""
        config = keras.optimizers.Optimizer.get_config(self)
        del config["weight_decay"]
        return config | {
            "rates": [list(pair) for pair in self.rates],
            "momentum": self.momentum,
            "adam_ratio": self.adam_lr_ratio,
            "exclude_layers": self.exclude_layers,
        }
