"""What is in a data set: quality checks, equal images, extremes, the look of classes, a map."""

from hashlib import blake2b
from itertools import combinations

import numpy as np
import pandas as pd

from cifar_utils.data import CLASS_NAMES, Dataset, Split
from cifar_utils.errors import ParameterError

_CHUNK = 2000
"""Images converted at a time, so that a memory-mapped set is never held as a whole."""


def exact_duplicates(dataset: Dataset) -> pd.DataFrame:
    """Find images that are equal pixel by pixel, within and across splits (notebook 01).

    Images are compared by a 128-bit hash of their bytes, so that each is read once.

    Returns:
        A row for each image that is not the only one of its kind, in columns ``group`` (equal
        images share a number, from 0), ``split`` and ``index`` (within the split).
    """
    hashes = [
        (blake2b(image.tobytes(), digest_size=16).digest(), name, index)
        for name, split in dataset.splits().items()
        for index, image in enumerate(np.asarray(split.images))
    ]
    frame = pd.DataFrame(hashes, columns=["hash", "split", "index"])
    repeated = frame[frame.duplicated("hash", keep=False)]
    found = repeated[["split", "index"]]
    found.insert(0, "group", repeated["hash"].factorize()[0])
    return found.sort_values("group", kind="stable", ignore_index=True)


def _summary(split: Split) -> dict[str, float]:
    """Return the extreme values of a split's images, and how many are blank or not finite."""
    low, high, blank, missing = np.inf, -np.inf, 0, 0
    for start in range(0, len(split), _CHUNK):
        pixels = split.images[start : start + _CHUNK].reshape(-1, split.images[0].size)
        lows, highs = pixels.min(axis=1), pixels.max(axis=1)
        low, high = min(low, lows.min()), max(high, highs.max())
        blank += int((lows == highs).sum())
        # Integers can be neither NaN nor infinite, and testing them would cost a float copy.
        if not np.issubdtype(pixels.dtype, np.integer):
            missing += int((~np.isfinite(pixels)).sum())
    if not np.issubdtype(split.labels.dtype, np.integer):
        missing += int((~np.isfinite(split.labels)).sum())
    return {"low": low, "high": high, "blank": blank, "missing": missing}


def quality(dataset: Dataset, duplicates: pd.DataFrame | None = None) -> pd.DataFrame:
    """Check what arrived against what CIFAR-10 should be (notebook 01 introduces it).

    Args:
        dataset: The three splits.
        duplicates: From ``exact_duplicates``, if it has been called already.

    Returns:
        A row a check, in columns ``check``, ``found``, ``expected`` and ``ok``. A check that fails
        is a finding to look at, not an error: a set with duplicates is still a set.

    Raises:
        ParameterError: A split is empty.
    """
    splits = dataset.splits()
    for name, split in splits.items():
        if not len(split):
            raise ParameterError(f"the {name} split is empty; expected at least one image")
    if duplicates is None:
        duplicates = exact_duplicates(dataset)
    classes = len(CLASS_NAMES)
    labels = np.concatenate([split.labels for split in splits.values()])
    summary = pd.DataFrame([_summary(split) for split in splits.values()])
    rows: list[tuple[str, str, str, bool]] = []

    def add(check: str, found: object, expected: object, ok: bool | None = None) -> None:
        rows.append((check, str(found), str(expected), found == expected if ok is None else ok))

    def kinds(values: list[object]) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    add("type of the images", kinds([split.images.dtype for split in splits.values()]), "uint8")
    sizes = [" x ".join(map(str, split.images.shape[1:])) for split in splits.values()]
    add("size of an image", kinds(list(sizes)), "32 x 32 x 3")
    add("type of the labels", kinds([split.labels.dtype for split in splits.values()]), "int64")
    add("images without a label", sum(len(s.images) - len(s.labels) for s in splits.values()), 0)
    add("NaN or infinite values", int(summary["missing"].sum()), 0)
    low, high = summary["low"].min(), summary["high"].max()
    # Images scaled to 0..1 and cast to integers are all zeros and ones.
    add("values", f"{low:g} to {high:g}", "from 0 to 255, above 1", low >= 0 and 1 < high <= 255)
    add("blank images (a single value)", int(summary["blank"].sum()), 0)
    add(
        "labels",
        f"{labels.min():g} to {labels.max():g}",
        f"0 to {classes - 1}",
        bool(0 <= labels.min() <= labels.max() < classes),
    )
    for name, split in splits.items():
        inside = split.labels[(split.labels >= 0) & (split.labels < classes)].astype(np.int64)
        counts = np.bincount(inside, minlength=classes)
        add(
            f"images a class, {name}",
            f"{counts.min():,} to {counts.max():,}",
            "equal, give or take one",
            bool(counts.max() - counts.min() <= 1),
        )
    copies = duplicates.groupby("group")["split"].value_counts().unstack(fill_value=0)
    copies = copies.reindex(columns=list(splits), fill_value=0)
    for name in splits:
        add(f"surplus copies within {name}", int((copies[name] - 1).clip(lower=0).sum()), 0)
    for first, second in combinations(splits, 2):
        shared = (copies[first] > 0) & (copies[second] > 0)
        add(f"images in both {first} and {second}", int(shared.sum()), 0)
    return pd.DataFrame(rows, columns=["check", "found", "expected", "ok"])


def extremes(images: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Find the images at the edges of brightness and contrast (notebook 01 introduces it).

    Brightness is the mean of all values of an image, contrast their variance; both are compared as
    whole numbers, so the order is the same on every machine.

    Args:
        images: uint8 ``(N, 32, 32, 3)``, read in chunks.
        count: Images to return of each kind, at most N.

    Returns:
        ``brightest``, ``darkest``, ``highest contrast`` and ``lowest contrast`` to int64
        ``(count,)`` indices, the most extreme first.

    Raises:
        ParameterError: There are fewer than ``count`` images.
    """
    if not 0 < count <= len(images):
        raise ParameterError(f"cannot choose {count} of {len(images)} images; expected 1 to all")
    brightness, contrast = np.empty((2, len(images)), dtype=np.int64)
    for start in range(0, len(images), _CHUNK):
        values = images[start : start + _CHUNK].reshape(-1, images[0].size).astype(np.int32)
        sums = values.sum(axis=1, dtype=np.int64)
        squares = np.einsum("ij,ij->i", values, values, dtype=np.int64)
        brightness[start : start + _CHUNK] = sums
        contrast[start : start + _CHUNK] = values.shape[1] * squares - sums**2
    return {
        "brightest": np.argsort(-brightness, kind="stable")[:count],
        "darkest": np.argsort(brightness, kind="stable")[:count],
        "highest contrast": np.argsort(-contrast, kind="stable")[:count],
        "lowest contrast": np.argsort(contrast, kind="stable")[:count],
    }


def class_means(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean image of each class (notebook 01 introduces it).

    Args:
        images: uint8 ``(N, 32, 32, 3)``, read in chunks.
        labels: int64 ``(N,)``.

    Returns:
        float64 ``(10, 32, 32, 3)`` in intensities 0 to 255; NaN for a class without images.
    """
    classes = len(CLASS_NAMES)
    sums = np.zeros((classes, images[0].size))
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        pixels = images[part].reshape(-1, images[0].size).astype(np.float32)
        sums += np.eye(classes, dtype=np.float32)[labels[part]].T @ pixels
    counts = np.bincount(labels, minlength=classes)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts[:, None], out=means, where=counts[:, None] > 0)
    return means.reshape(classes, *images.shape[1:])


def class_colours(images: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Describe the colour of each class (notebook 01 introduces it).

    Args:
        images: uint8 ``(N, 32, 32, 3)``, read in chunks.
        labels: int64 ``(N,)``.

    Returns:
        A row a class that has images, indexed by its name. ``red``, ``green`` and ``blue`` are the
        means of the images' mean colours, 0 to 255; ``red_std`` and so on their standard deviation.
    """
    means = np.concatenate(
        [
            images[start : start + _CHUNK].mean(axis=(1, 2), dtype=np.float32)
            for start in range(0, len(images), _CHUNK)
        ]
    )
    frame = pd.DataFrame(means, columns=["red", "green", "blue"])
    grouped = frame.groupby(np.array(CLASS_NAMES)[labels])
    present = [name for name in CLASS_NAMES if name in grouped.groups]
    deviations = grouped.std(ddof=0).add_suffix("_std")
    return pd.concat([grouped.mean(), deviations], axis=1).loc[present]


def map_images(images: np.ndarray, inputs: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Lay images out in the plane, twice (notebook 01 introduces it).

    Principal components keep as much of the pixels' variance as two numbers can. t-SNE (van der
    Maaten and Hinton 2008), on 50 principal components of features, keeps neighbours together
    instead; its distances between groups mean nothing.

    Args:
        images: uint8 ``(N, 32, 32, 3)``, at least 100.
        inputs: Features of the same images, ``(N, D)``, as from ``patches.features``.
        seed: Of both.

    Returns:
        float64 ``(N, 2)`` by title.

    Raises:
        ParameterError: There are too few images, or not as many features.
    """
    from sklearn.decomposition import PCA

    if not 100 <= len(images) == len(inputs):
        raise ParameterError(
            f"cannot map {len(images)} images with features of {len(inputs)}; expected 100 or more "
            "and features of each"
        )
    pixels = images.reshape(len(images), -1).astype(np.float32)
    return {
        "PCA of the pixels": PCA(2, random_state=seed).fit_transform(pixels),
        "t-SNE of patch features": neighbour_map(inputs, seed),
    }


def neighbour_map(inputs: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the plane of t-SNE on 50 principal components, see ``map_images``.

    Args:
        inputs: Features ``(N, D)``, N at least 100 and D at least 50.
        seed: Of both.

    Returns:
        float32 ``(N, 2)``.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = PCA(50, random_state=seed).fit_transform(inputs.astype(np.float32))
    return TSNE(random_state=seed).fit_transform(components)


def neighbour_agreement(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of points whose nearest other point has the same label (notebook 01).

    Args:
        points: float ``(N, D)``, N at least 2.
        labels: int64 ``(N,)``.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(return_distance=False)[:, 0]
    return float((labels[nearest] == labels).mean())
