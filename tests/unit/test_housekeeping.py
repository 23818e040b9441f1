import os
import time

import pytest

from cifar_utils import housekeeping, paths, runs
from cifar_utils.errors import RunError
from tests.unit import tiny_course


@pytest.fixture
def three(root):
    """Three runs, the oldest first; the first has a finished stage, the second a failed one."""
    for age, name in ((300, "old"), (200, "middle"), (100, "new")):
        run = runs.start(name, profile="smoke", seed=0, provenance=tiny_course.PROVENANCE)
        (run.folder / "filler").write_bytes(bytes(1000))
        when = time.time() - age
        os.utime(run.folder / "manifest.json", (when, when))
    stage = runs.load("old").stage("01_first")
    stage.folder.mkdir()
    for name in runs.LEFT_BEHIND:
        (stage.folder / name).touch()
    runs.write_json(stage.folder / "stage.json", {"finished": "2026-01-01T00:00:00", "files": {}})
    stage.backup.mkdir()
    (stage.backup / "state").write_bytes(bytes(500))
    failed = runs.load("middle").stage("02_second")
    failed.folder.mkdir()
    (failed.folder / "failed.ipynb").touch()
    failed.backup.mkdir()
    return root / "artifacts"


def test_runs_with_sizes_the_oldest_first(three):
    (three / "broken").mkdir()
    (three / "broken" / "manifest.json").write_text("{")
    with runs.alone(three / "new"):
        found = housekeeping.entries()
    assert [(entry.name, entry.state) for entry in found] == [
        ("old", ""),
        ("middle", ""),
        ("new", "running"),
        ("broken", "damaged"),
    ]
    assert found[0].finished == ("01_first",)
    assert found[0].size > found[2].size > 1000


def test_what_a_run_holds(three):
    names = [(name, what.split()[0]) for name, _, what in housekeeping.contents(runs.load("old"))]
    assert names == [("01_first", "finished"), (".01_first.backup", "left")]
    held = housekeeping.contents(runs.load("middle"))
    assert [(name, what) for name, _, what in held] == [
        ("02_second", "failed"),
        (".02_second.backup", "state of trainings"),
    ]


def test_left_over_is_what_nobody_asks_for_again(three):
    half = three / "old" / "01_first" / ".model.keras.abcdefgh"
    half.mkdir()
    assert housekeeping.leftovers(three / "old") == [three / "old" / ".01_first.backup"]
    os.utime(half, (0, 0))  # another process may be writing one that is new
    assert half in housekeeping.leftovers(three / "old")
    assert housekeeping.leftovers(three / "middle") == []


def test_prune_leaves_results_alone_unless_asked(three):
    assert housekeeping.superfluous() == [three / "old" / ".01_first.backup"]
    assert housekeeping.superfluous(keep=1) == [three / "middle", three / "old"]
    assert housekeeping.superfluous(keep=0) == [three / name for name in ("new", "middle", "old")]
    assert housekeeping.superfluous(days=1) == [three / "old" / ".01_first.backup"]
    assert len(housekeeping.superfluous(days=0)) == 3
    with runs.alone(three / "middle"):
        assert three / "middle" not in housekeeping.superfluous(keep=0)


def test_removing_says_how_much_and_refuses_what_is_in_use(three):
    assert housekeeping.remove(three / "old" / ".01_first.backup") == 500
    assert runs.load("old").stage("01_first").finished()
    assert housekeeping.remove(three / "old") > 1000
    assert not (three / "old").exists()
    with runs.alone(three / "new"), pytest.raises(RunError, match="another `cifar run`"):
        housekeeping.remove(three / "new")
    assert runs.load("new")


def test_room_is_what_stages_took_before_or_a_guess(three):
    folder = three / "old"
    (folder / "01_first" / "model.keras").write_bytes(bytes(10_000))
    known = housekeeping.room(["01_first"], "smoke", folder)
    assert 10_000 < known < 20_000
    both = housekeeping.room(["01_first", "03_third"], "smoke", folder)
    assert both == known + housekeeping.ROOM["smoke"]
    housekeeping.check_room(1)
    assert paths.artifacts_dir() == three
