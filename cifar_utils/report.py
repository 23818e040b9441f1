"""One page about a run for people who read no notebooks, and a card for each of its models."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from cifar_utils import paths, runs

FIGURES: dict[tuple[str, str], str] = {
    ("06_evaluation", "accuracy"): "Test accuracy of each model, with its 95% interval",
    ("06_evaluation", "trade_off"): "What accuracy costs in training, weights and waiting",
    ("06_evaluation", "differences"): "How far the chosen model is ahead, on the same images",
    ("02_baseline_cnn", "learning_curves"): "How the plain network learns, and where it stops",
    ("03_augmentation", "learning_curves"): "How augmentation and the fast recipe change that",
    ("05_resnet50_finetuned", "learning_curves"): "How ResNet50 adapts",
    ("08_ensembles", "gains"): "What a vote of several models gains over the best one",
    ("06_evaluation", "confusion_matrices"): "What is taken for what: true class by row",
    ("06_evaluation", "mistakes_by_pair"): "The pairs that the chosen model confuses most",
    ("06_evaluation", "f1_by_class"): "F1 by class: which classes each model knows",
    ("06_evaluation", "reliability"): "Whether the probabilities can be believed",
    ("06_evaluation", "selective"): "Accuracy if only the surest answers are given",
    ("06_evaluation", "corruptions"): "What bad cameras, weather and file formats do",
    ("06_evaluation", "attention"): "Where the chosen model looks: right answers, then mistakes",
    ("06_evaluation", "nearest"): "Its surest mistakes, and the training images it finds alike",
}
"""What the page shows, in this order: stage and name of the figure, and what it says."""


def duration(seconds: float) -> str:
    """Return seconds for people: ``4.1 s``, ``41 s``, ``12 min 05 s``, ``1 h 02 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _environment() -> Any:
    """Return what fills in the templates; a name that is not there is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_utils"),
        autoescape=jinja2.select_autoescape(["html.j2", "html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    return environment


def _title(stage: runs.Stage) -> str:
    """Return the title of a stage's executed notebook."""
    cells = json.loads((stage.folder / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = (re.search(r"^# (.+)", text, flags=re.MULTILINE) for text in texts)
    return next((match[1].strip() for match in found if match), stage.name)


def _picture(path: Path) -> str:
    """Return a PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _figures(run: runs.Run) -> list[dict[str, str]]:
    """Return those of ``FIGURES`` that the run has."""
    found = []
    for (name, figure), caption in FIGURES.items():
        if name in runs.STAGES:
            path = run.stage(name).folder / "figures" / f"{figure}.png"
            if path.is_file():
                found.append({"caption": caption, "stage": name, "source": _picture(path)})
    return found


def _metrics(stage: runs.Stage) -> dict[str, Any]:
    """Return the stage's metrics, nothing if it has left none."""
    return stage.metrics() if (stage.folder / "metrics.json").is_file() else {}


def _verdict(run: runs.Run, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the test row of the model that the run chose, and why; None before it did."""
    for metrics in (_metrics(run.stage(name)) for name in runs.STAGES):
        for row in rows:
            title = row["stage"].partition("_")[2]
            if row["split"] == "test" and title == metrics.get("chosen"):
                return {**row, "model": title, "reasons": metrics.get("reasons", "")}
    return None


def write(run: runs.Run) -> Path:
    """Write ``report.html``: the run on one page that needs no other file and no network.

    Links lead to the executed notebooks beside it. The cards of its models are written too.

    Returns:
        Its path.
    """
    rows = [row for row in run.results() if row.get("accuracy") is not None]
    stages = []
    for name in runs.STAGES:
        stage = run.stage(name)
        if record := stage.finished():
            stages.append({"name": name, "title": _title(stage), "seconds": record["seconds"]})
        # A card written now would be taken for one of the files that the notebook leaves.
        if stage.under_way or not (stage.folder / "model.keras").is_file():
            continue
        if _metrics(stage).get("accuracy") is not None:
            write_card(stage)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            manifest=run.manifest,
            stages=stages,
            rows=sorted(rows, key=lambda row: (row["split"], -row["accuracy"])),
            judged=[row for row in rows if row.get("log_loss") is not None],
            figures=_figures(run),
            verdict=_verdict(run, rows),
        )
    )
    return _changed(run.folder / "report.html", page + "\n")


def _changed(path: Path, text: str) -> Path:
    """Write a text unless it stands there already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        paths.write_text(path, text)
    return path


def write_card(stage: runs.Stage) -> Path:
    """Write ``MODEL_CARD.md`` beside a model: what it is, what it was judged by, its limits.

    After Mitchell et al., arXiv 1810.03993.

    Args:
        stage: One that has left a model and metrics.

    Returns:
        Its path.

    Raises:
        RunError: It has not.
    """
    metrics, results = stage.metrics(), stage.run.results()
    test = [row for row in results if row["stage"] == stage.name and row.get("split") == "test"]
    verdict = _verdict(stage.run, results)
    made = stage.run.manifest | (stage.finished() or {})  # which may be older than the run's last
    text = (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            stage=stage,
            made=made,
            rows=[metrics, *test],
            metrics=metrics,
            reasons=verdict["reasons"] if verdict and verdict["stage"] == stage.name else "",
            parameters=made.get("parameters", {}),
        )
    )
    return _changed(stage.folder / "MODEL_CARD.md", text)
