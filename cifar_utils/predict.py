"""A trained model for anybody's pictures: which class, how sure, and whether it is any of the ten.

Keras is imported only for models that need it: an exported one runs in ONNX Runtime or LiteRT.
"""

import glob
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How the names of pictures in a folder end; a file that is named itself may be called anything."""

ENGINES = {".onnx": "onnxruntime", ".tflite": "ai_edge_litert", ".keras": "keras"}
"""The package that runs a file, by how its name ends; the first that is there is taken."""


@dataclass(frozen=True)
class Source:
    """A trained model and what is known of it.

    Attributes:
        name: ``RUN/STAGE``, or the path of a file that belongs to no run.
        path: Of the file.
        temperature: To divide logits by for probabilities; 1 if nobody has fitted one.
        score: Of ``confidence.FROM_LOGITS``, None if nobody has chosen one.
        least_score: Below which a picture counts as none of the classes.
    """

    name: str
    path: Path
    temperature: float = 1.0
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


def available() -> list[Source]:
    """Return the trained models in the artifacts folder, the one that ``auto`` means first.

    That is the model which notebook 06 chose in the newest run that has got so far, or else the
    newest run's model with the highest validation accuracy.
    """
    ranked = []
    for age, name in enumerate(reversed(runs.names())):
        run = runs.load(name)
        serving = _serving(run)
        for stage in map(run.stage, runs.STAGES):
            if (path := _file(stage.folder)) and (stage.folder / "metrics.json").is_file():
                title = stage.name.partition("_")[2]
                known = serving.get("models", {}).get(title, {})
                source = Source(
                    f"{name}/{stage.name}",
                    path,
                    known.get("temperature", 1.0),
                    serving.get("score"),
                    known.get("least_score"),
                )
                chosen = serving.get("chosen") == title
                accuracy = stage.metrics().get("accuracy") or 0.0
                ranked.append(((not chosen, age, -accuracy), source))
    return [source for _, source in sorted(ranked, key=lambda pair: pair[0])]


def _serving(run: runs.Run) -> dict[str, Any]:
    """Return what notebook 06 found out for serving, nothing if it has not."""
    path = run.folder / "06_evaluation" / "serving.json"
    return runs.read_json(path) if path.is_file() else {}


def _file(folder: Path) -> Path | None:
    """Return the model in a stage's folder that runs quickest with what is installed."""
    for suffix, package in ENGINES.items():
        path = folder / f"model{suffix}"
        if path.is_file() and importlib.util.find_spec(package):
            return path
    return None


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
        return _alone(path)
    known = available()
    if not known:
        raise RunError("there is no trained model yet; make some with: cifar run")
    if text == "auto":
        return known[0]
    for source in known:
        run, _, stage = source.name.partition("/")
        number, _, title = stage.partition("_")
        if text in (source.name, stage, title, number, f"{run}/{title}", f"{run}/{number}"):
            return source
    raise ParameterError(f"no model is called {text!r}{nearest(text, [s.name for s in known])}")


def _alone(path: Path) -> Source:
    """Return what is known of a file: what an export wrote beside it, or its run."""
    beside = path.with_suffix(path.suffix + ".json")
    if beside.is_file():
        known = json.loads(beside.read_text(encoding="utf-8"))
        names = ("temperature", "score", "least_score")
        return Source(str(path), path, **{name: known[name] for name in names if name in known})
    for source in available():
        if source.path.parent == path.resolve().parent:
            return Source(source.name, path, source.temperature, source.score, source.least_score)
    return Source(str(path), path)


def load(path: Path) -> Network:
    """Return what turns images into logits.

    Args:
        path: Of a ``.keras``, ``.onnx`` or ``.tflite`` file.

    Raises:
        CifarUtilsError: The package that runs it is not installed, or the file is damaged.
    """
    package = ENGINES[path.suffix]
    if not importlib.util.find_spec(package):
        raise CifarUtilsError(
            f"{path.name} needs {package}; install it with: pip install 'cifar-utils[serve]'"
        )
    try:
        return {".onnx": _onnx, ".tflite": _litert, ".keras": _keras}[path.suffix](path)
    except CifarUtilsError:
        raise
    # Each of the packages has errors of its own for a file that it cannot read.
    except Exception as error:
        raise CifarUtilsError(f"{path} is no model that {package} can run: {error}") from error


def _onnx(path: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(path), options, providers=onnxruntime.get_available_providers()
    )
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _litert(path: Path) -> Network:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(given["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    interpreter.allocate_tensors()
    return run


def _keras(path: Path) -> Network:
    from cifar_utils import models

    return models.load(path).predict_on_batch


class Predictor:
    """A trained model that takes anything that is a picture (notebook 09 introduces it).

    Args:
        model: See ``find``.
        fit: What to do with pictures that are not square.

    Raises:
        CifarUtilsError: There is no such model, or nothing to run it with.
    """

    def __init__(self, model: str | Path | Source = "auto", *, fit: Fit = "crop") -> None:
        self.source = model if isinstance(model, Source) else find(model)
        self.fit = fit
        self._network = load(self.source.path)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``(N, 10)`` for uint8 ``(N, 32, 32, 3)``."""
        return np.asarray(self._network(images), np.float32)

    def predict(self, picture: Anything) -> Prediction:
        """Return what the model says of one picture.

        Raises:
            PictureError: It is none that can be read.
        """
        return self.judge([self.read(picture)])[0]

    def judge(self, seen: Sequence[Picture]) -> list[Prediction]:
        """Return what the model says of pictures that have been read."""
        if not seen:
            return []
        logits = self.logits(np.stack([picture.pixels for picture in seen]))
        shares = special.softmax(logits.astype(np.float64) / self.source.temperature, axis=1)
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
            given: Pictures; nothing is read before it is needed.
            batch_size: Pictures that the model looks at together.
        """
        todo = iter(given)
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

    Of a folder, and of those in it, all files whose names end in one of ``SUFFIXES``.

    Raises:
        ParameterError: A folder or a pattern stands for nothing.
    """
    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ParameterError(f"no picture is in {text}; looked for {', '.join(SUFFIXES)}")
            found |= dict.fromkeys(p for p in inside if p.is_file())
        elif not path.exists() and glob.has_magic(text):
            matched = sorted(glob.glob(text, recursive=True))  # noqa: PTH207, any folder
            if not matched:
                raise ParameterError(f"no file matches {text}")
            found |= dict.fromkeys(Path(p) for p in matched if Path(p).is_file())
        else:
            found[path] = None
    return list(found)
