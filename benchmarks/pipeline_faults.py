"""Measure whether a run that is killed at random points ends as one left alone, and what it costs.

usage: python -m benchmarks.pipeline_faults [faults|overhead|memory ...] [--courses N] [--seed N]

``faults`` runs a small course of three notebooks: two that take a second each, the second of which
reads what the first left, and one that trains a real network on the synthetic images of the smoke
profile (six epochs) and two variants of it (three epochs each). ``cifar run`` is disturbed four
times before it may end, in random order and at random points: its kernel is killed by SIGKILL, the
process group of the command is, the disk becomes full (a tmpfs made smaller than what it has to
hold; without root no file may grow beyond a random size), and a file of the run is cut, changed or
removed. Each time the same command goes on. In the end all is compared, bit for bit, with a run
left alone. ``overhead`` runs a notebook of the small course and notebook 02 of the real one (smoke
profile) bare, by nbclient, and by the pipeline, in turn. ``memory`` makes ten runs of the small
course in one process. Change nothing in the library meanwhile: stages would run again.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import psutil

from cifar_utils import cli, keys, leaderboard, paths, pipeline, runs, runtime

STAGES = ("02_baseline_cnn", "03_augmentation", "04_resnet50_frozen")
"""Places in the course that the small notebooks take; the second reads from the first."""

RUN = ["run", "02", "03", "04", "--profile", "smoke", "--data", "synthetic", "--run", "small"]

SETUP = """
import keras
import numpy as np
from cifar_utils import data, evaluation, experiments, models, profiles, recipes, runs, runtime
from cifar_utils import training
profile = profiles.resolve(PROFILE)
dataset = data.load(DATA, profile)
run = runs.start(RUN, profile=profile.name, seed=SEED, provenance=dataset.provenance.record())
stage = run.stage(STAGE)
session = runtime.start(SEED)
train, validation = dataset.train, dataset.validation
def network(width=8):
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    for filters in (width, 2 * width):
        x = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(images, models.logits(x), name="small")
"""

TRAIN = """
recipe = recipes.Recipe(epochs=EPOCHS, batch_size=100, learning_rate=0.01, augmentation="flip",
                        averaging="ema")
model = network()
fitted = training.fit(model, train, validation, recipe, seed=SEED, backup=stage.backup / "main")
stage.save_table(fitted.history.drop(columns="seconds"), "history")
"""

TRIALS = """
import dataclasses
short = dataclasses.replace(recipe, epochs=3)
trials = experiments.variants(network, short, {"flip": {}, "plain": {"augmentation": "none"}})
few, backup = train.first(400), stage.backup / "trials"
compared = experiments.compare(trials, few, validation, seeds=[SEED], backup=backup)
table = compared.table.drop(columns="seconds")
stage.save_table(table, "trials")
"""

RESULTS = """
models.save(model, stage.folder / "model.keras")
logits = evaluation.predict_logits(model, validation.images)
stage.save_logits("validation", logits, validation.labels)
fields = evaluation.accuracy_fields(logits, validation.labels)
weights = float(sum(np.abs(weight).sum() for weight in model.get_weights()))
stage.save_metrics(stage.result(split="validation", **fields), weights=weights)
"""

FIRST = """
import numpy as np
from cifar_utils import data, profiles, runs
profile = profiles.resolve(PROFILE)
dataset = data.load(DATA, profile)
run = runs.start(RUN, profile=profile.name, seed=SEED, provenance=dataset.provenance.record())
stage = run.stage(STAGE)
labels = dataset.validation.labels
means = dataset.validation.images.reshape(len(labels), -1).astype("float32")[:, :10]
stage.save_logits("validation", means, labels)
right = float((means.argmax(axis=1) == labels).mean())
stage.save_metrics(stage.result(n=len(labels)), right=right)
"""

READ = """
import numpy as np
from cifar_utils import data, profiles, runs
profile = profiles.resolve(PROFILE)
dataset = data.load(DATA, profile)
run = runs.start(RUN, profile=profile.name, seed=SEED, provenance=dataset.provenance.record())
stage = run.stage(STAGE)
loaded = [run.stage(name).load_logits("validation")[0] for name in runs.STAGES[STAGE]]
"""

COMBINE = """
combined = sum(loaded) / len(loaded) + 1.0
right = (combined.argmax(axis=1) == dataset.validation.labels).mean()
stage.save_logits("validation", combined, dataset.validation.labels)
stage.save_metrics(stage.result(n=len(dataset.validation.labels)), together=float(right))
"""


def write_course(folder: Path) -> None:
    """Write the small course's notebooks."""
    new = nbformat.v4
    common = 'PROFILE = "auto"\nDATA = "auto"\nSEED = 0\nRUN = "auto"\nEPOCHS = 6'
    bodies = dict.fromkeys(STAGES, (READ, COMBINE, "EPOCHS"))
    bodies[STAGES[0]] = (FIRST, "EPOCHS")
    bodies[STAGES[2]] = (SETUP, TRAIN, TRIALS, RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    for name, sources in bodies.items():
        cells = [
            new.new_code_cell(common, metadata={"tags": ["parameters"]}),
            new.new_code_cell(f"STAGE = {name!r}"),
            *[new.new_code_cell(source.strip()) for source in sources],
        ]
        nbformat.write(new.new_notebook(cells=cells), folder / f"{name}.ipynb")


def install(root: Path) -> None:
    """Make the library take the small course for its own."""
    paths.notebooks_dir = lambda: root / "notebooks"


@dataclass
class Course:
    """A course in a folder, and how to run it."""

    root: Path
    artifacts: Path
    data: Path

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self.artifacts / "small"

    def start(self, *, largest: int | None = None) -> "subprocess.Popen[bytes]":
        """Start the command in a process group of its own."""

        def limit() -> None:
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

        environment = os.environ | {
            "CIFAR_UTILS_ARTIFACTS_DIR": str(self.artifacts),
            "CIFAR_UTILS_DATA_DIR": str(self.data),
        }
        with (self.root / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.pipeline_faults", "cifar", str(self.root), *RUN],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=limit,
            )

    def stages(self) -> list[runs.Stage]:
        """Return the stages."""
        run = runs.Run(self.folder, {})
        return [run.stage(name) for name in STAGES]

    def finished(self) -> dict[str, str]:
        """Return the stages that are done and whole, and when they were."""
        return {
            stage.name: record["finished"]
            for stage in self.stages()
            if (record := stage.finished()) and not keys.damaged(stage)
        }

    def outcome(self) -> dict[str, object]:
        """Return what the run found, without what differs from run to run."""
        found: dict[str, object] = {}
        for stage in self.stages():
            metrics = json.loads((stage.folder / "metrics.json").read_text())
            found[stage.name] = {
                name: value
                for name, value in metrics.items()
                if not leaderboard.VOLATILE.search(name)
            }
            for table in ("history", "trials"):
                path = stage.folder / f"{table}.csv"
                found[f"{stage.name} {table}"] = path.read_text() if path.is_file() else ""
            if (stage.folder / "validation.npz").is_file():
                with np.load(stage.folder / "validation.npz") as saved:
                    found[f"{stage.name} logits"] = saved["logits"].tobytes().hex()
        return found


@dataclass
class Case:
    """What one disturbance came to.

    Attributes:
        fault: Its kind.
        point: Where the run was.
        status: How the command ended, or what was damaged.
        kept: Stages that had finished then.
        lost: Those of them that ran again all the same.
        half: What was half written and not cleared up in the end, or taken for whole.
        same: Whether all ended with the metrics of a run left alone.
    """

    fault: str
    point: str
    status: str
    kept: int
    lost: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    same: bool = False


def _where(course: Course) -> str:
    """Return where a run is: the stage, and how many epochs and cells its events tell of."""
    try:
        text = (course.folder / "events.jsonl").read_text()
    except OSError:
        return "start"
    whole, _, _ = text.rpartition("\n")  # of the last line only a part may be there yet
    events = [json.loads(line) for line in whole.splitlines()]
    event = [event for event in events if event["event"] != "held"][-1]
    kind = {"epoch": "training", "run": "start"}.get(event["event"], event["event"])
    return f"{event.get('stage', '')[:2]} {kind}".strip()


def _kernels(course: Course) -> list[int]:
    """Return the processes of the kernels that run."""
    found = []
    for path in course.folder.glob(".*.kernel.json"):
        with contextlib.suppress(ValueError, OSError):
            found.append(json.loads(path.read_text())["pid"])
    return found


def kill_kernel(course: Course, wait: float, chance: random.Random) -> str:
    """Kill the kernel that runs after so many seconds, or the next one."""
    process = course.start()
    time.sleep(wait)
    while process.poll() is None and not _kernels(course):
        time.sleep(0.02)
    point = _where(course)
    for pid in _kernels(course):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return f"{point}|exit {process.wait()}"


def kill_pipeline(course: Course, wait: float, chance: random.Random) -> str:
    """Kill the process group of the command; its kernel, in a group of its own, is an orphan."""
    process = course.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(wait)
    point = _where(course)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return f"{point}|exit {process.wait()}"


def fill_disk(course: Course, wait: float, chance: random.Random) -> str:
    """Leave no room, or hardly any, after so many seconds."""
    if not os.path.ismount(course.artifacts):
        largest = chance.randrange(20_000, 400_000)
        status = course.start(largest=largest).wait()
        return f"no file over {largest / 1e3:.0f} kB|exit {status}"
    process = course.start()
    time.sleep(wait)
    point = _where(course)
    usage = os.statvfs(course.artifacts)
    used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
    size = used + chance.choice([0, 4096, 100_000, 300_000])
    resize = ["mount", "-o", f"remount,size={size}", str(course.artifacts)]
    subprocess.run(resize, check=True)
    status = process.wait()
    subprocess.run([*resize[:2], "remount,size=2g", str(course.artifacts)], check=True)
    return f"{point}|exit {status}"


def damage(course: Course, wait: float, chance: random.Random) -> str:
    """Damage one of the files that the last command has left."""
    for pid in _kernels(course):
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).wait(20)
    files = [path for path in course.folder.rglob("*") if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.name not in ("events.jsonl", "report.html", ".lock")]
    if not files:
        return "start|nothing was there"
    path = chance.choice(sorted(files))
    how = chance.choice(["cut", "changed", "removed"])
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    else:
        content[chance.randrange(len(content))] ^= 0xFF
        path.write_bytes(content)
    return f"{_where(course)}|{path.relative_to(course.folder)} {how}"


FAULTS = {
    "SIGKILL of the kernel": kill_kernel,
    "SIGKILL of the pipeline": kill_pipeline,
    "full disk": fill_disk,
    "damaged file": damage,
}


@contextlib.contextmanager
def fresh_course(data: Path) -> "contextlib.AbstractContextManager[Course]":
    """A course whose runs are on a small file system of their own, where that can be had."""
    with tempfile.TemporaryDirectory(prefix="faults-") as home:
        root = Path(home)
        write_course(root / "notebooks")
        artifacts = root / "artifacts"
        artifacts.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(artifacts)]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        try:
            yield Course(root, artifacts, data)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(artifacts)], check=True)


def _lost(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the finished stages that ran again, though nothing that they read had to."""
    again = {name for name in before if after.get(name) != before[name]}
    missing = set(STAGES) - set(before)
    # A stage that reads what had to be made again runs again as well, and should.
    return sorted(name for name in again if not missing & {*runs.STAGES[name]})


def play(left_alone: dict[str, object], data: Path, whole: float, seed: int) -> list[Case]:
    """Disturb one course four times, let it end, and judge."""
    chance = random.Random(seed)
    order = chance.sample(list(FAULTS), len(FAULTS))
    if order[0] == "damaged file":
        order = [*order[1:], order[0]]
    cases: list[Case] = []
    with fresh_course(data) as course:
        for fault in order:
            before = course.finished()
            point, _, status = FAULTS[fault](course, chance.uniform(0, whole), chance).partition(
                "|"
            )
            after = course.finished()
            case = Case(fault, point, status, len(after))
            cases.append(case)
            if FAULTS[fault] is not damage and len(cases) > 1:
                cases[-2].lost = _lost(before, after)
        before, again = course.finished(), 1
        for _ in range(2):
            if again := course.start().wait():
                continue
            break
        after = course.finished()
        cases[-1].lost = _lost(before, after)
        half = [str(path) for path in course.folder.rglob(".*.????????") if path.is_dir()]
        if set(after) != set(STAGES):
            half.append("a stage is not whole")
        same = again == 0 and course.outcome() == left_alone
        for case in cases:
            case.half, case.same = half, same
        if not same or half or any(case.lost for case in cases):
            log = (course.root / "log.txt").read_bytes()
            Path(tempfile.gettempdir(), f"pipeline-faults-{seed}.log").write_bytes(log)
    return cases


def faults(count: int, seed: int) -> None:
    """Play the faults and print a table."""
    with tempfile.TemporaryDirectory(prefix="faults-data-") as home:
        data = Path(home)
        outcomes, seconds = [], []
        for _ in range(2):
            with fresh_course(data) as course:
                began = time.perf_counter()
                if course.start().wait() != 0:
                    sys.exit((course.root / "log.txt").read_text())
                seconds.append(time.perf_counter() - began)
                outcomes.append(course.outcome())
        if outcomes[0] != outcomes[1]:
            sys.exit("two runs left alone differ: nothing can be compared with them")
        whole = min(seconds)
        print(
            f"a run left alone: {whole:.1f} s; two of them are the same, bit for bit\n", flush=True
        )
        cases: list[Case] = []
        for number in range(count):
            began = time.perf_counter()
            cases += play(outcomes[0], data, whole, seed + number)
            for case in cases[-len(FAULTS) :]:
                print(number, case, file=sys.stderr, flush=True)
            print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    head = ("fault", "times", "lost a finished stage", "kept or trusted half a file")
    print(f"| {' | '.join(head)} | the metrics of a run left alone | stages finished before |")
    print("|---|--:|--:|--:|--:|--:|")
    for fault in (*FAULTS, "in all"):
        own = [case for case in cases if fault in (case.fault, "in all")]
        figures = (
            len(own),
            sum(bool(case.lost) for case in own),
            sum(bool(case.half) for case in own),
            sum(case.same for case in own),
            sum(case.kept for case in own),
        )
        print(f"| {fault} | {' | '.join(map(str, figures))} |")
    print(
        "\nwhere: "
        + "; ".join(
            f"{place} ({n})" for place, n in Counter(case.point for case in cases).most_common()
        )
    )
    print(
        "\nhow they ended: "
        + "; ".join(
            f"{how} ({n})"
            for how, n in Counter(
                case.status for case in cases if case.status.startswith("exit")
            ).most_common()
        )
    )
    print("\ndamaged: " + "; ".join(case.status for case in cases if case.fault == "damaged file"))


def _bare(path: Path) -> float:
    """Run a notebook by nbclient alone and return the seconds."""
    from nbclient import NotebookClient

    document = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    NotebookClient(document, timeout=None, kernel_name="python3").execute(cwd=path.parent)
    return time.perf_counter() - began


def _piped(name: str) -> float:
    """Run a stage by the pipeline and return the seconds."""
    request = pipeline.Request([name], profile="smoke", source="synthetic", fresh=True)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        pipeline.run(request)
    return time.perf_counter() - began


def overhead() -> None:
    """Run notebooks bare and by the pipeline, in turn, and print the difference."""
    print("| notebook | times | bare, s | pipeline, s | more, s | more |")
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="overhead-") as home:
        write_course(Path(home, "notebooks"))
        os.environ |= {
            "CIFAR_UTILS_DATA_DIR": str(Path(home, "data")),
            "CIFAR_UTILS_ARTIFACTS_DIR": str(Path(home, "artifacts")),
            "CIFAR_UTILS_PROFILE": "smoke",
            "PYTHONHASHSEED": "0",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        course = paths.notebooks_dir()
        for folder, repeats in ((Path(home, "notebooks"), 9), (course, 4)):
            paths.notebooks_dir = lambda folder=folder: folder
            path = folder / f"{STAGES[0]}.ipynb"
            if folder != course:
                _bare(path)  # which draws the synthetic images, once
            pairs = [(_bare(path), _piped(STAGES[0])) for _ in range(repeats)]
            bare, piped = (statistics.median(column) for column in zip(*pairs, strict=True))
            more = statistics.median(piped - bare for bare, piped in pairs)
            name = "a short one" if folder != course else STAGES[0]
            share = f"{more / bare:+.1%}" if folder == course else ""
            print(f"| {name} | {repeats} | {bare:.1f} | {piped:.1f} | {more:+.1f} | {share} |")
            print("each:", [f"{a:.1f} {b:.1f}" for a, b in pairs], file=sys.stderr)


def memory(count: int) -> None:
    """Make runs in one process and print what it and the kernels held after each."""
    own = psutil.Process()
    print("| run | this process after it, MB | most of a kernel, MB | processes left |")
    print("|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="memory-") as home:
        root = Path(home)
        write_course(root / "notebooks")
        install(root)
        os.environ["CIFAR_UTILS_DATA_DIR"] = str(root / "data")
        os.environ["CIFAR_UTILS_ARTIFACTS_DIR"] = str(root / "artifacts")
        for number in range(1, count + 1):
            request = pipeline.Request(
                list(STAGES), profile="smoke", source="synthetic", name=f"run{number}"
            )
            with contextlib.redirect_stdout(io.StringIO()):
                (made,) = pipeline.run(request)
            records = [made.stage(name).finished() or {} for name in STAGES]
            peak = max(record["memory"] for record in records)
            left = len(own.children(recursive=True))
            held = own.memory_info().rss
            print(f"| {number} | {held / 1e6:.0f} | {peak / 1e6:.0f} | {left} |", flush=True)


def main() -> None:
    """Measure what the command line names."""
    if sys.argv[1:2] == ["cifar"]:
        install(Path(sys.argv[2]))
        sys.exit(cli.main(sys.argv[3:]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["faults", "overhead", "memory"])
    parser.add_argument("--courses", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{runtime.hardware()}; {runtime.versions()}\n")
    if "overhead" in options.what:
        overhead()
    if "memory" in options.what:
        memory(10)
    if "faults" in options.what:
        faults(options.courses, options.seed)


if __name__ == "__main__":
    main()
