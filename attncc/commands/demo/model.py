"""The decoder of the demo. Its attention is `Attention.forward`: the rest is what every small language model has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from attncc.api import attention


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the model and of its sequences."""

    length: int = 1024
    batch: int = 2
    layers: int = 2
    heads: int = 4
    width: int = 128
    window: int = 128
    vocabulary: int = 256


class Attention(nn.Module):
    """Causal attention within a document and a window, with ALiBi whose slopes are learned."""

    def __init__(self, shape: Shape, backend: str) -> None:
        super().__init__()
        self.shape, self.backend = shape, backend
        self.project = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)
        self.slopes = nn.Parameter(2.0 ** -torch.linspace(2, 8, shape.heads))

    def forward(self, x: Tensor, documents: Tensor) -> Tensor:
        """Shapes: x [B, L, width], documents [B, L]; returns [B, L, width]."""
        q, k, v = (part.transpose(1, 2) for part in self.project(x).unflatten(2, (3, self.shape.heads, -1)).unbind(2))
        slopes, window = self.slopes, self.shape.window

        def nearby(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]  # as users write it
            causal_window = (q_idx >= kv_idx) & (q_idx - kv_idx < window)
            return causal_window & (documents[b, q_idx] == documents[b, kv_idx])

        def alibi(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]  # as users write it
            return score - slopes[h] * (q_idx - kv_idx)

        mixed = attention(q, k, v, score_mod=alibi, mask_mod=nearby, backend=self.backend)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # a Module returns Any


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each added to what came in."""

    def __init__(self, shape: Shape, backend: str) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)])
        self.attention = Attention(shape, backend)
        self.grow, self.shrink = nn.Linear(shape.width, 4 * shape.width), nn.Linear(4 * shape.width, shape.width)

    def forward(self, x: Tensor, documents: Tensor) -> Tensor:
        """Shapes: x [B, L, width], documents [B, L]; returns [B, L, width]."""
        x = x + self.attention(self.norms[0](x), documents)
        return x + self.shrink(functional.gelu(self.grow(self.norms[1](x))))  # type: ignore[no-any-return]  # as above


class Decoder(nn.Module):
    """Predicts the next byte. It has no position embedding: ALiBi tells it how far away a key is."""

    def __init__(self, shape: Shape, backend: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList([Block(shape, backend) for _ in range(shape.layers)])
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, tokens: Tensor, documents: Tensor) -> Tensor:
        """Shapes: tokens [B, L], documents [B, L]; returns logits [B, L, vocabulary]."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, documents)
        return self.head(self.norm(x))  # type: ignore[no-any-return]  # as above
