"""Measure how long tables of tiles take to make on this machine's CPU, and how much memory, for docs/performance.md.

    python docs/measure_tables.py [--rounds 20]

The mask is causal attention in packed documents, 64 of equal length, with tiles of 128 queries x 64 keys. Both the best
time of the clock on the wall and of the processor are shown; the second is what other programs disturb less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from attncc.analysis.bands import summarize_mask
from attncc.frontend import parse
from attncc.runtime.tiles import Sizes, TileCount, count_tiles
from attncc.runtime.visited import MEMORY

TEXT = """attn 1
attention packed:
  capture ids: int[q_len]
  mask = ids[q_idx] == ids[kv_idx] and q_idx >= kv_idx
"""
CASES = [(16_384, "ascending"), (131_072, "ascending"), (131_072, "in no order"), (1_048_576, "ascending")]


def packed(length: int, order: str) -> Tensor:
    """The documents of positions."""
    ids = torch.arange(length) * 64 // length
    return ids if order == "ascending" else ids[torch.randperm(length)]


def best(run: Callable[[], TileCount], rounds: int) -> tuple[float, float]:
    """Milliseconds on the wall and of the processor."""
    found = []
    for _ in range(rounds):
        MEMORY.clear()
        begun = time.perf_counter(), time.process_time()
        run()
        found.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return min(wall for wall, _ in found) * 1e3, min(cpu for _, cpu in found) * 1e3


def peak(run: Callable[[], TileCount]) -> float:
    """The most that torch's tensors take at once beside the captured one, in MiB."""
    torch.set_num_threads(1)  # what other threads allocate is not seen
    MEMORY.clear()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most / 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    test = summarize_mask(parse(TEXT).mask).test
    print(
        "| tokens | documents | tiles | visited | wall, ms | processor, ms | peak, MiB |\n|---|---|---|---|---|---|---|"
    )
    for length, order in CASES:
        torch.set_num_threads(2)
        ids, sizes = packed(length, order), Sizes(1, 1, length, length)

        def run(ids: Tensor = ids, sizes: Sizes = sizes) -> TileCount:
            return count_tiles(test, sizes, 128, 64, {}, {"ids": ids})

        found = run()
        wall, cpu = best(run, rounds)
        row = f"{wall:.1f} | {cpu:.1f} | {peak(run):.1f}"
        print(f"| {length:,} | {order} | {found.total:,} | {found.visited:,} | {row} |")


if __name__ == "__main__":
    main()
