import dataclasses

import pytest

from cifar_utils import profiles, runtime
from cifar_utils.errors import ParameterError


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.delenv("CIFAR_UTILS_PROFILE", raising=False)


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu"])
def test_resolve_by_name(name):
    assert profiles.resolve(name).name == name


@pytest.mark.parametrize(("gpu", "expected"), [(True, "gpu"), (False, "smoke")])
def test_auto_depends_on_the_gpu(monkeypatch, gpu, expected):
    monkeypatch.setattr(runtime, "has_gpu", lambda: gpu)
    assert profiles.resolve().name == expected


def test_the_environment_decides_auto_and_nothing_else(monkeypatch):
    monkeypatch.setattr(runtime, "has_gpu", lambda: True)
    monkeypatch.setenv("CIFAR_UTILS_PROFILE", "cpu")
    assert profiles.resolve("auto").name == "cpu"
    assert profiles.resolve("smoke").name == "smoke"


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ParameterError, match="unknown profile 'CPU'; did you mean 'cpu'"):
        profiles.resolve("CPU")
    monkeypatch.setenv("CIFAR_UTILS_PROFILE", "gpuu")
    with pytest.raises(ParameterError, match="unknown profile 'gpuu'; did you mean 'gpu'"):
        profiles.resolve("auto")


def test_profiles_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        profiles.PROFILES["smoke"].batch_size = 1


@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=lambda profile: profile.name)
def test_the_numbers_make_sense(profile):
    splits = (profile.train_images, profile.validation_images, profile.test_images)
    for limit, whole in zip(splits, (45_000, 5_000, 10_000), strict=True):
        assert limit is None or 0 < limit <= whole
    for limit, drawn in zip(splits, profile.synthetic_images, strict=True):
        assert limit is None or limit <= drawn
        assert drawn % 10 == 0
    assert profile.probe_images <= (profile.train_images or 45_000)
    for images in (profile.trial_images, profile.ablation_images):
        assert images <= (profile.train_images or 45_000)
    assert profile.trials is None or profile.trials >= 2, "one variant is no experiment"
    assert profile.fast_batch_size <= (profile.train_images or 45_000)
    assert list(profile.probe_sizes) == sorted(set(profile.probe_sizes))
    assert profile.probe_sizes[0] == 32
    assert profile.resnet_size in profile.probe_sizes
    assert profile.finetune_from in ("conv2", "conv3", "conv4", "conv5")


def test_bigger_profiles_do_more():
    smoke, cpu, gpu = (profiles.PROFILES[name] for name in ("smoke", "cpu", "gpu"))
    for field in (
        "cnn_epochs",
        "trial_images",
        "trial_epochs",
        "fast_epochs",
        "ablation_images",
        "ablation_epochs",
        "probe_images",
        "resnet_size",
        "head_epochs",
        "finetune_epochs",
    ):
        values = [getattr(profile, field) for profile in (smoke, cpu, gpu)]
        assert values == sorted(set(values)), field
