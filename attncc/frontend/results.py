"""What a traced function gives back, and what it raises, in the user's terms."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from attncc.errors import AttnccError, LanguageError
from attncc.frontend.dispatch import AS_TORCH, Dispatch
from attncc.frontend.places import OURS
from attncc.frontend.refusals import nearest_attribute
from attncc.frontend.signatures import place_of
from attncc.frontend.tracer import Tracer
from attncc.frontend.values import Gather, TracedInt, TracedTensor
from attncc.ir import Expr, Scalar, cast, const
from attncc.source import Span

#: What a function of each role should return instead of something that is no number.
RETURNED = {"score": "return the new score of this one pair", "mask": "return whether this one pair is visible"}
SINGLE = "it belongs to one pair; `t[b, h]` takes one index for each dimension"
KINDS = {Scalar.BOOL: "a bool", Scalar.INDEX: "an int", Scalar.FLOAT: "a float"}


def finished(tracer: Tracer, dispatch: Dispatch, value: Any, function: Any, role: str) -> Expr:
    """The expression that a function gave back, of the kind that its role needs."""
    expr = _expression(tracer, dispatch, value, function, role)
    place = tracer.origins[expr].span if expr in tracer.origins else place_of(function)
    if role == "mask" and expr.scalar is not Scalar.BOOL:
        hint = "compare it with something: `x > 0`; what is added to the score belongs in a score function"
        raise LanguageError(f"a mask must be a bool, but this is {KINDS[expr.scalar]}", place, hint)
    if role == "score" and expr.scalar is Scalar.BOOL:
        hint = "conditions belong in a mask function, or in torch.where(condition, score, -float('inf'))"
        raise LanguageError("a score must be a float, but this is a bool", place, hint)
    return expr if role == "mask" else tracer.note(cast(expr, Scalar.FLOAT))


def _expression(tracer: Tracer, dispatch: Dispatch, value: Any, function: Any, role: str) -> Expr:
    if isinstance(value, TracedTensor | torch.Tensor):
        if isinstance(value, TracedTensor):
            shape = value.content.shape
            place = _place(tracer, value) or place_of(function)
        else:
            shape, place = tuple(value.shape), place_of(function)
        if shape:
            hint = (
                "index every dimension"
                if 1 not in shape
                else f"take the number out of it: `x[{', '.join('0' * len(shape))}]`"
            )
            raise LanguageError(f"a {role} function returns one number, but this has shape {list(shape)}", place, hint)
        with tracer.located():
            return dispatch.grid(value, False).items[0]
    if type(value) is TracedInt:
        return value.expr
    if not isinstance(value, bool | int | float):
        _refuse(value, function, role)
    return const(value)


def _place(tracer: Tracer, value: TracedTensor) -> Span | None:
    content = value.content
    if isinstance(content, Gather) or not content.items:
        return None
    origin = tracer.origins.get(content.items[0])
    return origin.span if origin is not None else None


def _refuse(value: Any, function: Any, role: str) -> NoReturn:
    if value is None:
        message, hint = f"this {role} function returns nothing", f"end it with `return {role}`"
    else:
        message, hint = f"a {role} function returns one number, but this is a {type(value).__name__}", RETURNED[role]
    raise LanguageError(message, place_of(function), hint)


def user_error(tracer: Tracer, error: Exception) -> Exception:
    """What to raise for an exception from a trace: the user's own unchanged, what our values caused in their terms."""
    if isinstance(error, AttnccError):
        return error
    place = tracer.places.raised(error.__traceback__)
    if isinstance(error, RecursionError):
        return LanguageError("this function calls itself without end", place, "a kernel has no recursion")
    text = str(error).partition("\n")[0].removesuffix(", but expected one of:")
    if type(error).__module__.startswith("torch._dynamo"):
        hint = "choose with torch.where, and call torch's own functions"
        return LanguageError("control flow for torch.compile, as torch.cond, cannot be compiled", place, hint)
    if "iteration over a 0-d tensor" in text:
        return LanguageError("a single number cannot be iterated over", place, SINGLE)
    if "TracedTensor" not in text and "TracedInt" not in text:
        return error
    if _raised_by_us(error):
        return error
    if isinstance(error, AttributeError) and error.name:
        return LanguageError(f"a tensor has no `{error.name}`", place, nearest_attribute(error.name))
    readable = (
        text.replace("'TracedTensor'", "a traced value")
        .replace("'TracedInt'", "a number")
        .replace("TracedTensor", "traced value")
    )
    readable = readable.replace("TracedInt", "number")
    return LanguageError(f"this cannot be compiled: {readable}", place, AS_TORCH)


def _raised_by_us(error: Exception) -> bool:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(OURS)
