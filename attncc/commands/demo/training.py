"""Training the demo's model once, with one back end; the same seed gives the same weights and the same batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from statistics import median

import torch
from torch.nn import functional

from attncc.commands.demo.data import batches
from attncc.commands.demo.model import Decoder, Shape

LEARNING_RATE = 2e-3
WARM_UP = 10


@dataclass(frozen=True, slots=True)
class Run:
    """What one training gave: the loss of each step in nats per byte, the seconds that each step took."""

    backend: str
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    model: Decoder

    @property
    def step_time(self) -> float:
        """The median time of a step after the first, which also compiles."""
        return median(self.seconds[1:] or self.seconds)


def train(
    shape: Shape, backend: str, steps: int, seed: int, device: torch.device, tick: Callable[[float], None]
) -> Run:
    """Train for a number of steps; `tick` is told the loss of each."""
    torch.manual_seed(seed)
    model = Decoder(shape, backend).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    losses, seconds = [], []
    for number, batch in enumerate(islice(batches(shape.batch, shape.length, seed), steps)):
        tokens, documents = batch.tokens.to(device), batch.documents.to(device)
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (number + 1) / WARM_UP)
        logits = model(tokens[:, :-1], documents)
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
        losses.append(loss.item())  # waits for the device
        seconds.append(time.perf_counter() - start)
        tick(losses[-1])
    return Run(backend, tuple(losses), tuple(seconds), model)
