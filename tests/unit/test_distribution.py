import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest

from cifar_utils import distribution, native
from cifar_utils.errors import CifarUtilsError, ParameterError

SCRIPT = Path(__file__).with_name("parallel_training.py")


def _launch(*arguments, program=(str(SCRIPT),), **variables):
    names = ("XLA_FLAGS", "CIFAR_UTILS_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, *program, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment | variables, stdout=pipe, stderr=pipe, text=True
    )


def _results(*processes):
    """Return what processes found; none of them outlives the test."""
    try:
        ended = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in ended]


@pytest.fixture(scope="module")
def on_jax():
    """What one device of JAX and two of them find."""
    return _results(_launch("jax", "1", "2"))[0]


@pytest.fixture(scope="module")
def on_tensorflow():
    return _results(_launch("tensorflow", "1", "2"))[0]


@pytest.fixture(scope="module", params=["jax", "tensorflow"])
def one_and_two(request):
    return request.getfixturevalue(f"on_{request.param}")


def _assert_same(one, other):
    assert one["history"].keys() == other["history"].keys() > {"loss", "val_loss", "val_accuracy"}
    for measure, values in one["history"].items():
        np.testing.assert_allclose(other["history"][measure], values, rtol=1e-4, err_msg=measure)
    np.testing.assert_allclose(other["logits"], one["logits"], atol=1e-3)


def test_two_devices_find_what_one_finds(one_and_two):
    one, two = one_and_two
    assert one["history"]["loss"][0] != one["history"]["loss"][1]
    _assert_same(one, two)


def test_a_model_is_like_any_other_after_training(one_and_two):
    assert len(one_and_two[1]["logits"]) == 3
    assert one_and_two[1]["gap"] < 1e-4
    assert one_and_two[1]["apart"] == []


def test_the_session_says_how_many_devices(one_and_two):
    one, two = one_and_two
    assert one["session"].endswith("float32, seed 0")
    assert two["session"] == one["session"] + ", 2 devices"


def test_batches_are_split_on_jax(on_jax):
    assert on_jax[0]["shares"] == []
    halves = [[count for _, count in parts] for parts in on_jax[1]["shares"]]
    assert {device for parts in on_jax[1]["shares"] for device, _ in parts} == {0, 1}
    # The last batch of an epoch is 7 images, of which 6 are used.
    assert set(map(tuple, halves)) == {(8, 8), (3, 3)}


def test_batches_are_split_on_tensorflow(on_tensorflow):
    assert Counter(map(tuple, on_tensorflow[0]["shares"])) == {(0, 16): 8, (0, 6): 2}
    assert Counter(map(tuple, on_tensorflow[1]["shares"])) == {
        **{(replica, 8): 8 for replica in (0, 1)},
        **{(replica, 3): 2 for replica in (0, 1)},
    }


EVERYTHING = """
import dataclasses, json, pathlib, sys
from tests.unit import parallel_training
parallel_training.two_devices(sys.argv[1])
from cifar_utils import evaluation, models, recipes, runtime, training
from tests.unit.trainable import coloured
assert runtime.start(0, devices=2).devices == 2
recipe = dataclasses.replace(
    recipes.FAST, epochs=4, batch_size=20, sizes=((0.5, 24),), averaging="lookahead", patience=4
)
model, judged = models.fast_cnn((8, 16, 16)), coloured(50, 1)
found = training.fit(model, coloured(401), judged, recipe, seed=0, backup=pathlib.Path(sys.argv[2]))
right = evaluation.right(evaluation.predict_logits(model, judged.images), judged.labels)
print(json.dumps({"epochs": list(found.history["epoch"]), "right": right.mean()}))
"""


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_two_devices_train_with_all_that_a_recipe_can_ask_for(backend, tmp_path):
    place = str(SCRIPT.parents[2])
    program = ("-c", EVERYTHING)
    (found,) = _results(_launch(backend, str(tmp_path), program=program, PYTHONPATH=place))
    assert found["epochs"] == [1, 2, 3, 4]
    assert found["right"] > 0.3


def test_two_hosts_find_what_one_finds(on_jax):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    shared = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    results = _results(
        *(
            _launch("jax", "auto", **shared, KERAS_DISTRIBUTION_PROCESS_ID=str(place))
            for place in (0, 1)
        )
    )
    places = set()
    for (result,) in results:
        _assert_same(on_jax[0], result)
        assert result["session"].endswith(", 2 devices")
        # Each host has its own device and only that one's images.
        assert {count for ((_, count),) in result["shares"]} == {8, 3}
        places |= {device for ((device, _),) in result["shares"]}
    assert len(places) == 2


@pytest.fixture
def fresh(monkeypatch):
    """Forget devices and hosts, before and after, and have no variable say anything about them."""
    for name in ("CIFAR_UTILS_DEVICES", "KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distribution, "_devices", 1)
    monkeypatch.setattr(distribution, "_parallel", None)
    hosts = distribution.hosts
    hosts.cache_clear()
    yield
    hosts.cache_clear()


@pytest.fixture
def machine(fresh, monkeypatch):
    """Stand in for a machine: call it with the names of its devices; returns what was chosen."""
    chosen = []
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(native, "mirror", chosen.append)

    def install(*names):
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: list(names))
        return chosen

    return install


@pytest.mark.parametrize(
    ("names", "asked", "count"),
    [
        (["gpu:0", "gpu:1"], "auto", 2),
        (["gpu:0", "gpu:1"], 1, 1),
        (["gpu:0", "gpu:1", "gpu:2"], 2, 2),
        (["gpu:0"], "auto", 1),
        (["cpu:0", "cpu:1"], "auto", 1),
        (["cpu:0", "cpu:1"], 2, 2),
    ],
)
def test_devices_are_chosen(machine, names, asked, count):
    chosen = machine(*names)
    assert distribution.start(asked) == count
    assert chosen == [names[:count] if count > 1 else None]


def test_the_variable_overrides_the_argument(machine, monkeypatch):
    machine("gpu:0", "gpu:1", "gpu:2")
    monkeypatch.setenv("CIFAR_UTILS_DEVICES", "2")
    assert distribution.start(3) == 2


@pytest.mark.parametrize("asked", [0, -1, "two", "1.5", ""])
def test_a_number_of_devices_is_a_number(machine, asked):
    machine("gpu:0")
    with pytest.raises(ParameterError, match=r"expected auto or a number from 1"):
        distribution.start(asked)


def test_too_many_devices_are_refused(machine):
    chosen = machine("gpu:0", "gpu:1")
    with pytest.raises(ParameterError, match=r"finds 2 \(gpu:0, gpu:1\); ask for 2 at most"):
        distribution.start(3)
    assert chosen == []


def test_several_hosts_need_jax(machine, monkeypatch):
    machine("gpu:0")
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "127.0.0.1:1")
    with pytest.raises(ParameterError, match="set KERAS_BACKEND=jax"):
        distribution.start()


def test_hosts_that_cannot_meet_say_what_each_needs(fresh, monkeypatch):
    def initialize():
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "127.0.0.1:1")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "initialize", initialize)
    with pytest.raises(CifarUtilsError, match=r"must be defined.\nevery host needs .*PROCESS_ID"):
        distribution.hosts()


def test_several_hosts_use_all_devices(machine, monkeypatch):
    machine("gpu:0", "gpu:1")
    monkeypatch.setattr(distribution, "hosts", lambda: (2, 0))
    with pytest.raises(ParameterError, match="leave it at auto"):
        distribution.start(1)
    assert distribution.start() == 2


class Numbers(keras.utils.PyDataset):
    """Batches of 0, 1, 2 ... as inputs and as targets."""

    def __init__(self, count, batch_size):
        super().__init__()
        self._numbers, self._batch_size, self.epochs = np.arange(count), batch_size, 0

    def __len__(self):
        return -(-len(self._numbers) // self._batch_size)

    def __getitem__(self, index):
        part = self._numbers[index * self._batch_size : (index + 1) * self._batch_size]
        return part, -part

    def on_epoch_end(self):
        self.epochs += 1


def _shares(monkeypatch, batches, devices, hosts):
    """Return, for each host, the batches that it learns from."""
    monkeypatch.setattr(distribution, "_devices", devices)
    found = []
    for place in range(hosts):
        monkeypatch.setattr(distribution, "hosts", lambda place=place: (hosts, place))
        share = distribution.share(batches)
        found.append([share[index] for index in range(len(share))])
    return found


@pytest.mark.parametrize(
    ("devices", "hosts", "sizes"),
    [(2, 1, [8, 8, 2]), (2, 2, [8, 8, 2]), (4, 2, [8, 8]), (3, 1, [6, 6, 3]), (6, 3, [6, 6])],
)
def test_the_hosts_share_every_batch(fresh, monkeypatch, devices, hosts, sizes):
    batches = Numbers(19, 8)
    parts = _shares(monkeypatch, batches, devices, hosts)
    for index, size in enumerate(sizes):
        inputs = [part[index][0] for part in parts]
        assert {len(each) for each in inputs} == {size // hosts}
        assert np.concatenate(inputs).tolist() == batches[index][0][:size].tolist()
        assert all(np.array_equal(*part[index] * np.array([[1], [-1]])) for part in parts)
    assert {len(part) for part in parts} == {len(sizes)}


def test_one_device_gets_the_batches_themselves(fresh):
    batches = Numbers(19, 8)
    assert distribution.share(batches) is batches


def test_a_share_tells_its_batches_when_an_epoch_ends(fresh, monkeypatch):
    batches = Numbers(19, 8)
    monkeypatch.setattr(distribution, "_devices", 2)
    distribution.share(batches).on_epoch_end()
    assert batches.epochs == 1


def test_too_few_images_for_the_devices_are_refused(fresh, monkeypatch):
    monkeypatch.setattr(distribution, "_devices", 4)
    with pytest.raises(ParameterError, match="one batch for 4 devices"):
        distribution.share(Numbers(3, 8))


@pytest.mark.parametrize(
    ("devices", "images", "size"),
    [(1, 47, 500), (2, 5000, 500), (3, 5000, 498), (2, 47, 44), (2, 40, 40), (4, 5, 4)],
)
def test_devices_of_tensorflow_share_validation_batches(fresh, monkeypatch, devices, images, size):
    monkeypatch.setattr(distribution, "_devices", devices)
    assert distribution.judging_size(images, 500) == size


def test_devices_of_jax_take_any_validation_batches(fresh, monkeypatch):
    monkeypatch.setattr(distribution, "_devices", 2)
    monkeypatch.setattr(distribution, "_parallel", object())
    assert distribution.judging_size(47, 500) == 500
