"""Muon for convolutional networks: the optimizer behind the fast recipe."""

import math

import keras
from keras import ops

FINAL_LAYERS = ["logits"]
"""Layers whose kernel Adam updates: Muon suits weights between hidden units."""


class Muon(keras.optimizers.Muon):
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
        **options: object,
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
        update = self.zeropower_via_newtonschulz5(matrix, self.ns_steps)
        length = math.sqrt(variable.shape[-1]) / ops.sqrt(ops.sum(ops.square(variable)))
        self.assign(variable, variable * length - lr * ops.reshape(update, variable.shape))

    def get_config(self) -> dict[str, object]:
        """Return the settings this class takes, for saving."""
        config = keras.optimizers.Optimizer.get_config(self)
        del config["weight_decay"]
        return config | {
            "momentum": self.momentum,
            "adam_ratio": self.adam_lr_ratio,
            "exclude_layers": self.exclude_layers,
        }
