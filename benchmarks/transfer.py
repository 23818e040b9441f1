"""How quickly does ResNet50 give features, how quickly is it fine-tuned, and what does that save?

usage: python -m benchmarks.transfer features [--torch PYTHON] [--size 64] [--rounds 5]
       python -m benchmarks.transfer finetune [--torch PYTHON] [--size 64] [--rounds 5]
       python -m benchmarks.transfer profile [--size 64] [--batch 64]
       python -m benchmarks.transfer naive DIR [--images N] [--epochs 20] [--measured 1]
       python -m benchmarks.transfer extract DIR [--images 2000] [--size 224]
       python -m benchmarks.transfer accuracy DIR [--images N] [--epochs 3]

``features`` and ``finetune`` print a Markdown table of images a second on random images and
weights, one process a measurement, alternating. PYTHON is an interpreter that has PyTorch; it adds
the same network there (``benchmarks/resnet50_torch.py``). ``profile`` says where the milliseconds
of a fine-tuning step go, by TensorFlow's own profiler. ``naive`` compares two ways to train a head
on frozen features of the images in DIR: the whole network forward in every epoch, and the features
once. Of the first way only so many epochs are measured; the rest is estimated from them, and the
output says so. ``extract`` says how fast features are written to disk, and what memory that takes.
``accuracy`` sets ways to use a ResNet50 beside each other: random and frozen, pretrained and
frozen, the same with batch normalisation's statistics of these images, that one fine-tuned, and one
trained from scratch for as many epochs.
Weights come from ``CIFAR_UTILS_RESNET50_WEIGHTS``.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import sides
from cifar_utils import (
    data,
    evaluation,
    features,
    finetuning,
    folded,
    normalization,
    pretrained,
    recipes,
    runtime,
    training,
    transfer,
)
from cifar_utils.data import Split

LINEAR = recipes.Recipe(
    20, 128, optimizer="adamw", weight_decay=1e-2, learning_rate=1e-3, schedule="cosine"
)
"""How heads are trained."""

KINDS = {
    "features": {
        "Keras, float32": "stock float32",
        "Keras, mixed_bfloat16": "stock mixed_bfloat16",
        "ours, mixed_bfloat16": "ours mixed_bfloat16",
    },
    "finetune": {
        "Keras, mixed_bfloat16": "stock mixed_bfloat16",
        "ours, mixed_bfloat16": "ours mixed_bfloat16",
    },
}
BATCH = {"features": 250, "finetune": 64}


def measure_features(kind: str, size: int, batch: int, operations: bool) -> dict:
    """Return images a second of ``predict`` on random images."""
    variant, policy = kind.split()
    runtime.start(0, policy)
    model = pretrained.extractor(pretrained.RANDOM, size)
    if variant == "ours":
        model = folded.inference(model)
    images = np.random.default_rng(0).integers(0, 256, (4 * batch, 32, 32, 3), dtype=np.uint8)
    return sides.rated(
        lambda: model.predict(images, batch_size=batch, verbose=0),
        len(images),
        operations=operations,
        rounds=5,
    )


def measure_finetune(kind: str, size: int, batch: int, operations: bool) -> dict:
    """Return images a second of training steps of the whole network on random images."""
    variant, policy = kind.split()
    runtime.start(0, policy)
    features = pretrained.extractor(pretrained.RANDOM, size)
    model = transfer.join(features, transfer.head(), "model")
    base = model.get_layer("resnet50")
    base.trainable = True
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    recipe = recipes.Recipe(1, optimizer="adamw", learning_rate=1e-4, weight_decay=1e-4)
    if variant == "ours":
        model, optimizer = folded.trainable(model), recipes.optimizer(recipe, 1000)
    else:
        rate = recipes.schedule(recipe, 1000)
        optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[generator.integers(0, 10, batch)]
    return sides.rated(lambda: model.train_on_batch(images, targets), batch, operations=operations)


def commands_of(what: str, *options: str) -> dict[str, list[str]]:
    """Return for each kind of network the command that measures it."""
    return {
        title: [sys.executable, "-m", "benchmarks.transfer", "one", what, kind, *options]
        for title, kind in KINDS[what].items()
    }


def profile(size: int, batch: int) -> None:
    """Print where the time of a fine-tuning step goes, for Keras's network and for ours."""
    print(f"{size} px, batch {batch}\n")
    options = ("--size", str(size), "--batch", str(batch), "--operations")
    sides.print_operations(commands_of("finetune", *options))


def compare(what: str, torch: str | None, rounds: int, size: int, batch: int) -> None:
    """Print a table of all kinds, measured in turn, each in a process of its own."""
    options = ["--size", str(size), "--batch", str(batch)]
    commands = commands_of(what, *options)
    if torch:
        script = str(Path(__file__).with_name("resnet50_torch.py"))
        commands["PyTorch, bfloat16, channels last"] = [torch, script, what, *options]
    print(f"{what}, {size} px, batch {batch}\n")
    sides.print_rates(commands, "ours, mixed_bfloat16", rounds)


def quietly_fitted(*arguments: Any, **options: Any) -> Any:
    """Return what ``training.fit`` returns, its lines on stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        return training.fit(*arguments, seed=0, **options)


def prepared(folder: str, images: int | None, size: int) -> tuple[Split, Split, pretrained.Weights]:
    """Return training images, validation images and weights; print what they are."""
    session = runtime.start(0)
    dataset, weights = data.load(folder), pretrained.resolve()
    train, validation = dataset.train.first(images), dataset.validation
    print(f"{session}; {dataset.provenance.kind} data, {len(train):,} training images and")
    print(f"{len(validation):,} to judge by, {size} px, pretraining {weights.pretraining}\n")
    return train, validation, weights


def naive(folder: str, images: int | None, epochs: int, measured: int, size: int) -> None:
    """Print the wall time of both ways to train a head, and the accuracy of the second."""
    train, validation, weights = prepared(folder, images, size)
    recipe = dataclasses.replace(LINEAR, epochs=epochs)
    rows: list[tuple[str, float, str]] = []

    extractor = pretrained.extractor(weights, size)
    slow = transfer.join(extractor, transfer.head(), "naive")
    few = dataclasses.replace(recipe, epochs=measured)
    each = quietly_fitted(slow, train, validation, few).seconds / measured
    note = "measured" if measured == epochs else f"estimated from {measured} measured"
    rows.append(
        (f"whole network in each of {epochs} epochs ({note})", each * epochs, "not measured")
    )
    if measured == epochs:
        logits = evaluation.predict_logits(slow, validation.images)
        rows[0] = (*rows[0][:2], str(evaluation.accuracy(logits, validation.labels)))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CIFAR_UTILS_DATA_DIR"] = cache
        started = time.perf_counter()
        kept = Split(features.extract(extractor, train.images).values, train.labels)
        judged = Split(features.extract(extractor, validation.images).values, validation.labels)
        head = transfer.head()
        quietly_fitted(head, kept, judged, recipe)
        seconds = time.perf_counter() - started
        logits = evaluation.predict_logits(head, judged.images.astype(np.float32))
    accuracy = str(evaluation.accuracy(logits, validation.labels))
    rows.append((f"features once, then {epochs} epochs of the head", seconds, accuracy))
    print("| way | seconds | share | validation accuracy |\n|---|--:|--:|---|")
    for title, value, found in rows:
        print(f"| {title} | {value:,.0f} | {value / rows[0][1]:.3f} | {found} |")


def extract(folder: str, images: int, size: int) -> None:
    """Print images a second and peak memory of ``features.extract``."""
    session = runtime.start(0)
    dataset = data.load(folder)
    parts = (dataset.train, dataset.validation, dataset.test)
    chosen = np.concatenate([part.images for part in parts])[:images]
    before = sides.peak_memory()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CIFAR_UTILS_DATA_DIR"] = cache
        extractor = pretrained.extractor(pretrained.resolve(), size)
        found = features.extract(extractor, chosen)
    pace = len(chosen) / found.seconds
    print(
        f"{session}; {size} px: {len(chosen):,} images, {pace:,.0f} a second, peak memory "
        f"{sides.peak_memory()} GiB ({before} GiB before)"
    )


def accuracy(folder: str, images: int | None, epochs: int, size: int) -> None:
    """Print what a ResNet50 knows, learns, and would have learned without pretraining."""
    train, validation, weights = prepared(folder, images, size)
    gentle = recipes.Recipe(
        epochs,
        128,
        optimizer="adamw",
        learning_rate=6e-4,
        warmup=0.1,
        label_smoothing=0.1,
        augmentation="standard",
    )
    print("| ResNet50 | pretraining | validation accuracy | seconds |\n|---|---|---|--:|")

    def show(title: str, source: pretrained.Weights, model: Any, seconds: float) -> None:
        found = evaluation.accuracy(
            evaluation.predict_logits(model, validation.images), validation.labels
        )
        print(f"| {title} | {source.pretraining} | {found} | {seconds:,.0f} |", flush=True)

    # The last of them is fine-tuned.
    for source, adapted in ((pretrained.RANDOM, False), (weights, False), (weights, True)):
        extractor = pretrained.extractor(source, size)
        started = time.perf_counter()
        if adapted:
            normalization.refresh(extractor, train.images[:2000], 250, frozen=True)
        adapting = time.perf_counter() - started
        seen, judged = (
            features.extract(extractor, split.images, pretraining=source.pretraining)
            for split in (train, validation)
        )
        head = transfer.head()
        kept = Split(seen.values, train.labels), Split(judged.values, validation.labels)
        fitted = quietly_fitted(head, *kept, LINEAR)
        model = transfer.join(extractor, head, "model")
        title = "frozen, statistics of these images" if adapted else "frozen"
        show(f"{title}, linear head", source, model, adapting + seen.seconds + fitted.seconds)
    gentle = dataclasses.replace(gentle, rates=finetuning.weight_rates(model))
    with contextlib.redirect_stdout(sys.stderr):
        phases = [finetuning.Phase("conv2", gentle)]
        fitted = finetuning.fine_tune(model, train, None, phases, seed=0, weights=weights)
    show(f"then fine-tuned, {epochs} epochs", weights, model, fitted.seconds)
    keras.utils.set_random_seed(0)
    extractor = pretrained.extractor(pretrained.RANDOM, size)
    model = transfer.join(extractor, transfer.head(), "model")
    model.get_layer("resnet50").trainable = True
    fresh = dataclasses.replace(gentle, learning_rate=1e-3, rates=())
    fitted = quietly_fitted(model, train, None, fresh)
    show(f"from scratch, {epochs} epochs", pretrained.RANDOM, model, fitted.seconds)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in KINDS:
        several = commands.add_parser(name)
        several.add_argument("--torch", help="an interpreter with PyTorch")
        several.add_argument("--rounds", type=int, default=5)
        several.add_argument("--batch", type=int, default=BATCH[name])
        several.add_argument("--size", type=int, default=64)
    where = commands.add_parser("profile")
    where.add_argument("--batch", type=int, default=BATCH["finetune"])
    where.add_argument("--size", type=int, default=64)
    one = commands.add_parser("one")
    one.add_argument("what", choices=tuple(KINDS))
    one.add_argument("kind")
    one.add_argument("--batch", type=int, required=True)
    one.add_argument("--size", type=int, required=True)
    one.add_argument("--operations", action="store_true")
    whole = commands.add_parser("naive")
    whole.add_argument("folder")
    whole.add_argument("--images", type=int, help="training images, all by default")
    whole.add_argument("--epochs", type=int, default=20)
    whole.add_argument("--measured", type=int, default=1)
    whole.add_argument("--size", type=int, default=64)
    once = commands.add_parser("extract")
    once.add_argument("folder")
    once.add_argument("--images", type=int, default=2000)
    once.add_argument("--size", type=int, default=224)
    ways = commands.add_parser("accuracy")
    ways.add_argument("folder")
    ways.add_argument("--images", type=int, help="training images, all by default")
    ways.add_argument("--epochs", type=int, default=3)
    ways.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    if options.command == "naive":
        naive(options.folder, options.images, options.epochs, options.measured, options.size)
    elif options.command == "extract":
        extract(options.folder, options.images, options.size)
    elif options.command == "accuracy":
        accuracy(options.folder, options.images, options.epochs, options.size)
    elif options.command == "profile":
        profile(options.size, options.batch)
    elif options.command == "one":
        measure = {"features": measure_features, "finetune": measure_finetune}[options.what]
        found = measure(options.kind, options.size, options.batch, options.operations)
        print(json.dumps({**found, "peak_memory_gib": sides.peak_memory()}))
    else:
        compare(options.command, options.torch, options.rounds, options.size, options.batch)


if __name__ == "__main__":
    main()
