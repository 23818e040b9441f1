import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from cifar_utils import distribution, runtime

LISTING = "NVIDIA H100 PCIe, 9.0\nTesla T4, 7.5\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Forget what is known about this machine, before and after."""
    runtime.gpus.cache_clear()
    runtime.has_gpu.cache_clear()
    yield
    monkeypatch.undo()
    runtime.gpus.cache_clear()
    runtime.has_gpu.cache_clear()


def _smi(monkeypatch, answer):
    """Stand in for ``nvidia-smi``: ``answer`` is what it prints or raises."""

    def run(command, **_):
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer, returncode=0)

    monkeypatch.setattr(runtime.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(runtime.subprocess, "run", run)


def test_gpus_as_nvidia_smi_lists_them(monkeypatch):
    _smi(monkeypatch, LISTING)
    assert runtime.gpus() == (
        runtime.Gpu("NVIDIA H100 PCIe", (9, 0)),
        runtime.Gpu("Tesla T4", (7, 5)),
    )


@pytest.mark.parametrize(
    "answer",
    [
        *("", OSError("broken")),
        subprocess.CalledProcessError(9, "nvidia-smi"),
        subprocess.TimeoutExpired("nvidia-smi", 30),
    ],
)
def test_no_gpus_where_nvidia_smi_lists_none_or_fails(monkeypatch, answer):
    _smi(monkeypatch, answer)
    assert runtime.gpus() == ()
    assert not runtime.has_gpu()


def test_no_gpus_without_nvidia_smi(monkeypatch):
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    assert runtime.gpus() == ()


def _gpus(monkeypatch, *capabilities):
    found = tuple(runtime.Gpu(f"GPU {index}", pair) for index, pair in enumerate(capabilities))
    monkeypatch.setattr(runtime, "gpus", lambda: found)


@pytest.mark.parametrize(("devices", "expected"), [(["gpu:0"], True), ([], False)])
def test_the_backend_decides_whether_a_gpu_counts(monkeypatch, devices, expected):
    _gpus(monkeypatch, (9, 0))
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: devices)
    assert runtime.has_gpu() is expected


def test_a_backend_without_gpu_support_has_no_gpu(monkeypatch):
    def list_devices(kind):
        raise RuntimeError("Unknown backend: 'gpu' requested")

    _gpus(monkeypatch, (9, 0))
    monkeypatch.setattr(keras.distribution, "list_devices", list_devices)
    assert not runtime.has_gpu()


@pytest.mark.parametrize(
    ("look", "expected"), [("return ['gpu:0']", True), ("return []", False), ("1 / 0", False)]
)
def test_a_child_process_looks_where_keras_is_not_imported(monkeypatch, tmp_path, look, expected):
    stand_in = "class distribution:\n    def list_devices(kind):\n        " + look
    (tmp_path / "keras.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras")
    _gpus(monkeypatch, (9, 0))
    assert runtime.has_gpu() is expected
    assert "keras" not in sys.modules


def test_a_child_process_looks_where_hosts_have_yet_to_meet(monkeypatch, tmp_path):
    (tmp_path / "keras.py").write_text(
        "class distribution:\n    def list_devices(kind):\n        return ['gpu:0']"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "127.0.0.1:1")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: 1 / 0)
    _gpus(monkeypatch, (9, 0))
    assert runtime.has_gpu()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(9, 0)], "mixed_bfloat16"),
        ([(8, 0)], "mixed_bfloat16"),
        ([(7, 5)], "mixed_float16"),
        ([(6, 1)], "float32"),
        ([(9, 0), (7, 5)], "mixed_float16"),
    ],
)
def test_precision_of_gpus(monkeypatch, capabilities, expected):
    _gpus(monkeypatch, *capabilities)
    monkeypatch.setattr(runtime, "has_gpu", lambda: True)
    assert runtime.precision() == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512_bf16", "mixed_bfloat16"),
        ("amx_tile amx_bf16", "mixed_bfloat16"),
        ("avx2 avx512f", "float32"),
        (None, "float32"),
    ],
)
def test_precision_of_processors(monkeypatch, tmp_path, flags, expected):
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(f"model name\t: A Processor 3000\nflags\t\t: {flags}\n")
    monkeypatch.setattr(runtime, "has_gpu", lambda: False)
    monkeypatch.setattr(runtime, "Path", lambda _: info)
    assert runtime.precision() == expected


def test_hardware_in_words(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: A Processor 3000\n")
    monkeypatch.setattr(runtime, "Path", lambda _: info)
    monkeypatch.setattr(runtime, "has_gpu", lambda: False)
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    assert runtime.hardware() == "2 cores of A Processor 3000"
    monkeypatch.setattr(runtime, "has_gpu", lambda: True)
    _gpus(monkeypatch, (9, 0))
    assert runtime.hardware() == "GPU 0"
    _gpus(monkeypatch, (9, 0), (9, 0))
    for limit, expected in (("auto", "2 x GPU 0"), ("2", "2 x GPU 0"), ("1", "GPU 0")):
        monkeypatch.setenv("CIFAR_UTILS_DEVICES", limit)
        assert runtime.hardware() == expected


def test_versions_name_what_can_change_a_result():
    found = runtime.versions()
    assert {"python", "cifar-utils", "keras", "numpy"} <= set(found)
    assert found["numpy"] == np.__version__
    assert found["keras"] == keras.__version__


@pytest.fixture
def policy():
    """Put the dtype policy back."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def test_start_seeds_everything(policy):
    def draw():
        runtime.start(7, "float32")
        ours = keras.ops.convert_to_numpy(keras.random.normal((3,)))
        return [*np.random.random(3), *ours]  # noqa: NPY002 - the global generator is the point

    first = draw()
    assert first == draw()
    assert len(set(first)) == 6


def test_start_says_what_it_set_up(policy):
    session = runtime.start(3, "mixed_bfloat16")
    assert (session.seed, session.precision) == (3, "mixed_bfloat16")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    name, version = session.backend.split()
    assert name == keras.backend.backend()
    assert version[0].isdigit()
    assert str(session) == f"{session.backend} on {session.hardware}, mixed_bfloat16, seed 3"


def test_start_asks_for_the_devices(policy, monkeypatch):
    monkeypatch.setattr(distribution, "start", lambda devices: {"auto": 1, 3: 3}[devices])
    assert runtime.start(0).devices == 1
    session = runtime.start(0, devices=3)
    assert session.devices == 3
    assert str(session).endswith(", seed 0, 3 devices")


def test_start_chooses_the_precision(policy, monkeypatch):
    monkeypatch.setattr(runtime, "precision", lambda: "mixed_float16")
    assert runtime.start(0).precision == "mixed_float16"
