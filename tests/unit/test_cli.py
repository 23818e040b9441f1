import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cifar_utils import archives, cli, data, download, runs
from cifar_utils.errors import DataError, ParameterError
from tests.unit import fake_archives, tiny_course

HEAVY = (
    *("keras", "tensorflow", "jax", "papermill", "pandas", "matplotlib", "sklearn", "numpy"),
    *("requests", "rich"),
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    for stage in tiny_course.STAGES:
        tiny_course.write(tmp_path, stage)
    tiny_course.install(tmp_path, monkeypatch.setattr)
    monkeypatch.delenv("CIFAR_UTILS_PROFILE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["data", "--help"], ["data", "fetch", "--help"]]
)
def test_help_imports_nothing_heavy(arguments):
    script = (
        "import contextlib, io, json, sys\n"
        "from cifar_utils import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    try:\n"
        "        cli.main(sys.argv[1:])\n"
        "    except SystemExit as end:\n"
        "        status = end.code\n"
        "print(json.dumps([status, out.getvalue(), list(sys.modules)]))\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    status, text, modules = json.loads(finished.stdout)
    assert status == 0
    assert "usage: cifar" in text
    assert not set(HEAVY) & set(modules)


def test_help_names_every_option_of_run(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = capsys.readouterr().out
    options = ("--from", "--profile", "--data", "--seed", "--run", "--set", "--devices", "--fresh")
    options += ("--grid", "--params", "--explain", "--keep-going", "--cell-timeout", "--gpu")
    assert all(option in text for option in (*options, "--jobs", "--memory", "STAGE"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "secnd"], "unknown stage 'secnd'; did you mean 'second'?"),
        (["run", "7"], "unknown stage '7'"),
        (["run", "--from", "thrid"], "did you mean 'third'?"),
        (["run", "1", "--from", "2"], "not both"),
        (["run", "--set", "EPOCH=3"], "did you mean 'EPOCHS'?"),
        (["run", "--set", "epochs=three"], "EPOCHS=three: expected an integer, such as 2"),
        (["run", "--set", "EPOCHS=three"], "expected an integer, such as 2"),
        (["run", "--profile", "smok"], "unknown profile 'smok'; did you mean 'smoke'?"),
        (["run", "--seed", "-1"], "expected 0 to 4294967295"),
        (["run", "--devices", "0"], "--devices 0: expected a number from 1"),
        (["run", "--run", "../x"], "run name '../x' is not usable"),
        (["run", "--grid", "SEED"], "--grid SEED: expected NAME=VALUES, such as SEED=0..4"),
        (["run", "--grid", "SEED=0..x"], "SEED=0..x: expected an integer"),
        (["run", "--grid", "SEED=0..4,2"], "--grid SEED=0..4,2: expected values that differ"),
        (["run", "--grid", "SEED=0..1", "--seed", "1"], "SEED has one value already"),
        (["run", "--grid", "EPOCHS=1", "--set", "EPOCHS=2"], "EPOCHS has one value already"),
        (["run", "--grid", "EPOCHS=1", "--grid", "EPOCHS=2"], "values of EPOCHS in one --grid"),
        (["run", "--grid", "EPOCHS=1", "--grid", "EPOCH=2"], "did you mean 'EPOCHS'?"),
        (["run", "--grid", "PROFILE=cpu,gpu"], "use --profile cpu"),
        (["run", "--jobs", "0"], "--jobs 0: expected a number above 0"),
        (["run", "--memory", "-1"], "--memory -1: expected a number above 0"),
        (["run", "--cell-timeout", "1d"], "expected such as 90, 30m or 2h"),
        (["run", "--params", "missing.yaml"], "missing.yaml cannot be read"),
        (["runs", "prune", "--keep", "-1"], "--keep -1: expected 0 or more"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_refused(root, capsys, arguments, expected):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("cifar: ")
    assert expected in printed.err
    assert printed.out == ""
    assert not (root / "artifacts").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["run", "--seed", "x"],
        ["run", "--profil", "cpu"],
        [],
        ["data"],
        ["results", "--seed", "1"],
        ["run", "--seeds", "1,2"],
        ["runs"],
    ],
)
def test_what_the_parser_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: cifar" in capsys.readouterr().err


def test_missing_data_is_an_error_without_a_traceback(root, monkeypatch, capsys):
    def load(source, profile):
        raise DataError("no images here")

    monkeypatch.setattr(data, "load", load)
    assert cli.main(["run", "--profile", "cpu"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "cifar: no images here\n")
    assert not (root / "artifacts").exists()


def test_options_reach_the_run_and_the_table_ends_it(root, capsys):
    arguments = ["run", "--from", "3", "--seed", "4", "--run", "mine", "--profile", "cpu"]
    assert cli.main([*arguments, "--set", "EPOCHS=9"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    folder = root / "artifacts" / "mine"
    assert printed.out.splitlines()[-1] == f"report: {folder / 'report.html'}"
    row = next(line for line in printed.out.splitlines() if line.lstrip().startswith("03_third"))
    assert "50.00  [47.00, 53.00]" in row
    metrics = json.loads((folder / "03_third" / "metrics.json").read_text())
    assert (metrics["profile"], metrics["seed"], metrics["derived"]) == ("cpu", 4, 90)
    assert not (folder / "01_first").exists()

    assert cli.main([*arguments, "--set", "EPOCHS=9"]) == 0
    assert "already finished" in capsys.readouterr().out
    assert cli.main([*arguments, "--set", "EPOCHS=9", "--fresh"]) == 0
    assert "already finished" not in capsys.readouterr().out


def test_a_failing_cell_is_exit_status_3(root, capsys):
    tiny_course.write(root, "03_third", "raise KeyError('lost')")
    assert cli.main(["run", "third"]) == 3
    errors = capsys.readouterr().err
    assert "cifar: 03_third failed in cell 9 of 11" in errors
    assert "KeyError: 'lost'" in errors
    assert "go on with: cifar run --from 03 " in errors
    assert "Traceback" not in errors


def test_devices_reach_the_notebooks_and_the_command_that_goes_on(root, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_UTILS_DEVICES", "auto")  # put back after the test
    tiny_course.write(root, "03_third", "raise KeyError('lost')")
    assert cli.main(["run", "1", "3", "--devices", "2"]) == 3
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("go on with: cifar run --from 03 ")
    assert errors.splitlines()[-1].endswith(" --devices 2")
    (found,) = (root / "artifacts").glob("*/01_first/facts.json")
    assert json.loads(found.read_text())["environment"]["CIFAR_UTILS_DEVICES"] == "2"


def test_a_file_of_settings_runs_and_options_go_before_it(root, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(
        "stages: [1, third]\nprofile: cpu\nseed: 5\nrun: filed\n"
        "parameters: {EPOCHS: 3, third: {RATE: 1e-4, SIZES: [1, 2]}}"
    )
    assert cli.main(["run", "--params", str(path), "--seed", "6", "--set", "EPOCHS=8"]) == 0
    folder = root / "artifacts" / "filed"
    facts = json.loads((folder / "03_third" / "facts.json").read_text())
    assert facts["given"][:3] == [8, 0.0001, "(1, 2)"]
    assert json.loads((folder / "01_first" / "facts.json").read_text())["given"][1] == 0.5
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["profile"], manifest["seed"]) == ("cpu", 6)
    assert not (folder / "02_second").exists()
    path.write_text("parameters: {EPOCH: 3}")
    assert cli.main(["run", "--params", str(path)]) == 2
    assert "did you mean 'EPOCHS'?" in capsys.readouterr().err


def test_explain_says_why_and_runs_nothing(root, capsys):
    assert cli.main(["run", "3", "--run", "mine"]) == 0
    capsys.readouterr()
    assert cli.main(["run", "1", "3", "--run", "mine", "--explain", "--set", "EPOCHS=4"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("01_first  would run", "    it has not finished yet"),
        *("03_third  would run", "    parameter EPOCHS was 2, is 4"),
    ]
    assert cli.main(["run", "3", "--run", "mine", "--explain"]) == 0
    assert capsys.readouterr().out == "03_third  is done\n"
    assert not (root / "artifacts" / "mine" / "01_first").exists()


def test_a_grid_is_explained_run_and_summed_up_on_validation(root, capsys):
    # The rate decides, more of it is better, and stage 03 has it alone.
    own = tiny_course.PARAMETERS.replace("RATE = 0.5\n", "")
    tiny_course.write(root, "01_first", "RATE = 1", parameters=own)
    body = (
        "plain = dict\n"
        "def dict(*found, **fields):\n"
        "    if 'accuracy' in fields:\n"
        "        fields['accuracy'] = RATE + SEED / 100\n"
        "    return plain(*found, **fields)"
    )
    tiny_course.write(root, "03_third", body)
    grid = ["run", "1", "3", "--grid", "RATE=0.4,0.6", "--grid", "SEED=0..1"]
    assert cli.main([*grid, "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "4 runs, each with all stages asked for",
        "01_first does not depend on RATE, but runs for each value",
        "smoke-synthetic-seed0-rate0.4/01_first  would run",
    ]
    assert not (root / "artifacts").exists()

    assert cli.main([*grid, "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    rows = [row for row in _rows(out) if row[0].startswith("03_third")]
    assert [row[1] for row in rows[:4]] == [
        f"smoke-synthetic-seed{seed}-rate{rate}" for rate in (0.6, 0.4) for seed in (1, 0)
    ]
    assert [row[:3] for row in rows[4:6]] == [
        ["03_third", f"RATE={rate}", "validation"] for rate in (0.6, 0.4)
    ]
    assert rows[4][-3:-1] == ["2", "60.50"]
    gaps = {tuple(row[:2]): row[-2] for row in rows[6:]}
    assert gaps.keys() == {
        ("03_third RATE=0.6", name) for name in ("01_first", "03_third RATE=0.4")
    }
    assert gaps["03_third RATE=0.6", "03_third RATE=0.4"] == "+20.00"
    assert out.count("report: ") == 4

    for folder in (root / "artifacts").iterdir():
        row = json.loads((folder / "03_third" / "metrics.json").read_text()) | {"split": "test"}
        runs.write_json(folder / "03_third" / "leaderboard.json", [row])
    assert cli.main(grid) == 0
    out = capsys.readouterr().out
    assert "1,000 test images" not in out and not any("test" in row for row in _rows(out))
    names = [path.name for path in (root / "artifacts").iterdir()]
    assert cli.main(["results", *names]) == 0
    out = capsys.readouterr().out
    assert "1,000 test images" in out and any(
        row[1:3] == ["RATE=0.6", "test"] for row in _rows(out)
    )


def test_seeds_of_a_file_give_way_to_options(root, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("stages: [3]\ngrid: {SEED: 0..1, SIZES: [[8], [16, 32]]}")
    assert cli.main(["run", "--params", str(path), "--explain"]) == 0
    found = re.findall("seed.*(?=/03)", capsys.readouterr().out)
    assert [name.partition("-sizes")[0] for name in found] == ["seed0", "seed0", "seed1", "seed1"]
    assert len(set(found)) == 4
    only = ["run", "--params", str(path), "--seed", "5", "--set", "SIZES=[8]", "--run", "mine"]
    assert cli.main(only) == 0
    assert [folder.name for folder in (root / "artifacts").iterdir()] == ["mine"]
    assert json.loads((root / "artifacts" / "mine" / "manifest.json").read_text())["seed"] == 5


def test_runs_are_listed_shown_and_removed_only_after_a_yes(root, capsys, monkeypatch):
    assert cli.main(["runs", "list"]) == 0
    assert "no runs yet" in capsys.readouterr().out
    for name in ("one", "two"):
        assert cli.main(["run", "3", "--run", name]) == 0
    capsys.readouterr()
    assert cli.main(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["one", "two", "in"]
    assert all(re.search(r"\d MB  1 of 3 stages", line) for line in lines[:2])
    assert cli.main(["runs", "show", "one"]) == 0
    assert re.search(r"^03_third +[\d.]+ MB  finished 20", capsys.readouterr().out, re.MULTILINE)
    folder = root / "artifacts"
    for answer, left in (("", 2), ("n", 2), ("y", 1)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert cli.main(["runs", "remove", "one"]) == 0
        out = capsys.readouterr().out
        assert str(folder / "one") in out
        assert ("nothing was removed" in out) == (left == 2)
        assert len(list(folder.iterdir())) == left
    assert cli.main(["runs", "prune"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert cli.main(["runs", "prune", "--keep", "0", "--yes"]) == 0
    assert re.search(r"two +[\d.]+ MB\n.*removed [\d.]+ MB", capsys.readouterr().out, re.DOTALL)
    assert not list(folder.iterdir())
    assert cli.main(["runs", "remove", "one"]) == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200)]
)
def test_times(text, expected):
    assert cli._seconds(text) == expected


def test_control_c_before_the_first_stage(root, monkeypatch, capsys):
    def load(source, profile):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", load)
    assert cli.main(["run"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.fixture
def two_runs(root):
    """Two runs, the younger one earlier in the alphabet, with a test row beside its stages."""
    for name, seed in (("b", 0), ("a", 1)):
        run = runs.start(name, profile="smoke", seed=seed, provenance=tiny_course.PROVENANCE)
        scores = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
        for stage in ("02_second", "01_first"):
            result = run.stage(stage).result(n=1234, split="validation", **scores)
            run.stage(stage).save_metrics(result)
        run.stage("03_third").save_metrics(run.stage("03_third").result(n=7))
        measured = run.stage("01_first").result(
            n=99, split="test", parameters=23_456, training_seconds=3.21, **scores
        )
        runs.write_json(run.stage("03_third").folder / "leaderboard.json", [measured])


def _rows(text):
    """Return the cells of the tables' rows."""
    rows = [line for line in text.splitlines() if re.match(r" *\d\d_", line)]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in rows]


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_results_are_whole_at_every_width(two_runs, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["results"]) == 0
    text = capsys.readouterr().out
    rows = _rows(text)
    validation = [["01_first", "a"], ["01_first", "b"], ["02_second", "a"], ["02_second", "b"]]
    means = [
        [name, split] for name, split in (("02_second", "validation"), ("01_first", "validation"))
    ]
    assert [row[:2] for row in rows[:2]] == [["01_first", "a"], ["01_first", "b"]]
    assert sorted(row[:2] for row in rows[2:6]) == validation
    assert sorted(row[:2] for row in rows[6:9]) == sorted([*means, ["01_first", "test"]])
    (gap,) = rows[9:]
    assert gap[:2] == ["01_first", "02_second"]
    assert gap[-3:] == ["2", "+0.00", "[+0.00, +0.00]"]
    assert rows[0][2] == "smoke"
    assert rows[0][-6:] == ["1", "50.00", "[40.00, 60.00]", "99", "23,456", "3.2 s"]
    titles = re.findall(
        r"^ *([\d,]+ (?:test|validation) .*?|means.*?|diff.*?) *$", text, flags=re.MULTILINE
    )
    warning = "synthetic, which say nothing about CIFAR-10"
    assert titles == [
        *(f"99 test images, {warning}", f"1,234 validation images, {warning}"),
        *("means over seeds", "differences over seeds, paired"),
    ]


def test_results_need_no_backend(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))
    run = runs.start("a", profile="cpu", seed=0, provenance=tiny_course.PROVENANCE)
    scores = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    run.stage("02").save_metrics(run.stage("02").result(n=9, split="validation", **scores))
    script = "import sys; from cifar_utils import cli; cli.main(['results'])"
    command = [sys.executable, "-c", f"{script}; print(*sys.modules)"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "02_baseline_cnn" in finished.stdout
    assert not {"keras", "tensorflow", "jax", "sklearn"} & set(finished.stdout.split())


def test_results_of_some_runs(two_runs, capsys):
    assert cli.main(["results", "b"]) == 0
    assert {row[1] for row in _rows(capsys.readouterr().out)} == {"b"}
    assert cli.main(["results", "c"]) == 1
    assert "no run is called 'c'" in capsys.readouterr().err


def test_two_runs_are_compared(two_runs, capsys):
    for name, right in (("a", 60), ("b", 40)):
        logits = np.eye(10, dtype=np.float32)[(np.arange(100) >= right).astype(int)]
        runs.load(name).stage("01_first").save_logits("test", logits, np.zeros(100, int))
    assert cli.main(["results", "b", "a"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ *seed +0 +1 *$", text, flags=re.MULTILINE)
    assert "versions" not in text
    found = re.search(r"01_first +test +40\.00 +60\.00 +\+20\.00 +(\S+, \S+) +different", text)
    assert found


def test_results_as_json_and_csv_are_all_rows(two_runs, capsys):
    assert cli.main(["results", "--json", "a"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["stage"], row["split"], row["n"]) for row in rows] == [
        ("01_first", "validation", 1234),
        ("02_second", "validation", 1234),
        ("03_third", None, 7),
        ("01_first", "test", 99),
    ]
    assert cli.main(["results", "--csv", "a"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["n"] for row in table] == ["1234", "1234", "7", "99"]
    assert table[0]["accuracy"] == "0.5"
    with pytest.raises(SystemExit):
        cli.main(["results", "--csv", "--json"])


def test_results_before_the_first_run(root, capsys):
    assert cli.main(["results"]) == 0
    assert "make some with: cifar run" in capsys.readouterr().out
    assert cli.main(["results", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_data_info_prints_what_data_describes(monkeypatch, capsys):
    monkeypatch.setattr(data, "locate", lambda source: f"located {source}")
    monkeypatch.setattr(data, "load", lambda source: source)
    monkeypatch.setattr(data, "describe", lambda dataset: [("source", dataset), ("n", "60,000")])
    assert cli.main(["data", "info", "some/folder"]) == 0
    assert capsys.readouterr().out == "source  located some/folder\nn       60,000\n"
    assert cli.main(["data", "info"]) == 0
    assert capsys.readouterr().out.startswith("source  located auto\n")


def test_data_fetch_reads_what_it_fetched(monkeypatch, capsys):
    fetched = []

    def fetch(name, mirrors):
        fetched.append((name, mirrors))
        return Path("/data/the archive")

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(data, "load", lambda source: source)
    monkeypatch.setattr(data, "describe", lambda dataset: [("source", str(dataset))])
    assert cli.main(["data", "fetch"]) == 0
    assert capsys.readouterr().out == "\nsource  /data/the archive\n"
    mirrors = ["https://one.example/", "https://two.example/x.tar.gz"]
    options = [word for mirror in mirrors for word in ("--mirror", mirror)]
    assert cli.main(["data", "fetch", "--archive", "x.tar.gz", *options]) == 0
    assert fetched == [(None, []), ("x.tar.gz", mirrors)]


def test_data_fetch_of_a_bad_archive_fails(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(download, "fetch", lambda name, mirrors: tmp_path / "x.tar.gz")
    (tmp_path / "x.tar.gz").write_text("<html>")
    assert cli.main(["data", "fetch"]) == 1
    assert "it looks like a web page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [(DataError("no source"), 1), (ParameterError("no such archive"), 2), (KeyboardInterrupt, 130)],
)
def test_data_fetch_that_fails(monkeypatch, error, status):
    def fail(name, mirrors):
        raise error

    monkeypatch.setattr(download, "fetch", fail)
    assert cli.main(["data", "fetch"]) == status


def test_data_verify_prints_a_line_a_file(monkeypatch, capsys):
    checks = [
        data.Check(Path("/d/data_batch_1"), 30_730_000, "ok", "the official file"),
        data.Check(Path("/d/test_batch"), 512, "modified", "no known checksum"),
    ]
    monkeypatch.setattr(data, "verify", lambda source: checks if source == "d" else None)
    assert cli.main(["data", "verify", "d"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "/d/data_batch_1   30,730,000 bytes  ok (the official file)",
        "/d/test_batch            512 bytes  modified (no known checksum)",
    ]
    assert printed.err == ""


def test_data_verify_fails_where_something_is_damaged(monkeypatch, capsys):
    checks = [
        data.Check(Path("/d/a"), 5, "ok", "the official file"),
        data.Check(Path("/d/b"), 0, "DAMAGED", "/d/b is missing; get it again"),
        data.Check(Path("/d/c"), 7, "DAMAGED", "/d/c is cut; remove it"),
    ]
    monkeypatch.setattr(data, "verify", lambda source: checks)
    assert cli.main(["data", "verify"]) == 1
    printed = capsys.readouterr()
    states = [line.split(" bytes  ")[1] for line in printed.out.splitlines()]
    assert states == ["ok (the official file)", "DAMAGED", "DAMAGED"]
    assert printed.err.splitlines() == [
        "cifar: damaged files: 2 of 3",
        "- /d/b is missing; get it again",
        "- /d/c is cut; remove it",
    ]


def test_fetch_info_and_verify_of_nothing_and_of_an_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(tmp_path / "data"))
    fake_archives.list_source(tmp_path / "nowhere.toml", "http://127.0.0.1:9/", monkeypatch)
    monkeypatch.setattr(archives, "RECORDS_PER_FILE", fake_archives.RECORDS)
    for command in ("info", "verify"):
        assert cli.main(["data", command]) == 1
        assert "get them with: cifar data fetch" in capsys.readouterr().err

    archive = tmp_path / "data" / archives.ARCHIVES["python"]
    fake_archives.pack(archive, fake_archives.members("python", fake_archives.some_records()))
    assert cli.main(["data", "info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"source       {archive} (0.")
    assert lines[2] == (
        "data         modified (no known checksum proves that these are the official files)"
    )
    assert cli.main(["data", "verify", str(archive)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" bytes  ")[2] for line in lines] == [
        "modified (no known checksum)",
        *["ok (as it was written, by its sha256)"] * 3,
    ]


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("cifar")
    finished = subprocess.run([command, "run", "--help"], capture_output=True, text=True)
    assert finished.returncode == 0
    assert finished.stdout.startswith("usage: cifar run")
