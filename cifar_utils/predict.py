"""A trained model for anybody's pictures: which class, how sure, and whether it is any of the ten.

Keras is imported only for models that need it: an exported one runs in ONNX Runtime or LiteRT.
"""

import dataclasses
import glob
import hashlib
import importlib.util
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import special

from cifar_utils import pictures, runs
from cifar_utils.archives import CLASS_NAMES
from cifar_utils.confidence import FROM_LOGITS
from cifar_utils.errors import CifarUtilsError, ParameterError, PictureError, RunError, nearest
from cifar_utils.pictures import Fit, Picture

Anything = str | Path | bytes | Image.Image | np.ndarray
"""What may be a picture: a path, a file's content, a Pillow image, or an array."""

Network = Callable[[np.ndarray], np.ndarray]
"""From uint8 ``(N, 32, 32, 3)`` to float32 logits ``(N, 10)``."""

ENGINES = {
    ".onnx": (("onnxruntime",), "serve"),
    ".tflite": (("ai_edge_litert",), "export"),
    ".keras": (("tensorflow", "jax", "torch"), "cpu"),
}
"""What runs a file, by how its name ends: any of these packages, and the extra that brings one.

Of several files of one model the first is taken that can be run.
"""


@dataclass(frozen=True)
class Source:
    """A trained model and what is known of it.

    Attributes:
        name: ``RUN/STAGE``, or the path of a file that belongs to no run.
        path: Of the file.
        temperature: To divide logits by for probabilities; None if nobody has fitted one.
        score: Of ``confidence.FROM_LOGITS``, None if nobody has chosen one.
        least_score: Below which a picture counts as none of the classes.
    """

    name: str
    path: Path
    temperature: float | None = None
    score: str | None = None
    least_score: float | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a picture.

    Attributes:
        probabilities: float64 ``(10,)`` in the order of ``CLASS_NAMES``, calibrated if the model's
            temperature is known.
        score: What tells whether the picture is one of the classes; None if nobody chose a score.
        picture: What the model saw.
        source: The model.
    """

    probabilities: np.ndarray
    score: float | None
    picture: Picture
    source: Source

    @property
    def label(self) -> str:
        """The most probable class, whether or not the picture is any of them."""
        return CLASS_NAMES[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """The probability of ``label``, given that the picture is one of the classes."""
        return float(self.probabilities.max())

    @property
    def known(self) -> bool:
        """Whether the picture looks like any of the classes, as far as the model can tell."""
        least = self.source.least_score
        return self.score is None or least is None or self.score >= least

    @property
    def why(self) -> str:
        """Say what decided whether it is one of the classes."""
        if self.score is None or self.source.least_score is None:
            return "not judged: run notebook 06, which chooses a threshold"
        return (
            f"{self.source.score} {self.score:.2f}, "
            f"{'at least' if self.known else 'below'} the threshold {self.source.least_score:.2f}"
        )

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities, the first first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(CLASS_NAMES[place], float(self.probabilities[place])) for place in order]

    def record(self, count: int = len(CLASS_NAMES)) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "label": self.label if self.known else None,
            "nearest": self.label,
            "confidence": round(self.confidence, 6),
            "calibrated": self.source.temperature is not None,
            "known": self.known,
            "why": self.why,
            "top": [
                {"label": name, "probability": round(share, 6)} for name, share in self.top(count)
            ],
            "picture": {
                "width": self.picture.width,
                "height": self.picture.height,
                "format": self.picture.format,
                "notes": list(self.picture.notes),
            },
            "model": self.source.name,
        }


def runnable(path: Path) -> bool:
    """Return whether something that runs such a file is installed."""
    packages, _ = ENGINES[path.suffix]
    return any(importlib.util.find_spec(package) for package in packages)


def original(path: Path) -> Path:
    """Return the file that Keras saved, of a model or of what was exported from it."""
    return path.with_name(f"{path.name.partition('.')[0]}.keras")


def notes(path: Path) -> Path:
    """Return the file that says of an exported model what serving needs to know."""
    return path.with_name(f"{path.name}.json")


def identity(path: Path) -> str:
    """Return what changes with the content of a ``.keras`` file, without reading all of it."""
    with zipfile.ZipFile(path) as archive:
        members = [(each.filename, each.CRC) for each in archive.infolist()]
    return hashlib.sha256(repr(members).encode()).hexdigest()[:16]


def _trained() -> Iterator[tuple[int, bool, float, Source]]:
    """Yield the trained models with the age of their runs, whether chosen, and their accuracy."""
    for age, name in enumerate(reversed(runs.names())):
        run = runs.load(name)
        path = run.folder / "06_evaluation" / "serving.json"
        serving = runs.read_json(path) if path.is_file() else {}
        for stage in map(run.stage, runs.STAGES):
            if not (stage.folder / "metrics.json").is_file():
                continue
            if (found := _file(stage.folder)) is None:
                continue
            title = stage.name.partition("_")[2]
            known = serving.get("models", {}).get(title, {})
            source = Source(
                f"{name}/{stage.name}",
                found,
                known.get("temperature"),
                serving.get("score"),
                known.get("least_score"),
            )
            accuracy = stage.metrics().get("accuracy") or 0.0
            yield age, serving.get("chosen") == title, accuracy, source


def available() -> list[Source]:
    """Return the trained models in the artifacts folder, the one that ``auto`` means first.

    That is the model which notebook 06 chose in the newest run that has got so far, or else the
    newest run's model with the highest validation accuracy.
    """
    return _ranked(_trained())


def _ranked(trained: Iterable[tuple[int, bool, float, Source]]) -> list[Source]:
    """Return models, the chosen ones first, then the newest, then the most accurate."""
    ranked = sorted(trained, key=lambda found: (not found[1], found[0], -found[2]))
    return [source for *_, source in ranked]


def _file(folder: Path) -> Path | None:
    """Return the model in a stage's folder that runs quickest with what is installed."""
    paths = [folder / f"model{suffix}" for suffix in ENGINES]
    return next((path for path in paths if path.is_file() and runnable(path) and _fits(path)), None)


def _fits(path: Path) -> bool:
    """Return whether a file belongs to the model beside it, and not to one trained before."""
    if not original(path).is_file() or path == original(path):
        return True
    return notes(path).is_file() and runs.read_json(notes(path)).get("identity") == identity(
        original(path)
    )


def find(model: str | Path = "auto") -> Source:
    """Return a model by its name (notebook 09 introduces it).

    Args:
        model: ``RUN/STAGE``, or a stage such as ``03`` or ``augmentation`` of the newest run that
            has it, or a file; ``auto``: see ``available``.

    Raises:
        RunError: There is no model at all.
        ParameterError: None is called so.
    """
    text = str(model)
    path = Path(model)
    if path.suffix in ENGINES:
        if not path.is_file():
            raise ParameterError(f"there is no model file {text!r}")
        return _alone(path.resolve())
    trained = list(_trained())
    if not trained:
        raise RunError("there is no trained model yet; make some with: cifar run")
    known = _ranked(trained)
    if text == "auto":
        return known[0]
    run, _, stage = text.rpartition("/")
    with suppress(ParameterError):
        stage = runs.stage_name(stage)
    newest = [source for *_, source in sorted(trained, key=lambda found: found[0])]
    for source in newest:
        if source.name == f"{run}/{stage}" or (not run and source.name.endswith(f"/{stage}")):
            return source
    raise ParameterError(f"no model is called {text!r}{nearest(text, [s.name for s in known])}")


def _alone(path: Path) -> Source:
    """Return what is known of a file: what its run says, or what an export wrote beside it."""
    for source in available():
        if original(source.path) == original(path):
            return dataclasses.replace(source, path=path)
    if notes(path).is_file():
        known = runs.read_json(notes(path))
        facts = (known.get(name) for name in ("temperature", "score", "least_score"))
        return Source(known.get("model", path.name), path, *facts)
    return Source(path.name, path)


def load(path: Path, *, threads: int | None = None) -> Network:
    """Return what turns images into logits.

    Args:
        path: Of a ``.keras``, ``.onnx`` or ``.tflite`` file.
        threads: That an exported model works with at a time; None for all cores.

    Raises:
        CifarUtilsError: The package that runs it is not installed, or the file is damaged.
    """
    if path.suffix not in ENGINES:
        raise CifarUtilsError(f"{path} is no model; expected one of {', '.join(ENGINES)}")
    packages, extra = ENGINES[path.suffix]
    if not runnable(path):
        raise CifarUtilsError(
            f"{path.name} needs {' or '.join(packages)}; "
            f"install it with: pip install 'cifar-utils[{extra}]'"
        )
    try:
        return {".onnx": _onnx, ".tflite": _litert, ".keras": _keras}[path.suffix](path, threads)
    except CifarUtilsError:
        raise
    # Each of the packages has errors of its own for a file that it cannot read.
    except Exception as error:
        raise CifarUtilsError(f"{path} is no model that can be run: {error}") from error


def _onnx(path: Path, threads: int | None) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _litert(path: Path, threads: int | None) -> Network:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    alone = threading.Lock()

    def run(images: np.ndarray) -> np.ndarray:
        with alone:
            if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
                interpreter.resize_tensor_input(given["index"], images.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(given["index"], images)
            interpreter.invoke()
            return interpreter.get_tensor(found["index"])

    interpreter.allocate_tensors()
    return run


def _keras(path: Path, threads: int | None) -> Network:
    from cifar_utils import models

    return models.load(path).predict_on_batch


class Predictor:
    """A trained model that takes anything that is a picture (notebook 09 introduces it).

    Args:
        model: See ``find``.
        fit: What to do with pictures that are not square.
        threads: See ``load``.

    Raises:
        ParameterError: There is no such model, or no such fit.
        CifarUtilsError: There is nothing to run it with.
    """

    def __init__(
        self,
        model: str | Path | Source = "auto",
        *,
        fit: Fit = "crop",
        threads: int | None = None,
    ) -> None:
        pictures.check_fit(fit)
        self.source = model if isinstance(model, Source) else find(model)
        self.fit = fit
        self._network = load(self.source.path, threads=threads)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``(N, 10)`` for uint8 ``(N, 32, 32, 3)``.

        Raises:
            CifarUtilsError: The model gives what is no number.
        """
        found = np.asarray(self._network(images), np.float32)
        if not np.isfinite(found).all():
            raise CifarUtilsError(f"{self.source.name} gives outputs that are no numbers")
        return found

    def predict(self, picture: Anything) -> Prediction:
        """Return what the model says of one picture.

        Raises:
            PictureError: It is none that can be read.
        """
        return self.judge([self.read(picture)])[0]

    def judge(self, seen: Sequence[Picture]) -> list[Prediction]:
        """Return what the model says of pictures that have been read.

        Raises:
            CifarUtilsError: The model gives what is no number.
        """
        if not seen:
            return []
        logits = self.logits(np.stack([picture.pixels for picture in seen]))
        shares = special.softmax(logits.astype(np.float64) / (self.source.temperature or 1), axis=1)
        rate = FROM_LOGITS.get(self.source.score or "")
        scores = [None] * len(seen) if rate is None else rate(logits).tolist()
        return [
            Prediction(share, score, picture, self.source)
            for share, score, picture in zip(shares, scores, seen, strict=True)
        ]

    def read(self, picture: Anything) -> Picture:
        """Return what the model would see of a picture.

        Raises:
            PictureError: It is none that can be read.
        """
        if isinstance(picture, np.ndarray):
            return pictures.from_array(picture, fit=self.fit)
        if isinstance(picture, Image.Image):
            return pictures.from_image(picture, fit=self.fit)
        if isinstance(picture, bytes):
            return pictures.read(picture, fit=self.fit)
        return pictures.read(pictures.content(Path(picture)), fit=self.fit)

    def _tried(self, picture: Anything) -> Picture | PictureError:
        try:
            return self.read(picture)
        except PictureError as error:
            return error

    def predict_many(
        self, given: Iterable[Anything], *, batch_size: int = 64
    ) -> Iterator[Prediction | PictureError]:
        """Yield what the model says of each picture, in order; an error in place of a bad one.

        While the model looks at a batch, the next one is read.

        Args:
            given: Pictures, and folders, which stand for the pictures in them as for ``expand``;
                nothing is read before it is needed.
            batch_size: Pictures that the model looks at together.
        """
        todo = (
            one
            for each in given
            for one in (_inside(Path(each)) if isinstance(each, str | Path) else [each])
        )
        with ThreadPoolExecutor(2) as pool:

            def ahead() -> list[Any]:
                return [pool.submit(self._tried, each) for each in islice(todo, batch_size)]

            reading = ahead()
            while reading:
                read = [future.result() for future in reading]
                reading = ahead()
                judged = iter(self.judge([each for each in read if isinstance(each, Picture)]))
                for each in read:
                    yield each if isinstance(each, PictureError) else next(judged)


def expand(given: Sequence[str]) -> list[Path]:
    """Return the files that paths, folders and patterns stand for, each once, in order.

    Of a folder, and of those in it, all files whose names end in one of ``pictures.SUFFIXES``.

    Raises:
        ParameterError: A folder or a pattern stands for nothing.
    """
    found: dict[Path, None] = {}
    for text in given:
        if not text:
            raise ParameterError("a path is empty; name files, folders or patterns")
        named = [text]
        if glob.has_magic(text) and not os.path.lexists(text):
            named = sorted(glob.glob(text, recursive=True))  # noqa: PTH207, any folder
        inside = [path for each in named for path in _inside(Path(each))]
        if not inside:
            if named == [text]:
                looked = ", ".join(pictures.SUFFIXES)
                raise ParameterError(f"no picture is in {text}; looked for {looked}")
            raise ParameterError(f"no file matches {text}")
        found |= dict.fromkeys(inside)
    return list(found)


def _inside(path: Path) -> list[Path]:
    """Return the pictures in a folder, or the path itself if it is none."""
    if not os.path.isdir(path):  # noqa: PTH112, which no name makes fail
        return [path]
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sorted(file for file in files if file.suffix.lower() in pictures.SUFFIXES)
