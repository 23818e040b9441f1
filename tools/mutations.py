"""Break the library on purpose: does a test notice?

    python -m tools.mutations

Each sabotage is made in a copy of the repository of its own, in which the few tests that should see
it must then fail. The same tests must pass in a copy that is left alone.
"""

import concurrent.futures
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_utils import runtime
from tools.copies import copied

COPIED = ("cifar_utils", "notebooks", "tests", "tools", "pyproject.toml", "README.md")
PASSED, FAILED = 0, 1
"""Exit statuses of pytest; any other says that it could not run the tests at all."""


@dataclass(frozen=True)
class Sabotage:
    """A mistake somebody could make.

    Attributes:
        what: The mistake, in a few words.
        file: Where, from the repository's root.
        old: Text that stands there once.
        new: What it becomes.
        tests: Those that should see it, as pytest takes them, from ``tests/unit``.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Make the mistake.

        Raises:
            ValueError: The text does not stand there once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.old!r} stands {text.count(self.old)} times in {self.file}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


SABOTAGES = (
    Sabotage(
        "one class too many",
        "cifar_utils/architectures.py",
        'layers.Dense(len(CLASS_NAMES), dtype="float32", name="logits")(features)',
        'layers.Dense(len(CLASS_NAMES) + 1, dtype="float32", name="logits")(features)',
        ("test_models.py::test_baseline_is_the_tutorials_network",),
    ),
    Sabotage(
        "softmax twice: the model gives probabilities",
        "cifar_utils/architectures.py",
        'layers.Dense(len(CLASS_NAMES), dtype="float32", name="logits")(features)',
        'layers.Dense(len(CLASS_NAMES), "softmax", dtype="float32", name="logits")(features)',
        ("test_models.py::test_takes_raw_pixels_and_gives_float32_logits",),
    ),
    Sabotage(
        "softmax twice: the loss takes logits for probabilities",
        "cifar_utils/recipes.py",
        "        from_logits=True, label_smoothing",
        "        from_logits=False, label_smoothing",
        ("test_recipes.py::test_both_losses_agree_and_smoothing_raises_the_categorical_one",),
    ),
    Sabotage(
        "pixels not scaled in baseline_cnn",
        "cifar_utils/models.py",
        "layers.Rescaling(1 / 255,",
        "layers.Rescaling(1,",
        ("test_models.py::test_the_first_convolution_gets_normalised_pixels",),
    ),
    Sabotage(
        "mean not subtracted in fast_cnn",
        "cifar_utils/architectures.py",
        "layers.Normalization(mean=PIXEL_MEAN,",
        "layers.Normalization(mean=(0, 0, 0),",
        ("test_models.py::test_the_first_convolution_gets_normalised_pixels",),
    ),
    Sabotage(
        "RGB not turned to BGR for ResNet50",
        "cifar_utils/pretrained.py",
        '"caffe": keras.applications.resnet50.preprocess_input,',
        '"caffe": lambda images: images - np.array([103.939, 116.779, 123.68], "float32"),',
        ("test_pretrained.py::test_preprocessing_inside_the_model_is_caffe_mode",),
    ),
    Sabotage(
        "batch normalisation of ResNet50 trained along",
        "cifar_utils/transfer.py",
        "late and not isinstance(layer, layers.BatchNormalization)",
        "late",
        ("test_transfer.py::test_batch_normalisation_ignores_the_training_flag_while_unfrozen",),
    ),
    Sabotage(
        "rows and columns of the images swapped",
        "cifar_utils/data.py",
        "batch.planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)",
        "batch.planes.reshape(-1, 3, 32, 32).transpose(0, 3, 2, 1)",
        ("test_data.py::test_planes_become_channels",),
    ),
    Sabotage(
        "two class names exchanged",
        "cifar_utils/archives.py",
        '    "dog",\n    "frog",\n    "horse",\n',
        '    "horse",\n    "frog",\n    "dog",\n',
        ("test_data.py::test_names",),
    ),
    Sabotage(
        "another seed for the split",
        "cifar_utils/data.py",
        "SPLIT_SEED = 10",
        "SPLIT_SEED = 11",
        ("test_data.py::test_the_official_split_is_pinned",),
    ),
    Sabotage(
        "test images in the place of validation",
        "cifar_utils/data.py",
        "parts = (slice(end), slice(end, middle), slice(middle, total))",
        "parts = (slice(end), slice(middle, total), slice(middle, total))",
        ("test_data.py::test_every_image_keeps_its_label_and_its_side",),
    ),
    Sabotage(
        "epochs judged by training images",
        "cifar_utils/training.py",
        "Batches(validation.images, validation.labels, size",
        "Batches(train.images, train.labels, size",
        ("test_training.py::test_early_stopping_brings_the_best_weights_back",),
    ),
    Sabotage(
        "labels in another order than their images",
        "cifar_utils/batches.py",
        "targets = self._labels[chosen]",
        "targets = self._labels[np.sort(chosen)]",
        ("test_batches.py::test_sparse_batches_have_the_labels_of_their_images",),
    ),
    Sabotage(
        "labels not mixed by mixup",
        "cifar_utils/augment.py",
        "targets * own + targets[partner] * (1 - own)",
        "targets * own + targets * (1 - own)",
        ("test_augment.py::test_mixup_blends_labels_like_pixels",),
    ),
    Sabotage(
        "validation images shuffled",
        "cifar_utils/batches.py",
        "self._order, self._mirror = np.arange(count), None",
        "self._order, self._mirror = np.random.default_rng(0).permutation(count), None",
        ("test_batches.py::test_validation_batches_are_neither_shuffled_nor_changed",),
    ),
    Sabotage(
        "the seed does not reach the batches",
        "cifar_utils/training.py",
        "                seed=seed,\n                side=side",
        "                seed=0,\n                side=side",
        ("test_training.py::test_batches_are_drawn_with_the_seed",),
    ),
    Sabotage(
        "probabilities that sum to one over the images",
        "cifar_utils/evaluation.py",
        "shifted.sum(axis=-1, keepdims=True)",
        "shifted.sum(axis=0, keepdims=True)",
        ("test_evaluation.py::test_softmax_sums_to_one_and_survives_large_logits",),
    ),
    Sabotage(
        "true and predicted classes exchanged in the confusion matrix",
        "cifar_utils/evaluation.py",
        "metrics.confusion_matrix(labels, logits.argmax(axis=1), labels=classes)",
        "metrics.confusion_matrix(logits.argmax(axis=1), labels, labels=classes)",
        ("test_evaluation.py::test_confusion_matrix_is_true_by_row",),
    ),
    Sabotage(
        "intervals too narrow",
        "cifar_utils/evaluation.py",
        "Z95 = 1.959963984540054",
        "Z95 = 1.6448536269514722",
        ("test_evaluation.py::test_wilson_agrees_with_scipy",),
    ),
    Sabotage(
        "spread of the seeds taken for the error of their mean",
        "cifar_utils/leaderboard.py",
        "statistics.stdev(values) / math.sqrt(len(values))",
        "statistics.stdev(values)",
        ("test_leaderboard.py::test_interval_over_seeds_is_students",),
    ),
)


def tested(root: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Run tests in a copy; return pytest's exit status and the end of what it printed."""
    paths = [f"tests/unit/{test}" for test in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr)[-2000:]


def tried(sabotage: Sabotage) -> str:
    """Return what became of a sabotage: ``caught``, or why that cannot be said."""
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        root = copied(COPIED, Path(folder))
        try:
            sabotage.apply(root)
        except ValueError as error:
            return f"NO LONGER APPLIES: {error}"
        status, text = tested(root, sabotage.tests)
    if status == FAILED:
        return "caught"
    return "SURVIVED" if status == PASSED else f"NOT TESTED: {text.strip().splitlines()[-1]}"


def main(sabotages: Sequence[Sabotage] = SABOTAGES) -> int:
    """Print a Markdown table of all sabotages; return 1 unless a test notices each."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="untouched-") as folder:
        tests = dict.fromkeys(test for sabotage in sabotages for test in sabotage.tests)
        status, text = tested(copied(COPIED, Path(folder)), tests)
    if status != PASSED:
        print(f"these tests fail without any sabotage:\n{text}")
        return 1
    with concurrent.futures.ThreadPoolExecutor(runtime.cores()) as pool:
        found = list(pool.map(tried, sabotages))
    print("| sabotage | file | seen by | result |\n|---|---|---|---|")
    for sabotage, result in zip(sabotages, found, strict=True):
        seen = ", ".join(test.partition("::")[2] for test in sabotage.tests)
        print(f"| {sabotage.what} | {sabotage.file} | {seen} | {result} |")
    caught = found.count("caught")
    seconds = time.perf_counter() - started
    print(f"\n{caught} of {len(sabotages)} caught, in {seconds:.0f} seconds")
    return int(caught < len(sabotages))


if __name__ == "__main__":
    sys.exit(main())
