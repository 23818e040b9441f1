"""The page about a run and the cards of its models: whole, self-contained, honest."""

import base64
import dataclasses
import html.parser
import re

import nbformat
import pytest

from cifar_utils import cli, report, runs

PROVENANCE = {"kind": "official", "source": "here <b>", "fingerprint": "f" * 64}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in which 02 and 06 have finished, and 03 has left a figure only."""
    monkeypatch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path))
    run = runs.start("one", profile="cpu", seed=3, provenance=dict(PROVENANCE))
    scores = {"accuracy": 0.75, "accuracy_low": 0.7, "accuracy_high": 0.8, "n": 5000}
    facts = {"parameters": 1234567, "training_seconds": 61, "precision": "float32"}
    trained, judged = run.stage("02"), run.stage("06")
    trained.save_metrics(trained.result(split="validation", **scores, **facts))
    judged.save_metrics(judged.result(n=10_000), chosen="baseline_cnn", reasons="It is cheap.")
    tested = scores | {"accuracy": 0.7123, "n": 10_000, "failed_tests": 2}
    test = dataclasses.asdict(trained.result(split="test", **tested, **facts))
    more = {
        "top_2": 0.876,
        "f1": 0.71,
        "log_loss": 0.654,
        "brier": 0.4,
        "calibration_error": 0.0123,
    }
    runs.write_json(judged.folder / "leaderboard.json", [test | more])
    for stage in (trained, judged):
        title = nbformat.v4.new_markdown_cell(f"# The title of {stage.name} & more")
        nbformat.write(nbformat.v4.new_notebook(cells=[title]), stage.folder / "notebook.ipynb")
        (stage.folder / "report.html").write_text("as executed")
        runs.write_json(stage.folder / "stage.json", {"seconds": 75, "parameters": {"EPOCHS": 7}})
    (trained.folder / "model.keras").write_bytes(b"model")
    for place, (name, figure) in enumerate(report.FIGURES):
        if name in ("06_evaluation", "03_augmentation") and place % 2 == 0:
            folder = run.stage(name).folder / "figures"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{figure}.png").write_bytes(PIXEL)
    return run


class Elements(html.parser.HTMLParser):
    """The start tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_the_page_needs_no_other_file(run):
    page = Elements(report.write(run).read_text())
    pictures = page.all("img")
    expected = [
        place
        for place, (name, _) in enumerate(report.FIGURES)
        if name in ("06_evaluation", "03_augmentation") and place % 2 == 0
    ]
    assert len(pictures) == len(expected)
    for picture in pictures:
        kind, _, content = picture["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == PIXEL
        assert len(picture["alt"]) > 20
    assert not page.all("script")
    assert not page.all("link")
    links = [each["href"] for each in page.all("a")]
    assert links == ["02_baseline_cnn/report.html", "06_evaluation/report.html"]
    assert all((run.folder / link).is_file() for link in links)


def test_the_page_says_what_was_chosen_and_from_what_data(run):
    text = re.sub(r"\s+", " ", Elements(report.write(run).read_text()).text)
    assert "baseline_cnn: 71.23% of 10,000 official test images right" in text
    assert "The title of 02_baseline_cnn & more ran 1 min 15 s" in text
    assert "It is cheap." in text
    assert "02_baseline_cnn 87.60% 0.710 0.654 0.400 1.23% 2" in text
    assert text.count("fails 2 tests") == 1
    assert "here <b>" in text, "what others wrote is escaped"
    run.manifest["data"]["kind"] = "synthetic"
    assert "Synthetic data." in report.write(run).read_text()


def test_notebooks_run_by_hand_have_a_verdict_and_cards_too(run):
    for name in ("02", "06"):
        (run.stage(name).folder / "stage.json").unlink()
    text = report.write(run).read_text()
    assert "Chosen on validation" in text
    assert "No stage of this run has finished yet." in text
    assert (run.stage("02").folder / "MODEL_CARD.md").is_file()


def test_a_stage_that_still_runs_beside_others_gets_no_card_among_its_files(run):
    runs.write_json(run.stage("02").backup / "attempt.json", {})
    report.write(run)
    assert not (run.stage("02").folder / "MODEL_CARD.md").exists()


def test_what_would_stay_as_it_is_is_not_written_again(run):
    paths = report.write(run), run.stage("02").folder / "MODEL_CARD.md"
    before = [path.stat().st_mtime_ns for path in paths]
    report.write(run)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_before_the_choice_there_is_no_verdict(run):
    (run.stage("06").folder / "metrics.json").unlink()
    text = report.write(run).read_text()
    assert "Chosen on validation" not in text
    assert "75.00%" in text


def test_a_model_has_a_card(run):
    report.write(run)
    cards = sorted(path.parent.name for path in run.folder.glob("*/MODEL_CARD.md"))
    assert cards == ["02_baseline_cnn"]
    text = (run.stage("02").folder / "MODEL_CARD.md").read_text()
    assert "| validation | 75.00 | 70.00 to 80.00 | 5,000 |\n| test | 71.23 |" in text
    assert "1,234,567" in text
    assert "| EPOCHS | `7` |" in text
    assert "proven by its published checksums" in text
    assert "It is cheap." in text
    assert "photographs on the web before 2009" in text
    assert "Not yet judged" not in text
    (run.stage("06").folder / "leaderboard.json").unlink()
    run.manifest["data"]["kind"] = "synthetic"
    text = report.write_card(run.stage("02")).read_text()
    assert "Not yet judged on the test set" in text
    assert "say nothing about photographs" in text
    assert "before 2009" not in text
    assert "CIFAR-10 (Krizhevsky" not in text


def test_a_card_can_do_without_what_nobody_measured(run):
    stage = run.stage("03")
    shares = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    stage.save_metrics(stage.result(split="validation", n=9, **shares))
    (stage.folder / "model.keras").write_bytes(b"model")
    text = report.write_card(stage).read_text()
    assert "| parameters | unknown |" in text
    assert "cpu profile, seed 3, precision unknown on" in text


def test_a_card_says_what_its_model_was_made_with_not_what_the_run_was_last_continued_with(run):
    stage = run.stage("02")
    made = {"versions": {"keras": "3.0.1"}, "git_commit": "0123abc", "parameters": {}}
    runs.write_json(stage.folder / "stage.json", made)
    text = report.write_card(stage).read_text()
    assert "| commit | 0123abc |" in text
    assert "| versions | keras 3.0.1 |" in text


def test_a_card_of_nothing_is_refused(run):
    with pytest.raises(runs.RunError, match=r"missing; make it with: cifar run 03"):
        report.write_card(run.stage("03"))


def test_the_command(run, capsys):
    assert cli.main(["report", "one"]) == 0
    assert capsys.readouterr().out == f"report: {run.folder / 'report.html'}\n"
    assert cli.main(["report", "two"]) == 1
    assert "no run is called 'two'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        *((4.06, "4.1 s"), (9.97, "10 s"), (41.4, "41 s")),
        *((59.6, "1 min 00 s"), (725, "12 min 05 s"), (3725, "1 h 02 min")),
    ],
)
def test_duration(seconds, expected):
    assert report.duration(seconds) == expected
