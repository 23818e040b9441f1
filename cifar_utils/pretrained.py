"""Where a ResNet50 comes from: its weights, found and checked, and the frozen network they make."""

import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from cifar_utils import archives, download, paths, runtime, sources, training
from cifar_utils.data import IMAGE_SHAPE, Split
from cifar_utils.errors import DataError, ParameterError, WeightsError, nearest
from cifar_utils.recipes import Recipe

PREPROCESSING: dict[str, Callable] = {
    "caffe": keras.applications.resnet50.preprocess_input,
    "divide by 255": lambda images: images / 255,
    "none": lambda images: images,
}
"""What happens to 0-255 RGB before the network; ``caffe`` is what Keras's ResNet50 was trained with
(RGB to BGR, minus the ImageNet means), the others are the common mistakes."""

CHOICES = ("auto", "imagenet", "cifar100", "none")
"""What ``resolve`` takes besides a file."""


@dataclass(frozen=True)
class Weights:
    """Where a ResNet50's starting weights come from.

    Attributes:
        source: The path of a file in Keras's layout without top, or ``none``.
        pretraining: What to call it in a result row; ``none`` for random weights.
        sha256: SHA-256 of the file, None where there is none.
    """

    source: str
    pretraining: str
    sha256: str | None = None


RANDOM = Weights("none", "none")
"""Random weights."""


def resolve(choice: str = "auto", *, offline_random: bool = False) -> Weights:
    """Return the weights that ``choice`` stands for (notebook 04 introduces it).

    Args:
        choice: ``imagenet`` (Keras's, 95 MB, taken from Keras's cache or else downloaded once into
            the data folder), ``cifar100`` (trained once, see ``train_cifar100``), ``none``
            (random), the path of a file, or ``auto``: ``CIFAR_UTILS_RESNET50_WEIGHTS`` if set, else
            ``imagenet``.
        offline_random: Whether ``auto`` may fall back, with a printed notice, to random weights
            when the download fails; for the smoke profile.

    Raises:
        WeightsError: There is no such file, or the download failed, or CIFAR-100 is missing; the
            message says what to do.
        ParameterError: The list of sources that ``CIFAR_UTILS_MIRRORS`` names cannot be used.
    """
    asked = choice
    if choice == "auto":
        choice = os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS") or "imagenet"
    if choice == "none":
        return RANDOM
    if choice == "cifar100":
        return _file_weights(str(train_cifar100()))
    if choice != "imagenet":
        return _file_weights(choice)
    fallback = asked == "auto" and offline_random
    try:
        return _imagenet(download.Patience(rounds=1) if fallback else download.Patience())
    except DataError as error:
        if fallback:
            print(
                "ResNet50: no ImageNet weights at hand, going on with random weights; once online,"
            )
            print("`cifar run --from 04 --fresh` does it with ImageNet's")
            return RANDOM
        raise WeightsError(
            f"there are no ImageNet weights of ResNet50: {error}\n"
            "  or set CIFAR_UTILS_RESNET50_WEIGHTS to a file in Keras's layout "
            "(include_top=False), or to 'none' for random weights"
        ) from error


def _imagenet(patience: download.Patience) -> Weights:
    """Return Keras's weights, from Keras's own cache if they are there."""
    file = sources.imagenet()
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    path = home / "models" / file.name
    if not download.proven(path, file):
        path = download.fetch_imagenet(patience=patience)
    return Weights(str(path), "imagenet", download.sha256(path))


def _file_weights(choice: str) -> Weights:
    """Return the weights in a file, named after it.

    ``resnet50-places365-notop.h5`` is called ``places365``, ``resnet50-tinyimagenet-notop.h5``
    ``tiny-imagenet``. A file is never called ``imagenet``: its name cannot prove that.
    """
    path = Path(choice).expanduser()
    if not path.is_file():
        if path.name == choice and not path.suffix:
            problem = f"unknown ResNet50 weights {choice!r}{nearest(choice, list(CHOICES))}"
        else:
            problem = f"the ResNet50 weights file {path} does not exist"
        raise WeightsError(
            f"{problem}; give a file in Keras's layout (include_top=False), or "
            "'imagenet', 'cifar100' or 'none'"
        )
    label = re.sub(r"^resnet50[-_]?|[-_]?no_?top$", "", path.stem, flags=re.IGNORECASE)
    label = re.sub(r"(?<=[a-z0-9])imagenet", "-imagenet", label)
    if label in ("", "imagenet"):
        label = f"file {path.name}"
    return Weights(str(path.resolve()), label, download.sha256(path))


def train_cifar100(epochs: int | None = None, *, size: int = 32, seed: int = 0) -> Path:
    """Train a ResNet50 on CIFAR-100's 100 fine classes, unless that was done (notebook 04).

    The network is trained from scratch on the 50,000 training images, its batch normalisation
    included. Killed, it goes on after the last epoch that was done.

    Args:
        epochs: How often it sees each image; None for 30 where there is a GPU, else 8.
        size: Side in pixels to which images are enlarged, at least 32.
        seed: Of weights, order and augmentation.

    Returns:
        The path of the file of weights without top in the data folder.

    Raises:
        WeightsError: There is neither the file nor an archive of CIFAR-100 in the data folder.
        DataError: The archive is not the official one.
    """
    path = paths.data_dir() / "resnet50-cifar100-notop.h5"
    if path.is_file():
        return path
    names = list(archives.CIFAR100_MD5)
    archive = next((each for each in map(path.with_name, names) if each.is_file()), None)
    if archive is None:
        raise WeightsError(
            f"pretraining on CIFAR-100 needs its archive; put {' or '.join(names)} into "
            f"{path.parent}, packed as it is; https://www.cs.toronto.edu/~kriz/cifar.html has both"
        )
    waiting = "another process trains on CIFAR-100; waiting for it (Ctrl-C stops waiting)"
    with paths.locked(path.with_name(f".{path.name}.lock"), waiting):
        if not path.is_file():
            split = Split(*archives.cifar100(archive))
            keras.utils.set_random_seed(seed)
            base = keras.applications.ResNet50(
                include_top=False, weights=None, input_shape=(size, size, 3)
            )
            body = fed(base)
            outputs = layers.Dense(100, dtype="float32", name="logits")(body.output)
            recipe = Recipe(
                epochs=epochs or (30 if runtime.has_gpu() else 8),
                optimizer="adamw",
                weight_decay=0.05,
                warmup=0.1,
                label_smoothing=0.1,
                augmentation="standard",
            )
            training.fit(
                keras.Model(body.input, outputs, name="resnet50_cifar100"),
                split,
                None,
                recipe,
                seed=seed,
                backup=path.with_suffix(".backup"),
            )
            save(base, path)
    return path


# The network


def network(weights: Weights, size: int, *, seed: int = 0) -> keras.Model:
    """Return a frozen ResNet50 from preprocessed images to features (notebook 04 introduces it).

    Args:
        weights: What ``resolve`` returned.
        size: Side of the images in pixels, at least 32.
        seed: Of the random weights, where ``weights`` are ``none``.

    Returns:
        A model from float ``(N, size, size, 3)``, preprocessed, to ``(N, k, k, 2048)``.

    Raises:
        ParameterError: The size is too small.
        WeightsError: The file does not fit a ResNet50 without top; the message names the first
            layer that differs.
    """
    if size < 32:
        raise ParameterError(f"ResNet50 takes images of 32 pixels and more, not {size}")
    if weights.source == "none":
        keras.utils.set_random_seed(seed)
    base = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(size, size, 3))
    if weights.pretraining == "imagenet":
        base.load_weights(weights.source)  # Keras knows its own file, which the checksum proves
    elif weights.source != "none":
        load(base, Path(weights.source))
    base.trainable = False
    return base


def extractor(
    weights: Weights, size: int, *, preprocessing: str = "caffe", seed: int = 0
) -> keras.Model:
    """Return a frozen ResNet50 from raw images to features (notebook 04 introduces it).

    Args:
        weights: What ``resolve`` returned.
        size: Side in pixels to which images are enlarged, at least 32.
        preprocessing: A key of ``PREPROCESSING``; all but ``caffe`` are there to be measured.
        seed: Of the random weights, where ``weights`` are ``none``.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` RGB images to float32 ``(N, 2048)`` features: the
        enlarged and preprocessed image through every convolution, averaged over positions.

    Raises:
        ParameterError: The size is too small, or no preprocessing has that name.
        WeightsError: The file does not fit a ResNet50 without top.
    """
    return fed(network(weights, size, seed=seed), preprocessing)


def fed(base: keras.Model, preprocessing: str = "caffe") -> keras.Model:
    """Return what ``extractor`` does, around a network that is there already.

    Args:
        base: What ``network`` returned; its weights are shared.
        preprocessing: A key of ``PREPROCESSING``.

    Raises:
        ParameterError: No preprocessing has that name.
    """
    if preprocessing not in PREPROCESSING:
        raise ParameterError(
            f"unknown preprocessing {preprocessing!r}{nearest(preprocessing, list(PREPROCESSING))}"
        )
    height, width, _ = base.input.shape[1:]
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    x = layers.Resizing(height, width, interpolation="bilinear", dtype="float32", name="enlarge")(
        images
    )
    x = base(PREPROCESSING[preprocessing](x))
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(images, features, name="resnet50_features")


# Files of weights


def save(network: keras.Model, path: Path) -> None:
    """Write a network's weights in Keras's layout (``.h5``), whole or not at all.

    Args:
        network: Such as ``network`` returns; any model of layers that are no models themselves.
        path: Where to; ``keras.applications`` and ``resolve`` take it from there.
    """
    with paths.atomic(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["backend"] = keras.backend.backend()
        file.attrs["keras_version"] = keras.version()
        filled = [layer for layer in network.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name for layer in filled]
        for layer in filled:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}" for weight in layer.weights]
            group.attrs["weight_names"] = names
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()


def load(network: keras.Model, path: Path) -> None:
    """Put the weights in a file in Keras's layout into a network, by the names of its layers.

    Unlike ``load_weights``, which goes by order and shape alone, this does not take a layer for
    another one of the same shape.

    Args:
        network: What the file has to fit, layer by layer.
        path: The file.

    Raises:
        WeightsError: It is another kind of file, or damaged, or a layer is missing, too many or of
            another shape.
    """
    unfit = f"{path} does not fit Keras's {network.name} with include_top=False: "
    advice = "; expected weights in Keras's layout, as pretrained.save writes them"
    try:
        with h5py.File(_hdf5(path), "r") as file:
            stored = _stored(file, path)
    except (OSError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged or cannot be read ({error}); get it again"
        ) from error
    wanted = {layer.name: layer for layer in network.layers if layer.weights}
    for name, layer in wanted.items():
        expected = _shapes(layer.weights)
        if name not in stored:
            first = next(iter(stored), "none")
            raise WeightsError(
                f"{unfit}it has no layer {name!r} (expected {expected}); its first layer is "
                f"{first!r}{advice}"
            )
        if (found := _shapes(stored[name])) != expected:
            raise WeightsError(f"{unfit}layer {name!r} is {found}, expected {expected}{advice}")
    for name in stored:
        if name not in wanted:
            found = _shapes(stored[name])
            raise WeightsError(f"{unfit}it has a layer too many, {name!r}, {found}{advice}")
    for name, layer in wanted.items():
        layer.set_weights(stored[name])


def _hdf5(path: Path) -> Path:
    """Return the path of an HDF5 file; refuse any other kind."""
    if zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} is a whole model (.keras), expected weights alone; load it with "
            "keras.models.load_model, and write the ResNet50 in it with "
            "pretrained.save(model.get_layer('resnet50'), Path('NAME.h5'))"
        )
    if not h5py.is_hdf5(path):
        with path.open("rb") as file:
            begins = file.read(16)
        raise WeightsError(
            f"{path} is no HDF5 file: it begins with {begins!r}; expected weights in Keras's "
            "layout (.h5); was it downloaded as a web page, or only in part?"
        )
    return path


def _stored(file: h5py.File, path: Path) -> dict[str, list[np.ndarray]]:
    """Return the arrays in a file in Keras's layout, by layer, those without any left out."""
    group = file.get("model_weights", file)
    if "layer_names" not in group.attrs:
        if "layers" in file or "_layer_checkpoint_dependencies" in file:
            raise WeightsError(
                f"{path} is what model.save_weights writes (.weights.h5), expected Keras's older "
                "layout; put it into the model it was saved from with load_weights, and write "
                "that with pretrained.save(model, Path('NAME.h5'))"
            )
        found = ", ".join(list(file)[:3]) or "nothing"
        raise WeightsError(
            f"{path} is an HDF5 file without Keras's layers: it holds {found}; expected the "
            "weights of a ResNet50 in Keras's layout (include_top=False)"
        )
    stored = {}
    for name in _texts(group.attrs["layer_names"]):
        arrays = [
            np.asarray(group[name][each]) for each in _texts(group[name].attrs["weight_names"])
        ]
        if arrays:
            stored[name] = arrays
    return stored


def _texts(names: np.ndarray) -> list[str]:
    """Return names, which HDF5 files have as bytes or as text."""
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _shapes(arrays: list) -> str:
    """Return the shapes of arrays or variables, for people."""
    return ", ".join(str(tuple(array.shape)) for array in arrays)
