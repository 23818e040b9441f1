"""A trained model for other programs: written, compared with the original, and timed."""

import importlib.util
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cifar_utils import models, paths, predict, runs, training
from cifar_utils.data import IMAGE_SHAPE, Dataset, Split
from cifar_utils.errors import CifarUtilsError, ParameterError
from cifar_utils.predict import Network, Source

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "savedmodel": ""}
"""How the file of a format is called; a SavedModel is a folder."""

SAME = 0.999
"""Least share of images for which an export must give the class that the original gives."""


_NEEDED = {
    "onnx": ("tensorflow", "tf2onnx", "onnxruntime"),
    "litert": ("tensorflow", "ai_edge_litert"),
    "savedmodel": ("tensorflow",),
}
"""Packages that it takes to write a format and to try what was written."""


def _missing(form: str) -> list[str]:
    return [package for package in _NEEDED[form] if not importlib.util.find_spec(package)]


def writable() -> list[str]:
    """Return the formats for which all is installed."""
    return [form for form in SUFFIXES if not _missing(form)]


@dataclass(frozen=True)
class Exported:
    """An exported model beside its original.

    Attributes:
        path: Of the file, or of the folder of a SavedModel.
        megabytes: Size of the export.
        original_megabytes: Size of the original.
        images: How many validation images both were asked about.
        data: Their kind: ``official``, ``modified`` or ``synthetic``.
        same: Share of these with the same class.
        difference: Largest difference of two logits.
        accuracy: Of the export on these images, 0 to 1.
        original_accuracy: Of the original.
        milliseconds: Of the export for one image, median and 99th percentile.
        original_milliseconds: Of the original's ``predict_on_batch``.
    """

    path: Path
    megabytes: float
    original_megabytes: float
    images: int
    data: str
    same: float
    difference: float
    accuracy: float
    original_accuracy: float
    milliseconds: tuple[float, float]
    original_milliseconds: tuple[float, float]

    def described(self) -> list[tuple[str, str]]:
        """Return it in words, one fact a row."""
        ours, theirs = self.milliseconds, self.original_milliseconds
        return [
            ("file", self.path.name),
            ("size", f"{self.megabytes:.1f} MB, original {self.original_megabytes:.1f} MB"),
            ("asked about", f"{self.images:,} validation images, {self.data}"),
            ("same class", f"{self.same:.2%}"),
            ("largest difference", f"{self.difference:.2g} between logits"),
            ("accuracy", f"{self.accuracy:.2%}, original {self.original_accuracy:.2%}"),
            (
                "one image",
                f"{ours[0]:.2f} ms (99%: {ours[1]:.2f}), "
                f"original {theirs[0]:.2f} ms (99%: {theirs[1]:.2f})",
            ),
        ]


def write(
    source: Source,
    form: str,
    dataset: Dataset,
    *,
    int8: bool = False,
    path: Path | None = None,
    images: int = 2000,
) -> Exported:
    """Write a model in another format and compare the two (notebook 09 introduces it).

    What serving needs to know is written beside it, as ``NAME.json``.

    Args:
        source: From ``predict.find``.
        form: A key of ``SUFFIXES``.
        dataset: Some training images say how large values become, for 8 bits; validation images
            compare answers.
        int8: Whether weights and activations become whole numbers of 8 bits.
        path: Where to; None for beside the original.
        images: How many validation images to compare answers on.

    Returns:
        What was written, and how it compares.

    Raises:
        ParameterError: There is no such format, not with 8 bits, or no file that is called so.
        CifarUtilsError: A package is missing, or the export answers differently; it is not kept
            then.
    """
    if form not in SUFFIXES:
        raise ParameterError(f"unknown format {form!r}; expected {', '.join(SUFFIXES)}")
    if int8 and form == "savedmodel":
        raise ParameterError("a SavedModel has no 8 bits; choose onnx or litert")
    if missing := _missing(form):
        raise CifarUtilsError(
            f"this export needs {', '.join(missing)}; install it with: pip install "
            "'cifar-utils[cpu,serve,export]'"
        )
    original = predict.original(source.path)
    suffix = f".int8{SUFFIXES[form]}" if int8 else SUFFIXES[form]
    path = path or original.with_name(f"{original.stem}{suffix or '_saved'}")
    if path.suffix != SUFFIXES[form]:
        raise ParameterError(f"{path}: expected a name that ends in {SUFFIXES[form] or 'no dot'}")
    if path.is_dir() and not (path / "saved_model.pb").is_file():
        raise ParameterError(f"{path} is a folder with other things in it; choose another name")
    model = models.load(original)
    shown = dataset.validation.first(images)
    with paths.atomic(path) as partial:
        calibration = dataset.train.first(300).images if int8 else None
        _WRITERS[form](_portable(model), partial, calibration)
        exported = _compare(model, original, partial, path, shown, dataset.provenance.kind)
        if not int8 and exported.same < SAME:
            raise CifarUtilsError(
                f"the {form} export gives another class for {1 - exported.same:.2%} of images; "
                f"at most {1 - SAME:.1%} are accepted, so it was not kept"
            )
        if path.is_dir():  # which a folder, unlike a file, does not take the place of
            shutil.rmtree(path)
    known = {
        "model": source.name,
        "identity": predict.identity(original),
        "temperature": source.temperature,
        "score": source.score,
        "least_score": source.least_score,
    }
    runs.write_json(predict.notes(path), known)
    return exported


def _portable(model: keras.Model) -> keras.Model:
    """Return the model in float32, without what no converter can write, ready to be exported.

    The constants of a Normalization layer are no part of its graph; a Rescaling layer says the
    same in plain numbers.
    """

    def layer(one: Any) -> Any:
        if isinstance(one, keras.Model):  # a member of an ensemble
            return keras.models.clone_model(one, clone_function=layer)
        if not isinstance(one, keras.layers.Normalization):
            return one
        mean, deviation = (np.ravel(value) for value in (one.mean, np.sqrt(one.variance)))
        return keras.layers.Rescaling(
            (1 / deviation).tolist(), (-mean / deviation).tolist(), dtype="float32"
        )

    training.set_precision(model, "float32")
    plain = keras.models.clone_model(
        keras.Model(model.input, model.output, name=model.name),
        input_tensors=keras.Input(IMAGE_SHAPE, dtype="uint8", name="images"),
        clone_function=layer,
    )
    plain(np.zeros((1, *IMAGE_SHAPE), np.uint8))  # Keras exports only what has been called
    return plain


def _onnx(model: keras.Model, path: Path, calibration: np.ndarray | None) -> None:
    """Write ONNX; with images to calibrate by, in whole numbers of 8 bits."""
    folder, plain = path.with_name("saved"), path.with_name("plain.onnx")
    _savedmodel(model, folder, None)
    # Its command freezes what a graph has captured; Keras's own ONNX export leaves constants as
    # inputs that nobody can give.
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(folder)]
    done = subprocess.run(
        [*command, "--signature_def", "serve", "--opset", "18", "--output", str(plain)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise CifarUtilsError(f"tf2onnx failed: {said[-1]}")
    if calibration is None:
        plain.rename(path)
        return
    from onnxruntime import quantization

    prepared = path.with_name("prepared.onnx")
    quantization.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared, path, _Calibration(prepared, calibration), per_channel=True
    )


def _litert(model: keras.Model, path: Path, calibration: np.ndarray | None) -> None:
    """Write LiteRT; with images to calibrate by, in whole numbers of 8 bits inside."""
    if keras.backend.backend() != "tensorflow":
        raise CifarUtilsError("LiteRT can be written on the TensorFlow backend only")
    options: dict[str, Any] = {}
    if calibration is not None:
        import tensorflow as tf

        options = {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": lambda: ([image[None]] for image in calibration),
        }
    model.export(str(path), format="litert", verbose=False, **options)


def _savedmodel(model: keras.Model, path: Path, calibration: np.ndarray | None) -> None:
    """Write a folder that TensorFlow serves."""
    model.export(path, format="tf_saved_model", verbose=False)


_WRITERS = {"onnx": _onnx, "litert": _litert, "savedmodel": _savedmodel}


class _Calibration:
    """Images one by one, as ONNX Runtime's quantization asks for them."""

    def __init__(self, path: Path, images: np.ndarray) -> None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._name = session.get_inputs()[0].name
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image[None]}


def _size(path: Path) -> float:
    """Return the size of a file, or of all in a folder, in MB."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files) / 1e6


def _milliseconds(network: Network, image: np.ndarray, repeats: int = 200) -> tuple[float, float]:
    """Return the median and the 99th percentile of the time for one image."""
    seconds = []
    for _ in range(repeats + 20):
        started = time.perf_counter()
        network(image[None])
        seconds.append(time.perf_counter() - started)
    middle, high = np.quantile(seconds[20:], [0.5, 0.99])
    return 1e3 * float(middle), 1e3 * float(high)


def _compare(
    model: keras.Model, original: Path, written: Path, final: Path, shown: Split, data: str
) -> Exported:
    """Ask both about the same images.

    Raises:
        CifarUtilsError: The export gives what is no number.
    """
    network = _saved(written) if written.is_dir() else predict.load(written)
    parts = np.array_split(shown.images, max(1, len(shown) // 100))
    ours = np.concatenate([np.asarray(network(part)) for part in parts])
    theirs = np.concatenate([model.predict_on_batch(part) for part in parts])
    if not np.isfinite(ours).all():
        raise CifarUtilsError("the export gives outputs that are no numbers, so it was not kept")
    return Exported(
        final,
        _size(written),
        _size(original),
        len(shown),
        data,
        float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
        float(np.abs(ours - theirs).max()),
        float((ours.argmax(axis=1) == shown.labels).mean()),
        float((theirs.argmax(axis=1) == shown.labels).mean()),
        _milliseconds(network, shown.images[0]),
        _milliseconds(model.predict_on_batch, shown.images[0]),
    )


def _saved(folder: Path) -> Network:
    """Return what a SavedModel computes."""
    layer = keras.layers.TFSMLayer(folder, call_endpoint="serve")
    return lambda images: np.asarray(layer(images))
