import time

import pytest

import attncc as library
from attncc.report.cost import MACHINES
from tests.commands.runner import PACKED, WINDOW, attncc

CAUSAL = "attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n"
FULL = "attn 1\nattention full:\n  score = score\n"
HEADS = "attn 1\nattention heads:\n  mask = h < 2 or q_idx >= kv_idx\n"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = {"window": WINDOW, "packed": PACKED, "causal": CAUSAL, "full": FULL, "heads": HEADS}
    for name, text in texts.items():
        (tmp_path / f"{name}.attn").write_text(text)


def cost(name, *options):
    return attncc("cost", f"{name}.attn", "--json", *options).json


def test_causal_tiles_and_work_are_those_of_the_formula():
    n, tile, head, heads = 32, 64, 32, 3
    found = cost("causal", "-q", n * tile, "--block-m", tile, "--block-n", tile, "--head-dim", head, "--heads", heads)
    tiles = found["tiles"]
    visited = heads * n * (n + 1) // 2
    assert (tiles["visited"], tiles["masked"], tiles["total"]) == (visited, heads * n, heads * n * n)
    assert found["multiply_adds"] == visited * tile * tile * 2 * head
    assert found["exponentials"] == visited * tile * (tile + 1)
    assert tiles["longest"] == n
    assert found["imbalance"] == pytest.approx(2 * n / (n + 1))
    elements = 4 * heads * n * tile * head
    assert found["bytes_once"] == 2 * elements + 4 * heads * n * tile


@pytest.mark.parametrize("name", ["window", "packed", "heads", "full"])
def test_tiles_are_those_of_the_explanation(name):
    """One way counts closed forms, the other tests every tile."""
    import torch

    from attncc.commands.definition import read_definition
    from attncc.commands.tensors import example_captures

    sizes = {"batch": 2, "heads": 4, "q_len": 700, "kv_len": 700}
    found = cost(name, "-q", 700, "--batch", 2, "--heads", 4, "--block-m", 64, "--block-n", 32)["tiles"]
    q = torch.empty(2, 4, 700, 64)
    spec = read_definition(f"{name}.attn").spec
    captures = example_captures(spec, sizes, {}, 0, "cpu")
    explained = library.load(f"{name}.attn").explain(q, q, q, block_m=64, block_n=32, **captures).tiles
    copies = 8 // explained.groups
    assert found["full"] == copies * explained.full
    assert found["masked"] == copies * explained.masked
    assert found["skipped"] == copies * explained.skipped


@pytest.mark.parametrize(("name", "how"), [("window", ""), ("packed", ", with the captured tensors of this call")])
def test_how_tiles_were_counted_speaks_of_captured_tensors_where_there_are_some(monkeypatch, name, how):
    from attncc.analysis import count

    closed = cost(name, "-q", 700)["tiles"]
    monkeypatch.setattr(count, "MAX_TESTS", -1)  # too many tiles to be tested one by one: whole rows are tested
    found = cost(name, "-q", 700)["tiles"]
    assert found.pop("how") == f"each tile tested{how}"
    closed.pop("how")
    assert found == closed


@pytest.mark.parametrize("gluon", [True, False])
def test_tiles_on_hopper_are_those_of_the_kernel_that_would_run(gluon, monkeypatch):
    from attncc import pipeline
    from attncc.commands.definition import read_definition
    from attncc.runtime import op
    from attncc.schedule import Problem, Target

    monkeypatch.setattr(op, "runs_gluon", lambda arch: gluon and arch == "sm_90")
    for name in ("causal", "packed"):
        problem = Problem("bfloat16", 128, 128, 16, 16, ("int64",) * (name == "packed"))
        spec = read_definition(f"{name}.attn").spec
        schedule = pipeline.lower(spec, problem, Target("triton", "cuda", "sm_90", gluon=gluon)).schedule
        found = cost(name, "-q", 2048)["tiles"]
        assert (found["tile_q"], found["tile_kv"]) == (schedule.tile_q, schedule.tile_kv)


@pytest.mark.parametrize(("length", "tile_q"), [(1024, 128), (8192, 192)])
def test_few_queries_are_counted_in_tiles_of_their_own(length, tile_q, monkeypatch):
    from attncc.runtime import op

    monkeypatch.setattr(op, "runs_gluon", lambda arch: arch == "sm_90")
    assert cost("causal", "-q", length, "--head-dim", 64)["tiles"]["tile_q"] == tile_q


def test_a_million_tokens_are_counted_in_closed_form():
    start = time.process_time()
    found = cost("window", "-q", 1 << 20, "-p", "window=4096")
    assert time.process_time() - start < 1.5
    assert found["tiles"]["how"] == "summed in closed form"
    assert found["tiles"]["total"] > 10**9


@pytest.mark.parametrize("name", [machine.name for machine in MACHINES.values()])
def test_every_target_has_its_ceilings(name):
    found = cost("causal", "--target", name)
    machine = found["machine"]
    assert machine["name"] == name
    assert found["times"]["products"] == 2 * found["multiply_adds"] / machine["matrix_flops"]
    assert found["times"]["memory"] == found["bytes_once"] / machine["bandwidth"]
    assert found["time"] == max(found["times"].values())
    assert found["bytes_once"] <= found["bytes_bound"] or found["bytes_bound"] == found["bytes_once"]
    assert found["bytes_once"] <= found["bytes_most"]
    printed = attncc("cost", "causal.attn", "--target", name.lower()).out
    assert f"CEILINGS of {name}" in printed
    assert "<- decides" in printed


def test_the_least_traffic_grows_with_the_square_of_the_length():
    short, long = (cost("full", "-q", length, "--heads", 1) for length in (1 << 18, 1 << 19))
    assert long["bytes_bound"] == pytest.approx(4 * short["bytes_bound"])
    assert long["bytes_bound"] > long["bytes_once"]


def test_dense_is_as_fast_where_nothing_is_skipped():
    assert "dense would be as fast" in attncc("cost", "full.attn").out
    window = attncc("cost", "window.attn", "-q", 65536).out
    assert "dense would be faster only if" in window


def test_float32_runs_on_the_ordinary_units():
    found = cost("causal", "--dtype", "float32")
    assert found["times"]["products"] == 2 * found["multiply_adds"] / MACHINES["h100"].vector_flops


MISTAKES = {
    "target": (["--target", "TPU"], 1, "no ceilings are known for 'TPU'"),
    "dtype": (["--dtype", "int8"], 2, "'int8' is not one of"),
    "parameter": (["-p", "windows=3"], 1, "windows"),
}


@pytest.mark.parametrize(("options", "code", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_command_line_is_explained(options, code, message):
    finished = attncc("cost", "window.attn", *options)
    assert finished.code == code
    assert message in finished.out + finished.err
