import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar_utils import archives, data, download, paths, planted, runs, sources, synthetic
from cifar_utils.errors import DataError, ParameterError
from cifar_utils.profiles import PROFILES
from tests.unit import fake_archives
from tests.unit.fake_archives import NAMES, RECORDS, batch, some_records

SMOKE = dataclasses.replace(
    PROFILES["smoke"],
    train_images=30,
    validation_images=10,
    test_images=10,
    synthetic_images=(40, 20, 20),
)

# Nothing here depends on time or on a fresh fixture an example.
relaxed = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "RECORDS_PER_FILE", RECORDS)
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(tmp_path / "data"))
    fake_archives.list_source(tmp_path / "nowhere.toml", "http://127.0.0.1:9/", monkeypatch)


def write_binary(folder, records):
    return fake_archives.write(folder, fake_archives.binary_files(records))


def write_python(folder, records, protocol=2):
    return fake_archives.write(folder, fake_archives.python_files(records, protocol))


def packed(path, layout, records=None):
    records = some_records() if records is None else records
    return fake_archives.pack(path, fake_archives.members(layout, records))


WRITERS = {"binary": write_binary, "python": write_python}


@pytest.fixture(params=WRITERS)
def layout(request):
    return request.param


@pytest.fixture
def folder(tmp_path, layout):
    return WRITERS[layout](tmp_path / archives.FOLDERS[layout], some_records())


def file_of(folder, name="data_batch_2"):
    return next(path for path in (folder / f"{name}.bin", folder / name) if path.exists())


def pixels(records):
    return records[..., 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def content(split):
    """Every image of a split with its label, in an order of its own."""
    return sorted(
        (int(label), hashlib.md5(image.tobytes()).hexdigest())
        for image, label in zip(split.images, split.labels, strict=True)
    )


def everything(dataset):
    splits = (dataset.train, dataset.validation, dataset.test)
    return [array for split in splits for array in (split.images, split.labels)]


def cache_entries():
    return list((paths.data_dir() / "cache").iterdir())


def refused(source, *words):
    """Return the message of the error that loading ends in, which has all the words."""
    with pytest.raises(DataError) as caught:
        data.load(source)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# What comes out


def test_types_shapes_and_counts(folder):
    dataset = data.load(folder)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [90, 10, 20]
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), 32, 32, 3)
        assert split.labels.dtype == np.int64
        assert split.labels.shape == (len(split),)
        assert isinstance(split.images, np.memmap)
        assert not split.images.flags.writeable


def test_every_image_keeps_its_label_and_its_side(folder):
    records = some_records()
    dataset = data.load(folder)
    source = data.Split(pixels(records[:5]), records[:5, :, 0].ravel())
    assert sorted(content(dataset.train) + content(dataset.validation)) == content(source)
    assert not set(content(dataset.train)) & set(content(dataset.validation))


def test_the_test_split_keeps_the_order_of_its_file(folder):
    records = some_records()
    dataset = data.load(folder)
    np.testing.assert_array_equal(dataset.test.images, pixels(records[5]))
    np.testing.assert_array_equal(dataset.test.labels, records[5, :, 0])


def test_planes_become_channels(tmp_path):
    records = some_records()
    records[5, 0, 1:] = 0
    records[5, 0, 1 + 2 * 1024 + 3 * 32 + 7] = 200
    first = data.load(write_binary(tmp_path / "images", records)).test.images[0]
    assert first[3, 7].tolist() == [0, 0, 200]
    assert first.sum() == 200


def test_both_layouts_give_the_same(tmp_path):
    binary = data.load(write_binary(tmp_path / "one", some_records()))
    python = data.load(write_python(tmp_path / "two", some_records()))
    for one, other in zip(everything(binary), everything(python), strict=True):
        np.testing.assert_array_equal(one, other)
    assert binary.provenance.fingerprint == python.provenance.fingerprint
    assert (binary.provenance.layout, python.provenance.layout) == ("binary", "python")


def test_the_fingerprint_is_the_hash_of_the_binary_files(folder):
    expected = hashlib.sha256(some_records().tobytes()).hexdigest()
    assert data.load(folder).provenance.fingerprint == expected


def test_one_changed_pixel_changes_the_fingerprint(tmp_path):
    records = some_records()
    before = data.load(write_binary(tmp_path / "one", records)).provenance.fingerprint
    records[2, 3, 100] ^= 1
    after = data.load(write_binary(tmp_path / "two", records)).provenance.fingerprint
    assert before != after


def test_the_folder_above_works_too(folder):
    assert data.load(str(folder.parent)).provenance == data.load(str(folder)).provenance


def test_a_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert data.load(f"~/{folder.name}").provenance.source == str(folder)


# The split


def test_the_official_split_is_pinned():
    order = data._interleaved(np.arange(50_000) % 10).astype("<i8")
    assert hashlib.sha256(order.tobytes()).hexdigest() == (
        "facbb3eca710f837edca80c04e185b6c5deba5ffdba1da87fbfb17f2983a2775"
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300))
@relaxed
def test_interleaving_keeps_every_prefix_in_proportion(labels):
    labels = np.array(labels)
    order = data._interleaved(labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
    seen = np.cumsum(labels[order][:, None] == np.arange(10), axis=0)
    share = np.bincount(labels, minlength=10) / len(labels)
    expected = np.arange(1, len(labels) + 1)[:, None] * share
    assert (np.abs(seen - expected) <= 1.5 + 5 * share).all()


def test_official_counts_are_exact_and_any_prefix_is_balanced():
    labels = np.random.default_rng(1).permutation(np.arange(50_000) % 10)
    order = data._interleaved(labels)
    train, validation = labels[order[:45_000]], labels[order[45_000:]]
    np.testing.assert_array_equal(np.bincount(train), 4500)
    np.testing.assert_array_equal(np.bincount(validation), 500)
    for split in (train, validation):
        seen = np.cumsum(split[:, None] == np.arange(10), axis=0)
        assert np.ptp(seen, axis=1).max() == 1


def test_within_a_class_the_order_is_shuffled():
    order = data._interleaved(np.arange(50_000) % 10)[:45_000]
    of_one_class = order[order % 10 == 3]
    assert 0.45 < np.mean(np.diff(of_one_class) > 0) < 0.55
    assert abs(of_one_class.mean() - 25_000) < 500


def test_a_profile_limits_by_slicing(folder):
    whole, limited = data.load(folder), data.load(folder, SMOKE)
    sizes = [len(limited.train), len(limited.validation), len(limited.test)]
    assert sizes == [30, 10, 10]
    np.testing.assert_array_equal(limited.train.images, whole.train.images[:30])
    np.testing.assert_array_equal(limited.test.labels, whole.test.labels[:10])
    assert np.bincount(limited.train.labels).tolist() == [3] * 10
    assert limited.provenance == whole.provenance


def test_a_profile_without_limits_leaves_all(folder):
    assert len(data.load(folder, PROFILES["cpu"]).train) == 90


# Where it comes from


def test_auto_takes_the_version_that_can_prove_official(capsys):
    write_binary(paths.data_dir() / archives.FOLDERS["binary"], some_records())
    assert data.load().provenance.layout == "binary"
    write_python(paths.data_dir() / archives.FOLDERS["python"], some_records())
    assert data.load().provenance.layout == "python"
    assert capsys.readouterr().out == ""


def fetch_gives(path, monkeypatch):
    """Let a download give an archive; return the list that grows with each."""
    fetched = []
    monkeypatch.setattr(download, "fetch", lambda: fetched.append(path) or path)
    return fetched


def test_auto_falls_back_only_for_smoke_and_says_so(capsys, monkeypatch):
    fetched = fetch_gives(None, monkeypatch)
    dataset = data.load("auto", SMOKE)
    assert dataset.provenance.kind == "synthetic"
    assert capsys.readouterr().out == data.SYNTHETIC_NOTICE + "\n"
    assert "cifar data fetch" in data.SYNTHETIC_NOTICE
    assert fetched == []


@pytest.mark.parametrize("profile", [None, PROFILES["cpu"], PROFILES["gpu"]])
def test_auto_downloads_for_every_other_profile(tmp_path, layout, profile, monkeypatch):
    archive = packed(tmp_path / "elsewhere.tar.gz", layout)
    fetched = fetch_gives(archive, monkeypatch)
    assert data.load("auto", profile).provenance.source == str(archive)
    assert fetched == [archive]


def test_a_failed_download_is_not_hidden(monkeypatch):
    def fail():
        raise DataError("no source is left")

    monkeypatch.setattr(download, "fetch", fail)
    for profile in (None, PROFILES["cpu"], PROFILES["gpu"]):
        with pytest.raises(DataError, match="no source is left"):
            data.load("auto", profile)


def test_auto_prefers_what_is_unpacked_then_the_python_version(monkeypatch, capsys):
    monkeypatch.setattr(download, "fetch", None)
    home = paths.data_dir()
    fake_archives.list_source(home / "m.toml", "http://127.0.0.1:9/class.tar.gz", monkeypatch)
    expected = []
    for name in ("class.tar.gz", *reversed(archives.ARCHIVES.values())):
        expected.append(packed(home / name, "binary" if "binary" in name else "python"))
    for layout in ("binary", "python"):
        expected.append(WRITERS[layout](home / archives.FOLDERS[layout], some_records()))
    while expected:
        best = expected.pop()
        assert data.locate() == best
        for profile in (None, SMOKE):
            assert data.load("auto", profile).provenance.source == str(best)
        shutil.rmtree(best) if best.is_dir() else best.unlink()
    assert capsys.readouterr().out == ""


def test_locate_never_downloads(monkeypatch):
    monkeypatch.setattr(download, "fetch", None)
    assert data.locate("synthetic") == "synthetic"
    assert data.locate(Path("some/folder")) == Path("some/folder")
    with pytest.raises(DataError, match=r"no CIFAR-10 images in .*cifar data fetch.*--data synth"):
        data.locate()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    """The URL of a folder, ``served``, on this machine."""
    folder = tmp_path / "served"
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_auto_downloads_a_class_s_own_archive_of_full_size(tmp_path, server, layout, monkeypatch):
    monkeypatch.setattr(archives, "RECORDS_PER_FILE", 10_000)
    records = np.zeros((6, 10_000, 3073), np.uint8)
    records[:, :, 0] = np.arange(10_000) % 10
    archive = packed(tmp_path / "served" / "class.tar.gz", layout, records)
    url = f"{server}/class.tar.gz"
    fake_archives.list_source(tmp_path / "class.toml", url, monkeypatch, archive)
    dataset = data.load()
    assert len(dataset.train) == 45_000
    found = dataset.provenance
    assert found.source == str(paths.data_dir() / "class.tar.gz")
    assert (found.kind, found.layout) == ("modified", layout)
    assert found.archive_sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found.downloaded_from == {url: archive.stat().st_size}
    lines = dict(data.describe(dataset))
    assert lines["downloaded"] == f"{archive.stat().st_size / 1e6:.1f} MB from {url}"
    assert data.verify()[0].state == "ok"


def test_auto_never_hides_damaged_files():
    write_binary(paths.data_dir() / archives.FOLDERS["binary"], some_records())
    file_of(paths.data_dir() / archives.FOLDERS["binary"]).write_bytes(b"")
    with pytest.raises(DataError, match=r"data_batch_2\.bin has 0 bytes"):
        data.load("auto", SMOKE)


def test_a_packed_archive_gives_what_its_files_give(tmp_path, folder, layout):
    archive = packed(tmp_path / "images.tar.gz", layout)
    loose, dense = data.load(folder), data.load(archive)
    for one, other in zip(everything(loose), everything(dense), strict=True):
        np.testing.assert_array_equal(one, other)
    assert dense.provenance.fingerprint == loose.provenance.fingerprint
    assert dense.provenance.layout == loose.provenance.layout == layout
    assert dense.provenance.source == str(archive)
    assert dense.provenance.archive_sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert loose.provenance.archive_sha256 is None
    assert dense.provenance.downloaded_from is loose.provenance.downloaded_from is None
    assert sorted(tmp_path.rglob("data_batch_1*")) == [file_of(folder, "data_batch_1")]


def test_synthetic_by_name_gives_no_notice(capsys):
    dataset = data.load("synthetic", SMOKE)
    assert capsys.readouterr().out == ""
    assert dataset.provenance.kind == "synthetic"
    assert dataset.provenance.source == "synthetic"
    assert dataset.provenance.counts == {"train": 40, "validation": 20, "test": 20}


def test_synthetic_is_what_was_drawn_in_balanced_splits():
    whole = dataclasses.replace(SMOKE, train_images=None, validation_images=None, test_images=None)
    dataset = data.load("synthetic", whole)
    drawn = synthetic.generate(80, seed=data.SYNTHETIC_SEED)
    images, labels, _ = planted.plant(*drawn, seed=data.SYNTHETIC_SEED)
    stored = content(dataset.train) + content(dataset.validation) + content(dataset.test)
    assert sorted(stored) == content(data.Split(images, labels))
    for split, rounds in ((dataset.train, 4), (dataset.validation, 2), (dataset.test, 2)):
        assert split.labels.tolist() == list(range(10)) * rounds


def test_planted_faults_are_where_their_tables_say():
    profile = dataclasses.replace(PROFILES["smoke"], synthetic_images=(400, 100, 100))
    dataset = data.load("synthetic", profile)
    faults = data.planted_faults(dataset)
    assert set(faults) == set(planted.TABLES)
    splits = dataset.splits()
    equal = faults["copies"].query("kind == 'equal'").to_dict("records")
    assert equal
    for row in equal:
        first = splits[row["split"]].images[row["index"]]
        np.testing.assert_array_equal(splits[row["other_split"]].images[row["other_index"]], first)
    wrong = faults["wrong"].to_dict("records")
    assert wrong
    assert all(splits[row["split"]].labels[row["index"]] != row["true_label"] for row in wrong)


def test_only_the_synthetic_set_has_planted_faults(tmp_path):
    folder = write_python(tmp_path / "images", some_records())
    assert data.planted_faults(data.load(folder)) == {}


def test_synthetic_is_drawn_once_for_each_version_and_size(monkeypatch):
    calls = []
    draw = synthetic.generate
    monkeypatch.setattr(
        synthetic, "generate", lambda count, seed: calls.append(count) or draw(count, seed)
    )
    larger = dataclasses.replace(SMOKE, synthetic_images=(50, 20, 20))
    for profile in (SMOKE, SMOKE, larger, larger):
        data.load("synthetic", profile)
    assert calls == [80, 90]
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    data.load("synthetic", SMOKE)
    assert calls == [80, 90, 80]


def test_official_needs_every_known_checksum(tmp_path, monkeypatch):
    folder = write_python(tmp_path / "images", some_records())
    assert data.load(folder).provenance.kind == "modified"
    known = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(archives, "OFFICIAL_MD5", known)
    monkeypatch.setattr(data, "CACHE_VERSION", "another")
    assert data.load(folder).provenance.kind == "official"
    records = some_records()
    records[0, 0, 1] ^= 1
    assert data.load(write_python(folder, records)).provenance.kind == "modified"


def test_an_archive_is_official_by_its_own_checksum(tmp_path, layout, monkeypatch):
    archive = packed(tmp_path / "images.tar.gz", layout)
    assert data.load(archive).provenance.kind == "modified"
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "official", lambda: {sha256: None})
    monkeypatch.setattr(data, "CACHE_VERSION", "another")
    assert data.load(archive).provenance.kind == "official"
    archive.write_bytes(archive.read_bytes() + bytes(1))
    assert data.load(archive).provenance.kind == "modified"


def test_an_archive_packed_again_is_official_by_its_files(tmp_path, monkeypatch):
    files = fake_archives.python_files(some_records())
    known = {name: hashlib.md5(files[name]).hexdigest() for name in NAMES}
    monkeypatch.setattr(archives, "OFFICIAL_MD5", known)
    archive = packed(tmp_path / "images.tar.gz", "python")
    assert data.load(archive).provenance.kind == "official"


def test_a_receipt_for_other_content_is_not_believed(tmp_path, monkeypatch):
    archive = packed(tmp_path / "images.tar.gz", "python")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    receipt = SimpleNamespace(sha256="0" * 64, sources={"http://127.0.0.1/": 5})
    monkeypatch.setattr(download, "receipt", lambda path: receipt)
    assert data.load(archive).provenance.downloaded_from is None
    receipt.sha256 = sha256
    monkeypatch.setattr(data, "CACHE_VERSION", "another")
    assert data.load(archive).provenance.downloaded_from == {"http://127.0.0.1/": 5}


def test_the_record_is_plain_json(folder):
    dataset = data.load(folder)
    record = dataset.provenance.record()
    assert json.loads(json.dumps(record)) == record
    assert data.Provenance(**record) == dataset.provenance
    assert record["counts"] == {"train": 90, "validation": 10, "test": 20}
    assert record["source"] == str(folder)


# Files that are not as they should be


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(folder, name):
    path = file_of(folder, name)
    path.unlink()
    refused(folder, f"{path} is missing", "found", "unpack the official archive again")


@given(share=st.floats(0, 1, exclude_max=True), name=st.sampled_from(NAMES))
@relaxed
def test_truncation_anywhere_is_noticed(folder, share, name):
    path = file_of(folder, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    try:
        refused(folder, str(path), "unpack the official archive again")
    finally:
        path.write_bytes(whole)
    assert not (paths.data_dir() / "cache").exists() or cache_entries() == []


def test_truncation_by_the_last_byte_is_noticed(folder):
    path = file_of(folder)
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, str(path))


def test_the_size_is_told_in_bytes_and_records(tmp_path):
    folder = write_binary(tmp_path / "images", some_records())
    path = file_of(folder)
    path.write_bytes(path.read_bytes()[:-4000])
    refused(folder, "57,460 bytes", "18 records and 2,146 bytes", "61,460 bytes", "20 records")


def test_a_cut_pickle_is_not_called_foreign(tmp_path):
    folder = write_python(tmp_path / "images", some_records())
    path = file_of(folder)
    path.write_bytes(path.read_bytes()[:5000])
    assert "looks like" not in refused(folder, f"{path} is not a whole file", "remain")


def test_too_many_records(folder, layout):
    records = np.concatenate([some_records(), some_records(1)], axis=1)
    WRITERS[layout](folder, records)
    refused(folder, "data_batch_1", "40", "20")


@pytest.mark.parametrize(
    ("foreign", "looks"),
    [
        (b"<!DOCTYPE html><html>503</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text"),
        (b"\x1f\x8b\x08" + bytes(50), "archive that is still packed"),
        (b"PK\x03\x04" + bytes(50), "archive that is still packed"),
        (b"\x00\x01\x02", ""),
        (b"", ""),
    ],
)
def test_a_foreign_file(folder, foreign, looks):
    path = file_of(folder)
    path.write_bytes(foreign)
    assert refused(folder, str(path), looks).count("looks like") == bool(looks)


def test_a_pickle_under_the_binary_name(tmp_path):
    folder = write_binary(tmp_path / "images", some_records())
    file_of(folder).write_bytes(pickle.dumps(batch(some_records()[0]), 2))
    refused(folder, "looks like a pickle, as in the python version")


def test_text_of_the_right_size_is_caught_by_its_labels(tmp_path):
    folder = write_binary(tmp_path / "images", some_records())
    file_of(folder).write_bytes(b"a" * (RECORDS * 3073))
    refused(folder, "data_batch_2.bin has label 97 (it looks like text); expected 0 to 9")


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_above_9(folder, layout, label):
    records = some_records()
    records[3, 7, 0] = label
    WRITERS[layout](folder, records)
    refused(folder, f"record 7 of {file_of(folder, 'data_batch_4')} has label {label}; expected 0")


@pytest.mark.parametrize("label", [-1, 256, 2**70])
def test_a_label_that_a_byte_cannot_hold(tmp_path, label):
    folder = write_python(tmp_path / "images", some_records())
    changed = batch(some_records()[1])
    changed[b"labels"][7] = label
    file_of(folder).write_bytes(pickle.dumps(changed, 2))
    refused(folder, "record 7 of", f"has label {label}; expected 0 to 9")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({b"data": None}, "'data' in {path} is NoneType; expected uint8 (20, 3072)"),
        ({b"data": np.zeros((20, 3072))}, "'data' in {path} is float64 (20, 3072)"),
        ({b"data": np.zeros((20, 1024), np.uint8)}, "is uint8 (20, 1024); expected"),
        ({b"labels": None}, "'labels' in {path} is not a list of whole numbers but NoneType"),
        ({b"labels": [0.5] * 20}, "not a list of whole numbers"),
        ({b"labels": [[1]] * 20}, "not a list of whole numbers"),
        ({b"labels": [1] * 19}, "{path} has 19 labels; expected 20"),
    ],
)
def test_a_python_batch_of_the_wrong_form(tmp_path, change, found):
    folder = write_python(tmp_path / "images", some_records())
    path = file_of(folder)
    path.write_bytes(pickle.dumps(batch(some_records()[1]) | change, 2))
    refused(folder, found.format(path=path), "unpack the official archive again")


@pytest.mark.parametrize("value", [[1, 2], {3: 4}, "text", None])
def test_a_pickle_of_something_else(tmp_path, value):
    folder = write_python(tmp_path / "images", some_records())
    file_of(folder).write_bytes(pickle.dumps(value, 2))
    refused(folder, str(file_of(folder)), "unpack the official archive again")


def test_other_class_names(folder, layout):
    foreign = ["apple", "aquarium_fish"]
    if layout == "binary":
        (folder / "batches.meta.txt").write_text("\n".join(foreign))
    else:
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": foreign}))
    refused(folder, "batches.meta", "apple, aquarium_fish; expected airplane, automobile", "not")


def test_class_names_may_be_missing(folder):
    for path in folder.glob("batches.meta*"):
        path.unlink()
    assert len(data.load(folder).train) == 90


def test_both_versions_in_one_place_are_ambiguous(tmp_path):
    write_python(tmp_path / archives.FOLDERS["python"], some_records())
    write_binary(tmp_path / archives.FOLDERS["binary"], some_records())
    refused(
        tmp_path,
        "holds both versions",
        archives.FOLDERS["python"],
        archives.FOLDERS["binary"],
        "name",
    )
    mixed = write_binary(write_python(tmp_path / "mixed", some_records()), some_records())
    refused(mixed, f"{mixed} holds both versions", "data_batch_1.bin", "remove the other")


def test_a_folder_without_images(tmp_path):
    refused(tmp_path, f"no CIFAR-10 images in {tmp_path}", "expected cifar-10-batches-py", "fetch")


def test_a_folder_that_is_not_there(tmp_path):
    refused(tmp_path / "no", f"no file or folder {tmp_path / 'no'}; expected", "check its name")


def test_a_misspelt_keyword_gets_the_nearest():
    refused("sinthetic", "did you mean 'synthetic'?")


def test_a_file_instead_of_a_folder(folder):
    path = file_of(folder)
    refused(path, f"{path} is a file but no .tar.gz", "name the folder it is in")


def test_a_folder_instead_of_a_file(folder):
    path = file_of(folder)
    path.unlink()
    path.mkdir()
    refused(folder, f"cannot read {path}: Is a directory")


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    refused(folder, "cannot read", "Permission denied")


# Pickles that would run code


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_pickle_that_runs_a_command_is_refused(tmp_path, name, protocol):
    folder, marker = write_python(tmp_path / "images", some_records()), tmp_path / "ran"
    attack = {b"data": Attack(os.system, f"touch {marker}")}
    (folder / name).write_bytes(pickle.dumps(attack, protocol))
    refused(folder, f"{folder / name}", "posix.system, which no CIFAR-10 file needs")
    assert not marker.exists()


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, __import__, subprocess.run, np.load, np.frombuffer, open]
)
def test_no_other_global_is_reachable(tmp_path, function):
    folder = write_python(tmp_path / "images", some_records())
    file_of(folder).write_bytes(pickle.dumps({b"data": Attack(function, "1")}, 2))
    refused(folder, f".{function.__name__}, which no CIFAR-10 file needs; do not trust it")


def test_no_global_is_reachable_through_an_allowed_one(tmp_path):
    folder = write_python(tmp_path / "images", some_records())
    path = b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93."
    file_of(folder).write_bytes(path)
    refused(folder, "numpy.ndarray.__class__, which no CIFAR-10 file needs")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_arrays_of_every_protocol_and_numpy_are_read(tmp_path, protocol, module):
    folder = write_python(tmp_path / "images", some_records(), protocol)
    path = file_of(folder)
    if protocol < 4:  # later ones store the length of a name in front of it
        path.write_bytes(path.read_bytes().replace(b"numpy._core", module))
    dataset = data.load(folder)
    np.testing.assert_array_equal(dataset.test.images, pixels(some_records()[5]))


def test_keys_may_be_text(tmp_path):
    folder = write_python(tmp_path / "images", some_records())
    as_text = {key.decode(): value for key, value in batch(some_records()[1]).items()}
    before = data.load(folder).provenance.fingerprint
    file_of(folder).write_bytes(pickle.dumps(as_text, 4))
    assert data.load(folder).provenance.fingerprint == before


def written_by_python_2(part):
    """The opcodes that Python 2's cPickle wrote into the official files: text as byte strings."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    raw = part[:, 1:].tobytes()
    stream = io.BytesIO()
    stream.write(b"\x80\x02}(" + text(b"batch_label") + text(b"one"))
    stream.write(text(b"labels") + b"](" + b"".join(b"K%c" % label for label in part[:, 0]) + b"e")
    stream.write(text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n")
    stream.write(b"K\x00\x85" + text(b"b") + b"tR(K\x01K" + bytes([len(part)]) + b"M\x00\x0c\x86")
    stream.write(b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN")
    stream.write((b"J" + struct.pack("<i", -1)) * 2 + b"K\x00tb\x89")
    stream.write(b"T" + struct.pack("<i", len(raw)) + raw + b"tbu.")
    return stream.getvalue()


def test_files_as_python_2_wrote_them(tmp_path):
    folder = write_python(tmp_path / "images", some_records())
    for name, part in zip(NAMES, some_records(), strict=True):
        (folder / name).write_bytes(written_by_python_2(part))
    expected = hashlib.sha256(some_records().tobytes()).hexdigest()
    assert data.load(folder).provenance.fingerprint == expected


# The cache


def count_builds(monkeypatch):
    builds = []
    write = data._write
    monkeypatch.setattr(data, "_write", lambda *args: builds.append(1) or write(*args))
    return builds


def test_files_are_read_once(folder, monkeypatch):
    builds = count_builds(monkeypatch)
    first = data.load(folder)
    monkeypatch.setattr(archives, "read_file", None)
    second = data.load(folder)
    assert len(builds) == 1
    assert first.provenance == second.provenance
    for one, other in zip(everything(first), everything(second), strict=True):
        np.testing.assert_array_equal(one, other)
    assert cache_entries() == [first.cache]
    assert sorted(path.name for path in first.cache.iterdir()) == [
        "SHA256SUMS",
        "images.npy",
        "labels.npy",
        "provenance.json",
    ]


def test_a_changed_file_is_read_again(folder):
    before = data.load(folder)
    path = file_of(folder)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = data.load(folder)
    assert before.cache != after.cache
    assert before.provenance.fingerprint == after.provenance.fingerprint


def test_a_changed_archive_is_read_again(tmp_path):
    archive = packed(tmp_path / "images.tar.gz", "python")
    before = data.load(archive)
    assert data.load(archive).cache == before.cache
    packed(archive, "python", some_records(1))
    after = data.load(archive)
    assert before.cache != after.cache
    assert before.provenance.fingerprint != after.provenance.fingerprint


def rewrite(path, array):
    with path.open("wb") as file:
        np.save(file, array)


DAMAGES = {
    "no images": lambda cache: (cache / "images.npy").unlink(),
    "no labels": lambda cache: (cache / "labels.npy").unlink(),
    "no provenance": lambda cache: (cache / "provenance.json").unlink(),
    "images cut": lambda cache: os.truncate(cache / "images.npy", 5000),
    "images cut by a byte": lambda cache: os.truncate(
        cache / "images.npy", (cache / "images.npy").stat().st_size - 1
    ),
    "images empty": lambda cache: os.truncate(cache / "images.npy", 0),
    "labels cut": lambda cache: os.truncate(cache / "labels.npy", 200),
    "images of another shape": lambda cache: rewrite(
        cache / "images.npy", np.zeros((120, 32, 32), np.uint8)
    ),
    "fewer images": lambda cache: rewrite(
        cache / "images.npy", np.zeros((119, 32, 32, 3), np.uint8)
    ),
    "images of another type": lambda cache: rewrite(
        cache / "images.npy", np.zeros((120, 32, 32, 3), np.int8)
    ),
    "labels of another type": lambda cache: rewrite(cache / "labels.npy", np.zeros(120, np.int32)),
    "fewer labels": lambda cache: rewrite(cache / "labels.npy", np.zeros(119, np.int64)),
    "labels out of range": lambda cache: rewrite(cache / "labels.npy", np.full(120, 10)),
    "not an array": lambda cache: (cache / "images.npy").write_text("<html>"),
    "provenance cut": lambda cache: os.truncate(cache / "provenance.json", 40),
    "provenance empty": lambda cache: (cache / "provenance.json").write_text("{}"),
    "provenance a list": lambda cache: (cache / "provenance.json").write_text("[]"),
    "counts a list": lambda cache: (cache / "provenance.json").write_text(
        json.dumps(json.loads((cache / "provenance.json").read_text()) | {"counts": [120]})
    ),
    "all gone": lambda cache: [path.unlink() for path in cache.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_anew(tmp_path, damage, monkeypatch):
    folder = write_binary(tmp_path / "images", some_records())
    whole = data.load(folder)
    expected = [array.copy() for array in everything(whole)]
    DAMAGES[damage](whole.cache)
    builds = count_builds(monkeypatch)
    again = data.load(folder)
    assert len(builds) == 1
    for one, other in zip(everything(again), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert cache_entries() == [whole.cache]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, DataError])
def test_an_interrupted_build_leaves_nothing(folder, monkeypatch, failure):
    def fail(path, value):
        raise failure

    with monkeypatch.context() as patch, pytest.raises(failure):
        patch.setattr(runs, "write_json", fail)
        data.load(folder)
    assert cache_entries() == []
    assert len(data.load(folder).train) == 90


WORKER = """
import sys, time
from cifar_utils import archives, data, runs
archives.RECORDS_PER_FILE = int(sys.argv[1])
if sys.argv[3] == "stuck":
    runs.write_json = lambda path, value: (print("half", flush=True), time.sleep(60))
print(data.load(sys.argv[2]).provenance.fingerprint)
"""


def worker(folder, mode):
    command = [sys.executable, "-c", WORKER, str(RECORDS), str(folder), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_no_half_cache(folder):
    with worker(folder, "stuck") as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = cache_entries()
    assert left.name.startswith(".")
    dataset = data.load(folder)
    assert len(dataset.train) == 90
    assert set(cache_entries()) == {left, dataset.cache}

    two_hours_ago = time.time() - 7200
    os.utime(left, (two_hours_ago, two_hours_ago))
    data.load("synthetic", SMOKE)
    assert not left.exists()


def test_several_processes_at_once(folder):
    workers = [worker(folder, "normal") for _ in range(3)]
    printed = {process.communicate()[0] for process in workers}
    assert [process.returncode for process in workers] == [0, 0, 0]
    assert printed == {data.load(folder).provenance.fingerprint + "\n"}
    assert len(cache_entries()) == 1


def test_the_slower_of_two_uses_what_the_faster_made(folder, monkeypatch):
    write, faster = runs.write_json, []

    def overtaken(path, value):
        if not faster:
            faster.append("under way")
            faster[0] = data.load(folder).cache.stat().st_ino
        write(path, value)

    monkeypatch.setattr(runs, "write_json", overtaken)
    slower = data.load(folder)
    assert len(slower.train) == 90
    assert faster == [slower.cache.stat().st_ino]
    assert cache_entries() == [slower.cache]


def test_a_data_folder_that_cannot_be_written(folder, monkeypatch, tmp_path):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    monkeypatch.setenv("CIFAR_UTILS_DATA_DIR", str(tmp_path / "blocked"))
    refused(folder, "cannot write the image cache", "set CIFAR_UTILS_DATA_DIR")


@pytest.mark.parametrize("number", [13, 28, 30])
def test_a_full_or_read_only_disk(folder, monkeypatch, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(data, "_write", fail)
    refused(folder, "cannot write the image cache", os.strerror(number), "CIFAR_UTILS_DATA_DIR")
    assert cache_entries() == []


# What one asks about it


def test_class_counts(folder):
    counts = data.class_counts(data.load(folder))
    expected = {"train": [9] * 10, "validation": [1] * 10, "test": [2] * 10}
    assert {name: count.tolist() for name, count in counts.items()} == expected


def test_class_counts_has_a_place_for_absent_classes(folder):
    dataset = data.load(folder)
    few = dataclasses.replace(dataset, train=dataset.train.first(3))
    assert data.class_counts(few)["train"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_names():
    assert data.names(np.arange(10)) == [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ]  # fmt: skip
    assert data.names(np.array([9, 3])) == ["truck", "cat"]


@given(st.integers(1, 30), st.integers(0, 5))
@relaxed
def test_pixel_statistics_agree_with_numpy(count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 5, 4, 3), np.uint8)
    found = data.pixel_statistics(images)
    np.testing.assert_allclose(found["mean"], images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(found["std"], images.std(axis=(0, 1, 2)))
    np.testing.assert_allclose(found["unit_mean"], (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(found["unit_std"], (images / 255).std(axis=(0, 1, 2)))


def test_pixel_histogram_counts_across_pieces():
    images = np.zeros((2500, 2, 2, 3), np.uint8)
    images[2400:, 0, 0] = (1, 2, 255)
    histogram = data.pixel_histogram(images)
    assert histogram.shape == (3, 256)
    assert histogram[:, 0].tolist() == [9900] * 3
    assert [histogram[0, 1], histogram[1, 2], histogram[2, 255]] == [100] * 3
    assert histogram.sum() == 30_000


def test_sample(folder):
    train = data.load(folder).train
    drawn = data.sample(train)
    assert drawn.images.shape == (25, 32, 32, 3)
    assert len(set(content(drawn))) == 25
    assert set(content(drawn)) <= set(content(train))
    assert content(drawn) == content(data.sample(train, 25, seed=0))
    assert content(drawn) != content(data.sample(train, 25, seed=1))
    assert len(data.sample(train, 1000)) == 90


def test_first(folder):
    train = data.load(folder).train
    assert len(train.first(7)) == 7
    assert len(train.first(None)) == len(train.first(1000)) == 90
    assert np.shares_memory(train.first(7).images, train.images)


def test_describe(folder, layout):
    dataset = data.load(folder)
    lines = dict(data.describe(dataset))
    on_disk = sum(file_of(folder, name).stat().st_size for name in NAMES)
    assert lines["source"] == f"{folder} ({on_disk / 1e6:.1f} MB on disk)"
    assert lines["layout"] == layout
    assert lines["data"].startswith("modified (")
    assert lines["images"] == "120: 90 train, 10 validation, 20 test"
    assert lines["size"] == "32 x 32 x 3 uint8, 0.4 MB in all"
    assert lines["fingerprint"] == f"sha256 {dataset.provenance.fingerprint}"
    assert lines["cache"] == f"{dataset.cache} (0.4 MB on disk)"
    assert "archive" not in lines


def test_describe_synthetic():
    lines = dict(data.describe(data.load("synthetic", SMOKE)))
    assert lines["source"] == "synthetic"
    assert lines["data"] == "synthetic (drawn pictures, not CIFAR-10)"


def test_describe_an_archive(tmp_path):
    archive = packed(tmp_path / "images.tar.gz", "binary")
    lines = dict(data.describe(data.load(archive)))
    assert lines["source"] == f"{archive} (0.4 MB on disk)"
    assert lines["archive"] == f"sha256 {hashlib.sha256(archive.read_bytes()).hexdigest()}"
    assert "downloaded" not in lines


# Verifying


def states(source="auto"):
    return {check.path.name: check.state for check in data.verify(source)}


def keeping_its_times(path, change):
    """Change a file as a failing disk does: unnoticed by size and time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(content):
    content[len(content) // 2] ^= 1


CACHED = {"images.npy": "ok", "labels.npy": "ok", "provenance.json": "ok"}


def test_verify_without_known_checksums_is_no_error(folder, layout):
    files = {path.name: "modified" for path in (file_of(folder, name) for name in NAMES)}
    names = {"binary": "batches.meta.txt", "python": "batches.meta"}[layout]
    assert states(folder) == files | {names: "ok"}
    assert states(folder.parent) == files | {names: "ok"}
    data.load(folder)
    assert states(folder) == files | {names: "ok"} | CACHED
    assert {check.path.name: check.bytes for check in data.verify(folder)} == {
        path.name: path.stat().st_size
        for path in [*folder.iterdir(), *(data.load(folder).cache / name for name in CACHED)]
    }


def test_verify_knows_official_files(tmp_path, monkeypatch):
    files = fake_archives.python_files(some_records())
    known = {name: hashlib.md5(files[name]).hexdigest() for name in NAMES}
    monkeypatch.setattr(archives, "OFFICIAL_MD5", known)
    folder = fake_archives.write(tmp_path / "images", files)
    assert set(states(folder).values()) == {"ok"}
    records = some_records()
    records[1, 5, 9] ^= 1
    write_python(folder, records)
    assert [name for name, state in states(folder).items() if state == "modified"] == [NAMES[1]]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 5000)])
def test_verify_finds_damaged_files(folder, damage):
    data.load(folder)
    path = file_of(folder)
    damage(path)
    found = [check for check in data.verify(folder) if check.state == "DAMAGED"]
    assert [check.path for check in found] == [path]
    assert str(path) in found[0].note
    assert "cifar data fetch" in found[0].note
    assert "images.npy" not in states(folder)


def test_verify_an_archive(tmp_path, layout, monkeypatch):
    archive = packed(tmp_path / "images.tar.gz", layout)
    assert states(archive) == {archive.name: "modified"}
    data.load(archive)
    assert states(archive) == {archive.name: "modified"} | CACHED
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "official", lambda: {sha256: None})
    (check, *_) = data.verify(archive)
    assert (check.state, check.bytes) == ("ok", archive.stat().st_size)
    assert "official" in check.note


def test_verify_knows_the_archives_of_the_mirrors(tmp_path, monkeypatch):
    archive = packed(paths.data_dir() / "class.tar.gz", "python")
    url = "http://127.0.0.1:9/class.tar.gz"
    fake_archives.list_source(tmp_path / "class.toml", url, monkeypatch, archive)
    (check,) = data.verify()
    assert (check.path, check.state) == (archive, "ok")
    assert "CIFAR_UTILS_MIRRORS" in check.note


def test_verify_finds_a_damaged_archive(tmp_path, layout):
    archive = packed(tmp_path / "images.tar.gz", layout)
    keeping_its_times(archive, flip)
    (check,) = data.verify(archive)
    assert check.state == "DAMAGED"
    assert str(archive) in check.note
    assert "cifar data fetch" in check.note


def test_verify_finds_an_archive_that_changed_behind_the_cache(tmp_path):
    archive = packed(tmp_path / "images.tar.gz", "python")
    data.load(archive)
    # The time in the header of gzip, which leaves the images as they were.
    keeping_its_times(archive, lambda content: content.__setitem__(4, content[4] ^ 1))
    assert states(archive) == {archive.name: "DAMAGED"} | CACHED
    assert "has changed since it was read" in data.verify(archive)[0].note


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("damage", [lambda path: keeping_its_times(path, flip), Path.unlink])
def test_verify_finds_a_damaged_cache(folder, name, damage):
    dataset = data.load(folder)
    expected = dict(states(folder))
    damage(dataset.cache / name)
    assert states(folder) == expected | {name: "DAMAGED"}
    (note,) = [check.note for check in data.verify(folder) if check.path.name == name]
    assert f"remove {dataset.cache}, the next load makes it anew" in note
    shutil.rmtree(dataset.cache)
    data.load(folder)
    assert states(folder) == expected


@pytest.mark.parametrize("sums", [None, b"", b"nonsense\n", b"\xff\xfe"])
def test_a_cache_without_its_checksums_is_damaged(folder, sums):
    path = data.load(folder).cache / "SHA256SUMS"
    path.unlink() if sums is None else path.write_bytes(sums)
    found = states(folder)
    assert {name: found[name] for name in CACHED} == dict.fromkeys(CACHED, "DAMAGED")


def test_the_checksums_are_what_sha256sum_reads(folder):
    cache = data.load(folder).cache
    lines = (cache / "SHA256SUMS").read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256((cache / name).read_bytes()).hexdigest()}  {name}" for name in CACHED
    ]


def test_verify_needs_files():
    with pytest.raises(DataError, match=r"no CIFAR-10 images in .*cifar data fetch"):
        data.verify()
    with pytest.raises(ParameterError, match="synthetic set has no files"):
        data.verify("synthetic")


# How the tests on real images are chosen

REAL_TESTS = Path(__file__).parents[1] / "real" / "test_real_data.py"


def collect_real(*options):
    environment = {
        name: value for name, value in os.environ.items() if name != "CIFAR_UTILS_TEST_DATA"
    }
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options, str(REAL_TESTS)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_asking_for_real_tests_without_images_fails():
    finished = collect_real("-m", "real_data")
    assert finished.returncode != 0
    assert "CIFAR_UTILS_TEST_DATA" in finished.stdout + finished.stderr


def test_without_images_real_tests_are_deselected_not_passed():
    finished = collect_real()
    assert finished.returncode == 5
    assert "deselected" in finished.stdout
