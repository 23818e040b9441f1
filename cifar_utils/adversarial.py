"""Training on attacked images: the fast gradient sign method inside the training step."""

from typing import Any

import keras
from keras import ops

from cifar_utils import native
from cifar_utils.errors import ParameterError


def float_twin(model: keras.Model) -> keras.Model:
    """Return ``model`` with float32 images at its door; the layers and weights are the same ones.

    Whole numbers have no gradient, so an attack needs the network as a function of real ones.
    """
    images = keras.Input(model.inputs[0].shape[1:], dtype="float32")
    whole = keras.Model(model.inputs[0], model.outputs[0])
    return keras.models.clone_model(whole, input_tensors=images, clone_function=lambda layer: layer)


def attacked(
    twin: keras.Model, images: Any, targets: Any, loss: keras.losses.Loss, step: float
) -> Any:
    """Return images attacked by the fast gradient sign method (notebook 03 introduces it).

    Every grey level moves by ``step`` in the direction that raises the loss (Goodfellow et al.,
    arXiv 1412.6572). Dropout and batch normalisation are in inference mode: the attack is on the
    network that will be used, and leaves no trace in its statistics.

    Args:
        twin: What ``float_twin`` returned.
        images: uint8 ``(N, H, W, 3)``.
        targets: What ``loss`` takes with logits.
        loss: Cross-entropy of logits.
        step: In grey levels of 255.

    Returns:
        uint8 ``(N, H, W, 3)``.
    """

    def total(images: Any) -> Any:
        return ops.sum(loss.call(targets, twin(images, training=False)))

    real = ops.cast(images, "float32")
    moved = real + step * ops.sign(native.gradient(total, real))
    return ops.cast(ops.round(ops.clip(moved, 0.0, 255.0)), "uint8")


class Hardened(keras.Model):
    """A model whose training step also learns from attacked images; it shares layers and weights.

    Half of a step's loss is that of the clean batch and half that of the attacked one.
    """

    def attack_with(self, loss: keras.losses.Loss, step: float) -> None:
        """Set the attack; the arguments are those of ``attacked``."""
        twin = float_twin(self)

        def both(images: Any, targets: Any) -> tuple[Any, Any]:
            moved = attacked(twin, images, targets, loss, step)
            return ops.concatenate([images, moved]), ops.concatenate([targets, targets])

        self._both = both

    def train_step(self, *arguments: Any) -> Any:
        """Add attacked images to the batch and do the step (JAX's has the weights as arguments)."""
        *state, (images, targets) = arguments
        if not state:
            return super().train_step(self._both(images, targets))
        trainable, non_trainable, _, _ = state[0]
        mapping = [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.non_trainable_variables, non_trainable, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping):
            data = self._both(images, targets)
        return super().train_step(state[0], data)


def hardened(model: keras.Model, loss: keras.losses.Loss, step: float) -> Hardened:
    """Return ``model`` with a training step that also learns from attacked images.

    Args:
        model: From uint8 images to logits.
        loss: Cross-entropy of logits.
        step: Of the attack, in grey levels of 255.

    Raises:
        ParameterError: The model takes no images.
    """
    if keras.backend.standardize_dtype(model.inputs[0].dtype) != "uint8":
        raise ParameterError(
            "adversarial training needs a model that takes uint8 images; set adversarial to 0"
        )
    found = Hardened(model.inputs[0], model.outputs[0], name=model.name)
    found.attack_with(loss, step)
    return found
