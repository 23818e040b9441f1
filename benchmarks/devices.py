"""What does it bring, and what does it cost, to divide a training's batches between devices?

usage: python -m benchmarks.devices [--backends tensorflow jax] [--rounds 3] [--batch 256]

Prints a Markdown table for each backend: images a second of ``training.fit`` with the data
parallelism of the library on virtual devices, which share the cores of this machine. From one
device on one core to two on two is what a second device brings; more devices than cores bring
nothing, and show what dividing costs. The same images and seed throughout, ``baseline_cnn`` in
float32; a process a measurement, in turn. The first epoch, which compiles, does not count.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys

from benchmarks import sides

BACKENDS = ("tensorflow", "jax")
EPOCHS = 4
IMAGES = 2048
KINDS = ((1, 1), (1, 2), (2, 2), (4, 2), (8, 2))
"""Devices, and the cores that they share."""


def virtual(backend: str, devices: int) -> None:
    """Have the backend find so many processors; before it computes anything."""
    os.environ["KERAS_BACKEND"] = backend
    if backend == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
        return
    import tensorflow

    processor = tensorflow.config.list_physical_devices("CPU")[0]
    parts = [tensorflow.config.LogicalDeviceConfiguration()] * devices
    tensorflow.config.set_logical_device_configuration(processor, parts)


def measure(backend: str, devices: int, cores: int, batch: int) -> dict[str, float]:
    """Train on so many devices; return the images a second of an epoch."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    virtual(backend, devices)
    import numpy as np

    from cifar_utils import models, recipes, runtime, training
    from cifar_utils.data import Split

    runtime.start(0, "float32", devices)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    train = Split(images, generator.integers(0, 10, IMAGES))
    model = models.build("baseline_cnn", images, dropout=0.0)
    recipe = recipes.Recipe(EPOCHS, batch_size=batch)
    with contextlib.redirect_stdout(sys.stderr):
        history = training.fit(model, train, None, recipe, seed=0).history
    return {
        "images_per_second": IMAGES / statistics.median(history["seconds"][1:]),
        "peak_memory_gib": sides.peak_memory(),
    }


def main() -> None:
    """Print the tables, or measure one thing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("one", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    if options.one:
        backend, devices, cores = options.one
        print(json.dumps(measure(backend, int(devices), int(cores), options.batch)))
        return
    for backend in options.backends:
        commands = {}
        for devices, cores in KINDS:
            title = f"{devices} device{'s' * (devices > 1)}, {cores} core{'s' * (cores > 1)}"
            one = (backend, str(devices), str(cores), "--batch", str(options.batch))
            commands[title] = [sys.executable, "-m", "benchmarks.devices", *one]
        print(f"\n{backend}\n", flush=True)
        sides.print_rates(commands, "1 device, 2 cores", options.rounds)


if __name__ == "__main__":
    main()
