"""What does augmentation cost, beside Keras's layers and as a share of a training step?

usage: python -m benchmarks.augmentation [--batch 1000] [--rounds 9]

Prints a Markdown table: microseconds an image of every policy and of the Keras layer that comes
closest (in float32, because some fail on other pixels; first call, then later ones), and the policy
as a share of a training step of ``fast_cnn`` with images of each size that its recipe has, and of
``baseline_cnn``. The last rows are what reducing the images costs. All are measured in turn, a
round each; medians of later rounds.
"""

import argparse
import functools
import statistics
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from benchmarks import sides
from cifar_utils import augment, models, recipes, runtime
from cifar_utils.batches import resized

COMMON = {"seed": 0, "dtype": "float32"}
RANGE = {"value_range": (0, 255), **COMMON}

LAYERS: dict[str, Callable[[], keras.Layer]] = {
    "flip": lambda: layers.RandomFlip("horizontal", **COMMON),
    "shift": lambda: layers.RandomTranslation(4 / 32, 4 / 32, **COMMON),
    "rotate": lambda: layers.RandomRotation(15 / 360, **COMMON),
    "zoom": lambda: layers.RandomZoom(0.2, **COMMON),
    "brightness": lambda: layers.RandomBrightness(0.3, **RANGE),
    "contrast": lambda: layers.RandomContrast(0.4, **RANGE),
    "erasing": lambda: layers.RandomErasing(0.5, **RANGE),
    "mixup": lambda: layers.MixUp(0.4, **COMMON),
    "cutmix": lambda: layers.CutMix(1.0, **COMMON),
    "randaugment": lambda: layers.RandAugment(num_ops=2, factor=0.5, **RANGE),
    "augmix": lambda: layers.AugMix(factor=0.3, **RANGE),
}


def policy_call(policy: augment.Policy, images: np.ndarray, targets: np.ndarray) -> Callable:
    """Return a function that puts the batch through a policy."""
    generator = np.random.default_rng(0)
    return lambda: augment.apply(policy, images, targets, generator)


def layer_call(layer: keras.Layer, images: np.ndarray, targets: np.ndarray) -> Callable:
    """Return a function that puts the batch through a layer and waits for the pixels."""
    mixes = isinstance(layer, layers.MixUp | layers.CutMix)
    batch = {"images": images, "labels": targets} if mixes else images

    def call() -> np.ndarray:
        found = layer(batch, training=True)
        return np.asarray(found["images"] if mixes else found)

    return call


def step_call(
    name: str, recipe: recipes.Recipe, images: np.ndarray, targets: np.ndarray
) -> Callable:
    """Return a function that trains a network for one step of a recipe."""
    model = models.build(name, images)
    model.compile(recipes.optimizer(recipe, 1000), recipes.loss(recipe))
    return lambda: model.train_on_batch(images, targets)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=recipes.FAST.batch_size)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be 2 or more: the first is the first call, which is slower")
    print(f"{runtime.start(0)}, batches of {options.batch}\n")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (options.batch, 32, 32, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[generator.integers(0, 10, options.batch)]
    calls = {
        ("policy", name): policy_call(policy, images, targets)
        for name, policy in augment.POLICIES.items()
    }
    floats = images.astype(np.float32)
    for name, layer in LAYERS.items():
        calls["layer", name] = layer_call(layer(), floats, targets)
    reduced = [side for _, side in recipes.FAST.sizes]
    for side in reduced:
        calls["policy", f"reduced to {side} px"] = functools.partial(resized, images, side)
    for side in (*reduced, images.shape[1]):
        smaller = resized(images, side)
        calls["step", f"fast_cnn, {side} px"] = step_call(
            "fast_cnn", recipes.FAST, smaller, targets
        )
    calls["step", "baseline_cnn"] = step_call("baseline_cnn", recipes.TUTORIAL, images, targets)
    seconds = sides.in_turn(calls, options.rounds)
    cost = {
        key: 1e6 * statistics.median(times[1:]) / options.batch for key, times in seconds.items()
    }
    steps = {name: microseconds for (kind, name), microseconds in cost.items() if kind == "step"}
    print("| policy | µs an image | Keras layer, first | Keras layer, later | ", end="")
    print(" | ".join(f"of a step of {name} ({step:.0f} µs)" for name, step in steps.items()), "|")
    print("|---" + "|--:" * (3 + len(steps)) + "|")
    for name in (name for kind, name in cost if kind == "policy"):
        mine = cost["policy", name]
        row = [name, f"{mine:.1f}", "", ""]
        if name in LAYERS:
            first = 1e6 * seconds["layer", name][0] / options.batch
            row[2:] = [f"{first:.0f}", f"{cost['layer', name]:.0f}"]
        row += [f"{mine / step:.1%}" for step in steps.values()]
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
