import dataclasses
import errno
import json
import os
import random
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar_utils import download, sources
from cifar_utils.errors import DataError, ParameterError
from tests.unit import faulty_server
from tests.unit.faulty_server import GOOD, NAME, SCENARIOS, Fault, FaultyServer, Scenario

CONTENT = faulty_server.make_content(300_000)
PATIENCE = faulty_server.patience(len(CONTENT))

# What a process of its own runs; it listens to Ctrl-C even where the tests run in the background.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cifar_utils import download
from cifar_utils.errors import CifarUtilsError
try:
    print(download.fetch(patience=download.Patience(connect=1.0, stall=5.0, floor=0.0)))
except (CifarUtilsError, KeyboardInterrupt) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server():
    with FaultyServer(CONTENT) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(folder))
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(tmp_path / "sources.toml"))
    return folder


@pytest.fixture
def prepare(server, folder):
    """Return a function that sets up sources with faults and what an earlier download left."""

    def prepare(*faults, **settings):
        scenario = Scenario("", faults, **settings)
        return faulty_server.prepare(scenario, server, folder)

    return prepare


@pytest.fixture
def naps(monkeypatch):
    """Return the list of all pauses, in seconds; none is made."""
    naps = []
    monkeypatch.setattr(download.time, "sleep", naps.append)
    return naps


def fetched(**options):
    return download.fetch(patience=PATIENCE, **options)


def refused(*words, error=DataError, **options):
    """Return the message of the error that fetching ends in, which has all the words."""
    with pytest.raises(error) as caught:
        fetched(**options)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def kept(folder):
    """Return what an unfinished download has left."""
    (part,) = (folder / ".downloads").glob("*.part")
    return part.read_bytes()


def record_of(folder):
    (record,) = (folder / ".downloads").glob("*.json")
    return record


@contextmanager
def disk_failing(code=errno.ENOSPC):
    """Let writing fail as soon as a part has more than 100,000 bytes."""
    append = download._Part._append

    def failing(part, *arguments):
        if part.length > 100_000:
            raise OSError(code, os.strerror(code))
        append(part, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download._Part, "_append", failing)
        yield


def is_right(path):
    assert path.read_bytes() == CONTENT
    assert sum(download.receipt(path).sources.values()) == len(CONTENT)
    assert [left.suffix for left in (path.parent / ".downloads").iterdir()] == [".lock"]
    return True


# Faults


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario, server, folder):
    faulty_server.prepare(scenario, server, folder)
    if scenario.error:
        refused(*scenario.error)
        assert not (folder / NAME).exists()
        assert CONTENT.startswith(kept(folder))
    else:
        assert fetched() == folder / NAME
        assert is_right(folder / NAME)
    if scenario.again is not None:
        assert faulty_server.sent_again(scenario, server) <= scenario.again + 0.001


FAULTS = st.sampled_from(
    [
        GOOD,
        Fault(cut=0.3),
        Fault(cut=0.3, first=1),
        Fault(reset=0.3, first=1),
        Fault(length=None, cut=0.6, first=2),
        Fault(wrong=0.1),
        Fault(wrong=0.1, cut=0.4, first=1),
        Fault(wrong=0.1, cut=0.4, first=1, etags=('"one"', '"two"')),
        Fault(zeros=0.5, ranges="ignored"),
        Fault(status=404),
        Fault(status=500, first=1),
        Fault(refused=True),
        Fault(garbage=b""),
        Fault(page=True),
        Fault(length=3),
        Fault(ranges="ignored", cut=0.7, first=1),
        Fault(ranges="refused"),
        Fault(ranges="late"),
        Fault(ranges="early"),
        Fault(ranges="total"),
        Fault(length=None, extra=99),
    ]
)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    faults=st.lists(FAULTS, min_size=1, max_size=4),
    kept=st.floats(0.0, 1.3),
    kept_wrong=st.booleans(),
    calls=st.integers(1, 3),
)
def test_never_a_wrong_file(tmp_path, monkeypatch, faults, kept, kept_wrong, calls):
    folder = tmp_path / str(time.monotonic_ns())
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(tmp_path / "sources.toml"))
    content = CONTENT[:30_000]
    with FaultyServer(content) as server:
        scenario = Scenario("", tuple(faults), kept=kept, kept_wrong=kept_wrong)
        faulty_server.prepare(scenario, server, folder)
        patience = dataclasses.replace(PATIENCE, backoff=0.001)
        arrived = False
        for _ in range(calls):
            try:
                download.fetch(folder=folder, patience=patience)
                arrived = True
            except DataError:
                assert not arrived
    assert (folder / NAME).exists() == arrived
    if arrived:
        assert (folder / NAME).read_bytes() == content
    if GOOD in faults:
        assert arrived


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(status=403), "403 Forbidden"),
        (Fault(page=True, headers=(("Content-Type", "Text/HTML"),)), "sends a web page"),
        (Fault(page=True), "sends something else than a gzip file"),
        (Fault(length=10), f"has {len(CONTENT) + 10} bytes, expected {len(CONTENT)}"),
        (Fault(wrong=0.5), "sends a file of sha256 "),
        (Fault(cut=1e-6), "closed the connection early"),
        (Fault(length=None, cut=1e-6), "closed the connection early"),
        (Fault(stall=0.0), "nothing came for 0.4 s"),
        (Fault(silent=True), "no answer within 0.4 s"),
        (Fault(refused=True), "refuses the connection"),
        (Fault(garbage=b""), "closed the connection"),
        (Fault(garbage=b"220 ready\r\n"), "answers with something else than HTTP"),
        (Fault(scheme="https"), "TLS, the encryption, failed"),
        (Fault(location="loop"), "redirects more than 10 times"),
        (Fault(location="ftp://127.0.0.1/"), "No connection adapters were found for 'ftp://"),
        (Fault(location="http://[/"), "cannot be asked: "),
    ],
)
def test_what_a_source_did_is_said_in_a_sentence(prepare, fault, sentence):
    archive = prepare(fault)
    with pytest.raises(DataError) as caught:
        download.fetch(patience=dataclasses.replace(PATIENCE, rounds=1))
    assert f"  {archive.urls[0]}: {sentence}" in str(caught.value)


def test_a_certificate_that_cannot_be_verified(prepare, monkeypatch):
    refusal = ssl.SSLCertVerificationError(1, "certificate verify failed")

    def handshake(*_, **__):
        raise refusal

    prepare(Fault(scheme="https"))
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", handshake)
    refused("its certificate cannot be verified")


def test_the_fastest_of_slow_sources_is_used(prepare, server):
    prepare(Fault(rate=0.3), Fault(rate=1.5), Fault(rate=0.3))
    fetched()
    assert [len(source.requests) for source in server.asked] == [1, 2, 1]


def test_a_source_with_a_file_of_another_length_sends_nothing(prepare, folder):
    archive = prepare(Fault(ranges="total"), GOOD, kept=0.5)
    fetched()
    assert list(download.receipt(folder / NAME).sources) == ["unknown", archive.urls[1]]


def test_a_source_is_not_blamed_for_what_an_earlier_call_left(prepare):
    prepare(Fault(wrong=0.1, first=1))
    with disk_failing():
        refused()
    assert is_right(fetched())


def test_no_source_is_asked_for_ever(prepare, server, naps):
    prepare(Fault(status=404), Fault(status=503), Fault(page=True))
    refused("/0/", "404 Not Found", "/1/", "503", "/2/", "gzip", "--mirror", "CIFAR_UTILS_MIRRORS")
    assert [len(source.requests) for source in server.asked] == [1, PATIENCE.rounds, 1]
    assert len(naps) == PATIENCE.rounds - 1


def test_pauses_grow_and_are_never_the_same(prepare, naps):
    prepare(Fault(status=503))
    refused()
    refused()
    first, second = naps[:2]
    assert 0.5 * PATIENCE.backoff <= first <= PATIENCE.backoff <= second <= 2 * PATIENCE.backoff
    assert naps[2:] != naps[:2]


def test_nobody_waits_for_one_source_while_another_may_be_asked(prepare, naps):
    prepare(Fault(status=503, headers=(("Retry-After", "30"),)), Fault(status=500, first=1))
    fetched()
    assert sum(naps) <= PATIENCE.backoff


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 6, 7),
        ("3600", 29, 30),
        # A name of its own, because each worker of pytest-xdist makes the list.
        pytest.param(formatdate(time.time() + 3600, usegmt=True), 29, 30, id="in an hour"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
    ],
)
def test_retry_after(prepare, naps, asked, least, most):
    prepare(Fault(status=503, headers=(("Retry-After", asked),), first=1))
    fetched()
    assert least <= sum(naps) <= most + PATIENCE.backoff


def test_what_is_asked(prepare, server):
    prepare(Fault(cut=0.5, first=1))
    fetched()
    first, second = server.asked[0].requests
    assert first["Accept-Encoding"] == second["Accept-Encoding"] == "identity"
    assert first["User-Agent"].startswith("cifar-utils/")
    assert "Range" not in first
    assert second["Range"] == f"bytes={len(CONTENT) // 2}-"
    assert second["If-Range"] == '"one"'


def test_a_weak_etag_is_no_proof(prepare, server):
    prepare(Fault(cut=0.5, first=1, etags=('W/"one"',)))
    fetched()
    assert "If-Range" not in server.asked[0].requests[1]


def test_an_etag_holds_only_for_its_own_source(prepare, server):
    prepare(Fault(cut=0.5, first=1), GOOD)
    fetched()
    assert "If-Range" not in server.asked[1].requests[0]


def test_an_etag_is_known_to_the_next_call(prepare, server):
    prepare(GOOD)
    with disk_failing():
        refused()
    fetched()
    assert server.asked[0].requests[1]["If-Range"] == '"one"'


def test_a_name_that_is_not_known(prepare, monkeypatch, naps):
    def lookup(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    prepare(GOOD)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    refused("its name is not known")


def test_a_proxy_is_used(prepare, server, monkeypatch, folder):
    prepare(GOOD)
    host = "http://pictures.invalid/0/"
    monkeypatch.setenv("http_proxy", server.url().rpartition("/1/")[0])
    fetched(mirrors=[host])
    assert list(download.receipt(folder / NAME).sources) == [host + NAME]


def test_a_proxy_that_refuses(prepare, server, monkeypatch):
    prepare(Fault(scheme="https"))
    monkeypatch.setenv("https_proxy", server.url().rpartition("/1/")[0])
    refused("the proxy that HTTPS_PROXY")


def test_a_proxy_that_is_not_there(prepare, server, monkeypatch):
    prepare(GOOD)
    monkeypatch.setenv("http_proxy", server.url(Fault(refused=True)).rpartition("/1/")[0])
    refused("the proxy that HTTPS_PROXY")


# What is kept


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "null",
        "[]",
        "[[7, 8, 9]]",
        '[[5, "u", null]]',
        '[[0, "u", null], [0.5, "v", null]]',
        '[[0, "u"]]',
        "[[0, 1, null]]",
        "\xff",
    ],
)
def test_a_damaged_record_is_harmless(prepare, server, folder, record):
    archive = prepare(GOOD, kept=0.5)
    part = faulty_server.write_part(folder, archive, kept(folder))
    part.with_suffix(".json").write_bytes(record.encode("latin-1"))
    fetched()
    assert is_right(folder / NAME)
    half = len(CONTENT) // 2
    assert download.receipt(folder / NAME).sources == {
        "unknown": half,
        archive.urls[0]: len(CONTENT) - half,
    }
    assert server.sent == len(CONTENT) - half


def test_the_part_of_another_archive_is_not_touched(prepare, folder):
    archive = prepare(GOOD)
    other = dataclasses.replace(archive, sha256="0" * 64)
    part = faulty_server.write_part(folder, other, CONTENT[:1000])
    fetched()
    assert part.read_bytes() == CONTENT[:1000]


def test_each_source_is_credited_with_its_bytes(prepare, folder):
    archive = prepare(Fault(cut=0.25), Fault(cut=0.25, first=1))
    fetched()
    credits = download.receipt(folder / NAME).sources
    assert list(credits) == list(archive.urls)
    assert all(0.2 < count / len(CONTENT) < 0.8 for count in credits.values())


def test_bytes_cut_off_are_credited_to_those_who_send_them_again(prepare, folder, server):
    # The second source differs from the first one at a tenth, ignores ranges and is right.
    archive = prepare(Fault(wrong=0.1, cut=0.3, first=1), Fault(ranges="ignored"))
    fetched()
    tenth = len(CONTENT) // 10
    credits = download.receipt(folder / NAME).sources
    assert credits[archive.urls[0]] == pytest.approx(tenth, abs=1)
    assert server.sent == pytest.approx(1.3 * len(CONTENT), abs=2)


def test_the_record_fits_after_a_cut(tmp_path):
    with download._Part(tmp_path / "a.part", 10) as part:
        for offset, data, url in ((0, b"aaaa", "A"), (4, b"bb", "B"), (0, b"ax", "A")):
            part.write(offset, data, url, None)
        assert part.length == 2
        part.write(2, b"aaaa", "A", None)
    with download._Part(tmp_path / "a.part", 10) as part:
        assert part.sources() == {"A": 6}


def test_credentials_are_written_nowhere(prepare, server, folder, capsys):
    prepare(Fault(status=404))
    secret = [
        server.url(fault).replace("127", "me:hush@127") + "?signature=hush"
        for fault in (Fault(status=403), GOOD)
    ]
    written = [refused("403", mirrors=secret[:1])]
    with disk_failing():
        refused(mirrors=secret)
    written.append(record_of(folder).read_text())
    fetched(mirrors=secret)
    written += [(folder / f"{NAME}.json").read_text(), capsys.readouterr().out]
    assert not [text for text in written if "hush" in text]
    assert server.asked[2].requests[0]["Authorization"].startswith("Basic ")


def process(**options):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_until(condition, running):
    while not condition():
        assert running.poll() is None, running.communicate()
        time.sleep(0.005)


def test_kill_9_again_and_again(prepare, server, folder):
    archive = prepare(Fault(rate=2.0))
    rng = random.Random(0)
    for _ in range(4):
        running = process()
        enough = server.sent + rng.uniform(0.02, 0.15) * len(CONTENT)
        wait_until(lambda enough=enough: server.sent > enough, running)
        running.kill()
        running.communicate()
        assert CONTENT.startswith(kept(folder))
        assert not (folder / NAME).exists()
    fetched()
    assert is_right(folder / NAME)
    assert list(download.receipt(folder / NAME).sources) == list(archive.urls)
    assert server.sent < 1.3 * len(CONTENT)


def test_control_c_says_what_is_kept(prepare, server, folder):
    prepare(Fault(stall=0.5, first=1))
    running = process()
    wait_until(lambda: server.sent and len(kept(folder)) == len(CONTENT) // 2, running)
    running.send_signal(signal.SIGINT)
    errors = running.communicate()[1]
    assert errors == (
        "KeyboardInterrupt: interrupted; 0.2 of 0.3 MB are kept; the same command goes on from "
        "there\n"
    )
    fetched()
    assert server.sent == len(CONTENT)


def test_two_at_once_download_once(prepare, server, folder):
    prepare(Fault(stall=0.5, first=1))
    first = process()
    wait_until(lambda: server.sent, first)
    second = process()
    assert second.stdout.readline().startswith(f"another process downloads {NAME}; waiting for it")
    server.released.set()
    outputs = [each.communicate()[0] for each in (first, second)]
    assert [output.splitlines()[-1] for output in outputs] == [str(folder / NAME)] * 2
    assert server.sent == len(CONTENT)
    assert is_right(folder / NAME)


# The folder


def test_an_archive_that_is_there_is_not_fetched(prepare, server, folder):
    prepare(GOOD)
    (folder / NAME).write_bytes(CONTENT)
    assert fetched() == folder / NAME
    assert server.sent == 0
    assert [path.name for path in folder.iterdir() if path.suffix != ".toml"] == [NAME]


@pytest.mark.parametrize("content", [b"mine", CONTENT[:-1] + b"x", b""])
def test_another_file_of_that_name_is_left_alone(prepare, server, folder, content):
    archive = prepare(GOOD)
    (folder / NAME).write_bytes(content)
    refused(str(folder / NAME), f"found {len(content):,} bytes", archive.sha256, "move it away")
    assert (folder / NAME).read_bytes() == content
    assert server.sent == 0


def test_a_folder_of_that_name_is_left_alone(prepare, folder):
    prepare(GOOD)
    (folder / NAME).mkdir()
    refused("a folder", "move it away")


def test_another_folder(prepare, tmp_path):
    prepare(GOOD)
    assert fetched(folder=tmp_path / "deep" / "down") == tmp_path / "deep" / "down" / NAME
    assert is_right(tmp_path / "deep" / "down" / NAME)


def test_a_file_instead_of_the_folder(prepare, tmp_path):
    prepare(GOOD)
    (tmp_path / "file").write_text("")
    refused("Not a directory", "CIFAR_UTILS_DATA_DIR", folder=tmp_path / "file")


def test_a_folder_that_cannot_be_written_to(prepare, folder, monkeypatch):
    def mkdir(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    prepare(GOOD)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused(str(folder), "Permission denied", "CIFAR_UTILS_DATA_DIR")


def test_too_little_room_is_seen_beforehand(prepare, server, folder, monkeypatch):
    prepare(GOOD, kept=0.5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    refused("0.2 MB more are needed", "5.0 MB are free", str(folder), "CIFAR_UTILS_DATA_DIR")
    assert server.sent == 0
    assert len(kept(folder)) == len(CONTENT) // 2


def test_a_complete_part_needs_no_more_room(prepare, folder, monkeypatch):
    prepare(GOOD, kept=1.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert is_right(fetched())


def test_nothing_gets_its_name_before_it_is_on_disk(prepare, folder, monkeypatch):
    def sync(_):
        synced.append((folder / NAME).exists())

    synced = []
    prepare(GOOD)
    monkeypatch.setattr(os, "fsync", sync)
    fetched()
    assert synced == [False]


def test_a_write_that_takes_only_some_of_the_bytes(tmp_path):
    with download._Part(tmp_path / "a.part", 10) as part:
        file, write = part._file, part._file.write
        part._file = SimpleNamespace(
            write=lambda data: write(data[:3]), read=file.read, seek=file.seek, close=file.close
        )
        part.write(0, b"0123456789", "A", None)
        assert part.missing == 0
    assert (tmp_path / "a.part").read_bytes() == b"0123456789"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_while_writing(prepare, server, folder, code):
    prepare(GOOD)
    with disk_failing(code):
        message = refused(os.strerror(code), str(folder), "CIFAR_UTILS_DATA_DIR")
    assert ("MB more are needed" in message) == (code != errno.EIO)
    assert len(kept(folder)) > 100_000
    assert is_right(fetched())


def test_a_limit_on_the_size_of_files(prepare, server, folder):
    prepare(GOOD)
    limit = 100_000
    running = process(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    errors = running.communicate()[1]
    assert errors.startswith("DataError: no room for the archive")
    assert "0.2 MB more are needed" in errors
    assert kept(folder) == CONTENT[:limit]
    assert is_right(fetched())


# Which archive, from where


def test_the_packaged_list(monkeypatch):
    monkeypatch.delenv("CIFAR_UTILS_MIRRORS", raising=False)
    python, binary = sources.archives()
    assert (python.name, python.layout, python.bytes) == (
        "cifar-10-python.tar.gz",
        "python",
        170_498_071,
    )
    assert (binary.name, binary.layout, binary.bytes) == (
        "cifar-10-binary.tar.gz",
        "binary",
        170_052_171,
    )
    assert python.urls[0] == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert all(url.startswith("https://") for url in (*python.urls, *binary.urls))
    assert sources.official() == {python.sha256: python, binary.sha256: binary}


def test_another_list_decides_nothing_about_official(prepare):
    archive = prepare(GOOD)
    assert sources.archives() == [archive]
    assert archive.sha256 not in sources.official()
    assert len(sources.official()) == 2


ENTRY = {
    "name": "a.tar.gz",
    "layout": "python",
    "bytes": 5,
    "sha256": "0" * 64,
    "urls": ["https://host/a.tar.gz"],
}


def entry(**fields):
    """Return an [[archive]] table, with other fields; those that are None are left out."""
    lines = (
        f"{name} = {json.dumps(value)}"
        for name, value in (ENTRY | fields).items()
        if value is not None
    )
    return "[[archive]]\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[archive", "is not a TOML file"),
        ("\xff", "is not a TOML file"),
        ("", "expected [[archive]] tables and nothing else, found none"),
        ("archive = 3", "expected [[archive]] tables"),
        ("archive = [3]", "expected the fields"),
        ("mirror = 1\n" + entry(), "found mirror"),
        (entry(urls=None), "expected the fields name, layout, bytes, sha256, urls, found name"),
        (entry(md5="x"), "md5"),
        (entry() + entry(bytes=True), "archive 2: bytes is True, expected int"),
        (entry(bytes=0), "bytes is 0"),
        (entry(name=7), "name is 7"),
        (entry(name="a/b.tar.gz"), "name is 'a/b.tar.gz'"),
        (entry(name="..\\b.tar.gz"), "without folders"),
        (entry(name=".."), "without folders"),
        (entry(layout="pyton"), "did you mean 'python'?"),
        (entry(sha256="0" * 63), "expected 64 hexadecimal digits"),
        (entry(urls=[]), "urls is empty"),
        (entry(urls="https://host/"), "expected list"),
        (entry(urls=[3]), "URL 3"),
        (entry(urls=["ftp://host/a.tar.gz"]), "expected a URL that starts with http://"),
        (entry(urls=["https:///a.tar.gz"]), "and a host"),
        (entry(urls=["https://[host/a.tar.gz"]), "and a host"),
        (entry() + entry(), "same name"),
    ],
)
def test_a_list_with_mistakes(tmp_path, monkeypatch, text, expected):
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(path))
    with pytest.raises(ParameterError) as caught:
        sources.archives()
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_list_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(tmp_path / "none.toml"))
    with pytest.raises(ParameterError, match=r"No such file.*CIFAR_UTILS_MIRRORS"):
        sources.archives()


def test_a_mirror_goes_first(prepare, server, folder):
    prepare(GOOD)
    mirror = server.url()
    fetched(mirrors=[mirror])
    assert list(download.receipt(folder / NAME).sources) == [mirror]


def test_the_list_goes_on_where_a_mirror_fails(prepare, server, folder):
    archive = prepare(GOOD)
    fetched(mirrors=[server.url(Fault(status=404)), archive.urls[0]])
    assert list(download.receipt(folder / NAME).sources) == list(archive.urls)
    assert len(server.asked[0].requests) == 1


@pytest.fixture
def two_archives(server, folder):
    archives = [server.archive(GOOD, name=name) for name in ("first.tar.gz", "second.tar.gz")]
    faulty_server.write_sources(folder.parent / "sources.toml", *archives)
    return archives


@pytest.mark.parametrize(
    ("name", "ending", "expected"),
    [
        (None, "any.tar.gz", "first.tar.gz"),
        (None, "", "first.tar.gz"),
        (None, "second.tar.gz", "second.tar.gz"),
        (None, "second.tar.gz?download=1", "second.tar.gz"),
        ("second.tar.gz", "", "second.tar.gz"),
        ("first.tar.gz", "second.tar.gz", "first.tar.gz"),
    ],
)
def test_what_a_mirror_means(two_archives, server, folder, name, ending, expected):
    mirror = server.url().removesuffix(NAME) + ending
    assert fetched(name=name, mirrors=[mirror]).name == expected
    assert len(server.asked[-1].requests) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "secnd.tar.gz"}, "did you mean 'second.tar.gz'?"),
        ({"mirrors": ["host/second.tar.gz"]}, "starts with http:// or https://"),
        ({"mirrors": ["file:///second.tar.gz"]}, "starts with http:// or https://"),
        ({"mirrors": ["http://a/first.tar.gz", "http://a/second.tar.gz"]}, "different archives"),
    ],
)
def test_what_cannot_be_meant(two_archives, options, expected):
    refused(expected, error=ParameterError, **options)


# Receipts and reports


def test_the_receipt(prepare, folder):
    archive = prepare(GOOD)
    receipt = download.receipt(fetched())
    assert (receipt.archive, receipt.sha256, receipt.bytes, receipt.sources) == (
        NAME,
        archive.sha256,
        len(CONTENT),
        {archive.urls[0]: len(CONTENT)},
    )
    assert receipt.fetched.endswith("+00:00")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0"}', None])
def test_no_receipt(folder, text):
    (folder / NAME).write_bytes(CONTENT)
    if text is not None:
        (folder / f"{NAME}.json").write_text(text)
    assert download.receipt(folder / NAME) is None


def test_the_receipt_of_another_file(prepare, folder):
    prepare(GOOD)
    path = fetched()
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert download.receipt(path) is None


def test_a_log_has_a_line_at_each_change(prepare, capsys, monkeypatch):
    prepare(Fault(cut=0.5), Fault(status=404), Fault(cut=0.4, first=1))
    monkeypatch.setattr(download, "_REPORT_SECONDS", 0.0)
    path = fetched()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "downloading from 127.0.0.1 at 0.0 of 0.3 MB"
    assert "127.0.0.1: 404 Not Found; going on with 127.0.0.1 at 0.2 of 0.3 MB" in lines
    assert any("MB/s, about 0 s left" in line for line in lines)
    assert lines[-1].startswith(f"{path}: 0.3 MB received in ")
    assert lines[-1].endswith("sha256 checked")


def test_a_slow_source_is_named_with_its_speed(prepare, capsys):
    prepare(Fault(rate=0.5), GOOD)
    fetched()
    assert "kB/s, under 750 kB/s; going on with" in capsys.readouterr().out


def test_a_terminal_has_a_bar(prepare, capsys, monkeypatch):
    prepare(Fault(status=404), GOOD)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    fetched()
    output = capsys.readouterr().out
    assert "━" in output
    assert "127.0.0.1: 404 Not Found; downloading from 127.0.0.1" in output


def test_importing_is_quick():
    script = "import sys; from cifar_utils import download; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"requests", "urllib3", "rich", "filelock"} & set(modules)
