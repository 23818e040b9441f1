"""How quick are predictions: one at a time, over HTTP, of a folder; and how soon is a server back?

usage: python -m benchmarks.serving [--model 03] [--rounds 5] [--seconds 60] [--clients 16]
                                    [--files 10000] [--data auto]

The model must have been exported (`cifar export 03`). Clients and server share the machine. Memory
and the list of files are read from /proc, so this needs Linux. Prints a Markdown table.
"""

import argparse
import http.client
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from cifar_utils import data, models, paths, predict, runtime

PHOTO = (640, 480)
CIFAR = str(Path(sys.executable).with_name("cifar"))


def milliseconds(work: Callable[[], object], seconds: float) -> list[float]:
    """Return how long each of the calls took that fit into so many seconds, after a warm-up."""
    work()
    found, end = [], time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        work()
        found.append(1e3 * (time.perf_counter() - started))
    return found


def quantiles(times: list[float]) -> str:
    """Return the median and the 99th percentile in words."""
    middle, high = np.quantile(times, [0.5, 0.99])
    return f"p50 {middle:.2f} ms, p99 {high:.2f} ms"


def one_array(source: predict.Source, image: np.ndarray, rounds: int) -> Iterator[tuple[str, str]]:
    """Compare ways from one decoded array to probabilities, in turns."""
    predictor = predict.Predictor(source)
    network = models.load(predict.original(source.path))
    ways: dict[str, Callable[[], object]] = {
        "ours, exported": lambda: predictor.predict(image).probabilities,
        "Keras `predict_on_batch`": lambda: network.predict_on_batch(image[None]),
        "Keras `predict`": lambda: network.predict(image[None], verbose=0),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name] += milliseconds(way, 2)
    for name, times in found.items():
        yield f"one array to probabilities, {name}", quantiles(times)
    ours = statistics.median(found["ours, exported"])
    ratio = statistics.median(found["Keras `predict`"]) / ours
    yield "Keras `predict` in times of ours", f"{ratio:.1f}"


class Server:
    """`cifar serve` in a process of its own.

    Attributes:
        seconds: From the start of the process to the first answer of `/readyz` that says so.
    """

    def __init__(self, source: predict.Source) -> None:
        started = time.perf_counter()
        command = [CIFAR, "serve", "--model", str(source.path), "--port", "0", "--rate", "0"]
        unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered)
        line = self._process.stdout.readline()
        self.address = urlsplit(line.split()[-1])
        while self.get("/readyz") != 200:
            time.sleep(0.01)
        self.seconds = time.perf_counter() - started

    def get(self, path: str) -> int:
        """Return the status of a page."""
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port)
        connection.request("GET", path)
        return connection.getresponse().status

    def megabytes(self) -> float:
        """Return what it holds in memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1e3

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal."""
        self._process.send_signal(number)
        self._process.wait()


@contextmanager
def serving(source: predict.Source) -> Iterator[Server]:
    """Serve for as long as a block takes."""
    server = Server(source)
    try:
        yield server
    finally:
        server.stop()


class Client:
    """Sends the same picture again and again, with next to no work of its own.

    Clients share the machine with the server, and `http.client` needs as long as the network does.
    """

    def __init__(self, server: Server, photo: bytes) -> None:
        head = (
            "POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(photo)}\r\n\r\n"
        )
        self._request = head.encode() + photo
        self._socket = socket.create_connection((server.address.hostname, server.address.port), 30)

    def post(self) -> int:
        """Return the status of the answer."""
        self._socket.sendall(self._request)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._read()
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(answer) < end + 4 + length:
            answer += self._read()
        return int(answer[9:12])

    def _read(self) -> bytes:
        if not (read := self._socket.recv(65536)):
            raise ConnectionError("the server has closed the connection")
        return read


def load(
    server: Server, photo: bytes, seconds: float, clients: int
) -> tuple[list[float], list[float], list[int]]:
    """Return milliseconds of all requests, megabytes every second, and bad statuses."""
    times: list[float] = []
    bad: list[int] = []

    def client() -> None:
        sending = Client(server, photo)

        def ask() -> None:
            if (status := sending.post()) != 200:
                bad.append(status)

        times.extend(milliseconds(ask, seconds))

    workers = [threading.Thread(target=client) for _ in range(clients)]
    for each in workers:
        each.start()
    memory = []
    while any(each.is_alive() for each in workers):
        time.sleep(1)
        memory.append(server.megabytes())
    return times, memory, bad


def over_http(
    source: predict.Source, photo: bytes, seconds: float, clients: int
) -> Iterator[tuple[str, str]]:
    """Send a picture alone, then from many clients at once."""
    with serving(source) as server:
        yield "`cifar serve` ready", f"{server.seconds:.1f} s"
        alone = milliseconds(Client(server, photo).post, 5)
        yield (
            f"one JPEG of {PHOTO[0]} x {PHOTO[1]} ({len(photo) / 1e3:.0f} kB) over HTTP",
            quantiles(alone),
        )
        times, memory, bad = load(server, photo, seconds, clients)
        yield (
            f"{clients} clients for {seconds:.0f} s",
            f"{len(times) / seconds:.0f} requests/s, {quantiles(times)}, {len(bad)} errors, "
            f"memory {memory[len(memory) // 10]:.0f} to {memory[-1]:.0f} MB",
        )


def killed(source: predict.Source, photo: bytes, clients: int) -> Iterator[tuple[str, str]]:
    """Kill a server under load and start another."""

    def files() -> set[Path]:
        folders = (paths.artifacts_dir(), Path(tempfile.gettempdir()))
        return {each for folder in folders for each in folder.glob("*")}

    before = files()
    server = Server(source)

    def ask(_: int) -> None:
        sending = Client(server, photo)
        with suppress(OSError):
            while True:
                sending.post()

    with ThreadPoolExecutor(clients) as pool:
        asking = pool.map(ask, range(clients))
        time.sleep(2)
        server.stop(signal.SIGKILL)
        list(asking)
    with serving(source) as again:
        yield (
            "killed (SIGKILL) under load, started again",
            f"ready after {again.seconds:.1f} s (before: {server.seconds:.1f}), "
            f"{len(files() - before)} files left behind",
        )


def folder(source: predict.Source, images: np.ndarray) -> Iterator[tuple[str, str]]:
    """Predict a folder of PNG files, and one file alone for what the start costs."""

    def seconds(what: Path) -> float:
        started = time.perf_counter()
        command = [CIFAR, "predict", str(what), "--model", str(source.path), "--csv"]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as place:
        for number, image in enumerate(images):
            Image.fromarray(image).save(Path(place) / f"{number:05}.png")
        one, whole = seconds(Path(place) / "00000.png"), seconds(Path(place))
    yield (
        f"`cifar predict` of {len(images):,} PNG files",
        f"{len(images) / (whole - one):.0f} pictures/s, {whole:.1f} s with its start ({one:.1f} s)",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="03")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--data", default="auto")
    options = parser.parse_args()
    session = runtime.start(0)
    source = predict.find(options.model)
    images = data.load(options.data).train.first(options.files).images
    stream = io.BytesIO()
    Image.fromarray(images[0]).resize(PHOTO, Image.Resampling.BICUBIC).save(
        stream, "JPEG", quality=90
    )
    photo = stream.getvalue()
    print(f"{session}; model {source.name}, {source.path.name}\n\n| what | measured |\n|---|---|")
    for rows in (
        one_array(source, images[0], options.rounds),
        over_http(source, photo, options.seconds, options.clients),
        killed(source, photo, options.clients),
        folder(source, images),
    ):
        for what, measured in rows:
            print(f"| {what} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
