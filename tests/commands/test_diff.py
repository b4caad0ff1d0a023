import pytest

from attncc.frontend import parse
from attncc.ir import evaluate
from attncc.passes import lift
from tests.commands.runner import attncc


def text(mask=None, *lines, score=None, name="one", parameters="w: int = 9, s: int = 4"):
    body = [*lines, *([f"mask = {mask}"] if mask else []), *([f"score = {score}"] if score else [])]
    return f"attn 1\nattention {name}({parameters}):\n" + "".join(f"  {line}\n" for line in body)


#: Masks that look alike and differ; positions, lengths and rounding are where people go wrong.
ALIKE = {
    "ends of a window": ("q_idx >= kv_idx and q_idx - kv_idx < w", "q_idx >= kv_idx and q_idx - kv_idx <= w"),
    "itself": ("q_idx >= kv_idx", "q_idx > kv_idx"),
    "direction": ("q_idx >= kv_idx", "kv_idx >= q_idx"),
    "corner": ("q_idx >= kv_idx", "q_idx + kv_len - q_len >= kv_idx"),
    "both sides": ("abs(q_idx - kv_idx) < w", "q_idx - kv_idx < w"),
    "chunks": ("q_idx // 8 == kv_idx // 8", "abs(q_idx - kv_idx) < 8"),
    "chunks of 7": ("q_idx // 8 == kv_idx // 8", "q_idx // 7 == kv_idx // 7"),
    "quotient of a distance": ("q_idx // 8 - kv_idx // 8 < 2", "(q_idx - kv_idx) // 8 < 2"),
    "dilation": ("(q_idx - kv_idx) % 2 == 0", "q_idx % 2 == 0 and kv_idx % 2 == 0"),
    "remainder": ("(q_idx - kv_idx) % 3 == 0", "(q_idx - kv_idx) % 3 == 1"),
    "and, or": ("q_idx >= kv_idx and kv_idx < s", "q_idx >= kv_idx or kv_idx < s"),
    "binding": (
        "q_idx >= kv_idx and q_idx - kv_idx < w or kv_idx < s",
        "q_idx >= kv_idx and (q_idx - kv_idx < w or kv_idx < s)",
    ),
    "sinks": ("kv_idx < s or q_idx - kv_idx < w", "kv_idx <= s or q_idx - kv_idx < w"),
    "prefix of queries": ("q_idx >= kv_idx or kv_idx < s", "q_idx >= kv_idx or q_idx < s"),
    "heads": ("h < 2 or q_idx >= kv_idx", "h <= 2 or q_idx >= kv_idx"),
    "heads or batches": ("h % 2 == 0 or q_idx >= kv_idx", "b % 2 == 0 or q_idx >= kv_idx"),
    "heads of all": ("h < heads // 2 or q_idx >= kv_idx", "h < 4 or q_idx >= kv_idx"),
    "lengths": ("kv_idx < q_len", "kv_idx <= q_len"),
    "negation": ("not (q_idx >= kv_idx and q_idx - kv_idx < w)", "q_idx < kv_idx and q_idx - kv_idx >= w"),
    "far away": ("q_idx - kv_idx < 100000", "q_idx - kv_idx < 100001"),
    "where": ("where(h < 2, q_idx >= kv_idx, kv_idx < s)", "where(h < 2, kv_idx < s, q_idx >= kv_idx)"),
    "slope": ("2 * q_idx >= 3 * kv_idx", "2 * q_idx >= 3 * kv_idx + 1"),
    "parameters": ("q_idx - kv_idx < w", "q_idx - kv_idx < s"),
    "square": ("q_idx * q_idx > 4 * kv_idx", "q_idx * q_idx >= 4 * kv_idx"),
}
#: What must be found equal, and proven so.
EQUAL = {
    "the same": (text("q_idx >= kv_idx"), text("q_idx >= kv_idx")),
    "names of parameters": (
        text("q_idx >= kv_idx and q_idx - kv_idx < w", parameters="w: int = 9"),
        text("q_idx >= kv_idx and q_idx - kv_idx < window", parameters="window: int = 9", name="two"),
    ),
    "names of values": (
        text("near and q_idx >= kv_idx", "near = q_idx - kv_idx < w"),
        text("close and q_idx >= kv_idx", "close = q_idx - kv_idx < w"),
    ),
    "order": (text("q_idx >= kv_idx and q_idx - kv_idx < w"), text("q_idx - kv_idx < w and q_idx >= kv_idx")),
    "sides": (text("q_idx >= kv_idx and q_idx - kv_idx < w"), text("kv_idx <= q_idx and w > q_idx - kv_idx")),
    "causal and window": (
        text("q_idx >= kv_idx and (q_idx - kv_idx < w and q_idx - kv_idx >= 0)"),
        text("q_idx - kv_idx < w and q_idx - kv_idx >= 0"),
    ),
    "a score of -inf": (
        text(score="where(q_idx >= kv_idx and q_idx - kv_idx < w, score * 2, -inf)"),
        text("q_idx >= kv_idx and q_idx - kv_idx < w", score="score * 2"),
    ),
    "a score of -inf beside a mask": (
        text("q_idx >= kv_idx", score="where(q_idx - kv_idx < w, score, -inf)"),
        text("q_idx - kv_idx < w and q_idx >= kv_idx"),
    ),
    "negation": (
        text("not (q_idx < kv_idx or q_idx - kv_idx >= w)"),
        text("q_idx >= kv_idx and q_idx - kv_idx < w"),
    ),
    "absolute value": (text("abs(q_idx - kv_idx) < w"), text("q_idx - kv_idx < w and kv_idx - q_idx < w")),
    "captures": (
        text("ids[b, q_idx] == ids[b, kv_idx]", "capture ids: int[batch, kv_len]"),
        text("doc[b, kv_idx] == doc[b, q_idx]", "capture doc: int[batch, kv_len]"),
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(folder, a, b, *options):
    (folder / "a.attn").write_text(a)
    (folder / "b.attn").write_text(b)
    finished = attncc("diff", "a.attn", "b.attn", "--json", *options)
    assert finished.code == (0 if finished.json["equal"] else 1)
    return finished.json


@pytest.mark.parametrize(("a", "b"), ALIKE.values(), ids=ALIKE.keys())
def test_masks_that_look_alike_are_told_apart_with_a_pair(folder, a, b):
    found = compared(folder, text(a), text(b))
    assert (found["part"], found["standing"]) == ("mask", "refuted")
    witness = {"w": 9, "s": 4, "batch": 4, "heads": 9, **found["witness"]}
    assert {"b", "h", "q_idx", "kv_idx"} <= witness.keys()
    seen = [evaluate(parse(text(mask)).mask, witness) for mask in (a, b)]
    assert seen[0] != seen[1]
    assert seen == [side["visible"] for side in found["seen"]]


@pytest.mark.parametrize(("a", "b"), EQUAL.values(), ids=EQUAL.keys())
def test_masks_that_are_equal_are_proven_equal(folder, a, b):
    found = compared(folder, a, b)
    assert (found["equal"], found["standing"], found["all_parameters"]) == (True, "proven", True)


def test_text_and_python_are_compared_alike(folder):
    (folder / "masks.py").write_text(
        "W = 9\ndef near(b, h, q_idx, kv_idx):\n    return (q_idx >= kv_idx) & (q_idx - kv_idx < W)\n"
    )
    (folder / "near.attn").write_text(text("q_idx - kv_idx < w and q_idx >= kv_idx", parameters="w: int = 9"))
    finished = attncc("diff", "masks.py:near", "near.attn")
    assert (finished.code, finished.out) == (0, "equal, proven, for all values of W\n")


def test_a_number_in_place_of_a_parameter_is_equal_only_at_its_value(folder):
    a, b = text("q_idx - kv_idx < w", parameters="w: int = 9"), text("q_idx - kv_idx < 9", parameters="s: int = 1")
    found = compared(folder, a, b.replace("(s: int = 1)", ""))
    assert (found["equal"], found["standing"], found["all_parameters"]) == (True, "proven", False)
    assert not compared(folder, a, b.replace("(s: int = 1)", ""), "-p", "w=10")["equal"]


def test_defaults_that_differ_are_a_difference(folder):
    found = compared(folder, text("q_idx - kv_idx < w"), text("q_idx - kv_idx < w").replace("9", "10"))
    assert found["witness"]["q_idx"] - found["witness"]["kv_idx"] == 9


SCORES = {
    "sign": ("score - 0.5 * (q_idx - kv_idx)", "score + 0.5 * (q_idx - kv_idx)"),
    "heads": ("score * (h + 1)", "score * (h + 2)"),
    "cap": ("20.0 * tanh(score / 20.0)", "30.0 * tanh(score / 30.0)"),
    "order": ("abs(score) - 1.0", "abs(score - 1.0)"),
}


@pytest.mark.parametrize(("a", "b"), SCORES.values(), ids=SCORES.keys())
def test_scores_that_look_alike_are_told_apart_with_a_pair(folder, a, b):
    found = compared(folder, text("q_idx >= kv_idx", score=a), text("q_idx >= kv_idx", score=b))
    assert found["part"] == "score"
    witness = {"w": 9, "s": 4, "batch": 4, "heads": 9, **found["witness"]}
    seen = [evaluate(lift(parse(text(score=score))).score, witness) for score in (a, b)]
    assert abs(seen[0] - seen[1]) > 1e-5
    assert seen == [side["score"] for side in found["seen"]]


def test_scores_are_not_compared_where_the_pair_is_hidden(folder):
    a, b = "score - abs(q_idx - kv_idx)", "score - (q_idx - kv_idx)"
    assert compared(folder, text("q_idx >= kv_idx", score=a), text("q_idx >= kv_idx", score=b))["equal"]
    assert not compared(folder, text(score=a), text(score=b))["equal"]


def test_what_is_only_tested_is_called_so(folder):
    a, b = "0.1 * (q_idx - kv_idx) + score", "score - 0.1 * (kv_idx - q_idx)"
    assert compared(folder, text(score=a), text(score=b))["standing"] == "tested"
    assert "tested on random pairs, not proven" in attncc("diff", "a.attn", "b.attn").out


def test_captured_values_are_part_of_the_witness(folder):
    line = "capture ids: int[batch, kv_len]"
    found = compared(
        folder, text("ids[b, q_idx] == ids[b, kv_idx]", line), text("ids[b, q_idx] >= ids[b, kv_idx]", line)
    )
    b, q, kv = (found["witness"][name] for name in ("b", "q_idx", "kv_idx"))
    assert found["reads"][f"ids[{b}, {q}]"] > found["reads"][f"ids[{b}, {kv}]"]
    assert f"ids[{b}, {q}] = " in attncc("diff", "a.attn", "b.attn").out
