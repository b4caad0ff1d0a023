"""A launch hands the driver exactly the grid, the stream and the arguments, and costs microseconds."""

from __future__ import annotations

import ctypes
import dataclasses
import random
import struct
import threading
import time

import pytest
import torch

from attncc.errors import InternalError, UnsupportedError
from attncc.runtime import launch as launch_module
from attncc.runtime.binary import Resources
from attncc.runtime.driver import Function
from attncc.runtime.launch import CODES, Launch, _argument_format, launcher, shared_limit, target_of
from attncc.runtime.triton_build import PARAMETERS_AT, Built, build, compile_kernel, layout, refuse_in_capture
from tests.runtime.kernels import add_kernel, attend_kernel, mixed_kernel
from tests.share import SEED, share

METADATA = {"shared": 70_000, "num_warps": 8, "warp_size": 32, "num_ctas": 1, "global_scratch_size": 0}
METADATA |= {"profile_scratch_size": 0, "launch_cooperative_grid": 0, "launch_pdl": 0}


def built(*arguments: str, **metadata: int) -> Built:
    facts = METADATA | metadata
    return Built("0" * 64, "kernel", "sm_90", arguments, 8, facts["num_ctas"], Resources(1, 0, 0), facts, b"")


class Recorder:
    """A driver that reads what a launch gives it, as the real one would."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments
        self.seen: list[tuple[object, ...]] = []
        self.statuses: list[int] = []
        self.bound = 0

    def launch(self, start: int, handle: int, places: int, extra: None) -> int:
        assert (handle, extra) == (77, None)
        if self.statuses:
            return self.statuses.pop(0)
        configuration = struct.unpack("@3I3IIQQI", ctypes.string_at(start, struct.calcsize("@3I3IIQQI")))
        sizes = [place.size for place in layout(self.arguments)]
        addresses = struct.unpack(f"{len(sizes)}Q", ctypes.string_at(places, 8 * len(sizes)))
        codes = ["Q" if kind[0] == "*" else CODES[kind] for kind in (*self.arguments, "*", "*")]
        values = [
            struct.unpack(f"<{code}", ctypes.string_at(address, size))[0]
            for code, address, size in zip(codes, addresses, sizes, strict=True)
        ]
        self.seen.append((*configuration, *values))
        return 0

    def bind(self, device: int) -> None:
        self.bound += 1

    def explain(self, status: int, what: str) -> RuntimeError:
        return RuntimeError(f"{what}: {status}")


@pytest.fixture
def launch(monkeypatch):
    """Makes a launch on a recording driver, with stream 5 of device 0."""
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 5, raising=False)

    def make(*arguments: str, **metadata: int) -> tuple[Launch, Recorder]:
        recorder = Recorder(arguments)
        monkeypatch.setattr(launch_module, "driver", lambda: recorder)
        return Launch(built(*arguments, **metadata), 0, Function(77, 128, 0, 1024)), recorder

    return make


def test_the_driver_gets_the_grid_the_block_the_stream_and_the_arguments(launch):
    call, recorder = launch("*bf16", "i32", "fp32", "*fp32", "i64", "i1", "fp64")
    tensor = torch.zeros(4)
    call((3, 4, 5), tensor, -7, 0.5, None, 1 << 40, True, 0.1)
    configuration = (3, 4, 5, 256, 1, 1, 70_000, 5, 0, 0)
    assert recorder.seen == [(*configuration, tensor.data_ptr(), -7, 0.5, 0, 1 << 40, True, 0.1, 0, 0)]


def test_arguments_of_any_types_in_any_order_arrive(launch):
    dice = random.Random(SEED)
    for _ in range(share(500)):
        kinds = tuple(dice.choice([*CODES, "*fp16"]) for _ in range(dice.randrange(1, 40)))
        values = [0.25 if kind.startswith("fp") else dice.randrange(2) for kind in kinds]
        call, recorder = launch(*kinds)
        call((1, 1, 1), *values)
        call((1, 1, 1), *values)
        assert recorder.seen[0][10:] == recorder.seen[1][10:] == (*values, 0, 0)


def test_a_descriptor_lies_where_the_kernel_expects_it_and_what_follows_it_is_zero():
    kinds = ("*bf16", "tensordesc<bf16[1, 1, 64, 128],layout>", "i32", "tensordesc<fp32[1, 64],layout>")
    first, second = bytes(range(128)), bytes(range(128, 256))
    packed = struct.pack("<" + _argument_format(kinds), 1, first, 7, second, 0, 0)
    places = layout(kinds)
    assert len(places) == 1 + (1 + 4 + 4) + 1 + (1 + 2 + 2) + 2
    for place, given in ((places[1], first), (places[11], second)):
        assert (place.offset + PARAMETERS_AT) % 64 == 0
        assert packed[place.offset : place.offset + place.size] == given
    assert not any(packed[places[2].offset : places[10].offset])
    assert packed[places[10].offset : places[10].offset + 4] == (7).to_bytes(4, "little")


def test_a_pointer_is_a_tensor_an_address_or_nothing(launch):
    call, recorder = launch("*fp32", "*fp32", "*fp32")
    tensor = torch.zeros(8)[2:]
    call((1, 1, 1), tensor, tensor.data_ptr(), None)
    assert recorder.seen[0][10:13] == (tensor.data_ptr(), tensor.data_ptr(), 0)


@pytest.mark.parametrize("grid", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_an_empty_grid_starts_nothing(launch, grid):
    call, recorder = launch("i32")
    call(grid, 3)
    assert recorder.seen == []


@pytest.mark.parametrize(
    ("grid", "args"),
    [
        ((1, 1, 1), ()),
        ((1, 1, 1), (torch.zeros(1),)),
        ((1, 1, 1), (torch.zeros(1), 1, 2)),
        ((1, 1, 1), (1.5, 1)),
        ((1, 1, 1), (torch.zeros(1), 1.5)),
        ((1, 1, 1), (torch.zeros(1), 1 << 31)),
        ((1, 1, 1), (torch.zeros(1), torch.zeros(()))),
        ((1, 1), (torch.zeros(1), 1)),
        ((1, 1, -1), (torch.zeros(1), 1)),
        ((1.0, 1, 1), (torch.zeros(1), 1)),
    ],
)
def test_wrong_arguments_are_refused_before_the_launch(launch, grid, args):
    call, recorder = launch("*fp32", "i32")
    with pytest.raises(TypeError, match=r"kernel takes a grid of 3 and \(\*fp32, i32\), not"):
        call(grid, *args)
    assert recorder.seen == []


def test_a_thread_that_has_no_context_yet_gets_one(launch):
    call, recorder = launch("i32")
    recorder.statuses = [201]
    call((1, 1, 1), 3)
    assert (recorder.bound, len(recorder.seen)) == (1, 1)


def test_a_launch_that_fails_is_an_error_with_its_name(launch):
    call, recorder = launch("i32")
    recorder.statuses = [700]
    with pytest.raises(RuntimeError, match=r"launching kernel with grid \(1, 2, 3\): 700"):
        call((1, 2, 3), 3)


def test_threads_do_not_mix_their_arguments(launch):
    call, recorder = launch("i64", "i64", "i64")
    real = recorder.launch

    def slow(start, handle, places, extra):
        time.sleep(0.001)  # others pack their arguments meanwhile
        return real(start, handle, places, extra)

    call._start = slow

    def work(number: int) -> None:
        for step in range(20):
            call((1, 1, 1), number, step, number * step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen[10:13] for seen in recorder.seen) == [(n, s, n * s) for n in range(8) for s in range(20)]


def test_a_launch_of_thirty_arguments_costs_little(launch):
    kinds = ("*bf16",) * 10 + ("i64",) * 12 + ("i32",) * 6 + ("fp32",) * 2
    call, _ = launch(*kinds)
    call._start = lambda *arguments: 0
    args = [torch.zeros(1)] * 10 + [7] * 18 + [0.5] * 2
    best = min(_time(call, args) for _ in range(20))
    assert best < 30e-6  # some 3 µs on a quiet machine; this one is shared


def _time(call: Launch, args: list[object]) -> float:
    start = time.perf_counter()
    for _ in range(100):
        call((1, 2, 3), *args)
    return (time.perf_counter() - start) / 100


def test_the_shared_memory_of_a_target_is_known_or_refused():
    assert (shared_limit("sm_80"), shared_limit("sm_90"), shared_limit("gfx942")) == (166_912, 232_448, 65_536)
    with pytest.raises(UnsupportedError, match="sm_75"):
        shared_limit("sm_75")


@pytest.fixture
def on_sm_90(monkeypatch):
    monkeypatch.setattr(launch_module, "target_of", lambda device: "sm_90")


def test_a_kernel_for_another_gpu_is_refused(on_sm_90):
    with pytest.raises(InternalError, match="compiled for sm_80, but cuda:0 is sm_90"):
        launcher(dataclasses.replace(built("i32"), target="sm_80"))


@pytest.mark.parametrize("need", [{"num_ctas": 2}, {"launch_pdl": 1}, {"launch_cooperative_grid": 1}])
def test_a_launch_that_we_do_not_make_is_refused(on_sm_90, need):
    with pytest.raises(UnsupportedError, match="a launch that attncc does not make"):
        launcher(built("i32", **need))


def test_nothing_is_loaded_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(UnsupportedError, match="while a CUDA graph is captured"):
        launcher(built("i32"))
    with pytest.raises(UnsupportedError, match="it is late"):
        refuse_in_capture("it is late")


@pytest.mark.gpu
def test_every_type_of_argument_arrives_on_the_gpu():
    out = torch.full((7,), float("nan"), dtype=torch.float64, device="cuda")
    last = torch.tensor([1 << 40], device="cuda")
    call = launcher(build(mixed_kernel(), target_of()))
    call((1, 1, 1), out, -5, 1 << 50, True, 0.5, 6, 0.1, last)
    assert out.tolist() == [-5.0, float(1 << 50), 1.0, 0.5, 6.0, 0.1, float(1 << 40)]


@pytest.mark.gpu
@pytest.mark.parametrize("scalar", ["bf16", "fp16"])
@pytest.mark.parametrize("length", [1, 63, 257, 1000])
def test_attention_on_the_gpu_is_right(scalar, length):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[scalar]
    q, k, v = torch.randn(3, 4, length, 64, device="cuda", dtype=dtype)
    out = torch.full_like(q, float("nan"))
    call = launcher(build(attend_kernel(scalar), target_of()))
    call((-(-length // 64), 4, 1), q, k, v, out, 0.125, length, length, length * 64)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=True, scale=0.125
    )
    torch.testing.assert_close(out.double(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
def test_the_driver_and_the_binary_agree_on_what_a_kernel_takes():
    for kernel in (mixed_kernel(), attend_kernel(), attend_kernel(d=128, tq=128, tk=128, stages=2)):
        made = build(kernel, target_of())
        call = launcher(made)
        assert (call.registers, call.local_bytes) == (made.resources.registers, made.resources.spills)


@pytest.mark.gpu
def test_a_kernel_that_needs_too_much_shared_memory_is_refused_with_numbers():
    made = compile_kernel(attend_kernel(d=256, tq=128, tk=128, stages=4), target_of())
    assert made.resources.shared > shared_limit(target_of())
    with pytest.raises(UnsupportedError, match=r"needs \d+ bytes of shared memory; this GPU has 232448"):
        launcher(made)


@pytest.mark.gpu
def test_a_kernel_runs_on_the_current_stream_and_in_new_threads():
    call = launcher(build(add_kernel(), target_of()))
    x = torch.randn(5000, device="cuda")
    outs = [torch.zeros_like(x) for _ in range(8)]

    def work(out: torch.Tensor) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)
            call((5, 1, 1), x, x, out, 5000, 2.0)
            assert not stream.query()  # the kernel waits behind the sleep, so it is on this stream
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(out,)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(out, x + x * 2) for out in outs)


@pytest.mark.gpu
def test_a_graph_captures_a_loaded_kernel_and_refuses_an_unbuilt_one():
    call = launcher(build(add_kernel(), target_of()))
    x = torch.ones(1024, device="cuda")
    out = torch.zeros_like(x)
    call((1, 1, 1), x, x, out, 1024, 1.0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call((1, 1, 1), x, x, out, 1024, 1.0)
        with pytest.raises(UnsupportedError, match="while a CUDA graph is captured"):
            build(add_kernel(tile=64, name="unbuilt"), target_of())
    x.fill_(5.0)
    graph.replay()
    assert out.unique().tolist() == [10.0]
