"""The setup cell, run as Colab would run it, and what an install there could replace."""

import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import colab, notebooks

PYPROJECT = tomllib.loads((notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
COLAB_PYTHON = "3.13"
COLAB = dict(
    line.split("==")
    for line in colab.PACKAGES.read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)
"""Versions in Colab by name, of the packages that we need."""
SOURCES = {
    "template": notebooks.setup_cell(),
    **{
        path.stem: notebooks.read(path).tagged("colab-setup")[0].source
        for path in notebooks.course()
    },
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    return SOURCES[request.param]


def magics_run(source: str) -> list[tuple[str, str]]:
    """Run a cell and return the magics it called: name and line."""
    called: list[tuple[str, str]] = []
    shell = types.SimpleNamespace(run_line_magic=lambda name, line: called.append((name, line)))
    code = TransformerManager().transform_cell(source)
    exec(compile(code, "colab-setup", "exec"), {"get_ipython": lambda: shell})
    return called


@pytest.fixture
def in_colab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))


def install(monkeypatch: pytest.MonkeyPatch, *, present: bool) -> None:
    """Make cifar_utils look installed or not."""
    spec = importlib.machinery.ModuleSpec("cifar_utils", None) if present else None
    monkeypatch.setattr(importlib.util, "find_spec", {"cifar_utils": spec}.__getitem__)


def test_nothing_happens_outside_colab(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    install(monkeypatch, present=False)
    assert magics_run(source) == []


@pytest.mark.usefixtures("in_colab")
def test_nothing_happens_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    install(monkeypatch, present=True)
    assert magics_run(source) == []


@pytest.mark.usefixtures("in_colab")
def test_colab_installs_the_release_once(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    install(monkeypatch, present=False)
    [(magic, line)] = magics_run(source)
    assert magic == "pip"
    assert line.endswith(
        '"cifar-utils[audit,serve,export,tune] @ '
        f'git+{PROJECT["urls"]["Repository"]}@v{PROJECT["version"]}"'
    )
    assert not re.search(r"tensorflow|keras|\bjax|(^|\s)(-U|--upgrade)\b", line)


@pytest.mark.parametrize(
    ("file", "line"),
    [("cifar_utils/__init__.py", '__version__ = "{}"'), ("CITATION.cff", "version: {}")],
)
def test_version_is_the_same_everywhere(file: str, line: str) -> None:
    lines = (notebooks.ROOT / file).read_text(encoding="utf-8").splitlines()
    assert line.format(PROJECT["version"]) in lines


def test_every_file_of_the_library_is_packaged() -> None:
    setuptools, library = PYPROJECT["tool"]["setuptools"], notebooks.ROOT / "cifar_utils"
    packaged = {
        path
        for package in setuptools["packages"]
        for pattern in ("*.py", *setuptools["package-data"].get(package, ()))
        for path in notebooks.ROOT.joinpath(*package.split(".")).glob(pattern)
        if path.is_file()
    }
    files = {path for path in library.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert files == packaged


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_base_install_replaces_nothing_in_colab(line: str) -> None:
    requirement = Requirement(line)
    name = canonicalize_name(requirement.name)
    assert not re.match(r"tensorflow|tf-|jax|torch", name)
    if name in COLAB:
        assert requirement.specifier.contains(COLAB[name])


def test_every_package_known_of_colab_is_one_we_need() -> None:
    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cpu"]
    assert {canonicalize_name(Requirement(line).name) for line in lines} >= set(COLAB)


def test_package_supports_the_python_of_colab() -> None:
    assert SpecifierSet(PROJECT["requires-python"]).contains(COLAB_PYTHON)


def test_backend_of_colab_is_new_enough() -> None:
    for line in PROJECT["optional-dependencies"]["cpu"]:
        assert Requirement(line).specifier.contains(COLAB["tensorflow-cpu"])


def test_rehearsal_finds_the_release_here(tmp_path: Path) -> None:
    """What pip asks git for: the tag of the repository that the setup cell names."""
    variables = colab.release(tmp_path / "release")
    url, tag = PROJECT["urls"]["Repository"], f"v{PROJECT['version']}"
    clone = ["git", "clone", "--quiet", "--branch", tag, url, str(tmp_path / "clone")]
    subprocess.run(clone, check=True, capture_output=True, env=os.environ | variables)
    released = tmp_path / "clone" / "cifar_utils" / "__init__.py"
    assert released.read_bytes() == (notebooks.ROOT / "cifar_utils/__init__.py").read_bytes()
    assert not (tmp_path / "clone" / "notebooks").exists()
