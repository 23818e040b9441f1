"""Near-duplicates: the same photograph twice, though not the same bytes.

Comparing pixels misses a copy that was mirrored, moved, zoomed, recoloured or saved again, and is
misled by what all pictures of a dark thing on a plain background share. So images are made small
and whitened (every principal component gets the same say) and compared by the cosine: all with all
for candidates, then each candidate once more, one of the two moved and zoomed until it fits.
Whitened details do not survive a move of two pixels; for moved copies there is a second, rougher
look at all pairs, and phase correlation (Kuglin and Hines 1975) to sort out what it lets through.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import fft, sparse

from cifar_utils.data import CLASS_NAMES, Dataset
from cifar_utils.errors import ParameterError

THRESHOLD = 0.8
"""Similarity from which on two images count as near-duplicates; see docs/results.md."""

FINE, ROUGH = 16, 4
COMPONENTS = 256
SHIFTS = range(-3, 4)
ZOOMS = (0.9, 1.0, 1.1)
_BLOCK = 4000
# What a pair must reach to be a candidate, from copies planted in real images: nine of ten do.
_FINE_FLOOR, _ROUGH_FLOOR, _PEAK_FLOOR = 0.45, 0.55, 0.33


@dataclass(frozen=True, eq=False)
class Search:
    """What ``find`` found.

    Attributes:
        pairs: A row for each pair found, the most similar first; a large group is linked through,
            not listed with all of its pairs. In columns ``split``
            and ``index`` of one image, ``other_split`` and ``other_index`` of the other (the one of
            the later split, or the later one), ``similarity`` and ``mirrored``.
        nearest: For each split, float32 ``(N,)``: how similar each image is to the one most like
            it in the whole set; 0 where none was enough like it to be compared closely.
    """

    pairs: pd.DataFrame
    nearest: dict[str, np.ndarray]


class _Whitening:
    """Turns pixels into unit vectors in which every principal component counts alike."""

    def __init__(self, pixels: np.ndarray) -> None:
        sample = pixels[:: max(len(pixels) // 10_000, 1)]
        # With the mirror images among them, mirroring both of a pair changes nothing.
        flat = np.concatenate([sample, sample[:, :, ::-1]]).reshape(2 * len(sample), -1)
        values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
        kept = slice(-1, -1 - COMPONENTS, -1)
        # Without the second term, components that hardly vary would be all noise.
        scale = values[kept].clip(min=0) + 1e-4 * values.sum() + 1e-6
        self.projection = (vectors[:, kept] / np.sqrt(scale)).astype(np.float32)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 ``(N, components)`` for pixels ``(N, side, side, 3)``."""
        vectors = pixels.reshape(len(pixels), -1) @ self.projection
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # An image of one colour has no direction: it is like none, not like all.
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-3)


def _centred(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels less each image's own colour, which is changed most easily."""
    return pixels - pixels.mean(axis=(1, 2), keepdims=True)


def _coarse(images: np.ndarray, side: int) -> np.ndarray:
    """Return float32 ``(N, side, side, 3)``: the images made small, centred."""
    size = images.shape[1] // side
    parts = images.reshape(len(images), side, size, side, size, 3)
    return _centred(parts.mean(axis=(2, 4), dtype=np.float32))


def _resampling(size: int, shift: int, zoom: float) -> np.ndarray:
    """Return float32 ``(FINE, size)``: moves and zooms a row of pixels, then makes it coarse."""
    middle = (size - 1) / 2
    places = np.clip((np.arange(size) - middle) / zoom + middle + shift, 0, size - 1)
    low = np.minimum(places.astype(int), size - 2)
    matrix = np.zeros((size, size), np.float32)
    matrix[np.arange(size), low] = low + 1 - places
    matrix[np.arange(size), low + 1] = places - low
    return matrix.reshape(FINE, size // FINE, size).mean(axis=1)


def _warped(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images ``(N, FINE, FINE, 3)`` under each zoom and shift, centred."""
    pixels = images.astype(np.float32)
    for zoom in ZOOMS:
        matrices = [_resampling(images.shape[1], shift, zoom) for shift in SHIFTS]
        for rows in matrices:
            tall = np.tensordot(pixels, rows, axes=(1, 1))
            for columns in matrices:
                wide = np.tensordot(tall, columns, axes=(1, 1))
                yield _centred(wide.transpose(0, 2, 3, 1))


def _spectrum(pixels: np.ndarray) -> np.ndarray:
    """Return the phases of the grey images' Fourier transform, complex64 ``(N, FINE, 9)``."""
    window = np.sqrt(np.hanning(FINE + 2)[1:-1]).astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    spectrum = fft.rfft2(grey * window[:, None] * window)
    strength = np.abs(spectrum)
    return spectrum / (strength + 1e-3 * strength.mean(axis=(1, 2), keepdims=True) + 1e-3)


def _peaks(spectra: np.ndarray, others: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """Return how well each pair fits after the best small move, float32 ``(len(pairs),)``."""
    peaks = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        part = pairs.iloc[start : start + _BLOCK]
        phases = spectra[part["first"]] * others[part["second"]].conj()
        moves = fft.irfft2(phases, s=(FINE, FINE))
        # Moves of up to two coarse pixels, forwards and backwards, stand in the corners.
        near = moves[:, [0, 1, 2, -2, -1]][:, :, [0, 1, 2, -2, -1]]
        peaks[start : start + _BLOCK] = near.max(axis=(1, 2))
    return peaks


def _most_alike(vectors: np.ndarray, others: np.ndarray, floor: float) -> pd.DataFrame:
    """Compare all with all and return pairs with a similarity of at least ``floor``.

    Of each block of the table of similarities every row and every column gives its largest value:
    enough to find every group of duplicates, and bounded whatever the images are.

    Returns:
        Pairs in columns ``first``, ``second`` (the larger) and ``similarity``.
    """
    found = []
    for start in range(0, len(vectors), _BLOCK):
        for column in range(start, len(vectors), _BLOCK):
            table = vectors[start : start + _BLOCK] @ others[column : column + _BLOCK].T
            if start == column:
                table[np.tril_indices(len(table))] = -1
            for rows, columns in (
                (np.arange(table.shape[0]), table.argmax(axis=1)),
                (table.argmax(axis=0), np.arange(table.shape[1])),
            ):
                best = table[rows, columns]
                kept = best >= floor
                pairs = {"first": start + rows[kept], "second": column + columns[kept]}
                found.append(pd.DataFrame(pairs | {"similarity": best[kept]}))
    return pd.concat(found, ignore_index=True).drop_duplicates(["first", "second"])


def _candidates(pixels: np.ndarray, whitening: _Whitening) -> pd.DataFrame:
    """Return the pairs that may be near-duplicates.

    Returns:
        In columns ``first``, ``second`` (the larger), ``mirrored`` and ``similarity``, the latter
        before anything is moved.
    """
    small = _centred(pixels.reshape(-1, ROUGH, 4, ROUGH, 4, 3).mean(axis=(2, 4)))
    rough = _Whitening(small)
    vectors, rough_vectors, spectra = whitening(pixels), rough(small), _spectrum(pixels)
    found = []
    for mirrored, step in ((False, 1), (True, -1)):
        others = whitening(pixels[:, :, ::step])
        found.append(_most_alike(vectors, others, _FINE_FLOOR).assign(mirrored=mirrored))
        moved = _most_alike(rough_vectors, rough(small[:, :, ::step]), _ROUGH_FLOOR)
        peaks = _peaks(spectra, _spectrum(pixels[:, :, ::step]), moved)
        found.append(moved[peaks >= _PEAK_FLOOR].assign(mirrored=mirrored))
    return pd.concat(found, ignore_index=True).drop_duplicates(["first", "second", "mirrored"])


def _registered(pairs: pd.DataFrame, images: np.ndarray, whitening: _Whitening) -> np.ndarray:
    """Return the largest similarity of each pair over all shifts and zooms, float32 ``(N,)``."""
    best = np.full(len(pairs), -1, np.float32)
    for start in range(0, len(pairs), 1000):
        part = pairs.iloc[start : start + 1000]
        second = images[part["second"]]
        flip = part["mirrored"].to_numpy()
        second[flip] = second[flip, :, ::-1]
        vectors = whitening(_coarse(images[part["first"]], FINE))
        for pixels in _warped(second):
            similarity = np.einsum("ij,ij->i", vectors, whitening(pixels))
            np.maximum(best[start : start + 1000], similarity, out=best[start : start + 1000])
    return best


def find(dataset: Dataset, threshold: float = THRESHOLD) -> Search:
    """Find near-duplicates within and across the splits (notebook 01 introduces it).

    Similarity is the cosine of whitened pixels at 16 x 16, after the best of plain and mirrored,
    shifts up to 3 pixels and zooms of 10%; 1 for equal images. Barz and Denzler (ciFAIR, arXiv
    1902.00423) found about 3.3% of CIFAR-10's test images to have a near-duplicate in train, with a
    network's features and by eye.

    Args:
        dataset: The three splits; images uint8 ``(N, 32, 32, 3)``.
        threshold: Least similarity of a pair, 0.5 to 1.

    Raises:
        ParameterError: The threshold is out of range.
    """
    if not 0.5 <= threshold <= 1:
        raise ParameterError(f"threshold {threshold} is out of range; expected 0.5 to 1")
    splits = dataset.splits()
    images = np.concatenate([split.images for split in splits.values()])
    pixels = np.concatenate(
        [_coarse(images[start : start + _BLOCK], FINE) for start in range(0, len(images), _BLOCK)]
    )
    whitening = _Whitening(pixels)
    found = _candidates(pixels, whitening)
    found["similarity"] = _registered(found, images, whitening).clip(max=1)

    nearest = np.zeros(len(images), np.float32)
    for column in ("first", "second"):
        np.maximum.at(nearest, found[column], found["similarity"])
    ends = np.cumsum([len(split) for split in splits.values()])
    starts = ends - [len(split) for split in splits.values()]
    pairs = (
        found[found["similarity"] >= threshold]
        .sort_values("similarity", ascending=False, kind="stable")
        .drop_duplicates(["first", "second"])
    )
    names = np.array(list(splits))
    columns = {}
    for prefix, column in (("", "first"), ("other_", "second")):
        which = np.searchsorted(ends, pairs[column], side="right")
        columns[f"{prefix}split"] = names[which]
        columns[f"{prefix}index"] = pairs[column].to_numpy() - starts[which]
    columns |= {name: pairs[name].to_numpy() for name in ("similarity", "mirrored")}
    return Search(
        pd.DataFrame(columns),
        dict(zip(splits, np.split(nearest, ends[:-1]), strict=True)),
    )


def leaked(pairs: pd.DataFrame) -> np.ndarray:
    """Return the test images with a near-duplicate in train or validation (notebook 06 uses it).

    Args:
        pairs: ``Search.pairs``, or as much of it as came back from a file.

    Returns:
        Their indices in the test split, int64, ascending.
    """
    crossing = pairs[(pairs["other_split"] == "test") & (pairs["split"] != "test")]
    return np.unique(crossing["other_index"].to_numpy(np.int64))


def groups(pairs: pd.DataFrame) -> list[list[tuple[str, int]]]:
    """Return the images that are near-duplicates of each other, directly or in steps (notebook 01).

    Args:
        pairs: ``Search.pairs``.

    Returns:
        Groups of images as (split, index), the largest group first.
    """
    ends = [
        list(zip(pairs[f"{end}split"], pairs[f"{end}index"], strict=True)) for end in ("", "other_")
    ]
    places, names = pd.factorize(pd.Series(ends[0] + ends[1], dtype=object))
    first, second = np.split(places, 2)
    links = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(len(names),) * 2)
    _, members = sparse.csgraph.connected_components(links, directed=False)
    found = pd.Series(names).groupby(members).agg(list)
    return sorted(found, key=len, reverse=True)


def show(dataset: Dataset, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return what ``plots.image_pairs`` draws (notebook 01 introduces it).

    Args:
        dataset: Where the pairs were found.
        pairs: Rows of ``Search.pairs``.

    Returns:
        Two stacks of images, uint8 ``(N, 32, 32, 3)``, the second turned where it is a mirror
        image, and N titles: where each pair is, its classes and its similarity.
    """
    splits = dataset.splits()
    first, second, titles = [], [], []
    for row in pairs.to_dict("records"):
        one, other = splits[row["split"]], splits[row["other_split"]]
        here, there = row["index"], row["other_index"]
        image = other.images[there]
        first.append(one.images[here])
        second.append(image[:, ::-1] if row["mirrored"] else image)
        names = [CLASS_NAMES[one.labels[here]], CLASS_NAMES[other.labels[there]]]
        classes = names[0] if names[0] == names[1] else " / ".join(names)
        places = f"{row['split']} / {row['other_split']}"
        titles.append(f"{places}\n{classes} {row['similarity']:.2f}")
    shape = (len(titles), *dataset.train.images.shape[1:])
    one_side, other_side = (np.array(side, np.uint8).reshape(shape) for side in (first, second))
    return one_side, other_side, titles
