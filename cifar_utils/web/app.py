"""The application: the page, the API, and what keeps both from being overrun."""

import base64
import io
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
import numpy as np
import prometheus_client as prometheus
from PIL import Image
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

import cifar_utils
from cifar_utils import pictures, predict
from cifar_utils.archives import CLASS_NAMES
from cifar_utils.errors import CifarUtilsError, ParameterError, PictureError
from cifar_utils.occlusion import occlusion_maps
from cifar_utils.predict import Predictor, Source
from cifar_utils.web import openapi
from cifar_utils.web.limits import BusyError, ConcurrencyLimit, RateLimit, TooManyError

_LOG = logging.getLogger("cifar_utils.web")


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        max_pictures: In one request.
        max_bytes: Of one request.
        pictures_per_minute: Of one client; 0 for any number.
        concurrency: Requests worked on at a time.
        queue: Requests that wait meanwhile; one more is answered with 503.
        queue_seconds: That one waits at most.
    """

    max_pictures: int = 16
    max_bytes: int = pictures.MOST_BYTES + 1_000_000
    pictures_per_minute: int = 600
    concurrency: int = os.cpu_count() or 2
    queue: int = 32
    queue_seconds: float = 5.0


class Models:
    """The models at hand; each is loaded when somebody asks for it, the last few stay.

    Args:
        sources: The first is the one that answers if none is named; it stays.
        most: How many stay loaded.
    """

    def __init__(self, sources: Sequence[Source], most: int = 8) -> None:
        self.sources = {source.name: source for source in sources}
        self._first, self._most = sources[0].name, most
        self._loaded: dict[tuple[str, Callable[[Source], Any]], Any] = {}
        self._lock = threading.Lock()

    def _kept(self, name: str, load: Callable[[Source], Any]) -> Any:
        """Return what ``load`` makes of a model, from before if it was asked for lately."""
        key = (name or self._first, load)
        if key[0] not in self.sources:
            raise ParameterError(f"no model is called {name!r}; see /api/models")
        if (found := self._loaded.get(key)) is None:
            with self._lock:
                if (found := self._loaded.get(key)) is None:
                    found = self._loaded[key] = load(self.sources[key[0]])
                    others = [each for each in self._loaded if each[0] != self._first]
                    if len(others) >= self._most:
                        del self._loaded[others[0]]
        return found

    def predictor(self, name: str = "") -> Predictor:
        """Return a predictor by the name of its model.

        Raises:
            ParameterError: There is no such model.
            CifarUtilsError: It cannot be run.
        """
        return self._kept(name, _warm)

    def attention(self, name: str, pixels: np.ndarray) -> tuple[str, np.ndarray]:
        """Return where a model looks, by gradients if that is possible, else by hiding parts.

        Gradients need Keras, and a model with a feature map, which an ensemble does not have.

        Args:
            name: Of the model.
            pixels: uint8 ``(32, 32, 3)``.

        Returns:
            The name of the method, and float32 ``(32, 32)`` of 0 to 1.

        Raises:
            ParameterError: There is no such model.
            CifarUtilsError: It cannot be run.
        """
        predictor, images = self.predictor(name), pixels[None]
        path = predict.original(predictor.source.path)
        if path.is_file() and predict.runnable(path):
            from cifar_utils import explain

            with suppress(ParameterError):
                return "Grad-CAM", explain.grad_cam(self._kept(name, _keras), images)[0]
        classes = predictor.logits(images).argmax(axis=1)
        return "Occlusion", occlusion_maps(predictor.logits, images, classes)[0]


def _warm(source: Source) -> Predictor:
    """Return a predictor that has answered once, so that nobody waits for what the first costs.

    It works with one thread: each request that is worked on has a core of its own.
    """
    predictor = Predictor(source, threads=1)
    predictor.logits(np.zeros((1, pictures.SIDE, pictures.SIDE, 3), np.uint8))
    return predictor


def _keras(source: Source) -> Any:
    from cifar_utils import models

    return models.load(predict.original(source.path))


class Metrics:
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
    models, metrics = Models(sources), Metrics()
    models.predictor()
    concurrency = ConcurrencyLimit(limits.concurrency, limits.queue, limits.queue_seconds)
    rate = RateLimit(limits.pictures_per_minute)
    ancestors = "*" if framed else "'self'"
    policy = f"{_POLICY}; frame-ancestors {ancestors}"
    app = flask.Flask(__name__)
    app.request_class = _Request
    app.config["MAX_CONTENT_LENGTH"] = limits.max_bytes
    app.config["MAX_FORM_PARTS"] = limits.max_pictures + 8

    @app.before_request
    def begin() -> None:
        flask.g.started = time.perf_counter()

    @app.after_request
    def end(response: flask.Response) -> flask.Response:
        rule = flask.request.url_rule
        path = rule.rule if rule else "unknown"
        metrics.requests.labels(path, response.status_code).inc()
        metrics.seconds.labels(path).observe(time.perf_counter() - flask.g.started)
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=()"
        if flask.request.path.startswith("/api"):
            response.headers["Cache-Control"] = "no-store"
        return response

    def refused(status: int, message: str) -> flask.Response:
        response = flask.jsonify(error=message)
        response.status_code = status
        return response

    @app.errorhandler(CifarUtilsError)
    def ours(error: CifarUtilsError) -> flask.Response:
        statuses = {PictureError: 422, ParameterError: 400, TooManyError: 429}
        response = refused(statuses.get(type(error), 503), str(error))
        if isinstance(error, BusyError):
            response.headers["Retry-After"] = str(error.seconds)
        return response

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> flask.Response:
        if error.code == 413:
            return refused(
                413,
                f"the request is too large; at most {limits.max_bytes:,} bytes and "
                f"{limits.max_pictures} pictures are read",
            )
        response = refused(error.code or 500, error.description or error.name)
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(error.valid_methods or ())
        return response

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
        if len(files) > limits.max_pictures:
            raise ParameterError(
                f"{len(files)} pictures were sent; at most {limits.max_pictures} at a time are read"
            )
        return [(each.filename or "", each.read(pictures.MOST_BYTES + 1)) for each in files]

    def asked() -> tuple[str, pictures.Fit]:
        """Return the names of the model and the fit that were asked for."""
        fit = flask.request.args.get("fit", "crop")
        return flask.request.args.get("model", ""), pictures.check_fit(fit)

    def judged(most: int) -> list[dict[str, Any]]:
        """Return what is on the pictures that were sent, or what is wrong with them."""
        with concurrency.entered():
            contents = sent()
            if len(contents) > most:
                raise ParameterError("several pictures were sent; /api/predict/many takes them")
            rate.take(flask.request.remote_addr or "", len(contents))
            name, fit = asked()
            predictor = models.predictor(name)
            return [named(predictor, fit, *each) for each in contents]

    def named(predictor: Predictor, fit: pictures.Fit, name: str, content: bytes) -> dict[str, Any]:
        try:
            picture = pictures.read(content, fit=fit)
        except PictureError as error:
            metrics.pictures.labels("refused").inc()
            return {"name": name, "error": str(error)}
        (prediction,) = predictor.judge([picture])
        metrics.pictures.labels("known" if prediction.known else "unknown").inc()
        return {"name": name, **prediction.record(), "fit": fit, "seen": _png(picture.pixels)}

    @app.post("/api/predict")
    def predict_one() -> flask.Response:
        (record,) = judged(1)
        if "error" in record:
            raise PictureError(record["error"])
        return flask.jsonify(record)

    @app.post("/api/predict/many")
    def predict_many() -> flask.Response:
        return flask.jsonify(results=judged(limits.max_pictures))

    @app.post("/api/explain")
    def explain() -> flask.Response:
        with concurrency.entered():
            ((_, content),) = sent()[:1]
            rate.take(flask.request.remote_addr or "")
            name, fit = asked()
            method, attention = models.attention(name, pictures.read(content, fit=fit).pixels)
        return flask.jsonify(method=method, overlay=_overlay(attention))

    def card_of(source: Source) -> Path:
        return source.path.parent / "MODEL_CARD.md"

    @app.get("/api/models")
    def list_models() -> flask.Response:
        return flask.jsonify(
            models=[
                {
                    "name": source.name,
                    "file": source.path.name,
                    "calibrated": source.temperature is not None,
                    "knows_strangers": source.least_score is not None,
                    "card": card_of(source).is_file(),
                }
                for source in models.sources.values()
            ],
            classes=list(CLASS_NAMES),
        )

    @app.get("/api/models/<path:name>/card")
    def card(name: str) -> flask.Response:
        source = models.sources.get(name)
        if source is None or not card_of(source).is_file():
            raise NotFound(f"there is no card of {name!r}; cifar report writes them")
        return flask.Response(card_of(source).read_text(encoding="utf-8"), mimetype="text/plain")

    @app.get("/openapi.json")
    def description() -> flask.Response:
        return flask.jsonify(openapi.describe(limits.max_pictures, cifar_utils.__version__))

    @app.get("/api")
    def documentation() -> str:
        described = openapi.describe(limits.max_pictures, cifar_utils.__version__)
        return flask.render_template(
            "api.html", api=described, root=flask.request.url_root.rstrip("/")
        )

    @app.get("/")
    def page() -> str:
        return flask.render_template(
            "page.html",
            limits=limits,
            most_bytes=pictures.MOST_BYTES,
            classes=CLASS_NAMES,
            fits=pictures.FITS,
        )

    @app.get("/healthz")
    def health() -> flask.Response:
        return flask.jsonify(status="ok")

    @app.get("/readyz")
    def ready() -> flask.Response:
        return refused(503, "busy") if concurrency.full else flask.jsonify(status="ready")

    @app.get("/metrics")
    def measured() -> flask.Response:
        text = prometheus.generate_latest(metrics.registry)
        return flask.Response(text, content_type=prometheus.CONTENT_TYPE_LATEST)

    return app


_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; media-src 'self' blob:; form-action 'self'; base-uri 'none'"
)
