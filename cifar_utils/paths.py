"""Where files live, and writing them so that a half-written file never looks whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cifar_utils.errors import CifarUtilsError


def checkout() -> Path | None:
    """Return the repository this package is installed from in editable mode, else None."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def _home() -> Path:
    """Return the folder that holds data/ and artifacts/, the same from every working directory."""
    return checkout() or Path.home() / "cifar10-notebooks"


def data_dir() -> Path:
    """Return the data cache folder: ``CIFAR_UTILS_DATA_DIR``, else ``data/`` of the checkout."""
    return Path(os.environ.get("CIFAR_UTILS_DATA_DIR") or _home() / "data").expanduser().resolve()


def artifacts_dir() -> Path:
    """Return the runs folder: ``CIFAR_UTILS_ARTIFACTS_DIR``, else the checkout's ``artifacts/``."""
    chosen = os.environ.get("CIFAR_UTILS_ARTIFACTS_DIR")
    return Path(chosen or _home() / "artifacts").expanduser().resolve()


def notebooks_dir() -> Path:
    """Return the folder of the course's notebooks.

    Raises:
        CifarUtilsError: The package was installed without the repository around it.
    """
    root = checkout()
    if root is None:
        raise CifarUtilsError(
            "the notebooks are not installed with the package; clone the repository and run "
            "`make setup` in it"
        )
    return root / "notebooks"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only if the block succeeds.

    The temporary name keeps the suffix, because writers such as ``numpy.save`` and
    ``keras.Model.save`` choose their format by it. A folder works as well as a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        yield partial
        with suppress(FileNotFoundError):
            partial.chmod(0o755 if partial.is_dir() else 0o644)
        partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Keep other processes out of the block; the system frees the lock of a dead one.

    Args:
        path: The lock's file; it stays.
        waiting: What to print where another process is in the block and this one has to wait.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
