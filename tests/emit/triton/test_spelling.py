"""The small functions that Triton kernels call, against torch at special values and at random ones."""

from __future__ import annotations

import math

import pytest

from attncc.emit.triton.expressions import read_helper
from attncc.emit.triton.spelling import EXACT, HELPERS, TRITON_FORMS
from attncc.ir import Op
from tests.interpreter import interpreted

COUNT = 4096
INTS = (0, 1, -1, 2, -2, 3, -3, 7, -7, 8, -8, 15, 16, -16, 1 << 20, -(1 << 20), (1 << 24) - 1, (1 << 30), -(1 << 30))
FLOATS = (0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 3.5, 0.05, -0.05, 0.1)
FLOATS += (2.0**22 + 0.5, -(2.0**22) - 0.5, 2.0**22 - 0.5, 2.0**23 - 0.5, 2.0**23 + 1, 2.0**24 + 2, 1e30, -1e30, 1e-30)
FLOATS += (1e-8, -1e-8, 0.4142135, 0.41421360, 2.4142134, 2.4142137, 88.0, -88.0, 104.0, -104.0, 17.0, -17.0, 3.4e38)

#: What each function means, in torch, and how many units in the last place of float32 it may differ.
UNARY = {
    "tanh": ("tanh", 48),
    "expm1": ("expm1", 8),
    "log1p": ("log1p", 8),
    "atan": ("atan", 8),
    "round_even": ("round", 0),
    "trunc": ("trunc", 0),
}
BINARY = {"float_mod": ("remainder", 0), "power": ("pow", 256), "float_floor_div": ("floor_divide", 0)}


def test_every_function_is_tested():
    assert {*UNARY, *BINARY, "floor_div", "floor_mod"} == set(HELPERS)


def test_every_function_that_a_row_calls_is_of_triton_or_in_the_table():
    called = {form.text.split("(")[0] for form in TRITON_FORMS.values() if "(" in form.text}
    assert {name for name in called if not name.startswith(("tl.", "{"))} == set(HELPERS)


def test_plain_division_is_written_for_indices_only():
    assert set(EXACT) == {Op.FLOORDIV, Op.MOD}


def run(name: str, *operands):
    """The function at these operands, in the interpreter."""
    import torch

    from attncc.runtime.triton_source import define

    names = [f"x{i}" for i in range(len(operands))]
    loads = ", ".join(f"tl.load({x} + at)" for x in names)
    text = (
        "import triton\nimport triton.language as tl\n"
        + "".join(HELPERS.values())
        + f"\n@triton.jit\ndef entry(out, {', '.join(names)}, COUNT: tl.constexpr):\n"
        + f"    at = tl.arange(0, COUNT)\n    tl.store(out + at, {name}({loads}))\n"
    )
    size = 1 << (operands[0].numel() - 1).bit_length()
    padded = [torch.nn.functional.pad(x, (0, size - x.numel()), value=1) for x in operands]
    out = torch.empty_like(padded[0])
    define("test", text)["entry"][(1,)](out, *padded, COUNT=size)
    return out[: operands[0].numel()]


def floats():
    """Special values, and random ones of many sizes."""
    import torch

    sizes = torch.logspace(-6, 6, COUNT - len(FLOATS))
    return torch.cat([torch.tensor(FLOATS), torch.randn(len(sizes)) * sizes])


def pairs():
    """All pairs of special values, and random ones."""
    import torch

    special = torch.tensor(FLOATS)
    a, b = (t.flatten() for t in torch.meshgrid(special, special, indexing="ij"))
    more = torch.randn(2, COUNT) * torch.tensor([[3.0], [2.0]])
    whole = torch.randint(-6, 7, (2, COUNT)).float()
    return torch.cat([a, more[0], whole[0], more[0]]), torch.cat([b, more[1], whole[1], whole[1]])


def check(found, wanted, ulps: int, *operands) -> None:
    """Equal NaNs, infinities and signs of zero; otherwise within so many units in the last place."""
    import torch

    close = found == wanted.float()
    near = (found.double() - wanted).abs() <= ulps * 2.0**-24 * wanted.abs().clamp(min=2.0**-126)
    good = close | (found.isnan() & wanted.isnan()) | (near & wanted.isfinite())
    wrong = torch.nonzero(~good).flatten()[:5].tolist()
    shown = [([x[i].item() for x in operands], found[i].item(), wanted[i].item()) for i in wrong]
    assert not wrong, f"{len(torch.nonzero(~good))} differ: {shown}"


@interpreted
@pytest.mark.parametrize("name", UNARY)
def test_function_of_one_float(name):
    import torch

    torch.manual_seed(0)
    x = floats()
    torch_name, ulps = UNARY[name]
    wanted = getattr(torch, torch_name)(x.double())
    check(run(name, x), wanted, ulps, x)


@interpreted
@pytest.mark.parametrize("name", BINARY)
def test_function_of_two_floats(name):
    import torch

    torch.manual_seed(0)
    a, b = pairs()
    torch_name, ulps = BINARY[name]
    wide = ulps > 0
    if not wide:  # torch itself loses a quotient that float32 cannot hold
        kept = ~((a / b).isinf() & a.isfinite() & (b != 0.0))
        a, b = a[kept], b[kept]
    wanted = getattr(torch, torch_name)(a.double() if wide else a, b.double() if wide else b).double()
    check(run(name, a, b), wanted, ulps, a, b)


@interpreted
@pytest.mark.parametrize("name", ["round_even", "trunc"])
def test_rounding_keeps_the_sign_of_zero(name):
    import torch

    x = torch.tensor([0.0, -0.0, 0.25, -0.25, 0.5, -0.5])
    assert run(name, x).signbit().tolist() == x.signbit().tolist()


@interpreted
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ["floor_div", "floor_mod"])
def test_division_of_indices_rounds_down(name, bits):
    import torch

    torch.manual_seed(0)
    dtype = {32: torch.int32, 64: torch.int64}[bits]
    special = torch.tensor(INTS, dtype=dtype)
    a, b = (t.flatten() for t in torch.meshgrid(special, special, indexing="ij"))
    a, b = (
        torch.cat([a, torch.randint(-99, 99, (COUNT,), dtype=dtype)]),
        torch.cat([b, torch.randint(-9, 9, (COUNT,), dtype=dtype)]),
    )
    keep = b != 0
    a, b = a[keep], b[keep]
    wanted = {"floor_div": torch.floor_divide, "floor_mod": torch.remainder}[name](a, b)
    assert torch.equal(run(name, a, b), wanted)


@interpreted
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_reads_count_from_the_end_and_give_0_beyond(rank):
    import torch

    from attncc.runtime.triton_source import define

    shape = (3, 4, 5, 6)[:rank]
    table = torch.randn(shape)
    index = torch.randint(-9, 9, (rank, 256), dtype=torch.int32)
    loads = ", ".join(f"tl.load(index + {d} * 256 + at), {n}, {table.stride(d)}" for d, n in enumerate(shape))
    text = (
        "import triton\nimport triton.language as tl\n"
        + read_helper(rank)
        + "\n@triton.jit\ndef entry(out, table, index):\n    at = tl.arange(0, 256)\n"
        + f"    tl.store(out + at, read{rank}(table, {loads.rsplit(', ', 1)[0]}))\n"
    )
    out = torch.empty(256)
    define("test", text)["entry"][(1,)](out, table, index)
    for column, value in zip(index.T.tolist(), out.tolist(), strict=True):
        inside = all(-n <= i < n for i, n in zip(column, shape, strict=True))
        assert value == (table[tuple(column)].item() if inside else 0.0)
