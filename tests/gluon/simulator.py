"""Runs the text of a Gluon kernel for Hopper on the CPU, with everything that its barriers have to get right.

`simulate` takes a module of `@gluon.jit` functions as it was rendered and executes one of them with numpy. Partitions
of `warp_specialize` run in an order drawn from a seed; loads and stores of the TMA, and products of a warpgroup, are
under way until they are awaited; shared memory knows by vector clocks whether barriers order any two uses of it. A
Fault names what is wrong and at which lines. The other files here are the parts of the model:

- machine: partitions, the draw of who goes next, clocks; barriers: mbarriers and named barriers;
- memory: shared memory, tensor descriptors and transfers; products: wgmma; pointers: gl.load and gl.store;
- values: tensors and types; language, hopper, assembly: the functions that kernels call.

Not modelled: layouts and registers (the compiler checks those), clusters, the speed of anything, and the order of warps
within a partition. Global memory has no clocks: what a program reads of another's, it finds in the drawn order.
"""

from __future__ import annotations

import ast
import builtins
import functools
import linecache
from collections.abc import Collection, Mapping
from hashlib import sha256
from types import CodeType
from typing import Any, Final

import numpy as np

from tests.gluon.barriers import Mbarrier, Mbarriers
from tests.gluon.hopper import MODULES
from tests.gluon.language import runtime_range
from tests.gluon.machine import Fault, Machine
from tests.gluon.memory import Descriptor, Shared
from tests.gluon.pointers import Pointer
from tests.gluon.values import tensor

__all__ = ["Descriptor", "Fault", "Pointer", "simulate"]

BIND: Final = "__bind__"


def simulate(
    text: str,
    entry: str,
    grid: int | tuple[int, ...],
    arguments: Mapping[str, Any],
    *,
    seed: int = 0,
    slow: Collection[str] = (),
    warps: int = 4,
    resident: int = 2,
) -> None:
    """Run every program of a kernel. Raises Fault where the kernel is wrong.

    Arguments by name: Descriptor for a tensor descriptor, a dense array or Pointer for a pointer, numbers for the rest;
    arrays are written in place. Actors in `slow` move only when nobody else can: names of partitions' functions, with
    their position in brackets if there are several ("consume[1]"), or "transfers" for the TMA. At most `resident`
    programs of the grid run at a time, each of `warps` warps beside those that warp_specialize adds.
    """
    file = _file(text)
    kernel = _load(text)[entry]
    shape = grid if isinstance(grid, tuple) else (grid,)
    shape += (1,) * (3 - len(shape))
    constants = _constants(text, entry)
    given = {name: value if name in constants else _argument(value) for name, value in arguments.items()}
    Machine(file, seed, slow, resident).run(entry, warps, functools.partial(kernel, **given), shape)


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return Pointer(value)
    return value if isinstance(value, Descriptor | Pointer) else tensor(value)


def _file(text: str) -> str:
    """A name for the text under which tracebacks and faults find its lines."""
    name = f"<kernel {sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return name


def _load(text: str) -> dict[str, Any]:
    """The names of the module, with the model in place of Triton."""
    names: dict[str, Any] = {
        "__name__": "kernel",
        "__builtins__": {**vars(builtins), "__import__": _import},
        BIND: _bind,
        "range": runtime_range,
    }
    exec(_compile(text), names)
    return names


def _import(name: str, scope: Any = None, local: Any = None, found: Any = (), level: int = 0) -> Any:
    if name.split(".")[0] != "triton":
        return __import__(name, scope, local, found, level)
    if name not in MODULES:
        raise Fault("unmodelled", f"import of {name}")
    return MODULES[name if found else "triton"]


@functools.cache
def _compile(text: str) -> CodeType:
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(name) for name in node.decorator_list):
            _Assignments().visit(node)
    return compile(ast.fix_missing_locations(tree), _file(text), "exec", dont_inherit=True)


@functools.cache
def _constants(text: str, entry: str) -> frozenset[str]:
    """The parameters of a kernel that are constants."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry:
            parameters = [*node.args.args, *node.args.kwonlyargs]
            return frozenset(p.arg for p in parameters if p.annotation and "constexpr" in ast.unparse(p.annotation))
    raise Fault("type", f"there is no function {entry}")


class _Assignments(ast.NodeTransformer):
    """Pass what is assigned in a jitted function through `_bind`, as only annotated names stay constants there."""

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        (target,) = node.targets
        name = target.id if isinstance(target, ast.Name) else ""
        call = ast.Call(ast.Name(BIND, ast.Load()), [node.value, ast.Constant(name)], [])
        node.value = ast.copy_location(call, node.value)
        return node


def _bind(value: Any, name: str) -> Any:
    """A Python number becomes a scalar of run time, and an allocation gets the name of its variable."""
    if isinstance(value, bool | int | float):
        return tensor(value)
    if isinstance(value, tuple):
        return tuple(_bind(part, "") for part in value)
    if isinstance(value, Mbarriers):
        value.name = value.name or name
    elif isinstance(value, Mbarrier):
        value.array.name = value.array.name or name
    elif isinstance(value, Shared) and not value.path:
        value.allocation.name = value.allocation.name or name
    return value
