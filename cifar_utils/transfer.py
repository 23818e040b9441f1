"""A pretrained ResNet50 for 32x32 images: weights, frozen features, unfreezing."""

import hashlib
import json
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cifar_utils import models, paths
from cifar_utils.data import IMAGE_SHAPE, Split
from cifar_utils.errors import ParameterError, WeightsError, nearest

PREPROCESSING: dict[str, Callable] = {
    "caffe": keras.applications.resnet50.preprocess_input,
    "divide by 255": lambda images: images / 255,
    "none": lambda images: images,
}
"""What happens to 0-255 RGB before the network; ``caffe`` is what Keras's ResNet50 was trained with
(RGB to BGR, minus the ImageNet means), the others are the common mistakes."""

STAGES = ("conv2", "conv3", "conv4", "conv5")


@dataclass(frozen=True)
class Weights:
    """Where a ResNet50's starting weights come from.

    Attributes:
        source: ``imagenet``, ``none`` or the path of a file in Keras's layout without top.
        pretraining: What to call it in a result row; ``none`` for random weights.
    """

    source: str
    pretraining: str


def _file_weights(path: Path) -> Weights:
    """Return the weights in a file, named after it.

    ``resnet50-places365-notop.h5`` is called ``places365``, ``resnet50-tinyimagenet-notop.h5``
    ``tiny-imagenet``. A file is never called ``imagenet``: its name cannot prove that.
    """
    if not path.is_file():
        raise WeightsError(
            f"the ResNet50 weights file {path} does not exist; give a file in Keras's layout "
            "(include_top=False), or 'imagenet' or 'none'"
        )
    label = re.sub(r"^resnet50[-_]?|[-_]?no_?top$", "", path.stem, flags=re.IGNORECASE)
    label = re.sub(r"(?<=[a-z0-9])imagenet", "-imagenet", label)
    return Weights(str(path.resolve()), f"file {path.name}" if label in ("", "imagenet") else label)


def resolve_weights(choice: str = "auto", *, offline_random: bool = False) -> Weights:
    """Return the weights that ``choice`` stands for (notebook 04 introduces it).

    Args:
        choice: ``imagenet`` (Keras's download, 94 MB, cached by Keras), ``none`` (random), the path
            of a file, or ``auto``: ``CIFAR_UTILS_RESNET50_WEIGHTS`` if set, else ``imagenet``.
        offline_random: Whether ``auto`` may fall back, with a printed notice, to random weights
            when the download fails; for the smoke profile.

    Raises:
        WeightsError: The file does not exist, or the download failed; the message says what to do.
    """
    asked = choice
    if choice == "auto":
        choice = os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS") or "imagenet"
    if choice == "none":
        return Weights("none", "none")
    if choice != "imagenet":
        return _file_weights(Path(choice).expanduser())
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        keras.applications.ResNet50(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises bare Exception for a failed download
        if asked == "auto" and offline_random:
            print(
                "ResNet50: no ImageNet weights at hand, going on with random weights; once online,"
            )
            print("`cifar run --from 04 --fresh` does it with ImageNet's")
            return Weights("none", "none")
        raise WeightsError(
            f"the ImageNet weights of ResNet50 could not be downloaded ({error}); get online, or "
            "set CIFAR_UTILS_RESNET50_WEIGHTS to a file in Keras's layout (include_top=False), or "
            "to 'none' for random weights"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return Weights("imagenet", "imagenet")


def network(weights: Weights, size: int, *, seed: int = 0) -> keras.Model:
    """Return a frozen ResNet50 from preprocessed images to features (notebook 04 introduces it).

    Args:
        weights: What ``resolve_weights`` returned.
        size: Side of the images in pixels, at least 32.
        seed: Of the random weights, where ``weights`` are ``none``.

    Returns:
        A model from float ``(N, size, size, 3)``, preprocessed, to ``(N, k, k, 2048)``.

    Raises:
        ParameterError: The size is too small.
        WeightsError: The file does not fit a ResNet50 without top.
    """
    if size < 32:
        raise ParameterError(f"ResNet50 takes images of 32 pixels and more, not {size}")
    if weights.source == "none":
        keras.utils.set_random_seed(seed)
    try:
        with warnings.catch_warnings():
            # Keras only warns when it leaves layers random because a file lacks their weights.
            warnings.filterwarnings("error", message="Skipping")
            base = keras.applications.ResNet50(
                include_top=False,
                weights=None if weights.source == "none" else weights.source,
                input_shape=(size, size, 3),
            )
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise WeightsError(
            f"{weights.source} does not fit Keras's ResNet50 with include_top=False: {error}"
        ) from error
    base.trainable = False
    return base


def extractor(weights: Weights, size: int, *, seed: int = 0) -> keras.Model:
    """Return a frozen ResNet50 from raw images to features (notebook 04 introduces it).

    Args:
        weights: What ``resolve_weights`` returned.
        size: Side in pixels to which images are enlarged, at least 32.
        seed: Of the random weights, where ``weights`` are ``none``.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 2048)`` features: the
        enlarged and preprocessed image through every convolution, averaged over positions.

    Raises:
        ParameterError: The size is too small.
        WeightsError: The file does not fit a ResNet50 without top.
    """
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    x = layers.Resizing(size, size, interpolation="bilinear", dtype="float32", name="enlarge")(
        images
    )
    x = network(weights, size, seed=seed)(PREPROCESSING["caffe"](x))
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(images, features, name="resnet50_features")


def head(hidden: int = 0, dropout: float = 0.0) -> keras.Model:
    """Return a new head from features to logits (notebook 04 introduces it).

    Args:
        hidden: Units of a hidden ReLU layer; 0 for a linear head.
        dropout: Share of activations dropped before the last layer, 0 to 1.

    Returns:
        A model from float ``(N, 2048)`` features to float32 ``(N, 10)`` logits.
    """
    features = keras.Input((2048,), name="features")
    # Not batch normalisation: this acts alike in training and inference, frozen or not.
    x = layers.LayerNormalization(dtype="float32", name="head_scale")(features)
    if hidden:
        x = layers.Dense(hidden, activation="relu", name="head_hidden")(x)
    if dropout:
        x = layers.Dropout(dropout, name="head_dropout")(x)
    return keras.Model(features, models.logits(x), name="head")


def join(features: keras.Model, classifier: keras.Model, name: str) -> keras.Model:
    """Return the whole function, images to logits; it shares the weights of its two parts."""
    return keras.Model(features.input, classifier(features.output), name=name)


def parts(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the extractor and the head that ``join`` made ``model`` from, sharing its weights."""
    features = keras.Model(
        model.input, model.get_layer("features").output, name="resnet50_features"
    )
    return features, model.get_layer("head")


def _digest(model: keras.Model, images: np.ndarray) -> str:
    """Return a name for these images seen by this very model: its layers and its weights."""
    digest = hashlib.sha256(models.architecture(model))
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).data)
    for start in range(0, len(images), 10_000):
        digest.update(np.ascontiguousarray(images[start : start + 10_000]).data)
    return digest.hexdigest()[:24]


class Features(NamedTuple):
    """Stored features and what they cost when they were computed.

    Attributes:
        values: float16 ``(N, 2048)``, memory-mapped.
        seconds: Wall time of computing them, then and not now.
    """

    values: np.ndarray
    seconds: float


def features(model: keras.Model, images: np.ndarray, batch_size: int = 250) -> Features:
    """Return the features of images, computed once and then read from disk.

    They are kept in the data folder under a digest of the model's layers, its weights and the
    images, so that none of the three can be mixed up.

    Args:
        model: What ``extractor`` returned.
        images: uint8 ``(N, 32, 32, 3)``.
        batch_size: Images at a time.

    Returns:
        The features, read from disk, and the seconds that computing them took.
    """
    folder = paths.data_dir() / "features" / _digest(model, images)
    if not folder.is_dir():
        with paths.atomic(folder) as partial:
            started = time.perf_counter()
            values = model.predict(images, batch_size=batch_size, verbose=0)
            seconds = time.perf_counter() - started
            partial.mkdir()
            np.save(partial / "values.npy", values.astype(np.float16))
            (partial / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    return Features(np.load(folder / "values.npy", mmap_mode="r"), seconds)


def probe(
    weights: Weights,
    train: Split,
    validation: Split,
    size: int,
    preprocessing: Sequence[str] = tuple(PREPROCESSING),
    *,
    seed: int = 0,
) -> list[dict[str, str | int | float]]:
    """Measure what frozen features know: a linear classifier on them (notebook 04 introduces it).

    Args:
        weights: What ``resolve_weights`` returned.
        train: Images the classifier learns from, a few thousand at most.
        validation: Images it is judged by.
        size: Side in pixels to which images are enlarged.
        preprocessing: Keys of ``PREPROCESSING``; all but ``caffe`` are there to be measured.
        seed: Of the random weights, where ``weights`` are ``none``.

    Returns:
        A row for each preprocessing: pretraining, size, preprocessing, accuracy on validation,
        seconds for the features.

    Raises:
        ParameterError: A preprocessing is unknown.
    """
    for name in preprocessing:
        if name not in PREPROCESSING:
            raise ParameterError(
                f"unknown preprocessing {name!r}{nearest(name, list(PREPROCESSING))}"
            )
    base = network(weights, size, seed=seed)
    enlarge = layers.Resizing(size, size, interpolation="bilinear", dtype="float32")

    def averaged(images: np.ndarray, name: str) -> np.ndarray:
        found = []
        for start in range(0, len(images), 250):
            large = np.array(enlarge(images[start : start + 250]))
            outputs = base.predict(PREPROCESSING[name](large), batch_size=250, verbose=0)
            found.append(outputs.astype(np.float32).mean(axis=(1, 2)))
        return np.concatenate(found)

    averaged(train.images[:250], preprocessing[0])  # tracing must not count as the first row's cost
    rows: list[dict[str, str | int | float]] = []
    for name in preprocessing:
        started = time.perf_counter()
        seen, unseen = averaged(train.images, name), averaged(validation.images, name)
        seconds = time.perf_counter() - started
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        classifier.fit(seen, train.labels)
        rows.append(
            {
                "pretraining": weights.pretraining,
                "size": size,
                "preprocessing": name,
                "accuracy": float(classifier.score(unseen, validation.labels)),
                "seconds": seconds,
            }
        )
    return rows


def stage_index(name: str) -> int:
    """Return the place of a ResNet50 stage, 0 for ``conv2`` to 3 for ``conv5``.

    Raises:
        ParameterError: No stage has that name.
    """
    if name not in STAGES:
        raise ParameterError(f"unknown stage {name!r}{nearest(name, list(STAGES))}")
    return STAGES.index(name)


def unfreeze(model: keras.Model, from_stage: str) -> int:
    """Make the ResNet50 in ``model`` trainable from a stage on (notebook 05 introduces it).

    Batch normalisation stays frozen, which in Keras also keeps it in inference mode: its statistics
    come from millions of images, and a few small batches would replace them with worse ones.

    Args:
        model: What ``join`` returned.
        from_stage: First stage to train, ``conv2`` to ``conv5``; those before stay frozen.
            ``head`` for nothing but the head.

    Returns:
        The number of weights that training will now change. Compile the model afterwards:
        Keras notes what is trainable when it compiles.

    Raises:
        ParameterError: No stage has that name.
    """
    thawed = () if from_stage == "head" else STAGES[stage_index(from_stage) :]
    base = model.get_layer("resnet50")
    base.trainable = True
    for layer in base.layers:
        late = layer.name.split("_")[0] in thawed
        layer.trainable = late and not isinstance(layer, layers.BatchNormalization)
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def _same(layer: Any) -> Any:
    """Return the layer itself, so that a rebuilt model shares its weights."""
    return layer


def _with_input(model: keras.Model, shape: tuple[int | None, ...], name: str) -> keras.Model:
    """Return the same network for inputs of a shape and with a name, sharing its weights."""
    inputs = keras.Input(shape, dtype=model.input.dtype, name=name)
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=_same)


def resized(model: keras.Model, size: int) -> keras.Model:
    """Return the same network on images enlarged to another size (notebook 05 introduces it).

    Args:
        model: What ``join`` returned.
        size: Side in pixels to which images are enlarged, at least 32.

    Returns:
        A model that shares every weight with ``model``, so that who trains it trains both.

    Raises:
        ParameterError: The size is too small.
    """
    if size < 32:
        raise ParameterError(f"ResNet50 takes images of 32 pixels and more, not {size}")

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if layer.name == "enlarge":
            changed = {"height": size, "width": size}
            return layers.Resizing.from_config({**layer.get_config(), **changed})(*arguments)
        if layer.name == "resnet50":
            return _with_input(layer, (size, size, 3), "preprocessed")(*arguments)
        return layer(*arguments, **options)

    return _replayed(model, call)


def _replayed(model: keras.Model, call: Callable[..., Any]) -> keras.Model:
    """Return ``model`` rebuilt with its own layers, each called by ``call``; not compiled."""
    bare = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(bare, clone_function=_same, call_function=call)


def boundary(model: keras.Model, from_stage: str) -> tuple[keras.Model, keras.Model]:
    """Cut a network where its frozen part ends (notebook 05 introduces it).

    The lower part answers alike in every epoch, so its answers can be kept, and only the upper one
    has to run.

    Args:
        model: What ``join`` returned.
        from_stage: First stage of the upper part, ``conv2`` to ``conv5``.

    Returns:
        Lower, from uint8 ``(N, 32, 32, 3)`` images to ``(N, h, w, C)`` activations, and upper, from
        those to ``(N, 10)`` logits. They share the weights of ``model``, so that who trains the
        upper part trains ``model``.

    Raises:
        ParameterError: No stage has that name.
    """
    place = stage_index(from_stage)
    last = "pool1_pool" if place == 0 else _ends(model.get_layer("resnet50"), STAGES[place - 1])
    cuts: list[keras.KerasTensor] = []

    def inner(layer: Any, *arguments: Any, **options: Any) -> Any:
        outputs = layer(*arguments, **options)
        if layer.name == last:
            cuts.append(outputs)
        return outputs

    def outer(layer: Any, *arguments: Any, **options: Any) -> Any:
        if layer.name != "resnet50":
            return layer(*arguments, **options)
        base = _replayed(layer, inner)
        below = keras.Model(base.input, cuts.pop(), name="resnet50_lower")
        above = keras.Model(below.output, base.output, name="resnet50")
        above = _with_input(above, above.input.shape[1:], "activations")
        cuts.append(below(*arguments))
        return above(cuts[0])

    whole = _replayed(model, outer)
    lower = keras.Model(whole.input, cuts[0], name=f"{model.name}_lower")
    upper = keras.Model(cuts[0], whole.output, name=f"{model.name}_upper")
    return lower, _with_input(upper, upper.input.shape[1:], "activations")


def _ends(base: keras.Model, stage: str) -> str:
    """Return the name of the layer whose output is that of a stage."""
    return [layer.name for layer in base.layers if layer.name.startswith(f"{stage}_")][-1]


def before_base(model: keras.Model) -> keras.Model:
    """Return what ``model`` does to images before its ResNet50: enlarging and preprocessing."""
    found: list[keras.KerasTensor] = []

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if layer.name == "resnet50":
            found.append(arguments[0])
        return layer(*arguments, **options)

    return keras.Model(_replayed(model, call).input, found[0])
