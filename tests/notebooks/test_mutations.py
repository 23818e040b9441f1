"""The tool that breaks the library on purpose, on a library of one line."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tools import mutations, notebooks
from tools.mutations import Sabotage

TESTS = "from library import classes\n\ndef test_ten(): assert classes() == {}\n"
GOOD = Sabotage("one more", "tools/library.py", "10", "11", ("test_it.py::test_ten",))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in mutations.COPIED:
        if not name.endswith((".toml", ".md")):
            (tmp_path / name).mkdir()
    (tmp_path / "tests" / "unit").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["tools"]\n')
    (tmp_path / "README.md").touch()
    (tmp_path / "tools" / "library.py").write_text("def classes(): return 10  # or more\n")
    (tmp_path / "tests" / "unit" / "test_it.py").write_text(TESTS.format(10))
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    return tmp_path


def test_caught(root: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert mutations.main([GOOD]) == 0
    text = capsys.readouterr().out
    assert "| one more | tools/library.py | test_ten | caught |" in text
    assert "1 of 1 caught" in text
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"old": "# or more", "new": "# or less"}, "SURVIVED"),
        ({"old": "return 9"}, "NO LONGER APPLIES: 'return 9' stands 0 times in tools/library.py"),
        ({"old": "e"}, "NO LONGER APPLIES: 'e' stands 4 times"),
        ({"old": "def", "new": "deaf"}, "NOT TESTED: "),
    ],
)
@pytest.mark.usefixtures("root")
def test_anything_else_is_a_failure(
    capsys: pytest.CaptureFixture, changes: dict[str, str], result: str
) -> None:
    assert mutations.main([dataclasses.replace(GOOD, **changes), GOOD]) == 1
    text = capsys.readouterr().out
    assert f"| test_ten | {result}" in text
    assert "| test_ten | caught |" in text
    assert "1 of 2 caught" in text


def test_tests_that_fail_anyway_prove_nothing(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "tests" / "unit" / "test_it.py").write_text(TESTS.format(9))
    assert mutations.main([GOOD]) == 1
    assert "fail without any sabotage" in capsys.readouterr().out


@pytest.mark.parametrize("sabotage", mutations.SABOTAGES, ids=lambda sabotage: sabotage.what)
def test_sabotage_still_applies(sabotage: Sabotage, tmp_path: Path) -> None:
    copy = tmp_path / sabotage.file
    copy.parent.mkdir(parents=True)
    shutil.copy(notebooks.ROOT / sabotage.file, copy)
    before = copy.read_text(encoding="utf-8")
    sabotage.apply(tmp_path)
    assert copy.read_text(encoding="utf-8") != before


def test_there_are_at_least_ten() -> None:
    assert len({sabotage.what for sabotage in mutations.SABOTAGES}) >= 10
