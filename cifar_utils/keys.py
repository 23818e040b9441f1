"""What a stage's results depend on, by name, so that it can be said why it has to run again."""

import ast
import functools
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cifar_utils import download, parameters, profiles, runs, runtime

DEVICES = ("CIFAR_UTILS_DEVICES", "KERAS_DISTRIBUTION_NUM_PROCESSES")
"""Variables that say what a training runs on; rounding differs with it."""

Facts = dict[str, str]
"""What a stage depends on: names such as ``module training`` to values or digests."""

CONTENTS = ("RECIPE", "SPACE")
"""Parameters that may name a small file, whose content counts and not its place."""

PLANS = ("tutorial", "fast", "long")
"""What ``RECIPE`` may be besides a file: the keys of ``recipes.PLANS``, which needs Keras."""

FILES = ("WEIGHTS", *CONTENTS)
"""Parameters that may name a file."""


def located(choice: str) -> str:
    """Return a choice with a file's path made absolute."""
    path = Path(choice).expanduser()
    return str(path.resolve()) if path.is_file() else choice


def anywhere(name: str, value: Any) -> Any:
    """Return a parameter's value as a notebook understands it that runs in another folder.

    The path of a file is made absolute, and so is that of a study's journal, which may be new.
    """
    if name in FILES and isinstance(value, str):
        return located(value)
    if name == "STORAGE" and value and "://" not in value:
        return str(Path(value).expanduser().resolve())
    return value


def _weights_identity(choice: str) -> str:
    """Return what must stay the same for a choice of ResNet50 weights to be the same."""
    if choice == "auto":
        choice = os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS") or "auto"
    path = Path(located(choice))
    if not path.is_file():
        return choice
    return f"{path}, {path.stat().st_size} bytes, changed {path.stat().st_mtime_ns}"


def _library() -> Path:
    """Return the folder of this library's source."""
    return Path(__file__).parent


def _digest(content: bytes) -> str:
    """Return a digest short enough to be read."""
    return hashlib.sha256(content).hexdigest()[:16]


class _Imports(ast.NodeVisitor):
    """Collects the modules of this library that a piece of code imports when it runs."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        """Leave out what only a type checker imports."""
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        """Note ``import cifar_utils.data``."""
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Note ``from cifar_utils import data`` and ``from cifar_utils.data import load``."""
        if node.module:
            self.found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}


def _imported(tree: ast.AST, files: dict[str, Path]) -> set[str]:
    """Return the names of ``files`` that a piece of code imports."""
    visitor = _Imports()
    visitor.visit(tree)
    short = {name.removeprefix("cifar_utils.") for name in visitor.found}
    return short & files.keys()


def _files(folder: Path) -> dict[str, Path]:
    """Return the library's modules by their names within it."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@functools.cache
def _module(path: Path, changed: int) -> tuple[str, ast.Module]:
    """Return digest and syntax tree of a module; cached until the file changes."""
    content = path.read_bytes()
    return _digest(content), parameters.parsed(content)


def modules(notebook: Path, folder: Path | None = None) -> Facts:
    """Return digests of the library's modules that a notebook uses, also through others.

    Args:
        notebook: The notebook.
        folder: Where the library's source is.

    Raises:
        RunError: The file is missing or not a notebook.
    """
    files = _files(folder or _library())
    waiting: set[str] = set()
    for cell in parameters.cells(notebook):
        if parameters.is_code(cell):
            try:
                waiting |= _imported(parameters.tree(cell["source"]), files)
            except SyntaxError:  # the cell will say so itself when it runs
                continue
    found: Facts = {}
    while waiting:
        name = waiting.pop()
        digest, tree = _module(files[name], files[name].stat().st_mtime_ns)
        found[f"module {name}"] = digest
        known = {fact.removeprefix("module ") for fact in found}
        package = {name.partition(".")[0]} & files.keys()
        waiting |= (_imported(tree, files) | package) - known
    return dict(sorted(found.items()))


def code(notebook: Path) -> list[str]:
    """Return a digest of each code cell of a notebook."""
    return [
        _digest(cell["source"].encode())
        for cell in parameters.cells(notebook)
        if parameters.is_code(cell)
    ]


def upstream(record: dict[str, Any] | None) -> str:
    """Return what identifies the results of a stage that another one reads."""
    if record is None:
        return "not finished"
    return _digest(json.dumps(record.get("files"), sort_keys=True).encode())


def facts(stage: runs.Stage, values: dict[str, Any]) -> Facts:
    """Return everything that decides what a stage leaves behind.

    It covers the notebook's code, the parameters, the profile's numbers, the data, the modules of
    the library, the packages, the devices, the ResNet50 weights, the files of recipe and search
    space, and the results of each stage it builds on.

    Args:
        stage: The stage.
        values: The value of each of the notebook's parameters.
    """
    manifest = stage.run.manifest
    notebook = parameters.notebook(stage.name)
    found = {
        "data": manifest["data"]["fingerprint"],
        "seed": str(manifest["seed"]),
        "backend": os.environ.get("KERAS_BACKEND") or "Keras's own choice",
        "devices": ", ".join(os.environ.get(name) or "auto" for name in DEVICES),
        "notebook": _digest("\n".join(code(notebook)).encode()),
    }
    # Where the data lies and what the run is called do not change a result.
    used = values.keys() - {"DATA", "RUN"}
    found |= {f"parameter {name}": json.dumps(values[name]) for name in sorted(used)}
    numbers = asdict(profiles.resolve(manifest["profile"]))
    found |= {f"profile {name}": json.dumps(value) for name, value in numbers.items()}
    found |= {f"version of {name}": number for name, number in runtime.versions().items()}
    found |= modules(notebook)
    if "WEIGHTS" in values:
        found["weights"] = _weights_identity(values["WEIGHTS"])
    for name in CONTENTS:
        path = Path(values.get(name) or "")
        if path.is_file():
            found[name.lower()] = _digest(path.read_bytes())
    for name in runs.STAGES[stage.name]:
        found[f"results of {name}"] = upstream(stage.run.stage(name).finished())
    return found


def differences(was: Facts, now: Facts) -> list[str]:
    """Return in words what changed; nothing if all is as it was."""
    found = []
    for name in [*now, *(name for name in was if name not in now)]:
        old, new = was.get(name), now.get(name)
        if old == new:
            continue
        if name.startswith(("parameter", "version", "devices", "backend", "profile", "seed")):
            found.append(f"{name} was {old}, is {new}")
        else:
            found.append(f"{name} changed")
    return found


def digests(paths: list[Path], root: Path) -> dict[str, str]:
    """Return the SHA-256 of files, by their paths from ``root``."""
    return {path.relative_to(root).as_posix(): download.sha256(path) for path in sorted(paths)}


def damaged(stage: runs.Stage) -> list[str]:
    """Return the files of a finished stage that are missing or not as it left them."""
    record = stage.finished() or {}
    was = record.get("files", {})
    root = stage.run.folder
    present = [root / name for name in was if (root / name).is_file()]
    now = digests(present, root)
    return [name for name, digest in was.items() if now.get(name) != digest]
