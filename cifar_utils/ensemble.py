"""Several models as one: how their answers become one answer, and how unlike they are.

What an ensemble gives are log-probabilities, float32 ``(N, K)``: logits whose softmax is
themselves. So it is saved, judged and served as any model is.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import pandas as pd
from keras import layers, ops
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from cifar_utils import calibration, evaluation, experiments
from cifar_utils.data import IMAGE_SHAPE
from cifar_utils.errors import DataError, ParameterError, nearest

Kind = Literal["probabilities", "logits"]
"""What an average is of."""


def _stacked(logits: Sequence[np.ndarray], labels: np.ndarray | None = None) -> np.ndarray:
    """Return members' outputs as float64 ``(M, N, K)``; refuse what does not belong together."""
    if not len(logits):
        raise ParameterError("an ensemble has no members; expected at least one")
    shapes = {np.shape(each) for each in logits}
    if len(shapes) > 1 or len(min(shapes)) != 2:
        raise DataError(
            f"the members' outputs are {', '.join(map(str, sorted(shapes)))}; expected (N, K) of "
            "each, on the same images and for the same classes"
        )
    found = np.asarray(logits, np.float64)
    if not np.isfinite(found).all():
        raise DataError("the members' outputs are not all finite; leave out who has diverged")
    if labels is not None and (labels.shape != found.shape[1:2] or labels.dtype.kind not in "iu"):
        raise DataError(
            f"the labels are {labels.dtype} {labels.shape}; expected one whole number for each of "
            f"the {found.shape[1]} images: ({found.shape[1]},)"
        )
    return found


@dataclass(frozen=True)
class Average:
    """A weighted average of members' probabilities or logits (notebook 08 introduces it).

    The mean of logits is that of log-probabilities but for what is the same for all classes: a
    geometric mean, in which one member can veto a class.

    Attributes:
        weights: One a member, none below 0, summing to 1.
        temperatures: One a member; its logits are divided by it first.
        of: ``probabilities`` or ``logits``.
    """

    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    of: Kind = "probabilities"

    def __post_init__(self) -> None:
        """Refuse weights that are none."""
        if self.of not in ("probabilities", "logits"):
            known = nearest(str(self.of), ["probabilities", "logits"])
            raise ParameterError(f"an average is of {self.of!r}{known}")
        weights, temperatures = np.array(self.weights), np.array(self.temperatures)
        if not len(weights) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
            raise ParameterError(
                f"weights are {self.weights}; expected one a member, none below 0, summing to 1"
            )
        if len(temperatures) != len(weights) or not (
            np.isfinite(temperatures).all() and (temperatures > 0).all()
        ):
            raise ParameterError(
                f"temperatures are {self.temperatures}; expected {len(weights)} above 0, one a "
                "member"
            )

    @property
    def members(self) -> int:
        """How many it was made for."""
        return len(self.weights)

    @property
    def asked(self) -> tuple[int, ...]:
        """The members that count, by place; the others need not be asked at all."""
        return tuple(np.flatnonzero(self.weights).tolist())

    def __call__(self, logits: Sequence[np.ndarray]) -> np.ndarray:
        """Return the ensemble's outputs.

        Args:
            logits: float ``(N, K)`` of each member on the same images.

        Returns:
            float32 ``(N, K)``, log-probabilities.

        Raises:
            DataError: The outputs do not belong together.
            ParameterError: There are not as many members as weights.
        """
        found = _stacked(logits)
        _check_count(self, len(found))
        scaled = found / np.array(self.temperatures)[:, None, None]
        if self.of == "logits":
            mean = np.tensordot(self.weights, scaled, 1)
            return special.log_softmax(mean, axis=1).astype(np.float32)
        weights = np.array(self.weights)[:, None, None]
        shares = special.log_softmax(scaled, axis=2)
        return special.logsumexp(shares, axis=0, b=weights).astype(np.float32)

    def join(self, outputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        """Return the ensemble's output from the outputs of the members ``asked``."""
        chosen = [(self.weights[place], self.temperatures[place]) for place in self.asked]
        scaled = [output / heat for output, (_, heat) in zip(outputs, chosen, strict=True)]
        weights = [weight for weight, _ in chosen]
        if self.of == "logits":
            mean = sum(output * weight for output, weight in zip(scaled, weights, strict=True))
            return ops.log_softmax(mean)
        parts = [
            ops.log_softmax(output) + float(np.log(weight))
            for output, weight in zip(scaled, weights, strict=True)
        ]
        # Not ops.logsumexp, which no converter for phones can write.
        terms = ops.stack(parts)
        highest = ops.max(terms, axis=0)
        return highest + ops.log(ops.sum(ops.exp(terms - highest), axis=0))


@dataclass(frozen=True, eq=False)
class Stack:
    """A linear model on the members' log-probabilities (notebook 08 introduces it).

    Stacked generalisation (Wolpert 1992): unlike a weight, it may trust a member for some classes.

    Attributes:
        coefficients: float ``(M * K, K)``.
        intercept: float ``(K,)``.
    """

    coefficients: np.ndarray
    intercept: np.ndarray

    @property
    def members(self) -> int:
        """How many it was made for."""
        return len(self.coefficients) // len(self.intercept)

    @property
    def asked(self) -> tuple[int, ...]:
        """All members, by place."""
        return tuple(range(self.members))

    def __call__(self, logits: Sequence[np.ndarray]) -> np.ndarray:
        """Return the ensemble's outputs, float32 ``(N, K)`` log-probabilities, as ``Average``."""
        found = _stacked(logits)
        _check_count(self, len(found))
        if found.shape[2] != len(self.intercept):
            raise DataError(
                f"the members have {found.shape[2]} classes; expected {len(self.intercept)}"
            )
        scores = _log_probabilities(found) @ self.coefficients + self.intercept
        return special.log_softmax(scores, axis=1).astype(np.float32)

    def join(self, outputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        """Return the ensemble's output from the members' outputs."""
        joined = ops.concatenate([ops.log_softmax(output) for output in outputs], axis=-1)
        last = layers.Dense(len(self.intercept), dtype="float32", name="stack")
        scores = last(joined)
        last.set_weights([self.coefficients, self.intercept])
        return ops.log_softmax(scores)


Combination = Average | Stack
"""How members become one."""


def _check_count(combination: Combination, members: int) -> None:
    """Refuse more or fewer members than a combination was made for."""
    if members != combination.members:
        raise ParameterError(
            f"there are {members} members, and the combination is for {combination.members}"
        )


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return ``(M, N, K)`` outputs as log-probabilities side by side, ``(N, M * K)``."""
    shares = special.log_softmax(logits, axis=2)
    return shares.transpose(1, 0, 2).reshape(shares.shape[1], -1)


def uniform(members: int, of: Kind = "probabilities") -> Average:
    """Return the plain average, in which all count alike (notebook 08 introduces it).

    Raises:
        ParameterError: There is no member, or nothing is called so.
    """
    if members < 1:
        raise ParameterError("an ensemble has no members; expected at least one")
    return Average((1 / members,) * members, (1.0,) * members, of)


def fit_temperatures(logits: Sequence[np.ndarray], labels: np.ndarray) -> Average:
    """Return the average of members that were calibrated one by one (notebook 08).

    A member that is too sure of itself would outvote the others.

    Args:
        logits: float ``(N, K)`` of each member on the same validation images.
        labels: int64 ``(N,)``.

    Raises:
        DataError: Outputs and labels do not belong together.
    """
    found = _stacked(logits, labels)
    temperatures = tuple(calibration.fit_temperature(each, labels) for each in found)
    return Average((1 / len(found),) * len(found), temperatures)


def _calibrated(
    logits: Sequence[np.ndarray], labels: np.ndarray
) -> tuple[tuple[float, ...], np.ndarray]:
    """Return members' temperatures, and how likely they find the labels, as logs: ``(M, N)``."""
    temperatures = fit_temperatures(logits, labels).temperatures
    scaled = _stacked(logits) / np.array(temperatures)[:, None, None]
    return temperatures, special.log_softmax(scaled, axis=2)[:, np.arange(len(labels)), labels]


def fit_weights(
    logits: Sequence[np.ndarray], labels: np.ndarray, *, prior: float = 20.0
) -> Average:
    """Return the average whose weights suit the labels best (notebook 08 introduces it).

    The weights of a mixture with the highest likelihood, by expectation maximisation (Dempster,
    Laird and Rubin 1977), which finds it because there is one maximum only. Each member begins with
    the credit for some images, so that few labels cannot push the weights far from equal ones.

    Args:
        logits: float ``(N, K)`` of each member on the same validation images.
        labels: int64 ``(N,)``.
        prior: Images that each member has the credit for beforehand; 0 for none.

    Raises:
        DataError: Outputs and labels do not belong together.
        ParameterError: The prior is negative.
    """
    if not prior >= 0:
        raise ParameterError(f"prior is {prior}; expected 0 or more images")
    temperatures, found = _calibrated(logits, labels)
    likelihoods = np.exp(found - found.max(axis=0))
    weights = np.full(len(found), 1 / len(found))
    for _ in range(10_000):
        credit = weights[:, None] * likelihoods
        before = weights
        weights = (credit / credit.sum(axis=0)).sum(axis=1) + prior
        weights = weights / weights.sum()
        if np.abs(weights - before).max() < 1e-9:
            break
    return Average(tuple(weights.tolist()), temperatures)


def greedy(logits: Sequence[np.ndarray], labels: np.ndarray, *, rounds: int = 20) -> Average:
    """Return the average of members chosen one after the other (notebook 08 introduces it).

    Ensemble selection with replacement (Caruana et al. 2004): each round takes in the member that
    lowers the log loss of the average most, or raises it least; the best of all rounds counts. A
    member that was never chosen need not be asked when the ensemble is used.

    Args:
        logits: float ``(N, K)`` of each member on the same validation images.
        labels: int64 ``(N,)``.
        rounds: How many are taken in at most, each as often as it helps.

    Raises:
        DataError: Outputs and labels do not belong together.
        ParameterError: There is no round.
    """
    if rounds < 1:
        raise ParameterError(f"rounds is {rounds}; expected at least 1")
    temperatures, found = _calibrated(logits, labels)
    likelihoods, counts, total = np.exp(found), np.zeros(len(found)), np.zeros(len(labels))
    best, chosen = np.inf, counts
    for size in range(1, rounds + 1):
        tried = np.maximum((total + likelihoods) / size, np.finfo(float).tiny)
        losses = -np.log(tried).mean(axis=1)
        member = int(losses.argmin())
        total, counts = total + likelihoods[member], counts + np.eye(len(counts))[member]
        if losses[member] < best:
            best, chosen = losses[member], counts / size
    return Average(tuple(chosen.tolist()), temperatures)


def fit_stack(logits: Sequence[np.ndarray], labels: np.ndarray, *, strength: float = 0.01) -> Stack:
    """Return the multinomial logistic regression on log-probabilities (notebook 08).

    Args:
        logits: float ``(N, K)`` of each member on the same validation images.
        labels: int64 ``(N,)``, every class among them.
        strength: Inverse of the L2 penalty; the lower, the nearer are the coefficients to 0.

    Raises:
        DataError: Outputs and labels do not belong together, or a class has no image.
        ParameterError: The strength is not above 0.
    """
    found = _stacked(logits, labels)
    if not strength > 0:
        raise ParameterError(f"strength is {strength}; expected more than 0")
    missing = sorted(set(range(found.shape[2])) - set(labels.tolist()))
    if missing:
        raise DataError(
            f"no image is of the classes {', '.join(map(str, missing))}; stacking needs images of "
            "all, so give it more"
        )
    model = LogisticRegression(C=strength, max_iter=1000).fit(_log_probabilities(found), labels)
    return Stack(model.coef_.T, model.intercept_)


METHODS: dict[str, Callable[[Sequence[np.ndarray], np.ndarray], Combination]] = {
    "mean of probabilities": lambda logits, labels: uniform(len(logits)),
    "mean of logits": lambda logits, labels: uniform(len(logits), "logits"),
    "calibrated mean": fit_temperatures,
    "fitted weights": fit_weights,
    "greedy selection": greedy,
    "stacking": fit_stack,
}
"""Ways from members' outputs and labels to a combination, by name; the first two learn nothing."""


def check_method(name: str) -> None:
    """Refuse what is no key of ``METHODS``, with ParameterError."""
    if name not in METHODS:
        raise ParameterError(f"unknown method {name!r}{nearest(name, list(METHODS))}")


def out_of_fold(
    fit: Callable[[Sequence[np.ndarray], np.ndarray], Combination],
    logits: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Return outputs for labelled images by combinations that never saw their labels.

    What was fitted on the images it is judged by looks better than it is. So each part of the
    images gets its outputs from a combination that was fitted on the others (notebook 08).

    Args:
        fit: From members' outputs and labels to a combination, such as ``fit_weights``.
        logits: float ``(N, K)`` of each member on the same validation images.
        labels: int64 ``(N,)``.
        folds: Number of parts, at least 2, each with its share of every class.
        seed: Of the parts.

    Returns:
        float32 ``(N, K)``, log-probabilities.

    Raises:
        DataError: Outputs and labels do not belong together.
        ParameterError: There are not as many images of a class as parts.
    """
    found = _stacked(logits, labels)
    least = int(np.unique(labels, return_counts=True)[1].min()) if len(labels) else 0
    if not 2 <= folds <= least:
        raise ParameterError(
            f"folds is {folds}, and the rarest class has {least} images; expected 2 to {least}"
        )
    outputs = np.empty(found.shape[1:], np.float32)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fitted, judged in parts.split(labels, labels):
        outputs[judged] = fit(list(found[:, fitted]), labels[fitted])(list(found[:, judged]))
    return outputs


def diversity(logits: Mapping[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """Return how unlike the mistakes of each two models are (notebook 08 introduces it).

    Measures of Kuncheva and Whitaker (2003).

    Args:
        logits: float ``(N, K)`` of at least two models on the same images.
        labels: int64 ``(N,)``.

    Returns:
        A row a pair, named by the index: ``disagreement``, the share of images on which exactly one
        is right; ``q``, Yule's Q, 1 if they are right on the same images, 0 if their mistakes have
        nothing to do with each other, -1 if no image is wrong for both; missing where it is not
        defined; ``double_fault``, the share on which both are wrong.

    Raises:
        DataError: Outputs and labels do not belong together.
        ParameterError: There are not two models.
    """
    _stacked(list(logits.values()), labels)
    if len(logits) < 2:
        raise ParameterError("diversity is between models, and there is only one")
    right = {name: evaluation.right(outputs, labels) for name, outputs in logits.items()}
    rows = {}
    for pair in itertools.combinations(right, 2):
        first, second = (right[name] for name in pair)
        both, neither = int((first & second).sum()), int((~first & ~second).sum())
        one, other = int((first & ~second).sum()), int((~first & second).sum())
        alike, unlike = both * neither, one * other
        rows[pair] = {
            "disagreement": (one + other) / len(labels),
            "q": (alike - unlike) / (alike + unlike) if alike + unlike else np.nan,
            "double_fault": neither / len(labels),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["model", "other"])
    return table


def gains(logits: Mapping[str, np.ndarray], labels: np.ndarray, reference: str) -> pd.DataFrame:
    """Set candidates against one model, on the same images (notebook 08 introduces it).

    Args:
        logits: float ``(N, K)`` of each candidate, the reference among them.
        labels: int64 ``(N,)``.
        reference: What the others are held against.

    Returns:
        A row a candidate, named by the index, the reference first: ``accuracy``; ``difference``
        from the reference with its paired 95% interval from ``low`` to ``high``, missing for the
        reference, and the ``verdict``; ``log_loss`` in nats.

    Raises:
        ParameterError: The reference is not among the candidates.
    """
    if reference not in logits:
        raise ParameterError(f"unknown reference {reference!r}{nearest(reference, list(logits))}")
    rows: dict[str, dict[str, Any]] = {}
    for name in [reference, *(name for name in logits if name != reference)]:
        rows[name] = {
            "accuracy": evaluation.accuracy(logits[name], labels).value,
            "difference": np.nan,
            "low": np.nan,
            "high": np.nan,
            "verdict": "reference",
            "log_loss": evaluation.log_loss(logits[name], labels),
        }
        if name != reference:
            gap = evaluation.difference(logits[name], logits[reference], labels)
            ends = {"difference": gap.value, "low": gap.low, "high": gap.high}
            rows[name] |= {**ends, "verdict": experiments.verdict(gap)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _check_members(members: Sequence[keras.Model]) -> None:
    """Refuse models that do not take the same images or know the same classes, or that repeat."""
    if not members:
        raise ParameterError("an ensemble has no members; expected at least one")
    if len({id(member) for member in members}) < len(members):
        raise ParameterError("a member is there twice; leave one out, and give it twice the weight")
    for place, member in enumerate(members):
        shapes = [tuple(each.shape) for each in (*member.inputs, *member.outputs)]
        image, dtype = shapes[0], keras.backend.standardize_dtype(member.inputs[0].dtype)
        fits = len(image) == 4 and all(
            side in (None, wanted) for side, wanted in zip(image[1:], IMAGE_SHAPE, strict=True)
        )
        if len(shapes) != 2 or not fits or dtype != "uint8":
            raise ParameterError(
                f"member {place}, {member.name!r}, takes {dtype} {image}; expected one input of "
                f"uint8 images (N, {', '.join(map(str, IMAGE_SHAPE))}) and one output"
            )
        if shapes[1] != tuple(members[0].output.shape):
            raise ParameterError(
                f"member {place}, {member.name!r}, gives {shapes[1]}, and {members[0].name!r} "
                f"{tuple(members[0].output.shape)}; expected the same classes"
            )


def assemble(members: Sequence[keras.Model], combination: Combination) -> keras.Model:
    """Return an ensemble as one model (notebook 08 introduces it).

    It has built-in Keras layers only where its members do, so that ``models.save`` writes a file
    that loads without this library. Members that the combination does not ask are left out.

    Args:
        members: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits; they are shared, not
            copied.
        combination: How they become one, for members in this order.

    Returns:
        A model from uint8 ``(N, 32, 32, 3)`` to float32 ``(N, K)`` log-probabilities.

    Raises:
        ParameterError: There are no members, one is there twice, they do not fit together, or the
            combination is for another number of them.
    """
    _check_members(members)
    _check_count(combination, len(members))
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    outputs = []
    for place in combination.asked:
        member = members[place]
        # A layer's name may occur only once, and members are often built alike.
        part = keras.Model(member.input, member.output, name=f"member{place}_{member.name}")
        outputs.append(ops.cast(part(images), "float32"))
    return keras.Model(images, combination.join(outputs), name="ensemble")


def with_views(model: keras.Model, views: str = "mirror") -> keras.Model:
    """Return a model that looks at each image in several ways, as one model (notebook 08).

    Args:
        model: From uint8 ``(N, 32, 32, 3)`` images to ``(N, K)`` logits; shared, not copied.
        views: A key of ``evaluation.VIEWS``.

    Returns:
        A model of the same shapes that gives what ``evaluation.predict_logits`` gives with these
        views.

    Raises:
        ParameterError: No set of views has that name, or the model takes no images.
    """
    if views not in evaluation.VIEWS:
        raise ParameterError(f"unknown views {views!r}{nearest(views, list(evaluation.VIEWS))}")
    _check_members([model])
    part = keras.Model(model.input, model.output, name=f"one_view_{model.name}")
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    height, width, _ = IMAGE_SHAPE
    padded = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    outputs = []
    for (row, column, mirrored), weight in evaluation.VIEWS[views].items():
        view = padded[:, row : row + height, column : column + width]
        outputs.append(ops.cast(part(ops.flip(view, 2) if mirrored else view), "float32") * weight)
    return keras.Model(images, sum(outputs[1:], outputs[0]), name=f"views_{model.name}")
