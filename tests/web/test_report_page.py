"""The page about a run in a real browser: readable by everybody, on paper and on a phone."""

import dataclasses

import matplotlib.figure
import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe

from cifar_utils import report, runs

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of a run with everything that a page can have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAR_UTILS_ARTIFACTS_DIR", str(tmp_path_factory.mktemp("artifacts")))
        data = {"kind": "modified", "source": "/a/long/path" * 20, "fingerprint": "f" * 64}
        run = runs.start("a-run", profile="cpu", seed=0, provenance=data)
        scores = {"accuracy": 0.75, "accuracy_low": 0.7, "accuracy_high": 0.8, "n": 5000}
        facts = {"parameters": 1234567, "training_seconds": 61, "precision": "float32"}
        for name in runs.STAGES:
            stage = run.stage(name)
            stage.save_metrics(
                stage.result(split="validation", **scores, **facts),
                chosen="baseline_cnn",
                reasons="It is cheap. It passes all tests of behaviour.",
            )
            title = nbformat.v4.new_markdown_cell(f"# {name}")
            nbformat.write(nbformat.v4.new_notebook(cells=[title]), stage.folder / "notebook.ipynb")
            (stage.folder / "report.html").write_text("<!doctype html><title>executed</title>")
            runs.write_json(stage.folder / "stage.json", {"seconds": 75, "parameters": {}})
        for name, figure in report.FIGURES:
            run.stage(name).save_figure(matplotlib.figure.Figure(figsize=(9, 3)), figure)
            runs.write_json(
                run.stage(name).folder / "stage.json", {"seconds": 75, "parameters": {}}
            )
        test = run.stage("02").result(split="test", failed_tests=2, **scores, **facts)
        more = {"top_2": 0.9, "f1": 0.7, "log_loss": 0.6, "brier": 0.4, "calibration_error": 0.01}
        row = dataclasses.asdict(test) | more
        runs.write_json(run.stage("06").folder / "leaderboard.json", [row])
        return report.write(run).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_is_accessible(chromium, address, scheme, width):
    page = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    page.goto(address)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_it_fits_a_phone(chromium, address):
    page = chromium.new_page(viewport={"width": 360, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    widths = page.eval_on_selector_all("figure img", "all => all.map(one => one.clientWidth)")
    assert len(widths) == len(report.FIGURES)
    assert max(widths) <= 360
    page.close()


def test_it_loads_nothing_and_says_nothing_is_wrong(chromium, address):
    page = chromium.new_page()
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert problems == []
    page.close()


def test_links_lead_to_the_notebooks(chromium, address):
    page = chromium.new_page()
    page.goto(address)
    page.get_by_role("link", name="06_evaluation").click()
    assert page.title() == "executed"
    page.close()


def test_it_prints_on_white_with_every_figure(chromium, address):
    page = chromium.new_page(color_scheme="dark")
    page.goto(address)
    page.emulate_media(media="print")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert len(page.pdf()) > 10_000
    page.close()
