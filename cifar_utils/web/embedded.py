"""The page inside a notebook, and a way to upload that needs no server."""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cifar_utils.errors import CifarUtilsError, PictureError
from cifar_utils.predict import Predictor, Source
from cifar_utils.web import server
from cifar_utils.web.app import Limits

_running: list[Any] = []


def show(sources: Sequence[Source], *, height: int = 900) -> Callable[[], None]:
    """Serve the page as long as the kernel runs, and show it below the cell (notebook 09).

    In Colab through its proxy; elsewhere the browser must run on the machine of the kernel. What
    was shown before stops: one page a kernel is enough.

    Args:
        sources: See ``app.create``.
        height: Of the page, in pixels.

    Returns:
        What stops it.

    Raises:
        CifarUtilsError: There is no model, or the first cannot be loaded.
    """
    from IPython.display import IFrame, display

    listening = server.listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    made = server.make(sources, listening, Limits(), framed=True)
    stop()
    _running.append(made)
    threading.Thread(target=made.run, daemon=True).start()
    if "google.colab" in sys.modules:
        from google.colab import output

        output.serve_kernel_port_as_iframe(port, height=height)
    else:
        display(IFrame(f"http://127.0.0.1:{port}/", "100%", height))
    return stop


def stop() -> None:
    """Stop the page that is being shown, if any."""
    while _running:
        _running.pop().close()


def upload(predictor: Predictor) -> Any:
    """Return a widget that takes pictures and says what is on them (notebook 09).

    Raises:
        CifarUtilsError: ipywidgets is not installed.
    """
    try:
        import ipywidgets
    except ImportError as error:
        raise CifarUtilsError(
            "the widget needs ipywidgets; install it with: pip install ipywidgets"
        ) from error
    chooser = ipywidgets.FileUpload(accept="image/*", multiple=True)
    said = ipywidgets.VBox()

    def answer(change: dict[str, Any]) -> None:
        given = change["new"]
        # ipywidgets 7, which Colab has, gives contents by name; 8 a row of files.
        files = (
            {name: each["content"] for name, each in given.items()}
            if isinstance(given, dict)
            else {each["name"]: each["content"] for each in given}
        )
        lines = []
        for name, content in files.items():
            try:
                found = predictor.predict(bytes(content))
            except PictureError as error:
                lines.append(f"{name}: {error}")
                continue
            label = found.label if found.known else f"none of the ten, nearest {found.label}"
            lines.append(f"{name}: {label}, {found.confidence:.0%} sure")
        said.children = [ipywidgets.Label(line) for line in lines]

    chooser.observe(answer, names="value")
    return ipywidgets.VBox([chooser, said])
