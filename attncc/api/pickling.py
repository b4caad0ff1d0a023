"""Which Python functions a Variant can take along when it is pickled.

A function that another process can import, a bound method and a partial of one travel as they are, so that they keep
reading their surroundings. A closure or a lambda cannot; its Variant takes the values that it captures at that moment.
"""

from __future__ import annotations

import functools
import sys
from types import BuiltinFunctionType, FunctionType, MethodType

from torch import Tensor


def travels(function: object) -> bool:
    """Whether pickle can find this function again."""
    if function is None:
        return True
    if isinstance(function, functools.partial):
        return travels(function.func)
    if isinstance(function, MethodType):
        return "<locals>" not in function.__func__.__qualname__
    if isinstance(function, FunctionType | BuiltinFunctionType):
        return _is_importable(function)
    inner = getattr(function, "function", None)  # a Mask or a Score
    if inner is not None and getattr(function, "recipe", None) is None:
        return _is_importable(function) or all(travels(part) for part in _parts(inner))
    return True


def _parts(function: object) -> list[object]:
    """A function, or the functions that a composition is made of."""
    slots = getattr(type(function), "__slots__", ())
    parts = [getattr(function, name) for name in slots if callable(getattr(function, name, None))]
    return parts or [function]


def _is_importable(function: object) -> bool:
    value: object = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in str(getattr(function, "__qualname__", "")).split("."):
        value = getattr(value, part, None)
    return value is function


def frozen(tensor: Tensor) -> Tensor:
    """The tensor as a leaf, which pickle can store."""
    return tensor if tensor.is_leaf else tensor.detach().requires_grad_(tensor.requires_grad)
