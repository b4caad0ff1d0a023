"""Generated torch source as functions: executed once, found again by digest, and visible in tracebacks."""

from __future__ import annotations

import linecache
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attncc.errors import CompileError

if TYPE_CHECKING:  # a kernel that is built already needs no templates
    from attncc.emit import KernelSource

Kernel = Callable[..., Any]

_BUILT: dict[str, Kernel] = {}
_LOCK = threading.Lock()


def build(source: KernelSource, function: str) -> Kernel:
    """The function of this name that the source defines. Kernels of the same digest are built once."""
    found = _BUILT.get(source.digest)
    if found is not None:
        return found
    with _LOCK:
        if source.digest not in _BUILT:
            _BUILT[source.digest] = _execute(source, function)
        return _BUILT[source.digest]


def _execute(source: KernelSource, function: str) -> Kernel:
    file = f"<attncc {source.name} {source.digest[:12]}>"
    lines = source.text.splitlines(keepends=True)
    linecache.cache[file] = (len(source.text), None, lines, file)
    namespace: dict[str, Any] = {"__name__": f"attncc.generated.{source.name}"}
    try:
        exec(compile(source.text, file, "exec"), namespace)
    except SyntaxError as error:
        raise CompileError(f"the generated kernel {source.name} is not Python: {error}") from error
    kernel: Kernel = namespace[function]
    return kernel
