"""Keep the notebooks in order: run them, pin their Colab cells, check their conventions.

Run from the repository's root:

    python -m tools.notebooks check               complain about broken conventions
    python -m tools.notebooks badges [--check]    rewrite badges and setup cells
    python -m tools.notebooks execute [NAME ...]  run, and keep the outputs
"""

import argparse
import ast
import base64
import functools
import io
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image

from cifar_utils import paths, runs

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"

CELLS = range(30, 61)
MOST_LINES = 200
MOST_LINES_A_CELL = 30
MEDIAN_BELOW = 7
MOST_BYTES = 600_000

COMMON_PARAMETERS = {"PROFILE": "auto", "DATA": "auto", "SEED": 0, "RUN": "auto"}
OPENING = ["Overview", "Setup", "Parameters"]
CLOSING = ["Results", "Takeaways", "Exercises", "Next"]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# What differs between two machines or two runs: absolute folders and addresses of objects.
UNSTABLE = re.compile(
    r"(?:/root|/home|/Users|/tmp|/private|/var/folders|"
    + re.escape(str(ROOT))
    + r")/\S*|\b[A-Z]:\\\S*| at 0x\w+"
)
# What TensorFlow's C++ side logs on stderr when it starts, whatever its log level.
NATIVE_LOG = re.compile(
    r"^(?:WARNING: All log messages before absl|[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] )"
)


@functools.cache
def project() -> dict[str, Any]:
    """Return the ``[project]`` table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def badge(file: str) -> str:
    """Return the Markdown of the Colab badge of a file in notebooks/.

    It opens the released version, the same whose library the setup cell installs.
    """
    slug = project()["urls"]["Repository"].removeprefix("https://github.com/")
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{slug}/blob/v{project()['version']}"
        f"/notebooks/{file})"
    )


def setup_cell() -> str:
    """Return the source of the cell tagged ``colab-setup``."""
    name, version = project()["name"], project()["version"]
    return (
        "import importlib.util\n"
        "import sys\n\n"
        'if "google.colab" in sys.modules and importlib.util.find_spec("cifar_utils") is None:\n'
        f'    %pip install -q "{name}[audit,serve,export,tune] @ '
        f'git+{project()["urls"]["Repository"]}@v{version}"'
    )


def smoke_environment(folder: Path) -> dict[str, str]:
    """Return the variables that keep a notebook off the network and inside ``folder``."""
    return {
        "CIFAR_UTILS_ARTIFACTS_DIR": str(folder / "artifacts"),
        "CIFAR_UTILS_DATA_DIR": str(folder / "data"),
        "CIFAR_UTILS_LIVE": "0",
        "CIFAR_UTILS_PROFILE": "smoke",
        "CIFAR_UTILS_RESNET50_WEIGHTS": "none",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


@dataclass(frozen=True)
class Notebook:
    """A notebook and the views of it that the rules need."""

    path: Path
    content: nbformat.NotebookNode

    @property
    def cells(self) -> list[nbformat.NotebookNode]:
        """All cells."""
        return self.content.cells

    @property
    def code(self) -> list[nbformat.NotebookNode]:
        """The code cells."""
        return [cell for cell in self.cells if cell.cell_type == "code"]

    def tagged(self, tag: str) -> list[nbformat.NotebookNode]:
        """Return the code cells with ``tag``."""
        return [cell for cell in self.code if tag in cell.metadata.get("tags", [])]

    def headings(self) -> list[tuple[int, str, str]]:
        """Return the headings: index of the cell, marks such as ``##``, text."""
        found = []
        for index, cell in enumerate(self.cells):
            if cell.cell_type == "markdown":
                prose = re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL)
                lines = re.findall(r"^(#{1,6}) +(.+?) *$", prose, flags=re.MULTILINE)
                found += [(index, marks, text) for marks, text in lines]
        return found

    def section(self, title: str) -> list[nbformat.NotebookNode]:
        """Return the cells under the heading ``## title``."""
        starts = [(index, text) for index, marks, text in self.headings() if marks == "##"]
        for place, (index, text) in enumerate(starts):
            if text == title:
                following = starts[place + 1 :]
                return self.cells[index : following[0][0] if following else None]
        return []

    def nodes(self, *, outside: str | None = None) -> Iterator[ast.AST]:
        """Yield every syntax node of the code, but for the cells under ``## outside``."""
        left_out = {cell.id for cell in self.section(outside)} if outside else set()
        for cell in self.code:
            if cell.id not in left_out:
                source = TransformerManager().transform_cell(cell.source)
                yield from ast.walk(ast.parse(source))


def read(path: Path) -> Notebook:
    """Read a notebook."""
    # Not nbformat.read, which quietly repairs what check_metadata is there to find.
    return Notebook(path, nbformat.v4.reads(path.read_text(encoding="utf-8")))


def course() -> list[Path]:
    """Return the notebooks, in order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def code_lines(cell: nbformat.NotebookNode) -> int:
    """Return how many lines of a cell are neither empty nor comments."""
    lines = (line.strip() for line in cell.source.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def check_headings(notebook: Notebook) -> Iterator[str]:
    """One H1 with the number, then the skeleton's H2s in order, the steps numbered from 1."""
    headings = notebook.headings()
    titles = [text for _, marks, text in headings if marks == "#"]
    number = notebook.path.stem.partition("_")[0]
    if len(titles) != 1 or headings[0] != (0, "#", titles[0]):
        yield f"expected one H1, in the first cell; found {titles}"
    elif not titles[0].startswith(f"{number} · "):
        yield f"the H1 is {titles[0]!r}; expected it to start with '{number} · '"
    sections = [text for _, marks, text in headings if marks == "##"]
    steps = sections[len(OPENING) : -len(CLOSING)]
    if [*OPENING, *steps, *CLOSING] != sections or not steps:
        yield f"the H2s are {sections}; expected {OPENING}, numbered steps, {CLOSING}"
    for place, step in enumerate(steps, start=1):
        words = re.findall(r"[^\W\d]\w*", step)
        capitals = sum(word[0].isupper() for word in words[1:])
        if not step.startswith(f"{place}. ") or not words or not words[0][0].isupper():
            yield f"step {step!r}: expected '{place}. ' and a capital letter"
        elif capitals > len(words[1:]) / 2:
            yield f"step {step!r}: expected sentence case"


def check_colab(notebook: Notebook) -> Iterator[str]:
    """Badge and setup cell are those of pyproject.toml (`make badges` writes them)."""
    cells = notebook.cells
    if len(cells) < 2 or cells[1].source != badge(notebook.path.name):
        yield "the second cell is not this repository's Colab badge; run `make badges`"
    setup = notebook.tagged("colab-setup")
    if [cell.source for cell in setup] != [setup_cell()]:
        yield "the one cell tagged colab-setup is not the template; run `make badges`"
    elif setup[0].id not in [cell.id for cell in notebook.section("Setup")]:
        yield "the cell tagged colab-setup is not under Setup"


def check_parameters(notebook: Notebook) -> Iterator[str]:
    """One cell tagged ``parameters``: UPPERCASE literals, the common four with their defaults."""
    tagged = notebook.tagged("parameters")
    if len(tagged) != 1:
        yield f"expected one cell tagged parameters, found {len(tagged)}"
        return
    if tagged[0].id not in [cell.id for cell in notebook.section("Parameters")]:
        yield "the cell tagged parameters is not under Parameters"
    values = {}
    for statement in ast.parse(tagged[0].source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper():
                try:
                    values[name] = ast.literal_eval(statement.value)
                    continue
                except ValueError:
                    pass
        yield f"parameters: {ast.unparse(statement)!r} is not `NAME = literal`"
    for name, default in COMMON_PARAMETERS.items():
        if name not in values or values[name] != default:
            yield f"parameters: expected {name} = {default!r}"


def check_imports(notebook: Notebook) -> Iterator[str]:
    """Imports stand under Setup only, and pyplot, which keeps state, is not among them."""
    for node in notebook.nodes(outside="Setup"):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield f"{ast.unparse(node)!r} is outside Setup"
    for node in notebook.nodes():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(part in ("pyplot", "pylab") for name in names for part in name.split(".")):
                yield f"{ast.unparse(node)!r}: figures come from cifar_utils.plots, not pyplot"


def check_independence(notebook: Notebook) -> Iterator[str]:
    """Notebooks meet only in artifacts/: no magics, no other notebook's file, no path tricks."""
    for cell in notebook.code:
        if "colab-setup" not in cell.metadata.get("tags", []):
            if "get_ipython()" in TransformerManager().transform_cell(cell.source):
                yield f"magic or shell command in {cell.source.splitlines()[0]!r}"
            if "pip install" in cell.source:
                yield "pip install outside the cell tagged colab-setup"
    for node in notebook.nodes():
        match node:
            case ast.Constant(value=str(text)) if ".ipynb" in text:
                yield f"{text!r}: a notebook does not use another"
            case ast.Attribute(value=ast.Name(id="sys"), attr="path"):
                yield "sys.path is used; install the package instead"


def check_honesty(notebook: Notebook) -> Iterator[str]:
    """The test split is read in notebook 06 only, and no error is swallowed by a bare except."""
    for node in notebook.nodes():
        match node:
            case ast.Attribute(attr="test") if not notebook.path.stem.startswith("06"):
                yield f"{ast.unparse(node)!r}: choices are made on validation; test is for 06"
            case ast.ExceptHandler(type=None):
                yield "bare except"


def check_stage(notebook: Notebook) -> Iterator[str]:
    """``stage`` is the notebook's own; the other stages it opens are those it says it reads."""
    own, opened = [], set()
    for node in notebook.nodes():
        match node:
            case ast.Assign(
                targets=[ast.Name(id="stage")],
                value=ast.Call(
                    func=ast.Attribute(value=ast.Name(id="run"), attr="stage"),
                    args=[ast.Constant(value=str(name))],
                ),
            ):
                own.append(name)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="run"), attr="stage"),
                args=[ast.Constant(value=str(name))],
            ):
                opened.add(name)
    stem = notebook.path.stem
    if stem not in runs.STAGES:
        yield f"{stem} is not in runs.STAGES"
    if own != [stem]:
        yield f'expected `stage = run.stage("{stem}")` once; found {own}'
    if extra := opened - {stem, *own, *runs.STAGES.get(stem, ())}:
        yield f"opens {sorted(extra)}, which runs.STAGES does not list as its upstream"


def check_size(notebook: Notebook) -> Iterator[str]:
    """A notebook is a walk in short steps."""
    if len(notebook.cells) not in CELLS:
        yield f"{len(notebook.cells)} cells; expected {CELLS[0]} to {CELLS[-1]}"
    if any(not cell.source.strip() for cell in notebook.cells):
        yield "an empty cell"
    lines = [code_lines(cell) for cell in notebook.code] or [0]
    if sum(lines) > MOST_LINES:
        yield f"{sum(lines)} lines of code; at most {MOST_LINES}"
    if max(lines) > MOST_LINES_A_CELL:
        yield f"a cell of {max(lines)} lines; at most {MOST_LINES_A_CELL}"
    if median(lines) >= MEDIAN_BELOW:
        yield f"median {median(lines)} lines a cell; expected under {MEDIAN_BELOW}"


def check_outputs(notebook: Notebook) -> Iterator[str]:
    """Outputs are of one clean run from top to bottom and show nothing of the machine it ran on."""
    for place, cell in enumerate(notebook.code, start=1):
        if cell.execution_count != place:
            yield f"code cell {place} has execution count {cell.execution_count}; `make notebooks`"
        if cell.source.startswith("# NBVAL_CHECK_OUTPUT") and not cell.outputs:
            yield f"code cell {place} is marked NBVAL_CHECK_OUTPUT and has no output"
        elif "NBVAL_" in cell.source.replace("# NBVAL_CHECK_OUTPUT", "", 1):
            yield f"code cell {place}: the only mark is NBVAL_CHECK_OUTPUT, as the first line"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {place} ended in {output.ename}"
            elif output.get("name") == "stderr":
                yield f"code cell {place} wrote to stderr: {output.text.strip()[:200]!r}"
            for text in texts(output):
                if found := UNSTABLE.search(text):
                    yield f"code cell {place} shows {found[0]!r}"
    size = len(json.dumps(notebook.content, indent=1, ensure_ascii=False).encode())
    if size > MOST_BYTES:
        yield f"{size:,} bytes; at most {MOST_BYTES:,}"


def texts(output: nbformat.NotebookNode) -> list[str]:
    """Return what an output shows as text."""
    shown = [data for kind, data in output.get("data", {}).items() if not kind.startswith("image/")]
    return [str(part) for part in [output.get("text", ""), *shown]]


def check_metadata(notebook: Notebook) -> Iterator[str]:
    """Metadata is the same on every machine: the kernel, tags, and stable, unique cell ids."""
    content = notebook.content
    if content.metadata != METADATA:
        yield f"metadata {sorted(content.metadata)} is not the minimum; run `make notebooks`"
    if (content.nbformat, content.nbformat_minor) != (4, 5):
        yield f"format {content.nbformat}.{content.nbformat_minor}; expected 4.5"
    if len({cell.id for cell in content.cells}) < len(content.cells):
        yield "cell ids repeat"
    for cell in content.cells:
        if extra := set(cell.metadata) - {"tags"}:
            yield f"cell metadata {sorted(extra)}; only tags are kept"
        if "injected-parameters" in cell.metadata.get("tags", []):
            yield "papermill's injected-parameters cell was left in"


RULES: tuple[Callable[[Notebook], Iterator[str]], ...] = (
    check_headings,
    check_colab,
    check_parameters,
    check_imports,
    check_independence,
    check_honesty,
    check_stage,
    check_size,
    check_outputs,
    check_metadata,
)
"""Every convention; each rule yields what is wrong with a notebook, nothing if all is well."""


def complaints(notebook: Notebook) -> list[str]:
    """Return what is wrong with a notebook, each with the file's name in front."""
    return [f"{notebook.path.name}: {found}" for rule in RULES for found in rule(notebook)]


def pinned(path: Path) -> str:
    """Return the file's text with its badges and setup cell as pyproject.toml has them.

    Args:
        path: A notebook, or a Markdown file with badges in it.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return re.sub(
            r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*/([^/)]+\.ipynb)\)",
            lambda found: badge(found[1]),
            text,
        )
    notebook = read(path)
    if "colab.research.google.com" in notebook.cells[1].source:
        notebook.cells[1].source = badge(path.name)
    for cell in notebook.tagged("colab-setup"):
        cell.source = setup_cell()
    return nbformat.writes(notebook.content) + "\n"


def write_badges(*, check: bool) -> int:
    """Rewrite badges and setup cells of the notebooks and the README; return an exit status."""
    stale = []
    for path in [*course(), ROOT / "README.md"]:
        text = pinned(path)
        if text != path.read_text(encoding="utf-8"):
            stale.append(path)
            if not check:
                paths.write_text(path, text)
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'needs `make badges`' if check else 'rewritten'}")
    return int(check and bool(stale))


def small_png(encoded: str) -> str:
    """Return a base64 PNG in 256 colours, which takes a third of the space and looks alike."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    palette = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def cleaned(content: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return ``content`` small and without what differs from run to run; changes it in place."""
    content.metadata = nbformat.from_dict(METADATA)
    for cell in content.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not NATIVE_LOG.match(line))
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small_png(output.data["image/png"])
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    return content


def run(notebook: Notebook, environment: Mapping[str, str]) -> None:
    """Execute a notebook in place, in a kernel with the given environment."""
    NotebookClient(
        notebook.content,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute(env=environment)


def execute(names: list[str]) -> int:
    """Run notebooks with the smoke profile on the synthetic set and keep their outputs.

    Args:
        names: Numbers or names, all if empty. Stages they read from are run too, not written.

    Returns:
        The exit status: 1 where a notebook, as run, breaks a convention.
    """
    known = {path.stem: path for path in course()}
    wanted = [runs.stage_name(name, list(known)) for name in names] or list(known)
    needed = set(wanted)
    for stem in reversed(known):
        if stem in needed:
            needed.update(runs.STAGES[stem])
    wrong = []
    with tempfile.TemporaryDirectory(prefix="notebooks-") as folder:
        environment = os.environ | smoke_environment(Path(folder))
        for stem in sorted(needed):
            print(f"running {stem}", flush=True)
            notebook = read(known[stem])
            run(notebook, environment)
            cleaned(notebook.content)
            if stem in wanted:
                paths.write_text(known[stem], nbformat.writes(notebook.content) + "\n")
                wrong += complaints(notebook)
    print("\n".join(wrong) or "outputs written")
    return int(bool(wrong))


def check() -> int:
    """Print what is wrong with the notebooks and return an exit status."""
    wrong = [found for path in course() for found in complaints(read(path))]
    print("\n".join(wrong) or f"{len(course())} notebooks follow the conventions")
    return int(bool(wrong))


def main() -> int:
    """Run the verb given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="complain about broken conventions")
    badges = verbs.add_parser("badges", help="rewrite badges and setup cells")
    badges.add_argument("--check", action="store_true", help="only say what would change")
    run = verbs.add_parser("execute", help="run, and keep the outputs")
    run.add_argument("names", nargs="*", metavar="NAME", help="number or name; default: all")
    chosen = parser.parse_args()
    if chosen.verb == "check":
        return check() | write_badges(check=True)
    if chosen.verb == "badges":
        return write_badges(check=chosen.check)
    return execute(chosen.names)


if __name__ == "__main__":
    sys.exit(main())
