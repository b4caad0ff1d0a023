"""A process that takes its tensors on the CPU for those of a GPU: kernels are built as empty binaries and launched
into a list. It makes one call, forward and backward, and prints what it loaded, called and launched, as JSON.

usage: python -m tests.runtime.pretended VARIANT [LENGTH]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

HEADS, LENGTH = 4, 40
slopes = torch.rand(HEADS)
window = 8


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def alibi(score, b, h, q_idx, kv_idx):
    return score - slopes[h] * (q_idx - kv_idx)


def sliding(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < window)


VARIANTS = {
    "causal": (None, causal),
    "alibi": (alibi, causal),
    "sliding": (None, sliding),
}


def compile_nothing(kernel, target):
    """An entry of the cache with an empty binary."""
    from attncc.runtime import triton_build, triton_version

    COMPILED.append(kernel.entry)
    identity = triton_build.identify(kernel, target, triton_version.version())
    facts = {
        "name": kernel.entry,
        "source": kernel.source.name,
        "arguments": [one.type for one in kernel.run_time],
        "launch": {**triton_version.LAUNCH_FACTS, "num_warps": kernel.num_warps},
        "resources": {"registers": 32, "spills": 0, "shared": 0},
    }
    files = {"kernel.cubin": b"", "kernel.py": kernel.source.text.encode()}
    return triton_build.Entry(triton_build.digest(identity), identity, json.loads(json.dumps(facts)), files)


class Launched:
    """A kernel that only notes that it was started."""

    def __init__(self, built, device):
        self.built = built

    def __call__(self, grid, *args):
        assert len(args) == len(self.built.arguments)
        LAUNCHED.append([self.built.name, list(grid), self.built.key])


COMPILED: list[str] = []
LAUNCHED: list[list[object]] = []


def pretend(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make the runtime take the CPU for a GPU."""
    from attncc.api import lowering
    from attncc.runtime import ahead, launch, op, recall, triton_build

    place, target = torch.device("cuda", 0), op.Target("triton", "cuda", "sm_80")
    patch(torch.cuda, "get_device_name", lambda device=None: "a GPU that is not there")
    patch(torch.cuda, "is_current_stream_capturing", lambda: False)
    patch(launch, "target_of", lambda device=0: "sm_80")
    patch(launch, "launcher", Launched)
    patch(triton_build, "compile_entry", compile_nothing)
    patch(lowering, "triton_refusal", lambda tensors: None)
    patch(op, "target_of", lambda backend, device: target if backend == "triton" else op.Target())
    make = op._triton
    patch(op, "_triton", lambda text, problem, target, device: make(text, problem, target, place))
    patch(ahead, "memory_of", lambda text, problem, target, device: recall.memory_of(text, problem, target, place))


def call(name: str, length: int) -> None:
    import attncc

    score_mod, mask_mod = VARIANTS[name]
    q, k, v = (torch.zeros(1, HEADS, length, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    out = attncc.attention(q, k, v, score_mod, mask_mod, backend="triton", check_bounds=False)
    out.sum().backward()


def main() -> None:
    import attncc

    assert attncc.attention
    pretend()
    name, length = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else LENGTH
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        call(name, length)
    finally:
        sys.setprofile(None)
    print(json.dumps({"compiled": COMPILED, "launched": LAUNCHED, "calls": calls, "modules": sorted(sys.modules)}))


if __name__ == "__main__":
    main()
