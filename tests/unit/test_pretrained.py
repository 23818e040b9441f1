import hashlib
import json
import random

import h5py
import keras
import numpy as np
import pytest

from cifar_utils import archives, checkpoints, download, models, pretrained, runtime, sources
from cifar_utils.errors import DataError, ParameterError, WeightsError
from tests.unit import fake_archives as fake
from tests.unit.faulty_server import GOOD, Fault, FaultyServer

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
CONTENT = b"\x89HDF\r\n\x1a\n" + random.Random(0).randbytes(200_000)
NAME = "pictures.tar.gz"  # what the server calls everything


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in ("CIFAR_UTILS_RESNET50_WEIGHTS", "CIFAR_UTILS_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    keras.config.set_dtype_policy("float32")
    return tmp_path / "data"


@pytest.fixture
def server():
    with FaultyServer(CONTENT) as server:
        yield server


def table(kind, **fields):
    return f"[[{kind}]]\n" + "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in fields.items()
    )


def listed(path, *urls, content=CONTENT):
    """Write a list of sources whose ImageNet weights are ``content``."""
    archive = {"name": "a.tar.gz", "layout": "python", "bytes": 1, "sha256": "0" * 64}
    weights = {"name": NAME, "bytes": len(content), "md5": hashlib.md5(content).hexdigest()}
    text = table("archive", **archive, urls=["http://host/a.tar.gz"])
    path.write_text(text + (table("weights", **weights, urls=urls) if urls else ""))
    return path


@pytest.fixture
def prepare(server, tmp_path, monkeypatch):
    """Return a function that sets up sources of ImageNet weights, with faults."""

    def prepare(*faults):
        path = listed(tmp_path / "packaged.toml", *[server.url(fault) for fault in faults])
        monkeypatch.setattr(sources, "PACKAGED", path)

    return prepare


# Which weights


def test_auto_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR_UTILS_RESNET50_WEIGHTS", "none")
    assert pretrained.resolve() == pretrained.RANDOM
    (tmp_path / "mine.h5").write_bytes(b"weights")
    monkeypatch.setenv("CIFAR_UTILS_RESNET50_WEIGHTS", str(tmp_path / "mine.h5"))
    assert pretrained.resolve() == pretrained.Weights(
        str(tmp_path / "mine.h5"), "mine", hashlib.sha256(b"weights").hexdigest()
    )


@pytest.mark.parametrize(
    ("name", "pretraining"),
    [
        ("resnet50-places365-notop.h5", "places365"),
        ("resnet50_places_no_top.h5", "places"),
        ("resnet50-tinyimagenet-notop.h5", "tiny-imagenet"),
        ("resnet50-tiny-imagenet-notop.h5", "tiny-imagenet"),
        ("resnet50-imagenet-notop.h5", "file resnet50-imagenet-notop.h5"),
        ("resnet50_notop.h5", "file resnet50_notop.h5"),
    ],
)
def test_a_file_names_its_pretraining_but_cannot_claim_imagenet(tmp_path, name, pretraining):
    (tmp_path / name).touch()
    assert pretrained.resolve(str(tmp_path / name)).pretraining == pretraining


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("gone.h5", "weights file gone.h5 does not exist"),
        ("folder/imagenet", "folder/imagenet does not exist"),
        ("imagnet", "unknown ResNet50 weights 'imagnet'; did you mean 'imagenet'"),
        ("ImageNet", "did you mean 'imagenet'"),
        ("None", "did you mean 'none'"),
    ],
)
def test_what_cannot_be_meant(choice, expected):
    with pytest.raises(WeightsError) as caught:
        pretrained.resolve(choice)
    assert expected in str(caught.value)


# Keras's weights


def test_imagenet_is_downloaded_once(prepare, server, folder):
    prepare(GOOD)
    weights = pretrained.resolve("imagenet")
    expected = hashlib.sha256(CONTENT).hexdigest()
    assert weights == pretrained.Weights(str(folder / NAME), "imagenet", expected)
    assert (folder / NAME).read_bytes() == CONTENT
    assert download.receipt(folder / NAME).sha256 == expected
    assert pretrained.resolve("imagenet") == weights
    assert len(server.asked[0].requests) == 1


def test_an_interrupted_download_goes_on(prepare, server, folder, monkeypatch):
    prepare(GOOD)
    append = download._Part._append

    def interrupted(part, *arguments):
        if part.length > 100_000:
            raise KeyboardInterrupt
        append(part, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(download._Part, "_append", interrupted)
        with pytest.raises(KeyboardInterrupt, match="are kept"):
            pretrained.resolve("imagenet")
    (part,) = (folder / ".downloads").glob("*.part")
    kept = part.stat().st_size
    assert pretrained.resolve("imagenet").pretraining == "imagenet"
    assert server.asked[0].requests[1]["Range"] == f"bytes={kept}-"
    assert (folder / NAME).read_bytes() == CONTENT


def test_wrong_bytes_are_refused(prepare, folder):
    prepare(Fault(wrong=0.6), Fault(page=True))
    with pytest.raises(
        WeightsError, match=r"md5(.|\n)*else than an HDF5 file(.|\n)*or set CIFAR_U"
    ):
        pretrained.resolve("imagenet", offline_random=True)
    assert not (folder / NAME).exists()


def test_the_file_in_the_cache_of_keras_is_used_if_it_is_right(prepare, server, folder, tmp_path):
    prepare(GOOD)
    cached = tmp_path / "keras" / "models" / NAME
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT)
    assert pretrained.resolve("imagenet").source == str(cached)
    assert not server.asked[0].requests
    cached.write_bytes(CONTENT[:-1])
    assert pretrained.resolve("imagenet").source == str(folder / NAME)
    assert cached.read_bytes() == CONTENT[:-1]


def test_offline_only_smoke_goes_on_and_says_so(prepare, capsys):
    prepare(Fault(refused=True))
    assert pretrained.resolve("auto", offline_random=True) == pretrained.RANDOM
    assert "random weights" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="CIFAR_UTILS_RESNET50_WEIGHTS"):
        pretrained.resolve("auto")
    with pytest.raises(WeightsError, match="refuses the connection"):
        pretrained.resolve("imagenet", offline_random=True)


def test_a_list_of_sources_says_where_not_what(prepare, server, tmp_path, monkeypatch):
    prepare(Fault(status=404))
    mirror = server.url()
    path = tmp_path / "mine.toml"
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(path))
    listed(path)
    assert sources.imagenet().urls == (server.url().replace("/2/", "/0/"),)
    listed(path, mirror)
    assert pretrained.resolve("imagenet").pretraining == "imagenet"
    assert not server.asked[0].requests
    listed(path, mirror, content=CONTENT + b"!")
    with pytest.raises(ParameterError, match="other weights than"):
        pretrained.resolve("imagenet")


def test_what_the_packaged_list_says_is_what_keras_says():
    from keras.src.applications.resnet import WEIGHTS_HASHES

    assert sources.imagenet().md5 == WEIGHTS_HASHES["resnet50"][1]
    assert all(url.endswith(f"/{sources.imagenet().name}") for url in sources.imagenet().urls)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weights = 3\n", "expected [[archive]] tables"),
        ("weights = [3]\n", "weights 1: expected the fields name, bytes, md5, urls"),
    ],
)
def test_weights_with_mistakes_in_a_list(tmp_path, monkeypatch, text, expected):
    path = listed(tmp_path / "mine.toml")
    path.write_text(text + path.read_text())
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(path))
    with pytest.raises(ParameterError) as caught:
        sources.imagenet()
    assert expected in str(caught.value)


# Files


def small(side=8, **kernels):
    """Return a network of two layers, as large as they are, in the place of ResNet50."""
    x = images = keras.Input((side, side, 3))
    for name, size in ({"first": 1, "second": 1} | kernels).items():
        x = keras.layers.Conv2D(3, size, name=name)(x)
    return keras.Model(images, keras.layers.ReLU(name="relu")(x), name="resnet50")


def kernel_of(model, name):
    return model.get_layer(name).kernel.numpy()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.h5"


def refused(path):
    """Return the message of the error that loading ends in; the network stays as it was."""
    model = small()
    before = model.get_weights()
    with pytest.raises(WeightsError) as caught:
        pretrained.load(model, path)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_saved_weights_come_back(path):
    one, other = small(), small()
    pretrained.save(one, path)
    pretrained.load(other, path)
    for saved, loaded in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, loaded)


def test_layers_of_one_shape_are_told_apart_by_name_and_halves_are_taken(path):
    one, other = small(), small()
    pretrained.save(one, path)
    kernel = kernel_of(one, "second").astype(np.float16)
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = ["second", "first", "relu"]
        file.create_group("relu").attrs["weight_names"] = []
        del file["second"]["second/kernel"]
        file["second"]["second/kernel"] = kernel
    pretrained.load(other, path)
    np.testing.assert_array_equal(kernel_of(other, "first"), kernel_of(one, "first"))
    np.testing.assert_array_equal(kernel_of(other, "second"), kernel.astype(np.float32))


def test_weights_inside_an_older_whole_model_are_found(path):
    one, other = small(), small()
    one.save(path)  # .h5: the model and its weights
    pretrained.load(other, path)
    np.testing.assert_array_equal(kernel_of(other, "second"), kernel_of(one, "second"))


def test_the_first_layer_that_differs_is_named(path):
    pretrained.save(small(second=3), path)
    assert "layer 'second' is (3, 3, 3, 3), (3,), expected (1, 1, 3, 3), (3,)" in refused(path)
    pretrained.save(small(third=1), path)
    assert "it has a layer too many, 'third', (1, 1, 3, 3), (3,)" in refused(path)
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = ["third"]
    assert "no layer 'first' (expected (1, 1, 3, 3), (3,)); its first layer is 'third'" in refused(
        path
    )


def test_other_kinds_of_files_are_told_apart(path, tmp_path):
    path.write_text("<!doctype html>")
    assert "no HDF5 file: it begins with b'<!doctype html>'" in refused(path)
    small().save(tmp_path / "whole.keras")
    assert "is a whole model (.keras)" in refused(tmp_path / "whole.keras")
    small().save_weights(tmp_path / "new.weights.h5")
    assert "model.save_weights writes" in refused(tmp_path / "new.weights.h5")
    with h5py.File(path, "w") as file:
        file["pixels"] = np.zeros(3)
    assert "without Keras's layers: it holds pixels" in refused(path)
    pretrained.save(small(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is damaged or cannot be read" in refused(path)


def test_a_file_cut_off_anywhere_is_refused(path):
    pretrained.save(small(), path)
    whole = path.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path)


# CIFAR-100


@pytest.fixture
def cifar100(folder, monkeypatch):
    """Put a small archive of CIFAR-100 into the data folder, and a small network for ResNet50."""
    archive = fake.cifar100(folder / "cifar-100-python.tar.gz", count=150)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(archives.CIFAR100_MD5, archive.name, md5)
    monkeypatch.setattr(keras.applications, "ResNet50", lambda **_: small(side=32))
    monkeypatch.setattr(runtime, "has_gpu", lambda: False)
    return archive


def test_cifar100_is_trained_on_once_also_after_a_kill(cifar100, folder, monkeypatch, capsys):
    write = checkpoints.Checkpoint.on_epoch_end

    def deadly(checkpoint, epoch, logs=None):
        write(checkpoint, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Checkpoint, "on_epoch_end", deadly)
        pretrained.resolve("cifar100")
    weights = pretrained.resolve("cifar100")
    assert "goes on after epoch 1" in capsys.readouterr().out
    path = folder / "resnet50-cifar100-notop.h5"
    assert weights == pretrained.Weights(str(path), "cifar100", download.sha256(path))
    pretrained.load(small(), path)
    assert pretrained.resolve("cifar100") == weights
    assert not capsys.readouterr().out


def test_without_cifar100_the_message_says_which_file_to_put_where(folder):
    with pytest.raises(WeightsError) as caught:
        pretrained.resolve("cifar100")
    assert f"cifar-100-binary.tar.gz into {folder}" in str(caught.value)


def test_another_archive_than_the_official_one_is_refused(cifar100):
    cifar100.write_bytes(cifar100.read_bytes() + b"!")
    with pytest.raises(DataError, match="is not the official archive"):
        pretrained.resolve("cifar100")


# The network


@pytest.fixture(scope="module")
def extractor():
    keras.config.set_dtype_policy("float32")
    return pretrained.extractor(pretrained.RANDOM, 32, seed=1)


def test_file_weights_are_the_ones_used_and_keras_reads_them_too(extractor, tmp_path):
    path = tmp_path / "resnet50-elsewhere-notop.h5"
    base = extractor.get_layer("resnet50")
    pretrained.save(base, path)
    again = pretrained.network(pretrained.resolve(str(path)), 32)
    theirs = keras.applications.ResNet50(
        include_top=False, weights=str(path), input_shape=(32, 32, 3)
    )
    for one, two, three in zip(base.weights, again.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
        np.testing.assert_array_equal(one.numpy(), three.numpy())
    assert not again.trainable_weights


def test_another_network_is_refused(tmp_path):
    path = tmp_path / "other.h5"
    pretrained.save(models.build("baseline_cnn"), path)
    weights = pretrained.resolve(str(path))
    with pytest.raises(WeightsError, match=r"other\.h5 does not fit Keras's resnet50 .*conv1_conv"):
        pretrained.extractor(weights, 32)


def test_preprocessing_inside_the_model_is_caffe_mode(extractor):
    """Against the definition: RGB to BGR, minus the ImageNet means, nothing else."""
    base = extractor.get_layer("resnet50")
    expected = IMAGES[..., ::-1].astype("float32") - np.array([103.939, 116.779, 123.68], "float32")
    by_hand = np.asarray(base(expected)).mean(axis=(1, 2))
    np.testing.assert_allclose(extractor.predict(IMAGES, verbose=0), by_hand, rtol=1e-3, atol=1e-4)


def test_the_common_mistakes_can_be_made_on_purpose(extractor):
    base = extractor.get_layer("resnet50")
    divided = pretrained.fed(base, "divide by 255")
    by_hand = np.asarray(base(IMAGES.astype("float32") / 255)).mean(axis=(1, 2))
    np.testing.assert_allclose(divided.predict(IMAGES, verbose=0), by_hand, rtol=1e-3, atol=1e-4)


def test_bad_settings_are_refused(extractor):
    with pytest.raises(ParameterError, match="32 pixels and more, not 16"):
        pretrained.extractor(pretrained.RANDOM, 16)
    with pytest.raises(ParameterError, match="did you mean 'caffe'"):
        pretrained.fed(extractor.get_layer("resnet50"), "cafe")
