import importlib.util
import json

import keras
import numpy as np
import pytest

from cifar_utils import cli, ensemble, export, models, predict, pretrained, runs, transfer
from cifar_utils.data import Dataset, Provenance
from cifar_utils.errors import CifarUtilsError, ParameterError
from tests.unit.grey import flat, grey_network, make_runs
from tests.unit.trainable import coloured

COUNTS = {"train": 300, "validation": 100, "test": 10}


@pytest.fixture(scope="module")
def dataset():
    provenance = Provenance("synthetic", "test", "0" * 64, "synthetic", COUNTS, "now")
    train, validation, test = (coloured(count, seed=count) for count in COUNTS.values())
    return Dataset(train, validation, test, provenance)


def course(name):
    """Return a network of the course with random weights."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    try:
        if name == "resnet50":
            return transfer.join(pretrained.extractor(pretrained.RANDOM, 32), transfer.head(), "m")
        if name == "ensemble":
            parts = [models.build("fast_cnn", coloured(300).images), models.baseline_cnn()]
            whole = ensemble.assemble(parts, ensemble.Average((0.7, 0.3), (0.5, 2.0)))
            return ensemble.with_views(whole, "crops")
        return models.build(name, coloured(300).images)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", ["baseline_cnn", "fast_cnn", "resnet50", "ensemble"])
def test_onnx_gives_the_logits_of_the_model_in_float32(tmp_path, dataset, name):
    path = tmp_path / "model.keras"
    models.save(course(name), path)
    found = export.write(predict.Source("x", path, 1.5, "energy", 2.0), "onnx", dataset)
    assert found.path == tmp_path / "model.onnx"
    assert found.same >= export.SAME
    assert found.difference < 1e-4
    assert found.megabytes == pytest.approx(found.path.stat().st_size / 1e6)
    alone = predict.find(found.path)
    assert (alone.temperature, alone.score, alone.least_score) == (1.5, "energy", 2.0)
    one, many = (predict.Predictor(alone).logits(dataset.test.images[:n]) for n in (1, 7))
    np.testing.assert_allclose(one[0], many[0], atol=1e-4)


@pytest.mark.parametrize("form", ["litert", "savedmodel"])
def test_other_formats_give_the_same_answers(tmp_path, dataset, form):
    path = tmp_path / "model.keras"
    grey_network().save(path)
    export.write(predict.Source("x", path), form, dataset)  # which the second takes the place of
    found = export.write(predict.Source("x", path), form, dataset)
    assert found.same == 1
    assert found.difference < 1e-3


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_eight_bits_are_smaller_and_their_accuracy_is_told(tmp_path, dataset, form):
    path = tmp_path / "model.keras"
    models.save(course("baseline_cnn"), path)
    plain = export.write(predict.Source("x", path), form, dataset)
    small = export.write(predict.Source("x", path), form, dataset, int8=True)
    assert small.path != plain.path
    assert small.megabytes < 0.35 * plain.megabytes
    assert 0 <= small.accuracy <= 1
    assert dict(small.described())["accuracy"]


def test_an_export_that_answers_differently_is_not_kept(tmp_path, dataset, monkeypatch):
    path = tmp_path / "model.keras"
    grey_network().save(path)
    monkeypatch.setattr(predict, "load", lambda _: lambda images: np.zeros((len(images), 10)))
    with pytest.raises(CifarUtilsError, match="it was not kept"):
        export.write(predict.Source("x", path), "onnx", dataset)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.keras"]


def test_what_cannot_be_is_refused(tmp_path, dataset, monkeypatch):
    path = tmp_path / "model.keras"
    grey_network().save(path)
    source = predict.Source("x", path)
    with pytest.raises(ParameterError, match="unknown format 'onx'"):
        export.write(source, "onx", dataset)
    with pytest.raises(ParameterError, match="has no 8 bits"):
        export.write(source, "savedmodel", dataset, int8=True)
    with pytest.raises(ParameterError, match=r"ends in \.onnx"):
        export.write(source, "onnx", dataset, path=tmp_path / "model.tflite")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(ParameterError, match="choose another name"):
        export.write(source, "savedmodel", dataset, path=tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CifarUtilsError, match=r"pip install 'cifar-utils\[cpu,serve,export\]'"):
        export.write(source, "onnx", dataset)


def test_the_command_exports_and_the_export_serves(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))
    make_runs()
    assert cli.main(["export", "auto", "--data", "synthetic"]) == 0
    assert "same class" in capsys.readouterr().out
    folder = runs.load("old").stage("03").folder
    known = json.loads((folder / "model.onnx.json").read_text())
    assert known["temperature"] == 2.0
    assert predict.find().path == folder / "model.onnx"
    assert predict.Predictor().predict(flat(75)).label == "cat"
