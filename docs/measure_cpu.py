"""Measure the torch back end on this machine's CPU and print docs/performance.md's tables.

    python docs/measure_cpu.py [--threads 2] [--rounds 9] [--memory]

Times are the best of some rounds in one process, in which attncc and torch's scaled_dot_product_attention take turns;
`--clock cpu` takes the time of the processor, which other programs disturb less (use it with one thread). `--memory`
adds the peak memory of long sequences, each in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import attncc

SHAPE = (1, 8, 4096, 64)
WINDOW = 256
LONG = 32_768
MIB = 2**20

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < WINDOW)


def sdpa_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def sdpa_window() -> Attention:
    positions = torch.arange(SHAPE[2])
    mask = window(0, 0, positions[:, None], positions)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def forward(attention: Attention, tensors: list[Tensor]) -> None:
    attention(*tensors[:3])


def forward_and_backward(attention: Attention, tensors: list[Tensor]) -> None:
    leaves = [t.detach().requires_grad_() for t in tensors[:3]]
    attention(*leaves).backward(tensors[3])


def best_times(run: Callable, pair: tuple[Attention, Attention], rounds: int, clock: Callable) -> tuple[float, float]:
    """The best time of each of two, which take turns."""
    tensors = [torch.randn(SHAPE) for _ in range(4)]
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for attention, own in zip(pair, times, strict=True):
            start = clock()
            run(attention, tensors)
            if round_:
                own.append(clock() - start)
    return min(times[0]), min(times[1])


def speed(rounds: int, clock: Callable[[], float]) -> None:
    """The table of times."""
    cases = {
        "causal": (attncc.compile(mask_mod=causal), sdpa_causal, "SDPA `is_causal`"),
        f"window of {WINDOW}": (attncc.compile(mask_mod=window), sdpa_window(), "SDPA with a Boolean mask"),
    }
    say("| mask | pass | attncc, ms | torch, ms | ratio | torch is |\n|---|---|---|---|---|---|")
    for name, (ours, theirs, what) in cases.items():
        for run, label in ((forward, "forward"), (forward_and_backward, "forward + backward")):
            mine, other = best_times(run, (ours, theirs), rounds, clock)
            say(f"| {name} | {label} | {mine * 1e3:.0f} | {other * 1e3:.0f} | {other / mine:.2f} | {what} |")


def memory() -> None:
    """The table of peak memory, each row from its own process."""
    say("\n| variant | length | q, k, v, out and gradients, MiB | peak above the start, MiB | limit, MiB |")
    say("|---|---|---|---|---|")
    for name in ("causal", "learned relative bias"):
        done = subprocess.run([sys.executable, __file__, "--peak", name], capture_output=True, text=True, check=True)
        say(done.stdout.rstrip())


def peak(name: str) -> None:
    """One row of the table of memory, forward and backward; the bias is windowed, which changes the time alone."""
    torch.set_num_threads(1)
    table = torch.zeros(8, LONG, requires_grad=True)

    def bias(score, b, h, q_idx, kv_idx):
        return score + table[h, q_idx - kv_idx]

    def near(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (q_idx - kv_idx < 2048)

    mask = causal if name == "causal" else near
    variant = attncc.compile(score_mod=None if name == "causal" else bias, mask_mod=mask)
    forward_and_backward(variant, [torch.randn(1, 8, 64, 64) for _ in range(4)])  # what a first call loads stays out
    start = resident()
    forward_and_backward(variant, [torch.randn(1, 8, LONG, 64) for _ in range(4)])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start
    tensors = 8 * LONG * 64 * 4 * 7 / MIB
    say(f"| {name} | {LONG} | {tensors:.0f} | {most:.0f} | {1.5 * tensors + 256:.0f} |")


def resident() -> float:
    """The memory of this process now, in MiB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak(arguments.peak)
        return
    torch.set_num_threads(arguments.threads)
    speed(arguments.rounds, time.process_time if arguments.clock == "cpu" else time.perf_counter)
    if arguments.memory:
        memory()


if __name__ == "__main__":
    main()
