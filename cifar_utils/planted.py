"""Known faults for the synthetic set, so that what looks for faults can be measured.

Real data sets have near-duplicates and wrong labels, and nobody knows how many. Here they are put
in on purpose and written down: how many of them a search finds, and how much of what it finds was
planted, are then plain counts (notebook 01).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from cifar_utils.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1  # raised whenever the faults change, so that results on them are not mixed up
SHARE = 0.02
"""Of the images, how many become copies, and how many get a wrong label."""

KINDS = ("equal", "mirrored", "moved", "zoomed", "lighter", "tinted", "blurred", "noisy")
"""What was done to a copy."""

TABLES = ("copies", "wrong")
"""Names of the tables of faults."""


@dataclass(frozen=True, eq=False)
class Planted:
    """What was planted.

    Attributes:
        copies: int64 ``(K, 2)``: an image and its copy, as places in the set.
        kinds: What was done to each copy, K of ``KINDS``.
        wrong: int64 ``(M,)``: places with a wrong label.
        true_labels: int64 ``(M,)``: what those labels were.
    """

    copies: np.ndarray
    kinds: list[str]
    wrong: np.ndarray
    true_labels: np.ndarray

    def tables(self, order: np.ndarray, counts: dict[str, int]) -> "dict[str, pd.DataFrame]":
        """Return the faults by split and index.

        Args:
            order: int64 ``(N,)``, the places of the images in the order of the splits.
            counts: Images of each split.

        Returns:
            ``copies`` with columns ``split``, ``index``, ``other_split``, ``other_index`` (the
            later one) and ``kind``; ``wrong`` with ``split``, ``index`` and ``true_label``.
        """
        import pandas as pd

        new_places = np.empty(len(order), np.int64)
        new_places[order] = np.arange(len(order))
        names = np.repeat(list(counts), list(counts.values()))
        indices = np.concatenate([np.arange(count) for count in counts.values()])
        first, second = np.sort(new_places[self.copies], axis=1).T
        wrong = new_places[self.wrong]
        return {
            "copies": pd.DataFrame(
                {
                    "split": names[first],
                    "index": indices[first],
                    "other_split": names[second],
                    "other_index": indices[second],
                    "kind": self.kinds,
                }
            ),
            "wrong": pd.DataFrame(
                {
                    "split": names[wrong],
                    "index": indices[wrong],
                    "true_label": self.true_labels,
                }
            ),
        }


def _moved(image: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """Return the image moved by at most 3 pixels; its edge fills the gap."""
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge")
    down, right = shift
    height, width = image.shape[:2]
    return padded[3 - down : 3 - down + height, 3 - right : 3 - right + width]


def _copy(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a changed copy of an image, uint8 ``(32, 32, 3)``."""
    picture, values = Image.fromarray(image), image.astype(np.float64)
    size = image.shape[0]
    if kind == "mirrored":
        values = values[:, ::-1]
    elif kind == "moved":
        down, right = rng.choice([-3, -2, -1, 1, 2, 3], 2)
        values = _moved(values, (int(down), int(right)))
    elif kind == "zoomed":
        edge = rng.uniform(1, 2)
        box = (edge, edge, size - edge, size - edge)
        values = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
    elif kind == "lighter":
        values = values * rng.uniform(0.7, 0.9) + rng.uniform(20, 50)
    elif kind == "tinted":
        values = values * rng.uniform(0.75, 1, 3)
    elif kind == "blurred":
        values = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 0.9))))
    elif kind == "noisy":
        values = values + rng.normal(0, rng.uniform(4, 10), values.shape)
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def plant(
    images: np.ndarray, labels: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, Planted]:
    """Replace some images by changed copies of others, and exchange some labels.

    A copy takes the place of an image of its class, and labels are exchanged in pairs, so there are
    as many of every class as before. No image is part of two faults.

    Args:
        images: uint8 ``(N, 32, 32, 3)``; not changed.
        labels: int64 ``(N,)``; not changed.
        seed: Which images, 0 or more.

    Returns:
        New images, new labels, and what was planted.

    Raises:
        ParameterError: ``seed`` is below 0.
    """
    if seed < 0:
        raise ParameterError(f"seed of the planted faults is {seed}; give 0 or more")
    rng = np.random.default_rng([seed, 1])
    images, labels = images.copy(), labels.copy()
    count = round(SHARE * len(labels))
    free = rng.permutation(len(labels))

    exchanged = free[: count // 2 * 2].reshape(-1, 2)
    exchanged = exchanged[labels[exchanged[:, 0]] != labels[exchanged[:, 1]]]
    wrong = exchanged.ravel()
    true_labels = labels[wrong]
    labels[wrong] = labels[exchanged[:, ::-1].ravel()]

    rest = free[count // 2 * 2 :]
    by_class = [rest[labels[rest] == label] for label in np.unique(labels[rest])]
    pairs = [members[: len(members) // 2 * 2].reshape(-1, 2) for members in by_class]
    copies = rng.permutation(np.concatenate(pairs))[:count] if pairs else np.empty((0, 2), np.int64)
    kinds = [KINDS[place % len(KINDS)] for place in range(len(copies))]
    for (original, copy), kind in zip(copies, kinds, strict=True):
        images[copy] = _copy(images[original], kind, rng)
    return images, labels, Planted(copies, kinds, wrong, true_labels)


def score(found: "pd.DataFrame", planted: "pd.DataFrame") -> dict[str, float]:
    """Return how much of what was planted was found, and of what was found was planted.

    Notebook 01 introduces it.

    Args:
        found: Rows that name images by the columns that ``planted`` names them by.
        planted: One of ``Planted.tables``.

    Returns:
        ``recall`` and ``precision``, 0 to 1 (NaN where nothing was planted or found).
    """
    keys = [name for name in planted.columns.astype(str) if name.endswith(("split", "index"))]
    right = len(found[keys].merge(planted[keys]))
    return {
        "recall": right / len(planted) if len(planted) else float("nan"),
        "precision": right / len(found) if len(found) else float("nan"),
    }
