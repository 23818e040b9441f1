"""The parameters of the notebooks: which there are, of what type, and what a user gave them."""

import ast
import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_utils import paths, runs
from cifar_utils.errors import ParameterError, RunError, nearest

OPTIONS = {"PROFILE": "--profile", "DATA": "--data", "SEED": "--seed", "RUN": "--run"}
"""Parameters that every stage of a run shares, and the options of ``cifar run`` that set them."""

FIELDS = ("stages", "profile", "data", "seed", "grid", "run", "parameters")
"""What a file for ``cifar run --params`` may say."""

_PARSING = threading.Lock()


def notebook(stage: str) -> Path:
    """Return the path of a stage's notebook, as the course has it."""
    return paths.notebooks_dir() / f"{stage}.ipynb"


def cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook, each with its source as one string.

    Raises:
        RunError: The file is missing or not a notebook.
    """
    if not path.is_file():
        raise RunError(f"the notebook {path} is missing; restore it, for example with git")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [cell | {"source": "".join(cell["source"])} for cell in found]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a notebook: {error!r}") from error


def is_code(cell: dict[str, Any]) -> bool:
    """Return whether a notebook's cell holds code."""
    return cell["cell_type"] == "code"


def _tagged(cell: dict[str, Any]) -> bool:
    """Return whether a cell is the one with the parameters."""
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def parsed(source: str | bytes) -> ast.Module:
    """Return Python code parsed; one thread at a time.

    CPython 3.11 counts its depth in one place for all threads, and raises a SystemError where two
    of them meet there: https://github.com/python/cpython/issues/106905.

    Raises:
        SyntaxError: It is not Python.
    """
    with _PARSING:
        return ast.parse(source)


def tree(source: str) -> ast.Module:
    """Return a code cell parsed, IPython's magics and shell commands left out.

    Raises:
        SyntaxError: The rest is not Python.
    """
    lines = [
        line[: len(line) - len(line.lstrip())] + "pass"
        if line.lstrip().startswith(("%", "!"))
        else line
        for line in source.splitlines()
    ]
    return parsed("\n".join(lines))


def schema(path: Path) -> dict[str, Any]:
    """Return the names that a notebook's ``parameters`` cell sets, and the values they have there.

    A value's type is the parameter's. Read by parsing, because papermill's own reader misses some
    spellings and only warns about parameters that the notebook does not have.

    Raises:
        RunError: There is no such cell, or it holds more than names set to literals.
    """
    tagged = [cell["source"] for cell in cells(path) if _tagged(cell)]
    if len(tagged) != 1:
        raise RunError(f"{path} has {len(tagged)} cells tagged 'parameters', expected one")
    found = {}
    try:
        for statement in parsed(tagged[0]).body:
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                raise ValueError(f"line {statement.lineno} is not of the form NAME = literal")
            target = statement.targets[0]
            if not isinstance(target, ast.Name):
                raise ValueError(f"line {statement.lineno} does not set a plain name")
            found[target.id] = ast.literal_eval(statement.value)
    except (ValueError, SyntaxError) as error:
        raise RunError(f"the parameters cell of {path} cannot be read: {error}") from error
    return found


def unread(path: Path) -> set[str]:
    """Return the parameters that no other cell of a notebook looks at.

    Raises:
        RunError: A code cell is not Python.
    """
    names = set(schema(path))
    for number, cell in enumerate(cells(path), start=1):
        if is_code(cell) and not _tagged(cell):
            try:
                nodes = ast.walk(tree(cell["source"]))
            except SyntaxError as error:
                raise RunError(f"cell {number} of {path} cannot be read: {error}") from error
            names -= {
                node.id
                for node in nodes
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
            }
    return names


def _fits(value: Any, like: Any) -> bool:
    """Return whether ``value`` may stand for ``like``; an integer may stand for a float."""
    return type(value) is type(like) or (type(like) is float and type(value) is int)


def _refuse(name: str, value: Any, default: Any) -> ParameterError:
    """Return the error for a value that is not of the type of the default."""
    kinds = {str: "text", bool: "true or false", int: "an integer", float: "a number"}
    kind = kinds.get(type(default), f"a {type(default).__name__}")
    return ParameterError(f"{name}={value}: expected {kind}, such as {default!r}")


def check(name: str, value: Any, default: Any) -> Any:
    """Return a value that came with a type, such as one of a YAML file, as parameter ``name``.

    A list may stand for a tuple, an integer for a float, and text for what it says in Python where
    the default is no text: YAML takes ``1e-4`` for text.

    Raises:
        ParameterError: The value is not of the default's type.
    """
    if isinstance(value, str):
        return convert(name, value, default)
    if default is None:
        return value
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        if default and not all(_fits(item, default[0]) for item in value):
            raise _refuse(name, value, default)
        return type(default)(value)
    if not _fits(value, default) or (isinstance(value, float) and not math.isfinite(value)):
        raise _refuse(name, value, default)
    return float(value) if isinstance(default, float) else value


def convert(name: str, text: str, default: Any) -> Any:
    """Return ``text`` as a value of the type that parameter ``name`` has by default.

    Text stays text where the default is text: ``none`` is a word there. A sequence is written as in
    Python, ``(32, 64)``, and keeps the type of the default and of its first element.

    Raises:
        ParameterError: The text is not of that type.
    """
    try:
        if isinstance(default, str):
            return text
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.strip().lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            value = float(text)
        else:
            value = ast.literal_eval(text.strip())
            if isinstance(value, str) and default is not None:
                raise ValueError(text)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        raise _refuse(name, text, default) from error
    return value if isinstance(value, str) else check(name, value, default)


def _place(stage: str, name: str, value: Any, of: dict[str, dict[str, Any]]) -> Any:
    """Return a value for a parameter that a stage has, checked.

    Raises:
        ParameterError: It is of the wrong type, or the notebook would not look at it.
    """
    if name in unread(notebook(stage)):
        raise ParameterError(
            f"{stage} never reads its parameter {name}, so setting it would change nothing"
        )
    return check(name, value, of[stage][name])


def assign(
    settings: list[str], stages: list[str], filed: dict[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return, for each stage, the values that the user gives its parameters.

    Args:
        settings: Of ``--set``, such as ``["EPOCHS=3"]``; each goes to every stage that has the
            parameter, and before what a file says.
        stages: The stages asked for.
        filed: Of a file, names to values for every stage that has them, and names of stages to
            such values for the one stage, which go before the others.

    Raises:
        ParameterError: A parameter is one that none of the stages has, or that is never read, or
            that has an option of its own; or a value is of the wrong type.
    """
    have = {stage: schema(notebook(stage)) for stage in stages}
    given: dict[str, dict[str, Any]] = {stage: {} for stage in stages}

    def spread(name: str, value: Any, to: list[str], where: str) -> None:
        if name in OPTIONS:
            option = OPTIONS[name]
            raise ParameterError(f"{where}: use {option} {value}, or the file's {option[2:]}")
        known = sorted({name for stage in to for name in have[stage]} - set(OPTIONS))
        if name not in known:
            hint = (
                nearest(name, [*known, "SEED"])
                if known
                else "; the stages asked for have none to set"
            )
            raise ParameterError(f"{where}: no stage asked for has a parameter {name!r}{hint}")
        for stage in to:
            if name in have[stage]:
                given[stage][name] = _place(stage, name, value, have)

    own: list[tuple[str, dict[str, Any]]] = []
    for name, value in (filed or {}).items():
        if isinstance(value, dict):
            stage = runs.stage_name(str(name))
            if stage not in stages:
                raise ParameterError(f"parameters for {stage}, which is not among the stages asked")
            own.append((stage, value))
        else:
            spread(str(name), value, stages, f"parameter {name}")
    for stage, values in own:
        for name, value in values.items():
            spread(str(name), value, [stage], f"parameter {name} of {stage}")
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ParameterError(f"--set {setting}: expected NAME=VALUE")
        spread(name, text, stages, f"--set {setting}")
    return given


@dataclass(frozen=True)
class Filed:
    """What a file for ``cifar run --params`` says; None where it does not say.

    Attributes:
        stages: Numbers or names.
        profile: Name of a profile.
        data: What ``data.load`` takes.
        seed: Seed of the run.
        grid: Names of parameters to several values each, see ``grids.read``.
        run: Name of the run.
        parameters: See ``assign``.
    """

    stages: list[str] | None
    profile: str | None
    data: str | None
    seed: int | None
    grid: dict[str, Any]
    run: str | None
    parameters: dict[str, Any]


def read(path: Path) -> Filed:
    """Read a file of settings, in YAML.

    Raises:
        ParameterError: It cannot be read, has a field that is unknown, or one of the wrong type.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ParameterError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(found, dict):
        raise ParameterError(f"{path}: expected lines such as 'profile: cpu', got {found!r}")
    for name in found:
        if name not in FIELDS:
            raise ParameterError(f"{path}: unknown field {name!r}{nearest(str(name), [*FIELDS])}")

    def typed(name: str, kind: type, example: str) -> Any:
        value = found.get(name)
        if value is not None and type(value) is not kind:
            raise ParameterError(f"{path}: {name} is {value!r}; expected such as {example}")
        return value

    stages = typed("stages", list, "stages: [02, baseline_cnn]")
    grid = typed("grid", dict, "grid: {SEED: 0..4}") or {}
    given = typed("parameters", dict, "parameters: {EPOCHS: 3}") or {}
    single = {name for own in given.values() if isinstance(own, dict) for name in own} | {*given}
    single |= {"SEED"} if "seed" in found else set()
    for name in grid.keys() & single:
        raise ParameterError(f"{path}: give {name} either one value or a grid")
    return Filed(
        stages=None if stages is None else [str(stage) for stage in stages],
        profile=typed("profile", str, "profile: cpu"),
        data=typed("data", str, "data: synthetic"),
        seed=typed("seed", int, "seed: 0"),
        grid=grid,
        run=typed("run", str, "run: mine"),
        parameters=given,
    )
