import nbformat
import pytest
from nbformat import v4

from tools import notebooks


@pytest.fixture
def good() -> notebooks.Notebook:
    """A small notebook that keeps every convention, for the tests to break."""
    path = notebooks.NOTEBOOKS / "05_resnet50_finetuned.ipynb"
    markdown, code = v4.new_markdown_cell, v4.new_code_cell
    cells = [
        markdown("# 05 · A notebook\n\n```\n# no heading\n```"),
        markdown(notebooks.badge(path.name)),
        markdown("## Overview\n\nWhat is asked?"),
        markdown("## Setup"),
        code(notebooks.setup_cell(), metadata={"tags": ["colab-setup"]}),
        code("import numpy as np\n\nfrom cifar_utils import data, profiles, runs"),
        markdown("## Parameters"),
        code(
            'PROFILE = "auto"\nDATA = "auto"\nSEED = 0\nRUN = "auto"\nRATES = (-1e-3, 1e-4)',
            metadata={"tags": ["parameters"]},
        ),
        code('run = runs.start(RUN)\nstage = run.stage("05_resnet50_finetuned")'),
        code('upstream = run.stage("04_resnet50_frozen")'),
        markdown("## 1. Look at the ResNet50 features"),
        *[code(f"np.arange({number})") for number in range(10)],
        markdown("## 2. Count"),
        code(
            "# NBVAL_CHECK_OUTPUT\nprint(3)",
            outputs=[v4.new_output("stream", name="stdout", text="3\n")],
        ),
        *[markdown(f"What was seen, part {part}.") for part in range(6)],
        markdown("## Results"),
        code("stage.save_metrics(run)"),
        markdown("## Takeaways"),
        markdown("## Exercises"),
        markdown("## Next"),
    ]
    content = v4.new_notebook(cells=cells, metadata=nbformat.from_dict(notebooks.METADATA))
    notebook = notebooks.Notebook(path, content)
    for count, cell in enumerate(notebook.code, start=1):
        cell.execution_count = count
    return notebook
