"""A course of three notebooks that need no images and no backend, to run for real in tests.

As a script it is the command ``cifar`` on that course: ``python tiny_course.py ROOT run ...``.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat

from cifar_utils import cli, data, paths, profiles, runs

STAGES = {"01_first": (), "02_second": ("01_first",), "03_third": ()}

PARAMETERS = """
PROFILE = "auto"
DATA = "auto"
SEED = 0
RUN = "auto"
EPOCHS = 2
RATE = 0.5
SIZES = (32, 64)
WEIGHTS = "auto"
FLIP = True
"""

SAVE = """
import json, os, sys
from pathlib import Path
folder = Path(os.environ["CIFAR_UTILS_ARTIFACTS_DIR"]) / RUN / STAGE
(folder / "figures").mkdir(parents=True, exist_ok=True)
(folder / "figures" / "loss & accuracy.png").write_bytes(b"png")
(folder / "model.keras").write_text(str(EPOCHS))
row = dict(
    run=RUN, stage=STAGE, data="synthetic", profile=PROFILE, seed=SEED, n=1000, hardware="a test",
    split="validation", accuracy=0.5, accuracy_low=0.47, accuracy_high=0.53, pretraining="none",
    parameters=1234, training_seconds=1.5, precision="float32",
)
facts = dict(
    python=sys.executable, cwd=os.getcwd(), environment=dict(os.environ), derived=derived,
    given=[EPOCHS, RATE, repr(SIZES), WEIGHTS, FLIP, DATA],
)
(folder / "facts.json").write_text(json.dumps(facts))
(folder / "metrics.json").write_text(json.dumps(row | dict(rate=RATE, derived=derived)))
"""

PROVENANCE = {"kind": "synthetic", "source": "synthetic", "fingerprint": "f" * 64}


def write(
    root: Path,
    stage: str,
    body: str = "pass",
    parameters: str = PARAMETERS,
    before: str = "ready = True",
) -> None:
    """Write the notebook of a stage, ``body`` and ``before`` being what its two real cells do."""
    new = nbformat.v4
    tagged = new.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})
    cells = [
        new.new_markdown_cell(f"# {stage[:2]} · The {stage[3:]} notebook"),
        new.new_markdown_cell("[![Open](https://example.org/badge.svg)](https://example.org)"),
        new.new_markdown_cell("## Parameters"),
        tagged,
        new.new_code_cell(f"derived = EPOCHS * 10\nSTAGE = {stage!r}"),
        new.new_markdown_cell("## 1. Train the network\n\n```\n# no heading\n```"),
        new.new_code_cell(before),
        new.new_code_cell(body),
        new.new_markdown_cell("## Results"),
        new.new_code_cell(SAVE.strip()),
    ]
    path = root / "notebooks" / f"{stage}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(cells=cells), path)


def install(root: Path, setattr_: Callable[[object, str, object], None] = setattr) -> None:
    """Make the library take the course in ``root`` for its own."""
    dataset = SimpleNamespace(
        splits=lambda: {
            "train": range(1400),
            "validation": range(300),
            "test": range(300),
        },
        provenance=SimpleNamespace(record=lambda: copy.deepcopy(PROVENANCE)),
    )
    setattr_(runs, "STAGES", STAGES)
    setattr_(paths, "notebooks_dir", lambda: root / "notebooks")
    setattr_(paths, "artifacts_dir", lambda: root / "artifacts")
    setattr_(paths, "data_dir", lambda: root / "data")
    setattr_(profiles.runtime, "has_gpu", lambda: False)
    setattr_(data, "load", lambda source, profile: dataset)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
