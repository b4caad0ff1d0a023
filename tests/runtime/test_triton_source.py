"""Generated text becomes functions only if it holds nothing but definitions."""

from __future__ import annotations

import inspect
import linecache

import pytest

from attncc.errors import InternalError
from attncc.runtime.triton_source import define, file_name
from tests.runtime.kernels import ADD, ATTEND, HEAD

pytest.importorskip("triton")


def test_definitions_are_executed_and_their_source_can_be_read():
    names = define("attend", HEAD + ATTEND)
    assert names["attend"].arg_names[:4] == ["q", "k", "v", "out"]
    assert inspect.getsource(names["attend"].fn).startswith("@triton.jit\ndef attend(")
    linecache.checkcache()
    assert inspect.getsource(names["step"].fn).startswith("@triton.jit\ndef step(")


def test_equal_texts_are_the_same_functions_and_others_are_not():
    assert define("a", HEAD + ADD) is define("a", HEAD + ADD)
    assert define("a", HEAD + ADD)["add"] is not define("a", HEAD + "# other\n" + ADD)["add"]


def test_a_file_name_is_readable_and_names_no_path_of_this_machine():
    assert file_name("my window/..", "text").startswith("attncc/my_window_..-")
    assert file_name("", "text").startswith("attncc/kernel-")
    assert file_name("a", "text") != file_name("a", "other")


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "from os import system",
        "from . import triton",
        "print('hello')",
        "x = open('/etc/passwd')",
        "x = [print()]",
        "x: print() = 3",
        "x = tl.constexpr(print())",
        "a.b = 3",
        "if True:\n    x = 3",
        "def plain():\n    pass",
        "@print\ndef f():\n    pass",
        "@triton.autotune(configs=[])\ndef f():\n    pass",
        "@triton.jit(noinline=print())\ndef f():\n    pass",
        "@print().jit\ndef f():\n    pass",
        "@triton.jit\ndef f(x=print()):\n    pass",
        "@triton.jit\ndef f(x: print()):\n    pass",
        "@triton.jit\ndef f() -> print():\n    pass",
        "class A:\n    x = 3",
        "@gluon.aggregate\nclass A:\n    x = print()",
        "@gluon.aggregate\nclass A(print()):\n    x: int",
        "lambda: 0",
    ],
)
def test_anything_but_a_definition_is_refused_before_it_runs(line, capsys):
    with pytest.raises(InternalError, match=r"holds more than definitions: line \d+"):
        define("kernel", HEAD + line + "\n")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "line",
    [
        '"""A docstring."""',
        "import math",
        "import triton.language as gl",
        "from triton.language.extra import libdevice",
        "LIMIT = -3",
        "LIMIT: tl.constexpr = tl.constexpr(1.5)",
        "KIND = tl.float32",
        "PAIR = (1, 'a')",
        "@triton.jit(noinline=True)\ndef f(x: tl.constexpr, y=3, *, z=None):\n    pass",
        "@triton.constexpr_function\ndef f(x):\n    return x + 1",
    ],
)
def test_definitions_are_allowed(line):
    define("kernel", HEAD + line + "\n")


def test_what_is_not_python_is_our_mistake():
    with pytest.raises(InternalError, match="is not Python"):
        define("kernel", "def (")
