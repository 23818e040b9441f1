"""How long do judging 10,000 outputs and explaining 64 images take?

usage: python -m benchmarks.evaluation [--rounds 3]

Prints a Markdown table of medians, in seconds. Outputs and images are random; the networks are
those of the course, with random weights.
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np

from benchmarks import sides
from cifar_utils import calibration, evaluation, explain, models, runtime
from cifar_utils.data import CLASS_NAMES


def judged(logits: np.ndarray, labels: np.ndarray) -> None:
    """Compute all that notebook 06 says of one model's outputs, without the bootstrap."""
    evaluation.scores(logits, labels)
    evaluation.class_report(logits, labels, CLASS_NAMES)
    evaluation.class_order(evaluation.confusion_matrix(logits, labels))
    evaluation.mcnemar(logits, logits[::-1], labels)
    for kind in ("width", "mass"):
        calibration.reliability(logits, labels, kind=kind)
        calibration.calibration_error(logits, labels, kind=kind, resamples=1)
    calibration.fit_temperature(logits, labels)
    calibration.selective(logits, labels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    session = runtime.start(0)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 10_000)
    logits = generator.normal(0, 2, (10_000, 10)).astype(np.float32)
    images = generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    work: dict[str, Callable[[], object]] = {
        "10,000 outputs judged": lambda: judged(logits, labels)
    }
    for name in models.MODELS:
        model = models.build(name, images)
        work[f"Grad-CAM of 64 images, {name}"] = lambda model=model: explain.grad_cam(model, images)
        work[f"hiding parts of 64 images, {name}"] = lambda model=model: explain.occlusion(
            model, images
        )
    found = sides.in_turn(work, options.rounds)
    print(f"{session}\n\n| what | seconds (of each round) |\n|---|---|")
    for title, seconds in found.items():
        rounds = ", ".join(f"{value:.2f}" for value in seconds)
        print(f"| {title} | {statistics.median(seconds):.2f} ({rounds}) |")


if __name__ == "__main__":
    main()
