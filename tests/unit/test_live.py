import os
import sys
from types import SimpleNamespace

import IPython
import keras
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from cifar_utils import experiments, features, live, recipes
from cifar_utils.errors import ParameterError
from tests.unit.trainable import coloured, small_model

TRAINING = """
import keras, numpy as np
from cifar_utils import live
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10)], name="tiny")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("sgd", loss, metrics=["accuracy"])
inputs, labels = np.ones((20, 4), "float32"), np.arange(20) % 10
for _ in range(2):
    history = model.fit(
        inputs, labels, validation_data=(inputs, labels), epochs=3, verbose=0,
        callbacks=live.callbacks(),
    )
print("trained")
"""


@pytest.fixture(autouse=True)
def unwatched(monkeypatch):
    """Have nothing say that somebody watches."""
    for name in ("CIFAR_UTILS_LIVE", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)


def _outputs(session):
    """Train in a kernel, of a notebook session or not; return the kinds of its outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(TRAINING)])
    client = NotebookClient(notebook, timeout=240, kernel_name="python3")
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"} | session
    client.execute(env=os.environ | variables)
    outputs = [each for each in notebook.cells[0].outputs if each.get("name") != "stderr"]
    return [each.get("text") or sorted(each.data) for each in outputs]


def test_a_watched_training_is_one_figure_redrawn():
    figure = ["image/png", "text/plain"]
    assert _outputs({"JPY_SESSION_NAME": "02.ipynb"}) == [figure, figure, "trained\n"]


def test_an_unwatched_training_shows_nothing():
    assert _outputs({}) == ["trained\n"]


@pytest.fixture
def kernel(monkeypatch):
    """Stand in for the shell of a kernel; returns its variables."""
    shell = SimpleNamespace(kernel=object(), user_ns={})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    return shell.user_ns


def test_tests_and_terminals_are_not_watched(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "02.ipynb")  # left by the notebook that started them
    assert not live.interactive()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns={}))
    assert not live.interactive()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not live.interactive()


def test_a_kernel_is_watched_where_a_notebook_is_open(kernel, monkeypatch):
    assert not live.interactive()
    monkeypatch.setenv("JPY_SESSION_NAME", "02.ipynb")
    assert live.interactive()


def test_colab_is_watched(kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert live.interactive()


def test_visual_studio_code_is_watched(kernel):
    kernel["__vsc_ipynb_file__"] = "/home/user/02.ipynb"
    assert live.interactive()


def test_the_variable_overrides_what_is_found(kernel, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_LIVE", "1")
    assert len(live.callbacks()) == 1
    monkeypatch.setenv("JPY_SESSION_NAME", "02.ipynb")
    monkeypatch.setenv("CIFAR_UTILS_LIVE", "0")
    assert live.callbacks() == []


def test_a_silent_block_shows_and_prints_nothing(monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_UTILS_LIVE", "1")
    with pytest.raises(KeyError), live.silent():
        print("a line")
        assert live.callbacks() == []
        raise KeyError
    assert len(live.callbacks()) == 1
    print("another")
    assert capsys.readouterr().out == "another\n"


def test_another_value_of_the_variable_is_refused(monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_LIVE", "yes")
    with pytest.raises(ParameterError, match="'yes'; expected 0 or 1"):
        live.callbacks()


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: figures drawn at first and those that took their place."""
    shown = {"first": [], "again": []}

    def display(figure, *, display_id):
        assert display_id is True
        shown["first"].append(figure)
        return SimpleNamespace(update=shown["again"].append)

    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def _epoch(curves, epoch, loss):
    measures = {"loss": loss, "accuracy": 0.5, "val_loss": loss + 1, "val_accuracy": 0.25}
    curves.on_epoch_end(epoch, {**measures, "other": 3.0})


@pytest.fixture
def curves():
    curves = live.Curves()
    curves.set_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="tiny"))
    return curves


def _losses(figure):
    return figure.axes[0].lines[0].get_ydata()


def test_each_epoch_is_drawn_with_the_earlier_ones(curves, shown):
    for epoch, loss in enumerate((3.0, 2.0, 1.0)):
        _epoch(curves, epoch, loss)
    assert [len(shown[kind]) for kind in ("first", "again")] == [1, 2]
    np.testing.assert_array_equal(_losses(shown["again"][-1]), [3, 2, 1])


def test_curves_begin_anew_with_the_next_training(curves, shown):
    for epoch, loss in ((0, 3.0), (1, 2.0), (0, 5.0)):
        _epoch(curves, epoch, loss)
    assert [len(shown[kind]) for kind in ("first", "again")] == [2, 1]
    np.testing.assert_array_equal(_losses(shown["first"][-1]), [5])


def test_a_resumed_training_is_drawn_from_where_it_goes_on(curves, shown):
    for epoch, loss in ((4, 3.0), (5, 2.0)):
        _epoch(curves, epoch, loss)
    np.testing.assert_array_equal(_losses(shown["again"][-1]), [3, 2])


def test_without_validation_nothing_is_drawn(curves, shown):
    curves.on_epoch_end(0, {"loss": 3.0, "accuracy": 0.5})
    assert shown == {"first": [], "again": []}


IMAGES, RECIPE = coloured(40), recipes.Recipe(epochs=1, batch_size=20)


def _heads():
    values = np.random.default_rng(0).random((40, 2048), np.float32)
    decayed = recipes.Recipe(epochs=1, batch_size=20, optimizer="adamw")
    features.heads(
        values, IMAGES.labels, values, IMAGES.labels, [features.HeadChoice()], decayed, seed=0
    )


def _variants():
    variants = dict.fromkeys("ab", (small_model, RECIPE))
    experiments.compare(variants, IMAGES, IMAGES, curves=True)


@pytest.mark.parametrize("train", [_heads, _variants])
def test_many_trainings_draw_no_figure_each(train, monkeypatch, shown):
    monkeypatch.setenv("CIFAR_UTILS_LIVE", "1")
    train()
    assert shown == {"first": [], "again": []}
