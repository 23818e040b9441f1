import gzip
import hashlib
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar_utils import archives
from cifar_utils.errors import DataError
from tests.unit import fake_archives as fake

# Nothing here depends on time or on a fresh fixture an example.
relaxed = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(archives, "RECORDS_PER_FILE", fake.RECORDS)


@pytest.fixture(params=fake.FILES)
def layout(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images.tar.gz"


@pytest.fixture
def genuine(layout):
    return fake.members(layout, fake.some_records())


def read(path):
    """Return layout and records of everything in an archive, and the digest that came of it."""
    digest = hashlib.sha256()
    batches = sorted(archives.find(path).batches(digest), key=lambda batch: batch.place)
    assert [batch.place for batch in batches] == list(range(6))
    (layout,) = {batch.layout for batch in batches}
    return layout, np.stack([np.column_stack(batch[2:4]) for batch in batches]), digest.hexdigest()


def refused(path, *words):
    """Return the message of the error that reading ends in, which has all the words."""
    with pytest.raises(DataError) as caught:
        read(path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    return str(caught.value)


# What is read


@pytest.mark.parametrize("folder", [None, "", ".", "./cifar-10-batches-{}"])
def test_an_archive_gives_its_images(path, layout, folder):
    folder = folder and folder.format("py" if layout == "python" else "bin")
    fake.pack(path, fake.members(layout, fake.some_records(), folder))
    found, records, digest = read(path)
    assert found == layout
    np.testing.assert_array_equal(records, fake.some_records())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


@given(st.permutations(range(7)))
@settings(relaxed, max_examples=20)
def test_the_order_of_members_does_not_matter(path, layout, order):
    members = fake.members(layout, fake.some_records())
    fake.pack(path, [members[place] for place in order])
    np.testing.assert_array_equal(read(path)[1], fake.some_records())


def test_other_plain_members_are_passed_over(path, genuine):
    others = [
        fake.member("cifar-10-batches-py", type=tarfile.DIRTYPE),
        fake.member("cifar-10-batches-py/readme.html", b"<html>" * 1000),
        fake.member("cifar-10-batches-py/._data_batch_1", b"what macOS adds"),
        fake.member("elsewhere/data_batch_1", b"not in the official folder"),
    ]
    fake.pack(path, [*others, *genuine])
    np.testing.assert_array_equal(read(path)[1], fake.some_records())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_packs_is_read(tmp_path, path, layout, form):
    folder = fake.write(tmp_path / "images", fake.FILES[layout](fake.some_records()))
    with tarfile.open(path, "w:gz", format=form) as tar:
        tar.add(folder, arcname=archives.FOLDERS[layout])
    np.testing.assert_array_equal(read(path)[1], fake.some_records())


def test_several_streams_and_padding_are_one_archive(path, genuine):
    plain = fake.tar(genuine)
    path.write_bytes(gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]) + bytes(100))
    _, records, digest = read(path)
    np.testing.assert_array_equal(records, fake.some_records())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_official_files_are_known_in_an_archive_too(path, monkeypatch):
    files = fake.python_files(fake.some_records())
    known = {name: hashlib.md5(files[name]).hexdigest() for name in fake.NAMES[:-1]}
    monkeypatch.setattr(archives, "OFFICIAL_MD5", known | {fake.NAMES[-1]: "0" * 32})
    fake.pack(path, fake.members("python", fake.some_records()))
    found = {batch.place: batch.official for batch in archives.find(path).batches(hashlib.sha256())}
    assert found == {0: True, 1: True, 2: True, 3: True, 4: True, 5: False}


def test_the_identity_changes_with_the_file(path, genuine):
    source = archives.find(fake.pack(path, genuine))
    before = source.identity()
    assert source.identity() == before
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert source.identity() != before


# What no official archive has

SPECIAL = {
    "symbolic link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "hard link": {"type": tarfile.LNKTYPE, "linkname": "cifar-10-batches-py/data_batch_2"},
    "character device": {"type": tarfile.CHRTYPE},
    "block device": {"type": tarfile.BLKTYPE},
    "fifo": {"type": tarfile.FIFOTYPE},
    "contiguous": {"type": tarfile.CONTTYPE},
    "unknown": {"type": b"Z"},
}


@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "readme.html"])
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("last", [False, True])
def test_special_members_are_refused_wherever_they_are(path, genuine, kind, name, last):
    special = fake.member(name, **SPECIAL[kind])
    rest = [each for each in genuine if each[0].name != name]
    fake.pack(path, [*rest, special] if last else [special, *rest])
    refused(path, repr(name), "a link, a device or another special file", "do not trust it")


def test_sparse_members_are_refused(path, genuine):
    genuine[0][0].pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "5"}
    fake.pack(path, genuine)
    refused(path, "special file")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "/cifar-10-batches-py/data_batch_1",
        "../data_batch_1",
        "cifar-10-batches-py/../data_batch_1",
        "cifar-10-batches-py/../../readme.html",
        "..",
    ],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_names_that_lead_elsewhere_are_refused(path, genuine, name, kind):
    fake.pack(path, [*genuine, fake.member(name, type=kind)])
    refused(path, repr(name), "points out of the archive", "do not trust it")


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_member_that_is_too_large_is_not_even_unpacked(path, genuine, place, monkeypatch):
    monkeypatch.setattr(archives, "_content", lambda tar, member: pytest.fail("was read"))
    genuine[place][0].size = archives.MAX_MEMBER_BYTES + 1
    fake.pack(path, genuine[place : place + 1])
    refused(path, repr(genuine[place][0].name), "has 32,000,001 bytes; expected at most 32,000,000")


def unpacked_bytes(monkeypatch):
    """Return a list that grows by the size of every piece that is decompressed."""
    counted = []
    whole = gzip.GzipFile.read

    def count(self, size=-1):
        content = whole(self, size)
        counted.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", count)
    return counted


BOMBS = {
    "in a member": lambda zeros, genuine: fake.tar([fake.member("readme.html", zeros), *genuine]),
    "behind the members": lambda zeros, genuine: fake.tar(genuine) + zeros,
    "in a pax header": lambda zeros, genuine: fake.tar(
        [fake.member("x", zeros, type=tarfile.XHDTYPE), *genuine]
    ),
    "in a long name": lambda zeros, genuine: fake.tar(
        [fake.member("x", zeros, type=tarfile.GNUTYPE_LONGNAME), *genuine]
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_left_early(path, genuine, bomb, monkeypatch):
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1_000_000)
    path.write_bytes(gzip.compress(BOMBS[bomb](bytes(20_000_000), genuine)))
    assert path.stat().st_size < 800_000
    counted = unpacked_bytes(monkeypatch)
    refused(path, "unpacks to more than 1,000,000 bytes")
    assert sum(counted) < 1_600_000


def test_too_many_members_are_refused(path, genuine):
    others = [fake.member(f"{number}.txt") for number in range(archives.MAX_MEMBERS - 6)]
    fake.pack(path, [*others, *genuine])
    refused(path, "more than 100 members")
    fake.pack(path, [*others[1:], *genuine])
    assert read(path)[1].shape == (6, fake.RECORDS, 3073)


@pytest.mark.parametrize(
    "names", [["readme.html"] * 2, ["readme.html", "./readme.html"], ["a/b", "a//b"]]
)
def test_the_same_name_twice_is_refused(path, genuine, names):
    fake.pack(path, [*genuine, *map(fake.member, names)])
    refused(path, "is there twice; expected once")


def test_an_official_file_twice_is_refused(path, genuine):
    header, content = genuine[3]
    again = fake.member(header.name.rpartition("/")[2], content)
    for second in ((header, content), again):
        fake.pack(path, [*genuine, second])
        refused(path, repr(second[0].name), "is there twice")


def test_both_versions_in_one_archive_are_refused(path):
    records = fake.some_records()
    fake.pack(path, fake.members("python", records) + fake.members("binary", records))
    refused(path, "holds both versions of CIFAR-10")


@pytest.mark.parametrize("place", range(6))
def test_a_missing_file_is_named(path, genuine, place):
    fake.pack(path, genuine[:place] + genuine[place + 1 :])
    refused(path, f"it lacks {fake.NAMES[place]}; expected all six", "cifar data fetch")


def test_a_folder_named_like_a_file_is_no_file(path, genuine):
    fake.pack(path, [fake.member(genuine[0][0].name, type=tarfile.DIRTYPE), *genuine[1:]])
    refused(path, "it lacks data_batch_1;")


def test_another_data_set_is_refused(path):
    fake.pack(path, [fake.member(f"cifar-100-python/{name}", b"1") for name in ("train", "test")])
    refused(path, "it lacks data_batch_1, data_batch_2", "expected all six files of CIFAR-10")


def test_what_is_wrong_inside_a_file_is_told_with_the_archive(path, genuine, layout):
    place = 2
    records = fake.some_records()
    records[place, 7, 0] = 10
    fake.pack(path, fake.members(layout, records))
    name = genuine[place][0].name.rpartition("/")[2]
    refused(path, f"record 7 of {name} has label 10; expected 0 to 9; remove it and get the arch")


class Attack:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_a_pickle_that_runs_a_command_is_refused(tmp_path, path, name):
    files = fake.python_files(fake.some_records())
    files[name] = pickle.dumps({b"data": Attack(f"touch {tmp_path / 'ran'}")}, 2)
    fake.pack(path, [fake.member(*file) for file in files.items()])
    refused(path, "posix.system, which no CIFAR-10 file needs; do not trust it")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("listed", [5, None, [1, 2], [b"\xff"], {b"airplane": 1}])
def test_class_names_of_another_form_are_refused(path, listed):
    files = fake.python_files(fake.some_records())
    files["batches.meta"] = pickle.dumps({b"label_names": listed}, 2)
    fake.pack(path, [fake.member(*file) for file in files.items()])
    refused(path, "batches.meta names the classes", "expected airplane, automobile")


# Damage


@given(share=st.floats(0, 1, exclude_max=True))
@relaxed
def test_an_archive_cut_anywhere_is_noticed(path, genuine, share):
    whole = fake.pack(path, genuine).read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@relaxed
def test_a_changed_byte_gives_an_error_or_the_same_images(path, genuine, place, change):
    content = bytearray(fake.pack(path, genuine).read_bytes())
    content[int(place * len(content))] ^= change
    path.write_bytes(content)
    try:
        _, records, digest = read(path)
    except DataError:
        return
    # The header of gzip has a time and flags that no checksum covers.
    np.testing.assert_array_equal(records, fake.some_records())
    assert digest == hashlib.sha256(content).hexdigest()


@given(
    headers=st.lists(
        st.tuples(
            st.text(max_size=120) | st.sampled_from(["data_batch_1", "test_batch.bin"]),
            st.binary(min_size=1, max_size=1) | st.sampled_from([b"x", b"g", b"L", b"K", b"S"]),
            st.integers(-(2**40), 2**60) | st.integers(0, 600),
            st.binary(max_size=700),
        ),
        max_size=6,
    )
)
@settings(relaxed, max_examples=300)
def test_hostile_headers_end_in_an_error_of_ours(path, headers):
    hostile = []
    for name, kind, size, content in headers:
        header = tarfile.TarInfo(name)
        header.type, header.size = kind, size
        hostile.append((header.tobuf(tarfile.GNU_FORMAT, errors="surrogatepass"), content))
    plain = b"".join(header + content + bytes(-len(content) % 512) for header, content in hostile)
    path.write_bytes(gzip.compress(plain + bytes(1024)))
    refused(path)


@pytest.mark.parametrize("size", [-1, -513, -(2**40), 2**50, 2**60])
@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S", b"q"])
def test_a_member_of_a_size_beyond_reason_is_refused(path, kind, size):
    header = tarfile.TarInfo("data_batch_1")
    header.type, header.size = kind, size
    first, last = (tarfile.TarInfo("readme.html").tobuf(tarfile.GNU_FORMAT) for _ in range(2))
    hostile = header.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(gzip.compress(first + hostile + last + bytes(2048)))
    refused(path, "do not trust the archive")


@pytest.mark.parametrize("content", [b"", b"no tar" * 1000, bytes(10_000), b"<html>503</html>"])
def test_gzip_of_something_else_is_refused(path, content):
    path.write_bytes(gzip.compress(content))
    refused(path, "cifar data fetch")


def test_a_disk_that_fails_is_not_called_a_damaged_archive(path, genuine, monkeypatch):
    def fail(self, size=-1):
        raise OSError(5, "Input/output error")

    source = archives.find(fake.pack(path, genuine))
    monkeypatch.setattr(archives._Hashed, "read", fail)
    with pytest.raises(DataError, match=r"cannot read .*: Input/output error; check"):
        list(source.batches(hashlib.sha256()))


# Finding one


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"<!DOCTYPE html><html>503</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text"),
        (b"PK\x03\x04" + bytes(50), "packed"),
        (fake.tar([]), ""),
        (b"", ""),
    ],
)
def test_a_file_that_is_no_archive(path, content, looks):
    path.write_bytes(content)
    refused(path, "is a file but no .tar.gz", looks, "expected a CIFAR-10 archive or the folder")


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    refused(path, "is a file but no .tar.gz")


def test_an_archive_in_a_folder_is_found_after_what_is_unpacked(tmp_path, layout, genuine):
    archive = fake.pack(tmp_path / archives.ARCHIVES[layout], genuine)
    assert archives.find(tmp_path) == archives.Source(archive)
    folder = tmp_path / archives.FOLDERS[layout]
    fake.write(folder, fake.FILES[layout](fake.some_records()))
    assert archives.find(tmp_path) == archives.Source(folder, layout)


def test_both_archives_in_a_folder_are_ambiguous(tmp_path):
    for name in archives.ARCHIVES.values():
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"holds both versions .*python\.tar\.gz and .*name the one"
    ):
        archives.find(tmp_path)


def pointers():
    """Return a pickle whose dtype says that the bytes of an array are pointers to objects."""

    class Spelled:
        def __init__(self, *parts):
            self.parts = parts

        def __reduce__(self):
            return self.parts

    dtype = Spelled(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 1))
    rebuild = np.array([1]).__reduce__()[0]
    state = (1, (2,), dtype, False, b"A" * 16)
    return pickle.dumps({"data": Spelled(rebuild, (np.ndarray, (0,), b"b"), state)}, protocol=2)


def test_a_pickle_cannot_make_pointers_of_its_bytes(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pointers())
    with pytest.raises(DataError, match="is object"):
        archives.read_file(path, "python")


def test_a_pickle_cannot_ask_for_more_memory_than_it_has_bytes(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02]r" + struct.pack("<I", 60_000_000) + b".")
    with pytest.raises(DataError, match="numbers a value 60000000; do not trust it"):
        archives.read_file(path, "python")


def test_a_pickle_of_nothing_but_instructions_is_given_up_soon(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02" + b"N" * 1_000_000 + b".")
    with pytest.raises(DataError, match="more than 200,000 instructions"):
        archives.read_file(path, "python")


# CIFAR-100


@pytest.mark.parametrize("name", archives.CIFAR100_MD5)
def test_cifar100_is_read_from_both_layouts(tmp_path, monkeypatch, name):
    path = fake.cifar100(tmp_path / name)
    with pytest.raises(DataError, match=f"expected {archives.CIFAR100_MD5[name]}; remove it"):
        archives.cifar100(path)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(archives.CIFAR100_MD5, name, md5)
    images, labels = archives.cifar100(path)
    records = fake.cifar100_records(fake.RECORDS)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(labels, records[:, 1])
    # Row 4 and column 5 of the green plane, which is the second of three.
    np.testing.assert_array_equal(images[:, 4, 5, 1], records[:, 2 + 1024 + 4 * 32 + 5])


def test_a_cifar100_pickle_goes_through_the_allow_list(tmp_path, monkeypatch):
    name = "cifar-100-python.tar.gz"
    hostile = fake.member("cifar-100-python/train", pickle.dumps({b"data": Path("x")}, 2))
    path = fake.pack(tmp_path / name, [hostile])
    monkeypatch.setitem(archives.CIFAR100_MD5, name, hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="which no CIFAR-10 file needs"):
        archives.cifar100(path)
