import contextlib
import html.parser
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager

from cifar_utils import (
    execution,
    housekeeping,
    jobs,
    paths,
    pipeline,
    progress,
    report,
    reruns,
    runs,
    stages,
)
from cifar_utils.errors import (
    CellError,
    CellTimeoutError,
    CifarUtilsError,
    DiskFullError,
    KernelDiedError,
    MemoryRanOutError,
    NoGpuError,
    ParameterError,
    RunError,
    UpstreamError,
)
from tests.unit import tiny_course

NAME = "smoke-synthetic-seed0"


def request(stages=(), **options):
    return pipeline.Request(pipeline.select(list(stages)), **options)


def run(stages=(), **options):
    """Run stages of the installed course and return what was printed."""
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        pipeline.run(request(stages, **options))
    return log.getvalue()


def fails(stages=(), **options):
    """Run stages, one of which must fail, and return the message."""
    with pytest.raises(RunError) as caught:
        run(stages, **options)
    fails.kind = type(caught.value)
    return str(caught.value)


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
        *("notebook.ipynb", "report.html", "metrics.json", "stage.json", "facts.json"),
        *("figures", "model.keras", "MODEL_CARD.md"),
    }
    assert {path.name for path in folder.iterdir()} == {
        *("01_first", "02_second", "manifest.json", "events.jsonl", "report.html", ".lock"),
    }


def test_parameters_reach_the_notebook_with_their_types(done):
    folder, _, _ = done
    facts = json.loads((folder / "01_first" / "facts.json").read_text())
    assert facts["given"] == [-3, 1.0, "(8,)", "none", False, "synthetic"]
    assert isinstance(facts["given"][1], float)
    metrics = json.loads((folder / "01_first" / "metrics.json").read_text())
    assert (metrics["run"], metrics["profile"], metrics["seed"]) == (NAME, "smoke", 0)
    recorded = json.loads((folder / "01_first" / "stage.json").read_text())
    assert recorded["parameters"]["EPOCHS"] == -3


def test_a_stage_says_which_code_and_versions_made_it(done):
    folder, _, _ = done
    recorded = json.loads((folder / "01_first" / "stage.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert recorded["versions"] == manifest["versions"]
    assert recorded["git_commit"] == manifest["git_commit"]


def test_values_derived_from_parameters_are_not_stale(done):
    folder, _, _ = done
    assert json.loads((folder / "01_first" / "metrics.json").read_text())["derived"] == -30


def test_the_kernel_is_this_interpreter_in_a_folder_of_its_own(done):
    folder, _, _ = done
    facts = json.loads((folder / "01_first" / "facts.json").read_text())
    assert facts["python"] == sys.executable
    assert Path(facts["cwd"]).parent.name.startswith("cifar-")
    assert facts["environment"]["PYTHONHASHSEED"] == "0"
    assert facts["environment"]["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"
    assert facts["environment"]["CIFAR_UTILS_LIVE"] == "0"


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
    assert "note: 01_first is from before something changed (notebook changed);" in log
    assert f"run it again with: cifar run 01 {runs.load(NAME).options()}\n" in log
    assert "[1/1] 02_second  already finished" in log


@pytest.mark.parametrize("name", ["WEIGHTS", "RECIPE", "SPACE"])
def test_a_file_is_found_from_any_folder(name, stage, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    plan = pipeline._Plan(stage.run, request(), {})
    assert plan.values(stage.name, {name: "file"})[name] == str(tmp_path / "file")
    assert plan.values(stage.name, {name: "none"})[name] == "none"


def test_a_new_journal_is_written_where_it_was_asked_for(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = pipeline._Plan(stage.run, request(), {})
    for given, meant in {
        "new.journal": str(tmp_path / "new.journal"),
        "postgresql://user@host/name": "postgresql://user@host/name",
        "": "",
    }.items():
        assert plan.values(stage.name, {"STORAGE": given})["STORAGE"] == meant


def test_a_missing_recipe_is_refused_before_anything_runs(root, folder, monkeypatch):
    given = {"01_first": {"RECIPE": "nowhere.json"}}
    monkeypatch.setattr(pipeline.parameters, "assign", lambda *arguments: given)
    with pytest.raises(ParameterError, match=r"RECIPE=nowhere\.json: no such file"):
        run(["1"])
    assert not folder.exists()


def test_a_recipe_may_be_a_name(root, monkeypatch):
    given = {"01_first": {"RECIPE": "long"}}
    monkeypatch.setattr(pipeline.parameters, "assign", lambda *arguments: given)
    pipeline._prepare(request(["1"]))
    given["01_first"]["RECIPE"] = "lnog"
    with pytest.raises(ParameterError, match=r"RECIPE=lnog: no such file.*did you mean 'long'"):
        pipeline._prepare(request(["1"]))


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
    assert fails.kind is CellError
    assert "no such thing" in (folder / "02_second" / "failed.ipynb").read_text()
    assert "raise ValueError" in (folder / "02_second" / "traceback.txt").read_text()
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
    assert after.pop(folder / "01_first" / "traceback.txt")
    assert after == before
    tiny_course.write(root, "01_first")
    assert "already finished" in run(["1"])


@pytest.mark.parametrize(
    ("death", "how"),
    [("os._exit(7)", "ended with exit status 7"), ("os.kill(os.getpid(), 9)", "by SIGKILL")],
    ids=["exits", "is killed"],
)
def test_a_dying_kernel_is_a_failure(root, folder, death, how):
    tiny_course.write(root, "03_third", f"import os\nos.write(2, b'last words')\n{death}")
    message = fails(["3"])
    assert "03_third failed in cell 9 of 11" in message
    assert "the kernel died" in message and how in message
    assert fails.kind is KernelDiedError
    assert "last words" in message
    assert (folder / "03_third" / "failed.ipynb").is_file()


def test_a_notebook_must_save_its_metrics(root, folder):
    body = "import pathlib\npathlib.Path.write_text = lambda *_: None"
    tiny_course.write(root, "03_third", body)
    assert "ended without saving its metrics" in fails(["3"])
    assert not (folder / "03_third" / "notebook.ipynb").exists()


def test_a_slow_cell_says_that_it_still_runs(root, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE", 0.2)
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
backup = Path(os.environ["CIFAR_UTILS_ARTIFACTS_DIR"]) / RUN / f".{STAGE}.backup" / "main"
backup.mkdir(exist_ok=True)
print("epochs done:", len(list(backup.iterdir())))
if not list(backup.iterdir()):
    (backup / "first").touch()
"""


def test_the_state_of_a_training_survives_a_failure_and_no_success(root, folder):
    def epochs():
        cells = json.loads((folder / "01_first" / "notebook.ipynb").read_text())["cells"]
        texts = ["".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", [])]
        return int("".join(texts).split("epochs done: ")[1].split()[0])

    tiny_course.write(root, "01_first", "raise RuntimeError('killed')", before=KEEPS)
    for _ in range(2):
        with pytest.raises(RunError, match="killed"):
            run(["1"])
    backup = folder / ".01_first.backup"
    assert runs.load(NAME).stage("02").backup == runs.load(NAME).folder / ".02_second.backup"
    assert (backup / "main" / "first").is_file()
    tiny_course.write(root, "01_first", "'mended'", before=KEEPS)
    assert "is not used" not in run(["1"])
    assert epochs() == 1
    assert not backup.exists()
    backup.mkdir()
    (backup / "old").touch()
    run(["1"], fresh=True)
    assert epochs() == 0


@pytest.mark.parametrize(
    ("settings", "cell", "fails_in", "why"),
    [
        (["EPOCHS=3"], KEEPS, "body", "parameter EPOCHS was 2, is 3"),
        ([], KEEPS + "other = 1", "body", "a cell changed that had run already"),
        ([], KEEPS + "other = 1", "before", "its cell changed"),
    ],
)
def test_the_state_of_a_training_of_something_else_is_not_used(
    root, folder, settings, cell, fails_in, why
):
    failing = {"before": KEEPS, "body": "pass"}
    failing[fails_in] += "\nraise RuntimeError('killed')"
    tiny_course.write(root, "01_first", **failing)
    fails(["1"])
    tiny_course.write(root, "01_first", before=cell)
    log = run(["1"], settings=settings)
    assert f"what an earlier attempt had trained is not used: {why}\n" in log
    assert "epochs done: 0" in (folder / "01_first" / "notebook.ipynb").read_text()


def test_control_c_stops_the_kernel_and_says_how_to_go_on(root, folder):
    started, kernel = _start(root, "1", "2", "--set", "EPOCHS=4")
    started.send_signal(signal.SIGINT)
    time.sleep(1)
    assert started.poll() is None  # it lets the cell come to its end
    started.send_signal(signal.SIGINT)
    output, errors = started.communicate(timeout=60)
    assert "stopping after this epoch, or cell; Ctrl-C again stops at once" in output
    assert started.returncode == 130
    assert errors == (
        "cifar: interrupted in 02_second\ngo on with: cifar run 02 --profile smoke "
        f"--data synthetic --seed 0 --run {NAME} --set EPOCHS=4\n"
    )
    assert _gone(kernel)
    assert not (folder / "02_second" / "failed.ipynb").exists()


def test_earlier_results_come_back_after_a_kill(stage):
    aside = stages._aside(stage)
    aside.mkdir()
    (aside / "metrics.json").write_text("{}")
    stage.folder.mkdir()
    (stage.folder / "half done").touch()
    stages.recover(stage)
    assert [path.name for path in stage.folder.iterdir()] == ["metrics.json"]
    assert not aside.exists()


def test_a_stage_that_did_finish_survives_a_kill_during_the_clean_up(stage):
    first = stage.run.stage("01_first")
    stages._aside(first).mkdir()
    (stages._aside(first) / "metrics.json").write_text("{}")
    stages.recover(first)
    assert (first.folder / "stage.json").is_file()
    assert not stages._aside(first).exists()


def test_two_commands_do_not_write_to_one_run(root, folder):
    runs.start("auto", profile="smoke", seed=0, provenance=tiny_course.PROVENANCE)
    with runs.alone(folder):
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
    plan = pipeline._Plan(stage.run, request(), {})
    assert plan.values("02_second", {}) == {"SEED": 0, "EPOCHS": 2}


def test_the_resume_command_names_what_is_left(stage, root):
    asked = request(
        jobs=2,
        gpu=True,
        cell_seconds=90,
        memory=2_500_000_000,
        keep_going=True,
        settings=("EPOCHS=1", "WORD=x"),
        file="a file.yaml",
    )
    plan = pipeline._Plan(stage.run, asked, {})
    options = stage.run.options()
    assert plan.command(["02_second", "03_third"]) == (
        f"cifar run --from 02 {options} --params 'a file.yaml' --set EPOCHS=1 --cell-timeout 90 "
        "--jobs 2 --memory 2.5 --gpu --keep-going"
    )
    assert plan.command(["02_second"]).startswith(f"cifar run 02 {options}")
    again = pipeline._Plan(stage.run, request(repeats="other"), {})
    assert again.command(["02_second"]) == f"cifar rerun other --as {NAME}"
    assert plan.command(list(tiny_course.STAGES)).startswith(f"cifar run {options}")


def test_the_page_of_a_run_without_stages(stage):
    stage.folder.with_name("01_first").joinpath("stage.json").unlink()
    stage.folder.with_name("01_first").joinpath("metrics.json").unlink()
    stage.run.manifest["data"]["kind"] = "modified"
    path = report.write(stage.run)
    Page(path.read_text())
    assert "No stage of this run has finished yet." in path.read_text()
    assert "Modified data." in path.read_text()
    assert path == paths.artifacts_dir() / NAME / "report.html"


def test_a_cell_that_takes_too_long(root, folder):
    tiny_course.write(root, "03_third", "import time\ntime.sleep(60)")
    message = fails(["3"], cell_seconds=1)
    assert fails.kind is CellTimeoutError
    assert "the cell took longer than 1 s; allow it more with --cell-timeout" in message
    assert message.endswith("--cell-timeout 1")
    assert (folder / "03_third" / "failed.ipynb").is_file()


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("raise OSError(28, 'No space left on device')", DiskFullError, "the disk is full"),
        ("raise MemoryError('1 TB')", MemoryRanOutError, "--jobs"),
        (
            "from cifar_utils.errors import CifarUtilsError\n"
            "raise CifarUtilsError('memory ran out while training; lower batch_size')",
            MemoryRanOutError,
            "lower batch_size",
        ),
        (
            "from cifar_utils.errors import RunError\n"
            "raise RunError('x.keras is missing; make it with: cifar run 01')",
            UpstreamError,
            "cifar run 01",
        ),
    ],
)
def test_failures_are_told_apart(root, body, kind, words):
    tiny_course.write(root, "03_third", body)
    assert words in fails(["3"])
    assert fails.kind is kind
    assert len({error.status for error in (kind, CellError, RunError, KernelDiedError)}) == 4


def test_a_kernel_that_linux_killed_for_memory_is_told_apart(root, monkeypatch):
    kills = iter((3, 4))
    monkeypatch.setattr(execution, "memory_kills", lambda: next(kills))
    tiny_course.write(root, "03_third", "import os\nos.kill(os.getpid(), 9)")
    assert "the system killed the kernel because memory ran out (it held" in fails(["3"])
    assert fails.kind is MemoryRanOutError


def test_linux_says_how_many_processes_it_killed_for_memory():
    assert isinstance(execution.memory_kills(), int)


def test_a_full_disk_keeps_earlier_results(root, folder, monkeypatch):
    run(["1"])
    before = (folder / "01_first" / "stage.json").read_bytes()
    tiny_course.write(root, "01_first", "changed = 1")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "_render", full)
        assert "the disk is full" in fails(["1"])
    assert fails.kind is DiskFullError
    assert (folder / "01_first" / "stage.json").read_bytes() == before
    assert "[1/1] 01_first\n" in run(["1"])


def test_too_little_room_is_refused_before_anything_runs(root, folder, monkeypatch):
    monkeypatch.setitem(housekeeping.ROOM, "smoke", 10**18)
    assert "free some, for example with: cifar runs prune" in fails(["3"])
    assert fails.kind is DiskFullError
    assert not folder.exists()


def test_a_missing_gpu_is_refused_where_one_is_asked_for(root, folder, monkeypatch):
    monkeypatch.setattr(pipeline.runtime, "has_gpu", lambda: False)
    with pytest.raises(NoGpuError, match="the Keras backend finds no GPU here"):
        run(["3"], gpu=True)
    assert not folder.exists()
    monkeypatch.setattr(pipeline.runtime, "has_gpu", lambda: True)
    monkeypatch.setattr(pipeline.runtime, "hardware", lambda: "a GPU")
    assert "done in" in run(["3"], gpu=True)


def test_keeping_going_runs_what_does_not_build_on_the_failed_stage(root, folder):
    tiny_course.write(root, "01_first", "1 / 0")
    message = fails(keep_going=True)
    assert fails.kind is CellError
    assert "ZeroDivisionError" in message
    assert "02_second was skipped: 01_first failed" in message
    assert f"go on with: cifar run 01 02 {runs.load(NAME).options()} --keep-going" in message
    assert (folder / "03_third" / "stage.json").is_file()
    assert not (folder / "02_second").exists()


def damaged(path, how):
    if how == "removed":
        path.unlink()
        return
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content[:-1] + b"?")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("model.keras", "changed"),
        ("metrics.json", "cut"),
        ("stage.json", "cut"),
        ("notebook.ipynb", "removed"),
    ],
)
def test_a_damaged_stage_is_run_again_and_what_read_it(root, folder, name, how):
    run()
    damaged(folder / "01_first" / name, how)
    found = {each.stage: each.reasons for each in pipeline.explain(request())}
    assert found["01_first"] and found["02_second"] and not found["03_third"]
    assert re.search("02_second builds on 01_first, (damaged|not finished) in run", fails(["2"]))
    assert fails.kind is UpstreamError
    log = run()
    assert "[1/3] 01_first\n" in log and "[3/3] 03_third  already finished" in log
    assert not any(each.reasons for each in pipeline.explain(request()))


def test_a_damaged_manifest_is_written_anew(root, folder):
    run(["1"])
    (folder / "manifest.json").write_text('{"profile": "sm')
    log = run(["1"])
    assert "manifest.json is damaged and written anew" in log
    assert "01_first  already finished" in log
    assert runs.load(NAME).manifest["profile"] == "smoke"


def test_explaining_runs_nothing(root, folder):
    found = pipeline.explain(request(["1", "2"], settings=["EPOCHS=3"]))
    assert [each[:2] for each in found] == [(NAME, "01_first"), (NAME, "02_second")]
    assert found[0].reasons == ["it has not finished yet"]
    assert not folder.exists()
    run(["1"])
    changed = pipeline.explain(request(["1"], settings=["EPOCHS=3"]))
    assert changed[0].reasons == ["parameter EPOCHS was 2, is 3"]
    assert pipeline.explain(request(["1"], fresh=True))[0].reasons == ["asked to run again"]


def test_an_interrupted_fresh_start_goes_on_without_starting_over(root, folder):
    run(["1", "3"])
    tiny_course.write(root, "03_third", "raise KeyError('lost')")
    message = fails(["1", "3"], fresh=True)
    assert "go on with: cifar run --from 03" in message and "--fresh" not in message
    tiny_course.write(root, "03_third")
    log = run(["1", "3"])
    assert "01_first  already finished" in log and "[2/2] 03_third\n" in log


@pytest.fixture
def clock(root):
    """Stages that note when they begin and end, and on which cores."""
    body = (
        "import os, time, json\nstarted = time.time()\ntime.sleep(1.5)\n"
        "place = os.path.join(os.environ['CIFAR_UTILS_ARTIFACTS_DIR'], RUN, STAGE, 'when.json')\n"
        "os.makedirs(os.path.dirname(place), exist_ok=True)\n"
        "cores = sorted(os.sched_getaffinity(0))\n"
        "json.dump([started, time.time(), cores], open(place, 'w'))"
    )
    for stage in tiny_course.STAGES:
        tiny_course.write(root, stage, body)
    return root / "artifacts"


def overlap(one, other):
    return min(one[1], other[1]) - max(one[0], other[0]) > 0


def test_independent_stages_and_seeds_run_side_by_side(clock, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    log = run(["1", "3"], jobs=2, grid={"SEED": "0..1"}, name="both")
    assert "[4/4] " in log and "both-seed1/03_third  " in log
    when = {
        (seed, stage): json.loads((clock / f"both-seed{seed}" / stage / "when.json").read_text())
        for seed in (0, 1)
        for stage in ("01_first", "03_third")
    }
    pairs = [(a, b) for a in when for b in when if a < b]
    assert sum(overlap(when[a], when[b]) for a, b in pairs) >= 2
    if len(cores) > 1:
        assert {tuple(each[2]) for each in when.values()} == {
            tuple(part) for part in jobs.divided(cores, 2)
        }
    for seed in (0, 1):
        assert runs.load(f"both-seed{seed}").manifest["seed"] == seed


GRID = {"SEED": "0..1", "EPOCHS": "3,4"}
ASKED = "--profile smoke --data synthetic --grid SEED=0..1 --grid EPOCHS=3,4"


def manifests(root):
    return {path.parent.name for path in (root / "artifacts").glob("*/manifest.json")}


def test_a_grid_is_a_run_for_each_combination_and_goes_on_as_one(root):
    tiny_course.write(root, "02_second", "if (SEED, EPOCHS) == (1, 3):\n    raise KeyError('lost')")
    message = fails(["1", "2"], grid=GRID, keep_going=True)
    names = {f"smoke-synthetic-seed{seed}-epochs{epochs}" for seed in (0, 1) for epochs in (3, 4)}
    assert manifests(root) == names
    assert message.endswith(f"go on with: cifar run 01 02 {ASKED} --keep-going")
    assert message.count("go on with") == 1
    for name in names:
        facts = root / "artifacts" / name / "01_first" / "facts.json"
        assert json.loads(facts.read_text())["given"][0] == int(name[-1])
        assert runs.load(name).manifest["seed"] == int(name[len("smoke-synthetic-seed")])
    left = [each[:2] for each in pipeline.explain(request(["1", "2"], grid=GRID)) if each.reasons]
    assert left == [("smoke-synthetic-seed1-epochs3", "02_second")]
    tiny_course.write(root, "02_second", "mended = True")
    log = run(["1"], grid=dict(reversed(GRID.items())))
    assert log.count("01_first  already finished") == 4
    again = reruns.request("smoke-synthetic-seed1-epochs4")
    assert (again.seed, again.grid) == (1, {})
    assert again.parameters == {"01_first": {"EPOCHS": 4}, "02_second": {"EPOCHS": 4}}


def test_a_grid_of_stages_whose_upstream_is_missing_names_them_too(root):
    message = fails(["2"], grid=GRID, name="mine")
    assert "02_second builds on 01_first, not finished in run 'mine-seed0-epochs3'; run " in message
    options = ASKED.replace("--grid", "--run mine --grid", 1)
    assert message.endswith(f"in all of them, too, with: cifar run 01 02 {options}")


def wrong_value(root, monkeypatch):
    return {"EPOCHS": "3,x"}, "EPOCHS=x: expected an integer"


def seed_out_of_range(root, monkeypatch):
    return {"SEED": "0,-1"}, "seed -1 is out of range"


def last_run_has_other_images(root, monkeypatch):
    images = tiny_course.PROVENANCE | {"fingerprint": "e" * 64}
    runs.start("auto", profile="smoke", seed=1, provenance=images)
    return {"SEED": "0..1"}, "seed1' was made with"


def disk_has_room_for_one(root, monkeypatch):
    free = shutil.disk_usage(root)._replace(free=3 * housekeeping.ROOM["smoke"])
    monkeypatch.setattr(housekeeping.shutil, "disk_usage", lambda path: free)
    run(["1"], name="one-fits")
    shutil.rmtree(root / "artifacts" / "one-fits")
    return {"SEED": "0..9"}, "free some"


@pytest.mark.parametrize(
    "arrange", [wrong_value, seed_out_of_range, last_run_has_other_images, disk_has_room_for_one]
)
def test_what_is_wrong_with_one_combination_is_refused_before_any_runs(root, monkeypatch, arrange):
    grid, expected = arrange(root, monkeypatch)
    before = manifests(root)
    with pytest.raises(CifarUtilsError, match=expected):
        run(["1"], grid=grid)
    assert manifests(root) == before


def test_little_memory_runs_combinations_one_at_a_time(clock):
    run(["1"], jobs=2, memory=1, grid={"EPOCHS": "3,4"})
    when = [json.loads(path.read_text()) for path in clock.glob("*/01_first/when.json")]
    assert len(when) == 2 and not overlap(*when)


def test_control_c_stops_a_grid_which_the_same_command_finishes(root):
    grid = ["--grid", "SEED=0..1", "--grid", "EPOCHS=3,4"]
    started, kernel = _start(root, "1", "2", *grid, "--jobs", "2")
    for _ in range(2):
        started.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert errors.endswith(f"\ngo on with: cifar run 01 02 {ASKED} --jobs 2\n")
    assert _gone(kernel)
    tiny_course.write(root, "02_second")
    command = [sys.executable, tiny_course.__file__, str(root), *errors.split("cifar ")[-1].split()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert "already finished" in finished.stdout
    assert not any(each.reasons for each in pipeline.explain(request(["1", "2"], grid=GRID)))


def test_little_memory_runs_one_at_a_time(clock):
    run(["1", "3"], jobs=2, memory=1)
    folder = clock / NAME
    when = [json.loads((folder / s / "when.json").read_text()) for s in ("01_first", "03_third")]
    assert not overlap(*when)


def test_events_tell_a_program_everything(done):
    folder, _, _ = done
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    states = [(e["stage"], e["state"]) for e in events if e["event"] == "stage"]
    assert states[:4] == [
        ("01_first", "waits"),
        ("02_second", "waits"),
        ("01_first", "runs"),
        ("01_first", "done"),
    ]
    assert {e["event"] for e in events} == {"run", "stage", "cell", "held"}
    cells = [e["cell"] for e in events if e["event"] == "cell" and e["stage"] == "01_first"]
    assert cells == [4, 5, 6, 8, 9, 11]
    assert all(e["memory"] > 1e6 for e in events if e.get("state") == "done")


def test_a_failure_is_an_event_with_kind_and_status(root, folder):
    tiny_course.write(root, "03_third", "1 / 0")
    fails(["3"])
    event = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    assert (event["state"], event["kind"], event["status"]) == ("failed", "CellError", 3)


def test_control_c_once_stops_after_the_epoch_and_keeps_it(root, folder):
    body = (
        "from cifar_utils import supervision\nimport time\n"
        "for epoch in range(1, 100):\n"
        "    time.sleep(0.3)\n"
        "    supervision.tell({'model': 'm', 'epoch': epoch, 'epochs': 99})\n"
        "    print('epoch', epoch)\n"
        "    if supervision.stop_asked():\n"
        "        raise KeyboardInterrupt"
    )
    tiny_course.write(root, "02_second", body)
    command = [sys.executable, tiny_course.__file__, str(root), "run", "1", "2"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in started.stdout:
        if "epoch 2" in line:
            break
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert errors.startswith("cifar: interrupted in 02_second\ngo on with: cifar run 02 ")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert 2 <= max(e["epoch"] for e in events if e["event"] == "epoch") < 90
    assert (folder / ".02_second.backup" / "attempt.json").is_file()
    assert not (folder / "02_second" / "failed.ipynb").exists()
    again = {each.stage: each.reasons for each in pipeline.explain(request(["1", "2"]))}
    assert again == {"01_first": [], "02_second": ["it was interrupted; it goes on where it was"]}


def test_the_kernel_of_a_killed_command_is_ended_before_the_stage_goes_on(stage):
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    created = psutil.Process(orphan.pid).create_time()
    runs.write_json(stages._kernel(stage), {"pid": orphan.pid, "started": created - 1})
    stages.recover(stage)
    assert orphan.poll() is None  # another process has that number now
    runs.write_json(stages._kernel(stage), {"pid": orphan.pid, "started": created})
    stages.recover(stage)
    assert not psutil.pid_exists(orphan.pid)
    assert not stages._kernel(stage).exists()
    stages._kernel(stage).write_text("{")
    stages.recover(stage)
    assert not stages._kernel(stage).exists()


def test_a_kernel_that_dies_at_its_start_is_a_dead_kernel(root, monkeypatch):
    monkeypatch.setattr(execution.sys, "executable", "/bin/false")
    assert "the kernel died" in fails(["3"])
    assert fails.kind is KernelDiedError
