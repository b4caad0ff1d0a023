import dataclasses
import json

from attncc.report.explain import Band, Bands, Call, CaptureUse, Condition, Explanation, HeadTiles, Statistic, Tiles

EXPLANATION = Explanation(
    name="windowed_alibi",
    text="attn 1\nattention windowed_alibi(window: int = 256):\n  capture slopes: float[heads]\n  mask = true\n",
    call=Call((2, 8, 1000, 64), (2, 2, 1000, 64), (2, 2, 1000, 32), "float32", "cpu", 0.125, "torch", {"window": 256}),
    visit="q_max >= kv_min and q_min - kv_max < window and "
    + " and ".join(f"stat{i}_min <= stat{i}_max" for i in range(5)),
    full="q_min >= kv_max and q_max - kv_min < window",
    tiles=Tiles(128, 64, 256, 15, 30, 211, groups=1),
    bands=Bands(
        (
            Band("0", "min(4, q_max + 1)", "true", "0", "min(4, q_min + 1)"),
            Band("max(0, q_min - window + 1)", "min(q_max + 1, kv_len)", "window > 0", None, None),
        ),
        exact=False,
        reason="the mask reads captured tensors along the sequence",
    ),
    statistics=(Statistic("stat0", "doc_ids[b, q_idx]", "q"),),
    heads=(HeadTiles((0, 1, 2), 30, 10, 128), HeadTiles((3,), 15, 5, 128)),
    conditions=(
        Condition("q_idx >= kv_idx", "windowed_alibi.attn:5:11", "q_idx >= kv_idx", 105),
        Condition("q_idx - kv_idx < window", "windowed_alibi.attn:5:31", "distance < window", 1060),
        Condition("doc_ids[b, q_idx] == doc_ids[b, kv_idx]", None, None, 0),
    ),
    captures=(CaptureUse("slopes", "float[heads]", (8,), "float32", "used in score", "summed over all pairs"),),
    schedule=("tile_q 128: the matrix products stay in the cache", "tile_kv 64: as asked"),
    copies=("q in each call, because its last dimension is not contiguous",),
    deterministic="yes, always so",
    watched=("the functions capture something that cannot be fingerprinted",),
)


def test_the_whole_text(golden):
    assert f"{EXPLANATION}\n" == golden


def test_a_mask_that_hides_nothing(golden):
    plain = dataclasses.replace(
        EXPLANATION,
        visit="true",
        full="true",
        tiles=Tiles(128, 128, 4, 4, 0, 0, groups=16),
        bands=None,
        **dict.fromkeys(("statistics", "heads", "conditions", "captures", "schedule", "copies", "watched"), ()),
    )
    assert f"{plain}\n" == golden


def test_json_holds_the_same_numbers():
    values = json.loads(EXPLANATION.to_json())
    assert values["tiles"]["visited"] == 45
    assert values["tiles"]["skipped"] == 211
    assert values["call"]["q"] == [2, 8, 1000, 64]
    assert values["conditions"][1]["skips"] == 1060
    assert values.keys() == {field.name for field in dataclasses.fields(Explanation)}


def test_no_line_of_the_text_is_wider_than_a_page():
    assert max(map(len, str(EXPLANATION).split("\n"))) <= 120
