import re
import tarfile

import pytest

from attncc.errors import InputError
from attncc.runtime.cache import Store, default_store
from attncc.runtime.manifest import MANIFEST
from tests.commands.runner import attncc


@pytest.fixture
def store(tmp_path, monkeypatch, fresh_settings):
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTNCC_CACHE_SIZE", "4MiB")
    default_store.cache_clear()
    for number, target in enumerate(("sm_80", "sm_90", "gfx942")):
        identity = {"kind": "triton", "entry": "forward", "target": target, "number": number}
        facts = {"source": "causal", "resources": {"registers": 168, "spills": 0, "shared": 49152}}
        default_store().publish(identity, facts, {"kernel.cubin": bytes(2000)})
    yield default_store()
    default_store.cache_clear()


def damage(store, key):
    (store.path(key) / "kernel.cubin").write_bytes(bytes(1999) + b"x")


def test_an_empty_cache_is_listed(tmp_path, monkeypatch, fresh_settings):
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "cache"))
    default_store.cache_clear()
    finished = attncc("cache", "ls")
    default_store.cache_clear()
    assert (finished.code, finished.out) == (0, "")
    assert finished.err == f"0 kernels, 0 B of 2.0 GiB, in {tmp_path / 'cache'}\n"


def test_kernels_are_listed_with_what_they_take(store):
    finished = attncc("cache", "ls")
    rows = [line.split() for line in finished.out.splitlines()]
    assert rows[0] == ["key", "kernel", "target", "registers", "spills", "shared", "size", "used"]
    assert sorted(row[0] for row in rows[1:]) == [key[:12] for key in store.all_keys()]
    assert {tuple(row[1:7]) for row in rows[1:]} == {
        ("causal", "forward", target, "168", "0", "49152") for target in ("sm_80", "sm_90", "gfx942")
    }
    assert re.fullmatch(r"3 kernels, \d\.\d KiB of 4\.0 MiB, in .*/cache\n", finished.err)


def test_json_lists_the_whole_manifest(store):
    found = attncc("cache", "ls", "--json").json
    assert [found["folder"], found["limit"]] == [str(store.folder), 4 << 20]
    assert sorted(entry["key"] for entry in found["entries"]) == store.all_keys()
    assert found["entries"][0]["facts"]["resources"]["registers"] == 168


def test_a_damaged_kernel_is_listed_as_such(store):
    key = store.all_keys()[0]
    (store.path(key) / MANIFEST).write_text("{")
    row = next(line.split() for line in attncc("cache", "ls").out.splitlines() if line.startswith(key[:12]))
    assert row[1] == "damaged"
    assert [one["damage"] for one in attncc("cache", "ls", "--json").json["entries"] if one["key"] == key] == [
        "its manifest cannot be understood"
    ]


def test_verify_is_content_with_a_whole_cache(store):
    finished = attncc("cache", "verify")
    assert (finished.code, finished.out) == (0, "3 kernels whole, 0 damaged\n")


def test_verify_names_what_is_damaged_and_removes_it_on_request(store):
    key = store.all_keys()[1]
    damage(store, key)
    finished = attncc("cache", "verify")
    assert finished.code == 1
    assert finished.out == f"damaged  {key[:12]}  kernel.cubin is not as it was written\n2 kernels whole, 1 damaged\n"
    assert key in store.all_keys()
    removed = attncc("cache", "verify", "--remove", "--json")
    assert removed.code == 1
    assert removed.json["damaged"] == [{"key": key, "damage": "kernel.cubin is not as it was written", "removed": True}]
    assert len(store.all_keys()) == 2
    assert attncc("cache", "verify").code == 0


def test_clear_asks_first(store):
    assert attncc("cache", "clear", stdin="n\n").code == 1
    assert len(store.all_keys()) == 3
    assert attncc("cache", "clear", stdin="y\n").code == 0
    assert store.all_keys() == []


def test_clear_takes_beginnings_of_keys(store):
    first, *others = store.all_keys()
    assert attncc("cache", "clear", first[:10], "--json").json["removed"] == [first]
    assert store.all_keys() == others
    assert attncc("cache", "clear", "--yes").code == 0
    assert store.all_keys() == []


def test_a_beginning_that_no_key_has_is_refused(store):
    finished = attncc("cache", "clear", "nothing")
    assert finished.code == 1
    assert "0 kernels have a key that begins with 'nothing'" in finished.err
    assert len(store.all_keys()) == 3


def test_a_cache_travels_as_a_tar(store, tmp_path):
    file = tmp_path / "kernels.tar"
    assert attncc("cache", "export", file).err == f"3 kernels written to {file}\n"
    assert attncc("cache", "clear", "--yes").code == 0
    added = attncc("cache", "import", file, "--json").json["added"]
    assert sorted(added) == store.all_keys()
    assert len(added) == 3
    assert attncc("cache", "import", file).err == f"0 kernels added to {store.folder}, 3 known already\n"
    assert attncc("cache", "verify").code == 0


def test_only_some_kernels_are_exported(store, tmp_path):
    key = store.all_keys()[2]
    assert attncc("cache", "export", tmp_path / "one.tar", key[:8], "--json").json["exported"] == [key]
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert len(tar.getnames()) == 2


def test_a_tar_that_leads_outside_is_refused(store, tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))
    finished = attncc("cache", "import", tmp_path / "evil.tar")
    assert finished.code == 1
    assert "InputError" in finished.err
    assert "it holds '../../evil'" in finished.err


def test_another_folder_can_be_named(store, tmp_path):
    other = Store(tmp_path / "other")
    assert attncc("cache", "export", tmp_path / "a.tar").code == 0
    assert attncc("cache", "import", tmp_path / "a.tar", "--folder", other.folder).code == 0
    assert other.all_keys() == store.all_keys()
    assert "there is no folder" in attncc("cache", "ls", "-f", tmp_path / "nowhere").err


def test_a_cache_that_others_can_write_is_refused(store):
    store.folder.chmod(0o777)
    default_store.cache_clear()
    finished = attncc("cache", "ls")
    store.folder.chmod(0o700)
    assert finished.code == 1
    assert "can be written by other users (mode 0777)" in finished.err
    assert "chmod 700" in finished.err
    assert InputError.__name__ in finished.err
