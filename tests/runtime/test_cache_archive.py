"""A cache goes into a tar and comes out whole; a tar that means harm is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from attncc.errors import InputError
from attncc.runtime.archive import ROOT, export_entries, import_entries
from attncc.runtime.cache import Store
from attncc.runtime.manifest import MANIFEST


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "cache")
    for number in range(3):
        store.publish({"number": number}, {"registers": 8}, {"kernel.cubin": bytes([number]) * 500, "kernel.py": b"#"})
    return store


@pytest.fixture
def other(tmp_path) -> Store:
    return Store(tmp_path / "other")


def test_entries_go_out_and_come_in_whole(store, other, tmp_path):
    file = tmp_path / "cache.tar"
    assert export_entries(store, file) == store.all_keys()
    found = import_entries(other, file)
    assert (sorted(found.added), found.known, found.damaged) == (store.all_keys(), (), {})
    assert [other.load(key) for key in store.all_keys()] == [store.load(key) for key in store.all_keys()]
    assert sorted(import_entries(other, file).known) == store.all_keys()


def test_equal_entries_make_an_equal_tar(store, tmp_path):
    for name in "ab":
        export_entries(store, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_what_is_asked_for_and_whole_goes_out(store, tmp_path):
    first, second, third = store.all_keys()
    (store.path(second) / "kernel.cubin").write_bytes(b"changed")
    assert export_entries(store, tmp_path / "tar", [first, second]) == [first]
    assert export_entries(store, tmp_path / "tar") == [first, third]


def test_a_compressed_tar_is_read_too(store, other, tmp_path):
    export_entries(store, tmp_path / "cache.tar")
    with tarfile.open(tmp_path / "cache.tgz", "w:gz") as packed, tarfile.open(tmp_path / "cache.tar") as plain:
        for member in plain:
            packed.addfile(member, plain.extractfile(member))
    assert len(import_entries(other, tmp_path / "cache.tgz").added) == 3


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


KEY = "ab" * 32


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("/tmp/outside"),
        tarfile.TarInfo(f"{ROOT}/{KEY}/../../outside"),
        tarfile.TarInfo(f"{ROOT}/{KEY}/a/b"),
        tarfile.TarInfo(f"{ROOT}/{KEY}/.hidden"),
        tarfile.TarInfo(f"{ROOT}/{KEY}/kernel.cubin\n"),
        tarfile.TarInfo(f"{ROOT}/{KEY[:-1]}/kernel.cubin"),
        tarfile.TarInfo(f"./{ROOT}/{KEY}/kernel.cubin"),
        link(f"{ROOT}/{KEY}/kernel.cubin", tarfile.SYMTYPE),
        link(f"{ROOT}/{KEY}/kernel.cubin", tarfile.LNKTYPE),
        link(f"{ROOT}/{KEY}/kernel.cubin", tarfile.CHRTYPE),
        link(f"{ROOT}/{KEY}/kernel.cubin", tarfile.FIFOTYPE),
        link(f"{ROOT}/{KEY}/kernel.cubin", tarfile.DIRTYPE),
    ],
    ids=lambda member: f"{member.name[-25:]!r}-{member.type!r}",
)
def test_a_member_that_is_no_plain_file_under_a_key_refuses_the_tar(other, tmp_path, member):
    with pytest.raises(InputError, match="is no archive of a cache"):
        import_entries(other, write(tmp_path / "tar", (member, b"")))
    assert other.all_keys() == []
    assert not (tmp_path / "outside").exists()


def test_damaged_entries_are_named_and_left_out(store, other, tmp_path):
    export_entries(store, tmp_path / "good")
    members, keys = [], store.all_keys()
    with tarfile.open(tmp_path / "good") as tar:
        for member in tar:
            data = tar.extractfile(member).read()
            if member.name == f"{ROOT}/{keys[0]}/kernel.cubin":
                data = b"\xff" + data[1:]
            if member.name == f"{ROOT}/{keys[1]}/{MANIFEST}":
                data = data.replace(b'"registers": 8', b'"registers": 9')
            members.append((member, data))
    found = import_entries(other, write(tmp_path / "bad", *members))
    assert found.added == (keys[2],)
    assert sorted(found.damaged) == keys[:2]
    assert other.all_keys() == [keys[2]]


def test_a_manifest_or_a_file_that_is_missing_is_damage(store, other, tmp_path):
    export_entries(store, tmp_path / "good")
    first, second, third = store.all_keys()
    gone = {f"{ROOT}/{first}/{MANIFEST}", f"{ROOT}/{second}/kernel.py"}
    with tarfile.open(tmp_path / "good") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar if member.name not in gone]
    found = import_entries(other, write(tmp_path / "bad", *members))
    assert found.damaged == {first: "its manifest is missing", second: "kernel.py missing"}
    assert found.added == (third,)


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"\x1f\x8b" + bytes(50)])
def test_a_file_that_is_no_tar_is_refused(other, tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(InputError):
        import_entries(other, tmp_path / "file")


def test_a_tar_that_ends_early_is_refused(store, other, tmp_path):
    export_entries(store, tmp_path / "good")
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:2000])
    with pytest.raises(InputError):
        import_entries(other, tmp_path / "cut")


def test_a_file_that_is_missing_or_cannot_be_written_is_refused(store, other, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        import_entries(other, tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot be written"):
        export_entries(store, tmp_path / "nowhere" / "tar")
