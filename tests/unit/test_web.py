import base64
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import keras
import numpy as np
import pytest
from PIL import Image

from cifar_utils import cli, ensemble, models, predict
from cifar_utils.archives import CLASS_NAMES
from cifar_utils.errors import ParameterError
from cifar_utils.web import app as web
from cifar_utils.web import embedded, server
from cifar_utils.web.limits import BusyError, ConcurrencyLimit, RateLimit
from tests.unit.corpus import BAD, GOOD
from tests.unit.grey import flat, grey_network


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    keras.config.set_dtype_policy("float32")
    path = tmp_path_factory.mktemp("model") / "model.keras"
    grey_network().save(path)
    return predict.Source("a/run", path, 1.5, "highest probability", 0.2)


@pytest.fixture
def client(source):
    other = predict.Source("another/run", source.path, 1.0, "highest probability", 1.1)
    return web.create(
        [source, other], web.Limits(max_pictures=3, max_bytes=3_000_000, pictures_per_minute=0)
    ).test_client()


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
    assert client.get("/api/models/a/run/card").status_code == 404
    (source.path.parent / "MODEL_CARD.md").write_text("# Card")
    assert client.get("/api/models/a/run/card").text == "# Card"
    for name in ("..", "../../etc/passwd", "a/run/../../x"):
        assert client.get(f"/api/models/{name}/card").status_code in (308, 404)


def test_the_description_has_every_path(client):
    described = client.get("/openapi.json").get_json()
    rules = {
        re.sub("<(path:)?name>", "{name}", rule.rule)
        for rule in client.application.url_map.iter_rules()
    }
    pages = {"/", "/api", "/openapi.json", "/static/{filename}"}
    assert (
        set(described["paths"])
        == {re.sub("<path:filename>", "{filename}", r) for r in rules} - pages
    )
    text = client.get("/api").text
    assert all(path in text for path in described["paths"])


def test_numbers_for_prometheus(client):
    client.post("/api/predict/many", data=form(png(), b"rubbish"))
    text = client.get("/metrics").text
    assert 'cifar_pictures_total{outcome="refused"} 1.0' in text
    assert 'cifar_requests_total{path="/api/predict/many",status="200"} 1.0' in text
    assert client.get("/readyz").status_code == client.get("/healthz").status_code == 200


def test_who_sends_too_much_waits(source):
    client = web.create([source], web.Limits(pictures_per_minute=2)).test_client()
    assert client.post("/api/predict/many", data=form(png(), png())).status_code == 200
    answer = client.post("/api/predict", data=form(png()))
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


def test_the_bucket_fills_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = RateLimit(60, clients=2)
    rate.take("a", 60)
    with pytest.raises(BusyError):
        rate.take("a")
    rate.take("b")
    now[0] = 2.5
    rate.take("a", 2)
    with pytest.raises(BusyError) as busy:
        rate.take("a")
    assert busy.value.seconds == 1
    RateLimit(0).take("a", 10**9)
    with pytest.raises(ParameterError, match="at most 60 a minute"):
        rate.take("c", 61)
    with pytest.raises(ParameterError, match="or more"):
        RateLimit(-1)


def test_the_gate_lets_in_makes_wait_and_turns_away():
    gate, inside, go = ConcurrencyLimit(1, 1, 5), threading.Event(), threading.Event()

    def work():
        with gate.entered():
            inside.set()
            assert go.wait(10)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    while not gate.full:
        time.sleep(0.01)
    with pytest.raises(BusyError), gate.entered():
        raise AssertionError
    go.set()
    for thread in threads:
        thread.join(10)
    with gate.entered():
        pass


def test_who_waits_too_long_is_turned_away():
    gate = ConcurrencyLimit(1, 1, 0.05)
    with gate.entered(), pytest.raises(BusyError), gate.entered():
        raise AssertionError


@pytest.fixture(scope="module")
def served(source):
    """The address of a server, as `cifar serve` makes it."""
    listening = server.listen("127.0.0.1", 0)
    made = server.make([source], listening, web.Limits(pictures_per_minute=0))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield listening.getsockname()[:2]
    made.close()
    thread.join(10)


def post(address, content, path="/api/predict", kind="image/png"):
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request("POST", path, content, {"Content-Type": kind})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_the_corpus_over_http(served, name):
    status, record = post(served, GOOD[name] if name in GOOD else BAD[name][0])
    if name in GOOD:
        assert (status, record["nearest"]) == (200, record["top"][0]["label"])
    else:
        assert status in (413, 422) if name == "more than 20 MB" else status == 422
        assert record["error"]


def test_many_at_once_get_their_own_answers(served):
    levels = [25 * (number % 10) for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda level: post(served, png(level)), levels))
    expected = [CLASS_NAMES[level // 25] for level in levels]
    assert [(status, record["nearest"]) for status, record in answers] == [
        (200, name) for name in expected
    ]


def test_more_than_can_be_done_is_turned_away_at_once(source, monkeypatch):
    limits = web.Limits(concurrency=1, queue=0, pictures_per_minute=0)
    client = web.create([source], limits).test_client()
    inside, go = threading.Event(), threading.Event()
    read = web.pictures.read

    def slow(*given, **options):
        inside.set()
        assert go.wait(10)
        return read(*given, **options)

    monkeypatch.setattr(web.pictures, "read", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.application.test_client().post, "/api/predict", data=form(png()))
        assert inside.wait(10)
        answer = client.post("/api/predict", data=form(png()))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        go.set()
        assert first.result().status_code == 200
    assert client.get("/readyz").status_code == 200


def test_nothing_is_written(served):
    big = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(big).save(stream, "PNG", compress_level=0)
    boundary = b"--x\r\nContent-Disposition: form-data; name=picture; filename=a.png\r\n\r\n"
    body = boundary + stream.getvalue() + b"\r\n--x--\r\n"
    assert len(body) > 4_000_000, "more than servers and forms keep in memory by themselves"
    written, watching = [], True

    def watch(event, arguments):
        if watching and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(arguments[0])

    sys.addaudithook(watch)
    status, _ = post(served, body, kind="multipart/form-data; boundary=x")
    by_the_server = list(written)
    tempfile.TemporaryFile().close()
    watching = False
    assert status == 200
    assert by_the_server == []
    assert written, "the watch works"


def test_where_a_model_looks(tmp_path, monkeypatch):
    keras.config.set_dtype_policy("float32")
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(
        keras.layers.Rescaling(1 / 255)(images)
    )
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(images, models.logits(x)).save(tmp_path / "model.keras")
    client = web.create([predict.Source("a/run", tmp_path / "model.keras")]).test_client()
    for method in ("Grad-CAM", "Occlusion"):
        answer = client.post("/api/explain", data=form(GOOD["png"])).get_json()
        assert answer["method"] == method
        overlay = base64.b64decode(answer["overlay"].partition(",")[2])
        with Image.open(io.BytesIO(overlay)) as image:
            assert (image.size, image.mode) == ((32, 32), "RGBA")
            assert image.getextrema()[3][1] == 190
        monkeypatch.setattr(predict, "runnable", lambda path: False)
    assert client.post("/api/explain", data=form(b"rubbish")).status_code == 422


def test_where_an_ensemble_looks_is_asked_by_hiding_parts(tmp_path):
    keras.config.set_dtype_policy("float32")
    whole = ensemble.assemble([models.baseline_cnn() for _ in range(2)], ensemble.uniform(2))
    models.save(whole, tmp_path / "model.keras")
    client = web.create([predict.Source("a/run", tmp_path / "model.keras")]).test_client()
    answer = client.post("/api/explain", data=form(GOOD["png"])).get_json()
    assert answer["method"] == "Occlusion"


def test_a_model_that_cannot_be_run_is_said_to_be(source, tmp_path):
    broken = predict.Source("broken/model", tmp_path / "model.onnx")
    broken.path.write_bytes(b"no model")
    client = web.create([source, broken]).test_client()
    answer = client.post("/api/predict?model=broken/model", data=form(png()))
    assert answer.status_code == 503
    assert "no model that can be run" in answer.get_json()["error"]
    assert client.post("/api/predict", data=form(png())).status_code == 200


def test_a_few_models_stay_loaded(source, monkeypatch):
    loaded = []
    monkeypatch.setattr(web, "Predictor", lambda each, **_: loaded.append(each.name) or Network())
    names = [f"{letter}/run" for letter in "abcd"]
    models = web.Models([predict.Source(name, source.path) for name in names], most=2)
    for name in (*names, "a/run", "d/run", "b/run"):
        models.predictor(name)
    assert loaded == [*names, "b/run"]


class Network:
    def logits(self, images):
        return images


_SERVE = "import sys; from cifar_utils import cli; sys.exit(cli.main(sys.argv[1:]))"


def test_the_command_serves_and_ends_when_told_to(source):
    command = [sys.executable, "-c", _SERVE, "serve", "--model", str(source.path), "--port"]
    worker = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True)
    first, second = (worker.stdout.readline() for _ in range(2))
    assert "only this machine can reach it" in second
    port = int(first.rpartition(":")[2].strip().rstrip("/"))
    status, record = post(("127.0.0.1", port), png())
    assert (status, record["nearest"], record["model"]) == (200, "cat", "model.keras")
    taken = subprocess.run([*command, str(port)], capture_output=True, text=True)
    assert taken.returncode == 2
    assert "choose another with --host and --port" in taken.stderr
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_ports_that_are_none_are_refused(source, port, capsys):
    assert cli.main(["serve", "--model", str(source.path), "--port", port]) == 2
    assert "cannot listen" in capsys.readouterr().err


def test_the_page_in_a_notebook(source, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    embedded.show([source])
    stop = embedded.show([source])
    first, second = (urlsplit(frame.src) for frame in shown)
    with pytest.raises(ConnectionError):
        post((first.hostname, first.port), png())
    connection = http.client.HTTPConnection(second.hostname, second.port)
    connection.request("GET", "/")
    policy = connection.getresponse().headers["Content-Security-Policy"]
    assert policy.endswith("frame-ancestors *")
    connection.close()
    stop()
    with pytest.raises(ConnectionError):
        post((second.hostname, second.port), png())


@pytest.mark.parametrize("version", [7, 8])
def test_the_widget_answers(source, version):
    chooser, said = embedded.upload(predict.Predictor(source)).children
    files = {"cat.png": png(), "bad.png": b"rubbish"}
    new = (
        {name: {"content": content} for name, content in files.items()}
        if version == 7
        else [{"name": name, "content": memoryview(each)} for name, each in files.items()]
    )
    chooser.notify_change(
        {"name": "value", "old": (), "new": new, "owner": chooser, "type": "change"}
    )
    lines = [label.value for label in said.children]
    assert lines[0].startswith("cat.png: cat, ")
    assert lines[1].startswith("bad.png: the file is not a picture")
