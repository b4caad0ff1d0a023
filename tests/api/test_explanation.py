import json

import pytest
import torch

import attncc
from attncc.ir import AttentionSpec
from attncc.passes import lift
from attncc.reference import evaluate_dense
from tests.api.cases import WINDOW, causal, inputs

LENGTH, HEADS, BATCH = 257, 4, 2
VARIANTS = {
    "window": "mask = 0 <= q_idx - kv_idx < 40",
    "dilated": "mask = (q_idx - kv_idx) % 3 == 0 and abs(q_idx - kv_idx) < 50",
    "sinks": "mask = q_idx >= kv_idx and (q_idx - kv_idx < 20 or kv_idx < 4)",
    "chunks": "mask = q_idx // 48 == kv_idx // 48 or q_idx < 5",
    "full": "mask = true",
    "bottom right": "mask = q_idx + kv_len - q_len >= kv_idx",
    "heads": "mask = q_idx >= kv_idx and q_idx - kv_idx < 10 * (h + 1)",
    "batches": "mask = q_idx - kv_idx < 30 * (b + 1) and q_idx >= kv_idx",
    "documents": "capture ids: int[batch, q_len]\n  mask = ids[b, q_idx] == ids[b, kv_idx] and q_idx >= kv_idx",
    "hidden by the score": "score = where(q_idx - kv_idx < 30, score, -inf)",
}


def brute_force(spec: AttentionSpec, tile_q, tile_kv, captures, groups):
    """Tiles by class, counted pair by pair: (hidden entirely, visible entirely, all tiles)."""
    sizes = {"batch": BATCH, "heads": HEADS, "q_len": LENGTH, "kv_len": LENGTH}
    parameters = {p.name: p.value for p in spec.parameters}
    mask = evaluate_dense(lift(spec).mask, sizes, captures, parameters).flatten(0, 1)
    heads = mask if groups == BATCH * HEADS else mask[:1] if groups == 1 else None
    if heads is None:  # only one of the two matters
        by_both = mask.unflatten(0, (BATCH, HEADS))
        heads = by_both[0] if groups == HEADS else by_both[:, 0]
    tiles = [tile for rows in heads.split(tile_q, 1) for tile in rows.split(tile_kv, 2)]
    empty = sum(int((~tile).flatten(1).all(1).sum()) for tile in tiles)
    full = sum(int(tile.flatten(1).all(1).sum()) for tile in tiles)
    return empty, full, len(tiles) * heads.shape[0]


@pytest.mark.parametrize(
    "options", [(32, 16, "torch"), (16, 64, "torch"), (None, None, "torch"), (None, None, "triton")], ids=str
)
@pytest.mark.parametrize("body", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_number_agrees_with_a_count_of_pairs(body, options):
    variant = attncc.loads(f"attention a:\n  {body}\n")
    ids = {"ids": torch.sort(torch.randint(0, 5, (BATCH, LENGTH)))[0]} if variant.spec.captures else {}
    q, k, v = inputs(q=(BATCH, HEADS, LENGTH, 8))
    found = variant.explain(q, k, v, block_m=options[0], block_n=options[1], backend=options[2], **ids)
    tiles = found.tiles
    empty, full, total = brute_force(variant.spec, tiles.tile_q, tiles.tile_kv, ids, tiles.groups)
    assert tiles.total == total
    assert tiles.visited + tiles.skipped == tiles.full + tiles.masked + tiles.skipped == total
    if body == VARIANTS["dilated"]:  # a proof may miss that two conditions exclude each other in a tile
        assert 0.8 * empty < tiles.skipped <= empty
    else:
        assert tiles.skipped == empty
    assert tiles.full == full
    for condition in found.conditions:
        alone = attncc.loads(f"attention a:\n  {body.rpartition(chr(10) + '  ')[0]}\n  mask = {condition.text}\n")
        given = {name: value for name, value in ids.items() if any(c.name == name for c in alone.spec.captures)}
        assert condition.skips <= empty
        again = alone.explain(q, k, v, block_m=tiles.tile_q, block_n=tiles.tile_kv, backend="torch", **given)
        assert again.tiles.skipped == condition.skips


@pytest.mark.parametrize("body", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_solved_ranges_hold_every_visible_key(body):
    variant = attncc.loads(f"attention a:\n  {body}\n")
    ids = {"ids": torch.sort(torch.randint(0, 5, (BATCH, LENGTH)))[0]} if variant.spec.captures else {}
    q, k, v = inputs(q=(BATCH, HEADS, LENGTH, 8))
    bands = variant.explain(q, k, v, **ids).bands
    if bands is None:
        assert body == "mask = true"
        return
    sizes = {"batch": BATCH, "heads": HEADS, "q_len": LENGTH, "kv_len": LENGTH}
    mask = evaluate_dense(lift(variant.spec).mask, sizes, ids)
    for b in range(BATCH):
        for h in range(HEADS):
            for q_min in range(0, LENGTH, 32):
                q_max = min(q_min + 32, LENGTH) - 1
                names = {"q_min": q_min, "q_max": q_max, "b": b, "h": h, **sizes}
                held, full = torch.zeros(2, LENGTH, dtype=torch.bool)
                for band in bands.ranges:
                    if value(band.when, names):
                        held[value(band.start, names) : max(0, value(band.stop, names))] = True
                        if band.full_start is not None:
                            full[value(band.full_start, names) : max(0, value(band.full_stop, names))] = True
                rows = mask[b, h, q_min : q_max + 1]
                assert not (rows.any(0) & ~held).any()
                assert not (full & ~rows.all(0)).any()
                if bands.exact:
                    assert torch.equal(held, rows.any(0))


def value(text, names):
    """The value of a printed expression: Python reads it, but for its constants."""
    functions = {"min": min, "max": max, "where": lambda condition, a, b: a if condition else b}
    return eval(text, {"true": True, "false": False, **functions}, names)


def test_heads_that_differ_are_counted_one_by_one():
    q, k, v = inputs(q=(BATCH, HEADS, LENGTH, 8))
    variant = attncc.loads(f"attention a:\n  {VARIANTS['heads']}\n")
    found = variant.explain(q, k, v, block_m=32, block_n=32)
    assert sum(len(group.heads) for group in found.heads) == HEADS
    for group in found.heads:
        for head in group.heads:
            alone = attncc.loads(f"attention a:\n  mask = 0 <= q_idx - kv_idx < {10 * (head + 1)}\n")
            tiles = alone.explain(q, k, v, block_m=32, block_n=32).tiles
            assert (group.visited, group.full, group.total) == (tiles.visited, tiles.full, tiles.total)


def test_the_whole_text_of_a_variant(golden):
    slopes = torch.ones(4, requires_grad=True)
    q, k, v = inputs(q=(1, 4, 1000, 16), grad=True)
    explanation = attncc.loads(WINDOW).explain(q.mT.contiguous().mT, k, v, slopes=slopes, block_m=128, block_n=64)
    assert f"{explanation}\n" == golden


def test_conditions_have_the_place_where_the_user_wrote_them():
    q, k, v = inputs()
    near, _ = attncc.loads(WINDOW).explain(q, k, v, slopes=torch.ones(4)).conditions
    assert near.place == "<string>:5:10"
    mask = attncc.compile(mask_mod=causal).explain(q, k, v).conditions[0]
    assert mask.place.partition(":")[0].endswith("cases.py")
    assert mask.written == "q_idx >= kv_idx"


def test_gradients_of_captured_tensors_are_told():
    text = "attention a:\n  capture x: float[heads]\n  capture y: int[q_len]\n  capture z: float[kv_len]\n"
    variant = attncc.loads(text + "  mask = z[kv_idx] > 0.0\n  score = score * x[h] + y[q_idx]\n")
    q, k, v = inputs(q=(1, 4, 33, 8))
    given = {"x": torch.ones(4, requires_grad=True), "y": torch.ones(33, dtype=torch.int64), "z": torch.ones(33)}
    x, y, z = variant.explain(q, k, v, **given).captures
    assert x.uses == "used in score"
    assert x.gradient == "one sum for each head, over every batch and query and key"
    assert y.gradient == "none: it holds no floats"
    assert (z.uses, z.gradient) == ("used in mask", "none: a mask is piecewise constant")
    given["x"] = torch.ones(4)
    assert variant.explain(q, k, v, **given).captures[0].gradient == "not asked for"


@pytest.mark.parametrize(
    ("declared", "read", "gradient"),
    [
        ("float", "x", "one sum over all pairs"),
        ("float[5]", "x[3]", "one sum over all pairs"),
        ("float[batch, q_len]", "x[b, q_idx]", "one sum for each batch and query, over every head and key"),
        ("float[_]", "x[q_idx - kv_idx + 32]", "what each pair adds is summed at its index, tile by tile in a fixed"),
    ],
)
def test_how_a_gradient_is_summed_is_told(declared, read, gradient):
    variant = attncc.loads(f"attention a:\n  capture x: {declared}\n  score = score + {read}\n")
    shape = {"float": (), "float[5]": (5,), "float[batch, q_len]": (2, 33), "float[_]": (65,)}[declared]
    (x,) = variant.explain(*inputs(), x=torch.ones(shape, requires_grad=True)).captures
    assert x.gradient.startswith(gradient)


def test_what_cannot_be_fingerprinted_is_told():
    class Strange:
        __slots__ = ("value",)

        def __init__(self):
            self.value = object()

        def __getattribute__(self, name):
            return 3 if name == "window" else object.__getattribute__(self, name)

    strange = Strange()
    q, k, v = inputs()
    found = attncc.compile(mask_mod=lambda b, h, q_idx, kv_idx: q_idx - kv_idx < strange.window).explain(q, k, v)
    plain = attncc.compile(mask_mod=causal).explain(q, k, v)
    assert plain.watched == ()
    assert all("followed" in reason or "`" in reason for reason in found.watched)


def test_copies_are_told():
    q, k, v = inputs()
    variant = attncc.compile(mask_mod=causal)
    assert variant.explain(q, k, v).copies == ()
    (copied,) = variant.explain(q, k.mT.contiguous().mT, v).copies
    assert copied.startswith("k in each call, because its last dimension is not contiguous")


def test_json_can_be_read():
    q, k, v = inputs()
    values = json.loads(attncc.loads(WINDOW).explain(q, k, v, slopes=torch.ones(4)).to_json())
    assert values["call"]["parameters"] == {"window": 16}
    assert values["tiles"]["total"] == values["tiles"]["visited"] + values["tiles"]["skipped"]


def test_the_reference_is_named_and_its_tiles_are_not_claimed():
    q, k, v = inputs()
    found = attncc.compile(mask_mod=causal).explain(q, k, v, backend="reference")
    assert found.call.backend == "reference"
    assert "computes every pair" in found.notes[0]


def test_a_mask_without_keys_is_warned_of():
    q = torch.empty(1, 1, 300, 16)
    empty = "attn 1\nattention empty(w: int = 4):\n  mask = q_idx >= kv_idx and q_idx - kv_idx < 0 - w and w > 0\n"
    assert "no row of this mask has a key" in str(attncc.loads(empty).explain(q, q, q))
    assert "no row" not in str(attncc.loads(empty.replace("0 - w", "w")).explain(q, q, q))


def test_the_queries_of_a_tile_of_keys_are_solved_too():
    q = torch.empty(1, 1, 300, 16)
    window = "attn 1\nattention near(w: int = 4):\n  mask = q_idx >= kv_idx and q_idx - kv_idx < w\n"
    found = attncc.loads(window).explain(q, q, q)
    (band,) = found.bands.q_ranges
    assert (band.start, band.stop, band.when) == ("kv_min", "min(kv_max + w, q_len)", "w > 0")
    assert "kv_min <= q_idx < min(kv_max + w, q_len), if w > 0" in str(found)


@pytest.mark.parametrize("fast", [True, False])
def test_an_approximate_function_is_told(fast, monkeypatch):
    from attncc.runtime import op
    from attncc.schedule import Target

    monkeypatch.setattr(op, "target_of", lambda backend, device: Target("triton", "cuda", "sm_90", fast_math=fast))
    q = torch.empty(1, 2, 300, 64, dtype=torch.bfloat16)
    capped = attncc.loads("attention capped:\n  score = 30.0 * tanh(score / 30.0)\n")
    found = capped.explain(q, q, q, backend="triton")
    assert any("ATTNCC_FAST_MATH=0" in note for note in found.notes) is fast
    assert ("off by at most" in str(found)) is fast
