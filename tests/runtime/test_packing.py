"""A pack is compiled by several processes, goes on where it was interrupted, and runs where nothing may be compiled."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from attncc.config import settings
from attncc.errors import CompileError, InputError, UnsupportedError
from attncc.runtime import packing, triton_version
from attncc.runtime.cache import default_store
from attncc.runtime.pack import INDEX, open_pack
from attncc.runtime.packing import Done, Task, write_pack
from attncc.runtime.triton_build import available, build, forget
from tests.runtime.kernels import add_kernel, attend_kernel, broken_kernel

pytest.importorskip("triton")

TASKS = [
    Task(add_kernel(), "sm_80", {"variant": "one"}),
    Task(add_kernel(name="same", comment=""), "sm_80", {"variant": "two"}),
    Task(add_kernel(), "gfx942", {"variant": "one"}),
    Task(add_kernel(tile=256), "sm_90", {"variant": "one"}),
]


def test_a_pack_lists_what_it_holds(tmp_path):
    seen: list[Done] = []
    pack = write_pack(TASKS, tmp_path / "pack", observe=seen.append)
    assert sorted(done.target for done in seen) == ["gfx942", "sm_80", "sm_90"]
    assert pack.triton == triton_version.version()
    assert [row["key"] for row in pack.kernels] == pack.store.all_keys()
    row = next(row for row in pack.kernels if row["target"] == "sm_80")
    assert row["for"] == [{"variant": "one"}, {"variant": "two"}]
    assert (row["entry"], row["num_warps"], row["spills"], row["shared"]) == ("add", 4, 0, 0)
    assert row["registers"] > 8
    assert all(found.damage is None for found in pack.store.survey(whole=True))


def test_several_processes_write_the_same_pack_as_one(tmp_path):
    for jobs in (1, 2):
        write_pack(TASKS, tmp_path / f"{jobs}", jobs)
    alone, beside = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "12"
    )
    assert alone == beside


def test_a_pack_that_was_interrupted_goes_on_where_it_stopped(tmp_path, monkeypatch):
    compiled = []
    real = packing.compile_entry
    monkeypatch.setattr(
        packing, "compile_entry", lambda kernel, target: compiled.append(target) or real(kernel, target)
    )

    def stop(done: Done) -> None:
        if len(compiled) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(TASKS, tmp_path / "pack", observe=stop)
    with pytest.raises(InputError, match="is no pack"):
        open_pack(tmp_path / "pack")
    write_pack(TASKS, tmp_path / "pack")
    assert len(compiled) == 3


def test_what_is_no_longer_asked_for_leaves_the_pack(tmp_path):
    write_pack(TASKS, tmp_path / "pack")
    pack = write_pack(TASKS[:1], tmp_path / "pack")
    assert len(pack.kernels) == len(pack.store.all_keys()) == 1


def test_others_may_read_a_pack_and_not_write_it(tmp_path):
    write_pack(TASKS[:1], tmp_path / "pack")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pack").rglob("*")}
    assert modes == {0o755, 0o644}
    assert sorted(path.name for path in (tmp_path / "pack").iterdir()) == ["entries", INDEX]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_kernel_that_is_refused_stops_the_pack_and_not_the_others(tmp_path, jobs):
    seen: list[Done] = []
    tasks = [Task(broken_kernel(), "sm_80", {}), *TASKS]
    with pytest.raises(
        CompileError, match=r"1 of 4 kernels could not be compiled:\nTriton .* has no attribute 'nothing'"
    ) as caught:
        write_pack(tasks, tmp_path / "pack", jobs, observe=seen.append)
    assert "x = tl.nothing(n)" in str(caught.value)
    assert sorted(done.error is None for done in seen) == [False, True, True, True]
    assert not (tmp_path / "pack" / INDEX).exists()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds other things than a pack: thesis\.tex"):
        write_pack(TASKS, tmp_path)


@pytest.fixture
def pack(tmp_path, monkeypatch, fresh_settings) -> Iterator[object]:
    """A pack in use, with an empty cache, where nothing may be compiled."""
    write_pack(TASKS, tmp_path / "pack")
    monkeypatch.setenv("ATTNCC_PACK", str(tmp_path / "pack"))
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTNCC_DISABLE_JIT", "1")
    settings.cache_clear()
    default_store.cache_clear()
    forget()
    yield open_pack(tmp_path / "pack")
    default_store.cache_clear()
    forget()


def test_a_program_runs_from_the_pack_and_fails_clearly_on_anything_else(pack):
    assert build(add_kernel(), "sm_80").key in pack.store.all_keys()
    with pytest.raises(
        UnsupportedError, match=r"add \(add for sm_80\) must be compiled, but ATTNCC_DISABLE_JIT"
    ) as caught:
        build(add_kernel(tile=64), "sm_80")
    assert "is neither in the pack" in str(caught.value)
    assert default_store().all_keys() == []


def test_a_pack_is_found_by_the_triton_that_made_it(pack, monkeypatch):
    monkeypatch.setattr(triton_version, "version", lambda: None)
    assert available() is None
    assert build(add_kernel(), "sm_80").binary
    monkeypatch.setattr(triton_version, "version", lambda: "99.0")
    assert build(add_kernel(tile=256), "sm_90").binary


def test_a_damaged_kernel_of_a_pack_does_not_run(pack, caplog):
    for path in pack.store.folder.rglob("kernel.cubin"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UnsupportedError, match="neither in the pack"):
        build(add_kernel(), "sm_80")
    assert "not as it was written" in caplog.text
    assert len(pack.store.all_keys()) == 3


def test_a_damaged_index_is_refused(tmp_path):
    write_pack(TASKS[:1], tmp_path / "pack")
    index = tmp_path / "pack" / INDEX
    text = index.read_text()
    for changed in (text.replace('"spills": 0', '"spills": 1'), text[:-2], "", "[]", text + " "):
        index.write_text(changed)
        with pytest.raises(InputError, match="damaged"):
            open_pack(tmp_path / "pack")
    index.write_text(text)
    assert json.loads(text)["triton"] == open_pack(tmp_path / "pack").triton


def test_a_pack_that_everybody_can_write_is_refused(tmp_path):
    write_pack(TASKS[:1], tmp_path / "pack")
    (tmp_path / "pack").chmod(0o757)
    with pytest.raises(InputError, match="can be written by everybody"):
        open_pack(tmp_path / "pack")


def test_a_script_writes_a_pack_with_several_processes(tmp_path, repository):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from pathlib import Path
        from attncc.runtime.packing import Task, write_pack
        from tests.runtime.kernels import attend_kernel
        if __name__ == "__main__":
            tasks = [Task(attend_kernel(), target, {}) for target in ("sm_80", "sm_90", "sm_100", "gfx942")]
            print(len(write_pack(tasks, Path("pack"), jobs=2).kernels))
    """)
    )
    paths = [str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr
    assert attend_kernel().entry in {row["entry"] for row in open_pack(tmp_path / "pack").kernels}
