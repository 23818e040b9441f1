import io
import threading
import time

import keras
import numpy as np
import pytest
from PIL import Image

from cifar_utils import predict
from cifar_utils.web import app as web
from cifar_utils.web.limits import BusyError, Gate, Rate
from tests.unit.test_predict import flat, grey_network


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    keras.config.set_dtype_policy("float32")
    path = tmp_path_factory.mktemp("model") / "model.keras"
    grey_network().save(path)
    return predict.Source("a/run", path, 1.5, "highest probability", 0.2)


@pytest.fixture
def client(source):
    other = predict.Source("another/run", source.path, 1.0, "highest probability", 1.1)
    return web.create([source, other], web.Limits(most=3, body=3_000_000, minute=0)).test_client()


def png(level=75, size=(40, 40)):
    stream = io.BytesIO()
    flat(level, size).save(stream, "PNG")
    return stream.getvalue()


def form(*contents, name="pictures"):
    return {name: [(io.BytesIO(each), f"{n}.png") for n, each in enumerate(contents)]}


def test_one_picture(client):
    answer = client.post("/api/predict", data=form(png(), name="picture"))
    assert answer.status_code == 200
    record = answer.get_json()
    assert record["label"] == record["top"][0]["label"] == "cat"
    assert len(record["top"]) == 10
    assert record["model"] == "a/run"
    assert record["seen"].startswith("data:image/png;base64,")
    raw = client.post("/api/predict", data=png(), content_type="image/png").get_json()
    assert raw["top"] == record["top"]


def test_several_pictures_bad_ones_among_them(client):
    answer = client.post("/api/predict/many", data=form(png(25), b"rubbish", png(50)))
    results = answer.get_json()["results"]
    assert [each.get("label") for each in results] == ["automobile", None, "bird"]
    assert "not a picture" in results[1]["error"]
    assert [each["name"] for each in results] == ["0.png", "1.png", "2.png"]


def test_another_model_and_fit(client):
    answer = client.post("/api/predict?model=another/run&fit=pad", data=form(png(75, (40, 20))))
    record = answer.get_json()
    assert (record["label"], record["known"]) == (None, False)
    assert "set on grey to make it square" in record["picture"]["notes"]


@pytest.mark.parametrize(
    ("path", "data", "status", "message"),
    [
        ("/api/predict", {}, 400, "no picture was sent"),
        ("/api/predict", form(png(), png()), 400, "/api/predict/many"),
        ("/api/predict", form(b"rubbish"), 422, "not a picture"),
        ("/api/predict?model=x", form(png()), 400, "no model is called 'x'"),
        ("/api/predict?fit=x", form(png()), 400, "unknown fit 'x'"),
        ("/api/predict/many", form(*[png()] * 4), 400, "at most 3"),
        ("/api/predict/many", form(b"x" * 4_000_000), 413, "at most 3,000,000 bytes"),
        ("/api/nothing", {}, 404, ""),
    ],
)
def test_what_is_wrong_is_said(client, path, data, status, message):
    fresh = {
        name: [(io.BytesIO(f.getvalue()), n) for f, n in files] for name, files in data.items()
    }
    answer = client.post(path, data=fresh, content_type="multipart/form-data")
    assert answer.status_code == status
    assert message in answer.get_json()["error"]


def test_errors_of_ours_are_numbered_not_shown(source, monkeypatch, caplog):
    client = web.create([source]).test_client()
    monkeypatch.setattr(web.pictures, "read", lambda *_, **__: 1 / 0)
    answer = client.post("/api/predict", data=form(png()))
    assert answer.status_code == 500
    number = answer.get_json()["error"].split()[-1]
    assert "division" not in answer.text
    assert number in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_every_answer_is_guarded(client):
    for path in ("/", "/api", "/api/models", "/static/page.js", "/healthz", "/nothing"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_models_and_cards(client, source):
    names = [each["name"] for each in client.get("/api/models").get_json()["models"]]
    assert names == ["a/run", "another/run"]
    assert client.get("/api/models/a/run/card").status_code == 400
    (source.path.parent / "MODEL_CARD.md").write_text("# Card")
    assert client.get("/api/models/a/run/card").text == "# Card"
    for name in ("..", "../../etc/passwd", "a/run/../../x"):
        assert client.get(f"/api/models/{name}/card").status_code in (308, 400, 404)


def test_the_description_has_every_path(client):
    described = client.get("/openapi.json").get_json()
    rules = {rule.rule for rule in client.application.url_map.iter_rules()}
    assert set(described["paths"]) <= rules
    text = client.get("/api").text
    assert all(path in text for path in described["paths"])


def test_numbers_for_prometheus(client):
    client.post("/api/predict/many", data=form(png(), b"rubbish"))
    text = client.get("/metrics").text
    assert 'cifar_pictures_total{outcome="refused"} 1.0' in text
    assert 'cifar_requests_total{path="/api/predict/many",status="200"} 1.0' in text
    assert client.get("/readyz").status_code == client.get("/healthz").status_code == 200


def test_who_sends_too_much_waits(source):
    client = web.create([source], web.Limits(minute=2)).test_client()
    assert client.post("/api/predict/many", data=form(png(), png())).status_code == 200
    answer = client.post("/api/predict", data=form(png()))
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


def test_the_bucket_fills_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate(60, clients=2)
    rate.take("a", 60)
    with pytest.raises(BusyError):
        rate.take("a")
    rate.take("b")
    now[0] = 2.5
    rate.take("a", 2)
    with pytest.raises(BusyError) as busy:
        rate.take("a")
    assert busy.value.seconds == 1
    Rate(0).take("a", 10**9)


def test_the_gate_lets_in_makes_wait_and_turns_away():
    gate, inside, go = Gate(1, 1, 5), threading.Event(), threading.Event()

    def work():
        with gate.entered():
            inside.set()
            assert go.wait(10)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    while gate._places._value:
        time.sleep(0.01)
    with pytest.raises(BusyError), gate.entered():
        raise AssertionError
    go.set()
    for thread in threads:
        thread.join(10)
    with gate.entered():
        pass


def test_who_waits_too_long_is_turned_away():
    gate = Gate(1, 1, 0.05)
    with gate.entered(), pytest.raises(BusyError), gate.entered():
        raise AssertionError


def test_nothing_is_written(client, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    big = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(big).save(stream, "PNG")
    assert len(stream.getvalue()) > 1_000_000
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile", None)
    assert client.post("/api/predict", data=form(stream.getvalue())).status_code == 200
    assert not list(tmp_path.iterdir())
