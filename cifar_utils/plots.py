"""The notebooks' figures: arrays and frames in, a Figure out; nothing is read, saved or shown.

The colours are those of Okabe and Ito, which stay apart for colour-blind readers, and nothing is
said by colour alone. Figures never touch pyplot: a notebook cell shows one by ending with its name.
"""

import io
import math

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from cifar_utils.errors import ParameterError

INK, MUTED, LIGHT = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PALETTE = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", INK)
RIGHTS = LinearSegmentedColormap.from_list("rights", ["#ffffff", "#9ecae1", BLUE, "#00466e"])
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
        scale: Side of an image, in inches.
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
    figure = _figure(columns * scale, rows * (scale + 0.17 * lines))
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


@_styled
def gallery(rows: dict[str, np.ndarray]) -> Figure:
    """Draw a labelled row of images for each entry (notebooks 01 and 03).

    Args:
        rows: Row label to uint8 ``(N, 32, 32, 3)``; N may differ between rows. Without a row, the
            figure says that there are no images.

    Raises:
        ParameterError: A row does not hold images.
    """
    if not rows:
        return _nothing()
    for images in rows.values():
        _check_images(images)
    columns = max(1, *(len(images) for images in rows.values()))
    figure = _figure(1.3 + columns, len(rows) * 1.02)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (label, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=False):
            axes.set_axis_on()
            _show_image(axes, image)
        line[0].set_axis_on()
        _show_image(line[0], images[0] if len(images) else np.full((1, 1, 3), 255, np.uint8))
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
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


def mean_images(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Draw the average of each class's images (notebook 01 introduces it).

    Args:
        images: uint8 ``(N, 32, 32, 3)``, read in chunks.
        labels: int64 ``(N,)``, 0 to K - 1.
        names: The K class names; a class without images is left grey.

    Raises:
        ParameterError: The arrays do not go with each other.
    """
    _check_images(images)
    _check_labels(labels, images, names)
    sums = np.zeros((len(names), math.prod(images.shape[1:])))
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK].reshape(-1, sums.shape[1]).astype(np.float32)
        members = labels[start : start + _CHUNK] == np.arange(len(names))[:, None]
        # Exact in float32: a sum of at most 2,000 whole numbers up to 255 stays below 2**24.
        sums += members.astype(np.float32) @ pixels
    counts = np.bincount(labels, minlength=len(names))
    means = np.full_like(sums, 238)
    np.divide(sums, counts[:, None], out=means, where=counts[:, None] > 0)
    drawn = np.rint(means).astype(np.uint8).reshape(len(names), *images.shape[1:])
    return image_grid(drawn, list(names), scale=1.6)


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
        missing = {"loss", "accuracy", "val_loss", "val_accuracy"} - set(history.columns)
        if missing or not len(history):
            raise ParameterError(
                f"the history of {name} has {len(history)} epochs and lacks the columns "
                f"{sorted(missing)}; expected at least one epoch and none missing"
            )
    figure = _figure(9, 3.4)
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
            best = validation.argmin() if measure == "loss" else validation.argmax()
            axes.plot(
                epochs[best],
                validation[best],
                "o",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=color,
                markeredgewidth=1.8,
            )
            if len(histories) == 1:
                text = f"{validation[best]:.2f}" if measure == "loss" else f"{validation[best]:.1%}"
                axes.annotate(
                    text,
                    (epochs[best], validation[best]),
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
    columns = len(handles) if len(handles) <= 6 else math.ceil(len(handles) / 2)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.8)
    return figure


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
    for row, column in np.ndindex(matrix.shape):
        dark = shares[row, column] > (0.5 if row == column else 0.25)
        color = "white" if dark else INK if matrix[row, column] else "#c8c8c8"
        axes.text(
            column,
            row,
            f"{matrix[row, column]:d}",
            ha="center",
            va="center",
            color=color,
            fontsize=fontsize,
        )
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=9)
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
        axes.set_title(title)
    figure.supxlabel("predicted class", fontsize=10)
    figure.supylabel("true class", fontsize=10)
    return figure


@_styled
def intervals(
    labels: list[str],
    values: list[float],
    lows: list[float],
    highs: list[float],
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
    figure = _figure(8, 0.42 * len(labels) + 0.9)
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
    _plain(axes, "x")
    return figure


@_styled
def class_scores(frame: pd.DataFrame) -> Figure:
    """Draw scores from 0 to 1, such as F1, of models by class (notebook 06).

    Args:
        frame: Floats; a row a model, a column a class. NaN stays empty.
    """
    figure = _figure(1.8 + 0.72 * frame.shape[1], 1.0 + 0.46 * frame.shape[0])
    axes = figure.subplots()
    scores = frame.to_numpy(dtype=float)
    axes.imshow(scores, cmap=RIGHTS, vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(~np.isnan(scores)), strict=True):
        score = scores[row, column]
        axes.text(
            column,
            row,
            f"{score:.2f}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if score > 0.5 else INK,
        )
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
