import pytest
import torch

from attncc import __version__
from tests.commands.runner import attncc


def test_versions_devices_and_settings_are_listed():
    found = attncc("info", "--json").json
    assert found["versions"]["attncc"] == __version__
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "cpu" in found["devices"]
    assert found["folders"]["cache"] == found["settings"]["ATTNCC_CACHE_DIR"]
    assert found["settings"]["ATTNCC_LOG"] == "not set"
    assert found["settings"]["ATTNCC_CHECK_BOUNDS"] == "auto (default)"


def test_the_same_is_printed_for_people():
    printed = attncc("info").out
    assert f"attncc       {__version__}" in printed
    assert "ATTNCC_CACHE_DIR" in printed


@pytest.mark.usefixtures("fresh_settings")
def test_a_wrong_setting_is_drawn_and_not_a_traceback(monkeypatch):
    monkeypatch.setenv("ATTNCC_LOG", "loud")
    finished = attncc("info")
    assert finished.code == 1
    assert "InputError: ATTNCC_LOG cannot be 'loud'" in finished.err
    assert "Traceback" not in finished.err
