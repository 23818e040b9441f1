import json

from cifar_utils import supervision


def test_alone_nothing_is_told_kept_or_stopped(tmp_path, monkeypatch):
    monkeypatch.delenv(supervision.VARIABLE, raising=False)
    supervision.tell({"epoch": 1})
    assert not supervision.supervised()
    assert not supervision.stop_asked()
    assert supervision.kept(tmp_path, "a trial") is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_told_is_read_once_and_only_whole_lines(tmp_path, monkeypatch):
    monkeypatch.setenv(supervision.VARIABLE, str(tmp_path))
    assert supervision.told(tmp_path, 0) == ([], 0)
    supervision.tell({"epoch": 1})
    supervision.tell({"epoch": 2})
    with (tmp_path / "told.jsonl").open("a") as stream:
        stream.write('{"epoch"')
    found, place = supervision.told(tmp_path, 0)
    assert found == [{"epoch": 1}, {"epoch": 2}]
    with (tmp_path / "told.jsonl").open("a") as stream:
        stream.write(": 3}\n")
    assert supervision.told(tmp_path, place)[0] == [{"epoch": 3}]
    assert json.loads((tmp_path / "told.jsonl").read_text().splitlines()[-1]) == {"epoch": 3}


def test_a_wish_to_stop_reaches_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv(supervision.VARIABLE, str(tmp_path))
    assert not supervision.stop_asked()
    supervision.ask_to_stop(tmp_path)
    assert supervision.stop_asked()


def test_the_state_of_a_trial_has_a_name_that_suits_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv(supervision.VARIABLE, str(tmp_path))
    assert supervision.kept(tmp_path, "Adam, smoothed labels 0").name == "Adam_smoothed_labels_0"
    assert supervision.kept(None, "x") is None
