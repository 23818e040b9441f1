"""Studies in a storage that any number of processes share: each trial is done once, none is lost.

A study (Optuna's) lives in a file or a database. Whoever runs the same search joins: it takes the
next trial, or one whose worker has died, until the study has as many as were asked for.
"""

import contextlib
import logging
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from cifar_utils import paths
from cifar_utils.errors import CifarUtilsError, ParameterError, RunError, nearest

Direction = Literal["maximize", "minimize"]

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband", "none")

SETTLED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of a trial that counts and is over."""

_FAILED = TrialState.FAIL
"""State of a trial that does not count: its worker died or failed, or it was one too many."""

_BEAT = 15
"""Seconds between signs of life of a worker in a database; after four of them it counts as dead."""

_RETRIES = 2
"""How often the values of a trial are tried again whose worker has died. Perhaps they kill it."""

_CLAIM = 10.0
"""Seconds in which a worker must have put its name on the trial that it has taken."""

_PAUSE = 0.5
"""Seconds between looks at trials that others have yet to finish."""


class _SurplusError(Exception):
    """Another worker was quicker to take the last trial, or these values of a grid."""


class _Lock:
    """The lock on a journal's file; the system frees it when a worker dies."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire(poll_interval=0.001)
        return True

    def release(self) -> None:
        """Free the lock."""
        self._lock.release()


@dataclass(frozen=True)
class Study:
    """A study and how this process takes part in it; ``opened`` makes it.

    Attributes:
        optuna: What Optuna has of it.
        storage: Where it lives.
        settings: What must be the same for all who take part.
        locks: Folder with a locked file for each worker of a journal, which the system unlocks when
            the worker dies; None for a database, which goes by signs of life.
        most: Most trials that the sampler has different values for; None without a limit.
    """

    optuna: optuna.Study
    storage: BaseStorage
    settings: dict[str, Any]
    locks: Path | None
    most: int | None

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states, all of them if none is given, as they are now."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def identity(self, trial: FrozenTrial) -> int:
        """Return the number by which the storage knows a trial, in all its studies."""
        study = self.storage.get_study_id_from_name(self.optuna.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, trial.number)


def folder() -> Path:
    """Return where studies are kept that are given no storage."""
    return paths.artifacts_dir() / "studies"


def _storage(storage: str) -> BaseStorage:
    """Return Optuna's storage behind a database's URL or the path of a journal."""
    if "://" not in storage:
        path = Path(storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: Any = _Lock(path.with_name(f".{path.name}.lock"))
        try:
            return optuna.storages.JournalStorage(JournalFileBackend(storage, lock_obj=lock))
        except (ValueError, KeyError, OSError) as error:
            raise RunError(f"{path} is not a journal of studies: {error!r}") from error
    database = storage.partition("://")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.storages.RDBStorage(
                storage,
                heartbeat_interval=_BEAT,
                grace_period=4 * _BEAT,
                heartbeat_stale_trial_callback=_again,
            )
    except ImportError as error:
        raise CifarUtilsError(
            f"a {database} storage needs a package that is not installed: {error}; for PostgreSQL "
            "run `pip install 'psycopg[binary]'`"
        ) from error
    except Exception as error:
        # SQLAlchemy's errors are of many kinds, and quote the URL with its password at length.
        reason = str(error).splitlines()[0]
        raise CifarUtilsError(f"the {database} storage cannot be used: {reason}") from error


def _sampler(
    name: str, seed: int, grid: Mapping[str, Sequence[Any]], objectives: int
) -> optuna.samplers.BaseSampler:
    if name == "grid":
        # Of one seed for all workers, so that they go through the grid in the same order.
        return optuna.samplers.GridSampler(grid, seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=5,
            multivariate=True,
            constant_liar=objectives == 1,  # running trials count, so that workers do not gather
        )


def _pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 4)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(2, epochs))
    return optuna.pruners.NopPruner()


def opened(
    name: str,
    settings: Mapping[str, Any],
    *,
    grid: Mapping[str, Sequence[Any]],
    directions: Sequence[Direction] = ("maximize",),
    storage: str | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    epochs: int = 1,
    seed: int = 0,
) -> Study:
    """Open a study, or begin it (notebook 07 introduces it).

    Args:
        name: Letters, digits, ``.``, ``_`` and ``-``.
        settings: JSON values of everything else that a trial's outcome depends on.
        grid: Values of each parameter, which the grid sampler goes through.
        directions: ``maximize`` or ``minimize`` for each objective.
        storage: URL of a database, such as ``postgresql://user@host/name``, or path of a journal;
            None for a journal in ``folder()``.
        sampler: ``tpe`` (Bergstra et al., NIPS 2011), ``random`` or ``grid``.
        pruner: What ends trials early that lag behind: ``median``, ``hyperband`` (arXiv
            1603.06560) or ``none``.
        epochs: Most steps that a trial reports, which the pruner plans with.
        seed: Of sampling. Whoever begins the study takes it; those who join or resume it draw
            other numbers, so that no values are drawn again. The grid's order is the same for all.

    Raises:
        ParameterError: A name is unknown or unusable, pruning was asked for with several
            objectives, or the study was begun with other settings.
        CifarUtilsError: The storage cannot be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ParameterError(
            f"study name {name!r} is not usable; use letters, digits, '.', '_' and '-', at most 100"
        )
    for what, value, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if value not in known:
            raise ParameterError(f"unknown {what} {value!r}{nearest(value, list(known))}")
    if len(directions) > 1 and pruner != "none":
        raise ParameterError(
            f"pruner {pruner!r} goes by one objective, and there are {len(directions)}; choose "
            "'none', or one objective"
        )
    optuna.logging.set_verbosity(logging.CRITICAL)  # what matters of it is printed by us
    place = storage or str(folder() / f"{name}.journal")
    kept = _storage(place)
    try:
        found = optuna.create_study(storage=kept, study_name=name, directions=list(directions))
        drawn = seed
    except optuna.exceptions.DuplicatedStudyError:
        found = optuna.load_study(storage=kept, study_name=name)
        drawn = int.from_bytes(os.urandom(4))
    found.sampler = _sampler(sampler, seed if sampler == "grid" else drawn, grid, len(directions))
    found.pruner = _pruner(pruner, epochs)
    most = None
    if sampler == "grid":
        most = 1
        for values in grid.values():
            most *= len(values)
    locks = None
    if "://" not in place:
        locks = Path(place).with_suffix(".running") / name
        locks.mkdir(parents=True, exist_ok=True)
    ours = {**settings, "sampler": sampler, "pruner": pruner, "directions": list(directions)}
    study = Study(found, kept, ours | {"seed": seed}, locks, most)
    if "settings" not in found.user_attrs:
        found.set_user_attr("settings", study.settings)
    _check(study)
    return study


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, its keys joined by dots."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(inner, f"{name}.{key}" if name else key) for key, inner in value.items()]
    return {key: inner for part in parts for key, inner in part.items()}


def _check(study: Study) -> None:
    """Refuse to take part in a study that was begun with other settings.

    Raises:
        ParameterError: Each setting that differs, with both values.
    """
    theirs, ours = _flat(study.optuna.user_attrs["settings"]), _flat(study.settings)
    differing = [
        f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise ParameterError(
            f"study {study.optuna.study_name!r} was begun with other settings: "
            f"{'; '.join(differing)}; use the same, or another name"
        )


@contextlib.contextmanager
def _working(study: Study) -> Iterator[str]:
    """Yield the name of a new worker, which counts as alive until the block ends."""
    name = f"{platform.node()}-{os.getpid()}-{os.urandom(4).hex()}"
    if study.locks is None:
        yield name
        return
    path = study.locks / name
    with FileLock(path):
        yield name
    path.unlink(missing_ok=True)


def _is_dead(study: Study, trial: FrozenTrial) -> bool:
    """Return whether nobody works on a running trial of a journal any more."""
    worker = trial.user_attrs.get("worker")
    if worker is None:
        assert trial.datetime_start is not None
        return time.time() - trial.datetime_start.timestamp() > _CLAIM
    assert study.locks is not None
    path = study.locks / worker
    if not path.exists():
        return True
    try:
        with FileLock(path).acquire(timeout=0):
            return True
    except Timeout:
        return False


def _again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Have the values of a trial tried again whose worker has died."""
    lost = [*trial.system_attrs.get("lost", []), trial.number]
    if len(lost) > _RETRIES:
        return
    kept = ("grid_id", "search_space", "fixed_params")
    attributes = {key: trial.system_attrs[key] for key in kept if key in trial.system_attrs}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=attributes | {"lost": lost},
        )
    )


def _revive(study: Study) -> None:
    """Have the trials of dead workers tried again."""
    if study.locks is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study.optuna)
        return
    for trial in study.trials(TrialState.RUNNING):
        if _is_dead(study, trial):
            # Of several workers that see it, the storage lets one say so.
            with contextlib.suppress(UpdateFinishedTrialError):
                study.storage.set_trial_state_values(study.identity(trial), _FAILED)
                _again(study.optuna, trial)


def _claim(study: Study, trial: optuna.Trial, total: int) -> None:
    """Give a trial back that is one too many, or whose values of a grid another one has.

    Trials are numbered in the order in which they were begun, by the storage. Those that failed do
    not count; so at most ``total`` get past this.
    """
    trials = study.trials()
    others = [each for each in trials if each.state != _FAILED and each.number != trial.number]
    place = trials[trial.number].system_attrs.get("grid_id")
    twin = any(place is not None and each.system_attrs.get("grid_id") == place for each in others)
    if twin or sum(each.number < trial.number for each in others) >= total:
        raise _SurplusError


def search(
    study: Study,
    objective: Callable[[optuna.Trial], float | Sequence[float]],
    total: int,
    *,
    timeout: float | None = None,
    told: Callable[[FrozenTrial], None] | None = None,
) -> int:
    """Take part in a study until it has ``total`` trials (notebook 07 introduces it).

    Returns only when all of them are over, also those of other workers: one of those may yet die,
    and its trial then has to be done.

    Args:
        study: Of ``opened``.
        objective: Of a trial, the value of each objective. It may raise ``optuna.TrialPruned``.
        total: Trials of the study, whoever does them, those that were pruned included.
        timeout: Seconds after which no further trial is begun; None for no limit.
        told: Is told each trial that was done here.

    Returns:
        How many trials were done here.

    Raises:
        ParameterError: ``total`` is not positive, or somebody has begun the study with other
            settings.
    """
    if total < 1:
        raise ParameterError(f"{total} trials were asked for; expected 1 or more")
    total = min(total, study.most or total)
    done, started = 0, time.monotonic()
    with _working(study) as worker:
        while timeout is None or time.monotonic() - started < timeout:
            _check(study)
            counted = [trial for trial in study.trials() if trial.state != _FAILED]
            if sum(trial.state in SETTLED for trial in counted) >= total:
                break
            waiting = any(trial.state == TrialState.WAITING for trial in counted)
            if not waiting and len(counted) >= total:
                _revive(study)
                time.sleep(_PAUSE)  # others work on the last ones, or have died
                continue
            number = _one(study, objective, worker, total)
            if number is not None:
                done += 1
                if told is not None:
                    told(study.trials()[number])
    return done


def _one(
    study: Study,
    objective: Callable[[optuna.Trial], float | Sequence[float]],
    worker: str,
    total: int,
) -> int | None:
    """Do the next trial, and return its number; None if there was none left, or it was lost."""
    claimed: list[int] = []
    over: list[int] = []

    def attempt(trial: optuna.Trial) -> float | Sequence[float]:
        trial.set_user_attr("worker", worker)
        _claim(study, trial, total)
        claimed.append(trial.number)
        try:
            values = objective(trial)
        except optuna.TrialPruned:
            over.append(trial.number)
            raise
        over.append(trial.number)
        return values

    try:
        study.optuna.optimize(attempt, n_trials=1, catch=(_SurplusError,))
    except Exception:
        # A worker that slept for a minute, with its machine say, is taken for dead; Optuna then
        # refuses its values in one of several ways.
        if not over or study.trials()[over[0]].state != _FAILED:
            raise
        print(f"trial {over[0]} took so long to answer that it was given to another worker")
        return None
    return claimed[0] if claimed else None
