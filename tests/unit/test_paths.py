import stat
from pathlib import Path

import pytest

from cifar_utils import paths
from cifar_utils.errors import CifarUtilsError

FOLDERS = {
    "CIFAR_UTILS_DATA_DIR": (paths.data_dir, "data"),
    "CIFAR_UTILS_ARTIFACTS_DIR": (paths.artifacts_dir, "artifacts"),
}


@pytest.fixture(params=FOLDERS)
def variable(request, monkeypatch):
    monkeypatch.delenv(request.param, raising=False)
    return request.param


def test_a_checkout_holds_its_own_folders(variable):
    find, name = FOLDERS[variable]
    assert find() == Path(__file__).resolve().parents[2] / name


def test_folders_do_not_depend_on_the_working_directory(variable, monkeypatch, tmp_path):
    find, _ = FOLDERS[variable]
    here = find()
    monkeypatch.chdir(tmp_path)
    assert find() == here


def test_without_a_checkout_folders_are_below_home(variable, monkeypatch, tmp_path):
    find, name = FOLDERS[variable]
    monkeypatch.setattr(paths, "checkout", lambda: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find() == tmp_path / "cifar10-notebooks" / name


def test_the_environment_moves_a_folder(variable, monkeypatch, tmp_path):
    find, _ = FOLDERS[variable]
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    assert find() == tmp_path / "elsewhere"
    assert not find().exists()


def test_the_environment_may_use_home_or_a_relative_folder(variable, monkeypatch, tmp_path):
    find, _ = FOLDERS[variable]
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, "~/mine")
    assert find() == tmp_path / "home" / "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "mine")
    assert find() == tmp_path / "mine"


def test_an_empty_variable_is_as_good_as_none(variable, monkeypatch):
    find, _ = FOLDERS[variable]
    default = find()
    monkeypatch.setenv(variable, "")
    assert find() == default


def test_notebooks_need_a_checkout(monkeypatch):
    assert paths.notebooks_dir() == Path(__file__).resolve().parents[2] / "notebooks"
    monkeypatch.setattr(paths, "checkout", lambda: None)
    with pytest.raises(CifarUtilsError, match="clone the repository and run `make setup`"):
        paths.notebooks_dir()


def test_atomic_shows_a_file_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "model.keras"
    with paths.atomic(target) as partial:
        partial.write_text("half")
        assert not target.exists()
        assert partial.suffix == ".keras"
        partial.write_text("whole")
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_atomic_keeps_the_old_file_when_the_writer_fails(tmp_path, failure):
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with pytest.raises(failure), paths.atomic(target) as partial:
        partial.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_replaces_a_file(tmp_path):
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with paths.atomic(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"


def test_atomic_works_for_folders(tmp_path):
    target = tmp_path / "cache"
    with paths.atomic(target) as partial:
        partial.mkdir()
        (partial / "images.npy").write_text("whole")
        assert not target.exists()
    assert (target / "images.npy").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_does_not_replace_a_folder_with_files(tmp_path):
    target = tmp_path / "cache"
    target.mkdir()
    (target / "images.npy").write_text("first")
    with pytest.raises(OSError, match="not empty"), paths.atomic(target) as partial:
        partial.mkdir()
        (partial / "images.npy").write_text("second")
    assert (target / "images.npy").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_complains_if_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), paths.atomic(tmp_path / "nothing"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_was_written(tmp_path):
    paths.write_text(tmp_path / "file", "")
    with paths.atomic(tmp_path / "folder") as partial:
        partial.mkdir()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"file": 0o644, "folder": 0o755}


def test_write_text_is_utf_8(tmp_path):
    paths.write_text(tmp_path / "page", "01 · é")
    assert (tmp_path / "page").read_bytes() == "01 · é".encode()
