"""The tool that runs the notebooks and pins their Colab cells."""

from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from tools import notebooks
from tools.notebooks import Notebook

OLD_BADGE = "[![Open in Colab](https://x/badge.svg)](https://colab.research.google.com/old/{})"


def test_stale_badge_and_setup_cell_are_rewritten(good: Notebook, tmp_path: Path) -> None:
    path = tmp_path / good.path.name
    fresh = nbformat.writes(good.content) + "\n"
    good.cells[1].source = OLD_BADGE.format(good.path.name)
    good.tagged("colab-setup")[0].source = "%pip install -U tensorflow"
    nbformat.write(good.content, path)
    assert notebooks.pinned(path) == fresh


def test_badges_in_a_table_are_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"| {OLD_BADGE.format('01_eda.ipynb')} | [docs](docs/x.md) |", encoding="utf-8")
    expected = f"| {notebooks.badge('01_eda.ipynb')} | [docs](docs/x.md) |"
    assert notebooks.pinned(path) == expected


def test_badge_check_fails_and_writes_nothing(
    good: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    notebooks.project.cache_clear()
    stale = OLD_BADGE.format("01_eda.ipynb")
    (tmp_path / "README.md").write_text(stale, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "2.0"\nurls.Repository = "https://github.com/a/b"\n',
        encoding="utf-8",
    )
    try:
        assert notebooks.write_badges(check=True) == 1
        assert capsys.readouterr().out == "README.md: needs `make badges`\n"
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == stale
        assert notebooks.write_badges(check=False) == 0
        assert "/a/b/blob/v2.0/" in (tmp_path / "README.md").read_text(encoding="utf-8")
        assert notebooks.write_badges(check=True) == 0
    finally:
        notebooks.project.cache_clear()


def test_execution_keeps_outputs_and_nothing_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    path = tmp_path / "01_eda.ipynb"
    show = "import os\nprint(os.environ['CIFAR_UTILS_PROFILE'])\nprint(2)"
    cells = [v4.new_code_cell(show, id="first", metadata={"collapsed": True})]
    cells += [v4.new_code_cell("print(os.environ['CIFAR_UTILS_DATA_DIR'])", id="second")]
    nbformat.write(v4.new_notebook(cells=cells), path)
    assert notebooks.execute(["1"]) == 1
    ran = notebooks.read(path)
    assert ran.code[0].outputs[0].text == "smoke\n2\n"
    assert [(cell.id, cell.execution_count) for cell in ran.code] == [("first", 1), ("second", 2)]
    assert not list(notebooks.check_metadata(ran))
    assert "01_eda.ipynb: code cell 2 shows '" in capsys.readouterr().out


def test_only_the_backend_s_start_up_log_is_dropped_from_stderr() -> None:
    log = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "I0000 00:00:1795229829.311920   20003 port.cc:153] oneDNN custom operations are on.\n"
        "2026-01-01 10:00:00.000000: I tensorflow/core/util/port.cc:153] oneDNN\n"
    )
    warning = "UserWarning: labels overlap\n"
    outputs = [v4.new_output("stream", name="stderr", text=text) for text in (log, log + warning)]
    content = v4.new_notebook(cells=[v4.new_code_cell("import keras", outputs=outputs)])
    kept = notebooks.cleaned(content).cells[0].outputs
    assert [output.text for output in kept] == [warning]
