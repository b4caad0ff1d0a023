"""Which torch calls are refused while tracing, and what to say of each."""

from __future__ import annotations

import difflib
from typing import Any, Final, NoReturn

import torch

from attncc.errors import LanguageError
from attncc.frontend.algebra import POINTWISE
from attncc.frontend.constructs import asked, conversion, truth
from attncc.frontend.recordings import Source
from attncc.frontend.shapes import STRUCTURED
from attncc.frontend.tracer import Tracer

#: Functions that give another answer each time.
RANDOM: Final = frozenset(
    (
        *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
        *("multinomial", "poisson", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "rrelu"),
        *("dropout1d", "dropout2d", "dropout3d", "native_dropout", "gumbel_softmax"),
        *("manual_seed", "seed", "initial_seed"),
        *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"),
    )
)
UNSET: Final = frozenset(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"))
#: Functions that make a tensor of a size.
SIZED: Final = frozenset(("arange", "zeros", "ones", "eye", "linspace", "logspace", "range", "tril_indices"))
#: What gives a plain Python value for the numbers in a tensor.
READS: Final = frozenset(
    (
        *("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__complex__", "__array__"),
        *("is_nonzero", "__contains__", "equal", "allclose", "_assert", "_assert_async", "__dlpack__"),
        "get __cuda_array_interface__",
    )
)
#: Where the value of a captured tensor decides the shape of a result.
DEPENDENT: Final = frozenset(
    (
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "repeat_interleave", "bincount"),
        *("histc", "histogram", "combinations", "one_hot", "unique_dim"),
    )
)


def spelling(func: Any) -> str:
    """The name of a torch function: `get x` of an attribute, `space::name` of a custom operator."""
    name = getattr(func, "__name__", None) or str(func)
    if name in ("__get__", "__set__"):
        return f"{name.strip('_')} {func.__self__.__name__}"
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        packet = func.overloadpacket if isinstance(func, torch._ops.OpOverload) else func
        space, _, plain = str(packet).rpartition(".")
        return plain if space in ("aten", "prims") else f"{space}::{plain}"
    # As a method it takes its arguments in another order.
    return "Tensor.where" if func is torch.Tensor.where else str(name)


def shown(name: str) -> str:
    """A torch function as users write it."""
    if name.startswith("get "):
        return f".{name[4:]}"
    return name if name.startswith(("__", "Tensor.")) or "::" in name else f"torch.{name}"


def nearest(name: str) -> str:
    """What to write instead of a torch function that has no meaning in a kernel."""
    if name in (
        "cumsum",
        "cumprod",
        "sort",
        "argsort",
        "topk",
        "argmax",
        "argmin",
        "bucketize",
        "searchsorted",
        "unique",
    ):
        return "compute it before the call, and capture the result"
    near = difflib.get_close_matches(name, (*POINTWISE, *STRUCTURED), n=1, cutoff=0.8)
    if near:
        return f"did you mean `torch.{near[0]}`?"
    return "write it with torch's elementary functions, or compute it before the call and capture the result"


def nearest_attribute(name: str) -> str:
    """A hint for an attribute that no tensor has."""
    near = difflib.get_close_matches(name, [known for known in dir(torch.Tensor) if not known.startswith("_")], 1)
    return f"did you mean `{near[0]}`?" if near else "use the functions and methods of torch"


def refuse_random(tracer: Tracer, name: str) -> NoReturn:
    """Numbers drawn while the function runs."""
    if name in UNSET:
        tracer.refuse(f"`{shown(name)}` makes a tensor without values", "use `zeros`, `ones` or `full`")
    hint = "draw the numbers before the call, and capture the tensor"
    tracer.refuse(f"`{shown(name)}` gives other numbers each time, which a kernel cannot", hint)


def refuse_writing(tracer: Tracer, name: str, kwargs: dict[str, Any]) -> None:
    """A call that changes a tensor."""
    if name in ("__setitem__", "__delitem__", "index_put") or name.startswith("set "):
        hint = "compute a new value: `torch.where(condition, new, old)`"
        tracer.refuse("a score or mask function may not write into a tensor", hint)
    if name == "backward":
        hint = "gradients come from the call: `attention(q, k, v).sum().backward()`"
        tracer.refuse("a score or mask function cannot run a backward pass", hint)
    changes = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    if changes or name == "__iadd__":
        plain = name.rstrip("_")
        hint = f"write `x = x.{plain}(…)`"
        tracer.refuse(f"`{name}` changes its tensor, which a score or mask function may not do", hint)
    if kwargs.get("out") is not None:
        hint = "leave `out=` away and use the result"
        tracer.refuse("`out=` writes into a tensor, which a score or mask function may not do", hint)


def refuse_reading(tracer: Tracer, name: str) -> NoReturn:
    """Python asks a traced value for a plain one."""
    span = tracer.places.span(tracer.places.frame())
    found = truth(span) if name in ("__bool__", "is_nonzero") else conversion(name, span)
    message, hint, place = found
    raise LanguageError(message, place, hint)


def refuse_value(tracer: Tracer, name: str, source: Source) -> NoReturn:
    """Python asks a captured tensor for its numbers."""
    plain = {"__bool__": "bool", "__int__": "int", "__float__": "float", "__index__": "int"}.get(name, name.strip("_"))
    if name in ("__bool__", "is_nonzero"):
        hint = f"choose with `torch.where({source.name}, a, b)`; a Python bool, in contrast, is a constant"
        message = f"whether `{source.name}` is true is only known when the kernel runs, not while it is made"
        raise LanguageError(message, asked(tracer.places.span(tracer.places.frame())), hint)
    hint = f"use the tensor itself: `{source.name}` is read anew in each call"
    tracer.refuse(f"`{plain}` reads the value of `{source.name}` while the kernel is made, not when it runs", hint)


def refuse_unknown(tracer: Tracer, name: str) -> NoReturn:
    """A function of traced values that is in no table."""
    if "::" in name:
        tracer.refuse(f"the custom operator `{name}` cannot be compiled", "write it with torch's own functions")
    if name in SIZED:
        tracer.refuse(
            f"the size of `{shown(name)}` would differ from pair to pair", "make it before the call, and index it"
        )
    if name.startswith("get "):
        tracer.refuse(f"a traced value has no `{name[4:]}` that could be compiled", "compute with the value itself")
    tracer.refuse(f"`{shown(name)}` cannot be compiled into a score or mask", nearest(name))
