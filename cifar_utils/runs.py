"""Where a run lives: its manifest, its stages, what each stage leaves behind, the leaderboard."""

import dataclasses
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_utils import paths, runtime
from cifar_utils.errors import ParameterError, RunError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


STAGES: dict[str, tuple[str, ...]] = {
    "01_eda": (),
    "02_baseline_cnn": (),
    "03_augmentation": ("02_baseline_cnn",),
    "04_resnet50_frozen": (),
    "05_resnet50_finetuned": ("04_resnet50_frozen",),
    "06_evaluation": (
        "01_eda",
        "02_baseline_cnn",
        "03_augmentation",
        "04_resnet50_frozen",
        "05_resnet50_finetuned",
    ),
    "07_architectures_and_tuning": (),
    "08_ensembles": ("02_baseline_cnn", "03_augmentation", "05_resnet50_finetuned"),
    "09_predict_and_deploy": (
        "02_baseline_cnn",
        "03_augmentation",
        "04_resnet50_frozen",
        "05_resnet50_finetuned",
        "06_evaluation",
    ),
}
"""Every stage of the course and the stages whose artifacts it reads."""


COMMON = frozenset({"PROFILE", "DATA", "SEED", "RUN"})
"""Parameters that every notebook has."""


LEFT_BEHIND = ("notebook.ipynb", "report.html", "metrics.json")
"""Files without which a stage has not finished."""


@dataclass(frozen=True)
class Result:
    """One row of the leaderboard; everything needed to know what a number means.

    Attributes:
        run: Name of the run.
        stage: Name of the stage that made the model, such as ``02_baseline_cnn``.
        split: ``validation`` or ``test``; None where the stage trains nothing.
        accuracy: Share of right predictions, 0 to 1.
        accuracy_low: Lower end of its 95% Wilson interval.
        accuracy_high: Upper end of its 95% Wilson interval.
        n: Number of images behind the accuracy.
        data: ``official``, ``modified`` or ``synthetic``.
        data_fingerprint: First 16 hexadecimal digits of the data's fingerprint.
        profile: Name of the profile.
        seed: Seed of the run.
        pretraining: What the weights were pretrained on, ``none`` if nothing.
        parameters: Number of weights in the model.
        training_seconds: Wall time of training, in seconds.
        hardware: What it ran on.
        precision: Keras dtype policy.
        failed_tests: Tests of behaviour that it fails, None if it was not tested (notebook 06).
    """

    run: str
    stage: str
    data: str
    data_fingerprint: str
    profile: str
    seed: int
    n: int
    hardware: str
    split: str | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    pretraining: str = "none"
    parameters: int | None = None
    training_seconds: float | None = None
    precision: str | None = None
    failed_tests: int | None = None


def stage_name(text: str, choices: list[str] | None = None) -> str:
    """Return the full stage name for a number or a name: ``2``, ``02``, ``baseline_cnn``.

    Raises:
        ParameterError: No stage is called so; the message has the nearest name.
    """
    known = choices or list(STAGES)
    for name in known:
        number, _, title = name.partition("_")
        if text in (name, number, title) or (text.isdigit() and int(text) == int(number)):
            return name
    words = [word for name in known for word in name.split("_", 1)]
    raise ParameterError(f"unknown stage {text!r}{nearest(text, words)}")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically as JSON; dataclasses become objects."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.asdict(item)
        if isinstance(item, np.generic):
            return item.item()
        raise TypeError(f"{type(item).__name__} cannot be written to {path.name}")

    paths.write_text(path, json.dumps(value, indent=2, default=plain) + "\n")


def read_json(path: Path) -> Any:
    """Read the JSON file at ``path``.

    Raises:
        RunError: The file is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); run its stage again with --fresh") from error


def _git_commit() -> str | None:
    """Return the checkout's commit, with ``+`` if files differ from it; None outside git."""
    root = paths.checkout()
    if root is None:
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


@dataclass(frozen=True)
class Stage:
    """The folder of one stage of a run and the ways to write to it."""

    run: "Run"
    name: str

    @property
    def folder(self) -> Path:
        """The stage's folder; it need not exist yet."""
        return self.run.folder / self.name

    @property
    def backup(self) -> Path:
        """Where its trainings keep their state; outside the folder, which a new start empties."""
        return self.run.folder / f".{self.name}.backup"

    @property
    def under_way(self) -> bool:
        """Whether ``cifar run`` has begun it and not ended it; a kernel may be writing to it."""
        return (self.backup / "attempt.json").is_file()

    def _changed(self) -> None:
        """Forget that ``cifar run`` finished this stage: its files are no longer of that run."""
        (self.folder / "stage.json").unlink(missing_ok=True)

    def save_figure(self, figure: "Figure", name: str) -> "Figure":
        """Write ``figure`` to ``figures/<name>.png`` and return it, for a notebook to show."""
        self._changed()
        with paths.atomic(self.folder / "figures" / f"{name}.png") as partial:
            figure.savefig(partial, dpi=120, bbox_inches="tight", facecolor="white")
        return figure

    def save_table(self, table: "pd.DataFrame", name: str) -> None:
        """Write ``table`` to ``<name>.csv``, without its index."""
        self._changed()
        with paths.atomic(self.folder / f"{name}.csv") as partial:
            table.to_csv(partial, index=False)

    def save_logits(self, split: str, logits: np.ndarray, labels: np.ndarray) -> None:
        """Write the model's outputs on a split to ``<split>.npz``.

        Args:
            split: ``validation`` or ``test``.
            logits: float32 ``(N, 10)``.
            labels: int64 ``(N,)``.
        """
        with paths.atomic(self.folder / f"{split}.npz") as partial:
            np.savez(partial, logits=logits.astype(np.float32), labels=labels.astype(np.int64))

    def load_logits(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(logits, labels)`` as ``save_logits`` wrote them.

        Raises:
            RunError: The stage has not left them; the message has the command that does.
        """
        with np.load(self.require(f"{split}.npz")) as saved:
            return saved["logits"], saved["labels"]

    def result(self, **fields: Any) -> Result:
        """Return a leaderboard row with the run's own facts filled in."""
        manifest = self.run.manifest
        return Result(
            run=self.run.name,
            stage=self.name,
            data=manifest["data"]["kind"],
            data_fingerprint=manifest["data"]["fingerprint"][:16],
            profile=manifest["profile"],
            seed=manifest["seed"],
            hardware=runtime.hardware(),
            **fields,
        )

    def save_metrics(self, result: Result, **details: Any) -> None:
        """Write ``metrics.json``: the stage's leaderboard row and any further flat figures."""
        self._changed()
        write_json(self.folder / "metrics.json", dataclasses.asdict(result) | details)

    def finished(self) -> dict[str, Any] | None:
        """Return what ``stage.json`` says, None if ``cifar run`` has not finished the stage."""
        path = self.folder / "stage.json"
        if not path.is_file() or not all((self.folder / file).is_file() for file in LEFT_BEHIND):
            return None
        try:
            return read_json(path)
        except RunError:  # damaged, so nothing says that the stage is whole
            return None

    def metrics(self) -> dict[str, Any]:
        """Return ``metrics.json``.

        Raises:
            RunError: The stage has not left it; the message has the command that does.
        """
        return read_json(self.require("metrics.json"))

    def require(self, file: str) -> Path:
        """Return the path of a file this stage must have left.

        Raises:
            RunError: It is missing; the message has the command that makes it.
        """
        path = self.folder / file
        if not path.is_file():
            number = self.name.partition("_")[0]
            raise RunError(
                f"{path} is missing; make it with: cifar run {number} {self.run.options()}"
            )
        return path


@dataclass(frozen=True)
class Run:
    """A named run: one profile, one data set and one seed, shared by its stages."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's name, which is also its folder's."""
        return self.folder.name

    def stage(self, name: str) -> Stage:
        """Return the stage called ``name``, such as ``02_baseline_cnn``."""
        return Stage(self, stage_name(name))

    def shared_options(self) -> str:
        """Return the options of ``cifar run`` that all runs of a grid have, this one among them."""
        data = self.manifest["data"]
        chosen = "synthetic" if data["kind"] == "synthetic" else data["source"]
        return f"--profile {self.manifest['profile']} --data {shlex.quote(chosen)}"

    def options(self) -> str:
        """Return the options of ``cifar run`` that make this run."""
        return f"{self.shared_options()} --seed {self.manifest['seed']} --run {self.name}"

    def results(self) -> list[dict[str, Any]]:
        """Return the rows of the run's stages, test rows beside validation rows."""
        rows = []
        for name in STAGES:
            stage = self.stage(name)
            if (stage.folder / "metrics.json").is_file():
                rows.append(stage.metrics())
            if (stage.folder / "leaderboard.json").is_file():
                rows += read_json(stage.folder / "leaderboard.json")
        return rows


def resolve_name(name: str, *, profile: str, kind: str, seed: int) -> str:
    """Return the name of a run, ``auto`` being named after its settings: ``smoke-synthetic-seed0``.

    Raises:
        ParameterError: The name is not usable as a folder.
    """
    if name == "auto":
        return f"{profile}-{kind}-seed{seed}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ParameterError(
            f"run name {name!r} is not usable; use letters, digits, '.', '_' and '-', at most 100"
        )
    return name


def _described(settings: dict[str, Any]) -> str:
    """Return the settings that tell two runs apart, for an error message."""
    data = settings["data"]
    return (
        f"profile {settings['profile']}, seed {settings['seed']} and {data['kind']} data "
        f"{data['fingerprint'][:8]}"
    )


def _identity(settings: dict[str, Any]) -> tuple[str, int, str, str]:
    """Return what must stay the same for a run to be continued."""
    data = settings["data"]
    return settings["profile"], settings["seed"], data["kind"], data["fingerprint"]


def known(name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of the run called ``name``, None if there is none or it is damaged.

    Args:
        name: Of a run that may exist.
        settings: ``profile``, ``seed`` and ``data`` that it must have been made with.

    Raises:
        RunError: It was made with another profile, seed or data.
    """
    folder = paths.artifacts_dir() / name
    try:
        found = read_json(folder / "manifest.json")
    except (FileNotFoundError, RunError):
        return None
    if _identity(found) != _identity(settings):
        raise RunError(
            f"run {name!r} was made with {_described(found)}, not {_described(settings)}; "
            f"choose another name with --run, or remove {folder}"
        )
    return found


def start(name: str, *, profile: str, seed: int, provenance: dict[str, Any]) -> Run:
    """Open the run called ``name``, creating its manifest (notebook 01 introduces it).

    Args:
        name: Letters, digits, ``.``, ``_`` and ``-``; ``auto`` names it after its settings.
        profile: Name of the profile.
        seed: Seed of the run.
        provenance: The data's provenance record; ``kind`` and ``fingerprint`` identify the data.

    Raises:
        ParameterError: The name is not usable as a folder.
        RunError: A run of that name exists with another profile, seed or data.
    """
    name = resolve_name(name, profile=profile, kind=provenance["kind"], seed=seed)
    folder = paths.artifacts_dir() / name
    settings = {"profile": profile, "seed": seed, "data": provenance}
    path = folder / "manifest.json"
    found = known(name, settings)
    if found is None and path.is_file():  # each finished stage says what it was made with
        print(f"{path} is damaged and written anew")
    manifest = (found or {}) | settings
    manifest |= {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": runtime.hardware(),
        "versions": runtime.versions(),
        "git_commit": _git_commit(),
    }
    if found:
        # The images may have moved, the packages may be newer: the record follows.
        manifest["created"] = found["created"]
    if manifest != found:
        write_json(path, manifest)
    return Run(folder, manifest)


def load(name: str) -> Run:
    """Open an existing run.

    Raises:
        RunError: There is none of that name; the message lists those there are.
    """
    path = paths.artifacts_dir() / name / "manifest.json"
    if not path.is_file():
        known = names()
        hint = nearest(name, known) if known else "; there are none yet, make one with: cifar run"
        raise RunError(f"no run is called {name!r} in {paths.artifacts_dir()}{hint}")
    return Run(path.parent, read_json(path))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep two commands from writing to one run at the same time.

    Raises:
        RunError: Another one is at it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"another `cifar run` is writing to {folder}; wait for it or choose another --run"
        ) from error
    try:
        yield
    finally:
        lock.release()


def busy(folder: Path) -> bool:
    """Return whether a command is writing to the run in ``folder``."""
    try:
        with alone(folder):
            return False
    except RunError:
        return True


def names() -> list[str]:
    """Return the names of the runs in the artifacts folder, oldest first."""
    found = list(paths.artifacts_dir().glob("*/manifest.json"))
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]
