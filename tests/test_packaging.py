"""The wheel: it carries its data, works away from the source tree, and imports where Triton and POSIX are absent."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

EXAMPLE = """
import torch
import attncc

def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx

q, k, v = torch.randn(3, 1, 2, 63, 16, dtype=torch.float64).unbind()
out = attncc.attention(q, k, v, mask_mod=causal)
expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
torch.testing.assert_close(out, expected)
print("agrees")
"""

# What a machine without Triton, fcntl and user ids (Windows, in part macOS) looks like to an import.
FOREIGN = """
import os, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("triton", "fcntl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in ("getuid", "geteuid"):
    if hasattr(os, name):
        delattr(os, name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, repository) -> Path:
    """The wheel of this tree, built with the installed hatchling and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, repository)
    return next(folder.glob("attncc-*.whl"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel) -> Path:
    """A folder in which that wheel, and nothing else, is installed."""
    folder = tmp_path_factory.mktemp("installed")
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder, wheel)
    return folder


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_installed(folder: Path, code: str) -> str:
    """Run code that sees the installed wheel and the libraries, but neither the source tree nor an editable install."""
    libraries = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # -S skips the .pth files of site-packages, by which an editable install would lead back to the source tree.
    paths = f"import sys\nsys.path[:0] = [{str(folder)!r}]\nsys.path += {libraries!r}\n"
    return _run(sys.executable, "-I", "-S", "-c", paths + code)


def data_files(repository: Path) -> set[str]:
    files = [*(repository / "grammar").rglob("*"), *(repository / "templates").rglob("*")]
    return {path.relative_to(repository).as_posix() for path in files if path.is_file()}


def test_grammar_and_templates_hold_no_python_files(repository):
    """An editable install would take a `.py` file there for a module, and fail."""
    assert not [name for name in data_files(repository) if name.endswith(".py")]


def test_the_wheel_carries_grammar_and_templates(wheel, repository):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"attncc/{name}" for name in data_files(repository)} <= inside


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    inside = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in inside}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"attncc"}
    assert "attncc/py.typed" in inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_the_installed_package_finds_its_data(installed, repository):
    folders = sorted({name.split("/")[0] for name in data_files(repository)})
    code = f"from attncc.resources import resource_dir\nfor name in {folders}: print(resource_dir(name))"
    expected = [str((installed / "attncc" / name).resolve()) for name in folders]
    assert run_installed(installed, code).split() == expected


def test_the_installed_package_is_not_the_source_tree(installed):
    assert run_installed(installed, "import attncc; print(attncc.__file__)").startswith(str(installed))


def test_the_installed_package_runs_a_variant(installed):
    assert run_installed(installed, EXAMPLE) == "agrees\n"


EVERYTHING = """
import importlib, pkgutil
import attncc

# An integration imports the package that it is for, which need not be there.
names = [each.name for each in pkgutil.walk_packages(attncc.__path__, "attncc.", onerror=print)]
names = [name for name in names if not name.startswith("attncc.integrations.") and name != "attncc.__main__"]
for name in names:
    importlib.import_module(name)
assert "triton" not in sys.modules
print(len(names))
"""


def test_everything_imports_without_triton_fcntl_and_user_ids(installed, repository):
    package = repository / "attncc"
    names = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py")}
    left = {name for name in names if name.startswith("integrations/") and name != "integrations/__init__"}
    assert int(run_installed(installed, FOREIGN + EVERYTHING)) == len(names - left - {"__init__", "__main__"})


def test_a_variant_runs_without_triton_fcntl_and_user_ids(installed):
    assert run_installed(installed, FOREIGN + EXAMPLE) == "agrees\n"


def test_the_wheel_shows_the_readme(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project.get("readme") == "README.md"
