"""The store of compiled kernels: what goes in comes out checked, whatever happens to the folder in between."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from attncc.errors import InputError, InternalError
from attncc.runtime.cache import Store, default_store, digest
from attncc.runtime.manifest import FORMAT, MANIFEST, canonical, make_entry, sha256
from tests.share import SEED, share

IDENTITY = {"kind": "test", "program": "ab" * 32, "warps": 4}
FACTS = {"registers": 128, "spills": 0}
FILES = {"kernel.cubin": random.Random(SEED).randbytes(20_000), "kernel.py": b"# a kernel\n"}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache")


def publish(store: Store, number: int = 0, size: int = 1000) -> str:
    return store.publish(IDENTITY | {"number": number}, FACTS, {"kernel.cubin": bytes(size)}).key


def test_an_entry_comes_back_as_it_was_published(store):
    published = store.publish(IDENTITY, FACTS, FILES)
    assert published.key == digest(IDENTITY)
    assert store.load(published.key) == published
    assert Store(store.folder).load(published.key) == published


def test_an_empty_store_has_nothing(store):
    assert store.load(digest(IDENTITY)) is None
    assert store.survey() == []


def test_the_key_depends_on_every_part_of_the_identity():
    parts = [
        IDENTITY,
        IDENTITY | {"warps": 8},
        IDENTITY | {"warps": 4.0},
        IDENTITY | {"warps": True},
        IDENTITY | {"x": None},
    ]
    assert len({digest(part) for part in parts}) == len(parts)
    assert digest(dict(reversed(IDENTITY.items()))) == digest(IDENTITY)


def test_what_json_cannot_say_is_refused(store):
    for value in (float("nan"), b"bytes", {1, 2}):
        with pytest.raises(InternalError, match="cannot be written into a cache"):
            store.publish({"value": value}, {}, {})


@pytest.mark.parametrize("name", ["../kernel", "/tmp/kernel", ".hidden", MANIFEST, "a/b", ""])
def test_a_file_name_that_could_leave_the_folder_is_refused(store, name):
    with pytest.raises(InternalError, match="file names"):
        store.publish(IDENTITY, {}, {name: b""})


def test_publishing_twice_keeps_one_whole_entry(store):
    first, second = store.publish(IDENTITY, FACTS, FILES), store.publish(IDENTITY, FACTS, FILES)
    assert first == second == store.load(first.key)
    assert store.all_keys() == [first.key]
    assert list((store.folder / "tmp").iterdir()) == []


def test_the_same_entry_has_the_same_bytes(tmp_path):
    entries = [Store(tmp_path / name).publish(IDENTITY, FACTS, FILES).key for name in "ab"]
    texts = {Store(tmp_path / name).path(entries[0]).joinpath(MANIFEST).read_bytes() for name in "ab"}
    assert len(texts) == 1


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_every_changed_byte_of_a_manifest_is_noticed(store):
    entry = store.publish(IDENTITY, FACTS, FILES)
    path = store.path(entry.key)
    manifest = (path / MANIFEST).read_bytes()
    chosen = random.Random(SEED).sample(range(len(manifest)), share(len(manifest)))
    for position in chosen:
        flip(path / MANIFEST, position, position % 8)
        assert store.load(entry.key) is None, position
        assert not path.exists()
        store.publish(IDENTITY, FACTS, FILES)
    assert store.load(entry.key) == entry


def test_changed_bytes_of_a_payload_are_noticed(store):
    entry = store.publish(IDENTITY, FACTS, FILES)
    file = store.path(entry.key) / "kernel.cubin"
    whole, dice = file.read_bytes(), random.Random(SEED)
    reader = Store(
        store.folder, writable=False
    )  # leaves the damaged entry where it is, so that only bytes are rewritten
    for _ in range(share(10_000)):
        position, bit = dice.randrange(len(whole)), dice.randrange(8)
        with file.open("r+b") as opened:
            opened.seek(position)
            opened.write(bytes([whole[position] ^ 1 << bit]))
        assert reader.load(entry.key) is None, (position, bit)
        with file.open("r+b") as opened:
            opened.seek(position)
            opened.write(whole[position : position + 1])
    assert reader.load(entry.key) == entry


@pytest.mark.parametrize("name", [MANIFEST, "kernel.cubin", "kernel.py"])
@pytest.mark.parametrize("harm", ["remove", "truncate", "empty", "extend", "folder", "link"])
def test_a_half_written_or_foreign_entry_is_built_anew(store, name, harm, caplog, tmp_path):
    entry = store.publish(IDENTITY, FACTS, FILES)
    file = store.path(entry.key) / name
    whole = file.read_bytes()
    if harm == "extend":
        file.write_bytes(whole + b"\n")
    elif harm == "truncate":
        file.write_bytes(whole[:-1])
    else:
        file.unlink()
        {"empty": file.touch, "folder": file.mkdir, "remove": lambda: None}.get(
            harm, lambda: file.symlink_to(tmp_path)
        )()
    with caplog.at_level(logging.INFO, logger="attncc"):
        assert store.load(entry.key) is None
    assert [record.getMessage().count("built anew") for record in caplog.records] == [1]
    assert store.publish(IDENTITY, FACTS, FILES) == store.load(entry.key)


def test_an_entry_under_another_key_is_foreign(store):
    entry = store.publish(IDENTITY, FACTS, FILES)
    other = digest(IDENTITY | {"warps": 8})
    store.path(other).parent.mkdir(parents=True, exist_ok=True)
    store.path(entry.key).rename(store.path(other))
    assert store.load(other) is None
    assert store.load(entry.key) is None


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../outside": {"size": 6, "sha256": sha256(b"secret")}}},
        {"files": {"kernel.cubin": 3}},
        {"facts": []},
        {"format": FORMAT + 1},
    ],
)
def test_a_manifest_with_a_right_digest_may_still_not_say_everything(store, change):
    entry = store.publish(IDENTITY, FACTS, FILES)
    (store.folder / "entries" / "outside").write_bytes(b"secret")
    path = store.path(entry.key) / MANIFEST
    body = json.loads(path.read_text()) | change
    del body["digest"]
    path.write_text(canonical(body | {"digest": sha256(canonical(body).encode())}))
    assert store.load(entry.key) is None


@pytest.mark.parametrize("data", [b"", b"null", b"[" * 100_000, b"{}", b"\xff\xfe", b"1" * 2_000_000])
def test_what_is_no_manifest_is_noticed(store, data):
    entry = store.publish(IDENTITY, FACTS, FILES)
    (store.path(entry.key) / MANIFEST).write_bytes(data)
    assert store.load(entry.key) is None


def test_a_damaged_entry_in_the_way_is_replaced(store):
    entry = make_entry(IDENTITY, FACTS, FILES)
    for make in (lambda path: path.mkdir(), lambda path: path.write_text("a file"), lambda path: path.symlink_to("/")):
        shutil.rmtree(store.folder / "entries", ignore_errors=True)
        store.path(entry.key).parent.mkdir(parents=True)
        make(store.path(entry.key))
        store.keep(entry)
        assert store.load(entry.key) == entry


def test_the_folder_belongs_to_its_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        store = Store(tmp_path / "deep" / "cache")
        publish(store)
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    for folder in store.folder.iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o720, 0o702])
def test_a_folder_that_others_can_write_is_refused(tmp_path, mode):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(InputError, match=r"can be written by other users \(mode"):
        Store(folder)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o500])
def test_a_folder_that_others_can_only_read_is_fine(tmp_path, mode):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    key = publish(Store(folder))
    folder.chmod(0o700)
    assert len(key) == 64


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o700)
    owner = (tmp_path / "cache").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        Store(tmp_path / "cache")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        Store(tmp_path / "cache")


READ_ONLY = """
import logging, os, sys
from pathlib import Path
import filelock
from attncc.runtime.cache import Store
{demote}
logging.basicConfig(stream=sys.stdout, format="LOG %(message)s")
folder, old = Path(sys.argv[1]), sys.argv[2]
store = Store(folder)
assert store.load(old) is not None
keys = [store.publish({{"new": number}}, {{}}, {{"file": b"data"}}).key for number in range(3)]
assert all(store.load(key).files == {{"file": b"data"}} for key in keys)
with store.lock(keys[0]):
    pass
assert store.all_keys() == [old]
print("PRIVATE", store._overlay.folder)
"""


def _open_parents(folder):
    """Let other users pass through the folders above, which pytest keeps private, one more of them in xdist."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent.is_relative_to(Path(tempfile.gettempdir()).resolve()):
            parent.chmod(parent.stat().st_mode | 0o011)


def test_a_read_only_folder_is_read_and_new_entries_last_as_long_as_the_process(tmp_path, repository):
    store = Store(tmp_path / "cache")
    key = publish(store)
    demote = ""
    if os.geteuid() == 0:  # root may write anywhere, so the test runs as nobody
        demote = "os.setgid(65534); os.setuid(65534)"
        for path in (store.folder, *store.folder.rglob("*")):
            os.chown(path, 65534, 65534)
        _open_parents(store.folder)
    for path in store.folder.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    store.folder.chmod(0o500)
    code = READ_ONLY.format(demote=demote)
    done = subprocess.run(
        [sys.executable, "-c", code, store.folder, key], capture_output=True, text=True, cwd=repository, timeout=60
    )
    for path in (store.folder, *store.folder.rglob("*")):
        path.chmod(0o700)
    assert done.returncode == 0, done.stderr
    logged, private = done.stdout.splitlines()
    assert logged.startswith("LOG")
    assert "they last as long as this process" in logged
    assert not Path(private.split()[1]).exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders are not closed by a mode there")
def test_a_folder_below_a_closed_one_is_no_reason_to_stop(tmp_path, repository):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    demote = "os.setgid(65534); os.setuid(65534)" if os.geteuid() == 0 else ""
    code = f"import os, sys, filelock\nfrom pathlib import Path\nfrom attncc.runtime.cache import Store\n{demote}\n"
    code += "assert not Store(Path(sys.argv[1])).writable\n"
    command = [sys.executable, "-c", code, closed / "above" / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=60)
    closed.chmod(0o700)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "cache")
    assert "cannot be created" in caplog.text
    key = publish(store)
    assert store.load(key) is not None


def test_a_full_disk_is_no_reason_to_stop(store, monkeypatch, caplog):
    import attncc.runtime.cache as module

    def full(entry, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_entry", full)
    entry = store.publish(IDENTITY, FACTS, FILES)
    assert entry.files == FILES
    assert caplog.text.count("No space left on device") == 1
    assert list((store.folder / "tmp").iterdir()) == []


def test_the_least_recently_used_entries_go_first(tmp_path):
    store = Store(tmp_path / "cache", limit=5_000)
    keys = [publish(store, number) for number in range(3)]
    for age, key in enumerate(reversed(keys)):
        os.utime(store.path(key) / MANIFEST, times=(1e9 - age, 1e9 - age))
    store.load(keys[0])  # the oldest, but it was used just now
    newest = publish(store, 99)
    assert set(store.all_keys()) == {keys[0], keys[2], newest}
    assert sum(found.size for found in store.survey()) <= 5_000


def test_an_entry_larger_than_the_limit_still_serves(tmp_path):
    store = Store(tmp_path / "cache", limit=100)
    key = publish(store)
    assert store.load(key) is not None
    assert store.all_keys() == [key]


def test_what_killed_processes_left_is_swept_away(store):
    publish(store)
    for folder in ("tmp", "locks"):
        (store.folder / folder).mkdir(exist_ok=True)
    old, new = store.folder / "tmp" / "old", store.folder / "tmp" / "new"
    lock = store.folder / "locks" / "old.lock"
    for path in (old, new):
        path.mkdir()
        (path / "kernel.cubin").write_bytes(b"half")
    lock.touch()
    for path in (old, lock):
        os.utime(path, times=(time.time() - 7200,) * 2)
    store.shrink()
    assert (old.exists(), new.exists(), lock.exists()) == (False, True, False)


def test_a_survey_names_damage_and_removes_nothing(store):
    keys = sorted(publish(store, number) for number in range(3))
    flip(store.path(keys[0]) / "kernel.cubin", 5, 5)
    (store.path(keys[1]) / MANIFEST).unlink()
    assert {found.key: found.damage for found in store.survey()} == {
        keys[0]: None,  # only a survey of the whole entries reads their files
        keys[1]: "its manifest is missing",
        keys[2]: None,
    }
    damage = {found.key: found.damage for found in store.survey(whole=True)}
    assert damage[keys[0]] == "kernel.cubin is not as it was written"
    assert store.all_keys() == keys


def test_a_lock_keeps_others_out_and_is_never_needed(store, monkeypatch, caplog):
    import attncc.runtime.cache as module

    order, inside = [], threading.Event()

    def second():
        inside.wait()
        with store.lock("a" * 64):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with store.lock("a" * 64):
        inside.set()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.01)
    with store.lock("b" * 64), caplog.at_level(logging.INFO, logger="attncc"), store.lock("b" * 64):
        assert "may be built twice" in caplog.text


def test_a_store_reads_and_writes_without_heavy_libraries(tmp_path):
    code = f"""
    import sys
    from pathlib import Path
    from attncc.runtime.cache import Store
    store = Store(Path({str(tmp_path / "cache")!r}))
    key = store.publish({{"a": 1}}, {{}}, {{"file": b"data"}}).key
    assert store.load(key)
    heavy = "sympy lark jinja2 torch triton numpy rich filelock pickle".split()
    print(*[name for name in heavy if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_the_default_store_follows_the_settings(tmp_path, monkeypatch, fresh_settings):
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "chosen"))
    monkeypatch.setenv("ATTNCC_CACHE_SIZE", "3MiB")
    default_store.cache_clear()
    found = default_store()
    default_store.cache_clear()
    assert (found.folder, found.limit) == (tmp_path / "chosen", 3 << 20)
