"""Data-parallel training: every device has the whole model and its share of each batch.

On JAX only the training itself is spread (``spread``): before and after it a model lives on one
device like any other, so that nothing else has to know. TensorFlow creates a model's variables for
several devices or for one, and for good, so there ``start`` decides for all models to come.
"""

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from cifar_utils import native
from cifar_utils.errors import CifarUtilsError, ParameterError

_parallel: keras.distribution.DataParallel | None = None
"""How JAX divides a training; None with one device."""

_devices = 1
"""How many devices divide a batch, those of all hosts together."""


@functools.cache
def hosts() -> tuple[int, int]:
    """Return how many hosts there are, and which of them this is, counted from 0.

    The first call meets the others, if ``KERAS_DISTRIBUTION_JOB_ADDRESSES`` says where they are.

    Raises:
        ParameterError: The backend is another one than JAX.
        CifarUtilsError: The hosts could not meet.
    """
    if not os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        return 1, 0
    if keras.backend.backend() != "jax":
        raise ParameterError(
            "several hosts need the JAX backend; set KERAS_BACKEND=jax, or unset "
            "KERAS_DISTRIBUTION_JOB_ADDRESSES"
        )
    try:
        keras.distribution.initialize()
    except (RuntimeError, ValueError) as error:
        raise CifarUtilsError(
            f"the hosts could not meet: {error}\nevery host needs the same "
            "KERAS_DISTRIBUTION_JOB_ADDRESSES and KERAS_DISTRIBUTION_NUM_PROCESSES and a "
            "KERAS_DISTRIBUTION_PROCESS_ID of its own, from 0, before anything is computed"
        ) from error
    import jax

    return jax.process_count(), jax.process_index()


def start(devices: int | str = "auto") -> int:
    """Choose what models are trained on from now on; ``runtime.start`` calls it.

    Args:
        devices: The first so many, or ``auto``: all accelerators, or the processor where there are
            none; with several hosts all devices of all of them. ``CIFAR_UTILS_DEVICES`` overrides.

    Returns:
        How many devices that is.

    Raises:
        ParameterError: There are fewer devices, or the number is none.
        CifarUtilsError: There are several hosts, and they could not meet.
    """
    global _parallel, _devices
    asked = os.environ.get("CIFAR_UTILS_DEVICES") or str(devices)
    if asked != "auto" and not (asked.isdecimal() and int(asked)):
        raise ParameterError(f"devices is {asked!r}; expected auto or a number from 1")
    several = hosts()[0] > 1
    names = keras.distribution.list_devices()
    if several and asked != "auto":
        raise ParameterError(
            f"devices is {asked}; several hosts use all the devices they have, so leave it at auto"
        )
    if asked == "auto":
        count = 1 if names[0].startswith("cpu") and not several else len(names)
    else:
        count = int(asked)
    if count > len(names):
        raise ParameterError(
            f"{count} devices were asked for, and {keras.backend.backend()} finds "
            f"{len(names)} ({', '.join(names)}); ask for {len(names)} at most, or auto"
        )
    chosen = names[:count] if count > 1 else None
    if keras.backend.backend() == "jax":
        # ``share`` gives each host its part; Keras could only divide a tf.data.Dataset.
        parallel = functools.partial(keras.distribution.DataParallel, auto_shard_dataset=False)
        _parallel = parallel(devices=chosen) if chosen else None
    else:
        native.mirror(chosen)
    _devices = count
    return count


class _Validation(keras.callbacks.Callback):
    """Has every device validate with whole batches, whose number of images need not divide."""

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        keras.distribution.set_distribution(None)

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        keras.distribution.set_distribution(_parallel)


@contextmanager
def spread(
    model: keras.Model, metrics: Sequence[keras.metrics.Metric] = ()
) -> Iterator[list[keras.callbacks.Callback]]:
    """Spread a model over the devices, to be trained inside the context (notebook 02 relies on it).

    The losses are those of one device, apart from rounding; on TensorFlow batch normalisation takes
    its mean and variance from the share of each device.

    Args:
        model: Compiled, its optimizer built.
        metrics: Those it was compiled with; Keras does not name them before the first batch.

    Yields:
        The callbacks that ``model.fit`` needs there.
    """
    if _devices == 1:
        yield []
        return
    if _parallel is None:
        yield []
    else:
        for variable in _state(model, metrics):
            layout = keras.distribution.TensorLayout(
                [None] * len(variable.shape), _parallel.device_mesh
            )
            variable.assign(keras.distribution.distribute_tensor(variable.numpy(), layout))
        with _parallel.scope():
            yield [_Validation()]
    # On JAX this brings the variables back to one device; on TensorFlow, where each device has its
    # own moving averages of batch normalisation, it gives all of them those of the first.
    for variable in _state(model, metrics):
        variable.assign(variable.numpy())


def _state(model: keras.Model, metrics: Sequence[keras.metrics.Metric]) -> list[keras.Variable]:
    """Return all variables that a training step may change."""
    measured = [variable for metric in metrics for variable in metric.variables]
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables, *measured]


class _Share(keras.utils.PyDataset):
    """This host's part of batches, as many images for each device as for any other."""

    def __init__(self, batches: keras.utils.PyDataset) -> None:
        super().__init__()
        self._batches = batches
        # The last batch of an epoch may have too few images for all devices to get one.
        self._count = len(batches) - (len(batches[len(batches) - 1][0]) < _devices)
        if not self._count:
            raise ParameterError(
                f"the images do not make one batch for {_devices} devices; give the model more of "
                "them, or train on fewer devices (cifar run --devices)"
            )

    def __len__(self) -> int:
        """Return the number of batches."""
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return this host's part of batch ``index``."""
        parts = self._batches[index]
        count, place = hosts()
        images = len(parts[0]) // _devices * _devices // count
        return tuple(part[place * images : (place + 1) * images] for part in parts)

    def on_epoch_end(self) -> None:
        """Pass it on."""
        self._batches.on_epoch_end()


def share(batches: keras.utils.PyDataset) -> keras.utils.PyDataset:
    """Return what this host learns from: its part of batches that the devices can divide evenly.

    What is too many of a batch is left out: of an epoch, in another order each time, fewer images
    than there are devices, if the batch size is a multiple of their number.

    Args:
        batches: Those of all hosts together, the same on each.

    Raises:
        ParameterError: There is not an image for each device.
    """
    return batches if _devices == 1 else _Share(batches)


def judging_size(images: int, most: int) -> int:
    """Return the size of validation batches, of which TensorFlow gives every device a share.

    Its first batch must divide evenly, and in the last one no device may go without an image.

    Args:
        images: How many there are to validate with.
        most: The largest size.

    Returns:
        At most ``most``, and just that on JAX or with one device.
    """
    if _devices == 1 or _parallel is not None:
        return most
    sizes = range(min(most, images) // _devices * _devices, _devices, -_devices)
    return next((size for size in sizes if not 0 < images % size < _devices), _devices)
