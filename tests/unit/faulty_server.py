"""A web server that misbehaves on purpose, and the scenarios that it plays."""

import gzip
import hashlib
import random
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cifar_utils import download, sources

NAME = "pictures.tar.gz"
PAGE = b"<!doctype html><title>Welcome to our Wi-Fi</title>"
TICK = 0.02


@dataclass(frozen=True)
class Fault:
    """How a source misbehaves; by default it does not.

    Shares are of the whole archive. ``cut``, ``reset`` and ``stall`` count what one answer sends.

    Attributes:
        first: Only so many requests meet the fault.
        scheme: What the URL begins with; the server itself speaks only ``http``.
        refused: The port is closed.
        silent: The connection is accepted, and that is all.
        garbage: Bytes sent instead of an answer.
        status: Instead of 200 or 206.
        headers: Sent besides, or instead of, the right ones.
        location: Where to redirect to, ``loop`` for the same URL.
        page: A web page instead of the archive.
        ranges: ``right``; ``ignored`` (200 and everything); ``refused`` (416); ``late`` (206 that
            begins 100 bytes too late); ``early`` (206 with everything); ``total`` (of a file of
            another length); ``blind`` (206 of a file that has changed, at any request).
        length: Bytes too many in Content-Length, None to send chunks without a length.
        etags: Entity tags, of one request after the other; the last one stays.
        rate: Share sent in a second.
        cut: Share after which the connection is closed.
        reset: Share after which the connection is reset.
        stall: Share after which nothing comes any more.
        wrong: Where a wrong byte is, as a share.
        zeros: Where zeros begin, as a share.
        extra: Bytes sent after the archive's end.
    """

    first: int = 1_000_000
    scheme: str = "http"
    refused: bool = False
    silent: bool = False
    garbage: bytes | None = None
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    location: str | None = None
    page: bool = False
    ranges: str = "right"
    length: int | None = 0
    etags: tuple[str, ...] = ('"one"',)
    rate: float | None = None
    cut: float | None = None
    reset: float | None = None
    stall: float | None = None
    wrong: float | None = None
    zeros: float | None = None
    extra: int = 0


GOOD = Fault()


@dataclass(frozen=True)
class Scenario:
    """Sources with faults, what an earlier download left, and what must come of it.

    Attributes:
        name: What is wrong, for people.
        faults: One a source, in the order of the sources.
        kept: Share of the archive that an earlier download left.
        kept_wrong: Whether a byte of it is wrong.
        error: Words of the error it must end in, none if the archive must arrive.
        again: Share of the archive sent more than was missing, at most; None where that depends on
            how much the system buffers of an answer that nobody reads.
    """

    name: str
    faults: tuple[Fault, ...]
    kept: float = 0.0
    kept_wrong: bool = False
    error: tuple[str, ...] = ()
    again: float | None = 0.0


def _status(code: int, *headers: tuple[str, str], first: int = 1_000_000) -> Fault:
    return Fault(status=code, headers=headers, first=first)


SCENARIOS = (
    Scenario("nothing is wrong", (GOOD,)),
    Scenario("a third is kept", (GOOD,), kept=0.33),
    Scenario("everything is kept", (GOOD,), kept=1.0),
    Scenario("more than everything is kept", (GOOD,), kept=1.2),
    Scenario("a kept byte is wrong", (GOOD,), kept=0.5, kept_wrong=True, again=1.0),
    Scenario(
        "a kept byte is wrong, the range is ignored",
        (Fault(ranges="ignored"),),
        kept=0.5,
        kept_wrong=True,
        again=0.5,
    ),
    # Speed
    Scenario("slow, another is fast", (Fault(rate=0.5), GOOD), again=0.1),
    Scenario(
        "slow, the fast one fails once", (Fault(rate=0.5), Fault(status=503, first=1)), again=0.1
    ),
    Scenario("all are slow", (Fault(rate=0.4), Fault(rate=1.2), Fault(rate=0.4)), again=0.2),
    Scenario("the only one is slow", (Fault(rate=1.2),)),
    Scenario("trickles, another is fast", (Fault(rate=1e-5), GOOD), again=0.1),
    Scenario("stalls at half, another goes on", (Fault(stall=0.5), GOOD)),
    Scenario("stalls at half once", (Fault(stall=0.5, first=1),)),
    Scenario("stalls after the headers", (Fault(stall=0.0), GOOD)),
    # Broken connections
    Scenario("cut at half once", (Fault(cut=0.5, first=1),)),
    Scenario("cut at half, another goes on", (Fault(cut=0.5), GOOD)),
    Scenario("every answer is cut after a tenth", (Fault(cut=0.1),)),
    Scenario("every answer is cut after a byte", (Fault(cut=1e-6),), error=("early", "kept")),
    Scenario("no length, and cut at half", (Fault(length=None, cut=0.5, first=1),)),
    Scenario("reset at half once", (Fault(reset=0.5, first=1),), again=None),
    Scenario("refuses the connection", (Fault(refused=True), GOOD)),
    Scenario("closes without an answer", (Fault(garbage=b""), GOOD)),
    Scenario("never answers", (Fault(silent=True), GOOD)),
    Scenario("answers something else than HTTP", (Fault(garbage=b"220 ftp ready\r\n"), GOOD)),
    Scenario("TLS fails", (Fault(scheme="https"), GOOD)),
    # Statuses
    Scenario("403", (_status(403), GOOD)),
    Scenario("404", (_status(404), GOOD)),
    Scenario("410", (_status(410), GOOD)),
    Scenario("404 everywhere", (_status(404), _status(404)), error=("/0/", "/1/", "404 Not Found")),
    Scenario("429, ask again in a second", (_status(429, ("Retry-After", "1"), first=1),)),
    Scenario("429, another has it now", (_status(429, ("Retry-After", "3600")), GOOD)),
    Scenario("500 twice", (_status(500, first=2),)),
    Scenario("503 always", (_status(503),), error=("503 Service Unavailable",)),
    Scenario("redirects", (Fault(location="/1/"), GOOD)),
    Scenario("redirects in a circle", (Fault(location="loop"), GOOD)),
    Scenario("redirects to another protocol", (Fault(location="ftp://127.0.0.1/"), GOOD)),
    # Lengths and ranges
    Scenario("Content-Length too small", (Fault(length=-10), GOOD), again=None),
    Scenario("Content-Length too large", (Fault(length=10), GOOD), again=None),
    Scenario("no Content-Length", (Fault(length=None),)),
    Scenario("more than the archive", (Fault(length=None, extra=5000),), again=0.1),
    Scenario("ignores the range", (Fault(ranges="ignored"),), kept=0.5, again=0.5),
    Scenario("416, but the file is whole", (Fault(ranges="refused"),), kept=0.5, again=0.5),
    Scenario("416, another goes on", (Fault(ranges="refused"), GOOD), kept=0.5),
    Scenario("206 from too late on", (Fault(ranges="late"), GOOD), kept=0.5, again=None),
    Scenario("206 from too late on, no other", (Fault(ranges="late"),), kept=0.5, again=None),
    Scenario("206 with everything", (Fault(ranges="early"),), kept=0.5, again=0.5),
    Scenario("206 of another length", (Fault(ranges="total"), GOOD), kept=0.5, again=None),
    Scenario(
        "new ETag, the same bytes", (Fault(cut=0.5, first=1, etags=('"one"', '"two"')),), again=0.5
    ),
    Scenario(
        "new ETag, other bytes",
        (Fault(cut=0.5, wrong=0.25, first=1, etags=('"one"', '"two"')),),
        again=0.5,
    ),
    Scenario(
        "new ETag, other bytes, 206 all the same",
        (Fault(cut=0.5, wrong=0.25, first=1, etags=('"one"', '"two"'), ranges="blind"),),
        again=None,
    ),
    # Other bytes than the archive's
    Scenario("a wrong byte", (Fault(wrong=0.6), GOOD), again=1.0),
    Scenario(
        "a wrong byte everywhere",
        (Fault(wrong=0.6), Fault(wrong=0.7)),
        error=("sha256",),
        again=1.0,
    ),
    Scenario("a wrong byte, then cut", (Fault(wrong=0.2, cut=0.5, first=1), GOOD), again=1.0),
    Scenario(
        "zeros and cut every time, another is only cut",
        (Fault(zeros=0.1, cut=0.5), Fault(cut=0.6)),
        again=2.0,
    ),
    Scenario("zeros from half on", (Fault(zeros=0.5), GOOD), again=1.0),
    Scenario(
        "a web page instead",
        (Fault(page=True, headers=(("Content-Type", "text/html; charset=utf-8"),)), GOOD),
        again=None,
    ),
    Scenario("a web page of the right length", (Fault(page=True), GOOD), again=None),
    Scenario(
        "a web page, ignores the range",
        (Fault(page=True, ranges="ignored"), GOOD),
        kept=0.5,
        again=None,
    ),
)


def make_content(size: int, seed: int = 0) -> bytes:
    """Return a gzip file of about ``size`` random bytes."""
    return gzip.compress(random.Random(seed).randbytes(size), 0, mtime=0)


def patience(size: int) -> download.Patience:
    """Return so little patience that the scenarios are short, for an archive of ``size`` bytes."""
    return download.Patience(
        connect=1.0, stall=0.4, floor=2.5 * size, window=0.2, rounds=3, backoff=0.02
    )


@dataclass
class Asked:
    """What one source was asked, header by header, and how many bytes of a body it sent."""

    fault: Fault
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0


class FaultyServer:
    """Serves one archive on 127.0.0.1 from as many sources as are asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self.released = threading.Event()  # ends all stalls, by closing the connections
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        # Bound but not listening: connecting to it is refused, and nobody else can get the port.
        self._closed_port = socket.socket()
        self._closed_port.bind(("127.0.0.1", 0))

    def __enter__(self) -> "FaultyServer":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._closed_port.close()

    @property
    def sent(self) -> int:
        return sum(source.sent for source in self.asked)

    def url(self, fault: Fault = GOOD) -> str:
        """Return the URL of a new source."""
        self.asked.append(Asked(fault))
        port = (self._closed_port if fault.refused else self._server.socket).getsockname()[1]
        return f"{fault.scheme}://127.0.0.1:{port}/{len(self.asked) - 1}/{NAME}"

    def archive(self, *faults: Fault, name: str = NAME) -> sources.Archive:
        """Return the archive with new sources."""
        return sources.Archive(
            name=name,
            layout="python",
            bytes=len(self.content),
            sha256=hashlib.sha256(self.content).hexdigest(),
            urls=tuple(self.url(fault) for fault in faults),
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with owner._lock:
                    asked = owner.asked[int(urlsplit(self.path).path.split("/")[1])]
                    asked.requests.append(dict(self.headers))
                self.close_connection = True
                with suppress(OSError):  # the client has left
                    _Answer(owner, asked, self, len(asked.requests)).send()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class _Answer:
    """The answer to one request."""

    def __init__(
        self, server: FaultyServer, asked: Asked, handler: BaseHTTPRequestHandler, number: int
    ) -> None:
        self.server, self.asked, self.handler = server, asked, handler
        self.fault = asked.fault if number <= asked.fault.first else GOOD
        self.etag = asked.fault.etags[min(number, len(asked.fault.etags)) - 1]
        self.content = self._content()

    def _content(self) -> bytes:
        content, fault = bytearray(self.server.content), self.fault
        if fault.page:
            return PAGE.ljust(len(content))
        if fault.wrong is not None:
            content[int(fault.wrong * len(content))] ^= 1
        if fault.zeros is not None:
            start = int(fault.zeros * len(content))
            content[start:] = bytes(len(content) - start)
        return bytes(content)

    def send(self) -> None:
        fault, handler = self.fault, self.handler
        if fault.silent:
            self.server.released.wait(30)
        elif fault.garbage is not None:
            handler.wfile.write(fault.garbage)
        elif fault.location:
            location = handler.path if fault.location == "loop" else fault.location + NAME
            self._headers(302, {"Location": location, "Content-Length": "0"})
        elif fault.status:
            self._headers(fault.status, {"Content-Length": "0"})
        else:
            self._send_content()

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.handler.send_response(status)
        headers |= {"Connection": "close"} | dict(self.fault.headers)
        for name, value in headers.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()

    def _send_content(self) -> None:
        start, total = self._asked_start(), len(self.content)
        headers = {"Content-Type": "application/gzip", "ETag": self.etag}
        if start and self.fault.ranges == "refused":
            self._headers(416, headers | {"Content-Length": "0"})
            return
        status = 206 if start else 200
        if self.fault.ranges == "late" and start:
            start += 100
        elif self.fault.ranges == "early":
            start = 0
        if status == 206:
            shown = total + 7 if self.fault.ranges == "total" else total
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{shown}"
        if self.fault.length is None:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(total - start + self.fault.length)
        self._headers(status, headers)
        self._send_body(self.content[start:] + bytes(self.fault.extra))

    def _asked_start(self) -> int:
        """Return where the answer has to begin, 0 where the whole file has to be sent."""
        asked = self.handler.headers
        blind = self.asked.fault.ranges == "blind"
        changed = asked.get("If-Range", self.etag) != self.etag and not blind
        if self.fault.ranges == "ignored" or changed or "Range" not in asked:
            return 0
        return int(asked["Range"].removeprefix("bytes=").removesuffix("-"))

    def _send_body(self, body: bytes) -> None:
        fault, size = self.fault, len(self.server.content)
        ends = [share for share in (fault.cut, fault.reset, fault.stall) if share is not None]
        end = max(1, int(min(ends) * size)) if ends and min(ends) > 0 else 0 if ends else len(body)
        step = 1 << 14 if fault.rate is None else max(1, int(fault.rate * size * TICK))
        for start in range(0, min(end, len(body)), step):
            self._send_piece(body[start : min(start + step, end)])
            if fault.rate is not None and self.server.closing.wait(TICK):
                return
        if end >= len(body):
            if fault.length is None:
                self.handler.wfile.write(b"0\r\n\r\n")
        elif fault.stall is not None:
            self.server.released.wait(30)
        elif fault.reset is not None:
            linger = struct.pack("ii", 1, 0)
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.handler.connection.close()

    def _send_piece(self, piece: bytes) -> None:
        chunked = self.fault.length is None
        self.handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        with self.server._lock:
            self.asked.sent += len(piece)


def write_sources(path: Path, *archives: sources.Archive) -> Path:
    """Write archives as a list of sources, as ``CIFAR_UTILS_MIRRORS`` names it."""
    tables = (
        f'[[archive]]\nname = "{each.name}"\nlayout = "{each.layout}"\nbytes = {each.bytes}\n'
        f'sha256 = "{each.sha256}"\nurls = {list(each.urls)}\n'
        for each in archives
    )
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


def write_part(folder: Path, archive: sources.Archive, kept: bytes) -> Path:
    """Put ``kept`` where an interrupted download of the archive would have left it."""
    path = folder / ".downloads" / f"{archive.name}.{archive.sha256[:8]}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(kept)
    return path


def prepare(scenario: Scenario, server: FaultyServer, folder: Path) -> sources.Archive:
    """Set up what a scenario begins with; the list of sources is beside ``folder``."""
    archive = server.archive(*scenario.faults)
    folder.mkdir(parents=True, exist_ok=True)
    write_sources(folder.with_name("sources.toml"), archive)
    content = server.content
    kept = bytearray((content + content)[: int(scenario.kept * len(content))])
    if scenario.kept_wrong and kept:
        kept[len(kept) // 2] ^= 1
    if kept:
        write_part(folder, archive, kept)
    return archive


def sent_again(scenario: Scenario, server: FaultyServer) -> float:
    """Return what was sent beyond what was missing, as a share of the archive."""
    missing = len(server.content) - int(min(scenario.kept, 1.0) * len(server.content))
    return max(0.0, (server.sent - missing) / len(server.content))
