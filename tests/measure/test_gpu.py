"""What tuning runs on a GPU, tried in Triton's interpreter: works, timing under a schedule, compiling together."""

from __future__ import annotations

from attncc.errors import CompileError
from attncc.measure import gpu
from tests.interpreter import interpreted


@interpreted
def test_passes_of_a_problem_are_timed_under_any_schedule():
    from dataclasses import replace

    import torch

    from attncc.measure.cases import Shape
    from attncc.measure.problems import case_problem
    from attncc.measure.tune import tune_pass
    from attncc.schedule.triton import TritonSchedule

    torch.set_num_threads(1)
    problem = case_problem("relative_bias", Shape(1, 2, 1, 32, 32, 16), "cpu", {})
    forward, backward = gpu.works(problem, "float32")
    assert forward.program.scheduled("forward")
    assert backward.program.scheduled("backward_kv")
    small = TritonSchedule(16, 16, 4, 1)
    for work, name in ((forward, "forward"), (backward, "backward_q")):
        bare = replace(work.program, schedules=replace(work.program.schedules, others=()))
        measure = gpu.measure_on(work, torch.device("cpu"), 0)
        found = tune_pass(bare, name, (small,), lambda programs, name: [None] * len(programs), measure)
        assert [trial.ms is not None and trial.ms > 0 for trial in found.trials] == [True, True]


def test_kernels_that_cannot_be_compiled_are_left_out(monkeypatch):
    seen = []

    def build(kernel, target):
        seen.append(kernel)
        raise CompileError("refused")

    monkeypatch.setattr(gpu.triton_build, "build", build)
    gpu.compile_together([1, 2, 3], "sm_90", 2)
    assert sorted(seen) == [1, 2, 3]
