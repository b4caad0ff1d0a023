"""The settings: each variable is read as documented, and a bad value says what it may be."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from attncc.config import LOG, Settings, read, settings, table, variable_name
from attncc.errors import InputError


def test_an_empty_environment_gives_the_defaults():
    assert read({}) == Settings()


def test_an_empty_value_counts_as_unset():
    assert read({variable_name(field.name): " " for field in dataclasses.fields(Settings)}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("ATTNCC_CACHE_DIR", "/tmp/kernels", "cache_dir", Path("/tmp/kernels")),
        ("ATTNCC_CACHE_DIR", "~/kernels", "cache_dir", Path.home() / "kernels"),
        ("ATTNCC_CACHE_SIZE", "1000", "cache_size", 1000),
        ("ATTNCC_CACHE_SIZE", "3 MiB", "cache_size", 3 * 2**20),
        ("ATTNCC_CACHE_SIZE", "2gib", "cache_size", 2 * 2**30),
        ("ATTNCC_DISABLE_JIT", "1", "disable_jit", True),
        ("ATTNCC_LOG", "DEBUG", "log", "debug"),
        ("ATTNCC_PRINT_CODE", "on", "print_code", True),
        ("ATTNCC_PACK", "pack", "pack", Path("pack")),
        ("ATTNCC_SELF_TEST", "off", "self_test", False),
        ("ATTNCC_FAST_MATH", "0", "fast_math", False),
        ("ATTNCC_TARGETS", "sm_80, sm_90", "targets", ("sm_80", "sm_90")),
        ("ATTNCC_CHECK_BOUNDS", "on", "check_bounds", "on"),
    ],
)
def test_a_value_is_read_as_its_type(variable, text, field, value):
    assert read({variable: text}) == dataclasses.replace(Settings(), **{field: value})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ATTNCC_CACHE_SIZE", "lots"),
        ("ATTNCC_CACHE_SIZE", "-1"),
        ("ATTNCC_CACHE_SIZE", "2GB"),
        ("ATTNCC_LOG", "loud"),
        ("ATTNCC_SELF_TEST", "yes please"),
        ("ATTNCC_TARGETS", "sm_80,,sm_90"),
        ("ATTNCC_CHECK_BOUNDS", "maybe"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_what_is_allowed(variable, text, golden):
    with pytest.raises(InputError) as caught:
        read({variable: text})
    assert caught.value.describe() + "\n" == golden


@pytest.mark.usefixtures("fresh_settings")
def test_settings_are_read_once_and_again_on_request(monkeypatch):
    monkeypatch.setenv("ATTNCC_PRINT_CODE", "1")
    first = settings()
    monkeypatch.setenv("ATTNCC_PRINT_CODE", "0")
    assert settings() is first
    settings.cache_clear()
    assert settings() == dataclasses.replace(first, print_code=False)


@pytest.mark.usefixtures("fresh_settings")
def test_the_log_is_silent_until_it_is_asked_for(monkeypatch, capsys):
    settings()
    LOG.warning("unheard")
    monkeypatch.setenv("ATTNCC_LOG", "info")
    settings.cache_clear()
    settings()
    LOG.info("heard")
    LOG.debug("below the level")
    monkeypatch.delenv("ATTNCC_LOG")
    settings.cache_clear()
    settings()
    LOG.warning("unheard again")
    assert capsys.readouterr().err == "attncc INFO: heard\n"
    assert LOG.level == logging.NOTSET


def test_the_documentation_has_the_table_of_variables(repository):
    page = (repository / "docs" / "index.md").read_text(encoding="utf-8")
    assert table() in page, f"docs/index.md is out of date; its table of variables should be:\n\n{table()}"
