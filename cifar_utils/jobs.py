"""Work side by side: what waits for what, how much memory there is, and who uses which cores."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

Key = tuple[str, str]
"""What a task is called: names of a run and of a stage."""

GUESS = 2_000_000_000
"""Bytes that a stage is taken to need that has never run here."""


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        key: Names it.
        needs: Keys of the tasks that must have succeeded before.
        memory: Bytes that it takes.
    """

    key: Key
    needs: frozenset[Key] = field(default_factory=frozenset)
    memory: int = GUESS


def divided(cores: list[int], jobs: int) -> list[list[int]]:
    """Return the cores of each place where a job can run; empty lists where one may have all."""
    if jobs == 1 or len(cores) < 2:
        return [[] for _ in range(jobs)]
    share = max(1, len(cores) // jobs)
    starts = [(place * share) % len(cores) for place in range(jobs)]
    return [cores[start : start + share] for start in starts]


def memory_free() -> int:
    """Return the bytes of memory that can be had without swapping."""
    import psutil

    return psutil.virtual_memory().available


@dataclass
class Outcome:
    """What became of tasks.

    Attributes:
        failed: Key to error, in the order in which they failed.
        skipped: Keys of tasks that were not begun, to what kept them.
        done: Keys of those that succeeded.
    """

    failed: dict[Key, BaseException] = field(default_factory=dict)
    skipped: dict[Key, str] = field(default_factory=dict)
    done: set[Key] = field(default_factory=set)


def carry_out(
    tasks: list[Task],
    work: Callable[[Key, int], None],
    *,
    jobs: int = 1,
    memory: int | None = None,
    keep_going: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    done: Callable[[Key], None] = lambda key: None,
) -> Outcome:
    """Do tasks in their order, several at a time, each after those it needs.

    The thread that calls only waits, so that it can be interrupted.

    Args:
        tasks: Each after those it needs.
        work: Does one, given its key and the place it runs in, 0 to ``jobs`` - 1.
        jobs: How many at a time.
        memory: Bytes that those at work may take together; a task runs alone if it takes more.
        keep_going: Whether tasks that need none that failed are still done after a failure.
        stopped: Whether no further task is to be begun.
        done: Called in this thread after each that succeeded.
    """
    outcome = Outcome()
    waiting = list(tasks)
    places = list(range(jobs))
    running: dict[Future[None], tuple[Task, int]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            halt = stopped() or (bool(outcome.failed) and not keep_going)
            for task in list(waiting):
                reason = _kept_from(task, outcome.failed, outcome.skipped)
                if reason or halt:
                    waiting.remove(task)
                    outcome.skipped[task.key] = reason or "not begun"
                elif places and task.needs <= outcome.done | _unknown(task, tasks):
                    taken = sum(other.memory for other, _ in running.values())
                    if running and memory is not None and taken + task.memory > memory:
                        continue
                    place = places.pop(0)
                    waiting.remove(task)
                    running[pool.submit(work, task.key, place)] = (task, place)
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                task, place = running.pop(future)
                places.append(place)
                places.sort()
                error = future.exception()
                if error is None:
                    outcome.done.add(task.key)
                    done(task.key)
                else:
                    outcome.failed[task.key] = error
    return outcome


def _unknown(task: Task, tasks: list[Task]) -> set[Key]:
    """Return what a task needs that is not among the tasks, hence there already."""
    return set(task.needs) - {each.key for each in tasks}


def _kept_from(task: Task, failed: Mapping[Key, BaseException], skipped: Mapping[Key, str]) -> str:
    """Return why a task cannot be done; empty if it can."""
    for name, kind in ((failed, "failed"), (skipped, "was skipped")):
        for need in task.needs:
            if need in name:
                return f"{need[1]} {kind}"
    return ""
