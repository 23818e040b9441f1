import json

import pytest

from cifar_utils import cli, reruns, runs
from cifar_utils.errors import RunError
from tests.unit import tiny_course

NAME = "smoke-synthetic-seed0"


def first(capsys, *more):
    arguments = ["run", "1", "3", "--set", "EPOCHS=4", "--set", "SIZES=(8, 16)", *more]
    assert cli.main(arguments) == 0
    capsys.readouterr()


def test_a_rerun_repeats_parameters_and_says_that_all_came_out_the_same(root, folder, capsys):
    first(capsys)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rerun"]["parameters"]["01_first"]["EPOCHS"] == 4
    assert cli.main(["rerun", NAME]) == 0
    out = capsys.readouterr().out
    assert f"{NAME}-again1 came out the same as {NAME}, bit for bit" in out
    again = root / "artifacts" / f"{NAME}-again1"
    assert json.loads((again / "01_first" / "facts.json").read_text())["given"][:3] == [
        4,
        0.5,
        "(8, 16)",
    ]
    assert not (again / "02_second").exists()
    assert reruns.free_name(NAME) == f"{NAME}-again2"
    assert cli.main(["results"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "bit for bit" in line]
    assert [row[:3] for row in rows] == [
        [stage, f"{NAME}-again1", NAME] for stage in ("01_first", "03_third")
    ]


def test_a_rerun_that_differs_says_in_what(root, folder, capsys):
    first(capsys)
    tiny_course.write(root, "03_third", "EPOCHS = 7; derived = 70")
    assert cli.main(["rerun", NAME, "--as", "again"]) == 10
    printed = capsys.readouterr()
    assert "03_third came out differently than in smoke-synthetic-seed0" in printed.err
    assert "01_first" not in printed.err
    assert "differently: derived" in printed.out
    assert runs.load("again").manifest["repeats"] == NAME


def test_a_rerun_takes_the_environment_of_the_run(root, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_UTILS_DEVICES", "3")
    first(capsys)
    monkeypatch.setenv("CIFAR_UTILS_DEVICES", "4")
    assert cli.main(["rerun", NAME, "--as", "again"]) == 0
    facts = root / "artifacts" / "again" / "01_first" / "facts.json"
    assert json.loads(facts.read_text())["environment"]["CIFAR_UTILS_DEVICES"] == "3"


def test_other_images_are_refused(root, folder, capsys, monkeypatch):
    first(capsys)
    monkeypatch.setitem(tiny_course.PROVENANCE, "fingerprint", "0" * 64)
    assert cli.main(["rerun", NAME]) == 1
    assert "was made with other images (ffffffff, now 00000000)" in capsys.readouterr().err
    assert not (root / "artifacts" / f"{NAME}-again1").exists()


def test_a_run_that_says_too_little_is_refused(stage):
    with pytest.raises(RunError, match="does not say how its stages were run"):
        reruns.request(NAME)
