"""Runs `attncc` inside the test's process: what it prints, and its exit code."""

import json
from dataclasses import dataclass

from typer.testing import CliRunner

from attncc.commands import app


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def attncc(*arguments, stdin=None):
    """The finished command; an exception that is no exit is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, prog_name="attncc")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)


WINDOW = """\
attn 1
attention window(window: int = 256):
  mask = q_idx >= kv_idx and q_idx - kv_idx < window
"""
PACKED = """\
attn 1
attention packed(window: int = 100):
  capture doc_ids: int[batch, kv_len]
  capture slopes: float[heads]
  near = q_idx >= kv_idx and q_idx - kv_idx < window
  mask = near and doc_ids[b, q_idx] == doc_ids[b, kv_idx]
  score = score - slopes[h] * (q_idx - kv_idx)
"""
PYTHON = """\
import torch

window = 256
slopes = torch.ones(8)


def near(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < window)


def alibi(score, b, h, q_idx, kv_idx):
    return score - slopes[h] * (q_idx - kv_idx)


def three(a, b, c):
    return a


def make_near(window=8):
    return lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < window)


def make_nothing():
    return "nothing"


def make_fail():
    raise KeyError("x")


class masks:
    @staticmethod
    def causal(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx
"""
