import csv
import io
import json
import os
import subprocess
import sys
from contextlib import suppress

import keras
import numpy as np
import pytest
from scipy import special

from cifar_utils import cli, predict, runs
from cifar_utils.archives import CLASS_NAMES
from cifar_utils.errors import CifarUtilsError, ParameterError, PictureError, RunError
from tests.unit.grey import flat, grey_network, make_runs


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))
    make_runs()
    return tmp_path


def test_the_chosen_model_comes_first_then_the_newest(artifacts):
    assert [source.name for source in predict.available()] == [
        "old/03_augmentation",
        "newest/03_augmentation",
        "new/04_resnet50_frozen",
        "new/02_baseline_cnn",
        "old/02_baseline_cnn",
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("auto", "old/03_augmentation"),
        ("02", "new/02_baseline_cnn"),
        ("2", "new/02_baseline_cnn"),
        ("03", "newest/03_augmentation"),
        ("baseline_cnn", "new/02_baseline_cnn"),
        ("old/02", "old/02_baseline_cnn"),
        ("old/baseline_cnn", "old/02_baseline_cnn"),
        ("old/02_baseline_cnn", "old/02_baseline_cnn"),
    ],
)
def test_models_are_found_by_name(artifacts, asked, found):
    assert predict.find(asked).name == found


def test_a_file_of_a_run_keeps_what_is_known_of_it(artifacts):
    path = artifacts / "old" / "03_augmentation" / "model.keras"
    source = predict.find(path)
    assert (source.name, source.temperature) == ("old/03_augmentation", 2.0)


def test_models_that_are_not_there(artifacts, tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match="did you mean 'old/03_augmentation'"):
        predict.find("old/03_augmentatoin")
    with pytest.raises(ParameterError, match="no model file"):
        predict.find("nothing.onnx")
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no model")
    with pytest.raises(CifarUtilsError, match="is not a Keras model"):
        predict.Predictor(broken)
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path / "empty"))
    with pytest.raises(RunError, match="no trained model yet; make some with: cifar run"):
        predict.find()


def test_everything_that_is_a_picture_gets_the_same_answer(artifacts, tmp_path):
    predictor = predict.Predictor()
    image = flat(75)
    path = tmp_path / "grey"
    image.save(path, "PNG")
    for given in (image, path, str(path), path.read_bytes(), np.asarray(image)):
        found = predictor.predict(given)
        assert found.label == CLASS_NAMES[3]
        logits = predictor.logits(np.full((1, 32, 32, 3), 75, np.uint8))
        expected = special.softmax(logits[0].astype(float) / 2)
        np.testing.assert_allclose(found.probabilities, expected)
        assert found.confidence == found.probabilities.max() == found.top(1)[0][1]


def test_what_looks_like_nothing_known_is_said_to(artifacts):
    predictor = predict.Predictor()
    sure = predictor.predict(flat(75))
    rate = special.softmax(predictor.logits(np.full((1, 32, 32, 3), 75, np.uint8))[0]).max()
    assert sure.score == pytest.approx(rate), "of the logits as they are"
    limit = float(rate) + 0.01
    strict = predict.Predictor(
        predict.Source("x", predictor.source.path, 2.0, "highest probability", limit)
    )
    refused = strict.predict(flat(75))
    assert not refused.known
    assert refused.label == sure.label
    record = refused.record()
    assert (record["label"], record["nearest"]) == (None, CLASS_NAMES[3])
    assert record["why"] == f"highest probability {rate:.2f}, below the threshold {limit:.2f}"
    assert json.loads(json.dumps(record)) == record
    unjudged = predict.Predictor("new/02").predict(flat(75))
    assert unjudged.known
    assert "run notebook 06" in unjudged.why


def test_bad_pictures_do_not_stop_the_others(artifacts):
    predictor = predict.Predictor()
    levels = list(np.arange(70) % 10)
    given = [flat(25 * level) for level in levels]
    given[5] = b"rubbish"
    given[64] = np.zeros((3, 3))
    found = list(predictor.predict_many(iter(given), batch_size=16))
    assert [isinstance(each, PictureError) for each in found] == [
        place in (5, 64) for place in range(70)
    ]
    labels = [None if isinstance(each, PictureError) else each.label for each in found]
    expected = [CLASS_NAMES[level] for level in levels]
    expected[5] = expected[64] = None
    assert labels == expected
    assert list(predictor.predict_many([])) == []


@pytest.fixture
def folder(artifacts, tmp_path):
    inside = tmp_path / "pictures" / "more"
    inside.mkdir(parents=True)
    flat(25).save(inside.parent / "a.png")
    flat(50, (60, 20)).save(inside / "b.JPG", "JPEG", quality=100)
    (inside / "notes.txt").write_text("no picture")
    (inside.parent / "c.gif").write_bytes(b"GIF89a but damaged")
    return inside.parent


def test_paths_stand_for_files(folder):
    both = [folder / "a.png", folder / "c.gif", folder / "more" / "b.JPG"]
    assert predict.expand([str(folder)]) == both
    assert predict.expand([str(folder / "*.png"), str(folder / "a.png")]) == both[:1]
    assert predict.expand([str(folder / "**" / "*.JPG")]) == both[2:]
    assert predict.expand(["not there.png"]) == [predict.Path("not there.png")]
    with pytest.raises(ParameterError, match="no file matches"):
        predict.expand([str(folder / "*.bmp")])
    (folder / "empty").mkdir()
    with pytest.raises(ParameterError, match="no picture is in"):
        predict.expand([str(folder / "empty")])
    with pytest.raises(ParameterError, match="no file matches"):
        predict.expand([str(folder / "emp*")])
    with pytest.raises(ParameterError, match="a path is empty"):
        predict.expand([""])
    assert predict.expand([str(folder / "mor*")]) == both[2:]
    assert predict.expand(["x" * 5000]) == [predict.Path("x" * 5000)]


def test_a_folder_stands_for_its_pictures(folder):
    found = list(predict.Predictor("new/02").predict_many([folder, flat(75)]))
    labels = [None if isinstance(each, PictureError) else each.label for each in found]
    assert labels == ["automobile", None, "bird", "cat"]


def test_the_command_names_what_it_sees_and_what_it_cannot_read(folder, capsys):
    assert cli.main(["predict", str(folder), "--top", "1"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(f"{folder / 'a.png'}: ")
    assert "automobile" in lines[0]
    assert "bird" in lines[1]
    assert "model: old/03_augmentation" in err
    assert f"{folder / 'c.gif'}: the picture is damaged" in err or "not a picture" in err
    assert "1 of 3 pictures could not be read" in err
    assert cli.main(["predict", str(folder / "a.png"), "--top", "0"]) == 2


def test_the_command_for_programs(folder, capsys):
    cli.main(["predict", str(folder), "--json", "--model", "new/02"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("label") for row in rows] == ["automobile", None, "bird"]
    assert "error" in rows[1]
    assert rows[2]["picture"]["notes"] == ["cut to the middle square"]
    cli.main(["predict", str(folder), "--csv", "--model", "new/02"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in table] == ["automobile", "", "bird"]
    assert [row["class_1"] for row in table] == ["automobile", None, "bird"]
    assert float(table[0]["probability_1"]) > float(table[0]["probability_3"])
    assert table[1]["error"]


def test_an_export_of_another_training_is_not_used(artifacts):
    folder = artifacts / "new" / "04_resnet50_frozen"
    (folder / "model.onnx").write_bytes(b"not read here")
    assert predict.find("new/04").path.name == "model.keras", "nobody knows what it is of"
    identity = predict.identity(folder / "model.keras")
    runs.write_json(folder / "model.onnx.json", {"identity": identity})
    assert predict.find("new/04").path.name == "model.onnx"
    other = grey_network()
    other.get_layer("logits").bias.assign(np.ones(10))
    other.save(folder / "model.keras")
    assert predict.find("new/04").path.name == "model.keras"
    (folder / "model.keras").unlink()
    assert predict.find("new/04").path.name == "model.onnx", "in a container, say"


def test_a_model_that_gives_no_numbers_is_said_to(tmp_path):
    keras.config.set_dtype_policy("float32")
    model = grey_network()
    model.get_layer("logits").bias.assign(np.full(10, np.nan))
    model.save(tmp_path / "model.keras")
    with pytest.raises(CifarUtilsError, match="no numbers"):
        predict.Predictor(tmp_path / "model.keras").predict(flat(75))


def test_progress_goes_to_the_terminal_and_answers_to_the_file(artifacts, tmp_path):
    """As in `cifar predict DIR --json > FILE` in a terminal."""
    for number in range(101):
        flat(75).save(tmp_path / f"{number}.png")
    control, terminal = os.openpty()
    with (tmp_path / "out.json").open("wb") as out:
        code = "import sys; from cifar_utils import cli; sys.exit(cli.main(sys.argv[1:]))"
        worker = subprocess.Popen(
            [sys.executable, "-c", code, "predict", str(tmp_path / "*.png"), "--json"],
            stdout=out,
            stderr=terminal,
        )
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # which is how a terminal says that nobody writes any more
            while read := os.read(control, 4096):
                shown += read
        assert worker.wait(120) == 0
    os.close(control)
    assert b"pictures" in shown
    lines = (tmp_path / "out.json").read_text().splitlines()
    assert [json.loads(line)["nearest"] for line in lines] == ["cat"] * 101
