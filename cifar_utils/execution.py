"""One notebook in a kernel of its own: run, watched, stopped, and its failure named."""

import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cifar_utils import keys, paths, supervision
from cifar_utils.errors import (
    CellError,
    CellTimeoutError,
    DiskFullError,
    KernelDiedError,
    MemoryRanOutError,
    RunError,
    StoppedError,
    UpstreamError,
)

SAMPLING = 0.5
"""Seconds between two looks at the memory of a kernel and at what its trainings tell."""

LONGEST_SOCKET = 90
"""Characters of a path that surely suit as a socket's; the system's limit is a few more."""

FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|\[Errno 28\]")
"""How the system says that nothing more can be written."""

NO_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|memory ran out|Cannot allocate memory|[Oo]ut of memory")
"""How Python, the backends and this library say that the memory did not suffice."""


class Listener(Protocol):
    """Who wants to know how far a notebook is; called from the thread that runs it, or beside."""

    def start(self, notebook: Any) -> None:
        """The kernel has started."""

    def enter(self, cell: Any, cell_index: int) -> None:
        """A code cell starts."""

    def write(self, text: str) -> None:
        """The notebook has printed."""

    def flush(self) -> None:
        """Nothing more to print for now."""

    def sample(self, memory: int, told: list[dict[str, Any]]) -> None:
        """The kernel holds so many bytes of memory, and its trainings have told something."""


class Control:
    """Stops the notebooks that run: after the epoch or cell they are in, or at once.

    Attributes:
        asked: How often the user has asked: 0, 1 for soon, 2 for at once.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()
        self._running: dict[int, Path] = {}

    def started(self, pid: int, place: Path) -> None:
        """Take note of a kernel and of the folder where its trainings look for a wish to stop."""
        with self._lock:
            self._running[pid] = place
        self._pass_on()

    def ended(self, pid: int) -> None:
        """Forget a kernel."""
        with self._lock:
            self._running.pop(pid, None)

    def stop(self) -> None:
        """Stop soon; the second time at once."""
        self.asked += 1
        self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            for pid, place in self._running.items():
                if self.asked == 1:
                    supervision.ask_to_stop(place)
                elif self.asked > 1:
                    end(pid)


def end(pid: int) -> None:
    """Kill a kernel and the processes that it started."""
    for kill in (os.killpg, os.kill) if hasattr(os, "killpg") else (os.kill,):
        try:
            kill(pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            continue


@dataclass
class Limits:
    """What a notebook may use.

    Attributes:
        cell_seconds: Longest time for a cell; None for any.
        cores: Numbers of the processor cores to run on; empty for all.
        shared: Whether other notebooks run beside it, so that none may take a whole GPU's memory.
    """

    cell_seconds: int | None = None
    cores: list[int] = field(default_factory=list)
    shared: bool = False


@dataclass
class _Kernel:
    """What is known of a kernel while it runs and afterwards."""

    process: Any = None
    peak: int = 0

    def memory(self) -> int:
        """Return the bytes that the kernel and its children hold; 0 once it has ended."""
        import psutil

        total = 0
        try:
            parent = psutil.Process(self.process.pid)
            for each in (parent, *parent.children(recursive=True)):
                total += each.memory_info().rss
        except psutil.Error:
            pass
        self.peak = max(self.peak, total)
        return total


def memory_kills() -> int:
    """Return how many processes Linux has killed for lack of memory; 0 where it does not say."""
    total = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


def execute(
    source: Path,
    working: Path,
    values: dict[str, Any],
    *,
    listener: Listener,
    control: Control,
    limits: Limits,
    begun: Callable[[int, int], None],
) -> int:
    """Run a notebook with papermill in a kernel of this very interpreter.

    Which ``python3`` kernel the machine has registered does not matter, nor do the working
    directory and the user's IPython start-up files. The kernel is spoken to through sockets in a
    folder of its own, so that no two can take the same port.

    Args:
        source: The notebook, which stays as it is.
        working: Where it is written after each cell; ``traceback.txt`` beside it says what failed.
        values: Its parameters.
        listener: Told about all that happens.
        control: Stops it.
        limits: What it may use.
        begun: Told the kernel's process and how many of the notebook's code cells have begun.

    Returns:
        The most memory that the kernel held, in bytes.

    Raises:
        StoppedError: The user stopped it.
        RunError: It failed; the kind of error says how, the message has the last lines.
    """
    import logging

    import papermill
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import CellTimeoutError as NotebookTimeoutError
    from nbclient.exceptions import DeadKernelError
    from papermill.translators import PythonTranslator, papermill_translators

    class Literals(PythonTranslator):
        """Writes parameters as Python does; papermill's own turns a tuple into text."""

        @classmethod
        def translate(cls, val: Any) -> str:
            return repr(val)

    kernel = _Kernel()
    kills = memory_kills()
    with tempfile.TemporaryDirectory(prefix="cifar-") as scratch:
        log, place, workplace = (Path(scratch, name) for name in ("kernel.log", "told", "cwd"))
        place.mkdir()
        workplace.mkdir()
        environment = os.environ | _environment(Path(scratch), place, limits)
        sockets = Path(scratch, "k")

        class ThisInterpreter(AsyncKernelManager):
            """Starts kernels of the interpreter that runs this."""

            def __init__(self, **options: Any) -> None:
                if os.name == "posix" and len(str(sockets)) < LONGEST_SOCKET:
                    options |= {"transport": "ipc", "ip": str(sockets)}
                super().__init__(**options)

            @property
            def kernel_spec(self) -> KernelSpec:
                launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
                # What native code writes, TensorFlow's start-up notes above all, goes to the log.
                launch.append("--IPKernelApp.capture_fd_output=False")
                return KernelSpec(argv=launch, display_name="Python 3", language="python")

            # The base class says that it wraps a coroutine, and it is one.
            async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
                # papermill would change the folder of this process, where others run beside.
                options["cwd"] = str(workplace)
                with log.open("wb") as stream:
                    await super().start_kernel(
                        env=environment, stdout=stream, stderr=stream, **options
                    )
                kernel.process = self.provisioner.process  # type: ignore[union-attr]
                if limits.cores and hasattr(os, "sched_setaffinity"):
                    os.sched_setaffinity(kernel.process.pid, limits.cores)
                begun(kernel.process.pid, 0)
                control.started(kernel.process.pid, place)

        def enter(cell: Any, cell_index: int) -> None:
            if control.asked:
                raise StoppedError("stopped")
            begun(kernel.process.pid, cell_index)
            listener.enter(cell, cell_index)

        # Without a handler Python prints what papermill logs about errors that are raised anyway.
        logging.getLogger("papermill").addHandler(logging.NullHandler())
        name = "cifar-utils"
        papermill_translators.register(name, Literals)
        sampling = _Sampler(kernel, place, listener)
        sampling.start()
        try:
            papermill.execute_notebook(
                # papermill fills in braces that it finds in a path.
                str(source).replace("{", "{{").replace("}", "}}"),
                str(working).replace("{", "{{").replace("}", "}}"),
                values,
                kernel_name=name,
                language="python",
                progress_bar=False,
                start_timeout=300,
                iopub_timeout=120,
                execution_timeout=limits.cell_seconds,
                kernel_manager_class=ThisInterpreter,
                stdout_file=listener,
                on_notebook_start=listener.start,
                on_cell_execute=enter,
            )
        except Exception as error:  # all that papermill, nbclient, zmq and the disk may raise
            if control.asked:
                raise StoppedError("stopped") from error
            if isinstance(error, papermill.PapermillExecutionError):
                _keep(working, "\n".join(error.traceback))
                raise named(error.ename, error.evalue, working) from error
            if isinstance(error, NotebookTimeoutError):
                raise CellTimeoutError(
                    f"the cell took longer than {limits.cell_seconds} s; allow it more with "
                    "--cell-timeout, or make it do less"
                ) from error
            if isinstance(error, DeadKernelError) or "Kernel died" in str(error):
                words = _last_lines(log.read_text(encoding="utf-8", errors="replace"))
                _keep(working, words)
                raise _death(kernel, memory_kills() > kills, words) from error
            raise named(type(error).__name__, str(error), working) from error
        finally:
            sampling.stop()
            if kernel.process is not None:
                control.ended(kernel.process.pid)
                if kernel.process.poll() is None:
                    end(kernel.process.pid)
    return kernel.peak


class _Sampler(threading.Thread):
    """Looks again and again at a kernel's memory and at what its trainings tell."""

    def __init__(self, kernel: _Kernel, place: Path, listener: Listener) -> None:
        super().__init__(daemon=True)
        self._kernel, self._place, self._listener = kernel, place, listener
        self._over = threading.Event()
        self._read = 0

    def run(self) -> None:
        """Look until told to stop."""
        while not self._over.wait(SAMPLING):
            self._look()

    def _look(self) -> None:
        told, self._read = supervision.told(self._place, self._read)
        memory = 0 if self._kernel.process is None else self._kernel.memory()
        self._listener.sample(memory, told)

    def stop(self) -> None:
        """Look for the last time."""
        self._over.set()
        self.join()
        self._look()


def _environment(scratch: Path, place: Path, limits: Limits) -> dict[str, str]:
    """Return what a kernel's environment has beside or instead of this process's."""
    environment = {
        "CIFAR_UTILS_ARTIFACTS_DIR": str(paths.artifacts_dir()),
        "CIFAR_UTILS_DATA_DIR": str(paths.data_dir()),
        # Nobody watches, although the command may have been started in a notebook.
        "CIFAR_UTILS_LIVE": os.environ.get("CIFAR_UTILS_LIVE", "0"),
        supervision.VARIABLE: str(place),
        "IPYTHONDIR": str(scratch / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }
    if limits.shared:
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if limits.cores:
        count = str(len(limits.cores))
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            environment[name] = count
    if choice := os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS"):
        environment["CIFAR_UTILS_RESNET50_WEIGHTS"] = keys.located(choice)
    return environment


def _keep(working: Path, text: str) -> None:
    """Write what failed beside the notebook, if there is room for it."""
    try:
        paths.write_text(working.with_name("traceback.txt"), _plain(text) + "\n")
    except OSError:
        return


def full(path: Path) -> str:
    """Return what to say where nothing more can be written to ``path``."""
    free = shutil.disk_usage(next(each for each in path.parents if each.exists())).free
    return (
        f"the disk is full ({free / 1e6:,.0f} MB free for {path.parent}); free some, for "
        "example with: cifar runs prune"
    )


def named(name: str, text: str, working: Path) -> RunError:
    """Return the error that says what an exception means.

    Args:
        name: Name of its class.
        text: What it says.
        working: The notebook that it ended.
    """
    words = _last_lines(f"{name}: {text}")
    if FULL.search(text):
        return DiskFullError(f"{full(working)}\n{words}")
    if name in ("MemoryError", "ResourceExhaustedError") or NO_MEMORY.search(text):
        return MemoryRanOutError(f"the memory did not suffice; {_LESS}\n{words}")
    if name == "RunError" and "is missing; make it with" in text:
        return UpstreamError(words)
    return CellError(words)


def failed_to_write(error: OSError, path: Path) -> RunError:
    """Return the error that says what an error of the system means, which came from the pipeline.

    Args:
        error: What the system said.
        path: What was to be written.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFullError(full(path))
    return RunError(f"{type(error).__name__}: {error}")


_LESS = (
    "give it more, choose a smaller profile or batch size, run fewer stages at a time with --jobs, "
    "or close other programs"
)


def _death(kernel: _Kernel, memory: bool, words: str) -> RunError:
    """Return the error for a kernel that is no more."""
    held = f"it held {kernel.peak / 1e9:.1f} GB at most"
    if memory:
        return MemoryRanOutError(
            f"the system killed the kernel because memory ran out ({held}); {_LESS}\n{words}"
        )
    code = None if kernel.process is None else kernel.process.poll()
    how = "ended by itself"
    if code is not None and code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    elif code:
        how = f"ended with exit status {code}"
    return KernelDiedError(
        f"the kernel died: it {how}, {held}; the same command goes on, and if that "
        f"happens again its last words may say why\n{words}"
    )


def _plain(text: str) -> str:
    """Return a text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).strip()


def _last_lines(text: str, count: int = 12) -> str:
    """Return the last lines of a message, without terminal colours."""
    return "\n".join(_plain(text).splitlines()[-count:])
