"""Running the notebooks: one fresh kernel a stage, nothing done twice, a report at the end."""

import ast
import asyncio
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cifar_utils import data, paths, profiles, report, runs, runtime
from cifar_utils.errors import ParameterError, RunError, nearest

OPTIONS = {"PROFILE": "--profile", "DATA": "--data", "SEED": "--seed", "RUN": "--run"}
"""Parameters that every stage of a run shares, and the options of ``cifar run`` that set them."""

DEVICES = ("CIFAR_UTILS_DEVICES", "KERAS_DISTRIBUTION_NUM_PROCESSES")
"""Variables that say what a training runs on; rounding differs with it."""

SILENCE = 30.0
"""Seconds without a line of progress after which a line says that the cell still runs."""

BADGE = re.compile(r"!\[[^\]]*\]\(https?:")
"""An image from the network in a text cell."""

REPORT = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""
"""nbconvert's own page without the scripts it would load from the network."""


def select(names: list[str], first: str | None = None) -> list[str]:
    """Return the stages asked for, in the order of the course.

    Args:
        names: Numbers or names; none of them means every stage.
        first: The stage to begin with: this one and all later ones.

    Raises:
        ParameterError: A name is unknown, or both ways of choosing are used.
    """
    known = list(runs.STAGES)
    if first is not None:
        if names:
            raise ParameterError("give either stages or --from STAGE, not both")
        return known[known.index(runs.stage_name(first)) :]
    asked = {runs.stage_name(name) for name in names}
    return [name for name in known if name in asked or not names]


def _cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook, each with its source as one string.

    Raises:
        RunError: The file is missing or not a notebook.
    """
    if not path.is_file():
        raise RunError(f"the notebook {path} is missing; restore it, for example with git")
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [cell | {"source": "".join(cell["source"])} for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a notebook: {error!r}") from error


def notebook(stage: str) -> Path:
    """Return the path of a stage's notebook, as the course has it."""
    return paths.notebooks_dir() / f"{stage}.ipynb"


def parameters(path: Path) -> dict[str, Any]:
    """Return what a notebook's ``parameters`` cell sets.

    Read by parsing, because papermill's own reader misses some spellings and only warns about
    parameters that the notebook does not have.

    Raises:
        RunError: There is no such cell, or it holds more than names set to literals.
    """
    tagged = [
        cell["source"]
        for cell in _cells(path)
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    if len(tagged) != 1:
        raise RunError(f"{path} has {len(tagged)} cells tagged 'parameters', expected one")
    found = {}
    try:
        for statement in ast.parse(tagged[0]).body:
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                raise ValueError(f"line {statement.lineno} is not of the form NAME = literal")
            target = statement.targets[0]
            if not isinstance(target, ast.Name):
                raise ValueError(f"line {statement.lineno} does not set a plain name")
            found[target.id] = ast.literal_eval(statement.value)
    except (ValueError, SyntaxError) as error:
        raise RunError(f"the parameters cell of {path} cannot be read: {error}") from error
    return found


def _fits(value: Any, like: Any) -> bool:
    """Return whether ``value`` may stand for ``like``; an integer may stand for a float."""
    return type(value) is type(like) or (type(like) is float and type(value) is int)


def convert(name: str, text: str, default: Any) -> Any:
    """Return ``text`` as a value of the type that parameter ``name`` has by default.

    Text stays text where the default is text: ``none`` is a word there. A sequence is written as in
    Python, ``(32, 64)``, and keeps the type of the default and of its first element.

    Raises:
        ParameterError: The text is not of that type.
    """
    kinds = {bool: "true or false", int: "an integer", float: "a number"}
    try:
        if isinstance(default, str):
            return text
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.strip().lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            number = float(text)
            if math.isfinite(number):
                return number
            raise ValueError(text)
        value = ast.literal_eval(text.strip())
        if default is None:
            return value
        if isinstance(default, list | tuple) and isinstance(value, list | tuple):
            if default and not all(_fits(item, default[0]) for item in value):
                raise ValueError(text)
            return type(default)(value)
        if type(value) is type(default):
            return value
        raise ValueError(text)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        kind = kinds.get(type(default), f"a {type(default).__name__}")
        raise ParameterError(f"{name}={text}: expected {kind}, such as {default!r}") from error


def assign(settings: list[str], stages: list[str]) -> dict[str, dict[str, Any]]:
    """Return, for each stage, the values that ``--set NAME=VALUE`` gives it.

    Args:
        settings: Such as ``["EPOCHS=3"]``; each goes to every stage that has the parameter.
        stages: The stages asked for.

    Raises:
        ParameterError: None of the stages has the parameter, the value is of the wrong type, or
            the parameter has an option of its own.
    """
    have = {stage: parameters(notebook(stage)) for stage in stages}
    known = sorted({name for names in have.values() for name in names} - set(OPTIONS))
    given: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ParameterError(f"--set {setting}: expected NAME=VALUE")
        if name in OPTIONS:
            raise ParameterError(f"--set {setting}: use {OPTIONS[name]} {text}")
        if name not in known:
            hint = nearest(name, known) if known else "; the stages asked for have none to set"
            raise ParameterError(f"no stage asked for has a parameter {name!r}{hint}")
        for stage in stages:
            if name in have[stage]:
                given[stage][name] = convert(name, text, have[stage][name])
    return given


def _weights(choice: str) -> str:
    """Return a choice of ResNet50 weights with a file's path made absolute."""
    path = Path(choice).expanduser()
    return str(path.resolve()) if path.is_file() else choice


def _weights_identity(choice: str) -> list[Any]:
    """Return what must stay the same for a choice of ResNet50 weights to be the same."""
    if choice == "auto":
        choice = os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS") or "auto"
    path = Path(_weights(choice))
    if not path.is_file():
        return [choice]
    return [str(path), path.stat().st_size, path.stat().st_mtime_ns]


def _sources() -> str:
    """Return the digest of the library's own source."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def fingerprint(stage: runs.Stage, values: dict[str, Any]) -> str:
    """Return the digest of everything that decides what a stage leaves behind.

    It covers the notebook's code, the parameters, the profile's numbers, the data, the library,
    the packages, the devices, the ResNet50 weights and this very run of each stage it builds on.

    Args:
        stage: The stage; those it builds on have finished.
        values: The value of each of the notebook's parameters.
    """
    manifest = stage.run.manifest
    # Where the data lies and what the run is called do not change a result.
    facts = {name: value for name, value in values.items() if name not in ("DATA", "RUN")}
    parts = {
        "code": [cell["source"] for cell in _cells(notebook(stage.name)) if _is_code(cell)],
        "parameters": facts,
        "profile": asdict(profiles.resolve(manifest["profile"])),
        "seed": manifest["seed"],
        "data": manifest["data"]["fingerprint"],
        "library": _sources(),
        "versions": runtime.versions() | {"backend": os.environ.get("KERAS_BACKEND")},
        "devices": [os.environ.get(name) for name in DEVICES],
        "weights": _weights_identity(values["WEIGHTS"]) if "WEIGHTS" in values else None,
        "upstream": [stage.run.stage(name).finished() for name in runs.STAGES[stage.name]],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def _is_code(cell: dict[str, Any]) -> bool:
    """Return whether a notebook's cell holds code."""
    return cell["cell_type"] == "code"


def _say(text: str) -> None:
    """Print a line of progress at once, also into a pipe."""
    print(text, flush=True)


def headings(cells: list[Any]) -> list[str]:
    """Return the nearest heading above each cell, or in it, such as ``## 3. Train the network``."""
    found, current = [], ""
    for cell in cells:
        if not _is_code(cell):
            # Lines between fences are code, where # begins a comment.
            prose = re.sub(r"^```.*?^```", "", cell["source"], flags=re.DOTALL | re.MULTILINE)
            current = ([current, *re.findall(r"^#{1,3} .*", prose, flags=re.MULTILINE)])[-1]
        found.append(current.strip())
    return found


class Progress:
    """Prints where a notebook is: a line a section, a line an epoch, a line after long silence.

    Its methods are the hooks that nbclient calls; ``write`` and ``flush`` make it the file that
    papermill copies the notebook's standard output to.
    """

    def __init__(self) -> None:
        self.place = "before its first cell"
        self._started = time.monotonic()
        self._headings: list[str] = []
        self._shown = ""
        self._where = ""
        self._unfinished = ""
        self._alarm: asyncio.TimerHandle | None = None

    def _line(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        _say(f"  {minutes:3d}:{seconds:02d}  {text}")

    def start(self, notebook: Any) -> None:
        """Note the headings of the notebook, whose kernel has just started."""
        self._headings = headings(notebook.cells)

    def enter(self, cell: Any, cell_index: int) -> None:
        """Note that a code cell starts; say so if it is the first of its section."""
        total, heading = len(self._headings), self._headings[cell_index]
        self._where = f"cell {cell_index + 1:{len(str(total))}d}/{total}  {heading}".rstrip()
        self.place = f"cell {cell_index + 1} of {total}" + (f", under {heading!r}" * bool(heading))
        if heading != self._shown:
            self._shown = heading
            self._line(self._where)
        self._watch()

    def leave(self, **_: Any) -> None:
        """Note that the cell has ended."""
        if self._alarm:
            self._alarm.cancel()

    def _watch(self) -> None:
        """Have ``_remind`` called unless a line is printed before long."""
        self.leave()
        self._alarm = asyncio.get_running_loop().call_later(SILENCE, self._remind)

    def _remind(self) -> None:
        self._line(f"{self._where}  still running")
        self._watch()

    def write(self, text: str) -> None:
        """Print the lines that begin with ``epoch``."""
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            if line.startswith("epoch "):
                self._line(line)
                self._watch()

    def flush(self) -> None:
        """Do nothing: every line is printed at once."""


def _execute(source: Path, working: Path, values: dict[str, Any], progress: Progress) -> None:
    """Run a notebook with papermill in a kernel of this very interpreter.

    Which ``python3`` kernel the machine has registered does not matter, nor do the working
    directory and the user's IPython start-up files.

    Args:
        source: The notebook, which stays as it is.
        working: Where it is written after each cell.
        values: Its parameters.
        progress: Told about every cell.

    Raises:
        RunError: It failed; the message has the error's name and its last lines.
    """
    import logging

    import papermill
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from papermill.translators import PythonTranslator, papermill_translators

    class Literals(PythonTranslator):
        """Writes parameters as Python does; papermill's own turns a tuple into text."""

        @classmethod
        def translate(cls, val: Any) -> str:
            return repr(val)

    with tempfile.TemporaryDirectory(prefix="cifar-") as scratch:
        log = Path(scratch, "kernel.log")
        environment = {
            "CIFAR_UTILS_ARTIFACTS_DIR": str(paths.artifacts_dir()),
            "CIFAR_UTILS_DATA_DIR": str(paths.data_dir()),
            # Nobody watches, although the command may have been started in a notebook.
            "CIFAR_UTILS_LIVE": os.environ.get("CIFAR_UTILS_LIVE", "0"),
            "IPYTHONDIR": str(Path(scratch, "ipython")),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "PYTHONHASHSEED": "0",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        }
        if choice := os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS"):
            environment["CIFAR_UTILS_RESNET50_WEIGHTS"] = _weights(choice)

        class ThisInterpreter(AsyncKernelManager):
            """Starts kernels of the interpreter that runs this."""

            @property
            def kernel_spec(self) -> KernelSpec:
                launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
                # What native code writes, TensorFlow's start-up notes above all, goes to the log.
                launch.append("--IPKernelApp.capture_fd_output=False")
                return KernelSpec(argv=launch, display_name="Python 3", language="python")

            # The base class says that it wraps a coroutine, and it is one.
            async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
                with log.open("wb") as stream:
                    await super().start_kernel(
                        env=os.environ | environment, stdout=stream, stderr=stream, **options
                    )

        # Without a handler Python prints what papermill logs about errors that are raised anyway.
        logging.getLogger("papermill").addHandler(logging.NullHandler())
        name = "cifar-utils"
        papermill_translators.register(name, Literals)
        workplace = Path(scratch, "cwd")
        workplace.mkdir()

        try:
            papermill.execute_notebook(
                # papermill fills in braces that it finds in a path.
                str(source).replace("{", "{{").replace("}", "}}"),
                str(working).replace("{", "{{").replace("}", "}}"),
                values,
                kernel_name=name,
                language="python",
                cwd=str(workplace),
                progress_bar=False,
                start_timeout=300,
                iopub_timeout=120,
                kernel_manager_class=ThisInterpreter,
                stdout_file=progress,
                on_notebook_start=progress.start,
                on_cell_execute=progress.enter,
                on_cell_executed=progress.leave,
            )
        except papermill.PapermillExecutionError as error:
            raise RunError(_last_lines(f"{error.ename}: {error.evalue}")) from error
        except DeadKernelError as error:
            native = _last_lines(log.read_text(encoding="utf-8", errors="replace"))
            raise RunError(
                f"DeadKernelError: the kernel died: out of memory, killed or crashed\n{native}"
            ) from error
        except Exception as error:  # what else papermill, nbclient, zmq and the disk may raise
            raise RunError(_last_lines(f"{type(error).__name__}: {error}")) from error
        finally:
            progress.leave()


def _last_lines(text: str, count: int = 12) -> str:
    """Return the last lines of a message, without terminal colours."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).strip()
    return "\n".join(plain.splitlines()[-count:])


def _render(path: Path, title: str) -> None:
    """Write ``report.html`` beside an executed notebook: one file, nothing from the network."""
    import nbformat
    from nbconvert import HTMLExporter

    document = nbformat.read(path, as_version=4)
    # A badge that opens the notebook elsewhere is an image from the network, and no use here.
    document.cells = [
        cell for cell in document.cells if _is_code(cell) or not BADGE.search(cell.source)
    ]
    exporter = HTMLExporter(raw_template=REPORT, embed_images=True)
    page, _ = exporter.from_notebook_node(document, resources={"metadata": {"name": title}})
    paths.write_text(path.with_name("report.html"), page)


def _aside(stage: runs.Stage) -> Path:
    """Return where a stage's earlier results wait while it runs again."""
    return stage.folder.with_name(f".{stage.name}.earlier")


def _recover(stage: runs.Stage) -> None:
    """Put a stage's folder in order after a run that was killed."""
    aside = _aside(stage)
    if not aside.exists():
        return
    if stage.finished() is None and (aside / "metrics.json").is_file():
        shutil.rmtree(stage.folder, ignore_errors=True)
        aside.replace(stage.folder)
    else:
        shutil.rmtree(aside)


def _run_stage(stage: runs.Stage, values: dict[str, Any], digest: str) -> float:
    """Run one stage and return its seconds; a failure leaves earlier results as they were.

    Raises:
        RunError: It failed; the message says where.
    """
    folder, aside, started = stage.folder, _aside(stage), time.monotonic()
    earlier = stage.finished()
    (folder / "stage.json").unlink(missing_ok=True)
    if folder.exists():
        folder.replace(aside)
    folder.mkdir(parents=True)
    working, failed = folder / "working.ipynb", folder / "failed.ipynb"
    progress = Progress()
    try:
        _execute(notebook(stage.name), working, values, progress)
        if not (folder / "metrics.json").is_file():
            raise RunError("it ended without saving its metrics (stage.save_metrics)")
        working.replace(folder / "notebook.ipynb")
        _render(folder / "notebook.ipynb", f"{stage.name} · {stage.run.name}")
    except BaseException as error:
        for left in (folder / "notebook.ipynb", working):
            if left.is_file():
                left.replace(failed)
        (folder / "metrics.json").unlink(missing_ok=True)
        if (aside / "metrics.json").is_file():
            if failed.is_file():
                failed.replace(aside / failed.name)
            shutil.rmtree(folder)
            aside.replace(folder)
            if earlier is not None:
                runs.write_json(folder / "stage.json", earlier)
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            failed.unlink(missing_ok=True)
            raise
        note = f"\nas far as it got: {failed}" if failed.is_file() else ""
        kept = "\nthe results of its earlier run are kept" if earlier is not None else ""
        raise RunError(f"{stage.name} failed in {progress.place}\n{error}{note}{kept}") from error
    seconds = time.monotonic() - started
    record = {
        "fingerprint": digest,
        "parameters": values,
        "seconds": round(seconds, 3),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    runs.write_json(folder / "stage.json", record)
    for left in (aside, stage.backup):
        shutil.rmtree(left, ignore_errors=True)
    return seconds


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep two commands from writing to one run at the same time.

    Raises:
        RunError: Another one is at it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"another `cifar run` is writing to {folder}; wait for it or choose another --run"
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Request:
    """What one call of ``run`` was asked for, as far as its stages share it."""

    run: runs.Run
    settings: list[str]
    fresh: bool

    def command(self, stages: list[str]) -> str:
        """Return the command that runs ``stages`` in the same way."""
        known = list(runs.STAGES)
        words = ["cifar run"]
        if stages == known[-len(stages) :]:
            words += ["--from", stages[0].partition("_")[0]] if stages != known else []
        else:
            words += [name.partition("_")[0] for name in stages]
        words.append(self.run.options())
        have = {name for stage in stages for name in parameters(notebook(stage))}
        chosen = [setting for setting in self.settings if setting.partition("=")[0] in have]
        words += [f"--set {shlex.quote(setting)}" for setting in chosen]
        devices = os.environ.get("CIFAR_UTILS_DEVICES", "")
        words += [f"--devices {devices}"] * devices.isdecimal()
        return " ".join([*words, *["--fresh"] * self.fresh])

    def values(self, stage: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the value of each parameter of a stage's notebook."""
        manifest = self.run.manifest
        synthetic = manifest["data"]["kind"] == "synthetic"
        shared = {
            "PROFILE": manifest["profile"],
            "DATA": "synthetic" if synthetic else manifest["data"]["source"],
            "SEED": manifest["seed"],
            "RUN": self.run.name,
        }
        have = parameters(notebook(stage))
        values = have | {name: shared[name] for name in have if name in shared} | given
        if isinstance(values.get("WEIGHTS"), str):
            values["WEIGHTS"] = _weights(values["WEIGHTS"])
        return values


def _check_upstream(run: runs.Run, stages: list[str]) -> None:
    """Raise RunError if a stage builds on one that has neither finished nor been asked for.

    The run need not exist yet, so that refusing leaves nothing behind.
    """
    needed = {name: stage for stage in stages for name in runs.STAGES[stage]}
    missing = [
        name
        for name in runs.STAGES
        if name in needed and name not in stages and run.stage(name).finished() is None
    ]
    if missing:
        numbers = " ".join(name.partition("_")[0] for name in missing)
        raise RunError(
            f"{needed[missing[0]]} builds on {', '.join(missing)}, not finished in run "
            f"{run.name!r}; run that first, with: cifar run {numbers} {run.options()}"
        )


def run(
    stages: list[str],
    *,
    profile: str = "auto",
    source: str = "auto",
    seed: int = 0,
    name: str = "auto",
    settings: list[str] | None = None,
    fresh: bool = False,
) -> runs.Run:
    """Run stages of the course, those that have not finished yet, and report on them.

    Args:
        stages: Full names, as ``select`` returns them.
        profile: Name of a profile, or ``auto``.
        source: What ``data.load`` takes.
        seed: Seed of the run.
        name: Of the run, or ``auto``.
        settings: Parameters for the notebooks, such as ``["EPOCHS=3"]``.
        fresh: Whether finished stages run again.

    Returns:
        The run.

    Raises:
        ParameterError: Something asked for is unknown or of the wrong type; nothing has run.
        CifarUtilsError: The data, an earlier stage or the run's folder is not as needed; nothing
            has run. Or a stage failed; the message has the command that goes on from there.
        KeyboardInterrupt: The user stopped it; the message has the command that goes on.
    """
    settings = settings or []
    given = assign(settings, stages)
    if not 0 <= seed < 2**32:
        raise ParameterError(f"seed {seed} is out of range; expected 0 to {2**32 - 1}")
    chosen = profiles.resolve(profile)
    dataset = data.load(source, chosen)
    provenance = dataset.provenance.record()
    name = runs.resolve_name(name, profile=chosen.name, kind=provenance["kind"], seed=seed)
    facts = {"profile": chosen.name, "seed": seed, "data": provenance}
    _check_upstream(runs.Run(paths.artifacts_dir() / name, facts), stages)
    opened = runs.start(name, profile=chosen.name, seed=seed, provenance=provenance)
    request = _Request(opened, settings, fresh)
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits().items())
    _say(f"run       {opened.name}")
    _say(f"profile   {chosen.name}" + " (chosen by auto)" * (profile == "auto"))
    _say(f"data      {provenance['kind']}: {sizes} images")
    _say(f"seed      {seed}")
    _say(f"hardware  {runtime.hardware()}")
    _say(f"folder    {opened.folder}\n")
    with _alone(opened.folder):
        for stage in runs.STAGES:
            _recover(opened.stage(stage))
        read = {name for stage in stages for name in runs.STAGES[stage]} - set(stages)
        _warn_of_old(request, read)
        try:
            for place, stage in enumerate(stages):
                values = request.values(stage, given[stage])
                _one(opened.stage(stage), values, f"[{place + 1}/{len(stages)}]", fresh)
            _warn_of_old(request, set(runs.STAGES) - set(stages) - read)
        except RunError as error:
            resume = request.command(stages[place:])
            raise RunError(f"{error}\ngo on with: {resume}") from error
        except KeyboardInterrupt as error:
            resume = request.command(stages[place:])
            raise KeyboardInterrupt(f"interrupted in {stage}\ngo on with: {resume}") from error
        finally:
            _report(opened)
    return opened


def _report(run: runs.Run) -> None:
    """Write the run's page; if that fails, say so, and let nothing else be lost by it."""
    try:
        report.write(run)
    # Above all it must not take the place of the error that ended the run.
    except Exception as error:
        _say(f"Note: the page was not written ({error}); try again: cifar report {run.name}")


def _warn_of_old(request: _Request, stages: set[str]) -> None:
    """Say which finished stages, not asked for, were made by another state of things."""
    for name in (name for name in runs.STAGES if name in stages):
        stage = request.run.stage(name)
        record = stage.finished()
        if record is None:
            continue
        values = request.values(name, {}) | {
            known: value for known, value in record["parameters"].items() if known not in OPTIONS
        }
        if fingerprint(stage, values) != record["fingerprint"]:
            _say(f"note: {name} is from before its code, settings or inputs changed; run it again")
            _say(f"      with: {request.command([name])}\n")


def _one(stage: runs.Stage, values: dict[str, Any], place: str, fresh: bool) -> None:
    """Run one stage, or say that it has finished already."""
    record, digest = stage.finished(), fingerprint(stage, values)
    if record is not None and record["fingerprint"] == digest and not fresh:
        took = report.duration(record["seconds"])
        _say(f"{place} {stage.name}  already finished ({took}), reusing")
        return
    if fresh:
        shutil.rmtree(stage.backup, ignore_errors=True)
    _say(f"{place} {stage.name}")
    _say(f"        done in {report.duration(_run_stage(stage, values, digest))}")
    _report(stage.run)
