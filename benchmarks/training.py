"""How quickly do networks train, and how good do they get?

usage: python -m benchmarks.training step [--torch PYTHON] [--rounds 5]
       python -m benchmarks.training profile [--batch 1000]
       python -m benchmarks.training limit [--batch 1000]
       python -m benchmarks.training fit DIR [--recipe fast|long|FILE] [--epochs N] [--seed 0]

``step`` prints a Markdown table of images a second, one process a measurement, alternating, and the
median of each round's ratio. PYTHON is an interpreter that has PyTorch; it adds the same network
there. ``profile`` says where the milliseconds of a step of ``fast_cnn`` go, by TensorFlow's own
profiler. ``limit`` holds the multiply-adds that such a step does in a second against those of plain
products of 4096 x 4096 matrices, in turn. ``fit`` trains on all 50,000 training images in DIR, and
prints one JSON object: the accuracy on the test images, which nothing was chosen by, after each
epoch, the seconds until then without judging, and the peak memory. ``benchmarks/airbench.py`` does
the same for the recipe that this is held against.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sides

NETWORKS = {
    "fast_cnn": "fast_cnn",
    "fast_cnn, Keras's own layers": "fast_cnn stock",
    "baseline_cnn": "baseline_cnn",
    "baseline_cnn, float32, batch 64 (the tutorials)": "baseline_cnn tutorial",
}


def prepared(kind: str, batch: int) -> tuple[Any, Callable[[], object], int]:
    """Return a network, a training step of it on random images, and how many these are."""
    import keras

    from cifar_utils import fused, models, recipes, runtime

    name, *options = kind.split()
    tutorial = "tutorial" in options
    runtime.start(0, "float32" if tutorial else "auto")
    batch = 64 if tutorial else batch
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[generator.integers(0, 10, batch)]
    model = models.build(name, images)
    if "stock" in options:
        model = fused.plain(model)
    recipe = recipes.FAST if name == "fast_cnn" else recipes.TUTORIAL
    model.compile(recipes.optimizer(recipe, 1000), keras.losses.CategoricalCrossentropy(True))
    return model, lambda: model.train_on_batch(images, targets), batch


def measure_step(kind: str, batch: int, operations: bool) -> dict:
    """Return what ``sides.rated`` does of training steps."""
    _, step, batch = prepared(kind, batch)
    return sides.rated(step, batch, operations=operations, repeats=max(1, 500 // batch))


def measure_limit(batch: int, rounds: int = 11) -> dict:
    """Return the billion multiply-adds a second of products and of steps, and the middle share."""
    import keras
    import tensorflow

    from cifar_utils import models

    model, step, batch = prepared("fast_cnn", batch)
    matrix = tensorflow.cast(tensorflow.random.normal((4096, 4096)), "bfloat16")
    product = tensorflow.function(lambda: tensorflow.matmul(matrix, matrix)[0, 0])
    fixed, first = (
        models.multiply_adds(keras.Model(model.input, model.get_layer(name).output))
        for name in ("whitening", "block1_conv1")
    )
    # Forward and two gradients, but none of the fixed layer, nor for what the next one gets.
    work = batch * (3 * models.multiply_adds(model) - fixed - first)
    seconds = sides.in_turn({"products": lambda: product().numpy(), "steps": step}, rounds)
    # The first two rounds are slower.
    products = [4096**3 / 1e9 / each for each in seconds["products"][2:]]
    steps = [work / 1e9 / each for each in seconds["steps"][2:]]
    shares = [mine / plain for mine, plain in zip(steps, products, strict=True)]
    return {
        "products": [round(rate) for rate in products],
        "steps": [round(rate) for rate in steps],
        "share": round(statistics.median(shares), 2),
    }


def measure_fit(folder: str, name: str, epochs: int | None, seed: int) -> dict:
    """Train by a recipe on train and validation images; judge on the test images."""
    import keras

    from cifar_utils import data, evaluation, recipes, runtime, training
    from cifar_utils.data import Split

    class Clock(keras.callbacks.Callback):
        """Notes the seconds of each epoch until validation begins."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self._started = time.perf_counter()

        def on_test_begin(self, logs: dict | None = None) -> None:
            self.seconds.append(time.perf_counter() - self._started)

    plan = recipes.read(name)
    recipe = plan.recipe
    if epochs:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    session = runtime.start(seed, recipe.precision)
    dataset = data.load(folder)
    parts = (dataset.train, dataset.validation)
    train = Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    model = plan.build(train.images)
    clock = Clock()
    with contextlib.redirect_stdout(sys.stderr):
        fitted = training.fit(model, train, dataset.test, recipe, seed=seed, callbacks=[clock])
    history, test = fitted.history, dataset.test
    scores = {
        f"accuracy_{views}": evaluation.accuracy(
            evaluation.predict_logits(model, test.images, views=views), test.labels
        ).value
        for views in ("one", "mirror", "crops")
    }
    return {
        "recipe": name,
        "seed": seed,
        "epochs": len(history),
        "seconds": round(sum(clock.seconds), 1),
        **scores,
        "test_accuracy": history["val_accuracy"].round(4).tolist(),
        "seconds_until": np.cumsum(clock.seconds).round(1).tolist(),
        "data": dataset.provenance.kind,
        "session": str(session),
    }


def commands_of(batch: int) -> dict[str, list[str]]:
    """Return for each network the command that measures its step."""
    start = (sys.executable, "-m", "benchmarks.training", "one-step")
    return {title: [*start, kind, "--batch", str(batch)] for title, kind in NETWORKS.items()}


def profile(batch: int) -> None:
    """Print where the time of a step goes, for ``fast_cnn`` of Keras's own layers and of ours."""
    commands = commands_of(batch)
    titles = ("fast_cnn, Keras's own layers", "fast_cnn")
    sides.print_operations({title: [*commands[title], "--operations"] for title in titles})


def compare_steps(torch: str | None, rounds: int, batch: int) -> None:
    """Print a table of all networks, measured in turn, each in a process of its own."""
    commands = commands_of(batch)
    script = str(Path(__file__).with_name("airbench.py"))
    for activation in ("relu", "gelu") if torch else ():
        commands[f"the same network in PyTorch, {activation}"] = [
            *(torch, script, "--throughput", "--activation", activation, "--batch", str(batch))
        ]
    sides.print_rates(commands, "fast_cnn", rounds)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step")
    step.add_argument("--torch", help="an interpreter with PyTorch")
    step.add_argument("--rounds", type=int, default=5)
    where = commands.add_parser("profile")
    limit = commands.add_parser("limit")
    one = commands.add_parser("one-step")
    one.add_argument("kind")
    one.add_argument("--operations", action="store_true")
    for command in (step, where, limit, one):
        command.add_argument("--batch", type=int, default=1000)
    fit = commands.add_parser("fit")
    fit.add_argument("folder")
    fit.add_argument("--recipe", default="fast", help="of recipes.PLANS, or a file")
    fit.add_argument("--epochs", type=int)
    fit.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "step":
        compare_steps(options.torch, options.rounds, options.batch)
        return
    if options.command == "profile":
        profile(options.batch)
        return
    if options.command == "one-step":
        found = measure_step(options.kind, options.batch, options.operations)
    elif options.command == "limit":
        found = measure_limit(options.batch)
    else:
        found = measure_fit(options.folder, options.recipe, options.epochs, options.seed)
    print(json.dumps({**found, "peak_memory_gib": sides.peak_memory()}))


if __name__ == "__main__":
    main()
