"""Kernels that might never end are tried in a process of their own; here they run in Triton's interpreter."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
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


def answered(returncode: int, out: str, err: str = ""):
    """The other process as it would have ended."""
    from attncc.api import apart

    said = subprocess.CompletedProcess([], returncode, out, err)
    return mock.patch.object(apart, "_replay", return_value=said)


@interpreted
def test_right_kernels_are_found_right_by_another_process():
    from attncc.api import apart
    from tests.api.test_self_test import made

    with temporary_folder() as folder:
        _, loaded, trial = made("causal", False)
        assert apart.try_out(trial, loaded)
        assert not list(folder.iterdir())


@interpreted
def test_wrong_results_of_the_other_process_are_an_error_with_a_case_to_replay():
    import pytest

    from attncc.api import apart
    from attncc.errors import CompileError
    from tests.api.test_self_test import made

    with temporary_folder() as folder, answered(1, "right  lse: off by 0\nWRONG  out: off by 3 where 0.1 is allowed\n"):
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
        with answered(1, "", "RuntimeError: all CUDA-capable devices are busy\n"):
            assert not apart.try_out(trial, loaded)
        assert "devices are busy" in str(warning.call_args)
        with mock.patch.object(sys, "executable", ""):
            assert not apart.try_out(trial, loaded)
