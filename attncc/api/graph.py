"""Python functions inside what torch.compile compiles: the call stays in the graph, with all that they read.

While torch.compile looks on, the functions are not read but followed by torch.compile itself, as those of its own
FlexAttention are: every tensor, number and attribute that they touch becomes an input of the graph or is guarded. What
stands in the graph is `OPERATOR` with a small graph of torch operations. Where the whole is lowered, or run, that small
graph is traced like any other Python function and gives way to the operators of attncc.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Final

import torch
import torch._higher_order_ops
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attncc.api.inputs import check_inputs
from attncc.api.options import Options
from attncc.api.program import Function, Reading
from attncc.api.subgraph import run_functions, run_subgraph
from attncc.runtime.registering import known_file
from attncc.runtime.steps import empty_like

#: What torch has for operators that take a graph. It is not public: without it, graphs break at Python functions.
BASE: Final[Any] = getattr(torch._higher_order_ops, "BaseHOP", None)
SIZES: Final = ("q_len", "kv_len", "batch", "heads")


class Indexing(TorchFunctionMode):
    """While torch.compile follows a function, a position that indexes a tensor stays a tensor: it has no value yet."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of a torch function."""
        if func is torch.Tensor.__getitem__:
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(_is_position(part) for part in key):
                return _element(args[0], key)
        return func(*args, **(kwargs or {}))


def _is_position(part: object) -> bool:
    return isinstance(part, Tensor) and part.dim() == 0 and part.dtype != torch.bool


def _element(tensor: Tensor, key: Sequence[Any]) -> Any:
    """What `tensor[key]` is where some parts of the key are positions."""
    given = sum(part is not None and part is not Ellipsis for part in key)
    whole: list[Any] = []
    for part in key:
        whole += [slice(None)] * (tensor.dim() - given) if part is Ellipsis else [part]
    rest = tensor[tuple(slice(None) if _is_position(part) else part for part in whole)]
    kept = [part if _is_position(part) else None for part in whole if not isinstance(part, int)]
    return torch.ops.aten.index(rest, kept)


known_file(__file__, __name__)
# torch has no types for its libraries
_LIBRARY: Any = torch.library.Library("attncc", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("argument(str name, *, ScalarType dtype, Device device) -> Tensor")
_LIBRARY.define(
    "meaning(Tensor q, Tensor k, Tensor v, Tensor score, Tensor? mask, Tensor[] given) -> (Tensor, Tensor, Tensor)"
)


def _argument_fake(name: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty((), dtype=dtype, device=device)


def _meaning(
    q: Tensor, k: Tensor, v: Tensor, score: Tensor, mask: Tensor | None, given: list[Tensor]
) -> tuple[Tensor, ...]:
    """Tensors of the shapes, dtypes and strides of the results, that need gradients where these do."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    lse, largest = (torch.empty(q.shape[:3], dtype=wide, device=q.device) for _ in range(2))
    source = (q.sum() + k.sum() + v.sum()).to(wide) + score
    for tensor in given:
        source = source + tensor.sum().to(wide)
    return empty_like(q, v.shape[3]) + source.to(q.dtype), lse + source.to(wide), largest


torch.library.register_fake("attncc::argument", _argument_fake, lib=_LIBRARY)
# torch.compile runs this on tensors without data, under autograd or a functional transform of gradients.
_LIBRARY.impl("meaning", _meaning, "CompositeImplicitAutograd")


def _operator() -> Any:
    """The operator that takes a graph; None where torch has none."""
    if BASE is None:
        return None

    class FunctionsOperator(BASE):  # type: ignore[misc]  # torch's
        def __init__(self) -> None:
            super().__init__("attncc_functions")

        def __call__(self, subgraph: Any, *operands: Any, **options: Any) -> Any:
            if isinstance(subgraph, FunctionType):  # torch.compile could not follow it: the graph is broken here
                cells = dict(zip(subgraph.__code__.co_freevars, subgraph.__closure__ or (), strict=True))
                functions = cells["score_mod"].cell_contents, cells["mask_mod"].cell_contents
                return run_functions(functions, operands, **options)
            return run_subgraph(subgraph, operands, **options)

    return FunctionsOperator()


OPERATOR: Final = _operator()


def is_followed() -> bool:
    """Whether this torch's compiler can be told to follow functions; the first time, it is told."""
    return _is_told()


@functools.cache
def _is_told() -> bool:
    try:
        from torch._dynamo.variables import higher_order_ops  # late: it takes seconds to import
    except ImportError:
        return False
    table: Any = getattr(higher_order_ops, "_hop_name_to_variable_class", None)
    base: Any = getattr(higher_order_ops, "BaseHOPVariable", None)
    if OPERATOR is None or table is None or not hasattr(base, "create_wrapped_node"):
        return False

    class FunctionsVariable(base):  # type: ignore[misc]  # torch's
        supports_aliasing = True  # q, k and v may be views of one tensor: the graph within is never run as it stands

        def create_wrapped_node(self, *args: Any, **kwargs: Any) -> Any:
            with Indexing():
                return super().create_wrapped_node(*args, **kwargs)

    table[OPERATOR.__name__] = FunctionsVariable
    return True


# As torch.compiler.assume_constant_result does, which would import the compiler.
is_followed._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch's


def attend_in_graph(
    score_mod: Function | None,
    mask_mod: Function | None,
    q: Any,
    k: Any,
    v: Any,
    scale: Any,
    options: Options,
    *,
    name: str | None = None,
    largest: bool = False,
    text: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, its lse and, if they are asked for, the largest score of each row; for torch.compile alone.

    Where all that the functions capture is `given` by name, `text` says what they mean; that they still mean it is for
    torch.compile to guard, which follows them all the same.
    """
    inputs = check_inputs(q, k, v, scale)
    tensors, told = _told(text, given or {})

    def followed(q: Tensor, k: Tensor, v: Tensor, *held: Tensor) -> Any:
        score = _argument("score", torch.float64 if q.dtype == torch.float64 else torch.float32, q)
        b, h, q_idx, kv_idx = [_argument(name, torch.int32, q) for name in ("b", "h", "q_idx", "kv_idx")]
        mask = None
        if score_mod is not None:
            score = score_mod(score, b, h, q_idx, kv_idx, **_sizes(score_mod, 5, q))
        if mask_mod is not None:
            mask = mask_mod(b, h, q_idx, kv_idx, **_sizes(mask_mod, 4, q))
        seen = None if mask is None else _tensor(mask, q)
        return torch.ops.attncc.meaning.default(q, k, v, _tensor(score, q), seen, list(held))

    chosen = {"backend": options.backend, "block_m": options.block_m, "block_n": options.block_n}
    more = {"deterministic": options.deterministic, "check_bounds": options.check_bounds, "refine": options.refine}
    own = (inputs.q, inputs.k, inputs.v, *tensors)
    found: tuple[Tensor, Tensor, Tensor] = OPERATOR(
        followed, *own, scale=scale, name=name, largest=largest, **chosen, **more, **told
    )
    return found


def _told(text: str | None, given: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
    """The tensors that are given, and what the operator is told of them, and of numbers."""
    if text is None:
        return [], {}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    numbers = tuple((name, value) for name, value in given.items() if not isinstance(value, Tensor))
    return list(tensors.values()), {"text": text, "names": tuple(tensors), "numbers": numbers}


def meaning_now(read: Callable[[], Reading]) -> Callable[[], tuple[str, tuple[str, ...]]]:
    """A function that torch.compile calls, instead of following it: what the functions of a variant mean at that moment
    as text, and the names of all that they capture."""

    def meaning() -> tuple[str, tuple[str, ...]]:
        program = read().program
        captures = (capture.name for capture in program.spec.captures)
        return program.text, (*captures, *(parameter.name for parameter in program.spec.parameters))

    meaning._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch's
    return meaning


def _argument(name: str, dtype: torch.dtype, q: Tensor) -> Tensor:
    found: Tensor = torch.ops.attncc.argument.default(name, dtype=dtype, device=q.device)
    return found


def _tensor(value: Any, q: Tensor) -> Tensor:
    """What a function gave back: a plain number is the same for every pair."""
    return value if isinstance(value, Tensor) else torch.full((), value, device=q.device)


def _sizes(function: Any, count: int, q: Tensor) -> dict[str, Tensor]:
    """What stands for the sizes that a function asks for after its positions."""
    names = getattr(function, "sizes", None)  # of the gallery's
    if names is None:
        code = getattr(function, "__code__", None)
        if code is None:
            return {}
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return {name: _argument(name, torch.int64, q) for name in names if name in SIZES}
