"""The command ``cifar``; what it does is imported only once it is known what to do."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cifar_utils.errors import (
    CifarUtilsError,
    DataError,
    DifferentError,
    ParameterError,
    PictureError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from cifar_utils import leaderboard, pipeline, runs


def _assignment(text: str) -> str:
    """Return ``name=value`` with the name as notebooks spell it, in capitals."""
    name, equals, value = text.partition("=")
    return name.upper() + equals + value


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="cifar",
        allow_abbrev=False,
        description="Run the course's notebooks on CIFAR-10 and compare what they find.",
        epilog="CIFAR_UTILS_DATA_DIR and CIFAR_UTILS_ARTIFACTS_DIR move the two folders.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run the notebooks, those that have not finished yet",
        description="Run the notebooks, those that have not finished yet, each in a fresh kernel. "
        "Repeating the command after a failure goes on from there.",
    )
    run.add_argument(
        "stages",
        metavar="STAGE",
        nargs="*",
        help="a number or a name, such as 02 or baseline_cnn; all of them if none is given",
    )
    run.add_argument("--from", dest="first", metavar="STAGE", help="this stage and all later ones")
    _source_options(run)
    run.add_argument("--seed", type=int, help="default: 0")
    run.add_argument("--run", dest="name", metavar="NAME", help="default: named by its settings")
    run.add_argument(
        "--set",
        dest="settings",
        type=_assignment,
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter of the notebooks, for every stage that has it; may be repeated",
    )
    run.add_argument(
        "--grid",
        type=_assignment,
        metavar="NAME=VALUES",
        action="append",
        default=[],
        help="a run for each value of SEED or of a parameter, such as SEED=0..4 or RATE=0.1,0.3; "
        "repeated: for each combination, all stages in each, in a folder named after it",
    )
    run.add_argument(
        "--params",
        metavar="FILE",
        help="a YAML file with stages, profile, data, seed, grid, run and parameters, these for "
        "all stages or, under a stage's name, for one; options go before it",
    )
    run.add_argument(
        "--devices",
        metavar="N",
        type=int,
        help="train each model on the first N devices; default: on all GPUs, if there are any",
    )
    run.add_argument("--gpu", action="store_true", help="refuse to run where there is no GPU")
    run.add_argument("--fresh", action="store_true", help="start over, finished stages too")
    run.add_argument(
        "--explain", action="store_true", help="only say which stages would run, and why"
    )
    run.add_argument(
        "--keep-going",
        action="store_true",
        help="after a failure run the stages that do not build on it",
    )
    run.add_argument(
        "--cell-timeout",
        metavar="TIME",
        help="longest time for a cell, such as 90, 30m or 2h; default: any",
    )
    _jobs_options(run)
    run.set_defaults(act=_run)

    rerun = commands.add_parser(
        "rerun",
        allow_abbrev=False,
        help="run a run again and see whether it comes out the same",
        description="Run the stages of a run again with its parameters, seed and images, under a "
        "name of its own, and compare metrics and logits bit for bit. If they differ the exit "
        "status is 10.",
    )
    rerun.add_argument("run", metavar="RUN")
    rerun.add_argument("--as", dest="name", metavar="NAME", help="default: RUN-again1")
    rerun.set_defaults(act=_rerun)

    kept = commands.add_parser("runs", help="look at runs and remove them").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    listing = kept.add_parser("list", allow_abbrev=False, help="all runs and their sizes")
    listing.set_defaults(act=_runs_list)
    show = kept.add_parser("show", allow_abbrev=False, help="what a run is and what it holds")
    show.add_argument("run", metavar="RUN")
    show.set_defaults(act=_runs_show)
    remove = kept.add_parser("remove", allow_abbrev=False, help="remove runs")
    remove.add_argument("runs", metavar="RUN", nargs="+")
    remove.add_argument("--yes", action="store_true", help="without asking")
    remove.set_defaults(act=_runs_remove)
    prune = kept.add_parser(
        "prune",
        allow_abbrev=False,
        help="remove what is left over, and old runs if asked",
        description="Remove what killed runs left half written, and states of trainings that are "
        "done; with an option also whole runs. It lists everything and asks first.",
    )
    prune.add_argument("--keep", metavar="N", type=int, help="keep only the N newest runs")
    prune.add_argument(
        "--older-than", metavar="DAYS", type=float, help="remove runs begun longer ago"
    )
    prune.add_argument("--yes", action="store_true", help="without asking")
    prune.set_defaults(act=_runs_prune)

    tune = commands.add_parser(
        "tune",
        allow_abbrev=False,
        help="search for hyper-parameters",
        description="Search for hyper-parameters that train a network best, judged on validation "
        "images. The study lives in a storage: the same command in other processes, or on other "
        "machines, shares its trials, and repeating it goes on from where it was.",
        epilog="The best trial's recipe is written to the studies' folder; train with it by: "
        "cifar run 02 --set RECIPE=FILE",
    )
    tune.add_argument("--study", metavar="NAME", required=True, help="what is searched, by name")
    tune.add_argument(
        "--trials",
        metavar="N",
        type=int,
        default=20,
        help="trials of the whole study, whoever does them; default: 20",
    )
    tune.add_argument(
        "--timeout", metavar="S", type=float, help="begin no trial after so many seconds"
    )
    tune.add_argument(
        "--storage",
        metavar="URL",
        help="a database, such as postgresql://user@host/name, for several machines, or the path "
        "of a journal file; default: a journal in the artifacts folder",
    )
    tune.add_argument(
        "--sampler", default="tpe", help="how to choose: tpe, random or grid; default: tpe"
    )
    tune.add_argument(
        "--pruner",
        help="what ends trials that lag behind: median, hyperband or none; default: median, with "
        "several objectives none",
    )
    tune.add_argument(
        "--objective",
        dest="objectives",
        metavar="NAME",
        action="append",
        help="accuracy or seconds; may be repeated; default: accuracy",
    )
    tune.add_argument(
        "--space",
        default="default",
        help="default, training (only what every network has), or a TOML file with a table for "
        "each setting: choices, or low, high and log",
    )
    tune.add_argument("--model", default="baseline_cnn", help="the network; default: baseline_cnn")
    _source_options(tune)
    tune.add_argument("--seed", type=int, default=0, help="default: 0")
    tune.set_defaults(act=_tune)

    results = commands.add_parser(
        "results",
        allow_abbrev=False,
        help="compare results",
        description="Print the results of runs, the best first, those measured on other images "
        "apart. Of two runs it also says what they differ in.",
    )
    results.add_argument("runs", metavar="RUN", nargs="*", help="all runs if none is given")
    form = results.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every figure, as a JSON list")
    form.add_argument("--csv", action="store_true", help="every figure, as CSV")
    results.set_defaults(act=_results)

    page = commands.add_parser(
        "report",
        allow_abbrev=False,
        help="write a run's page",
        description="Write the page about a run, report.html in its folder, and a card for each of "
        "its models. Every run ends with that, too.",
    )
    page.add_argument("run", metavar="RUN", help="such as smoke-synthetic-seed0")
    page.set_defaults(act=_report)

    predict = commands.add_parser(
        "predict",
        allow_abbrev=False,
        help="say what is on pictures",
        description="Say what a trained model sees on pictures. One that cannot be read is "
        "reported and does not stop the others; then the exit status is 1.",
    )
    predict.add_argument(
        "pictures", metavar="PATH", nargs="+", help="files, folders, and patterns such as '*.jpg'"
    )
    _model_option(predict)
    predict.add_argument(
        "--top", metavar="N", type=int, default=3, help="how many classes to name; default: 3"
    )
    _fit_option(predict)
    written = predict.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="every figure, a JSON object a line")
    written.add_argument("--csv", action="store_true", help="a row a picture, as CSV")
    predict.set_defaults(act=_predict)

    serve = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="serve a page that says what is on pictures",
        description="Serve a page, and an API, that say what is on pictures, with the models of "
        "all runs to choose from. Nothing that is sent is kept.",
    )
    _model_option(serve)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; default: only this machine"
    )
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0 for any free one")
    serve.add_argument(
        "--rate",
        metavar="N",
        type=int,
        help="pictures that a client may send in a minute, 0 for any number; default: 600",
    )
    serve.add_argument(
        "--framed", action="store_true", help="let pages from elsewhere show it inside them"
    )
    serve.set_defaults(act=_serve)

    export = commands.add_parser(
        "export",
        allow_abbrev=False,
        help="write a trained model for other programs",
        description="Write a trained model in another format, compare its answers with those of "
        "the original on validation images, and both in size and speed.",
    )
    export.add_argument("model", metavar="MODEL", help="as for cifar predict --model, or auto")
    export.add_argument("--format", choices=("onnx", "litert", "savedmodel"), default="onnx")
    export.add_argument(
        "--int8",
        action="store_true",
        help="weights and activations of 8 bits: smaller, less accurate",
    )
    export.add_argument("--output", metavar="PATH", help="default: beside the model")
    export.add_argument(
        "--data", default="auto", help="images to compare answers on, as for cifar run"
    )
    export.set_defaults(act=_export)

    data = commands.add_parser("data", help="get, check and look at the images").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    fetch = data.add_parser(
        "fetch",
        allow_abbrev=False,
        help="download the archive",
        description="Download the CIFAR-10 archive into the data folder, from whichever source is "
        "fast enough, check it and read it once. Repeating the command after a failure goes on "
        "from there.",
        epilog="CIFAR_UTILS_MIRRORS names a TOML file with other archives and sources.",
    )
    fetch.add_argument(
        "--archive", metavar="NAME", help="such as cifar-10-binary.tar.gz; default: the first known"
    )
    fetch.add_argument(
        "--mirror",
        dest="mirrors",
        metavar="URL",
        action="append",
        default=[],
        help="where to try first: the URL of the archive or, with / at its end, of its folder; may "
        "be repeated",
    )
    fetch.set_defaults(act=_data_fetch)
    for name, act, purpose, description in (
        (
            "verify",
            _data_verify,
            "read all files again and check them",
            "Compare the archive, or the files unpacked from it, and the arrays cached from them "
            "with their checksums. The exit status is 1 if something is damaged.",
        ),
        (
            "info",
            _data_info,
            "say what the images are",
            "Say what the images are, where they came from and whether they are official.",
        ),
    ):
        command = data.add_parser(name, allow_abbrev=False, help=purpose, description=description)
        command.add_argument(
            "source",
            metavar="PATH",
            nargs="?",
            default="auto",
            help="an archive or the folder of an unpacked one; default: what is in the data folder",
        )
        command.set_defaults(act=act)
    return top


def _source_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--profile",
        help="how much to do: smoke, cpu, gpu or auto (gpu where there is one, else smoke)",
    )
    command.add_argument(
        "--data",
        help="synthetic, a CIFAR-10 archive, the folder of an unpacked one, or auto (what is in "
        "the data folder; where nothing is, the smoke profile draws synthetic images, the others "
        "download the archive)",
    )


def _model_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default="auto",
        help="RUN/STAGE, a stage such as 03 of the newest run that has it, or a file; default: "
        "what notebook 06 chose in the newest run",
    )


def _jobs_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        help="stages, and runs of a grid, side by side; they share the cores; default: 1",
    )
    command.add_argument(
        "--memory",
        metavar="GB",
        type=float,
        help="what stages side by side may take together; default: most of what is free",
    )


def _fit_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fit",
        choices=("crop", "pad", "stretch"),
        default="crop",
        help="what to do with pictures that are not square; default: crop",
    )


def _run(options: argparse.Namespace) -> None:
    from cifar_utils import pipeline

    request = _request(options)
    if options.devices is not None:
        if options.devices < 1:
            raise ParameterError(f"--devices {options.devices}: expected a number from 1")
        os.environ["CIFAR_UTILS_DEVICES"] = str(options.devices)  # which the kernels inherit
    if options.explain:
        _explain(request)
        return
    made = pipeline.run(request)
    print()
    # A grid is there to choose from, and choosing is not the test set's.
    choosing = bool(request.grid.keys() - {"SEED"})
    _outcome(made, ("validation",) if choosing else ("validation", "test"))
    for run in made:
        print(f"report: {run.folder / 'report.html'}")


def _explain(request: "pipeline.Request") -> None:
    """Print which stages would run, and why."""
    from cifar_utils import grids, pipeline

    found = pipeline.explain(request)
    if request.grid:
        print(f"{len({verdict.run for verdict in found})} runs, each with all stages asked for")
    for stage, names in grids.repeated(request.grid, request.stages).items():
        print(f"{stage} does not depend on {', '.join(names)}, but runs for each value")
    for verdict in found:
        name = f"{verdict.run}/{verdict.stage}" if request.grid else verdict.stage
        if verdict.reasons:
            print(f"{name}  would run", *verdict.reasons, sep="\n    ")
        else:
            print(f"{name}  is done")


def _request(options: argparse.Namespace) -> "pipeline.Request":
    """Return what the options of ``cifar run`` and its file ask for; options go first."""
    from pathlib import Path

    from cifar_utils import grids, parameters, pipeline

    nothing = parameters.Filed(None, None, None, None, {}, None, {})
    filed = parameters.read(Path(options.params)) if options.params else nothing
    for name in ("jobs", "memory"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ParameterError(f"--{name} {value:g}: expected a number above 0")
    names = options.stages or (None if options.first else filed.stages) or []
    seed = filed.seed if options.seed is None else options.seed
    fixed = {setting.partition("=")[0] for setting in options.settings}
    fixed |= {"SEED"} if options.seed is not None else set()
    return pipeline.Request(
        stages=pipeline.select(names, options.first),
        profile=options.profile or filed.profile or "auto",
        source=options.data or filed.data or "auto",
        seed=seed or 0,
        grid=grids.read(options.grid, filed.grid, fixed),
        name=options.name or filed.run or "auto",
        settings=tuple(options.settings),
        parameters=filed.parameters,
        file=options.params or "",
        fresh=options.fresh,
        keep_going=options.keep_going,
        cell_seconds=None if options.cell_timeout is None else _seconds(options.cell_timeout),
        jobs=options.jobs,
        memory=None if options.memory is None else int(options.memory * 1e9),
        gpu=options.gpu,
    )


def _seconds(text: str) -> int:
    """Return the seconds that a text such as ``90``, ``30m`` or ``2h`` means."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not number.isdecimal() or int(number) < 1:
        raise ParameterError(f"--cell-timeout {text}: expected such as 90, 30m or 2h")
    return int(number) * units[unit]


def _rerun(options: argparse.Namespace) -> None:
    from cifar_utils import leaderboard, reruns, runs

    second, found = reruns.run(reruns.request(options.run, options.name))
    print()
    _show([_repeated_table([(second, each) for each in found])])
    if differing := [each.stage for each in found if each.differing]:
        first = runs.load(options.run)
        changed = [
            f"{name} was {was}, is {now}" for name, was, now in leaderboard.differing(first, second)
        ]
        raise DifferentError(
            f"{', '.join(differing)} came out differently than in {first.name}; "
            + (
                "what else differs:\n- " + "\n- ".join(changed)
                if changed
                else "nothing else differs"
            )
        )
    print(f"{second.name} came out the same as {options.run}, bit for bit")


def _runs_list(options: argparse.Namespace) -> None:
    from cifar_utils import housekeeping, paths, runs

    found = housekeeping.entries()
    if not found:
        print(f"no runs yet in {paths.artifacts_dir()}; make one with: cifar run")
        return
    rows = [
        (
            entry.name,
            _size(entry.size),
            f"{len(entry.finished)} of {len(runs.STAGES)} stages",
            entry.created[:16],
            entry.state,
        )
        for entry in found
    ]
    _print_columns([*rows, ("in all", _size(sum(entry.size for entry in found)), "", "", "")])


def _runs_show(options: argparse.Namespace) -> None:
    from cifar_utils import housekeeping, runs

    run = runs.load(options.run)
    about = [("folder", str(run.folder)), ("options", run.options())]
    names = ("created", "hardware", "git_commit", "repeats")
    about += [(name, str(run.manifest[name])) for name in names if run.manifest.get(name)]
    _print_columns(about)
    if held := housekeeping.contents(run):
        print()
        _print_columns([(name, _size(size), state) for name, size, state in held])


def _runs_remove(options: argparse.Namespace) -> None:
    from cifar_utils import runs

    _remove([runs.load(name).folder for name in dict.fromkeys(options.runs)], options.yes)


def _runs_prune(options: argparse.Namespace) -> None:
    from cifar_utils import housekeeping

    for name in ("keep", "older_than"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ParameterError(f"--{name.replace('_', '-')} {value:g}: expected 0 or more")
    found = housekeeping.superfluous(options.keep, options.older_than)
    if not found:
        print("nothing to remove")
        return
    _remove(found, options.yes)


def _remove(found: "list[Path]", yes: bool) -> None:
    """Say what would be removed, ask unless told not to, and remove it."""
    from cifar_utils import housekeeping, stages

    sizes = [stages.size(path) for path in found]
    rows = [(str(path), _size(size)) for path, size in zip(found, sizes, strict=True)]
    _print_columns([*rows, ("in all", _size(sum(sizes)))])
    if not yes:
        try:
            answer = input("remove? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("nothing was removed; --yes removes without asking")
            return
    freed = sum(housekeeping.remove(path) for path in found)
    print(f"removed {_size(freed).strip()}")


def _size(count: int) -> str:
    """Return bytes in megabytes."""
    return f"{count / 1e6:10,.1f} MB"


def _tune(options: argparse.Namespace) -> None:
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise CifarUtilsError(
            "tuning needs the package optuna, which is not installed; run `pip install optuna`"
        )
    from cifar_utils import data, profiles, runtime, studies, tuning

    profile = profiles.resolve(options.profile or "auto")
    task = tuning.task(
        profile,
        data.load(options.data or "auto", profile),
        model=options.model,
        space=options.space,
        objectives=options.objectives or ["accuracy"],
        seed=options.seed,
    )
    study = task.open(
        options.study, storage=options.storage, sampler=options.sampler, pruner=options.pruner
    )
    print(runtime.start(options.seed))
    studies.search(
        study,
        task,
        options.trials,
        timeout=options.timeout,
        told=lambda trial: print(tuning.described(trial), flush=True),
    )
    best = tuning.best(study)
    path = studies.folder() / f"{options.study}.recipe.json"
    tuning.write_winner(study, task, path)
    counted = len(study.trials(*studies.SETTLED))
    print(f"{counted} of {options.trials} trials are over; the best: {tuning.described(best)}")
    print(f"recipe: {path}")


def _results(options: argparse.Namespace) -> None:
    from cifar_utils import paths, runs

    chosen = [runs.load(name) for name in options.runs or runs.names()]
    rows = [row for run in chosen for row in run.results()]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.csv:
        import csv

        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif not rows:
        print(f"no results yet in {paths.artifacts_dir()}; make some with: cifar run")
    else:
        _outcome(chosen)
        if repeats := _repeats(chosen):
            _show([_repeated_table(repeats)])
        if len(options.runs) == 2:
            _show(_comparison(*chosen))


def _outcome(chosen: "list[runs.Run]", splits: Sequence[str] = ("validation", "test")) -> None:
    """Print the results of runs on some splits, and what several seeds say."""
    from cifar_utils import leaderboard

    _show(tables([row for run in chosen for row in run.results() if row.get("split") in splits]))
    if seeds := [row for row in leaderboard.over_seeds(chosen) if row.split in splits]:
        gaps = [gap for gap in leaderboard.gaps_over_seeds(chosen) if gap.split in splits]
        _show([_seeds_table(seeds), *_gaps_table(gaps)])


def _report(options: argparse.Namespace) -> None:
    from cifar_utils import report, runs

    print(f"report: {report.write(runs.load(options.run))}")


def _predict(options: argparse.Namespace) -> None:
    import csv

    from rich.console import Console
    from rich.progress import Progress

    from cifar_utils import predict

    if options.top < 1:
        raise ParameterError(f"--top {options.top}: expected a number from 1")
    warnings.filterwarnings("ignore", module="PIL")
    paths = predict.expand(options.pictures)
    predictor = predict.Predictor(options.model, fit=options.fit)
    print(f"model: {predictor.source.name}", file=sys.stderr)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    if options.csv:
        places = range(1, options.top + 1)
        ranks = [f"{what}_{place}" for place in places for what in ("class", "probability")]
        rows.writerow(["path", "label", "why", "error", *ranks])
    bad = 0
    # Of standard output rich would make lines of its own, and programs read those here.
    with Progress(
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=len(paths) <= 100 or not sys.stderr.isatty(),
    ) as progress:
        found = progress.track(predictor.predict_many(paths), len(paths), description="pictures")
        for path, each in zip(paths, found, strict=True):
            if isinstance(each, PictureError):
                bad += 1
                if options.json:
                    print(json.dumps({"path": str(path), "error": str(each)}))
                elif options.csv:
                    rows.writerow([path, "", "", each])
                else:
                    print(f"cifar: {path}: {each}", file=sys.stderr)
            elif options.json:
                print(json.dumps({"path": str(path), **each.record(options.top)}))
            elif options.csv:
                ranked = [
                    text for name, share in each.top(options.top) for text in (name, f"{share:.6f}")
                ]
                rows.writerow([path, each.label if each.known else "", each.why, "", *ranked])
            else:
                named = ", ".join(f"{name} {share:.1%}" for name, share in each.top(options.top))
                verdict = "" if each.known else f"none of the ten classes ({each.why}); nearest: "
                print(f"{path}: {verdict}{named}")
    if bad:
        raise PictureError(f"{bad:,} of {len(paths):,} pictures could not be read")


def _serve(options: argparse.Namespace) -> None:
    from cifar_utils import predict
    from cifar_utils.web import app, server

    warnings.filterwarnings("ignore", module="PIL")
    first = predict.find(options.model)
    others = [source for source in predict.available() if source.name != first.name]
    limits = app.Limits() if options.rate is None else app.Limits(pictures_per_minute=options.rate)
    server.serve([first, *others], options.host, options.port, limits, framed=options.framed)


def _export(options: argparse.Namespace) -> None:
    from pathlib import Path

    from cifar_utils import data, export, predict

    source = predict.find(options.model)
    dataset = data.load(options.data)
    exported = export.write(
        source,
        options.format,
        dataset,
        int8=options.int8,
        path=Path(options.output) if options.output else None,
    )
    _print_columns([("written", str(exported.path)), *exported.described()[1:]])


def _data_fetch(options: argparse.Namespace) -> None:
    from cifar_utils import data, download

    path = download.fetch(options.archive, mirrors=options.mirrors)
    print()
    _print_columns(data.describe(data.load(path)))


def _data_verify(options: argparse.Namespace) -> None:
    from cifar_utils import data

    checks = data.verify(options.source)
    damaged = [check for check in checks if check.state == "DAMAGED"]
    rows = []
    for check in checks:
        # What to do about a damaged file comes at the end, where it is seen.
        note = "" if check in damaged else f" ({check.note})"
        rows.append((str(check.path), f"{check.bytes:>11,} bytes", check.state + note))
    _print_columns(rows)
    if damaged:
        notes = "".join(f"\n- {check.note}" for check in damaged)
        raise DataError(f"damaged files: {len(damaged)} of {len(checks)}{notes}")


def _data_info(options: argparse.Namespace) -> None:
    from cifar_utils import data

    _print_columns(data.describe(data.load(data.locate(options.source))))


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of as many cells each, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> "Table":
    """Return an empty table with columns set to the left, then to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(*left, box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
    for name in right:
        made.add_column(name, justify="right")
    return made


def _cells(*texts: object) -> list[Any]:
    """Return texts as cells that no markup changes; nothing for None."""
    from rich.text import Text

    return [Text("" if text is None else str(text)) for text in texts]


def _percent(value: float, low: float, high: float) -> str:
    """Return a share and its interval in percent."""
    return f"{100 * value:5.2f}  [{100 * low:.2f}, {100 * high:.2f}]"


def tables(rows: list[dict[str, Any]]) -> "list[Table]":
    """Return a table for each group of results that may be compared, the best first.

    Args:
        rows: As ``runs.Run.results`` returns them.
    """
    from cifar_utils import leaderboard

    shown = []
    for title, group in leaderboard.comparable(rows).items():
        table = _table(
            title,
            ("stage", "run", "profile", "pretraining", "hardware", "behaviour"),
            ("seed", "accuracy %  [95%]", "n", "parameters", "training"),
        )
        for row in group:
            seconds, parameters = row.get("training_seconds"), row.get("parameters")
            names = ("stage", "run", "profile", "pretraining", "hardware")
            failed = row.get("failed_tests")
            cells = _cells(
                *(row[name] for name in names),
                failed and f"fails {failed} test{'s' * (failed > 1)}" if failed != 0 else "passes",
                row["seed"],
                _percent(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
                f"{row['n']:,}",
                None if parameters is None else f"{parameters:,}",
                None if seconds is None else f"{seconds:,.1f} s",
            )
            table.add_row(*cells)
        shown.append(table)
    return shown


def _seeds_table(found: "list[leaderboard.Seeds]") -> "Table":
    """Return a table of means over seeds."""
    left = ["stage", "settings", "split", "data", "profile", "pretraining"]
    if not any(row.settings for row in found):
        left.remove("settings")
    table = _table("means over seeds", left, ("seeds", "accuracy %  [95%]"))
    for row in found:
        cells = (getattr(row, name) for name in [*left, "seeds"])
        table.add_row(*_cells(*cells, _percent(*row.accuracy)))
    return table


def _gaps_table(found: "list[leaderboard.Gap]") -> "list[Table]":
    """Return a table of differences over seeds, if there are any."""
    if not found:
        return []
    left = ("stage", "minus", "split", "data", "profile")
    table = _table("differences over seeds, paired", left, ("seeds", "points  [95%]"))
    for row in found:
        table.add_row(*_cells(*row[:-1], _points(*row.difference)))
    return [table]


def _repeats(chosen: "list[runs.Run]") -> "list[tuple[runs.Run, leaderboard.Repeated]]":
    """Return how the reruns among some runs came out."""
    from cifar_utils import leaderboard, runs

    known = set(runs.names())
    return [
        (run, repeated)
        for run in chosen
        if run.manifest.get("repeats") in known
        for repeated in leaderboard.repeated(runs.load(run.manifest["repeats"]), run)
    ]


def _repeated_table(found: "list[tuple[runs.Run, leaderboard.Repeated]]") -> "Table":
    """Return a table of what reruns gave."""
    table = _table("reruns", ("stage", "run", "repeats", "came out"), ())
    for run, repeated in found:
        outcome = "differently: " + ", ".join(repeated.differing)
        if not repeated.differing:
            outcome = "the same, bit for bit"
        table.add_row(*_cells(repeated.stage, run.name, run.manifest["repeats"], outcome))
    return table


def _points(value: float, low: float, high: float) -> str:
    """Return a difference of shares and its interval in points."""
    return f"{100 * value:+.2f}  [{100 * low:+.2f}, {100 * high:+.2f}]"


def _comparison(first: "runs.Run", second: "runs.Run") -> "list[Table]":
    """Return tables of what two runs differ in, and of how their results do."""
    from cifar_utils import leaderboard

    settings = _table("what differs", ("setting", first.name, second.name), ())
    for difference in leaderboard.differing(first, second):
        settings.add_row(*_cells(*difference))
    outcome = _table(
        f"results of {second.name} minus those of {first.name}",
        ("stage", "split"),
        (first.name, second.name, "points  [95%]", "verdict"),
    )
    for change in leaderboard.changes(first, second):
        gap, verdict = None, "other images"
        if change.gap is not None and change.p_holm is not None:
            gap = _points(*change.gap)
            verdict = "different" if change.p_holm < 0.05 else "within noise"
        shares = (f"{100 * each.value:.2f}" for each in (change.first, change.second))
        outcome.add_row(*_cells(change.stage, change.split, *shares, gap, verdict))
    return [each for each in (settings, outcome) if each.row_count]


def _show(shown: "list[Table]") -> None:
    """Print tables whole, also where the terminal is narrower than they are."""
    from rich.console import Console

    console = Console()
    for each in shown:
        needed = console.measure(each, options=console.options.update_width(1000)).maximum
        Console(width=max(console.width, needed)).print(each)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Returns:
        0 when everything asked for was done, 2 when the command line was refused, 130 when the user
        stopped it, else the ``status`` of the error that it ended with, 1 for most.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # A log file's narrow encoding must not stop a run over a heading's dot.
        sys.stdout.reconfigure(errors="replace")
    options = parser().parse_args(arguments)
    try:
        options.act(options)
    except CifarUtilsError as error:
        print(f"cifar: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("cifar: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
