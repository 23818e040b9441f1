"""The machine and the session: hardware, seeds, precision, versions."""

import functools
import logging
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: marketing name and compute capability, such as ``(9, 0)``."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Session:
    """What ``start`` set up; printing it says all a reader needs.

    Attributes:
        seed: The seed of Python, NumPy and the backend.
        precision: The Keras dtype policy in force.
        backend: ``tensorflow`` or ``jax``, with its version.
        hardware: One line: processor or GPU.
        devices: How many devices a training divides its batches among.
    """

    seed: int
    precision: str
    backend: str
    hardware: str
    devices: int = 1

    def __str__(self) -> str:
        """Return the session on one line."""
        devices = f", {self.devices} devices" if self.devices > 1 else ""
        return f"{self.backend} on {self.hardware}, {self.precision}, seed {self.seed}{devices}"


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that ``nvidia-smi`` lists; empty where it is missing or fails."""
    if not shutil.which("nvidia-smi"):
        return ()
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in listing.stdout.strip().splitlines():
        name, capability = (part.strip() for part in line.rsplit(",", 1))
        major, _, minor = capability.partition(".")
        found.append(Gpu(name, (int(major), int(minor or 0))))
    return tuple(found)


def backend_has_gpu() -> bool:
    """Return whether the Keras backend finds a GPU; from then on this process may hold it."""
    import keras

    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # how JAX says that it was installed without support for GPUs
        return False


@functools.cache
def has_gpu() -> bool:
    """Return whether there is a GPU that the Keras backend can use.

    Looking takes seconds and may take hold of the GPU's memory for as long as the process lives. So
    nobody looks where ``nvidia-smi`` lists no GPU, and a child process does where this one has not
    imported Keras: the command ``cifar`` must leave the GPU to its notebooks. A child also looks
    where there are several hosts, which have to meet before JAX is asked for anything.
    """
    if not gpus():
        return False
    if "keras" in sys.modules and not os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        return backend_has_gpu()
    look = "from cifar_utils import runtime; raise SystemExit(not runtime.backend_has_gpu())"
    return subprocess.run([sys.executable, "-c", look], capture_output=True).returncode == 0


def _cpuinfo() -> str:
    """Return what Linux says about the processor; empty on other systems."""
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""


def _processor() -> str:
    """Return the processor's model name."""
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_numbers() -> list[int]:
    """Return the numbers of the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(cores()))


def hardware() -> str:
    """Return the hardware a result was made on, such as ``2 cores of AMD EPYC``.

    GPUs that ``CIFAR_UTILS_DEVICES`` leaves out do not count. Of several hosts it is this one's.
    """
    if not has_gpu():
        return f"{cores()} cores of {_processor()}"
    names = [gpu.name for gpu in gpus()]
    limit = os.environ.get("CIFAR_UTILS_DEVICES", "")
    count = min(len(names), int(limit)) if limit.isdecimal() else len(names)
    return f"{count} x {names[0]}" if count > 1 else names[0]


def precision() -> str:
    """Return the Keras dtype policy that suits the hardware.

    ``mixed_bfloat16`` on GPUs of compute capability 8 or more and on CPUs with AMX or AVX512-BF16,
    ``mixed_float16`` on older GPUs with tensor cores (capability 7), ``float32`` elsewhere.
    """
    if has_gpu():
        capability = min(gpu.capability for gpu in gpus())
        if capability >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= (7, 0) else "float32"
    flags = _cpuinfo()
    return "mixed_bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    packages = ("keras", "tensorflow", "tensorflow-cpu", "jax", "numpy", "pillow", "scikit-learn")
    for name in ("cifar-utils", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def start(seed: int, policy: str = "auto", devices: int | str = "auto") -> Session:
    """Seed Python, NumPy and the backend, set precision and devices (notebook 02 introduces it).

    Args:
        seed: Non-negative integer; the same seed on the same machine gives the same results.
        policy: A Keras dtype policy, or ``auto`` for what ``precision`` says.
        devices: How many devices train a model together, or ``auto`` for all GPUs, those of all
            hosts if there are several; see ``distribution.start``.

    Returns:
        What was set up, to be printed.

    Raises:
        ParameterError: There are not as many devices.
        CifarUtilsError: There are several hosts, and they could not meet.
    """
    import keras

    from cifar_utils import distribution

    # A notebook predicts with several models in turn, which TensorFlow takes for a mistake.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    keras.utils.set_random_seed(seed)
    count = distribution.start(devices)
    keras.config.set_dtype_policy(precision() if policy == "auto" else policy)
    backend = keras.backend.backend()
    installed = versions()
    version = installed.get(backend) or installed.get(f"{backend}-cpu") or "of unknown version"
    backend = f"{backend} {version}"
    return Session(seed, keras.config.dtype_policy().name, backend, hardware(), count)
