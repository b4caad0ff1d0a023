"""What every test shares: one seed, one share of the counts, golden files, and an environment of its own."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests import newest
from tests.golden_files import UPDATE, Golden, golden_path
from tests.share import SEED, SHARE, share

CACHE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(UPDATE, action="store_true", help="rewrite the golden files of the tests that run")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis_settings.register_profile(
        "attncc",
        max_examples=share(500),
        derandomize=True,
        database=None,
        deadline=None,  # the machine is shared: a slow example says nothing about attncc
        suppress_health_check=[HealthCheck.too_slow],
    )
    hypothesis_settings.load_profile("attncc")
    if not hasattr(config, "workerinput"):
        config.stash[CACHE] = _own_environment()


def _own_environment() -> str:
    """Clear the user's settings and keep compiled kernels in a fresh folder, which the workers of this run share."""
    for name in [name for name in os.environ if name.startswith("ATTNCC_") and not name.startswith("ATTNCC_TEST_")]:
        del os.environ[name]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers already use every core
    os.environ.setdefault("MPLBACKEND", "agg")  # no test opens a window
    cache = tempfile.mkdtemp(prefix="attncc-tests-")
    os.environ["ATTNCC_CACHE_DIR"] = cache
    return cache


def pytest_unconfigure(config: pytest.Config) -> None:
    if CACHE in config.stash:
        shutil.rmtree(config.stash[CACHE], ignore_errors=True)


def pytest_report_header() -> list[str]:
    lines = [f"attncc: {SHARE:g} of the counts (ATTNCC_TEST_SHARE), seed {SEED}, hypothesis derandomized"]
    if not newest.is_there():
        lines.append(f"attncc: Triton {newest.newest_version()} is not here (make newest), nothing is compiled with it")
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Of how many random cases nothing could be said: what tests recorded as `set aside`, (aside, tried), by file."""
    counts: dict[str, list[tuple[int, int]]] = {}
    for report in (report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "set aside":
                counts.setdefault(report.nodeid.split("::")[0], []).append(value)
    for file, found in sorted(counts.items()):
        aside, tried = (sum(each) for each in zip(*found, strict=True))
        terminalreporter.write_line(f"{file}: {aside} of {tried} random cases set aside ({aside / tried:.1%})")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("full") and SHARE < 1:
        pytest.skip("runs only with the full counts: make test-all")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs a CUDA device")


def _has_gpu() -> bool:
    import torch  # late: most tests of the compiler need no torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same seed, whichever tests ran before it."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The golden file of this test: `assert text == golden`."""
    return Golden(golden_path(request.path, request.node.name), request.config.getoption(UPDATE))


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    for file, text in ((left, right), (right, left)):
        if op == "==" and isinstance(file, Golden) and isinstance(text, str):
            return file.difference(text)
    return None


@pytest.fixture
def fresh_settings() -> Iterator[None]:
    """Settings are read again in this test and after it, so that `monkeypatch.setenv` has its effect."""
    from attncc.config import settings  # late: the environment is set up first

    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parent.parent
