"""Running the notebooks: what is asked for, what of it is done already, a report at the end."""

import os
import shlex
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from cifar_utils import (
    data,
    grids,
    housekeeping,
    jobs,
    keys,
    parameters,
    paths,
    profiles,
    progress,
    report,
    runs,
    runtime,
    stages,
)
from cifar_utils.errors import (
    CifarUtilsError,
    NoGpuError,
    ParameterError,
    RunError,
    StoppedError,
    UpstreamError,
    nearest,
)
from cifar_utils.execution import Control, Limits

SHARE_OF_MEMORY = 0.8
"""How much of the free memory stages that run side by side may take, if nothing else is said."""


def select(names: list[str], first: str | None = None) -> list[str]:
    """Return the stages asked for, in the order of the course.

    Args:
        names: Numbers or names; none of them means every stage.
        first: The stage to begin with: this one and all later ones.

    Raises:
        ParameterError: A name is unknown, or both ways of choosing are used.
    """
    known = list(runs.STAGES)
    if first is not None:
        if names:
            raise ParameterError("give either stages or --from STAGE, not both")
        return known[known.index(runs.stage_name(first)) :]
    asked = {runs.stage_name(name) for name in names}
    return [name for name in known if name in asked or not names]


@dataclass(frozen=True)
class Request:
    """What one call of ``run`` is asked for.

    Attributes:
        stages: Full names, as ``select`` returns them.
        profile: Name of a profile, or ``auto``.
        source: What ``data.load`` takes.
        seed: Of the run.
        grid: Names of parameters to several values, such as ``{"SEED": "0..4"}``; a run for each
            combination.
        name: Of the run, or ``auto``; with a grid the beginning of their names.
        settings: Parameters for the notebooks, such as ``["EPOCHS=3"]``.
        parameters: More of them, see ``parameters.assign``.
        file: Where these come from, for the command that goes on; empty if from no file.
        fresh: Whether finished stages run again.
        keep_going: Whether stages that do not build on a failed one still run.
        cell_seconds: Longest time for a cell; None for any.
        jobs: How many stages run side by side.
        memory: Bytes that those may take together; None for most of what is free.
        gpu: Whether to refuse to run without a GPU.
        repeats: Name of the run that this one is a rerun of; empty if of none.
    """

    stages: list[str]
    profile: str = "auto"
    source: str = "auto"
    seed: int = 0
    grid: grids.Grid = field(default_factory=dict)
    name: str = "auto"
    settings: tuple[str, ...] = ()
    parameters: dict[str, Any] | None = None
    file: str = ""
    fresh: bool = False
    keep_going: bool = False
    cell_seconds: int | None = None
    jobs: int = 1
    memory: int | None = None
    gpu: bool = False
    repeats: str = ""


class Verdict(NamedTuple):
    """Whether a stage would run.

    Attributes:
        run: Name of the run.
        stage: Name of the stage.
        reasons: Why it would; nothing if it is done.
    """

    run: str
    stage: str
    reasons: list[str]


@dataclass(frozen=True)
class _Plan:
    """A run and what is asked of it."""

    run: runs.Run
    request: Request
    given: dict[str, dict[str, Any]]

    def command(self, names: list[str]) -> str:
        """Return the command that runs stages in the same way, in all runs if there is a grid.

        With a grid it names every stage asked for, or some of its parameters may have no stage.
        """
        known, request = list(runs.STAGES), self.request
        if request.repeats:
            return f"cifar rerun {request.repeats} --as {self.run.name}"
        if request.grid:
            names = [name for name in known if name in {*names, *request.stages}]
        words = ["cifar run"]
        if names == known[-len(names) :]:
            words += ["--from", names[0].partition("_")[0]] if names != known else []
        else:
            words += [name.partition("_")[0] for name in names]
        words += self._options()
        words += [f"--params {shlex.quote(request.file)}"] * bool(request.file)
        have = {each for name in names for each in parameters.schema(parameters.notebook(name))}
        chosen = [setting for setting in request.settings if setting.partition("=")[0] in have]
        words += [f"--set {shlex.quote(setting)}" for setting in chosen]
        devices = os.environ.get("CIFAR_UTILS_DEVICES", "")
        words += [f"--devices {devices}"] * devices.isdecimal()
        words += [f"--cell-timeout {request.cell_seconds}"] * bool(request.cell_seconds)
        words += [f"--jobs {request.jobs}"] * (request.jobs > 1)
        words += [f"--memory {request.memory / 1e9:g}"] if request.memory else []
        words += ["--gpu"] * request.gpu + ["--keep-going"] * request.keep_going
        return " ".join(words)

    def _options(self) -> list[str]:
        """Return the options that say which run it is, or which runs."""
        request = self.request
        if not request.grid:
            return [self.run.options()]
        words = [self.run.shared_options()]
        words += [f"--seed {request.seed}"] * ("SEED" not in request.grid)
        words += [f"--run {request.name}"] * (request.name != "auto")
        return words + [f"--grid {shlex.quote(f'{n}={v}')}" for n, v in request.grid.items()]

    def values(self, stage: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the value of each parameter of a stage's notebook."""
        manifest = self.run.manifest
        synthetic = manifest["data"]["kind"] == "synthetic"
        shared = {
            "PROFILE": manifest["profile"],
            "DATA": "synthetic" if synthetic else manifest["data"]["source"],
            "SEED": manifest["seed"],
            "RUN": self.run.name,
        }
        have = parameters.schema(parameters.notebook(stage))
        values = have | {name: shared[name] for name in have if name in shared} | given
        return {name: keys.anywhere(name, value) for name, value in values.items()}

    def verdicts(self) -> list[Verdict]:
        """Return for each stage asked for why it would run."""
        found: list[Verdict] = []
        running: set[str] = set()
        for name in self.request.stages:
            stage = self.run.stage(name)
            why = stages.reasons(stage, self.values(name, self.given[name]))
            if not why and self.request.fresh:
                why = ["asked to run again"]
            if not why:
                why = [f"{each}, which it builds on, runs" for each in runs.STAGES[name]]
                why = [text for text in why if text.partition(",")[0] in running]
            if why:
                running.add(name)
            found.append(Verdict(self.run.name, name, why))
        return found

    def remember(self) -> None:
        """Put into the manifest what a rerun needs beside profile, seed and data."""
        again = dict(self.run.manifest.get("rerun", {}).get("parameters", {}))
        for name in self.request.stages:
            values = self.values(name, self.given[name])
            again[name] = {each: values[each] for each in values if each not in runs.COMMON}
        facts = {
            "parameters": {name: again[name] for name in runs.STAGES if name in again},
            "backend": os.environ.get("KERAS_BACKEND"),
            "devices": os.environ.get("CIFAR_UTILS_DEVICES"),
            "weights": os.environ.get("CIFAR_UTILS_RESNET50_WEIGHTS"),
            "jobs": self.request.jobs,
        }
        noted: dict[str, Any] = {"rerun": facts}
        if self.request.repeats:
            noted["repeats"] = self.request.repeats
        if not noted.items() <= self.run.manifest.items():
            self.run.manifest.update(noted)
            runs.write_json(self.run.folder / "manifest.json", self.run.manifest)


def _check_upstream(plan: _Plan) -> None:
    """Refuse a stage that builds on one that is not asked for and not there, or damaged.

    The run need not exist yet, so that refusing leaves nothing behind.

    Raises:
        UpstreamError: There is one.
    """
    run, names = plan.run, plan.request.stages
    needed = {name: stage for stage in names for name in runs.STAGES[stage]}
    missing: dict[str, str] = {}
    for name in runs.STAGES:
        if name in needed and name not in names:
            if run.stage(name).finished() is None:
                missing[name] = "not finished"
            elif keys.damaged(run.stage(name)):
                missing[name] = "damaged"
    if missing:
        numbers = " ".join(name.partition("_")[0] for name in missing)
        kinds = " or ".join(dict.fromkeys(missing.values()))
        how = f"run that first, with: cifar run {numbers} {run.options()}"
        if plan.request.grid:
            how = f"run that in all of them, too, with: {plan.command(list(missing))}"
        raise UpstreamError(
            f"{needed[next(iter(missing))]} builds on {', '.join(missing)}, {kinds} in run "
            f"{run.name!r}; {how}"
        )


class _Prepared(NamedTuple):
    """What is checked before anything runs."""

    plans: list[_Plan]
    profile: profiles.Profile
    dataset: Any


def _prepare(request: Request) -> _Prepared:
    """Check all that can be checked before anything runs, and write nothing.

    Raises:
        ParameterError: Something asked for is unknown or of the wrong type.
        CifarUtilsError: The data, an earlier stage or the machine is not as needed.
    """
    always = parameters.assign(list(request.settings), request.stages, request.parameters)
    combinations = grids.combinations(request.grid, request.stages, request.seed)
    for values in [
        *always.values(),
        *(own for each in combinations for own in each.given.values()),
    ]:
        recipe = values.get("RECIPE")
        if recipe and recipe not in keys.PLANS and not Path(keys.located(recipe)).is_file():
            raise ParameterError(
                f"RECIPE={recipe}: no such file; expected what `cifar tune` has written, or a name"
                f"{nearest(recipe, list(keys.PLANS))}"
            )
    for seed in {each.seed for each in combinations}:
        if not 0 <= seed < 2**32:
            raise ParameterError(f"seed {seed} is out of range; expected 0 to {2**32 - 1}")
    chosen = profiles.resolve(request.profile)
    if request.gpu and not runtime.has_gpu():
        raise NoGpuError(
            "--gpu: the Keras backend finds no GPU here; does `nvidia-smi -L` list one, and is the "
            "backend installed for it (make setup EXTRA=gpu)? Leave --gpu out to run without"
        )
    dataset = data.load(request.source, chosen)
    provenance = dataset.provenance.record()
    if request.repeats:
        was = runs.load(request.repeats).manifest["data"]["fingerprint"]
        if provenance["fingerprint"] != was:
            raise RunError(
                f"{request.repeats!r} was made with other images ({was[:8]}, now "
                f"{provenance['fingerprint'][:8]}); put those back, and it can be repeated"
            )
    plans = []
    for seed, own, labels in combinations:
        name = runs.resolve_name(
            request.name, profile=chosen.name, kind=provenance["kind"], seed=seed
        )
        if request.name != "auto" and "SEED" in request.grid:
            name = f"{name}-seed{seed}"
        name = grids.run_name(name, labels)
        facts = {"profile": chosen.name, "seed": seed, "data": provenance}
        runs.known(name, facts)
        given = {stage: always[stage] | own[stage] for stage in request.stages}
        plan = _Plan(runs.Run(paths.artifacts_dir() / name, facts), request, given)
        _check_upstream(plan)
        plans.append(plan)
    return _Prepared(plans, chosen, dataset)


def explain(request: Request) -> list[Verdict]:
    """Return for each stage asked for why it would run, without running anything.

    Raises:
        CifarUtilsError: As ``run``, before it runs anything.
    """
    return [verdict for plan in _prepare(request).plans for verdict in plan.verdicts()]


def run(request: Request) -> list[runs.Run]:
    """Run stages of the course, those that are not done, and report on them.

    Args:
        request: What is asked for.

    Returns:
        The runs, one for each combination of the grid.

    Raises:
        ParameterError: Something asked for is unknown or of the wrong type; nothing has run.
        CifarUtilsError: The data, an earlier stage, the machine or the run's folder is not as
            needed; nothing has run. Or a stage failed; the kind of error says how, the message has
            the command that goes on from there.
        StoppedError: The user stopped it; the message has the command that goes on.
    """
    prepared = _prepare(request)
    needed = 0
    for plan in prepared.plans:
        waiting = [verdict.stage for verdict in plan.verdicts() if verdict.reasons]
        needed += housekeeping.room(waiting, prepared.profile.name, plan.run.folder)
    housekeeping.check_room(needed)
    plans = []
    for plan in prepared.plans:
        facts = plan.run.manifest
        opened = runs.start(
            plan.run.name, profile=facts["profile"], seed=facts["seed"], provenance=facts["data"]
        )
        plans.append(replace(plan, run=opened))
    total = len(plans) * len(request.stages)
    files = {plan.run.name: plan.run.folder / "events.jsonl" for plan in plans}
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(runs.alone(plan.run.folder))
        board = progress.Board(total, request.jobs > 1, len(plans) > 1, files)
        stack.enter_context(board)
        for plan in plans:
            _introduce(board, plan, prepared)
            plan.remember()
            for name in runs.STAGES:
                stages.recover(plan.run.stage(name))
            if request.fresh:
                for name in request.stages:
                    stages.forget(plan.run.stage(name))
            _warn_of_old(board, plan, before=True)
        control = Control()
        with _interruptible(control, board):
            outcome = _carry_out(plans, control, board)
        for plan in plans:
            if not outcome.failed:
                _warn_of_old(board, plan, before=False)
            _report(board, plan.run)
    _conclude(plans, outcome, control)
    return [plan.run for plan in plans]


def _introduce(board: progress.Board, plan: _Plan, prepared: _Prepared) -> None:
    """Say what is about to run."""
    manifest = plan.run.manifest
    splits = prepared.dataset.splits().items()
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits)
    chosen = " (chosen by auto)" * (plan.request.profile == "auto")
    board.say(f"run       {plan.run.name}")
    board.say(f"profile   {manifest['profile']}{chosen}")
    board.say(f"data      {manifest['data']['kind']}: {sizes} images")
    board.say(f"seed      {manifest['seed']}")
    board.say(f"hardware  {runtime.hardware()}")
    board.say(f"folder    {plan.run.folder}\n")
    facts = {name: manifest[name] for name in ("profile", "seed", "hardware", "git_commit")}
    asked = {"event": "run", "run": plan.run.name, "stages": plan.request.stages, **facts}
    board.take(asked)
    for stage in plan.request.stages:
        about = {"event": "stage", "run": plan.run.name, "stage": stage}
        board.take({**about, "state": "waits"})


def _carry_out(plans: list[_Plan], control: Control, board: progress.Board) -> jobs.Outcome:
    """Run or reuse each stage of each run, several at a time if asked."""
    request = plans[0].request
    by_key = {(plan.run.name, name): plan for plan in plans for name in request.stages}
    tasks = [
        jobs.Task(
            (run, stage),
            frozenset((run, name) for name in runs.STAGES[stage]),
            _known(plan.run.stage(stage)).get("memory") or jobs.GUESS,
        )
        for (run, stage), plan in by_key.items()
    ]
    places = jobs.divided(runtime.core_numbers(), request.jobs)

    def work(key: jobs.Key, place: int) -> None:
        limits = Limits(request.cell_seconds, places[place], shared=request.jobs > 1)
        _one(by_key[key], key[1], limits, control, board)

    outcome = jobs.carry_out(
        tasks,
        work,
        jobs=request.jobs,
        memory=request.memory or int(SHARE_OF_MEMORY * jobs.memory_free()),
        keep_going=request.keep_going,
        stopped=lambda: control.asked > 0,
        done=lambda key: _report(board, by_key[key].run),
    )
    for (run, stage), why in outcome.skipped.items():
        about = {"event": "stage", "run": run, "stage": stage, "state": "skipped"}
        if why != "not begun":
            board.take({**about, "why": why})
    return outcome


def _one(plan: _Plan, name: str, limits: Limits, control: Control, board: progress.Board) -> None:
    """Run one stage, or say that it is done already."""
    stage = plan.run.stage(name)
    values = plan.values(name, plan.given[name])
    about = {"event": "stage", "run": plan.run.name, "stage": name}
    why = stages.reasons(stage, values)
    if not why:
        shutil.rmtree(stage.backup, ignore_errors=True)
        record = stage.finished() or {}
        board.take({**about, "state": "reused", "seconds": record["seconds"]})
        return
    expected = _known(stage).get("seconds")
    board.take({**about, "state": "runs", "why": why, "expected": expected})
    watch = progress.Watch(board.take, plan.run.name, name)
    try:
        record = stages.run(
            stage,
            values,
            listener=watch,
            control=control,
            limits=limits,
            say=board.say,
            where=watch.place,
        )
    except BaseException as error:
        state = "stopped" if isinstance(error, StoppedError) else "failed"
        status = error.status if isinstance(error, CifarUtilsError) else 1
        kind = type(error).__name__
        board.take({**about, "state": state, "kind": kind, "why": str(error), "status": status})
        raise
    facts = {name: record[name] for name in ("seconds", "memory")}
    board.take({**about, "state": "done", **facts})


def _known(stage: runs.Stage) -> dict[str, Any]:
    """Return the record of a stage, of another run of the profile if it has none; or nothing."""
    if record := stage.finished():
        return record
    for name in reversed(runs.names()):
        try:
            other = runs.load(name)
        except RunError:
            continue
        record = other.stage(stage.name).finished()
        if record and other.manifest["profile"] == stage.run.manifest["profile"]:
            return record
    return {}


@contextmanager
def _interruptible(control: Control, board: progress.Board) -> Iterator[None]:
    """Have Ctrl-C stop the notebooks: the first after their epoch, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            control.asked = max(control.asked, 1)
        control.stop()
        if control.asked == 1:
            text = "stopping after this epoch, or cell; Ctrl-C again stops at once"
            # Not in the handler itself, which may have interrupted a print.
            threading.Thread(target=board.say, args=(text,), daemon=True).start()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _conclude(plans: list[_Plan], outcome: jobs.Outcome, control: Control) -> None:
    """Raise what the command has to end with, if not all went well.

    Raises:
        StoppedError: The user stopped it.
        CifarUtilsError: A stage failed.
    """
    waiting = {
        plan.run.name: [n for n in plan.request.stages if (plan.run.name, n) not in outcome.done]
        for plan in plans
    }
    left = dict.fromkeys(
        plan.command(waiting[plan.run.name]) for plan in plans if waiting[plan.run.name]
    )
    if not left:
        return
    resume = "\n".join(f"go on with: {command}" for command in left)
    failures = [e for e in outcome.failed.values() if not isinstance(e, StoppedError)]
    if control.asked and not failures:
        names = [key[1] for key in outcome.failed] or [key[1] for key in outcome.skipped]
        raise StoppedError(f"interrupted in {', '.join(dict.fromkeys(names))}\n{resume}")
    for error in failures:
        if not isinstance(error, CifarUtilsError):
            raise error
    several = len(plans) > 1
    skipped = [
        f"{run}/{stage} was skipped: {why}" if several else f"{stage} was skipped: {why}"
        for (run, stage), why in outcome.skipped.items()
    ]
    notes = [] if not plans[0].request.keep_going else skipped
    texts = [str(error) for error in failures] + notes
    raise type(failures[0])("\n".join([*texts, resume]))


def _report(board: progress.Board, run: runs.Run) -> None:
    """Write the run's page; if that fails, say so, and let nothing else be lost by it."""
    try:
        report.write(run)
    # Above all it must not take the place of the error that ended the run.
    except Exception as error:
        board.say(f"Note: the page was not written ({error}); try again: cifar report {run.name}")


def _warn_of_old(board: progress.Board, plan: _Plan, before: bool) -> None:
    """Say which finished stages, not asked for, were made by another state of things.

    Args:
        board: Where to say it.
        plan: The run.
        before: Whether to look at those that are about to be read, or at all others.
    """
    asked = plan.request.stages
    read = {name for stage in asked for name in runs.STAGES[stage]} - set(asked)
    for name in runs.STAGES:
        stage = plan.run.stage(name)
        record = stage.finished()
        if name in asked or (name in read) != before or record is None:
            continue
        own = {each: v for each, v in record["parameters"].items() if each not in runs.COMMON}
        have = parameters.schema(parameters.notebook(name))
        own = {each: parameters.check(each, own[each], have[each]) for each in own if each in have}
        if why := stages.reasons(stage, plan.values(name, own)):
            settings = tuple(f"{each}={v}" for each, v in own.items() if v != have[each])
            single = replace(
                plan, request=replace(plan.request, settings=settings, file="", grid={})
            )
            board.say(f"note: {name} is from before something changed ({'; '.join(why[:3])});")
            board.say(f"      run it again with: {single.command([name])}\n")
