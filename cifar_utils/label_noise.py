"""Label noise: images whose label their own kind would not give them."""

import warnings

import numpy as np
import pandas as pd
from scipy import special

from cifar_utils import patches
from cifar_utils.data import Dataset
from cifar_utils.errors import MissingPackageError


def candidates(dataset: Dataset, *, filters: int = 256, seed: int = 0) -> pd.DataFrame:
    """Rank the images of train and validation by how little their label suits them (notebook 01).

    Each image is judged by a classifier that has not seen it (``patches``, five folds), and
    cleanlab compares its judgement with the label (confident learning, Northcutt, Jiang and Chuang
    2021). A candidate is one to look at: the classifier can be wrong too. Test is left alone.

    Args:
        dataset: The splits; train and validation together at least ten images a class.
        filters: Size of the classifier, see ``patches.network``.
        seed: Which patches it has, and which image is in which fold.

    Returns:
        A row an image, the most suspicious first, in columns ``split``, ``index``, ``given`` and
        ``suggested`` (labels), ``given_probability``, ``suggested_probability``, and ``issue``:
        whether cleanlab counts it among the wrong ones.

    Raises:
        MissingPackageError: cleanlab is not installed.
    """
    try:
        with warnings.catch_warnings():
            # It imports tqdm's notebook bars, which complain where ipywidgets is not installed.
            warnings.simplefilter("ignore")
            from cleanlab.filter import find_label_issues
            from cleanlab.rank import get_normalized_margin_for_each_label
    except ImportError as error:
        raise MissingPackageError("finding wrong labels", "cleanlab", extra="audit") from error
    splits = {"train": dataset.train, "validation": dataset.validation}
    labels = np.concatenate([split.labels for split in splits.values()])
    model = patches.network(dataset.train.images, filters=filters, seed=seed)
    inputs = patches.features(model, np.concatenate([split.images for split in splits.values()]))
    probabilities = special.softmax(patches.fit(inputs, labels, seed=seed).held_out, axis=1)
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
            "issue": find_label_issues(labels, probabilities, n_jobs=1),
        }
    )
    margin = get_normalized_margin_for_each_label(labels, probabilities)
    return frame.iloc[np.argsort(margin, kind="stable")].reset_index(drop=True)
