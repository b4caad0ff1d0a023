"""Kernels that might never end are tried in a process of their own; here they run in Triton's interpreter."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.interpreter import interpreted


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files that is empty at first."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "tempdir", folder):
        yield Path(folder)


def answered(**found: object):
    """The other process as it would have answered."""
    from attncc.api import apart

    return mock.patch.object(apart, "_replay", return_value=found)


@interpreted
def test_right_kernels_are_found_right_by_another_process():
    from attncc.api import apart
    from tests.api.test_self_test import made

    with temporary_folder() as folder:
        for backward in (False, True):
            _, loaded, trial = made("causal", backward)
            assert apart.try_out(trial, loaded)
        assert len(apart._PROCESSES) == 1  # which has served both
        assert not list(folder.iterdir())
        apart.end_all()


@interpreted
def test_wrong_results_of_the_other_process_are_an_error_with_a_case_to_replay():
    import pytest

    from attncc.api import apart
    from attncc.errors import CompileError
    from tests.api.test_self_test import made

    with temporary_folder() as folder, answered(wrong=["WRONG  out: off by 3 where 0.1 is allowed"]):
        _, loaded, trial = made("causal", False)
        with pytest.raises(CompileError, match="WRONG  out: off by 3") as caught:
            apart.try_out(trial, loaded)
        assert "attncc replay" in str(caught.value.hint)
        assert not list(folder.iterdir())
    kept = Path(str(caught.value.hint).split("attncc replay ")[1].split("`")[0])
    assert (kept / "problem.json").exists()
    shutil.rmtree(kept)


@interpreted
def test_a_process_that_does_not_end_is_stopped():
    import time

    import pytest

    from attncc.api import apart
    from attncc.errors import CompileError
    from tests.api.test_self_test import made

    with temporary_folder():
        _, loaded, trial = made("causal", False)
        start = time.perf_counter()
        with pytest.raises(CompileError, match="do not end") as caught:
            apart.try_out(trial, loaded, limit=0.2)
        assert time.perf_counter() - start < 60
        assert "ATTNCC_GLUON=0" in str(caught.value.hint)


@interpreted
def test_where_no_process_can_be_had_the_kernels_are_tried_here():
    import sys

    from attncc.api import apart
    from tests.api.test_self_test import made

    with temporary_folder(), mock.patch.object(apart.LOG, "warning") as warning:
        _, loaded, trial = made("causal", False)
        with answered(failed="RuntimeError: all CUDA-capable devices are busy"):
            assert not apart.try_out(trial, loaded)
        assert "devices are busy" in str(warning.call_args)
        with mock.patch.object(sys, "executable", ""):
            assert not apart.try_out(trial, loaded)


@interpreted
def test_a_process_that_is_gone_is_replaced_and_one_that_cannot_start_is_noticed():
    import sys

    from attncc.api import apart
    from attncc.runtime.apart import Apart
    from tests.api.test_self_test import made

    with temporary_folder():
        _, loaded, trial = made("causal", False)
        apart._PROCESSES[:] = [Apart([sys.executable, "-c", "input()"])]  # ends, and says nothing
        assert apart.try_out(trial, loaded)
        apart.end_all()
        apart._PROCESSES[:] = [Apart([sys.executable, "-c", "input(); raise ValueError('no GPU')"])]
        with mock.patch.object(apart.LOG, "warning") as warning:
            assert not apart.try_out(trial, loaded)
        assert "it ended with 1: ValueError: no GPU" in str(warning.call_args)
        apart.end_all()


def test_kernels_that_leave_an_error_are_wrong_and_what_cannot_be_tried_has_failed(tmp_path):
    import torch

    from attncc.api import replaying
    from attncc.errors import UnsupportedError

    def raising(error: Exception):
        return mock.patch.object(replaying, "replay", side_effect=error)

    with raising(torch.AcceleratorError("CUDA error: an illegal memory access\nmore")):
        assert replaying.found_in(tmp_path) == {
            "wrong": ["WRONG  CUDA error: an illegal memory access"],
            "broken": True,
        }
    with raising(UnsupportedError("nothing may be compiled")):
        assert replaying.found_in(tmp_path) == {"failed": "nothing may be compiled"}
    with raising(torch.OutOfMemoryError("no memory")):
        assert replaying.found_in(tmp_path) == {"failed": "no memory"}


def test_a_process_is_started_for_kernels_that_may_hang_alone():
    from types import SimpleNamespace

    from attncc.api import apart

    def program(*kinds: bool):
        return SimpleNamespace(
            passes={i: SimpleNamespace(kernel=SimpleNamespace(gluon=g)) for i, g in enumerate(kinds)}
        )

    with mock.patch.object(apart, "_process") as started:
        apart.foresee(program(False, False), "cuda:1")
        started.assert_not_called()
        apart.foresee(program(False, True), "cuda:1")
    started.assert_called_once_with("cuda:1")
