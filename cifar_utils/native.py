"""What Keras has no call for, said to the backend itself."""

from typing import Any

import keras


def tensorflow() -> Any:
    """Return the module ``tensorflow`` if it is the backend, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow

    return tensorflow


def on_processor() -> Any:
    """Return the module ``tensorflow`` if it is the backend and has no GPU, else None."""
    module = tensorflow()
    return None if module is None or module.config.list_physical_devices("GPU") else module


def gradient(function: Any, inputs: Any) -> Any:
    """Return the gradient of a scalar function at a tensor ``inputs``."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(inputs)
    with tensorflow().GradientTape() as tape:
        tape.watch(inputs)
        value = function(inputs)
    return tape.gradient(value, inputs)


def compiled(function: Any) -> Any:
    """Return what computes the same, without Python in between after its first call."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return tensorflow().function(function)


def mirror(devices: list[str] | None) -> None:
    """Have TensorFlow create the variables to come on these devices; None for the usual one."""
    distribute = tensorflow().distribute
    strategy = distribute.MirroredStrategy(devices) if devices else None
    distribute.experimental_set_strategy(strategy)


def feed(batches: keras.utils.PyDataset) -> Any:
    """Return batches as ``fit``, ``evaluate`` and ``predict`` should get them.

    On TensorFlow Keras would make a tf.data.Dataset that tunes itself. The thread that does so
    sleeps, the longer the later, up to a minute, and is not always woken when the work is done:
    then the end of an epoch or of ``predict`` waits for it. So TensorFlow gets one without.

    Args:
        batches: Of tuples of arrays, all with the shapes of the first but for the number of images.
    """
    tf = tensorflow()
    if tf is None:
        return batches
    signature = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in batches[0])
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_generator(
        lambda: (batches[index] for index in range(len(batches))), output_signature=signature
    )
    counted = dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return counted.prefetch(2).with_options(options)
