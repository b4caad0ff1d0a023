"""The tables that kernels fill: what they list is what brute force finds, whether captured values ascend or not."""

from __future__ import annotations

import pytest

from tests.interpreter import interpreted

LENGTH = 90
DOCUMENTS = "ids[b, q_idx] == ids[b, kv_idx]"
MASKS = {
    "documents": DOCUMENTS,
    "causal": f"{DOCUMENTS} and q_idx >= kv_idx",
    "union": f"{DOCUMENTS} and q_idx >= kv_idx or kv_idx < 5",
    "starts": "kv_idx >= ids[b, q_idx] and q_idx >= kv_idx",
    "dilated": "(q_idx - kv_idx) % 3 == 0 and abs(q_idx - kv_idx) < 40",
}


def tables(mask: str, scalar: str, order: str, refine: bool):
    """For forward and backward over keys: the classes that the kernels list, [B, owned, walked], and the exact ones."""
    import torch

    from attncc import pipeline
    from attncc.emit.triton import tables as emitted
    from attncc.frontend import parse
    from attncc.reference import evaluate_dense
    from attncc.runtime import op
    from attncc.runtime.triton_attention import TritonPass
    from attncc.schedule import Gradients, Target
    from tests.runtime.test_tiles import brute_force

    emitted.CHUNK = 2  # so that bounds take several rounds
    torch.manual_seed(0)
    line = torch.arange(LENGTH) * 7 // LENGTH
    ids = torch.stack([line, line]) * (14 if "starts" in mask or ">= ids" in mask else 1)
    if order != "ascending":
        ids[1] = ids[1].flip(0) if order == "descending" else ids[1][torch.randperm(LENGTH)]
    ids = ids.float() if scalar == "float" else ids
    if scalar == "float":
        ids[0, 60:70] = torch.nan
    reads = f"  capture ids: {scalar}[batch, kv_len]\n" if "ids" in mask else ""
    spec = parse(f"attn 1\nattention one:\n{reads}  mask = {mask}\n")
    captures = [ids] if reads else []
    own = [torch.randn(2, 1, LENGTH, 16) for _ in range(3)]
    gradients = Gradients(captures=(False,) * len(captures))
    problem = op.problem_of([*own, *captures], (), gradients, 16, 16, refine)
    lowered = pipeline.lower(spec, problem, Target("triton", "cpu"))
    sizes = {"batch": 2, "heads": 1, "q_len": LENGTH, "kv_len": LENGTH}
    visible = evaluate_dense(spec.mask, sizes, dict(zip(["ids"], captures, strict=False)), {})[:, 0]
    found = {}
    for programs, name in ((lowered.triton_forward, "forward"), (lowered.triton_backward, "backward_kv")):
        lister = TritonPass(programs, torch.device("cpu")).load_kind(True, False).lister
        values = {**sizes, **capture_values(captures)}
        filled = lister.list_tiles(name, captures, (), values)
        exact = torch.stack([brute_force(each if name == "forward" else each.T, 16, 16) for each in visible])
        found[name] = listed(filled.tensors, exact.shape), exact
    return found


def capture_values(captures):
    from attncc.runtime.triton_values import pointer

    made = {}
    for i, capture in enumerate(captures):
        made[f"capture:{i}:0"] = pointer(capture)
        for d, (stride, size) in enumerate(zip(capture.stride(), capture.shape, strict=True)):
            made |= {f"capture_stride:{i}:{d}": stride, f"capture_size:{i}:{d}": size}
    return made


def listed(tensors, shape):
    """The classes that a table names; no tile stands in it twice."""
    import torch

    from attncc.runtime.tables import FULL, PARTIAL

    classes = torch.zeros(shape, dtype=torch.int64)
    flat = classes.view(-1, shape[-1])
    for counts, index, kind in ((*tensors[:2], PARTIAL), (*tensors[2:], FULL)):
        for row, count in enumerate(counts.tolist()):
            columns = index[row, :count].tolist()
            assert len(set(columns)) == count
            assert not flat[row, columns].any()
            flat[row, columns] = kind
    if len(tensors[0]) < len(flat):  # one table for all sequences
        classes[1:] = classes[0]
    return classes


#: Mask, kind of its captured values, their order in the second sequence (they ascend in the first), refine.
CASES = [
    *((mask, "int", "ascending", False) for mask in ("documents", "causal", "union", "starts")),
    *(("causal", "int", order, False) for order in ("descending", "shuffled")),
    *((mask, "int", "shuffled", True) for mask in ("documents", "union")),
    ("causal", "float", "ascending", True),
    ("documents", "float", "descending", False),
]


@interpreted
@pytest.mark.parametrize(("mask", "scalar", "order", "refine"), CASES)
def test_tables_are_sound_and_exact_where_they_can_be(mask, scalar, order, refine):
    for name, (found, exact) in tables(MASKS[mask], scalar, order, refine).items():
        wanted = exact.clone()
        # the last tile of the walk reaches past the end, where a kernel has to mask
        wanted[..., -1].clamp_(max=1)
        assert ((found == wanted) | (found == 1)).all(), name
        if refine or (order == "ascending" and scalar == "int" and mask != "starts"):
            assert (found == wanted).all(), name


@interpreted
@pytest.mark.parametrize("refine", [False, True])
def test_positions_alone_make_a_table_too(refine):
    for name, (found, exact) in tables(MASKS["dilated"], "int", "ascending", refine).items():
        wanted = exact.clone()
        wanted[..., -1].clamp_(max=1)
        assert (found == wanted).all(), name


@interpreted
def test_a_table_is_filled_again_when_its_capture_changes_in_place():
    import torch

    from attncc import attention
    from attncc.runtime import triton_tables

    made = []
    list_tiles = triton_tables.Lister.list_tiles
    triton_tables.Lister.list_tiles = lambda *given: made.append(given[1]) or list_tiles(*given)
    try:
        ids = torch.arange(LENGTH) // 20
        q = torch.randn(1, 1, LENGTH, 16)
        changes = [lambda: None, lambda: ids[30:].fill_(1), lambda: ids.view(-1).add_(ids % 2), lambda: None]
        counts = []
        for change in changes:
            change()
            given = (q, q, q, None, lambda b, h, i, j: ids[i] == ids[j])
            found = attention(*given, backend="triton", block_m=16, block_n=16)
            torch.testing.assert_close(found, attention(*given, backend="reference"), atol=1e-4, rtol=1e-4)
            counts.append(len(made))
        assert counts == [1, 2, 3, 3]
        attention(q, q, q, None, lambda b, h, i, j: ids.data[i] == ids.data[j], backend="triton")
        ids.zero_()
        given = (q, q, q, None, lambda b, h, i, j: ids.data[i] == ids.data[j])
        found = attention(*given, backend="triton")
        torch.testing.assert_close(found, attention(*given, backend="reference"), atol=1e-4, rtol=1e-4)
    finally:
        triton_tables.Lister.list_tiles = list_tiles
