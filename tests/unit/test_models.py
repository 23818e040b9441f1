import keras
import numpy as np
import pytest

from cifar_utils import models
from cifar_utils.errors import ParameterError, RunError

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def float32_policy():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_takes_raw_pixels_and_gives_float32_logits(name, policy):
    keras.config.set_dtype_policy(policy)
    model = models.build(name)
    assert model.input.dtype == "uint8"
    assert model.input.shape == (None, 32, 32, 3)
    outputs = model(IMAGES)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    assert outputs.shape == (8, 10)
    assert not np.allclose(np.asarray(outputs).sum(axis=1), 1), "logits, not probabilities"


def test_baseline_is_the_tutorials_network():
    model = models.build("baseline_cnn")
    kernels = [w.shape for w in model.trainable_weights if w.name == "kernel"]
    assert kernels == [
        (3, 3, 3, 32),
        (3, 3, 32, 32),
        (3, 3, 32, 64),
        (3, 3, 64, 64),
        (4096, 512),
        (512, 10),
    ]


def test_unknown_model_names_the_nearest():
    with pytest.raises(ParameterError, match="did you mean 'baseline_cnn'"):
        models.build("baselin_cnn")


def test_saved_model_gives_the_same_numbers(tmp_path):
    model = models.build("baseline_cnn")
    models.save(model, tmp_path / "folder" / "model.keras")
    again = models.load(tmp_path / "folder" / "model.keras")
    np.testing.assert_array_equal(
        again.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model = models.build("baseline_cnn")
    models.save(model, path)
    before = path.read_bytes()

    def broken(partial):
        partial.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(model, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        models.save(model, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.keras"]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(RunError, match=r"gone\.keras does not exist"):
        models.load(tmp_path / "gone.keras")
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(RunError, match=r"text\.keras is not a Keras model file"):
        models.load(tmp_path / "text.keras")
