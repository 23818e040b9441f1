"""The application: the page, the API, and what keeps both from being overrun."""

import base64
import importlib.util
import io
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flask
import numpy as np
import prometheus_client as prometheus
from PIL import Image
from werkzeug.exceptions import HTTPException

import cifar_utils
from cifar_utils import pictures
from cifar_utils.archives import CLASS_NAMES
from cifar_utils.errors import CifarUtilsError, ParameterError, PictureError
from cifar_utils.occlusion import occlusion_maps
from cifar_utils.predict import Predictor, Source
from cifar_utils.web import openapi
from cifar_utils.web.limits import BusyError, Gate, Rate, TooManyError

_LOG = logging.getLogger("cifar_utils.web")


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        most: Pictures in one request.
        body: Bytes of one request.
        minute: Pictures of one client in a minute; 0 for any number.
        inside: Requests worked on at a time.
        waiting: Requests that wait meanwhile; one more is answered with 503.
        patience: Seconds that one waits at most.
    """

    most: int = 16
    body: int = 2 * pictures.MOST_BYTES
    minute: int = 600
    inside: int = 2
    waiting: int = 16
    patience: float = 5.0


class Shelf:
    """The models at hand; each is loaded when somebody asks for it, the last few stay.

    Args:
        sources: The first is the one that answers if none is named.
        most: How many stay loaded.
    """

    def __init__(self, sources: Sequence[Source], most: int = 8) -> None:
        self.sources = {source.name: source for source in sources}
        self._most = most
        self._loaded: dict[tuple[str, Callable[[Source], Any]], Any] = {}
        self._lock = threading.Lock()

    def _kept(self, name: str, load: Callable[[Source], Any]) -> Any:
        """Return what ``load`` makes of a model, from before if it was asked for lately."""
        name = name or next(iter(self.sources))
        if name not in self.sources:
            raise ParameterError(f"no model is called {name!r}; see /api/models")
        if (found := self._loaded.get((name, load))) is None:
            with self._lock:
                if (found := self._loaded.get((name, load))) is None:
                    found = self._loaded[name, load] = load(self.sources[name])
                    if len(self._loaded) > self._most:
                        del self._loaded[next(iter(self._loaded))]
        return found

    def predictor(self, name: str = "") -> Predictor:
        """Return a predictor by the name of its model.

        Raises:
            ParameterError: There is no such model.
        """
        return self._kept(name, _warm)

    def attention(self, name: str, pixels: np.ndarray) -> tuple[str, np.ndarray]:
        """Return where a model looks, by gradients if Keras is there, else by hiding parts.

        Args:
            name: Of the model.
            pixels: uint8 ``(32, 32, 3)``.

        Returns:
            The name of the method, and float32 ``(32, 32)`` of 0 to 1.

        Raises:
            ParameterError: There is no such model.
        """
        predictor, images = self.predictor(name), pixels[None]
        path = predictor.source.path.with_suffix(".keras")
        if path.is_file() and importlib.util.find_spec("keras"):
            from cifar_utils import explain

            return "Grad-CAM", explain.grad_cam(self._kept(name, _keras), images)[0]
        classes = predictor.logits(images).argmax(axis=1)
        return "hiding parts", occlusion_maps(predictor.logits, images, classes)[0]


def _warm(source: Source) -> Predictor:
    """Return a predictor that has answered once, so that nobody waits for what the first costs."""
    predictor = Predictor(source)
    predictor.logits(np.zeros((1, pictures.SIDE, pictures.SIDE, 3), np.uint8))
    return predictor


def _keras(source: Source) -> Any:
    from cifar_utils import models

    return models.load(source.path.with_suffix(".keras"))


class Meters:
    """What happened, for Prometheus."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "cifar_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "cifar_request_seconds",
            "Seconds to answer a request",
            ["path"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.pictures = prometheus.Counter(
            "cifar_pictures", "Pictures judged", ["outcome"], registry=self.registry
        )


def _png(pixels: np.ndarray) -> str:
    """Return an image as an address that holds it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _overlay(attention: np.ndarray) -> str:
    """Return a map of 0 to 1 as a picture to lay over another: the more, the less transparent."""
    layer = np.zeros((*attention.shape, 4), np.uint8)
    layer[..., :3] = (230, 60, 0)
    layer[..., 3] = (190 * attention).astype(np.uint8)
    return _png(layer)


class _Request(flask.Request):
    """A request whose files stay in memory: nothing that is sent is written anywhere."""

    def _get_file_stream(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO()


def create(
    sources: Sequence[Source], limits: Limits | None = None, *, framed: bool = False
) -> flask.Flask:
    """Return the application (notebook 09 introduces it).

    Args:
        sources: Models to choose from; the first answers if none is named.
        limits: What it takes.
        framed: Whether pages from elsewhere, such as a notebook's, may show it inside them.

    Raises:
        CifarUtilsError: There is no model, or the first cannot be loaded.
    """
    if not sources:
        raise CifarUtilsError("there is no trained model to serve; make one with: cifar run")
    limits = limits or Limits()
    shelf, meters = Shelf(sources), Meters()
    shelf.predictor()
    gate, rate = Gate(limits.inside, limits.waiting, limits.patience), Rate(limits.minute)
    app = flask.Flask(__name__)
    app.request_class = _Request
    app.config["MAX_CONTENT_LENGTH"] = limits.body
    app.config["MAX_FORM_PARTS"] = limits.most + 8

    @app.before_request
    def begin() -> None:
        flask.g.started = time.perf_counter()

    @app.after_request
    def end(response: flask.Response) -> flask.Response:
        rule = flask.request.url_rule
        path = rule.rule if rule else "unknown"
        meters.requests.labels(path, response.status_code).inc()
        meters.seconds.labels(path).observe(time.perf_counter() - flask.g.started)
        ancestors = "*" if framed else "'self'"
        policy = f"{_POLICY}; frame-ancestors {ancestors}"
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=()"
        if flask.request.path.startswith("/api"):
            response.headers["Cache-Control"] = "no-store"
        return response

    def refused(status: int, message: str, **headers: str) -> flask.Response:
        response = flask.jsonify(error=message)
        response.status_code = status
        response.headers.update(headers)
        return response

    @app.errorhandler(PictureError)
    def bad_picture(error: PictureError) -> flask.Response:
        return refused(422, str(error))

    @app.errorhandler(ParameterError)
    def bad_parameter(error: ParameterError) -> flask.Response:
        return refused(400, str(error))

    @app.errorhandler(BusyError)
    def busy(error: BusyError) -> flask.Response:
        status = 429 if isinstance(error, TooManyError) else 503
        return refused(status, str(error), **{"Retry-After": f"{error.seconds:.0f}"})

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> flask.Response:
        if error.code == 413:
            return refused(413, f"the request is too large; at most {limits.body:,} bytes are read")
        return refused(error.code or 500, error.description or error.name)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> flask.Response:
        number = secrets.token_hex(4)
        _LOG.error("error %s", number, exc_info=error)
        return refused(500, f"something went wrong here; the log knows it as {number}")

    def sent() -> list[tuple[str, bytes]]:
        """Return names and contents of the pictures of this request."""
        files = [
            each for name in ("picture", "pictures") for each in flask.request.files.getlist(name)
        ]
        if not files and flask.request.mimetype.startswith("image/"):
            return [("", flask.request.get_data())]
        if not files:
            raise ParameterError("no picture was sent; send one as the form field 'picture'")
        if len(files) > limits.most:
            raise ParameterError(
                f"{len(files)} pictures were sent; at most {limits.most} are taken at a time"
            )
        return [(each.filename or "", each.read(pictures.MOST_BYTES + 1)) for each in files]

    def judged(contents: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        rate.take(flask.request.remote_addr or "", len(contents))
        predictor = shelf.predictor(flask.request.args.get("model", ""))
        fit = flask.request.args.get("fit", "crop")
        found: list[dict[str, Any]] = []
        with gate.entered():
            for name, content in contents:
                try:
                    picture = pictures.read(content, fit=fit)
                except PictureError as error:
                    meters.pictures.labels("refused").inc()
                    found.append({"name": name, "error": str(error)})
                    continue
                (prediction,) = predictor.judge([picture])
                meters.pictures.labels("known" if prediction.known else "unknown").inc()
                record = {"name": name, **prediction.record(), "seen": _png(picture.pixels)}
                found.append(record)
        return found

    @app.post("/api/predict")
    def predict_one() -> flask.Response:
        contents = sent()
        if len(contents) > 1:
            raise ParameterError("several pictures were sent; /api/predict/many takes them")
        (record,) = judged(contents)
        if "error" in record:
            raise PictureError(record["error"])
        return flask.jsonify(record)

    @app.post("/api/predict/many")
    def predict_many() -> flask.Response:
        return flask.jsonify(results=judged(sent()))

    @app.post("/api/explain")
    def explain() -> flask.Response:
        ((_, content),) = sent()[:1]
        rate.take(flask.request.remote_addr or "")
        with gate.entered():
            picture = pictures.read(content, fit=flask.request.args.get("fit", "crop"))
            model = flask.request.args.get("model", "")
            method, attention = shelf.attention(model, picture.pixels)
        return flask.jsonify(method=method, overlay=_overlay(attention))

    @app.get("/api/models")
    def models() -> flask.Response:
        return flask.jsonify(
            models=[
                {"name": source.name, "calibrated": source.least_score is not None}
                for source in shelf.sources.values()
            ],
            classes=list(CLASS_NAMES),
        )

    @app.get("/api/models/<path:name>/card")
    def card(name: str) -> flask.Response:
        source = shelf.sources.get(name)
        path = source.path.parent / "MODEL_CARD.md" if source else None
        if path is None or not path.is_file():
            raise ParameterError(f"no card of {name!r} is here; cifar report writes them")
        return flask.Response(path.read_text(encoding="utf-8"), mimetype="text/markdown")

    @app.get("/openapi.json")
    def description() -> flask.Response:
        return flask.jsonify(openapi.describe(limits.most, cifar_utils.__version__))

    @app.get("/api")
    def documentation() -> str:
        described = openapi.describe(limits.most, cifar_utils.__version__)
        return flask.render_template(
            "api.html", api=described, root=flask.request.url_root.rstrip("/")
        )

    @app.get("/")
    def page() -> str:
        return flask.render_template("page.html", limits=limits, classes=CLASS_NAMES)

    @app.get("/healthz")
    def health() -> flask.Response:
        return flask.jsonify(status="ok")

    @app.get("/readyz")
    def ready() -> flask.Response:
        return refused(503, "busy") if gate.full else flask.jsonify(status="ready")

    @app.get("/metrics")
    def metrics() -> flask.Response:
        text = prometheus.generate_latest(meters.registry)
        return flask.Response(text, content_type=prometheus.CONTENT_TYPE_LATEST)

    return app


_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; media-src 'self' blob:; form-action 'self'; base-uri 'none'"
)
