"""A kernel is compiled once, for any target and without a GPU, and found again wherever it was kept."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attncc.emit.kernel import Argument
from attncc.errors import CompileError, InputError, InternalError, UnsupportedError
from attncc.runtime import triton_build, triton_version
from attncc.runtime.cache import Store, default_store
from attncc.runtime.manifest import MANIFEST
from attncc.runtime.triton_build import build, compile_kernel, forget, identify, interpret
from tests.runtime.kernels import Text, add_kernel, attend_kernel, broken_kernel
from tests.share import SEED, share

pytest.importorskip("triton")


@pytest.fixture
def store(tmp_path, monkeypatch, fresh_settings) -> Iterator[Store]:
    """A cache of this test's own, and a process that has built nothing."""
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "cache"))
    default_store.cache_clear()
    forget()
    yield default_store()
    default_store.cache_clear()
    forget()


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """The entry functions that were really compiled."""
    seen: list[str] = []
    real = triton_build.compile_entry

    def count(kernel, target):
        seen.append(kernel.entry)
        return real(kernel, target)

    monkeypatch.setattr(triton_build, "compile_entry", count)
    return seen


def with_path(repository: Path) -> dict[str, str]:
    """The environment for another process that imports from this repository, and the rest as this one does."""
    paths = [str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_a_kernel_compiles_for_every_target_without_a_gpu(target):
    built = compile_kernel(attend_kernel(), target)
    assert built.binary.startswith(b"\x7fELF")
    assert (built.name, built.target, built.num_warps) == ("attend", target, 4)
    assert built.arguments == ("*bf16", "*bf16", "*bf16", "*bf16", "fp32", "i32", "i32", "i64")
    assert 32 < built.resources.registers <= 512
    assert built.resources.spills == 0
    assert 16_384 < built.resources.shared < 65_536


def test_the_same_kernel_has_the_same_bytes_in_another_process(tmp_path, repository):
    code = """
    import sys
    from tests.runtime.kernels import attend_kernel
    from attncc.runtime.triton_build import compile_kernel
    sys.stdout.buffer.write(compile_kernel(attend_kernel(), "sm_90").binary)
    """
    environment = with_path(repository) | {"PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, cwd=tmp_path, env=environment, check=True
    )
    assert other.stdout == compile_kernel(attend_kernel(), "sm_90").binary


def test_a_kernel_is_compiled_once_and_then_found_in_the_process_and_in_the_cache(store, compiled):
    first = build(add_kernel(), "sm_90")
    assert build(add_kernel(), "sm_90") is first
    forget()
    again = build(add_kernel(), "sm_90")
    assert again == first
    assert compiled == ["add"]
    assert store.all_keys() == [first.key]


def test_a_kernel_is_found_by_its_key_alone(store, compiled):
    first = build(add_kernel(), "sm_90")
    assert triton_build.find(first.key) is first
    forget()
    assert triton_build.find(first.key) == first
    assert triton_build.find("0" * 64) is None
    assert compiled == ["add"]


def test_names_are_for_people_and_everything_else_is_in_the_key():
    kernel = attend_kernel()
    renamed = dataclasses.replace(
        kernel,
        source=dataclasses.make_dataclass("Named", ["name", "text", "digest"])("other", "other", kernel.source.digest),
        arguments=tuple(dataclasses.replace(one, name=f"{one.name}_") for one in kernel.arguments),
    )
    first, *others = kernel.arguments
    changes = [
        {"entry": "step"},
        {"source": Text("attend", kernel.source.text + "# more")},
        {"num_warps": 8},
        {"num_stages": 3},
        {"options": (("maxnreg", 168),)},
        {"gluon": True},
        {"arguments": (dataclasses.replace(first, type="*fp16"), *others)},
        {"arguments": (dataclasses.replace(first, divisible=False), *others)},
        {"arguments": (*kernel.arguments[:-1], dataclasses.replace(kernel.arguments[-1], value=128))},
        {"arguments": (*kernel.arguments[:-1], dataclasses.replace(kernel.arguments[-1], value=64.0))},
        {"arguments": (*others, first)},
    ]
    keys = [
        triton_build.digest(identify(dataclasses.replace(kernel, **change), "sm_90", "3.6.0")) for change in changes
    ]
    keys += [triton_build.digest(identify(kernel, *rest)) for rest in (("sm_80", "3.6.0"), ("sm_90", "3.7.0"))]
    own = triton_build.digest(identify(kernel, "sm_90", "3.6.0"))
    assert triton_build.digest(identify(renamed, "sm_90", "3.6.0")) == own
    assert len({own, *keys}) == len(keys) + 1


def test_triton_keeps_no_copy_of_its_own(store, tmp_path, repository):
    code = "from tests.runtime.kernels import add_kernel\nfrom attncc.runtime.triton_build import build\n"
    code += "build(add_kernel(), 'sm_80')"
    home = tmp_path / "home"
    environment = os.environ | {"HOME": str(home), "TRITON_HOME": str(home), "ATTNCC_CACHE_DIR": str(store.folder)}
    subprocess.run([sys.executable, "-c", code], cwd=repository, env=environment, check=True)
    assert len(store.all_keys()) == 1
    assert not home.exists()


@pytest.mark.parametrize("harm", ["manifest", "payload"])
def test_a_damaged_entry_is_rebuilt_to_the_end(store, compiled, harm, caplog):
    first = build(add_kernel(), "sm_80")
    for position in random.Random(SEED).sample(range(1000), share(20)):
        path = store.path(first.key) / (MANIFEST if harm == "manifest" else "kernel.cubin")
        data = bytearray(path.read_bytes())
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        forget()
        compiled.clear()
        caplog.clear()
        assert build(add_kernel(), "sm_80") == first
        assert compiled == ["add"]
        assert caplog.text.count("the kernel is built anew") == 1
        forget()
        assert build(add_kernel(), "sm_80") == first
        assert compiled == ["add"]


def test_threads_that_ask_at_once_compile_once(store, compiled):
    gate, found = threading.Barrier(8), []

    def ask(number: int) -> None:
        gate.wait()
        found.append(build(add_kernel(tile=256 << number % 2), "sm_80"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert compiled == ["add", "add"]


PROCESS = """
import sys
from tests.runtime.kernels import add_kernel, attend_kernel
from attncc.runtime import triton_build
compiled = []
real = triton_build.compile_entry
triton_build.compile_entry = lambda kernel, target: compiled.append(1) or real(kernel, target)
built = triton_build.build(add_kernel(), "sm_90")
print(built.key, len(built.binary), len(compiled))
"""


def start(store: Store, repository: Path, code: str) -> subprocess.Popen[str]:
    environment = with_path(repository) | {"ATTNCC_CACHE_DIR": str(store.folder)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sixteen_processes_that_start_at_once_on_an_empty_cache_are_all_right(store, repository):
    running = [start(store, repository, PROCESS) for _ in range(16)]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 16, [error for _, error in outputs]
    assert len({out.rsplit(" ", 1)[0] for out, _ in outputs}) == 1
    assert sum(int(out.rsplit(" ", 1)[1]) for out, _ in outputs) <= 2
    assert [found.damage for found in store.survey(whole=True)] == [None]


KILLED = """
import sys, threading
from tests.runtime.kernels import add_kernel
from attncc.runtime.triton_build import build, forget
import triton, triton.compiler
print("ready", flush=True)
for number in range(1000):
    build(add_kernel(comment=f"# {number}\\n"), "sm_80")
"""


def test_processes_that_are_killed_while_they_compile_leave_a_cache_that_works(store, repository):
    dice = random.Random(SEED)
    for _ in range(share(100)):
        process = start(store, repository, KILLED)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert [found.damage for found in store.survey(whole=True) if found.damage] == []
    done = start(store, repository, PROCESS)
    out, error = done.communicate(timeout=120)
    assert done.returncode == 0, error
    assert store.load(out.split()[0]) is not None


def test_a_mistake_is_shown_at_its_line_of_the_generated_text(golden):
    with pytest.raises(CompileError) as caught:
        compile_kernel(broken_kernel(), "sm_90")
    assert caught.value.span is not None
    assert caught.value.span.text == "tl.nothing(n)"
    assert f"{caught.value.describe().replace(str(triton_version.version()), 'VERSION')}\n" == golden


def test_a_mistake_in_a_function_that_is_called_is_shown_there():
    kernel = add_kernel()
    text = kernel.source.text.replace("tl.load(x + at, mask=at < n) +", "inner(x, n) +")
    text += "\n\n@triton.jit\ndef inner(x, n):\n    return x + tl.zeros([3], tl.float32)\n"
    with pytest.raises(CompileError) as caught:
        compile_kernel(dataclasses.replace(kernel, source=Text("calling", text)), "sm_90")
    assert caught.value.span is not None
    assert "tl.zeros([3], tl.float32)" in caught.value.span.text


def test_what_ptxas_refuses_is_a_compile_error(capfd):
    with pytest.raises(CompileError, match="fails on the kernel add for sm_80, at cubin"):
        compile_kernel(dataclasses.replace(add_kernel(), options=(("ptx_options", "--no-such-option"),)), "sm_80")


@pytest.mark.parametrize("target", ["sm_70", "sm90", "cuda", "gfx", "", "sm_90a"])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(InputError):
        compile_kernel(add_kernel(), target)


@pytest.mark.parametrize(
    "change",
    [
        {"entry": "nothing"},
        {"options": (("no_such_option", 1),)},
        {"arguments": add_kernel().arguments[1:]},
        {"arguments": tuple(reversed(add_kernel().arguments))},
    ],
)
def test_a_kernel_that_is_described_wrongly_is_our_mistake(change):
    with pytest.raises(InternalError):
        compile_kernel(dataclasses.replace(add_kernel(), **change), "sm_80")


def test_an_argument_that_no_launch_can_pass_is_refused():
    kernel = dataclasses.replace(
        add_kernel(), arguments=(*add_kernel().arguments[:4], Argument("scale", "bf16"), add_kernel().arguments[5])
    )
    with pytest.raises(UnsupportedError, match="bf16"):
        compile_kernel(kernel, "sm_80")


def test_without_compiling_only_what_is_in_the_cache_runs(store, monkeypatch):
    from attncc.config import settings

    first = build(add_kernel(), "sm_80")
    monkeypatch.setenv("ATTNCC_DISABLE_JIT", "1")
    settings.cache_clear()
    forget()
    assert build(add_kernel(), "sm_80") == first
    assert triton_build.available() is None  # so that a call is refused, and no other back end steps in
    with pytest.raises(UnsupportedError, match="ATTNCC_DISABLE_JIT forbids it; it is not in the cache"):
        build(add_kernel(tile=128), "sm_80")


def test_without_triton_the_reason_is_said(store, monkeypatch):
    monkeypatch.setattr(triton_version, "version", lambda: None)
    assert triton_build.available() == "Triton is not installed"
    with pytest.raises(UnsupportedError, match="Triton is not installed"):
        build(add_kernel(), "sm_80")
    with pytest.raises(UnsupportedError, match="interpreter is not active"):
        interpret(add_kernel())


def test_what_a_debugging_variable_made_is_not_kept(store, monkeypatch, caplog):
    monkeypatch.setenv("DISABLE_PTXAS_OPT", "1")
    assert triton_version.debugging_variables() == ["DISABLE_PTXAS_OPT"]
    build(add_kernel(), "sm_80")
    assert store.all_keys() == []
    assert "DISABLE_PTXAS_OPT is set" in caplog.text


def test_nothing_is_compiled_while_a_graph_is_captured(store, monkeypatch):
    import torch

    first = build(add_kernel(), "sm_80")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert build(add_kernel(), "sm_80") is first
    with pytest.raises(UnsupportedError, match="while a CUDA graph is captured") as caught:
        build(add_kernel(tile=128), "sm_80")
    assert caught.value.hint is not None
    assert "before the capture" in caught.value.hint


def test_print_code_shows_a_kernel_when_it_is_built(store, monkeypatch, capsys):
    from attncc.config import settings

    monkeypatch.setenv("ATTNCC_PRINT_CODE", "1")
    settings.cache_clear()
    build(add_kernel(), "sm_80")
    build(add_kernel(), "sm_80")
    assert capsys.readouterr().err.count("def add(x, y, out") == 1


def test_a_warm_cache_needs_neither_triton_nor_torch_nor_a_lock(store, repository):
    key = build(add_kernel(), "sm_90").key
    code = f"""
    import sys
    from attncc.runtime.triton_build import find
    assert find("{key}").name == "add"
    heavy = "sympy lark jinja2 torch triton numpy rich filelock".split()
    print(*[name for name in heavy if name in sys.modules])
    """
    out, error = start(store, repository, textwrap.dedent(code)).communicate(timeout=60)
    assert (out.strip(), error) == ("", "")


INTERPRETED = """
import torch
from tests.runtime.kernels import add_kernel, attend_kernel
from attncc.runtime.triton_build import interpret
x, y, out = torch.randn(1000), torch.randn(1000), torch.full((1000,), float("nan"))
interpret(add_kernel())((1, 1, 1), x, y, out, 1000, 2.0)
torch.testing.assert_close(out, x + 2 * y)
q, k, v = torch.randn(3, 2, 100, 64).half()
out = torch.full_like(q, float("nan"))
interpret(attend_kernel("fp16", tq=16, tk=16))((7, 2, 1), q, k, v, out, 0.125, 100, 100, 6400)
attention = torch.nn.functional.scaled_dot_product_attention
expected = attention(q.float(), k.float(), v.float(), is_causal=True, scale=0.125)
torch.testing.assert_close(out.float(), expected, atol=2e-3, rtol=2e-3)
print("right")
"""


def test_the_interpreter_runs_the_same_source_on_the_cpu(repository):
    environment = with_path(repository) | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("right\n", 0), done.stderr


def test_the_interpreter_says_how_to_switch_it_on():
    with pytest.raises(UnsupportedError) as caught:
        interpret(add_kernel())
    assert "TRITON_INTERPRET=1" in str(caught.value.hint)


def test_building_logs_nothing_when_all_is_well(store, caplog):
    with caplog.at_level(logging.DEBUG, logger="attncc"):
        build(add_kernel(), "sm_80")
        forget()
        build(add_kernel(), "sm_80")
    assert caplog.records == []
