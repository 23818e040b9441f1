"""The notebooks' figures: arrays and frames in, a Figure out; nothing is read, saved or shown.

The colours are those of Okabe and Ito, which stay apart for colour-blind readers, and nothing is
said by colour alone. Figures never touch pyplot: a notebook cell shows one by ending with its name.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)
from PIL import Image

from cifar_utils.errors import ParameterError

INK, MUTED, LIGHT = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PALETTE = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", INK)
# Okabe and Ito have too few for the classes; Petroff (arXiv 2107.02270) made ten.
CLASS_COLOURS = tuple(to_hex(color) for color in matplotlib.color_sequences["petroff10"])
RIGHTS = LinearSegmentedColormap.from_list("rights", ["#ffffff", "#9ecae1", BLUE, "#00466e"])
HEAT = matplotlib.colormaps["inferno"]
WRONGS = LinearSegmentedColormap.from_list("wrongs", ["#ffffff", "#fdbe85", VERMILION])

_styled = matplotlib.rc_context(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "white",
        "axes.labelcolor": INK,
        "axes.labelsize": 10,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "legend.title_fontsize": 11,
        "figure.titlesize": 11,
        "figure.dpi": 90,
        "figure.facecolor": "white",
        "font.family": "DejaVu Sans",
        "legend.fontsize": 10,
        "legend.frameon": False,
        "text.color": INK,
    }
)

_CHUNK = 2000
"""Images converted at a time, so that a memory-mapped set is never held as a whole."""


class Figure(matplotlib.figure.Figure):
    """A Matplotlib figure that a notebook shows as one PNG, whether or not pyplot is in use."""

    def _repr_png_(self) -> bytes:
        canvas = FigureCanvasAgg(self)
        canvas.draw()
        # Without the alpha channel the PNG is smaller; a notebook holds many.
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", optimize=True)
        return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches."""
    return Figure(figsize=(width, height), layout="constrained")


def _state(figure: Figure, finding: str) -> None:
    """Write above a figure, and above its legend, what it shows."""
    if figure.legends:
        figure.legends[0].set_title(finding)
        figure.legends[0].set_alignment("left")
    else:
        figure.suptitle(finding, x=0.01, ha="left")


def _check_images(images: np.ndarray) -> None:
    """Refuse what is not a stack of images."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ParameterError(
            f"cannot draw {images.dtype} {images.shape} as images; expected uint8 (N, 32, 32, 3)"
        )


def _check_length(what: str, found: int, expected: int) -> None:
    """Refuse lists that do not go with each other."""
    if found != expected:
        raise ParameterError(f"got {found} {what} for {expected}; expected one for each")


def _check_labels(labels: np.ndarray, images: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse labels that do not belong to the images or have no name."""
    _check_length("labels", len(labels), len(images))
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise ParameterError(
            f"labels run from {labels.min()} to {labels.max()}; expected 0 to {len(names) - 1}, "
            "one for each class name"
        )


def _check_columns(what: str, frame: pd.DataFrame, expected: set[str]) -> None:
    """Refuse frames without a row or without one of the columns."""
    missing = sorted(expected - set(frame.columns))
    if missing or not len(frame):
        raise ParameterError(
            f"{what} has {len(frame)} rows and lacks the columns {missing}; expected at least one "
            "row and none missing"
        )


def _plain(axes: Axes, grid: str | None = None) -> None:
    """Leave only the spine that carries the scale, and a light grid across it."""
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    for side in ("top", "right", "left") if grid != "both" else ("top", "right"):
        axes.spines[side].set_visible(False)
    if grid == "x":
        axes.spines["bottom"].set_visible(False)
    if grid:
        axes.grid(axis=grid, color=LIGHT, linewidth=0.8)  # type: ignore[arg-type]


def _nothing() -> Figure:
    """Return a figure that says that there are no images."""
    figure = _figure(4, 0.6)
    figure.text(0.5, 0.5, "no images to show", ha="center", va="center", color=MUTED)
    return figure


def _show_image(axes: Axes, image: np.ndarray, frame: str | None = None) -> None:
    """Draw one image with its pixels visible, in a thick frame if that has a colour."""
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=frame or LIGHT, linewidth=3 if frame else 0.8)


def _check_histogram(histogram: np.ndarray) -> None:
    """Refuse what does not count the values of three channels."""
    if histogram.shape != (3, 256) or not histogram.any(axis=1).all():
        raise ParameterError(
            f"cannot draw {histogram.shape} as a histogram of {histogram.sum():,} values; expected "
            "the (3, 256) counts of at least one image, as data.pixel_histogram gives them"
        )


@_styled
def image_grid(
    images: np.ndarray,
    titles: list[str] | None = None,
    columns: int = 5,
    scale: float = 1.4,
    colors: list[str] | None = None,
) -> Figure:
    """Draw images in rows (notebook 01 introduces it).

    Args:
        images: uint8 ``(N, 32, 32, 3)``; for N = 0 the figure says that there are none.
        titles: N texts to stand above the images.
        columns: Images a row.
        scale: Height of an image, in inches.
        colors: N Matplotlib colours to frame the images with.

    Raises:
        ParameterError: The array does not hold images, or titles or colours are not one an image.
    """
    _check_images(images)
    for what, given in (("titles", titles), ("colours", colors)):
        if given is not None:
            _check_length(what, len(given), len(images))
    if not len(images):
        return _nothing()
    rows = math.ceil(len(images) / columns)
    lines = max(title.count("\n") + 1 for title in titles) if titles else 0
    width = scale * images.shape[2] / images.shape[1]
    figure = _figure(columns * width, rows * (scale + 0.17 * lines))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.set_axis_off()
    for index, (axes, image) in enumerate(zip(grid.flat, images, strict=False)):
        _show_image(axes, image, colors[index] if colors else None)
        if titles:
            axes.set_title(titles[index], fontsize=9, loc="center", pad=4)
    return figure


def predictions(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: tuple[str, ...],
    columns: int = 5,
) -> Figure:
    """Draw images with the predicted class, its probability and the true class (notebook 02).

    A right prediction has a tick and a green frame, a wrong one a cross and an orange frame.

    Args:
        images: uint8 ``(N, 32, 32, 3)``.
        labels: int64 ``(N,)``, the true classes.
        probabilities: float ``(N, K)``, rows summing to one.
        names: The K class names.
        columns: Images a row.

    Raises:
        ParameterError: The arrays do not go with each other.
    """
    _check_labels(labels, images, names)
    _check_length("rows of probabilities", len(probabilities), len(images))
    titles, colors = [], []
    for label, row in zip(labels, probabilities, strict=True):
        guess = int(row.argmax())
        mark, color = ("✓", GREEN) if guess == label else ("✗", VERMILION)
        titles.append(f"{mark} {names[guess]} {row[guess]:.0%}\ntrue: {names[label]}")
        colors.append(color)
    return image_grid(images, titles, columns, scale=1.6, colors=colors)


def image_pairs(
    first: np.ndarray,
    second: np.ndarray,
    titles: list[str],
    columns: int = 4,
    scale: float = 0.9,
) -> Figure:
    """Draw pairs of images side by side, the two of a pair touching (notebook 01).

    Args:
        first: uint8 ``(N, 32, 32, 3)``, the left ones; for N = 0 the figure says so.
        second: uint8 ``(N, 32, 32, 3)``, the right ones.
        titles: N texts to stand above the pairs; 24 characters a line fit at the default scale.
        columns: Pairs a row.
        scale: Side of an image, in inches.

    Raises:
        ParameterError: The arrays do not hold images, or do not go with each other.
    """
    _check_images(first)
    _check_images(second)
    _check_length("second images", len(second), len(first))
    return image_grid(np.concatenate([first, second], axis=2), titles, columns, scale)


def suggestions(
    images: np.ndarray,
    given: np.ndarray,
    suggested: np.ndarray,
    confidence: np.ndarray,
    names: tuple[str, ...],
    columns: int = 6,
) -> Figure:
    """Draw images whose label may be wrong, with a likelier one (notebook 01).

    Args:
        images: uint8 ``(N, 32, 32, 3)``.
        given: int64 ``(N,)``, the labels in the data set.
        suggested: int64 ``(N,)``, the labels they perhaps should have.
        confidence: float ``(N,)``, probability of the suggested label, 0 to 1.
        names: The K class names.
        columns: Images a row.

    Raises:
        ParameterError: The arrays do not go with each other.
    """
    for labels in (given, suggested):
        _check_labels(labels, images, names)
    _check_length("confidences", len(confidence), len(images))
    titles = [
        f"given: {names[old]}\nperhaps: {names[new]} {share:.0%}"
        for old, new, share in zip(given, suggested, confidence, strict=True)
    ]
    return image_grid(images, titles, columns, scale=1.6)


@_styled
def gallery(rows: dict[str, np.ndarray], scale: float = 1.0) -> Figure:
    """Draw a labelled row of images for each entry (notebooks 01 and 03).

    Args:
        rows: Row label to uint8 ``(N, 32, 32, 3)``; N may differ between rows. Without a row, the
            figure says that there are no images.
        scale: Side of an image, in inches.

    Raises:
        ParameterError: A row does not hold images.
    """
    if not rows:
        return _nothing()
    for images in rows.values():
        _check_images(images)
    columns = max(1, *(len(images) for images in rows.values()))
    lines = [
        [part for line in label.split("\n") for part in textwrap.wrap(line, 24)] for label in rows
    ]
    longest = max((len(part) for label in lines for part in label), default=0)
    figure = _figure(0.2 + 0.085 * longest + scale * columns, 1.02 * scale * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, label, images in zip(grid, lines, rows.values(), strict=True):
        for axes, image in zip(line, images, strict=False):
            axes.set_axis_on()
            _show_image(axes, image)
        line[0].set_axis_on()
        _show_image(line[0], images[0] if len(images) else np.full((1, 1, 3), 255, np.uint8))
        line[0].set_ylabel("\n".join(label), rotation=0, ha="right", va="center", labelpad=8)
    return figure


@_styled
def class_counts(counts: dict[str, np.ndarray], names: tuple[str, ...]) -> Figure:
    """Draw the number of images of each class, a panel a split (notebook 01 introduces it).

    The grey line is where every bar ends if the classes are balanced.

    Args:
        counts: Split name to int64 ``(K,)``.
        names: The K class names.

    Raises:
        ParameterError: A split has not one count a class.
    """
    figure = _figure(9, 0.3 * len(names) + 0.5)
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, (split, numbers), color in zip(panels, counts.items(), PALETTE, strict=False):
        _check_length("class counts", len(numbers), len(names))
        axes.axvline(np.mean(numbers), color="#bdbdbd", linewidth=1.2, zorder=0)
        drawn = axes.barh(names, numbers, color=color, height=0.72)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=4, fontsize=9)
        axes.set_title(f"{split} · {int(np.sum(numbers)):,} images")
        axes.set_xlim(0, max(1, *numbers) * 1.25)
        axes.set_xticks([])
        _plain(axes)
        axes.spines["bottom"].set_visible(False)
    panels[0].invert_yaxis()
    return figure


@_styled
def mean_comparison(means: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Draw how far apart the classes' mean images are, with these at the edges (notebook 01).

    Distance is the root of the mean squared difference over all values, in grey levels 0 to 255;
    the darker the blue, the further apart.

    Args:
        means: uint8 or float ``(K, 32, 32, 3)``, 0 to 255.
        names: The K class names.

    Raises:
        ParameterError: There is not one mean image a class.
    """
    count = len(names)
    if means.ndim != 4 or len(means) != count:
        raise ParameterError(
            f"the mean images are {means.shape}; expected {(count, 32, 32, 3)}, one a class"
        )
    flat = means.reshape(count, -1).astype(float)
    distances = np.sqrt(np.square(flat[:, None] - flat).mean(axis=-1))
    shown = np.ma.masked_where(np.eye(count, dtype=bool), distances)
    figure = _figure(7, 6.6)
    axes = figure.subplots()
    axes.imshow(shown, cmap=RIGHTS, vmin=0)
    texts = np.where(shown.mask, "", np.strings.mod("%.0f", distances))
    _write_cells(axes, texts, np.where(distances > 0.5 * distances.max(), "white", INK))
    for place, image in enumerate(np.rint(means).astype(np.uint8)):
        for x, y in ((place, -1.1), (-1.1, place)):
            axes.imshow(image, extent=(x - 0.46, x + 0.46, y + 0.46, y - 0.46))
    axes.set(xlim=(-1.6, count - 0.5), ylim=(count - 0.5, -1.6))
    _name_cells(axes, names)
    axes.set_title("Root mean square difference of mean images, in grey levels")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@_styled
def class_colours(statistics: pd.DataFrame) -> Figure:
    """Draw each class's mean colour and how its channels spread over the images (notebook 01).

    The bars reach one standard deviation either way.

    Args:
        statistics: A row a class, named by the index and drawn top to bottom as given; means over
            its images in columns ``red``, ``green`` and ``blue``, 0 to 255, and standard
            deviations in ``red_std``, ``green_std`` and ``blue_std``.

    Raises:
        ParameterError: There is no class, or a column is missing.
    """
    channels = {"red": (VERMILION, "s"), "green": (GREEN, "o"), "blue": (BLUE, "^")}
    _check_columns("the table of colours", statistics, {*channels, *(f"{c}_std" for c in channels)})
    count = len(statistics)
    figure = _figure(8, 0.36 * count + 1)
    swatches, axes = figure.subplots(1, 2, sharey=True, width_ratios=[1, 16])
    colours = np.rint(statistics[[*channels]].to_numpy()).astype(np.uint8)
    swatches.imshow(colours[:, None], aspect="auto")
    swatches.set_xticks([])
    swatches.set_yticks(range(count), [str(name) for name in statistics.index])
    swatches.hlines(np.arange(1, count) - 0.5, -0.5, 0.5, color="white", linewidth=4)
    for offset, (channel, (color, marker)) in zip((-0.22, 0, 0.22), channels.items(), strict=True):
        axes.errorbar(
            statistics[channel],
            np.arange(count) + offset,
            xerr=statistics[f"{channel}_std"],
            fmt=marker,
            color=color,
            markersize=5.5,
            elinewidth=1.2,
            label=channel,
        )
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlabel("mean of an image's channel, 0 to 255")
    _plain(axes, "x")
    _plain(swatches)
    swatches.spines["bottom"].set_visible(False)
    axes.tick_params(labelleft=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@_styled
def similarities(
    values: dict[str, np.ndarray], threshold: float, xlabel: str, least: float = 0.4
) -> Figure:
    """Draw how similar each image is to the one most like it (notebook 01).

    Args:
        values: What was compared, such as "test with train", to floats ``(N,)``, one an image.
        threshold: Similarity from which on two images count as near-duplicates.
        xlabel: What the similarity is.
        least: Where the axis begins, up to 1; who is less similar than that is of no interest.

    Raises:
        ParameterError: There is nothing to draw, or a value is not a number.
    """
    if not values or not all(len(part) and np.isfinite(part).all() for part in values.values()):
        raise ParameterError(
            f"cannot draw the similarities of {', '.join(values) or 'nothing'}; expected at least "
            "one finite number for each name"
        )
    figure = _figure(8, 3.4)
    axes = figure.subplots()
    edges = np.linspace(least, 1, 61)
    for index, (name, part) in enumerate(values.items()):
        above = int(np.sum(part >= threshold))
        axes.stairs(
            np.histogram(part, edges)[0],
            edges,
            color=PALETTE[index % len(PALETTE)],
            linestyle=("-", "--", ":", "-.")[index % 4],
            linewidth=1.8,
            label=f"{name}: {above:,} of {len(part):,} at {threshold:g} or above",
        )
    axes.axvline(threshold, color=INK, linewidth=1)
    axes.annotate(
        f"threshold {threshold:g}",
        (threshold, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        va="top",
        fontsize=9,
    )
    axes.set_yscale("log")
    axes.set_ylim(0.7, None)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("images")
    _plain(axes, "y")
    axes.minorticks_off()
    figure.legend(loc="outside upper left", ncols=1, handlelength=2.6)
    return figure


def _spread_out(points: np.ndarray, gap: float, most: int) -> np.ndarray:
    """Choose up to ``most`` points, each the farthest from those before, at least ``gap`` apart.

    Farthest is meant along the axis where it is more, so that squares of that side do not overlap.
    """
    chosen = [0]
    distances = np.full(len(points), np.inf)
    while len(chosen) < most:
        distances = np.minimum(distances, np.abs(points - points[chosen[-1]]).max(axis=1))
        if distances.max() < gap:
            break
        chosen.append(int(distances.argmax()))
    return np.array(chosen[:most], dtype=int)


def _pushed_apart(points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Return points moved up and down until boxes of that size around them hardly overlap."""
    moved = points.astype(float)
    moved[:, 1] += 1e-3 * np.arange(len(points))  # equal ones part too
    for _ in range(200):
        across, up = np.moveaxis(moved[:, None] - moved, -1, 0)
        overlap = np.where(np.abs(across) < width, height - np.abs(up), 0).clip(min=0)
        moved[:, 1] += 0.25 * (np.sign(up) * overlap).sum(axis=1)
    return moved


def _draw_map(
    axes: Axes,
    points: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    images: np.ndarray,
    thumbnails: int,
    side: float,
) -> None:
    """Draw one panel of ``image_map``, about ``side`` inches wide and high."""
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-9)
    colors = np.array(CLASS_COLOURS)[labels % len(CLASS_COLOURS)]
    axes.scatter(points[:, 0], points[:, 1], s=8, c=colors, linewidths=0)
    for index in _spread_out(points, 0.33 / side, thumbnails):
        picture = OffsetImage(images[index], zoom=0.28 * 72 / 32, interpolation="antialiased")
        frame = {"edgecolor": colors[index], "linewidth": 1.5}
        box = AnnotationBbox(picture, tuple(points[index]), pad=0.05, bboxprops=frame)
        box.set_in_layout(False)
        axes.add_artist(box)
    present = np.unique(labels)
    medians = np.array([np.median(points[labels == label], axis=0) for label in present])
    places = _pushed_apart(medians, 0.85 / side, 0.24 / side)
    for label, median, place in zip(present, medians, places, strict=True):
        color = CLASS_COLOURS[label % len(CLASS_COLOURS)]
        axes.annotate(
            names[label],
            median,
            xytext=place,
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            zorder=5,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": color},
            arrowprops={"arrowstyle": "-", "color": color},
        )
    axes.set(xticks=[], yticks=[], xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    for spine in axes.spines.values():
        spine.set_color(LIGHT)


@_styled
def image_map(
    maps: dict[str, np.ndarray],
    labels: np.ndarray,
    names: tuple[str, ...],
    images: np.ndarray,
    thumbnails: int = 120,
) -> Figure:
    """Draw images as points of a plane, a panel for each way to place them (notebook 01).

    Every image is a dot in the colour of its class; the class's name stands at the median of its
    dots, or next to it with a line. Some images, spread out over the plane, are shown where they
    are. The axes of such planes have no unit, so each is stretched to fill its panel.

    Args:
        maps: Title, such as "principal components of the pixels", to float ``(N, 2)``.
        labels: int64 ``(N,)``, 0 to K - 1.
        names: The K class names; from the eleventh on they share colours.
        images: uint8 ``(N, 32, 32, 3)``; for N = 0 the figure says that there are none.
        thumbnails: Most images to show in a panel; they never overlap.

    Raises:
        ParameterError: There is no map, a point is not finite, or the arrays do not go with each
            other.
    """
    _check_images(images)
    _check_labels(labels, images, names)
    for title, points in maps.items():
        if points.shape != (len(images), 2) or not np.isfinite(points).all():
            raise ParameterError(
                f"the map {title!r} is {points.shape}; expected {(len(images), 2)}, all finite"
            )
    if not maps or not len(images):
        return _nothing()
    side = 7.0 if len(maps) == 1 else 9.8 / len(maps)
    figure = _figure(side * len(maps), side + 0.2)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, points) in zip(panels, maps.items(), strict=True):
        _draw_map(axes, points, labels, names, images, thumbnails, side)
        axes.set_title(title)
    return figure


def _filled(axes: Axes, shares: np.ndarray, color: str) -> None:
    """Draw a histogram of the values 0 to 255 as a filled outline with its mean."""
    mean = float(shares @ np.arange(256) / shares.sum())
    axes.stairs(shares, np.arange(257), fill=True, color=color, alpha=0.3)
    axes.stairs(shares, np.arange(257), color=color, linewidth=1.2)
    axes.axvline(mean, color=color, linewidth=1.4, linestyle="--")
    axes.annotate(
        f"mean {mean:.1f}",
        (mean, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        color=color,
        fontweight="bold",
        fontsize=9,
    )
    axes.set_xlim(0, 256)
    axes.set_xticks([0, 64, 128, 192, 255])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    _plain(axes, "y")


@_styled
def intensity_histogram(histogram: np.ndarray) -> Figure:
    """Draw how often each value 0 to 255 occurs, over all pixels and channels (notebook 01).

    Args:
        histogram: int64 ``(3, 256)``, how often each value occurs in red, green and blue.

    Raises:
        ParameterError: It has another shape, or a channel counts nothing.
    """
    _check_histogram(histogram)
    counts = histogram.sum(axis=0)
    figure = _figure(8, 2.9)
    axes = figure.subplots()
    _filled(axes, counts / counts.sum(), BLUE)
    axes.set_ylim(0, None)
    axes.set_xlabel("value, 0 (dark) to 255 (bright)")
    axes.set_title("Share of all values")
    return figure


@_styled
def channel_histograms(histogram: np.ndarray) -> Figure:
    """Draw how often each value occurs in red, green and blue, with the means (notebook 01).

    The grey outline in each panel is the average of the three channels, for comparison.

    Args:
        histogram: int64 ``(3, 256)``, how often each value occurs in red, green and blue.

    Raises:
        ParameterError: It has another shape, or a channel counts nothing.
    """
    _check_histogram(histogram)
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    figure = _figure(9, 2.7)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, name, row, color in zip(
        panels, ("red", "green", "blue"), shares, (VERMILION, GREEN, BLUE), strict=True
    ):
        axes.stairs(shares.mean(axis=0), np.arange(257), color="#9a9a9a", linewidth=1)
        _filled(axes, row, color)
        axes.set_ylim(0, 1.05 * shares.max())
        axes.set_title(name, color=color)
    panels[0].set_ylabel("share of the channel's values", fontsize=9)
    panels[1].set_xlabel("value, 0 to 255")
    return figure


@_styled
def learning_curves(histories: dict[str, pd.DataFrame]) -> Figure:
    """Draw loss and accuracy by epoch for one model or several (notebook 02 introduces it).

    Training is dashed, validation solid. The ring marks the best epoch on validation: the lowest
    loss, the highest accuracy.

    Args:
        histories: Model name to a frame with the columns loss, accuracy, val_loss and
            val_accuracy, a row an epoch, in order.

    Raises:
        ParameterError: There is no history, one has no epoch, or one lacks a column.
    """
    if not histories:
        raise ParameterError("there are no histories to draw; expected at least one")
    for name, history in histories.items():
        _check_columns(
            f"the history of {name}", history, {"loss", "accuracy", "val_loss", "val_accuracy"}
        )
    figure = _figure(9, 3.7)
    panels = figure.subplots(1, 2)
    for axes, measure in zip(panels, ("loss", "accuracy"), strict=True):
        for history, color in zip(histories.values(), PALETTE * len(histories), strict=False):
            epochs = np.arange(1, len(history) + 1)
            train = history[measure].to_numpy()
            validation = history[f"val_{measure}"].to_numpy()
            marker = "o" if len(epochs) == 1 else None
            axes.plot(
                epochs,
                train,
                color=color,
                linestyle="--",
                linewidth=1.3,
                alpha=0.75,
                marker=marker,
                markerfacecolor="white",
            )
            axes.plot(epochs, validation, color=color, linewidth=2, marker=marker)
            place = validation.argmin() if measure == "loss" else validation.argmax()
            axes.plot(
                epochs[place],
                validation[place],
                "o",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=color,
                markeredgewidth=1.8,
            )
            if len(histories) == 1:
                text = (
                    f"{validation[place]:.2f}" if measure == "loss" else f"{validation[place]:.1%}"
                )
                axes.annotate(
                    text,
                    (epochs[place], validation[place]),
                    xytext=(0, 9),
                    ha="center",
                    textcoords="offset points",
                    color=color,
                    fontweight="bold",
                    fontsize=9,
                )
        axes.set_title(measure.capitalize())
        axes.set_xlabel("epoch")
        axes.margins(y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _plain(axes, "y")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    handles = [
        Line2D([], [], color=color, linewidth=3, label=name)
        for name, color in zip(histories, PALETTE * len(histories), strict=False)
    ]
    handles += [
        Line2D([], [], color=MUTED, linestyle="--", linewidth=1.3, label="training"),
        Line2D([], [], color=MUTED, linewidth=2, label="validation"),
        Line2D(
            [],
            [],
            color=MUTED,
            linestyle="",
            marker="o",
            markersize=8,
            markerfacecolor="none",
            markeredgewidth=1.6,
            label="best epoch",
        ),
    ]
    highest = {name: history["val_accuracy"].max() for name, history in histories.items()}
    best = max(highest, key=lambda name: highest[name])
    epoch = histories[best]["val_accuracy"].to_numpy().argmax() + 1
    columns = len(handles) if len(handles) <= 6 else math.ceil(len(handles) / 2)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.8)
    _state(figure, f"{best}: {highest[best]:.1%} on validation at epoch {epoch}")
    return figure


def _write_cells(axes: Axes, texts: np.ndarray, colors: np.ndarray, fontsize: int = 9) -> None:
    """Write a text into every cell of a matrix drawn with ``imshow``."""
    for (row, column), text in np.ndenumerate(texts):
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color=colors[row, column],
            fontsize=fontsize,
        )


def _name_cells(axes: Axes, names: tuple[str, ...]) -> None:
    """Name the columns below and the rows to the left of a square matrix."""
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=9)


def _draw_confusion(axes: Axes, matrix: np.ndarray, names: tuple[str, ...], fontsize: int) -> None:
    """Draw one confusion matrix: right predictions in blues, wrong ones in oranges."""
    if matrix.shape != (len(names), len(names)):
        raise ParameterError(
            f"the confusion matrix is {matrix.shape}; expected {(len(names), len(names))}, "
            "a row and a column a class"
        )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(names), dtype=bool)
    axes.imshow(np.ma.masked_where(~diagonal, shares), cmap=RIGHTS, vmin=0, vmax=1)
    # Mistakes spread over nine columns: a scale of their own keeps the frequent ones visible.
    axes.imshow(np.ma.masked_where(diagonal, shares), cmap=WRONGS, vmin=0, vmax=0.4)
    dark = shares > np.where(diagonal, 0.5, 0.25)
    colors = np.where(dark, "white", np.where(matrix, INK, "#c8c8c8"))
    _write_cells(axes, matrix, colors, fontsize)
    _name_cells(axes, names)
    for spine in axes.spines.values():
        spine.set_color(LIGHT)


@_styled
def confusion_matrix(
    matrix: np.ndarray, names: tuple[str, ...], title: str | None = None
) -> Figure:
    """Draw a confusion matrix, counts in the cells (notebook 02 introduces it).

    The colour is the share of the row: blue on the diagonal, where the prediction is right, orange
    off it. The oranges reach full strength at 40%, the blues at 100%.

    Args:
        matrix: int64 ``(K, K)``, true class by row, predicted class by column.
        names: The K class names.
        title: Text above.

    Raises:
        ParameterError: The matrix has not a row and a column a class.
    """
    figure = _figure(6.2, 5.6)
    axes = figure.subplots()
    _draw_confusion(axes, matrix, names, fontsize=9)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if title:
        axes.set_title(title)
    return figure


@_styled
def confusion_matrices(matrices: dict[str, np.ndarray], names: tuple[str, ...]) -> Figure:
    """Draw several confusion matrices, two a row, as ``confusion_matrix`` does (notebook 06).

    Args:
        matrices: Model name to int64 ``(K, K)``, true class by row, predicted class by column.
        names: The K class names.

    Raises:
        ParameterError: There is none, or one has not a row and a column a class.
    """
    if not matrices:
        raise ParameterError("there are no confusion matrices to draw; expected at least one")
    columns = min(2, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    figure = _figure(4.5 * columns + 0.7, 4.3 * rows + 0.6)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    if len(matrices) % columns:
        grid[-1, -1].set_axis_off()
        grid[-2, -1].tick_params(labelbottom=True)
    for axes, (title, matrix) in zip(grid.flat, matrices.items(), strict=False):
        _draw_confusion(axes, matrix, names, fontsize=8)
        axes.set_title(f"{title}: {np.trace(matrix) / max(1, matrix.sum()):.0%} right")
    figure.supxlabel("predicted class", fontsize=10)
    figure.supylabel("true class", fontsize=10)
    return figure


@_styled
def intervals(
    labels: list[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    xlabel: str,
    reference: float | None = None,
) -> Figure:
    """Draw shares as dots with their 95% intervals, top to bottom as given (notebook 03).

    Args:
        labels: What each dot stands for.
        values: Shares from 0 to 1, or differences of shares.
        lows: Lower ends of the intervals.
        highs: Upper ends of the intervals.
        xlabel: What is measured.
        reference: A value to compare with, drawn as a line: 0 for differences, 0.1 for guessing.

    Raises:
        ParameterError: The lists have different lengths, or are empty.
    """
    if not len(labels):
        raise ParameterError("there are no intervals to draw; expected at least one")
    for what, given in (("values", values), ("lows", lows), ("highs", highs)):
        _check_length(what, len(given), len(labels))
    figure = _figure(8, 0.42 * len(labels) + 1.2)
    axes = figure.subplots()
    places = np.arange(len(labels))
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=1, linestyle="--")
    axes.hlines(places, lows, highs, color=BLUE, linewidth=5, alpha=0.3)
    axes.plot(values, places, "o", color=BLUE, markersize=8)
    for place, value, low, high in zip(places, values, lows, highs, strict=True):
        axes.annotate(
            f"{value:.1%}  [{100 * low:.1f}, {100 * high:.1f}]",
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"{xlabel}, with 95% interval")
    if reference is None:
        highest, best = max(zip(values, labels, strict=True), key=lambda pair: pair[0])
        _state(figure, f"Highest {xlabel}: {best}, {highest:.1%}")
    else:
        ends = zip(lows, highs, strict=True)
        clear = sum(low > reference or high < reference for low, high in ends)
        _state(figure, f"{clear} of {len(labels)} intervals exclude {reference:.0%}")
    _plain(axes, "x")
    return figure


def differences(table: pd.DataFrame, measure: str) -> Figure:
    """Draw how far each variant of an experiment is from the first (notebook 02 introduces it).

    Variants that did not train have no place in it.

    Args:
        table: As ``experiments.compare`` gives it: named by the index; from the second row on the
            columns difference, low and high are drawn.
        measure: What is compared.

    Raises:
        ParameterError: There are not two rows, or a column is missing.
    """
    others = table.iloc[1:]
    _check_columns("what is left of the table", others, {"difference", "low", "high"})
    others = others.dropna(subset=["difference"])
    return intervals(
        [str(name) for name in others.index],
        others["difference"].tolist(),
        others["low"].tolist(),
        others["high"].tolist(),
        f"{measure} minus that of '{table.index[0]}'",
        reference=0,
    )


@_styled
def class_scores(frame: pd.DataFrame) -> Figure:
    """Draw scores from 0 to 1, such as F1, of models by class (notebook 06).

    Args:
        frame: Floats; a row a model, a column a class. NaN stays empty.
    """
    figure = _figure(1.8 + 0.72 * frame.shape[1], 1.3 + 0.46 * frame.shape[0])
    axes = figure.subplots()
    scores = frame.to_numpy(dtype=float)
    axes.imshow(scores, cmap=RIGHTS, vmin=0, vmax=1, aspect="auto")
    texts = np.where(np.isnan(scores), "", np.strings.mod("%.2f", scores))
    _write_cells(axes, texts, np.where(scores > 0.5, "white", INK))
    means = frame.mean()
    _state(figure, f"Lowest on average: {means.idxmin()}, {means.min():.2f}")
    axes.set_xticks(range(frame.shape[1]), [str(name) for name in frame.columns])
    axes.set_yticks(range(frame.shape[0]), [str(name) for name in frame.index])
    axes.tick_params(length=0, labelsize=9, top=False, labeltop=True, labelbottom=False)
    axes.set_xticks(np.arange(1, frame.shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, frame.shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@_styled
def bars(frame: pd.DataFrame, xlabel: str) -> Figure:
    """Draw grouped horizontal bars with their values, top to bottom as given (notebook 04).

    Args:
        frame: Numbers; a row a group, a column a series.
        xlabel: What is measured, and its unit.
    """
    figure = _figure(8, 0.9 + 0.3 * frame.size + 0.12 * len(frame))
    axes = figure.subplots()
    height = 0.8 / frame.shape[1]
    for index, (series, color) in enumerate(zip(frame.columns, PALETTE, strict=False)):
        places = np.arange(len(frame)) + (index - (frame.shape[1] - 1) / 2) * height
        values = frame[series].to_numpy(dtype=float)
        drawn = axes.barh(places, values, height * 0.9, color=color, label=str(series))
        texts = [f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" for value in values]
        axes.bar_label(drawn, texts, padding=4, fontsize=9)
    axes.set_yticks(range(len(frame)), [str(name) for name in frame.index])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(xlabel)
    _plain(axes, "x")
    if frame.shape[1] > 1:
        figure.legend(loc="outside upper left", ncols=4, handlelength=1)
    return figure


def _grid(count: int, width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many equal axes, those left over removed."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = _figure(width * columns, height * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    for column in range(columns):
        last = (count - 1 - column) // columns
        grid[last, column].tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def _some(given: dict[str, Any], what: str) -> None:
    """Refuse an empty mapping."""
    if not given:
        raise ParameterError(f"there are no {what} to draw; expected at least one")


@_styled
def reliability(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw accuracy against confidence, one panel a model (notebook 06).

    On the diagonal the probabilities are right; below it the model is too sure. The bars at the
    bottom say how many images have that confidence.

    Args:
        tables: What ``calibration.reliability`` returned, by model.

    Raises:
        ParameterError: There is none.
    """
    _some(tables, "reliability tables")
    figure, panels = _grid(len(tables), 2.4, 2.5, 4)
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        share = table["images"] / table["images"].sum()
        width = (table["to"] - table["from"]) * 0.9
        axes.bar(table["from"], share * 0.5, width, align="edge", color=LIGHT)
        axes.vlines(table["confidence"], table["low"], table["high"], color=BLUE, alpha=0.35, lw=4)
        axes.plot(table["confidence"], table["accuracy"], "o-", color=BLUE, markersize=4)
        excess = 100 * (share * (table["confidence"] - table["accuracy"])).sum()
        verdict = f"{abs(excess):.0f} points too {'sure' if excess > 0 else 'unsure'}"
        axes.set_title(f"{title}\n{verdict}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        _plain(axes, "both")
    figure.supxlabel("confidence", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    return figure


@_styled
def selective(curves: dict[str, pd.DataFrame]) -> Figure:
    """Draw accuracy among the surest answers against the share answered (notebook 06).

    Args:
        curves: What ``calibration.selective`` returned, by model.

    Raises:
        ParameterError: There is none.
    """
    _some(curves, "curves")
    figure = _figure(8, 4)
    axes = figure.subplots()
    for (title, curve), color, style in zip(
        curves.items(), cycle(PALETTE), cycle(("-", "--", "-.", ":")), strict=False
    ):
        axes.plot(curve["coverage"], curve["accuracy"], style, color=color, label=title, lw=2)
    half = {
        title: curve["accuracy"].iloc[int((curve["coverage"] - 0.5).abs().argmin())]
        for title, curve in curves.items()
    }
    best = max(half, key=lambda title: half[title])
    axes.set_xlabel("share of images that get an answer, the surest first")
    axes.set_ylabel("accuracy of the answers")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.01)
    _plain(axes, "both")
    figure.legend(loc="outside upper left", ncols=4)
    _state(figure, f"Of the surer half of its answers {best} has {half[best]:.0%} right")
    return figure


@_styled
def severities(table: pd.DataFrame, clean: dict[str, float]) -> Figure:
    """Draw how accuracy falls with severity, one panel a family of corruptions (notebook 06).

    Args:
        table: What ``robustness.corrupted`` returned.
        clean: Accuracy on the same images, not corrupted, by model: severity 0.

    Raises:
        ParameterError: A column is missing.
    """
    _check_columns("the table", table, {"model", "family", "severity", "accuracy"})
    families = list(dict.fromkeys(table["family"]))
    figure, panels = _grid(len(families), 2.4, 2.7, 4)
    for axes, family in zip(panels, families, strict=True):
        inside = table[table["family"] == family]
        means = inside.groupby(["model", "severity"])["accuracy"].mean()
        for (title, start), color, marker in zip(
            clean.items(), cycle(PALETTE), cycle("os^Dv<>X"), strict=False
        ):
            line = means[title]
            axes.plot([0, *line.index], [start, *line], color=color, marker=marker, label=title)
        lost = max(start - means[title].iloc[-1] for title, start in clean.items())
        axes.set_title(f"{family}: up to {100 * lost:.0f}\npoints lost, mean")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _plain(axes, "y")
    figure.supxlabel("severity, 0 for images as they are", fontsize=10)
    figure.supylabel("mean accuracy", fontsize=10)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(clean)
    )
    return figure


@_styled
def attention(images: np.ndarray, maps: dict[str, np.ndarray], titles: list[str]) -> Figure:
    """Draw images above maps of what a model looks at, laid over them (notebook 06).

    Args:
        images: uint8 ``(N, H, W, 3)``.
        maps: By name of the row, float ``(N, H, W)`` of 0 to 1.
        titles: Text above each image.

    Raises:
        ParameterError: Images, maps and titles do not go together.
    """
    _check_images(images)
    _check_length("titles", len(titles), len(images))
    for name, stack in maps.items():
        if stack.shape != images.shape[:3]:
            raise ParameterError(f"map {name!r} is {stack.shape}; expected {images.shape[:3]}")
    figure = _figure(1.15 * len(images) + 0.9, 1.2 * (1 + len(maps)) + 0.3)
    grid = figure.subplots(1 + len(maps), len(images), squeeze=False)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        _show_image(grid[0, column], image)
        grid[0, column].set_title(title, fontsize=8, loc="center")
    for row, (name, stack) in enumerate(maps.items(), start=1):
        for column, (image, one) in enumerate(zip(images, stack, strict=True)):
            grey = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
            heat = HEAT(one)[..., :3] * 255
            mixed = grey * (1 - 0.6 * one[..., None]) + heat * 0.6 * one[..., None]
            _show_image(grid[row, column], mixed.astype(np.uint8))
        grid[row, 0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    return figure


@_styled
def trade_off(frame: pd.DataFrame, costs: dict[str, str]) -> Figure:
    """Draw accuracy against what it costs, one panel a cost, models as points (notebook 06).

    Args:
        frame: A row a model, named by the index; ``accuracy``, ``accuracy_low``, ``accuracy_high``
            and a column for each cost.
        costs: Column to what it is, with its unit. Scales are logarithmic.

    Raises:
        ParameterError: A column is missing.
    """
    wanted = {"accuracy", "accuracy_low", "accuracy_high", *costs}
    _check_columns("the frame", frame, wanted)
    figure = _figure(3.0 * len(costs) + 0.7, 3.7)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, (column, label) in zip(panels, costs.items(), strict=True):
        for row, color, marker in zip(
            range(len(frame)), cycle(PALETTE), cycle("os^Dv<>X"), strict=False
        ):
            model = frame.iloc[row]
            axes.vlines(
                model[column], model["accuracy_low"], model["accuracy_high"], color=color, lw=2
            )
            axes.plot(
                [model[column]],
                [model["accuracy"]],
                marker,
                color=color,
                markersize=8,
                label=str(frame.index[row]),
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(label)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.margins(x=0.2)
        _plain(axes, "both")
    panels[0].set_ylabel("accuracy")
    column, label = next(iter(costs.items()))
    best, least = frame["accuracy"].idxmax(), frame[column].idxmin()
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(frame)
    )
    _state(figure, f"Highest accuracy: {best}. Least {label}: {least}")
    return figure


@_styled
def parallel_coordinates(table: pd.DataFrame, settings: Sequence[str], measure: str) -> Figure:
    """Draw each row as a line across its settings, the best ones in strong colour (notebook 07).

    Args:
        table: A row a trial; a column for each setting, and the measure. Rows without the measure
            are left out.
        settings: Columns to draw, from left to right. Numbers that are all above 0 and span a
            factor of 20 have a logarithmic axis; text and booleans are spread out by name.
        measure: Column of shares that says how good a row is; it is the last axis.

    Raises:
        ParameterError: There is no row, or a column is missing.
    """
    _check_columns("the table", table, {*settings, measure})
    rows = table.dropna(subset=[measure]).sort_values(measure)
    _check_columns("what is left of the table", rows, {measure})
    figure = _figure(1.15 * (len(settings) + 1) + 0.8, 4.2)
    axes = figure.subplots()
    heights, ends = zip(*(_axis(rows[name]) for name in [*settings, measure]), strict=True)
    best = max(1, len(rows) // 4)
    for place, line in enumerate(np.array(heights).T):
        good = place >= len(rows) - best
        color, width = (BLUE, 2.2) if good else (MUTED, 0.9)
        axes.plot(line, color=color, linewidth=width, alpha=0.9 if good else 0.5)
    for place, marks in enumerate(ends):
        axes.axvline(place, color=INK, linewidth=0.8)
        for height, text in marks:
            axes.annotate(
                text,
                (place, height),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )
    names = [textwrap.fill(name.replace("_", " "), 13) for name in [*settings, measure]]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.margins(x=0.02)
    _plain(axes)
    axes.spines["bottom"].set_visible(False)
    top = rows[measure].iloc[-1]
    _state(figure, f"Blue: the best {best} of {len(rows)}, up to {measure} {top:.1%}")
    return figure


def _axis(values: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return where values are on an axis from 0 to 1, and its marks: height and text."""
    if values.dtype == bool or not pd.api.types.is_numeric_dtype(values):
        names = sorted(map(str, values.unique()))
        places = np.linspace(0, 1, len(names)) if len(names) > 1 else np.array([0.5])
        heights = dict(zip(names, places.tolist(), strict=True))
        return values.astype(str).map(heights).to_numpy(), [(y, x) for x, y in heights.items()]
    numbers = values.to_numpy(dtype=float)
    low, high = numbers.min(), numbers.max()
    if low == high:
        return np.full(len(numbers), 0.5), [(0.5, f"{low:.3g}")]
    marks = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    if low > 0 and high / low >= 20:
        return np.log(numbers / low) / np.log(high / low), marks
    return (numbers - low) / (high - low), marks


@_styled
def selection_bias(table: pd.DataFrame) -> Figure:
    """Draw what a chosen network reaches on the images that chose it and on others (notebook 07).

    Args:
        table: As ``tuning.selection_bias`` gives it.

    Raises:
        ParameterError: There is no row, or a column is missing.
    """
    _check_columns("the table", table, {"chose", "other", "gap"})
    figure = _figure(7, 3.4)
    axes = figure.subplots()
    axes.fill_between(table.index, table["other"], table["chose"], color=LIGHT)
    lines = (("chose", VERMILION, "s-", "that chose it"), ("other", BLUE, "o-", "that had no say"))
    for column, color, style, label in lines:
        axes.plot(table.index, table[column], style, color=color, markersize=4, label=label)
    axes.set_xlabel("networks to choose from")
    axes.set_ylabel("accuracy of the chosen one")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    _plain(axes, "both")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    last = table.iloc[-1]
    _state(figure, f"Of {table.index[-1]} networks: {100 * last['gap']:+.1f} points, on images")
    return figure
