"""Label noise: images whose label their own kind would not give them."""

import warnings

import numpy as np
import pandas as pd
from scipy import special

from cifar_utils import patches
from cifar_utils.data import Dataset


def candidates(dataset: Dataset, *, filters: int = 256, seed: int = 0) -> pd.DataFrame:
    """Rank all images by how little their label suits them (notebook 01 introduces it).

    Each image is judged by a classifier that has not seen it (``patches``: five folds of train and
    validation; those of test by all of them), and ranked by how much more probable another label
    is than its own. Which of them are counted as wrong, cleanlab says (confident learning,
    Northcutt, Jiang and Chuang 2021), an optional extra. A candidate is one to look at: the
    classifier can be wrong too.

    Args:
        dataset: The splits; train and validation together at least five images.
        filters: Size of the classifier, see ``patches.network``.
        seed: Which patches it has, and which image is in which fold.

    Returns:
        A row an image, the most suspicious first, in columns ``split``, ``index``, ``given`` and
        ``suggested`` (labels), ``given_probability``, ``suggested_probability``, and ``issue``:
        whether cleanlab counts it among the wrong ones.
    """
    splits = dataset.splits()
    labels = np.concatenate([split.labels for split in splits.values()])
    model = patches.network(dataset.train.images, filters=filters, seed=seed)
    inputs = patches.features(model, np.concatenate([split.images for split in splits.values()]))
    known = len(dataset.train) + len(dataset.validation)
    judge = patches.fit(inputs[:known], labels[:known], seed=seed)
    logits = np.concatenate([judge.held_out, judge.logits(inputs[known:])])
    probabilities = special.softmax(logits, axis=1)
    everyone = np.arange(len(labels))
    others = probabilities.copy()
    others[everyone, labels] = -1
    suggested = others.argmax(axis=1)
    frame = pd.DataFrame(
        {
            "split": np.repeat(list(splits), [len(split) for split in splits.values()]),
            "index": np.concatenate([np.arange(len(split)) for split in splits.values()]),
            "given": labels,
            "suggested": suggested,
            "given_probability": probabilities[everyone, labels],
            "suggested_probability": probabilities[everyone, suggested],
            "issue": _issues(labels, probabilities, known),
        }
    )
    margin = frame["given_probability"] - frame["suggested_probability"]
    return frame.iloc[np.argsort(margin, kind="stable")].reset_index(drop=True)


def _issues(labels: np.ndarray, probabilities: np.ndarray, known: int) -> np.ndarray:
    """Return which labels cleanlab counts as wrong, bool ``(N,)``; without it none.

    Those after the first ``known`` have no say in what is counted among these.
    """
    try:
        with warnings.catch_warnings():
            # It imports tqdm's notebook bars, which complain where ipywidgets is not installed.
            warnings.simplefilter("ignore")
            from cleanlab.filter import find_label_issues
    except ImportError:
        print(
            "Note: cleanlab is not installed, so labels are ranked but none is counted as wrong; "
            "get it with: pip install 'cifar-utils[audit]'"
        )
        return np.zeros(len(labels), bool)
    found = find_label_issues(labels, probabilities, n_jobs=1)
    found[:known] = find_label_issues(labels[:known], probabilities[:known], n_jobs=1)
    return found
