import keras
import numpy as np
import pytest

from cifar_utils import models, recipes, training, transfer
from cifar_utils.data import Split
from cifar_utils.errors import ParameterError, WeightsError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
RANDOM = transfer.Weights("none", "none")


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("CIFAR_UTILS_RESNET50_WEIGHTS", raising=False)
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def extractor():
    keras.config.set_dtype_policy("float32")
    return transfer.extractor(RANDOM, 32, seed=1)


@pytest.fixture(scope="module")
def weights_file(extractor, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50-elsewhere-notop.weights.h5"
    extractor.get_layer("resnet50").save_weights(path)
    return path


def test_auto_follows_the_environment(monkeypatch, weights_file):
    monkeypatch.setenv("CIFAR_UTILS_RESNET50_WEIGHTS", "none")
    assert transfer.resolve_weights() == RANDOM
    monkeypatch.setenv("CIFAR_UTILS_RESNET50_WEIGHTS", str(weights_file))
    assert transfer.resolve_weights().source == str(weights_file)


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
    assert transfer.resolve_weights(str(tmp_path / name)).pretraining == pretraining


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.h5 does not exist"):
        transfer.resolve_weights(str(tmp_path / "gone.h5"))


def offline(**_):
    raise Exception("URL fetch failure: no route to host")


def test_offline_only_smoke_goes_on_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(keras.applications, "ResNet50", offline)
    assert transfer.resolve_weights("auto", offline_random=True) == RANDOM
    assert "random weights" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="CIFAR_UTILS_RESNET50_WEIGHTS"):
        transfer.resolve_weights("auto")
    with pytest.raises(WeightsError, match="no route to host"):
        transfer.resolve_weights("imagenet", offline_random=True)


def test_unfit_file_is_refused(tmp_path):
    text = tmp_path / "text.h5"
    text.write_text("hello")
    other = tmp_path / "other.weights.h5"
    models.build("baseline_cnn").save_weights(other)
    for path in (text, other):
        with pytest.raises(WeightsError, match=f"{path.name} does not fit"):
            transfer.extractor(transfer.Weights(str(path), "x"), 32)


def test_file_weights_are_the_ones_used(extractor, weights_file):
    again = transfer.extractor(transfer.resolve_weights(str(weights_file)), 32, seed=2)
    np.testing.assert_array_equal(
        again.predict(IMAGES, verbose=0), extractor.predict(IMAGES, verbose=0)
    )


def test_preprocessing_inside_the_model_is_caffe_mode(extractor):
    """Against the definition: RGB to BGR, minus the ImageNet means, nothing else."""
    base = extractor.get_layer("resnet50")
    expected = IMAGES[..., ::-1].astype("float32") - np.array([103.939, 116.779, 123.68], "float32")
    by_hand = np.asarray(base(expected)).mean(axis=(1, 2))
    np.testing.assert_allclose(extractor.predict(IMAGES, verbose=0), by_hand, rtol=1e-3, atol=1e-4)


def test_bad_settings_are_refused():
    with pytest.raises(ParameterError, match="32 pixels and more, not 16"):
        transfer.extractor(RANDOM, 16)
    split = Split(IMAGES, np.arange(12) % 10)
    with pytest.raises(ParameterError, match="did you mean 'caffe'"):
        transfer.probe(RANDOM, split, split, 32, ["cafe"])


def test_probe_sees_what_the_extractor_sees(extractor):
    """A class that only the features can tell apart, and one row for each preprocessing."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 60, (60, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1] += 150
    split = Split(images, labels)
    rows = transfer.probe(RANDOM, split, split, 32, ["caffe", "none"], seed=1)
    assert [row["preprocessing"] for row in rows] == ["caffe", "none"]
    assert rows[0]["accuracy"] == 1.0
    assert rows[0]["pretraining"] == "none"


def test_features_are_computed_once(extractor, monkeypatch):
    first = transfer.features(extractor, IMAGES)
    assert first.values.shape == (12, 2048)
    assert first.values.dtype == np.float16
    assert first.seconds > 0
    monkeypatch.setattr(extractor, "predict", None)
    again = transfer.features(extractor, IMAGES)
    np.testing.assert_array_equal(again.values, first.values)
    assert again.seconds == first.seconds


def test_features_are_never_mixed_up(extractor):
    base = transfer._digest(extractor, IMAGES)
    assert transfer._digest(extractor, IMAGES[::-1]) != base
    assert transfer._digest(transfer.extractor(RANDOM, 32, seed=2), IMAGES) != base
    assert transfer._digest(transfer.extractor(RANDOM, 64, seed=1), IMAGES) != base
    assert transfer._digest(transfer.extractor(RANDOM, 32, seed=1), IMAGES) == base


def test_whole_model_equals_features_and_head_also_after_saving(extractor, tmp_path):
    head = transfer.head(hidden=16, dropout=0.5)
    model = transfer.join(extractor, head, "whole")
    expected = head.predict(extractor.predict(IMAGES, verbose=0), verbose=0)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-4, atol=1e-5)
    models.save(model, tmp_path / "model.keras")
    loaded = models.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )
    features, classifier = transfer.parts(loaded)
    assert transfer._digest(features, IMAGES) == transfer._digest(extractor, IMAGES)
    assert classifier.count_params() == head.count_params()


def test_only_the_chosen_stages_change_in_fine_tuning(extractor, tmp_path):
    path = tmp_path / "model.keras"
    models.save(transfer.join(extractor, transfer.head(), "whole"), path)
    model = models.load(path)
    assert not model.get_layer("resnet50").trainable_weights
    changing = transfer.unfreeze(model, "conv5")
    base = model.get_layer("resnet50")
    before = {weight.path: weight.numpy() for weight in base.weights}
    split = Split(IMAGES, np.arange(12) % 10)
    training.fit(model, split, split, recipes.Recipe(epochs=1, batch_size=6), seed=0)
    changed = {w.path for w in base.weights if not np.array_equal(before[w.path], w.numpy())}
    assert changed
    assert all("conv5" in name and "_bn" not in name for name in changed)
    assert changing == sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def test_batch_normalisation_ignores_the_training_flag_while_unfrozen(extractor):
    model = keras.models.clone_model(transfer.join(extractor, transfer.head(), "whole"))
    transfer.unfreeze(model, "conv2")
    np.testing.assert_allclose(
        np.asarray(model(IMAGES, training=True)),
        np.asarray(model(IMAGES, training=False)),
        rtol=1e-5,
    )


def test_unknown_stage_names_the_nearest(extractor):
    with pytest.raises(ParameterError, match="did you mean 'conv5'"):
        transfer.unfreeze(extractor, "conv55")
