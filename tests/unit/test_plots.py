import subprocess
import sys
from itertools import combinations

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnnotationBbox
from nbclient import NotebookClient

from cifar_utils import plots
from cifar_utils.errors import ParameterError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(12) % 10
PROBABILITIES = GENERATOR.dirichlet(np.ones(10), 12)
MATRIX = GENERATOR.integers(1, 50, (10, 10))
HISTOGRAM = GENERATOR.integers(1, 100, (3, 256))
POINTS = GENERATOR.normal(size=(12, 2))
MEANS = np.broadcast_to(GENERATOR.uniform(80, 160, (10, 1, 1, 3)), (10, 32, 32, 3))
COLOURS = pd.DataFrame(
    {"red": [9.0, 8], "green": [200.0, 7], "blue": [90.0, 6], "red_std": [1.0, 2],
     "green_std": [3.0, 4], "blue_std": [5.0, 6]},
    index=["ship", "cat"],
)  # fmt: skip


def history(epochs):
    values = np.linspace(0.9, 0.3, epochs)
    return pd.DataFrame(
        {
            "loss": values,
            "accuracy": 1 - values,
            "val_loss": values + 0.1,
            "val_accuracy": 0.9 - values,
        }
    )


RELIABILITY = pd.DataFrame(
    {"from": [0.2, 0.8], "to": [0.4, 1.0], "confidence": [0.3, 0.9], "accuracy": [0.2, 0.8],
     "low": [0.1, 0.7], "high": [0.4, 0.9], "images": [10, 90]}
)  # fmt: skip
CURVE = pd.DataFrame({"coverage": [0.5, 1.0], "accuracy": [0.9, 0.7]})
SPOILED = pd.DataFrame(
    [
        {"model": model, "family": family, "severity": severity, "accuracy": start - severity / 20}
        for model, start in (("a", 0.9), ("b", 0.8))
        for family in ("noise", "blur")
        for severity in (1, 5)
    ]
)
COSTS = pd.DataFrame(
    {"accuracy": [0.7, 0.9], "accuracy_low": [0.6, 0.8], "accuracy_high": [0.8, 0.95],
     "seconds": [60, 4000], "weights": [2e6, 24e6]},
    index=["a", "b"],
)  # fmt: skip


TRIALS = pd.DataFrame(
    {"rate": [0.001, 0.1, 0.01, 0.02], "width": [16, 32, 32, 64], "optimizer": list("abab"),
     "accuracy": [0.2, 0.4, 0.9, None], "fixed": [1, 1, 1, 1]}
)  # fmt: skip
BIAS = pd.DataFrame({"chose": [0.7, 0.8], "other": [0.7, 0.75], "gap": [0.0, 0.05]}, index=[1, 2])


FIGURES = {
    "parallel_coordinates": lambda: plots.parallel_coordinates(
        TRIALS, ["rate", "width", "optimizer", "fixed"], "accuracy"
    ),
    "selection_bias": lambda: plots.selection_bias(BIAS),
    "reliability": lambda: plots.reliability(dict.fromkeys("abcde", RELIABILITY)),
    "selective": lambda: plots.selective({"a": CURVE, "b": CURVE}),
    "severities": lambda: plots.severities(SPOILED, {"a": 0.9, "b": 0.8}),
    "attention": lambda: plots.attention(
        IMAGES[:2], {"Grad-CAM": np.ones((2, 32, 32)), "parts": np.zeros((2, 32, 32))}, ["x", "y"]
    ),
    "trade_off": lambda: plots.trade_off(COSTS, {"seconds": "s", "weights": "weights"}),
    "image_grid": lambda: plots.image_grid(IMAGES, list("abcdefghijkl")),
    "image_grid, nothing": lambda: plots.image_grid(IMAGES[:0]),
    "predictions": lambda: plots.predictions(IMAGES, LABELS, PROBABILITIES, NAMES),
    "predictions, nothing": lambda: plots.predictions(
        IMAGES[:0], LABELS[:0], PROBABILITIES[:0], NAMES
    ),
    "gallery": lambda: plots.gallery({"flip": IMAGES[:5], "shift": IMAGES[5:8]}),
    "image_pairs": lambda: plots.image_pairs(IMAGES[:6], IMAGES[6:], list("abcdef")),
    "image_pairs, nothing": lambda: plots.image_pairs(IMAGES[:0], IMAGES[:0], []),
    "suggestions": lambda: plots.suggestions(
        IMAGES, LABELS, LABELS[::-1], PROBABILITIES[:, 0], NAMES
    ),
    "similarities": lambda: plots.similarities(
        {"within train": PROBABILITIES[:, 0], "test with train": PROBABILITIES[:, 1]}, 0.2, "cosine"
    ),
    "image_map": lambda: plots.image_map({"a": POINTS}, LABELS, NAMES, IMAGES),
    "image_map, two": lambda: plots.image_map({"a": POINTS, "b": -POINTS}, LABELS, NAMES, IMAGES),
    "image_map, no thumbnails": lambda: plots.image_map(
        {"a": POINTS}, LABELS, NAMES, IMAGES, thumbnails=0
    ),
    "image_map, all in one place": lambda: plots.image_map(
        {"a": np.ones((12, 2))}, LABELS, NAMES, IMAGES
    ),
    "image_map, nothing": lambda: plots.image_map({"a": POINTS[:0]}, LABELS[:0], NAMES, IMAGES[:0]),
    "class_colours": lambda: plots.class_colours(COLOURS),
    "mean_comparison": lambda: plots.mean_comparison(MEANS, NAMES),
    "mean_comparison, all alike": lambda: plots.mean_comparison(
        np.zeros((10, 32, 32, 3), np.uint8), NAMES
    ),
    "gallery, no label": lambda: plots.gallery({"": IMAGES[:2]}),
    "class_counts": lambda: plots.class_counts(
        {"train": np.full(10, 9), "test": LABELS[:10]}, NAMES
    ),
    "intensity_histogram": lambda: plots.intensity_histogram(HISTOGRAM),
    "channel_histograms": lambda: plots.channel_histograms(HISTOGRAM),
    "learning_curves": lambda: plots.learning_curves({"cnn": history(6), "resnet": history(9)}),
    "learning_curves, one epoch": lambda: plots.learning_curves({"cnn": history(1)}),
    "confusion_matrix": lambda: plots.confusion_matrix(MATRIX, NAMES, "baseline"),
    "confusion_matrix, nothing": lambda: plots.confusion_matrix(np.zeros_like(MATRIX), NAMES),
    "confusion_matrices": lambda: plots.confusion_matrices(
        {"a": MATRIX, "b": MATRIX, "c": MATRIX}, NAMES
    ),
    "intervals": lambda: plots.intervals(
        ["a", "b"], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], "accuracy"
    ),
    "class_scores": lambda: plots.class_scores(
        pd.DataFrame([[0.1, 0.9], [np.nan, 1.0]], index=["a", "b"], columns=["cat", "dog"])
    ),
    "bars": lambda: plots.bars(
        pd.DataFrame({"x": [1, 2.5], "y": [0, 3000]}, index=["a", "b"]), "s"
    ),
}


def texts(figure):
    """Return every text of a figure that is not empty."""
    found = figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    return [artist.get_text() for artist in found if artist.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_a_small_png_without_an_address(name):
    figure = FIGURES[name]()
    png = figure._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert 500 < len(png) < 150_000
    assert figure.get_figwidth() <= 10
    assert repr(figure).startswith("<Figure size ")
    assert " at 0x" not in repr(figure)
    assert png == FIGURES[name]()._repr_png_(), "the same data, the same picture"


def test_a_cell_shows_one_picture_and_pyplot_is_not_needed():
    cells = [
        "import sys, numpy as np\nfrom cifar_utils import plots\n"
        "figure = plots.image_grid(np.zeros((2, 32, 32, 3), np.uint8))\n"
        "assert 'matplotlib.pyplot' not in sys.modules",
        "figure",
        "import matplotlib.pyplot\nfigure",
        "%matplotlib inline\nfigure",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    made, *shown = [cell.outputs for cell in notebook.cells]
    assert made == []
    for outputs in shown:
        assert [output.output_type for output in outputs] == ["execute_result"]
        assert set(outputs[0].data) == {"image/png", "text/plain"}


def test_importing_plots_brings_in_neither_pyplot_nor_keras():
    code = (
        "import sys; from cifar_utils import plots; "
        "print({'matplotlib.pyplot', 'keras', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_style_survives_the_users_settings_and_leaves_them_alone():
    import matplotlib

    with matplotlib.rc_context({"figure.facecolor": "black", "font.family": "serif"}):
        figure = plots.intensity_histogram(HISTOGRAM)
        assert matplotlib.rcParams["figure.facecolor"] == "black"
    assert to_hex(figure.get_facecolor()) == "#ffffff"


def test_image_grid_shows_the_images_in_order():
    figure = plots.image_grid(IMAGES, [str(index) for index in range(12)], columns=5)
    assert len(figure.axes) == 15
    for index, axes in enumerate(figure.axes[:12]):
        np.testing.assert_array_equal(axes.images[0].get_array(), IMAGES[index])
        assert axes.get_title() == str(index)
    assert not any(axes.axison for axes in figure.axes[12:])


def test_no_images_say_so():
    assert texts(plots.image_grid(IMAGES[:0])) == ["no images to show"]
    assert texts(plots.gallery({})) == ["no images to show"]
    assert texts(plots.image_map({}, LABELS, NAMES, IMAGES)) == ["no images to show"]


def test_predictions_mark_right_and_wrong_by_more_than_colour():
    probabilities = np.full((2, 10), 0.02)
    probabilities[0, 3], probabilities[1, 5] = 0.82, 0.82
    right, wrong = plots.predictions(IMAGES[:2], np.array([3, 3]), probabilities, NAMES, 2).axes
    assert right.get_title() == "✓ cat 82%\ntrue: cat"
    assert wrong.get_title() == "✗ dog 82%\ntrue: cat"
    colors = [to_hex(axes.spines["top"].get_edgecolor()) for axes in (right, wrong)]
    assert colors == [plots.GREEN.lower(), plots.VERMILION.lower()]


def test_gallery_has_a_labelled_row_for_each_entry():
    figure = plots.gallery({"flip": IMAGES[:3], "none": IMAGES[:0], "shift": IMAGES[3:4]})
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["flip", "none", "shift"]
    np.testing.assert_array_equal(figure.axes[6].images[0].get_array(), IMAGES[3])
    assert not figure.axes[7].axison


def test_gallery_breaks_long_labels_and_keeps_what_is_broken_already():
    rows = {"local contrast normalisation": IMAGES[:1], "train 12345: automobile\nx": IMAGES[:1]}
    figure = plots.gallery(rows)
    assert figure.axes[0].get_ylabel() == "local contrast\nnormalisation"
    assert figure.axes[1].get_ylabel() == "train 12345: automobile\nx"


def test_gallery_images_have_the_side_asked_for():
    figure = plots.gallery({"local contrast normalisation": IMAGES, "none": IMAGES[:2]}, scale=0.5)
    figure.draw_without_rendering()
    widths = [axes.get_window_extent().width / figure.dpi for axes in figure.axes]
    assert min(widths) > 0.4
    assert max(widths) <= 0.5


def test_image_pairs_touch():
    figure = plots.image_pairs(IMAGES[:3], IMAGES[3:6], ["x", "y", "z\nz"], columns=2)
    for index, title in enumerate(["x", "y", "z\nz"]):
        shown = figure.axes[index].images[0].get_array()
        np.testing.assert_array_equal(shown[:, :32], IMAGES[index])
        np.testing.assert_array_equal(shown[:, 32:], IMAGES[index + 3])
        assert figure.axes[index].get_title() == title


def test_suggestions_name_both_labels():
    confidence = np.array([0.934, 1.0])
    figure = plots.suggestions(IMAGES[:2], np.array([3, 0]), np.array([5, 8]), confidence, NAMES)
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles == ["given: cat\nperhaps: dog 93%", "given: airplane\nperhaps: ship 100%"]


def test_similarities_count_what_reaches_the_threshold():
    values = {"train": np.array([0.1, 0.5, 0.75, 0.9]), "test": np.array([0.2, 0.74])}
    figure = plots.similarities(values, 0.75, "cosine")
    found = texts(figure)
    assert "train: 2 of 4 at 0.75 or above" in found
    assert "test: 0 of 2 at 0.75 or above" in found
    assert {"threshold 0.75", "cosine"} <= set(found)
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_xdata()) == [0.75, 0.75]
    # Who is below where the axis begins is counted in the legend, not drawn.
    assert [outline.get_data().values.sum() for outline in axes.patches] == [3, 1]
    assert axes.patches[0].get_data().edges[[0, -1]].tolist() == [0.4, 1]
    assert len({outline.get_linestyle() for outline in axes.patches}) == 2


def thumbnails(axes):
    """Return the thumbnails in a panel, and where they are drawn."""
    boxes = [artist for artist in axes.artists if isinstance(artist, AnnotationBbox)]
    return boxes, [box.get_window_extent() for box in boxes]


@pytest.mark.parametrize("panels", [1, 2])
def test_image_map_shows_images_where_they_are_and_none_over_another(panels):
    points = np.random.default_rng(1).normal(size=(500, 2))
    labels = np.arange(500) % 10
    images = np.broadcast_to(np.arange(500)[:, None, None, None] // 2, (500, 32, 32, 3))
    maps = {f"map {index}": points for index in range(panels)}
    figure = plots.image_map(maps, labels, NAMES, images.astype(np.uint8), thumbnails=40)
    figure.draw_without_rendering()
    for axes, title in zip(figure.axes, maps, strict=True):
        assert axes.get_title(loc="left") == title
        drawn = axes.collections[0].get_offsets()
        np.testing.assert_allclose(drawn, (points - points.min(0)) / np.ptp(points, axis=0))
        boxes, extents = thumbnails(axes)
        assert len(boxes) == 40
        for box in boxes:
            (index,) = np.flatnonzero((drawn == box.xyann).all(axis=1))
            assert (box.offsetbox.get_data() == index // 2).all()
            assert to_hex(box.patch.get_edgecolor()) == plots.CLASS_COLOURS[labels[index]]
        assert not any(a.overlaps(b) for a, b in combinations(extents, 2))


def test_image_map_draws_fewer_thumbnails_where_more_would_overlap():
    points = np.random.default_rng(1).uniform(size=(2000, 2))
    images = np.zeros((2000, 32, 32, 3), np.uint8)
    labels = np.arange(2000) % 10
    figure = plots.image_map({"a": points, "b": points}, labels, NAMES, images, thumbnails=2000)
    figure.draw_without_rendering()
    boxes, extents = thumbnails(figure.axes[0])
    assert 60 < len(boxes) < 300
    assert not any(a.overlaps(b) for a, b in combinations(extents, 2))


def test_image_map_names_the_classes_at_their_medians_without_overlap():
    labels = np.repeat(np.arange(10), 50)
    images = np.zeros((500, 32, 32, 3), np.uint8)
    apart = np.stack([labels % 4, labels // 4], axis=1) + np.tile(
        [[-0.1], [0], [0], [0], [0.1]], (100, 2)
    )
    together = np.random.default_rng(0).normal(size=(500, 2))
    figure = plots.image_map({"apart": apart, "together": together}, labels, NAMES, images)
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == list(NAMES)
        extents = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in combinations(extents, 2))
    middles = (np.stack([np.arange(10) % 4, np.arange(10) // 4], axis=1) + 0.1) / [3.2, 2.2]
    placed = [text.xyann for text in figure.axes[0].texts]
    np.testing.assert_allclose(placed, middles, atol=0.02)


def test_class_colours_keep_the_order_and_show_mean_and_spread():
    figure = plots.class_colours(COLOURS)
    swatches, axes = figure.axes
    assert [tick.get_text() for tick in swatches.get_yticklabels()] == ["ship", "cat"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first on top"
    np.testing.assert_array_equal(swatches.images[0].get_array()[:, 0], [[9, 200, 90], [8, 7, 6]])
    for bars, channel in zip(axes.containers, ("red", "green", "blue"), strict=True):
        assert bars.get_label() == channel
        np.testing.assert_array_equal(bars.lines[0].get_xdata(), COLOURS[channel])
        ends = np.array([segment[:, 0] for segment in bars.lines[2][0].get_segments()])
        np.testing.assert_allclose(np.ptp(ends, axis=1), 2 * COLOURS[f"{channel}_std"])
    assert len({bars.lines[0].get_marker() for bars in axes.containers}) == 3
    assert {"red", "green", "blue"} <= set(texts(figure))


def test_mean_comparison_writes_the_distances_and_shows_the_means():
    means = np.zeros((3, 32, 32, 3))
    means[1] += 30.4
    means[2, :16] = 40
    axes = plots.mean_comparison(means, NAMES[:3]).axes[0]
    written = [text.get_text() for text in axes.texts]
    # Half of the values differ by 40; or half by 9.6 and half by 30.4.
    assert written == ["", "30", "28", "30", "", "23", "28", "23", ""]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(NAMES[:3])
    shown = [image.get_array() for image in axes.images[1:]]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[2], np.full((32, 32, 3), 30))


def test_class_counts_writes_every_number():
    counts = {"train": np.arange(1000, 1010), "test": np.arange(10)}
    figure = plots.class_counts(counts, NAMES)
    assert {"1,000", "1,009", "0", "9", "train · 10,045 images"} <= set(texts(figure))
    assert tuple(tick.get_text() for tick in figure.axes[0].get_yticklabels()) == NAMES


def test_histograms_write_their_means():
    histogram = np.zeros((3, 256), np.int64)
    histogram[0, 10], histogram[1, 20], histogram[2, [30, 60]] = 4, 4, 2
    assert "mean 25.0" in texts(plots.intensity_histogram(histogram))
    found = texts(plots.channel_histograms(histogram))
    assert {"mean 10.0", "mean 20.0", "mean 45.0", "red", "green", "blue"} <= set(found)


def test_learning_curves_mark_the_best_epochs():
    frame = history(5)
    frame["val_loss"] = [0.9, 0.5, 0.4, 0.6, 0.7]
    frame["val_accuracy"] = [0.1, 0.2, 0.3, 0.4, 0.35]
    loss, accuracy = plots.learning_curves({"cnn": frame}).axes
    assert [line.get_linestyle() for line in loss.lines[:2]] == ["--", "-"]
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), frame["loss"])
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), frame["val_loss"])
    assert (loss.lines[2].get_xdata()[0], loss.lines[2].get_ydata()[0]) == (3, 0.4)
    assert (accuracy.lines[2].get_xdata()[0], accuracy.lines[2].get_ydata()[0]) == (4, 0.4)


def test_learning_curves_name_every_model():
    found = texts(plots.learning_curves({f"model {n}": history(3) for n in range(9)}))
    assert {*(f"model {n}" for n in range(9)), "training", "validation", "best epoch"} <= set(found)


def test_confusion_matrix_has_counts_and_shares_of_the_row():
    matrix = np.array([[6, 2], [0, 1]])
    axes = plots.confusion_matrix(matrix, ("cat", "dog")).axes[0]
    assert [text.get_text() for text in axes.texts] == ["6", "2", "0", "1"]
    rights, wrongs = (image.get_array() for image in axes.images)
    assert (rights[0, 0], rights[1, 1]) == (0.75, 1)
    assert (wrongs[0, 1], wrongs[1, 0]) == (0.25, 0)
    assert rights.mask[0, 1]
    assert wrongs.mask[0, 0]
    assert axes.get_ylabel() == "true class"


def test_intervals_keep_the_order_and_write_the_values():
    labels = ["b", "a"]
    axes = plots.intervals(
        labels, [0.031, 0.2], [0.012, 0.1], [0.05, 0.3], "gain", reference=0
    ).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == labels
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first on top"
    assert [text.get_text() for text in axes.texts] == ["3.1%  [1.2, 5.0]", "20.0%  [10.0, 30.0]"]
    assert axes.get_xlim()[0] <= 0


def test_differences_are_drawn_from_the_second_row_on():
    table = pd.DataFrame(
        {"difference": [np.nan, 0.1], "low": [np.nan, 0.05], "high": [np.nan, 0.15]},
        index=["none", "flip"],
    )
    axes = plots.differences(table, "accuracy").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["flip"]
    assert [text.get_text() for text in axes.texts] == ["10.0%  [5.0, 15.0]"]
    assert "accuracy minus that of 'none'" in axes.get_xlabel()


def test_class_scores_leave_what_is_missing_empty():
    frame = pd.DataFrame([[0.1, 0.914], [np.nan, 1.0]], index=["a", "b"], columns=["cat", "dog"])
    found = texts(plots.class_scores(frame))
    finding = "Lowest on average: cat, 0.10"
    assert {"0.10", "0.91", "1.00", "a", "b", "cat", "dog", finding} == set(found)


def test_bars_write_values_in_readable_units():
    found = texts(plots.bars(pd.DataFrame({"n": [12345, 0.12345]}, index=["a", "b"]), "images"))
    assert {"12,345", "0.123", "images"} <= set(found)


def test_reliability_shows_each_model_on_axes_of_its_own():
    figure = plots.reliability(dict.fromkeys("abcde", RELIABILITY))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{name}\n10 points too sure" for name in "abcde"]
    line = figure.axes[0].lines[1].get_xydata().tolist()
    assert line == [[0.3, 0.2], [0.9, 0.8]]


def test_severities_begin_with_the_images_as_they_are():
    figure = plots.severities(SPOILED, {"a": 0.9, "b": 0.8})
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{family}: up to 25\npoints lost, mean" for family in ("noise", "blur")]
    first, second = (line.get_xydata() for line in figure.axes[0].lines)
    np.testing.assert_allclose(first, [[0, 0.9], [1, 0.85], [5, 0.65]])
    np.testing.assert_allclose(second, [[0, 0.8], [1, 0.75], [5, 0.55]])


def test_titles_state_what_was_found():
    shy = RELIABILITY.assign(confidence=[0.1, 0.5])
    late, early = history(3), history(3)
    late["val_accuracy"], early["val_accuracy"] = [0.1, 0.2, 0.3], [0.25, 0.1, 0.1]
    expected = {
        "late: 30.0% on validation at epoch 3": plots.learning_curves(
            {"early": early, "late": late}
        ),
        "Highest accuracy: b, 80.0%": plots.intervals(
            ["a", "b"], *(pd.Series([n, n + 0.1], ["a", "b"]) for n in (0.7, 0.6, 0.8)), "accuracy"
        ),
        "1 of 3 intervals exclude 0%": plots.intervals(
            list("abc"), [0.1, 0, -0.1], [-0.1, -0.1, -0.2], [0.2, 0.1, -0.05], "gain", 0
        ),
        "a\n28 points too unsure": plots.reliability({"a": shy}),
        "Of the surer half of its answers b has 95% right": plots.selective(
            {"a": CURVE, "b": CURVE.assign(accuracy=[0.95, 0.6])}
        ),
        "cnn: 70% right": plots.confusion_matrices({"cnn": np.array([[6, 2], [1, 1]])}, ("x", "y")),
        "Blue: the best 1 of 3, up to accuracy 90.0%": plots.parallel_coordinates(
            TRIALS, ["rate"], "accuracy"
        ),
        "Of 2 networks: +5.0 points, on images": plots.selection_bias(BIAS),
        "Highest accuracy: b. Least time: a": plots.trade_off(
            COSTS.set_axis(["a", "b"]), {"seconds": "time"}
        ),
    }
    for finding, figure in expected.items():
        assert finding in texts(figure)


def test_no_model_is_lost_where_colours_repeat():
    names = [f"model {number}" for number in range(20)]
    frame = pd.concat([COSTS.iloc[:1]] * 20).set_axis(names)
    spoiled = pd.concat([SPOILED[SPOILED.model == "a"].assign(model=name) for name in names])
    for figure in (
        plots.selective(dict.fromkeys(names, CURVE)),
        plots.severities(spoiled, dict.fromkeys(names, 0.9)),
        plots.trade_off(frame, {"seconds": "time"}),
    ):
        assert set(names) <= set(texts(figure))


def test_attention_leaves_the_image_where_nothing_speaks():
    figure = plots.attention(IMAGES[:1], {"none": np.zeros((1, 32, 32))}, ["x"])
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown[..., 0], IMAGES[0].mean(axis=-1).astype(np.uint8))


def test_parallel_coordinates_put_values_where_they_belong():
    figure = plots.parallel_coordinates(TRIALS, ["rate", "width", "optimizer", "fixed"], "accuracy")
    lines = [line.get_ydata() for line in figure.axes[0].lines[:3]]
    best = lines[-1]  # 0.01 lies half way between 0.001 and 0.1, by ratios
    np.testing.assert_allclose(best, [0.5, 1.0, 0.0, 0.5, 1.0])
    assert figure.axes[0].lines[2].get_color() == plots.BLUE
    assert {"0.001", "0.1", "a", "b", "16", "32"} <= set(texts(figure))


def test_costs_are_written_in_readable_units():
    figure = plots.trade_off(COSTS, {"seconds": "s", "weights": "weights"})
    figure.draw_without_rendering()
    labels = [tick.get_text() for axes in figure.axes for tick in axes.get_xticklabels()]
    assert {"100", "1k", "3M", "10M"} <= set(labels)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.reliability({}), "no reliability tables"),
        (lambda: plots.selective({}), "no curves"),
        (lambda: plots.severities(SPOILED[["model"]], {}), "'accuracy', 'family', 'severity'"),
        (lambda: plots.attention(IMAGES, {}, ["one"]), "1 titles for 12"),
        (
            lambda: plots.attention(IMAGES[:1], {"a": np.ones((1, 8, 8))}, ["x"]),
            r"'a' is \(1, 8, 8\); expected \(1, 32, 32\)",
        ),
        (lambda: plots.trade_off(COSTS, {"latency": "ms"}), "'latency'"),
        (lambda: plots.parallel_coordinates(TRIALS, ["depth"], "accuracy"), "'depth'"),
        (lambda: plots.parallel_coordinates(TRIALS[3:], ["rate"], "accuracy"), "0 rows"),
        (lambda: plots.selection_bias(BIAS[["gap"]]), "'chose', 'other'"),
        (lambda: plots.image_grid(IMAGES / 255), "float64 .* expected uint8"),
        (lambda: plots.image_grid(IMAGES[0]), r"\(32, 32, 3\) as images"),
        (lambda: plots.image_grid(IMAGES, ["one"]), "1 titles for 12"),
        (lambda: plots.image_grid(IMAGES, colors=["red"]), "1 colours for 12"),
        (lambda: plots.predictions(IMAGES, LABELS[:3], PROBABILITIES, NAMES), "3 labels for 12"),
        (lambda: plots.predictions(IMAGES, LABELS, PROBABILITIES[:3], NAMES), "3 rows of prob"),
        (lambda: plots.gallery({"flip": IMAGES[0]}), r"\(32, 32, 3\) as images"),
        (lambda: plots.image_pairs(IMAGES, IMAGES[:3], ["one"]), "3 second images for 12"),
        (lambda: plots.image_pairs(IMAGES, IMAGES, ["one"]), "1 titles for 12"),
        (
            lambda: plots.suggestions(IMAGES, LABELS, LABELS + 1, PROBABILITIES[:, 0], NAMES),
            "labels run from 1 to 10",
        ),
        (
            lambda: plots.suggestions(IMAGES, LABELS, LABELS, PROBABILITIES[:3, 0], NAMES),
            "3 confidences for 12",
        ),
        (lambda: plots.similarities({}, 0.5, "x"), "similarities of nothing"),
        (lambda: plots.similarities({"test": np.array([])}, 0.5, "x"), "similarities of test"),
        (lambda: plots.similarities({"test": np.array([np.nan])}, 0.5, "x"), "one finite number"),
        (
            lambda: plots.image_map({"t-SNE": POINTS[:3]}, LABELS, NAMES, IMAGES),
            r"'t-SNE' is \(3, 2\); expected \(12, 2\)",
        ),
        (
            lambda: plots.image_map({"t-SNE": POINTS * np.inf}, LABELS, NAMES, IMAGES),
            "all finite",
        ),
        (lambda: plots.class_colours(COLOURS[["red", "green", "blue"]]), "'blue_std', 'green_std'"),
        (lambda: plots.class_colours(COLOURS[:0]), "has 0 rows"),
        (lambda: plots.mean_comparison(IMAGES, NAMES), r"expected \(10, 32, 32, 3\)"),
        (lambda: plots.class_counts({"train": LABELS}, NAMES), "12 class counts for 10"),
        (lambda: plots.intensity_histogram(HISTOGRAM[:1]), "expected the \\(3, 256\\)"),
        (lambda: plots.channel_histograms(HISTOGRAM * 0), "at least one image"),
        (lambda: plots.learning_curves({}), "no histories"),
        (lambda: plots.learning_curves({"cnn": history(0)}), "cnn has 0 rows"),
        (lambda: plots.learning_curves({"cnn": history(2)[["loss"]]}), "val_accuracy"),
        (lambda: plots.confusion_matrix(MATRIX[:3], NAMES), r"expected \(10, 10\)"),
        (lambda: plots.confusion_matrices({}, NAMES), "no confusion matrices"),
        (lambda: plots.intervals([], [], [], [], "x"), "no intervals"),
        (lambda: plots.intervals(["a"], [1, 2], [0], [3], "x"), "2 values for 1"),
        (lambda: plots.differences(pd.DataFrame({"low": [0]}), "x"), "has 0 rows"),
        (lambda: plots.differences(pd.DataFrame({"low": [0, 1]}), "x"), "'difference', 'high'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ParameterError, match=message):
        draw()
