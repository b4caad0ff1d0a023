"""Calls on a GPU: CUDA graphs, streams, threads, few kernels for many lengths, little host time, first-use tests."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from attncc import attention
from attncc.errors import UnsupportedError

pytestmark = pytest.mark.gpu
#: Seconds of host time that a warm forward call may take.
HOST_SECONDS = 60e-6


def causal(b, h, i, j):
    return i >= j


def tensors(length: int = 256, batch: int = 2, dim: int = 64, seed: int = 0):
    numbers = torch.Generator(device="cuda").manual_seed(seed)
    return [
        torch.randn(batch, 4, length, dim, device="cuda", dtype=torch.bfloat16, generator=numbers) for _ in range(3)
    ]


def test_a_cuda_graph_replays_forward_and_backward_on_new_values():
    bias = torch.randn(4, device="cuda", requires_grad=True)

    def score(s, b, h, i, j):
        return s + bias[h] * (i - j)

    held = [t.requires_grad_() for t in tensors()]

    def step():
        out = attention(*held, score, causal, backend="triton")
        return [out.detach(), *torch.autograd.grad(out.square().sum(), [*held, bias])]

    # All on one stream: autograd ties the nodes of leaves to the stream of their first use, and warns of another.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        results = step()
    with torch.no_grad():
        for own, new in zip(held, tensors(seed=1), strict=True):
            own.copy_(new)
        bias.mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        wanted = step()
    torch.cuda.synchronize()
    for a, b in zip(results, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_kernel_that_is_not_built_is_refused_while_a_graph_is_captured():
    held = tensors(dim=72)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises((UnsupportedError, RuntimeError), match="capture"), torch.cuda.graph(graph):
        attention(*held, None, lambda b, h, i, j: (i - j) % 5 < 3, backend="triton")
    torch.cuda.synchronize()


def test_a_table_of_tiles_follows_its_capture_in_a_replayed_graph():
    ids = torch.arange(256, device="cuda") // 64

    def same(b, h, i, j):
        return ids[i] == ids[j]

    held = tensors()
    for _ in range(2):
        attention(*held, None, same, backend="triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(*held, None, same, backend="triton")
    ids.copy_(torch.arange(256, device="cuda") // 32)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, attention(*held, None, same, backend="triton"))


def test_kernels_run_on_the_current_stream():
    held = tensors(length=2048)
    wanted = attention(*held, None, causal, backend="triton")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = [t + 0 for t in held]
        out = attention(*late, None, causal, backend="triton")
    stream.synchronize()
    assert torch.equal(out, wanted)


def test_eight_threads_compile_and_call_at_once():
    held, results, errors = tensors(dim=48), [None] * 8, []

    def work(number: int) -> None:
        try:
            results[number] = attention(*held, None, lambda b, h, i, j: i - j < 77, backend="triton")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(torch.equal(each, results[0]) for each in results)


def test_many_lengths_share_at_most_two_kernels_for_each_pass(monkeypatch):
    from attncc.runtime import triton_build

    made = []
    kept = triton_build.compile_entry
    monkeypatch.setattr(
        triton_build, "compile_entry", lambda kernel, target: made.append(kernel.entry) or kept(kernel, target)
    )
    for length in range(1, 1000, 20):
        held = [t.requires_grad_() for t in tensors(length, batch=1)]
        attention(*held, None, lambda b, h, i, j: (i >= j) & (i - j < 333), backend="triton").sum().backward()
    assert all(made.count(entry) <= 2 for entry in set(made)), made


def test_a_warm_call_takes_little_of_the_hosts_time():
    held = tensors(length=128)
    for _ in range(20):
        attention(*held, None, causal, backend="triton")
    best = float("inf")
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(50):
            attention(*held, None, causal, backend="triton")
        best = min(best, (time.perf_counter() - start) / 50)
    print(f"host time of a warm forward call: {best * 1e6:.1f} us")
    assert best <= HOST_SECONDS


def test_new_kernels_are_tried_once_and_remembered(monkeypatch):
    from attncc.api import self_test
    from attncc.runtime import op

    tried = []
    kept = self_test.findings
    monkeypatch.setattr(self_test, "findings", lambda *args: tried.append(1) or kept(*args))
    held = tensors(dim=40)

    def mask(b, h, i, j):
        return (i >= j) | (j < 9)

    attention(*held, None, mask, backend="triton")
    assert tried == [1]
    op._KERNELS.clear()
    op._PASSES.clear()
    attention(*held, None, mask, backend="triton")
    assert tried == [1]


@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of many things
def test_torch_compile_makes_one_graph():
    held = [t.requires_grad_() for t in tensors()]
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, None, causal) * 2, fullgraph=True)
    out = compiled(*held)
    assert torch.equal(out, attention(*held, None, causal) * 2)
    out.sum().backward()
