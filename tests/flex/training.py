"""A few steps of training in one process of several: run as a module with the way to share it and where to save."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import attncc
from attncc import flex

VARIANT = attncc.loads("""attn 1
attention windowed(window: int = 9):
  capture slopes: float[heads]
  distance = q_idx - kv_idx
  mask = distance >= 0 and distance < window
  score = score - slopes[h] * distance
""")


class Block(torch.nn.Module):
    """Two attentions, one of text and one of functions, and a learned slope for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.join = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)
        self.slopes = torch.nn.Parameter(torch.rand(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        slopes = self.slopes
        mask = flex.create_block_mask(lambda b, h, i, j: i >= j, None, None, x.shape[1], x.shape[1], "cpu")
        late = flex.flex_attention(q, k, v, lambda s, b, h, i, j: s - slopes[h] * (i - j), mask)
        return x + self.join((VARIANT(q, k, v, slopes=slopes) + late).transpose(1, 2).flatten(2))


def train(way: str, rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """The parameters after three steps on this rank's part of the batch, whole on every rank."""
    torch.manual_seed(0)
    block: Any = Block().double()
    data = torch.randn(3, 4, 21, 16, dtype=torch.float64)
    if way == "ddp":
        block = DistributedDataParallel(block)
    elif way == "fsdp":
        fully_shard(block, mesh=dist.init_device_mesh("cpu", (ranks,)))
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for step in data:
        part = step.chunk(ranks)[rank]
        optimizer.zero_grad()
        block(part).sin().mean().backward()
        optimizer.step()
    state = block.module.state_dict() if way == "ddp" else block.state_dict()
    return {name: t.full_tensor() if way == "fsdp" else t for name, t in state.items()}


def main(way: str, path: str) -> None:
    """Join the others, train, and save on the first rank."""
    dist.init_process_group("gloo")
    found = train(way, dist.get_rank(), dist.get_world_size())
    if dist.get_rank() == 0:
        torch.save(found, path)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
