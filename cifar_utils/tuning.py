"""Finding hyper-parameters: trials that train, what they tell, and the recipe that wins."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from sklearn.model_selection import StratifiedKFold

from cifar_utils import (
    evaluation,
    experiments,
    live,
    recipes,
    runtime,
    spaces,
    studies,
    supervision,
    training,
)
from cifar_utils.data import Dataset, Split
from cifar_utils.errors import DivergedError, ParameterError, RunError, nearest
from cifar_utils.evaluation import Interval
from cifar_utils.experiments import Variant
from cifar_utils.profiles import Profile
from cifar_utils.recipes import Plan, Recipe
from cifar_utils.spaces import Space

OBJECTIVES: dict[str, studies.Direction] = {"accuracy": "maximize", "seconds": "minimize"}
"""What a study can be after: accuracy on validation, and seconds of training."""


class _Reports(keras.callbacks.Callback):
    """Tells a trial the validation accuracy of each epoch; ends it early if it lags behind.

    Args:
        trial: What to tell.
        pruning: Whether to ask it too, which Optuna allows for one objective.

    Attributes:
        pruned: Whether it was ended.
    """

    def __init__(self, trial: optuna.Trial, pruning: bool) -> None:
        super().__init__()
        self.pruned = False
        self._trial, self._pruning = trial, pruning

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tell, and ask."""
        self._trial.set_user_attr("epochs", epoch + 1)
        if not self._pruning:
            return
        self._trial.report(float((logs or {})["val_accuracy"]), epoch + 1)
        if self._trial.should_prune():
            self.pruned = True
            self.model.stop_training = True


@dataclass(frozen=True)
class Task:
    """What the trials of a study do (notebook 07 introduces it); ``task`` makes it.

    Attributes:
        model: A key of ``models.MODELS``.
        space: What may vary.
        base: The recipe that gives the rest.
        train: What to learn from.
        validation: What to judge by.
        objectives: Keys of ``OBJECTIVES``; the first is the one that the winner is best at.
        seed: Of weights, order and augmentation in every trial, and of sampling.
        identity: JSON values that tell the images and the profile.
    """

    model: str
    space: Space
    base: Recipe
    train: Split
    validation: Split
    objectives: tuple[str, ...]
    seed: int
    identity: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return what must be the same for all who take part in a study, as JSON values."""
        return {
            **self.identity,
            "model": self.model,
            "space": spaces.record(self.space),
            "base": dataclasses.asdict(self.base) | {"sizes": [], "rates": []},
            "images": [len(self.train), len(self.validation)],
            "objectives": list(self.objectives),
        }

    def open(
        self,
        name: str,
        *,
        storage: str | None = None,
        sampler: str = "tpe",
        pruner: str | None = None,
    ) -> studies.Study:
        """Open the study of that name, or begin it; see ``studies.opened``.

        Args:
            name: Of the study.
            storage: Database or journal.
            sampler: A name in ``studies.SAMPLERS``.
            pruner: One in ``studies.PRUNERS``; None for ``median`` with one objective, else
                ``none``.
        """
        return studies.opened(
            name,
            self.settings(),
            grid={name: dimension.grid() for name, dimension in self.space.items()},
            directions=[OBJECTIVES[objective] for objective in self.objectives],
            storage=storage,
            sampler=sampler,
            pruner=pruner or ("median" if len(self.objectives) == 1 else "none"),
            epochs=self.base.epochs,
            seed=self.seed,
        )

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """Return the network and recipe that the values of a trial stand for."""
        return spaces.planned(self.model, self.base, values)

    def __call__(self, trial: optuna.Trial) -> float | list[float]:
        """Train once, and return the value of each objective.

        The trial gets the attributes ``accuracy``, ``seconds``, ``epochs``, ``hardware`` and
        ``right``: which validation images were answered rightly, as hexadecimal digits.

        Raises:
            optuna.TrialPruned: It lagged behind, or diverged, as the attribute ``diverged`` says.
        """
        plan = self.plan({name: each.sample(trial, name) for name, each in self.space.items()})
        keras.utils.set_random_seed(self.seed)
        model = plan.build(self.train.images)
        reports = _Reports(trial, pruning=len(self.objectives) == 1)
        trial.set_user_attr("hardware", runtime.hardware())
        started = time.perf_counter()
        try:
            with live.silent():
                fitted = training.fit(
                    model,
                    self.train,
                    self.validation,
                    plan.recipe,
                    seed=self.seed,
                    callbacks=[reports],
                )
        except DivergedError as error:
            trial.set_user_attr("seconds", time.perf_counter() - started)
            trial.set_user_attr("diverged", str(error).partition(";")[0])
            raise optuna.TrialPruned from error
        trial.set_user_attr("seconds", fitted.seconds)
        if reports.pruned:
            raise optuna.TrialPruned
        logits = evaluation.predict_logits(model, self.validation.images)
        right = evaluation.right(logits, self.validation.labels)
        trial.set_user_attr("right", np.packbits(right).tobytes().hex())
        values = {"accuracy": float(right.mean()), "seconds": fitted.seconds}
        trial.set_user_attr("accuracy", values["accuracy"])
        return [values[name] for name in self.objectives]


def task(
    profile: Profile,
    dataset: Dataset,
    *,
    model: str = "baseline_cnn",
    space: str = "default",
    objectives: Sequence[str] = ("accuracy",),
    seed: int = 0,
) -> Task:
    """Return what the trials of a study do (notebook 07 introduces it).

    A trial trains on the profile's ``trial_images`` for ``trial_epochs``, with AdamW where the
    space does not say otherwise. It is judged on validation; test is never read.

    Args:
        profile: How much a trial does.
        dataset: The images.
        model: A key of ``models.MODELS``.
        space: A name in ``spaces.SPACES`` or a TOML file.
        objectives: Keys of ``OBJECTIVES``.
        seed: Of weights, order and augmentation in every trial, and of sampling.

    Raises:
        ParameterError: A name is unknown, or the space does not suit network or recipe.
    """
    for name in objectives:
        if name not in OBJECTIVES:
            raise ParameterError(f"unknown objective {name!r}{nearest(name, list(OBJECTIVES))}")
    if not objectives or len(set(objectives)) < len(objectives):
        raise ParameterError(f"objectives are {list(objectives)}; expected different ones")
    base = Recipe(
        epochs=profile.trial_epochs, batch_size=profile.trial_batch_size, optimizer="adamw"
    )
    found = spaces.get(space)
    spaces.check(found, model, base)
    provenance = dataset.provenance
    return Task(
        model=model,
        space=found,
        base=base,
        train=dataset.train.first(profile.trial_images),
        validation=dataset.validation,
        objectives=tuple(objectives),
        seed=seed,
        identity={
            "profile": profile.name,
            "data": provenance.kind,
            "data_fingerprint": provenance.fingerprint[:16],
        },
    )


def described(trial: FrozenTrial) -> str:
    """Return a line about a trial that is over."""
    attributes = trial.user_attrs
    values = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.params.items()
    )
    seconds = f"{attributes.get('seconds', 0):.1f} s"
    if "diverged" in attributes:
        outcome = f"{attributes['diverged']} after {seconds}"
    elif trial.state == TrialState.PRUNED:
        outcome = f"pruned after epoch {attributes['epochs']}, {seconds}"
    else:
        outcome = f"{attributes['accuracy']:.1%} in {seconds}"
    return f"trial {trial.number}: {outcome}  ({values})"


def table(study: studies.Study) -> pd.DataFrame:
    """Return a row for each trial that is over, in their order (notebook 07 introduces it).

    Returns:
        The trial's number as the index; ``state`` (complete, pruned or diverged); ``accuracy`` on
        validation, that of the last epoch where the trial was pruned, missing where it diverged;
        ``epochs``; ``seconds``; ``front``, whether no other is better in one objective and as good
        in the others; ``worker``; and a column for each setting that varied.
    """
    best = {trial.number for trial in study.optuna.best_trials}
    rows = []
    for trial in study.trials(*studies.SETTLED):
        attributes = trial.user_attrs
        last = trial.intermediate_values.get(max(trial.intermediate_values, default=0))
        state = "diverged" if "diverged" in attributes else trial.state.name.lower()
        row = {
            "trial": trial.number,
            "state": state,
            "accuracy": attributes.get("accuracy", None if state == "diverged" else last),
            "epochs": attributes.get("epochs", 0),
            "seconds": attributes.get("seconds"),
            "front": trial.number in best,
            "worker": attributes.get("worker"),
        }
        rows.append(row | trial.params)
    if not rows:
        raise RunError(f"study {study.optuna.study_name!r} has no finished trial yet")
    return pd.DataFrame(rows).set_index("trial").sort_index()


def best(study: studies.Study) -> FrozenTrial:
    """Return the complete trial with the highest validation accuracy, the first of equals.

    Raises:
        RunError: None is complete.
    """
    complete = study.trials(TrialState.COMPLETE)
    if not complete:
        raise RunError(
            f"study {study.optuna.study_name!r} has no complete trial, so nothing has won; give it "
            "more trials"
        )
    return max(complete, key=lambda trial: (trial.user_attrs["accuracy"], -trial.number))


def write_winner(study: studies.Study, task: Task, path: Path) -> Plan:
    """Write the best trial's network and recipe to a file, and return them (notebook 07).

    Args:
        study: With a complete trial.
        task: What its trials did.
        path: What notebook 02 takes as ``RECIPE``.

    Raises:
        RunError: No trial is complete.
    """
    trial = best(study)
    plan = task.plan(trial.params)
    recipes.write(
        path,
        plan,
        study=study.optuna.study_name,
        trial=trial.number,
        trials=len(study.trials(*studies.SETTLED)),
        validation_accuracy=trial.user_attrs["accuracy"],
        images=[len(task.train), len(task.validation)],
        seed=task.seed,
        seconds=round(trial.user_attrs["seconds"], 1),
        hardware=trial.user_attrs["hardware"],
        **task.identity,
    )
    return plan


def importance(study: studies.Study) -> pd.Series:
    """Return what share of the differences in accuracy each setting accounts for (notebook 07).

    The variance of a random forest's predictions is split up between the settings (fANOVA, Hutter
    et al., ICML 2014). It knows complete trials only, and few of them say little.

    Returns:
        By setting, the largest first; they sum to 1, or are all 0 where accuracy does not differ.

    Raises:
        RunError: There are not two complete trials.
    """
    complete = study.trials(TrialState.COMPLETE)
    if len(complete) < 2:
        raise RunError(
            f"study {study.optuna.study_name!r} has {len(complete)} complete trials; importance "
            "needs at least two"
        )
    found = optuna.importance.get_param_importances(
        study.optuna,
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
        target=lambda trial: trial.user_attrs["accuracy"],
    )
    return pd.Series(found, name="importance", dtype=float)


def right(study: studies.Study, images: int) -> np.ndarray:
    """Return which validation images each complete trial got right, bool ``(trials, images)``."""
    packed = [
        np.frombuffer(bytes.fromhex(trial.user_attrs["right"]), np.uint8)
        for trial in study.trials(TrialState.COMPLETE)
    ]
    return np.unpackbits(np.array(packed, np.uint8), axis=1, count=images).astype(bool)


def selection_bias(right: np.ndarray, *, halvings: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return how far accuracy on the images that chose a network overstates it (notebook 07).

    The images are halved at random. The best of the first ``n`` networks on one half is looked at
    on the other half, which had no say. The first is what one reports who tunes on the test set.

    Args:
        right: Which of the images each network got right, bool ``(networks, images)``.
        halvings: How often; the results are means over them.
        seed: Of the halvings.

    Returns:
        A row for each ``n``, which is the index ``trials``: accuracy of the chosen one on the
        images that ``chose`` it and on the ``other`` ones, the ``gap`` between them, and ``low``
        and ``high``, between which 95% of the halvings' gaps lie.

    Raises:
        ParameterError: There is no network, or there are not two images.
    """
    networks, images = right.shape
    if networks < 1 or images < 2:
        raise ParameterError(
            f"got {networks} networks and {images} images; expected a network and two images"
        )
    generator = np.random.default_rng(seed)
    chose, other = np.empty((2, halvings, networks))
    for halving in range(halvings):
        order = generator.permutation(images)
        half = images // 2
        seen, unseen = right[:, order[:half]].mean(1), right[:, order[half:]].mean(1)
        # Of equals a coin decides, or the first would win because it is the first.
        placed = seen + generator.uniform(0, 0.1 / images, networks)
        winners = [int(placed[:count].argmax()) for count in range(1, networks + 1)]
        chose[halving], other[halving] = seen[winners], unseen[winners]
    low, high = np.quantile(chose - other, [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "chose": chose.mean(0),
            "other": other.mean(0),
            "gap": (chose - other).mean(0),
            "low": low,
            "high": high,
        },
        index=pd.Index(range(1, networks + 1), name="trials"),
    )


@dataclass(frozen=True)
class CrossValidation:
    """What cross-validation gave.

    Attributes:
        table: A row for each variant and fold: ``variant``, ``fold`` (from 1), ``accuracy`` on the
            images of the fold, ``seconds`` of training.
        logits: By variant, float32 ``(N, K)`` for all images, each from the network that did not
            learn from it.
        labels: int64 ``(N,)``.
    """

    table: pd.DataFrame
    logits: dict[str, np.ndarray]
    labels: np.ndarray

    def difference(self, name: str, reference: str) -> Interval:
        """Return how much more accurate one variant is than another, over all images.

        The interval is a paired bootstrap of images; other trainings it knows nothing of.
        """
        return evaluation.difference(self.logits[name], self.logits[reference], self.labels)


def folds(labels: np.ndarray, count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return stratified folds: indices to learn from and to judge by, each image judged once.

    Args:
        labels: int64 ``(N,)``.
        count: Number of folds.
        seed: Of the order in which images are dealt out.

    Raises:
        ParameterError: There are fewer than two folds, or than so many images of a class.
    """
    smallest = int(np.unique(labels, return_counts=True)[1].min(initial=len(labels)))
    if not 2 <= count <= smallest:
        raise ParameterError(
            f"{count} folds of {len(labels)} images, {smallest} of the rarest class; expected 2 to "
            f"{smallest}"
        )
    dealt = StratifiedKFold(count, shuffle=True, random_state=seed)
    return list(dealt.split(labels, labels))


def cross_validate(
    variants: Mapping[str, Variant],
    images: Split,
    *,
    count: int,
    seed: int = 0,
    backup: Path | None = None,
) -> CrossValidation:
    """Train each variant once a fold, on the images of the other folds (notebook 07 introduces it).

    All images are judged by, and no network judges what it learned from. Variants share the folds.

    Args:
        variants: As for ``experiments.compare``.
        images: To learn from and to judge by.
        count: Number of folds.
        seed: Of the folds, and in each training of weights, order and augmentation.
        backup: Folder of its own where ``cifar run``, if it runs the notebook, keeps what is done.

    Raises:
        ParameterError: See ``folds``.
        DivergedError: A variant does not train.
    """
    found = folds(images.labels, count, seed)
    rows: list[dict[str, Any]] = []
    logits: dict[str, np.ndarray] = {}
    for name, (build, how) in variants.items():
        fit = experiments.trainer(how)
        for fold, (learned, judged) in enumerate(found, start=1):
            keras.utils.set_random_seed(seed)
            model = build()
            part = Split(images.images[learned], images.labels[learned])
            place = supervision.kept(backup, f"{name} {fold}")
            with live.silent():
                fitted = fit(model, part, None, seed=seed, backup=place)
            outputs = evaluation.predict_logits(model, images.images[judged])
            if name not in logits:
                logits[name] = np.empty((len(images), outputs.shape[1]), np.float32)
            logits[name][judged] = outputs
            reached = evaluation.accuracy(outputs, images.labels[judged]).value
            print(f"{name}, fold {fold}: {reached:.1%} in {fitted.seconds:.1f} s")
            rows.append(
                {"variant": name, "fold": fold, "accuracy": reached, "seconds": fitted.seconds}
            )
    return CrossValidation(pd.DataFrame(rows), logits, images.labels)
