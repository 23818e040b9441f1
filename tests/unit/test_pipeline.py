import contextlib
import copy
import html.parser
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from cifar_utils import paths, pipeline, profiles, report, runs
from cifar_utils.errors import ParameterError, RunError
from tests.unit import tiny_course

NAME = "smoke-synthetic-seed0"
SOURCES = pipeline._sources


def run(stages=(), **options):
    """Run stages of the installed course and return what was printed."""
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        pipeline.run(pipeline.select(list(stages)), **options)
    return log.getvalue()


def fails(stages=(), **options):
    """Run stages, one of which must fail, and return the message."""
    with pytest.raises(RunError) as caught:
        run(stages, **options)
    return str(caught.value)


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = tmp_path / "a {course} with spaces"
    for stage in tiny_course.STAGES:
        tiny_course.write(root, stage)
    tiny_course.install(root, monkeypatch.setattr)
    monkeypatch.delenv("CIFAR_UTILS_PROFILE", raising=False)
    monkeypatch.delenv("CIFAR_UTILS_RESNET50_WEIGHTS", raising=False)
    return root


@pytest.fixture
def folder(root):
    return root / "artifacts" / NAME


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of two stages, made where the registered python3 kernel is broken."""
    root = tmp_path_factory.mktemp("a {course} with spaces")
    body = (
        "print('epoch  1/2  loss 1.234')\nprint('chatter')\nprint('epoch  2/2  loss 0.9')\n"
        "import os, sys\nos.write(2, b'native noise')\nprint('a warning', file=sys.stderr)"
    )
    tiny_course.write(root, "01_first", body)
    tiny_course.write(root, "02_second")
    spec = root / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    stale = {"argv": ["/gone/python"], "display_name": "stale", "language": "python"}
    spec.write_text(json.dumps(stale))
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        tiny_course.install(root, patch.setattr)
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        patch.setenv("MPLBACKEND", "TkAgg")
        patch.delenv("PYTHONHASHSEED", raising=False)
        patch.chdir(elsewhere)
        assert KernelSpecManager().get_kernel_spec("python3").argv == ["/gone/python"]
        before = dict(os.environ)
        settings = ["EPOCHS=-3", "RATE=1", "SIZES=[8]", "WEIGHTS=none", "FLIP=false"]
        log = run(["1", "2"], settings=settings)
        assert dict(os.environ) == before
        assert Path.cwd() == elsewhere
        yield root / "artifacts" / NAME, log, settings


def test_progress_in_a_log_file(done):
    _, log, _ = done
    lines = log.splitlines()
    assert lines[:3] == [
        f"run       {NAME}",
        "profile   smoke (chosen by auto)",
        "data      synthetic: 1,400 train, 300 validation, 300 test images",
    ]
    stage = lines[lines.index("[1/2] 01_first") : lines.index("[2/2] 02_second")]
    # Neither times nor cells that only pass by, and no more than the notebook's epoch lines.
    assert [re.sub(r"^ +\d+:\d\d  ", "> ", line) for line in stage[1:-1]] == [
        "> cell  4/11  ## Parameters",
        "> cell  8/11  ## 1. Train the network",
        "> epoch  1/2  loss 1.234",
        "> epoch  2/2  loss 0.9",
        "> cell 11/11  ## Results",
    ]
    assert re.fullmatch(r"        done in [\d.]+ s", stage[-1])
    assert "\r" not in log and "\x1b" not in log


def test_what_a_stage_leaves(done):
    folder, _, _ = done
    assert {path.name for path in (folder / "01_first").iterdir()} == {
        *("notebook.ipynb", "report.html", "metrics.json", "stage.json"),
        *("figures", "model.keras", "MODEL_CARD.md"),
    }
    assert {path.name for path in folder.iterdir()} == {
        *("01_first", "02_second", "manifest.json", "report.html", ".lock"),
    }


def test_parameters_reach_the_notebook_with_their_types(done):
    folder, _, _ = done
    metrics = json.loads((folder / "01_first" / "metrics.json").read_text())
    assert metrics["given"] == [-3, 1.0, "(8,)", "none", False, "synthetic"]
    assert isinstance(metrics["given"][1], float)
    assert (metrics["run"], metrics["profile"], metrics["seed"]) == (NAME, "smoke", 0)
    recorded = json.loads((folder / "01_first" / "stage.json").read_text())["parameters"]
    assert recorded["EPOCHS"] == -3


def test_values_derived_from_parameters_are_not_stale(done):
    folder, _, _ = done
    assert json.loads((folder / "01_first" / "metrics.json").read_text())["derived"] == -30


def test_the_kernel_is_this_interpreter_in_a_folder_of_its_own(done):
    folder, _, _ = done
    metrics = json.loads((folder / "01_first" / "metrics.json").read_text())
    assert metrics["python"] == sys.executable
    assert Path(metrics["cwd"]).parent.name.startswith("cifar-")
    assert metrics["environment"]["PYTHONHASHSEED"] == "0"
    assert metrics["environment"]["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"
    assert metrics["environment"]["CIFAR_UTILS_LIVE"] == "0"


class Page(html.parser.HTMLParser):
    """Collects what a page loads and links to, and refuses tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "link", "img", "iframe"):
            self.loads.append(given.get("src") or given.get("href"))
        if tag == "a":
            self.links.append(given["href"])
        if tag not in ("meta", "link", "img", "br", "hr", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_of_a_run_links_to_its_notebooks(done):
    folder, _, _ = done
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert all((folder / unquote(target)).is_file() for target in page.links)
    assert "01_first/report.html" in page.links
    assert "01 · The first notebook" in text
    assert re.search(r"50\.00% <span[^>]*>\[47\.00, 53\.00\]", text)
    assert "Synthetic data." in text


def test_a_stage_report_needs_no_network(done):
    folder, _, _ = done
    text = (folder / "02_second" / "report.html").read_text()
    assert "Train the network" in text
    assert "<script" not in text
    assert "badge" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(["']?http""", text)


def test_native_noise_stays_out_of_the_notebook(done):
    folder, _, _ = done
    text = (folder / "01_first" / "notebook.ipynb").read_text()
    outputs = [
        output
        for cell in json.loads(text)["cells"]
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert ["".join(output["text"]) for output in outputs] == ["a warning\n"]


def test_finished_stages_are_not_run_again(done):
    folder, _, settings = done
    before = (folder / "01_first" / "notebook.ipynb").stat().st_mtime_ns
    log = run(["1", "2"], settings=settings)
    assert re.search(r"^\[1/2\] 01_first  already finished \([\d.]+ s\), reusing$", log, re.M)
    assert "[2/2] 02_second  already finished" in log
    assert (folder / "01_first" / "notebook.ipynb").stat().st_mtime_ns == before


def test_other_settings_run_a_stage_again_and_what_builds_on_it(root, folder):
    run(["1", "2"], settings=["EPOCHS=5"])
    assert "[1/1] 01_first\n" in run(["1"])
    assert (folder / "01_first" / "model.keras").read_text() == "2"
    # A stage made with settings of its own is as good as any for those that build on it.
    log = run(["2"], settings=["EPOCHS=5"])
    assert "[1/1] 02_second\n" in log
    assert "note:" not in log
    tiny_course.write(root, "01_first", "changed = True")
    log = run(["2"], settings=["EPOCHS=5"])
    assert "note: 01_first is from before its code, settings or inputs changed; run it" in log
    assert "[1/1] 02_second  already finished" in log


@pytest.fixture
def stage(root):
    """A stage that builds on another one, both opened but neither run."""
    provenance = copy.deepcopy(tiny_course.PROVENANCE)
    opened = runs.start("auto", profile="smoke", seed=0, provenance=provenance)
    first = opened.stage("01_first")
    first.folder.mkdir()
    for name in runs.LEFT_BEHIND:
        (first.folder / name).touch()
    runs.write_json(first.folder / "stage.json", {"fingerprint": "1", "finished": "now"})
    return opened.stage("02_second")


def _change_notebook(stage, values, monkeypatch):
    tiny_course.write(pipeline.notebook("x").parent.parent, stage.name, "other = 1")


def _change_parameter(stage, values, monkeypatch):
    values["EPOCHS"] = 3


def _change_data(stage, values, monkeypatch):
    stage.run.manifest["data"]["fingerprint"] = "0" * 64


def _change_profile(stage, values, monkeypatch):
    changed = replace(profiles.PROFILES["smoke"], cnn_epochs=99)
    monkeypatch.setitem(profiles.PROFILES, "smoke", changed)


def _change_library(stage, values, monkeypatch):
    monkeypatch.setattr(pipeline, "_sources", lambda: "another library")


def _change_versions(stage, values, monkeypatch):
    monkeypatch.setattr(pipeline.runtime, "versions", lambda: {"keras": "0"})


def _change_backend(stage, values, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "another")


def _change_devices(stage, values, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_DEVICES", "2")


def _change_hosts(stage, values, monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")


def _change_upstream(stage, values, monkeypatch):
    again = {"fingerprint": "1", "finished": "later"}
    runs.write_json(stage.folder.with_name("01_first") / "stage.json", again)


def _change_weights(stage, values, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_RESNET50_WEIGHTS", "none")


@pytest.mark.parametrize(
    "change",
    [
        _change_notebook,
        _change_parameter,
        _change_data,
        _change_profile,
        _change_library,
        _change_versions,
        _change_backend,
        _change_devices,
        _change_hosts,
        _change_upstream,
        _change_weights,
    ],
)
def test_the_fingerprint_notices(stage, monkeypatch, change):
    values = pipeline.parameters(pipeline.notebook(stage.name))
    before = pipeline.fingerprint(stage, values)
    assert pipeline.fingerprint(stage, values) == before
    change(stage, values, monkeypatch)
    assert pipeline.fingerprint(stage, values) != before


def test_the_library_is_all_of_its_modules(monkeypatch):
    source = Path(pipeline.__file__).parent
    files = {path: path.read_bytes() for path in source.rglob("*.py")}
    monkeypatch.setattr(Path, "read_bytes", lambda path: files[path])
    before = SOURCES()
    for path in files:
        files[path] += b"\n"
        assert SOURCES() != before
        before = SOURCES()


def test_the_fingerprint_does_not_depend_on_places(stage):
    values = pipeline.parameters(pipeline.notebook(stage.name))
    before = pipeline.fingerprint(stage, values)
    assert pipeline.fingerprint(stage, values | {"DATA": "/elsewhere", "RUN": "x"}) == before


def test_the_fingerprint_notices_another_weights_file(stage, tmp_path, monkeypatch):
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"one")
    values = {"WEIGHTS": str(weights)}
    before = pipeline.fingerprint(stage, values)
    weights.write_bytes(b"other")
    assert pipeline.fingerprint(stage, values) != before


def test_a_weights_file_is_found_from_any_folder(stage, tmp_path, monkeypatch):
    (tmp_path / "weights.h5").touch()
    monkeypatch.chdir(tmp_path)
    request = pipeline._Request(stage.run, [], False)
    values = request.values(stage.name, {"WEIGHTS": "weights.h5"})
    assert values["WEIGHTS"] == str(tmp_path / "weights.h5")
    assert request.values(stage.name, {"WEIGHTS": "none"})["WEIGHTS"] == "none"


def test_a_failing_cell_says_where_why_and_how_to_go_on(root, folder):
    tiny_course.write(root, "02_second", "raise ValueError('\\x1b[31mno such thing\\x1b[0m')")
    message = fails(settings=["EPOCHS=5", "WEIGHTS=a b"])
    assert message == (
        "02_second failed in cell 9 of 11, under '## 1. Train the network'\n"
        "ValueError: no such thing\n"
        f"as far as it got: {folder / '02_second' / 'failed.ipynb'}\n"
        "go on with: cifar run --from 02 --profile smoke --data synthetic --seed 0 "
        f"--run {NAME} --set EPOCHS=5 --set 'WEIGHTS=a b'"
    )
    assert "no such thing" in (folder / "02_second" / "failed.ipynb").read_text()
    assert not (folder / "02_second" / "stage.json").exists()
    assert not (folder / "03_third").exists()
    assert "01 · The first notebook" in (folder / "report.html").read_text()

    tiny_course.write(root, "02_second")
    log = run(["1", "2"], settings=["EPOCHS=5", "WEIGHTS=a b"])
    assert "[1/2] 01_first  already finished" in log
    assert "[2/2] 02_second\n" in log
    assert not (folder / "02_second" / "failed.ipynb").exists()


def test_a_failing_rerun_leaves_the_earlier_results(root, folder):
    run(["1"])
    before = {path: path.read_bytes() for path in (folder / "01_first").iterdir() if path.is_file()}
    tiny_course.write(root, "01_first", "1 / 0")
    message = fails(["1"])
    assert "ZeroDivisionError" in message
    assert "the results of its earlier run are kept" in message
    after = {path: path.read_bytes() for path in (folder / "01_first").iterdir() if path.is_file()}
    assert after.pop(folder / "01_first" / "failed.ipynb")
    assert after == before
    tiny_course.write(root, "01_first")
    assert "already finished" in run(["1"])


@pytest.mark.parametrize(
    "death", ["os._exit(1)", "os.kill(os.getpid(), 9)"], ids=["exits", "is killed"]
)
def test_a_dying_kernel_is_a_failure(root, folder, death):
    tiny_course.write(root, "03_third", f"import os\nos.write(2, b'last words')\n{death}")
    message = fails(["3"])
    assert "03_third failed in cell 9 of 11" in message
    assert "the kernel died" in message
    assert "last words" in message
    assert (folder / "03_third" / "failed.ipynb").is_file()


def test_a_notebook_must_save_its_metrics(root, folder):
    body = "import pathlib\npathlib.Path.write_text = lambda *_: None"
    tiny_course.write(root, "03_third", body)
    assert "ended without saving its metrics" in fails(["3"])
    assert not (folder / "03_third" / "notebook.ipynb").exists()


def test_a_slow_cell_says_that_it_still_runs(root, monkeypatch):
    monkeypatch.setattr(pipeline, "SILENCE", 0.2)
    tiny_course.write(root, "03_third", "import time\ntime.sleep(2)")
    log = run(["3"])
    assert "cell  9/11  ## 1. Train the network  still running" in log


def _start(root, *arguments):
    """Start the command on the course and return it once stage 02 is in its endless cell."""
    waiting = root / "waiting"
    endless = f"from pathlib import Path\nimport os, time\nPath({str(waiting)!r}).write_text("
    tiny_course.write(root, "02_second", endless + "str(os.getpid()))\ntime.sleep(600)")
    command = [sys.executable, tiny_course.__file__, str(root), "run", *arguments]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (waiting.is_file() and waiting.read_text()):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.05)
    return started, int(waiting.read_text())


def _gone(pid):
    """Return whether a process ends within some seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_killed_command_is_resumed_at_the_stage_that_did_not_finish(root, folder):
    started, kernel = _start(root, "1", "2")
    started.kill()
    started.communicate()
    assert _gone(kernel)
    assert not (folder / "02_second" / "stage.json").exists()
    tiny_course.write(root, "02_second")
    log = run(["1", "2"])
    assert "[1/2] 01_first  already finished" in log
    assert "[2/2] 02_second\n" in log
    assert (folder / "02_second" / "notebook.ipynb").is_file()


KEEPS = """
import os
from pathlib import Path
backup = Path(os.environ["CIFAR_UTILS_ARTIFACTS_DIR"]) / RUN / f".{STAGE}.backup"
backup.mkdir(exist_ok=True)
print("epochs done:", len(list(backup.iterdir())))
(backup / str(len(list(backup.iterdir())))).touch()
"""


def test_the_state_of_a_training_survives_a_failure_and_no_success(root, folder):
    def epochs():
        cells = json.loads((folder / "01_first" / "notebook.ipynb").read_text())["cells"]
        texts = ["".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", [])]
        return int("".join(texts).split("epochs done: ")[1].split()[0])

    tiny_course.write(root, "01_first", KEEPS + "raise RuntimeError('killed')")
    for _ in range(2):
        with pytest.raises(RunError, match="killed"):
            run(["1"])
    backup = folder / ".01_first.backup"
    assert runs.load(NAME).stage("02").backup == runs.load(NAME).folder / ".02_second.backup"
    assert len(list(backup.iterdir())) == 2
    tiny_course.write(root, "01_first", KEEPS)
    run(["1"])
    assert epochs() == 2
    assert not backup.exists()
    backup.mkdir()
    (backup / "old").touch()
    run(["1"], fresh=True)
    assert epochs() == 0


def test_control_c_stops_the_kernel_and_says_how_to_go_on(root, folder):
    started, kernel = _start(root, "1", "2", "--set", "EPOCHS=4")
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert errors == (
        "cifar: interrupted in 02_second\ngo on with: cifar run 02 --profile smoke "
        f"--data synthetic --seed 0 --run {NAME} --set EPOCHS=4\n"
    )
    assert _gone(kernel)
    assert not (folder / "02_second" / "failed.ipynb").exists()


def test_earlier_results_come_back_after_a_kill(stage):
    aside = pipeline._aside(stage)
    aside.mkdir()
    (aside / "metrics.json").write_text("{}")
    stage.folder.mkdir()
    (stage.folder / "half done").touch()
    pipeline._recover(stage)
    assert [path.name for path in stage.folder.iterdir()] == ["metrics.json"]
    assert not aside.exists()


def test_a_stage_that_did_finish_survives_a_kill_during_the_clean_up(stage):
    first = stage.run.stage("01_first")
    pipeline._aside(first).mkdir()
    (pipeline._aside(first) / "metrics.json").write_text("{}")
    pipeline._recover(first)
    assert (first.folder / "stage.json").is_file()
    assert not pipeline._aside(first).exists()


def test_two_commands_do_not_write_to_one_run(root, folder):
    runs.start("auto", profile="smoke", seed=0, provenance=tiny_course.PROVENANCE)
    with pipeline._alone(folder):
        assert "another `cifar run` is writing" in fails(["3"])


def test_a_missing_upstream_stage_is_refused_before_anything_runs(root, folder):
    assert fails(["2", "3"]).endswith(
        f"02_second builds on 01_first, not finished in run {NAME!r}; run that first, with: "
        f"cifar run 01 --profile smoke --data synthetic --seed 0 --run {NAME}"
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("names", "first", "expected"),
    [
        ([], None, ["01_first", "02_second", "03_third"]),
        (["third", "01"], None, ["01_first", "03_third"]),
        (["2", "02_second"], None, ["02_second"]),
        ([], "2", ["02_second", "03_third"]),
    ],
)
def test_select(root, names, first, expected):
    assert pipeline.select(names, first) == expected


def test_select_refuses_two_ways_at_once(root):
    with pytest.raises(ParameterError, match="not both"):
        pipeline.select(["1"], "2")


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("7", 1, 7),
        ("-7", 1, -7),
        ("7", 1.0, 7.0),
        ("1e-4", 1.0, 0.0001),
        ("False", True, False),
        ("true", False, True),
        ("none", "auto", "none"),
        ("7", "auto", "7"),
        ("a=b", "auto", "a=b"),
        ("(1, 2)", (3,), (1, 2)),
        ("1,2", [3], [1, 2]),
        ("[1, 2.5]", (0.5,), (1, 2.5)),
        ("3", None, 3),
    ],
)
def test_convert(text, default, expected):
    value = pipeline.convert("NAME", text, default)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("1.5", 1, "expected an integer, such as 1"),
        ("true", 1, "expected an integer"),
        ("1", True, "expected true or false, such as True"),
        ("many", 0.5, "expected a number, such as 0.5"),
        ("nan", 0.5, "expected a number"),
        ("3", (1, 2), r"expected a tuple, such as \(1, 2\)"),
        ("(1, 'a')", (1, 2), "expected a tuple"),
        ("(True,)", (1, 2), "expected a tuple"),
        ("(1,", (1, 2), "expected a tuple"),
        ("[1]", {"a": 1}, "expected a dict"),
    ],
)
def test_convert_refuses(text, default, expected):
    with pytest.raises(ParameterError, match=expected):
        pipeline.convert("NAME", text, default)


def test_a_setting_goes_to_every_stage_that_has_it(root):
    tiny_course.write(root, "03_third", parameters='WORD = "a"\nEPOCHS = 1.5')
    given = pipeline.assign(["EPOCHS=3", "WORD=b", "WORD=c"], ["01_first", "03_third"])
    assert given == {"01_first": {"EPOCHS": 3}, "03_third": {"EPOCHS": 3.0, "WORD": "c"}}
    assert type(given["03_third"]["EPOCHS"]) is float


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("EPOCH=3", "no stage asked for has a parameter 'EPOCH'; did you mean 'EPOCHS'"),
        ("epochs=3", "did you mean 'EPOCHS'"),
        ("EPOCHS", "expected NAME=VALUE"),
        ("EPOCHS=x", "expected an integer"),
        ("PROFILE=cpu", "use --profile cpu"),
        ("RUN=mine", "use --run mine"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(root, folder, setting, expected):
    with pytest.raises(ParameterError, match=expected):
        run(["1"], settings=[setting])
    assert not folder.exists()


def test_only_parameters_that_the_notebook_has_are_passed(stage, root):
    tiny_course.write(root, "02_second", parameters="SEED = 1\nEPOCHS = 2")
    request = pipeline._Request(stage.run, [], False)
    assert request.values("02_second", {}) == {"SEED": 0, "EPOCHS": 2}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("EPOCHS: int = 2", "line 1 is not of the form NAME = literal"),
        ("EPOCHS = 2\nSTEPS = EPOCHS * 2", "cannot be read"),
        ("import os", "line 1 is not of the form"),
        ("A, B = 1, 2", "does not set a plain name"),
        ("A = (", "cannot be read"),
    ],
)
def test_a_parameters_cell_holds_literals_only(root, parameters, expected):
    tiny_course.write(root, "01_first", parameters=parameters)
    with pytest.raises(RunError, match=expected):
        pipeline.parameters(pipeline.notebook("01_first"))


def test_missing_and_damaged_notebooks(root):
    path = pipeline.notebook("01_first")
    path.write_text("{}")
    with pytest.raises(RunError, match="is not a notebook"):
        pipeline.parameters(path)
    path.unlink()
    with pytest.raises(RunError, match="is missing"):
        pipeline.parameters(path)


def test_the_resume_command_names_what_is_left(stage, root):
    request = pipeline._Request(stage.run, ["EPOCHS=1", "WORD=x"], True)
    options = stage.run.options()
    assert request.command(["02_second", "03_third"]) == (
        f"cifar run --from 02 {options} --set EPOCHS=1 --fresh"
    )
    assert request.command(["02_second"]).startswith(f"cifar run 02 {options}")
    assert request.command(list(tiny_course.STAGES)).startswith(f"cifar run {options}")


def test_the_page_of_a_run_without_stages(stage):
    stage.folder.with_name("01_first").joinpath("stage.json").unlink()
    stage.folder.with_name("01_first").joinpath("metrics.json").unlink()
    stage.run.manifest["data"]["kind"] = "modified"
    path = report.write(stage.run)
    Page(path.read_text())
    assert "No stage of this run has finished yet." in path.read_text()
    assert "Modified data." in path.read_text()
    assert path == paths.artifacts_dir() / NAME / "report.html"
