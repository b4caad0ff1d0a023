"""Making kernels in tests: small specs, and the source of their kernels."""

from __future__ import annotations

from attncc import pipeline
from attncc.frontend import parse
from attncc.ir import AttentionSpec
from attncc.schedule import TORCH_CPU, Facts, Gradients, Problem

ALIBI = """attn 1
attention alibi(window: int = 256):
  capture slopes: float[heads]
  distance = q_idx - kv_idx
  mask = distance >= 0 and distance < window
  score = score - slopes[h] * distance
"""
DOCUMENTS = """attn 1
attention documents:
  capture doc_ids: int[batch, q_len]
  mask = q_idx >= kv_idx and doc_ids[b, q_idx] == doc_ids[b, kv_idx]
"""
RELATIVE = """attn 1
attention relative:
  capture table: float[heads, _]
  score = 20.0 * tanh((score + table[h, q_idx - kv_idx + 255]) / 20.0)
"""
PAIRS = """attn 1
attention pairs:
  capture bias: float[heads, q_len, kv_len]
  score = score + bias[h, q_idx, kv_idx]
"""


def lowered(
    text: str | AttentionSpec,
    dtypes: tuple[str, ...] = (),
    shapes: tuple[tuple[int, ...], ...] | None = None,
    parameters: tuple[int, ...] = (),
    gradients: Gradients | None = None,
    **rest: object,
) -> pipeline.Lowered:
    """The kernels of a text for 2 x 8 heads of 256 queries; `shapes` of the captures let their reads be proven."""
    spec = parse(text) if isinstance(text, str) else text
    facts = None if shapes is None else Facts(2, 256, 256, shapes, parameters)
    problem = Problem(
        heads=8,
        kv_heads=2,
        capture_dtypes=dtypes,
        gradients=gradients,
        facts=facts,
        **rest,  # type: ignore[arg-type]
    )
    return pipeline.lower(spec, problem, TORCH_CPU)
