"""What is tried in another process, or replayed, are the kernels that the call would run, whichever form it takes."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from attncc import pipeline
from attncc.api import repro, self_test
from attncc.runtime import op
from attncc.runtime.triton_attention import TritonPass
from attncc.schedule import Gradients
from tests.gluon.launch import simulated
from tests.gluon.rendered import HOPPER
from tests.runtime.triton.cases import gallery_case


@pytest.mark.parametrize(("deterministic", "length"), [(None, 400), (None, 4000), (False, 400), (True, 400)])
def test_a_kept_case_has_the_same_kernels(deterministic, length, tmp_path):
    """`deterministic` is None for the forward pass."""
    case = gallery_case("causal", 200, batch=1, heads=2, group=2, dim=64, value_dim=64)
    own, _ = case.tensors(torch.bfloat16)
    long = [tensor.new_empty((1, tensor.shape[1], length, 64)) for tensor in own]
    gradients = None if deterministic is None else Gradients()
    problem = op.problem_of(long, (), gradients, 0, 0, deterministic=bool(deterministic))
    lowered = pipeline.lower(case.spec, problem, HOPPER)
    programs = lowered.triton_forward if gradients is None else lowered.triton_backward
    with simulated():
        kernels = TritonPass(programs, torch.device("cpu"))
        loaded = kernels.load_kind(True, False)
        trial = self_test.make_trial(case.spec, loaded, own, [], ())
        assert trial is not None
        folder = repro.save(trial, loaded, [], tmp_path)
        with mock.patch.object(self_test, "findings", return_value=[]) as findings:
            self_test.replay(folder)
    again = findings.call_args.args[2]
    assert {name: each.kernel.source.digest for name, each in again.program.passes.items()} == {
        name: each.kernel.source.digest for name, each in loaded.program.passes.items()
    }
