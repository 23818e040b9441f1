"""Studies that processes share: exact numbers of trials, none twice, dead workers replaced."""

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from cifar_utils import studies
from cifar_utils.errors import CifarUtilsError, ParameterError, RunError
from tests.unit import tuning_worker

ROOT = Path(__file__).parents[2]
GRID = {"x": [0, 1, 2], "y": [False, True]}


def opened(folder, **changes):
    options = {"settings": {"data": "grey"}, "grid": GRID, "storage": str(folder / "s.journal")}
    options |= changes
    return studies.opened(options.pop("name", "s"), options.pop("settings"), **options)


def parabola(trial):
    return -((trial.suggest_float("x", 0, 3) - 1) ** 2)


def from_grid(trial):
    return trial.suggest_categorical("x", GRID["x"]) + trial.suggest_categorical("y", GRID["y"])


def worker(folder, total, seconds=0.0):
    command = [sys.executable, "-m", "tests.unit.tuning_worker", str(folder / "s.journal")]
    return subprocess.Popen([*command, str(total), str(folder / "log"), str(seconds)], cwd=ROOT)


def lines(folder):
    """What the workers noted: begun or over, number of the trial, process."""
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(found):
    limit = time.monotonic() + 60
    while not found():
        assert time.monotonic() < limit, "waited for a minute"
        time.sleep(0.01)


def states(study):
    return collections.Counter(trial.state.name for trial in study.trials())


def test_a_search_ends_with_as_many_trials_as_asked_for(tmp_path):
    study, told = opened(tmp_path), []
    assert studies.search(study, parabola, 5, told=told.append) == 5
    assert [trial.number for trial in told] == [0, 1, 2, 3, 4]
    assert all(trial.state.name == "COMPLETE" for trial in told)
    assert studies.search(study, parabola, 5) == 0, "none is left"


def test_a_study_goes_on_where_it_was_and_draws_nothing_again(tmp_path):
    studies.search(opened(tmp_path, sampler="random"), parabola, 3)
    again = opened(tmp_path, sampler="random")
    assert studies.search(again, parabola, 6) == 3
    values = [trial.params["x"] for trial in again.trials()]
    assert len(set(values)) == 6


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_gives_the_same_trials(tmp_path, sampler):
    found = []
    for name in ("a", "b"):
        study = opened(tmp_path, name=name, sampler=sampler, seed=3)
        studies.search(study, parabola, 8)
        found.append([trial.params["x"] for trial in study.trials()])
    assert found[0] == found[1]


def test_tpe_gathers_where_it_is_good(tmp_path):
    study = opened(tmp_path)
    studies.search(study, parabola, 40)
    away = [abs(trial.params["x"] - 1) for trial in study.trials()]
    assert sum(away[20:]) / 20 < 0.7 * sum(away[:10]) / 10


def test_a_grid_is_gone_through_once_and_then_ends(tmp_path):
    study = opened(tmp_path, sampler="grid")
    assert studies.search(study, from_grid, 100) == 6
    points = [tuple(sorted(trial.params.items())) for trial in study.trials()]
    assert len(set(points)) == 6


def test_two_workers_do_not_take_one_point_of_a_grid(tmp_path):
    study = opened(tmp_path, sampler="grid")
    rival = study.optuna.ask()

    def late(trial):
        assert trial.number != rival.number
        return from_grid(trial)

    # The rival has the point that the next trial would have in a study that began anew.
    study.storage.set_trial_system_attr(rival._trial_id, "grid_id", 1)
    rival.set_user_attr("worker", "elsewhere")
    with studies.FileLock(study.locks / "elsewhere"):
        studies.search(study, late, 3, timeout=1)
    assert states(study)["FAIL"] == 1, "number 1 was given back"
    places = [
        trial.system_attrs["grid_id"] for trial in study.trials() if trial.state.name != "FAIL"
    ]
    assert len(places) == len(set(places)) == 3


def test_pruned_trials_count_and_failed_ones_do_not(tmp_path):
    def pruned_every_other_time(trial):
        if trial.number % 2:
            raise optuna.TrialPruned
        return parabola(trial)

    study = opened(tmp_path)
    assert studies.search(study, pruned_every_other_time, 4) == 4
    assert states(study) == {"COMPLETE": 2, "PRUNED": 2}

    def broken(trial):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        studies.search(study, broken, 5)
    assert studies.search(study, parabola, 5) == 1
    assert states(study) == {"COMPLETE": 3, "PRUNED": 2, "FAIL": 1}


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_lags_behind_is_pruned(tmp_path, pruner):
    reached = []

    def slow_or_quick(trial):
        level = 1 / (1 + trial.number)
        for epoch in range(1, 10):
            trial.report(level * epoch, epoch)
            if trial.should_prune():
                reached.append(epoch)
                raise optuna.TrialPruned
        return level * 9

    study = opened(tmp_path, pruner=pruner, epochs=9)
    studies.search(study, slow_or_quick, 12)
    assert states(study)["PRUNED"] >= 4
    assert min(reached) < 9, "before its end"


def test_no_pruner_prunes_nothing(tmp_path):
    study = opened(tmp_path, pruner="none")

    def report(trial):
        trial.report(-trial.number, 1)
        assert not trial.should_prune()
        return 0.0

    studies.search(study, report, 8)


def test_several_objectives_have_a_front(tmp_path):
    study = opened(tmp_path, directions=("maximize", "minimize"), pruner="none")
    studies.search(study, lambda trial: (trial.number % 3, trial.number), 5)
    assert {trial.number for trial in study.optuna.best_trials} == {0, 1, 2}


def test_time_out_begins_no_further_trial(tmp_path):
    study = opened(tmp_path)

    def slow(trial):
        time.sleep(0.2)
        return 0.0

    assert 1 <= studies.search(study, slow, 100, timeout=0.5) <= 3


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_the_trials_and_do_none_twice(tmp_path, workers):
    processes = [worker(tmp_path, 24, 0.05) for _ in range(workers)]
    assert [process.wait(120) for process in processes] == [0] * workers
    begun = [number for event, number, _ in lines(tmp_path) if event == "begun"]
    assert len(begun) == len(set(begun)) == 24
    assert len({process for *_, process in lines(tmp_path)}) == workers, "each had some"
    study = tuning_worker.open_study(str(tmp_path / "s.journal"))
    assert states(study)["COMPLETE"] == 24
    assert len({trial.params["x"] for trial in study.trials() if trial.params}) >= 24
    assert not list(study.locks.iterdir()), "no worker has left its lock"


def test_trials_of_killed_workers_are_done_by_others(tmp_path):
    victims = [worker(tmp_path, 12, 1000) for _ in range(2)]
    wait_for(lambda: len(lines(tmp_path)) == 2)
    helper = worker(tmp_path, 12, 0.01)
    wait_for(lambda: len(lines(tmp_path)) > 20)  # all others are done, and it waits for these two
    assert helper.poll() is None
    lost = {int(number) for _, number, process in lines(tmp_path)[:2]}
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    assert helper.wait(60) == 0
    study = tuning_worker.open_study(str(tmp_path / "s.journal"))
    trials = study.trials()
    assert states(study)["COMPLETE"] == 12
    assert {trial.number for trial in trials if trial.state.name == "FAIL"} == lost
    retried = [trial for trial in trials if "lost" in trial.system_attrs]
    assert {trial.system_attrs["lost"][0] for trial in retried} == lost
    for trial in retried:
        assert trial.params == trials[trial.system_attrs["lost"][0]].params
    over = [number for event, number, _ in lines(tmp_path) if event == "over"]
    assert len(over) == len(set(over)) == 12


def test_values_that_kill_their_worker_are_given_up(tmp_path):
    study = opened(tmp_path)
    for _ in range(3):
        trial = study.optuna.ask()
        trial.suggest_float("x", 0, 3)
        trial.set_user_attr("worker", "dead")
        studies._revive(study)
    assert states(study) == {"FAIL": 3}, "twice tried again, and then not any more"


def test_a_worker_without_a_name_counts_as_dead_after_a_while(tmp_path, monkeypatch):
    study = opened(tmp_path)
    study.optuna.ask()
    studies._revive(study)
    assert states(study) == {"RUNNING": 1}
    monkeypatch.setattr(studies, "_CLAIM", 0.0)
    studies._revive(study)
    assert states(study) == {"FAIL": 1, "WAITING": 1}


def test_a_worker_whose_trial_was_given_away_goes_on(tmp_path, capsys):
    study = opened(tmp_path)

    def asleep(trial):
        if trial.number == 0:
            study.storage.set_trial_state_values(trial._trial_id, studies._FAILED)
        return 0.0

    assert studies.search(study, asleep, 3) == 3
    assert states(study) == {"FAIL": 1, "COMPLETE": 3}
    assert "trial 0 took so long" in capsys.readouterr().out


def test_a_database_knows_the_dead_by_their_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "_BEAT", 1)
    url = f"sqlite:///{tmp_path}/s.db"
    study = opened(tmp_path, storage=url)
    lost = study.optuna.ask()
    lost.suggest_float("x", 0, 3)
    study.storage.record_heartbeat(lost._trial_id)
    assert studies.search(opened(tmp_path, storage=url), parabola, 3) == 3
    trials = study.trials()
    assert trials[0].state.name == "FAIL"
    (again,) = [trial for trial in trials if "lost" in trial.system_attrs]
    assert again.params == trials[0].params
    assert states(study) == {"FAIL": 1, "COMPLETE": 3}


def test_other_settings_are_refused_with_the_difference(tmp_path):
    settings = {"space": {"x": {"low": 0}, "y": {"low": 1}}, "profile": "smoke"}
    opened(tmp_path, settings=settings)
    other = json.loads(json.dumps(settings))
    other["space"]["x"]["low"] = 2
    del other["space"]["y"]
    with pytest.raises(ParameterError) as caught:
        opened(tmp_path, settings=other)
    text = str(caught.value)
    assert "space.x.low is 0 there and 2 here; space.y.low is 1 there and None here" in text
    assert "profile" not in text
    with pytest.raises(ParameterError, match="sampler is 'tpe' there and 'random' here"):
        opened(tmp_path, settings=settings, sampler="random")


def test_one_journal_holds_several_studies(tmp_path):
    studies.search(opened(tmp_path), parabola, 2)
    assert studies.search(opened(tmp_path, name="t", settings={"data": "b"}), parabola, 2) == 2


def test_studies_are_kept_with_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))
    opened(tmp_path, name="mine", storage=None)
    assert (tmp_path / "studies" / "mine.journal").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "study name 'a b' is not usable"),
        ({"name": "../up"}, "not usable"),
        ({"sampler": "tpo"}, "unknown sampler 'tpo'; did you mean 'tpe'"),
        ({"pruner": "mean"}, "unknown pruner 'mean'; did you mean 'median'"),
        ({"directions": ("maximize", "minimize")}, "pruner 'median' goes by one objective"),
    ],
)
def test_what_cannot_be_opened_is_refused(tmp_path, changes, message):
    with pytest.raises(ParameterError, match=message):
        opened(tmp_path, **changes)


def test_no_trials_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="0 trials were asked for"):
        studies.search(opened(tmp_path), parabola, 0)


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "s.journal").write_text("hello\nworld\n")
    with pytest.raises(RunError, match=r"s\.journal is not a journal of studies"):
        opened(tmp_path)


def test_unusable_databases_are_refused_without_their_password(tmp_path):
    with pytest.raises(CifarUtilsError, match="the oracel storage cannot be used") as caught:
        opened(tmp_path, storage="oracel://me:secret@nowhere/db")
    assert "secret" not in str(caught.value)
    with pytest.raises(CifarUtilsError, match="the sqlite storage cannot be used") as caught:
        opened(tmp_path, storage="sqlite:////nowhere/at/all.db")
