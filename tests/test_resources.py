"""The folders of the grammar and the templates are found in the package first, then beside it."""

from __future__ import annotations

import pytest

from attncc import resources
from attncc.errors import InternalError
from attncc.resources import resource_dir


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "attncc")
    return tmp_path / "attncc"


def test_a_folder_beside_the_package_is_found(package):
    (package.parent / "grammar").mkdir()
    assert resource_dir("grammar") == package.parent / "grammar"


def test_a_folder_inside_the_package_comes_first(package):
    (package.parent / "grammar").mkdir()
    (package / "grammar").mkdir(parents=True)
    assert resource_dir("grammar") == package / "grammar"


@pytest.mark.usefixtures("package")
def test_a_missing_folder_is_named():
    with pytest.raises(InternalError, match="no folder `grammar`"):
        resource_dir("grammar")
