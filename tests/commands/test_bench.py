"""`attncc bench` as users start it."""

from __future__ import annotations

import pytest

from attncc.commands.bench import make_plan, title_of
from attncc.errors import InputError
from tests.commands.runner import WINDOW, attncc

SMALL = ("-q", 64, "--heads", 2, "-D", "16", "--budget", 0, "--device", "cpu")


@pytest.mark.slow
def test_cases_and_variants_are_measured_each_in_its_own_process(tmp_path):
    file = tmp_path / "near.attn"
    file.write_text(WINDOW)
    done = attncc("bench", "causal", file, *SMALL, "--param", "window=7", "--pass", "forward", "--json")
    assert done.code == 0
    found = done.json["timings"]
    names = [(each["case"], each["contender"]) for each in found]
    assert names == [("causal", "attncc"), ("causal", "SDPA"), ("near", "attncc"), ("near", "SDPA")]
    assert all(each["ms"] > 0 and each["share"] > 0 for each in found)
    assert all(each["difference"] < 1e-5 for each in found)
    assert done.json["matrix_tflops"] > 0


@pytest.mark.slow
def test_a_case_that_takes_too_long_is_ended_and_named():
    done = attncc("bench", "causal", *SMALL, "--limit", 1, "--markdown")
    assert done.code == 0
    assert "not measured: the case took longer than 1 s" in done.out


def test_what_hangs_or_fails_is_measured_in_a_process_of_its_own(monkeypatch):
    commands = []

    def run(command, limit):
        commands.append(command)
        yield {"device": "CPU", "versions": "torch", "matrix_tflops": 1.0}
        row = {"case": command[-1], "contender": "attncc", "head_dim": 16, "q_len": 64, "direction": "forward"}
        yield {**row, "ms": 2.0, "tflops": 0.5, "difference": 0.0, "note": None}

    monkeypatch.setattr("attncc.measure.apart.run_apart", run)
    done = attncc("bench", "causal", "alibi", *SMALL, "--beside", "none")
    assert "50 %" in done.out
    assert [command[-1] for command in commands] == ["causal", "alibi"]
    assert all("--alone" in command and "--head-dim=16" in command for command in commands)


def test_a_command_line_is_passed_on_whole():
    plan = make_plan("cpu", 64, None, 1, None, None, "16,32", "bf16", "backward", "sdpa", "torch", 5.0)
    assert (plan.shape(16).heads, plan.shape(32).heads, plan.shape(32).kv_len) == (16, 8, 64)
    again = dict(each.removeprefix("--").split("=") for each in plan.arguments(32))
    assert again == {
        **{"q-len": "64", "kv-len": "64", "batch": "1", "heads": "8", "kv-heads": "8", "head-dim": "32"},
        **{"dtype": "bfloat16", "device": "cpu", "pass": "backward", "beside": "sdpa", "backend": "torch"},
        "budget": "5.0",
    }


def test_a_gpu_that_is_not_there_is_refused():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="no CUDA device"):
        make_plan("cuda", 64, None, 1, 1, 1, "16", "bf16", "forward", "none", "auto", 5.0)


def test_an_unknown_contender_is_refused():
    assert "'fast' is none of" in attncc("bench", "causal", "--beside", "fast").err


def test_titles_name_the_variant():
    assert title_of("relative_bias") == "learned relative bias, causal"
    assert title_of("folder/near.attn") == "near"
    assert title_of("module.masks:near") == "near"
