import threading
import time

import pytest

from cifar_utils import jobs
from cifar_utils.jobs import Task, carry_out


def task(name, *needs, memory=1):
    return Task(("run", name), frozenset(("run", need) for need in needs), memory)


class Works:
    """Notes what is at work at the same time; fails where told to."""

    def __init__(self, *failing, seconds=0.05):
        self.failing, self.seconds = failing, seconds
        self.begun, self.places, self.together = [], [], []
        self._now, self._lock = set(), threading.Lock()

    def __call__(self, key, place):
        with self._lock:
            self._now.add(key[1])
            self.begun.append(key[1])
            self.places.append(place)
            self.together.append(set(self._now))
        time.sleep(self.seconds)
        with self._lock:
            self._now.remove(key[1])
        if key[1] in self.failing:
            raise ValueError(key[1])


def names(keys):
    return [name for _, name in keys]


def test_one_at_a_time_in_order():
    works = Works()
    outcome = carry_out([task("a"), task("b", "a"), task("c", "elsewhere")], works)
    assert works.begun == ["a", "b", "c"]
    assert max(map(len, works.together)) == 1
    assert names(sorted(outcome.done)) == ["a", "b", "c"]
    assert not outcome.failed and not outcome.skipped


def test_what_needs_nothing_runs_side_by_side_and_what_does_waits():
    works = Works(seconds=0.3)
    carry_out([task("a"), task("b"), task("c", "a", "b")], works, jobs=3)
    assert {"a", "b"} in works.together
    assert works.together[-1] == {"c"}
    assert set(works.places) <= {0, 1, 2} and len(set(works.places[:2])) == 2


def test_memory_keeps_large_tasks_apart_and_lets_the_largest_run_alone():
    works = Works(seconds=0.2)
    tasks = [task("a", memory=6), task("b", memory=6), task("c", memory=4), task("d", memory=99)]
    carry_out(tasks, works, jobs=4, memory=10)
    assert {"a", "c"} in works.together
    assert not any({"a", "b"} <= now for now in works.together)
    assert {"d"} in works.together and not any("d" in n and len(n) > 1 for n in works.together)


def test_after_a_failure_nothing_more_is_begun():
    works = Works("a")
    outcome = carry_out([task("a"), task("b")], works)
    assert works.begun == ["a"]
    assert names(outcome.failed) == ["a"]
    assert outcome.skipped == {("run", "b"): "not begun"}


def test_keeping_going_leaves_out_only_what_needs_the_failed():
    works = Works("a")
    tasks = [task("a"), task("b", "a"), task("c", "b"), task("d")]
    outcome = carry_out(tasks, works, keep_going=True)
    assert works.begun == ["a", "d"]
    assert outcome.skipped == {("run", "b"): "a failed", ("run", "c"): "b was skipped"}


def test_a_wish_to_stop_is_heard():
    works = Works()
    outcome = carry_out([task("a"), task("b")], works, stopped=lambda: bool(works.begun))
    assert works.begun == ["a"]
    assert names(outcome.done) == ["a"] and names(outcome.skipped) == ["b"]


def test_what_is_done_is_told_in_the_thread_that_waits():
    threads = []
    carry_out(
        [task("a"), task("b")],
        Works(),
        jobs=2,
        done=lambda key: threads.append((key[1], threading.current_thread())),
    )
    assert sorted(name for name, _ in threads) == ["a", "b"]
    assert {thread for _, thread in threads} == {threading.main_thread()}


@pytest.mark.parametrize(
    ("cores", "count", "expected"),
    [
        ([0, 1, 2, 3], 1, [[]]),
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([4, 7], 2, [[4], [7]]),
        ([0, 1], 3, [[0], [1], [0]]),
        ([0], 2, [[], []]),
    ],
)
def test_cores_are_shared_out(cores, count, expected):
    assert jobs.divided(cores, count) == expected
