"""Ways to train the members of an ensemble, from several trainings or from one."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from cifar_utils import ensemble, evaluation, live, models, normalization, supervision, training
from cifar_utils.data import Split
from cifar_utils.errors import ParameterError
from cifar_utils.recipes import Recipe

Build = Callable[[], keras.Model]
"""What makes a new network."""


@dataclass(frozen=True, eq=False)
class Members:
    """Trained members and how they vote.

    Attributes:
        models: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits.
        combination: How they become one, see ``ensemble.assemble``.
        seconds: Wall time of each one's training.
    """

    models: tuple[keras.Model, ...]
    combination: ensemble.Average
    seconds: tuple[float, ...]

    def whole(self) -> keras.Model:
        """Return the ensemble as one model, see ``ensemble.assemble``."""
        return ensemble.assemble(self.models, self.combination)


def _check_count(what: str, count: int) -> None:
    """Refuse ensembles of nothing."""
    if count < 1:
        raise ParameterError(f"{what} is {count}; expected at least 1")


def _place(backup: Path | None, seed: int) -> Path | None:
    """Return the folder for the state of one member's training, if there is one for all."""
    return None if backup is None else backup / f"seed_{seed}"


def _fit(
    model: keras.Model, train: Split, recipe: Recipe, seed: int, backup: Path | None = None
) -> float:
    """Train without a line an epoch, and return the seconds."""
    with live.silent():
        fitted = training.fit(
            model, train, None, recipe, seed=seed, backup=backup, keep_backup=True
        )
    return fitted.seconds


def _trained(
    build: Build, train: Split, recipe: Recipe, seed: int, backup: Path | None = None
) -> tuple[keras.Model, float]:
    """Return a new network, trained, and the seconds that took."""
    keras.utils.set_random_seed(seed)
    model = build()
    return model, _fit(model, train, recipe, seed, backup)


def _alike(
    build: Build, lessons: Iterable[tuple[int, Split]], recipe: Recipe, backup: Path | None
) -> Members:
    """Train a member with each seed on what stands beside it; all have the same vote."""
    found, seconds = zip(
        *(_trained(build, train, recipe, seed, _place(backup, seed)) for seed, train in lessons),
        strict=True,
    )
    supervision.clear(backup)
    return Members(found, ensemble.uniform(len(found)), seconds)


def independent(
    build: Build,
    train: Split,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    backup: Path | None = None,
) -> Members:
    """Train the same network with several seeds (notebook 08 introduces it).

    Deep ensembles (Lakshminarayanan et al., arXiv 1612.01474): first weights, order and
    augmentation differ, and that is enough for other mistakes.

    Args:
        build: What makes the network.
        train: What to learn from.
        recipe: How.
        seeds: One a member.
        backup: Folder of its own for the state. A training that was killed goes on from there when
            it is started again in the same way, without training a member twice.

    Raises:
        ParameterError: There is no seed.
    """
    _check_count("the number of seeds", len(seeds))
    return _alike(build, ((seed, train) for seed in seeds), recipe, backup)


def resampled(train: Split, seed: int, weights: np.ndarray | None = None) -> Split:
    """Return as many images as there are, drawn with replacement (notebook 08 introduces it).

    Args:
        train: Images and labels.
        seed: Of the draw.
        weights: float ``(N,)``, how likely each is drawn, summing to 1; None for all alike: a
            bootstrap sample, which has about 63% of the images.

    Raises:
        ParameterError: There is not one weight an image, or they are no probabilities.
    """
    count = len(train)
    if weights is not None and (
        weights.shape != (count,) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6
    ):
        raise ParameterError(
            f"weights have shape {weights.shape}; expected {count}, none below 0, summing to 1"
        )
    drawn = np.sort(np.random.default_rng(seed).choice(count, count, p=weights))
    return Split(train.images[drawn], train.labels[drawn])


def bagging(
    build: Build,
    train: Split,
    recipe: Recipe,
    count: int,
    *,
    seed: int,
    backup: Path | None = None,
) -> Members:
    """Train members on bootstrap samples (Breiman 1996; notebook 08 introduces it).

    Args:
        build: What makes the network.
        train: What to learn from.
        recipe: How.
        count: How many members.
        seed: Of the first member's sample and training; the next ones follow.
        backup: Folder of its own for the state, see ``independent``.

    Raises:
        ParameterError: There is no member.
    """
    _check_count("count", count)
    samples = ((each, resampled(train, each)) for each in range(seed, seed + count))
    return _alike(build, samples, recipe, backup)


def reweighted(
    weights: np.ndarray, wrong: np.ndarray, classes: int = 10
) -> tuple[np.ndarray, float]:
    """Return weights that stress what a member got wrong, and its vote (notebook 08).

    AdaBoost.SAMME (Zhu et al. 2009, *Multi-class AdaBoost*). A member no better than guessing has
    no vote and changes nothing.

    Args:
        weights: float ``(N,)``, summing to 1.
        wrong: bool ``(N,)``, which images it got wrong.
        classes: How many there are.

    Returns:
        New weights, summing to 1, and the member's vote, 0 or more.
    """
    # A member without any mistake would have an infinite vote.
    error = max(float(weights[wrong].sum()), 0.5 / len(weights))
    vote = max(0.0, float(np.log((1 - error) / error) + np.log(classes - 1))) if error < 1 else 0.0
    raised = weights * np.exp(vote * wrong)
    return raised / raised.sum(), vote


def boosting(
    build: Build,
    train: Split,
    recipe: Recipe,
    count: int,
    *,
    seed: int,
    backup: Path | None = None,
) -> Members:
    """Train each member on samples with more of what the others got wrong (notebook 08).

    AdaBoost.SAMME by resampling, see ``reweighted``; votes weigh probabilities, not answers.

    Args:
        build: What makes the network.
        train: What to learn from.
        recipe: How.
        count: How many members.
        seed: Of the first member's training; the next ones follow.
        backup: Folder of its own for the state, see ``independent``.

    Raises:
        ParameterError: There is no member.
    """
    _check_count("count", count)
    weights, votes = np.full(len(train), 1 / len(train)), np.zeros(count)
    found, seconds = [], []
    for place in range(count):
        sample = resampled(train, seed + place, weights) if place else train
        state = _place(backup, seed + place)
        model, took = _trained(build, sample, recipe, seed + place, state)
        logits = evaluation.predict_logits(model, train.images)
        wrong = ~evaluation.right(logits, train.labels)
        weights, votes[place] = reweighted(weights, wrong, logits.shape[1])
        found.append(model)
        seconds.append(took)
    supervision.clear(backup)
    shares = votes / votes.sum() if votes.any() else np.full(count, 1 / count)
    average = ensemble.Average(tuple(shares.tolist()), (1.0,) * count)
    return Members(tuple(found), average, tuple(seconds))


def _copy(model: keras.Model) -> keras.Model:
    """Return a model of the same layers and weights that shares nothing with it."""
    copy = keras.models.clone_model(keras.Model(model.input, model.output, name=model.name))
    copy.set_weights(model.get_weights())
    return copy


def snapshots(
    build: Build,
    train: Split,
    recipe: Recipe,
    cycles: int,
    *,
    seed: int,
    backup: Path | None = None,
) -> Members:
    """Train once, and keep the network at the end of each cycle of the rate (notebook 08).

    Snapshot ensembles (Huang et al., arXiv 1704.00109): the learning rate falls along a cosine to
    zero, where the network has settled, and jumps back, which drives it elsewhere. All cycles
    together take the epochs of one training.

    Args:
        build: What makes the network.
        train: What to learn from.
        recipe: How; its schedule and sizes are replaced, and the optimizer starts anew each cycle.
        cycles: How many, and how many members; the epochs are shared out among them.
        seed: Of weights, order and augmentation.
        backup: Folder of its own for the state, see ``independent``.

    Raises:
        ParameterError: There is not an epoch for each cycle.
    """
    if not 1 <= cycles <= recipe.epochs:
        raise ParameterError(f"cycles is {cycles}; expected 1 to {recipe.epochs}, the epochs")
    keras.utils.set_random_seed(seed)
    model = build()
    found, seconds = [], []
    for cycle in range(cycles):
        epochs = recipe.epochs * (cycle + 1) // cycles - recipe.epochs * cycle // cycles
        part = dataclasses.replace(
            recipe, epochs=epochs, schedule="cosine", warmup=0.0, final=0.0, sizes=()
        )
        state = _place(backup, seed + cycle)
        seconds.append(_fit(model, train, part, seed + cycle, state))
        found.append(_copy(model))
    supervision.clear(backup)
    return Members(tuple(found), ensemble.uniform(cycles), tuple(seconds))


def compared(ways: Mapping[str, Members], validation: Split) -> pd.DataFrame:
    """Set ensembles against one network, the first member of the first (notebook 08).

    Args:
        ways: Ensembles of at least two members, by name.
        validation: What to judge by.

    Returns:
        A row for ``one network`` and one for each ensemble, see ``ensemble.gains``; besides,
        ``disagreement``, the mean over pairs of members, see ``ensemble.diversity``, missing for
        one network; ``seconds`` of training; and ``milliseconds`` for one picture.
    """
    logits = {
        name: [evaluation.predict_logits(model, validation.images) for model in way.models]
        for name, way in ways.items()
    }
    first = next(iter(ways))
    votes = {name: way.combination(logits[name]) for name, way in ways.items()}
    table = ensemble.gains(
        {"one network": logits[first][0], **votes}, validation.labels, "one network"
    )
    for name, outputs in logits.items():
        named = {str(place): each for place, each in enumerate(outputs)}
        unlike = ensemble.diversity(named, validation.labels)["disagreement"]
        table.loc[name, "disagreement"] = unlike.mean()
    table["seconds"] = [ways[first].seconds[0], *(sum(way.seconds) for way in ways.values())]
    asked = [ways[first].models[0], *(way.whole() for way in ways.values())]
    picture = validation.images[0]
    table["milliseconds"] = [1e3 * evaluation.latency(model, picture) for model in asked]
    return table


def soup(ingredients: Sequence[keras.Model], images: np.ndarray) -> keras.Model:
    """Return one network with the mean of several networks' weights (notebook 08 introduces it).

    A uniform soup (Wortsman et al., arXiv 2203.05482): it costs what one network costs. It works
    for networks that were trained on from the same weights; between others there is no network that
    is any good.

    Args:
        ingredients: Networks of one architecture.
        images: uint8 ``(N, 32, 32, 3)`` training images, see ``normalization.refresh``.

    Raises:
        ParameterError: There are none, or they are built differently.
    """
    _check_count("the number of ingredients", len(ingredients))
    if len({models.architecture(each) for each in ingredients}) > 1:
        raise ParameterError("the ingredients are built differently; a soup needs one architecture")
    mixed = _copy(ingredients[0])
    weights = zip(*(each.get_weights() for each in ingredients), strict=True)
    mixed.set_weights([np.mean(each, axis=0).astype(each[0].dtype) for each in weights])
    if len(ingredients) > 1:
        normalization.refresh(mixed, images)
    return mixed


def greedy_soup(
    ingredients: Sequence[keras.Model], validation: Split, images: np.ndarray
) -> tuple[keras.Model, tuple[int, ...]]:
    """Return the soup of those ingredients that help (notebook 08 introduces it).

    The greedy soup of arXiv 2203.05482: from the best ingredient downward each goes in if
    validation accuracy does not fall, so that the soup is never worse there than the best one.

    Args:
        ingredients: Networks of one architecture.
        validation: What to choose by.
        images: uint8 ``(N, 32, 32, 3)`` training images, see ``normalization.refresh``.

    Returns:
        The soup, and the places of what went in, the best first.

    Raises:
        ParameterError: There are none, or they are built differently.
    """
    _check_count("the number of ingredients", len(ingredients))

    def accuracy(model: keras.Model) -> float:
        logits = evaluation.predict_logits(model, validation.images)
        return evaluation.accuracy(logits, validation.labels).value

    alone = [accuracy(each) for each in ingredients]
    first, *others = np.argsort(-np.array(alone), kind="stable").tolist()
    chosen, best, reached = [first], soup([ingredients[first]], images), alone[first]
    for place in others:
        tried = soup([ingredients[each] for each in (*chosen, place)], images)
        found = accuracy(tried)
        if found >= reached:
            chosen, best, reached = [*chosen, place], tried, found
    return best, tuple(chosen)
