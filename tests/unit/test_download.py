import pytest

from cifar_utils import download
from cifar_utils.errors import DataError
from tests.unit import faulty_server
from tests.unit.faulty_server import GOOD, NAME, SCENARIOS, Fault, FaultyServer

CONTENT = faulty_server.make_content(300_000)
PATIENCE = faulty_server.patience(len(CONTENT))


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server():
    with FaultyServer(CONTENT) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(folder))
    monkeypatch.setenv("CIFAR_UTILS_MIRRORS", str(folder / "sources.toml"))
    return folder


def fetched():
    return download.fetch(patience=PATIENCE)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario, server, folder):
    archive = faulty_server.prepare(scenario, server, folder)
    if scenario.error:
        with pytest.raises(DataError) as caught:
            fetched()
        assert all(words in str(caught.value) for words in scenario.error)
        assert not (folder / NAME).exists()
    else:
        assert fetched() == folder / NAME
        assert (folder / NAME).read_bytes() == CONTENT
        assert sum(download.receipt(folder / NAME).sources.values()) == archive.bytes
        assert [path.suffix for path in (folder / ".downloads").iterdir()] == [".lock"]
    if scenario.again is not None:
        assert faulty_server.sent_again(scenario, server) <= scenario.again + 0.001
