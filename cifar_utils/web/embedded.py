"""The page inside a notebook, and a way to upload that needs no server."""

import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from cifar_utils.errors import CifarUtilsError, PictureError
from cifar_utils.predict import Predictor, Source
from cifar_utils.web.app import Limits, create

_HEIGHT = 900


def show(sources: Sequence[Source], *, height: int = _HEIGHT) -> None:
    """Serve the page as long as the kernel runs, and show it below the cell (notebook 09).

    In Colab through its proxy; elsewhere the browser must run on the machine of the kernel.

    Args:
        sources: See ``app.create``.
        height: Of the page, in pixels.
    """
    import waitress
    from IPython.display import IFrame, display

    limits = Limits()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = waitress.create_server(
        create(sources, limits, framed=True), sockets=[listening], inbuf_overflow=limits.body + 1
    )
    threading.Thread(target=server.run, daemon=True).start()
    if "google.colab" in sys.modules:
        from google.colab import output  # type: ignore[import-not-found]

        output.serve_kernel_port_as_iframe(port, height=height)
    else:
        display(IFrame(f"http://127.0.0.1:{port}/", "100%", height))


def upload(predictor: Predictor) -> Any:
    """Return a widget that takes pictures and says what is on them; it needs ipywidgets.

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
        lines = []
        for file in change["new"]:
            try:
                found = predictor.predict(bytes(file["content"]))
            except PictureError as error:
                lines.append(f"{file['name']}: {error}")
                continue
            label = found.label if found.known else f"none of the ten, nearest {found.label}"
            lines.append(f"{file['name']}: {label}, {found.confidence:.0%} sure")
        said.children = [ipywidgets.Label(line) for line in lines]

    chooser.observe(answer, names="value")
    return ipywidgets.VBox([chooser, said])
