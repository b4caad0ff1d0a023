"""A graph that torch.compile made of score and mask functions, back as Python functions, and run.

Its inputs are q, k, v and what the functions captured. The functions that come out close over these captures one by
one, so that tracing finds tensors and numbers as it does in a user's closures, and remembers what it found. Where the
graph is being lowered, sizes and numbers may be open: tracing then sees examples of them, and they stay open.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from attncc.api.inputs import Inputs, check_inputs
from attncc.api.lowering import make_call, run, run_with_largest
from attncc.api.options import check_options
from attncc.api.program import Function, Program, Reading, read_functions
from attncc.errors import InternalError, UnsupportedError
from attncc.frontend.reach import reach
from attncc.frontend.reach_functions import example_of
from attncc.ir import AttentionSpec, Op, evaluate, postorder
from attncc.ir.texts import LINE_END
from attncc.runtime.eager import is_plain

ARGUMENT: Final = "attncc.argument.default"
POSITIONS: Final = {"score_mod": ("score", "b", "h", "q_idx", "kv_idx"), "mask_mod": ("b", "h", "q_idx", "kv_idx")}
Functions = tuple[Function | None, Function | None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a graph holds: which of its inputs are q, k and v, which its functions captured, and what makes these;
    then which were given by name, and whether a number among the captured ones changes from call to call."""

    tensors: tuple[int, int, int]
    held: tuple[int, ...]
    make: Any
    given: tuple[int, ...] = ()
    counts: bool = False

    def functions(self, values: Sequence[Any]) -> Functions:
        """The score and the mask function on these inputs."""
        found: Functions = self.make(*(values[place] for place in self.held))
        return found


_PARTS: weakref.WeakKeyDictionary[fx.GraphModule, Parts] = weakref.WeakKeyDictionary()


def run_subgraph(
    subgraph: fx.GraphModule,
    operands: Sequence[Any],
    *,
    scale: Any,
    name: str | None,
    text: str | None = None,
    names: Sequence[str] = (),
    numbers: Sequence[tuple[str, Any]] = (),
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, its lse and, if they are asked for, the largest score of each row.

    With `text` it says what the functions mean, `names` how tensors behind q, k and v are called there, and `numbers`
    what its parameters are.
    """
    parts = _PARTS.get(subgraph)
    if parts is None:
        parts = _PARTS[subgraph] = _parts_of(subgraph)
    q, k, v = (operands[place] for place in parts.tensors)
    inputs = check_inputs(q, k, v, scale)
    tensors = {each: operands[place] for each, place in zip(names, parts.given, strict=True)}
    if text is not None and not parts.counts:
        reading = Reading(_program_of_text(text), tensors, dict(numbers))
    else:
        if is_plain():
            reading = read_functions(*parts.functions(operands), name, inputs.q.device)
        else:
            reading = _read_open(parts, operands, name, inputs)
        if text is not None:
            reading = _with_given(reading, _program_of_text(text).spec, {**tensors, **dict(numbers)})
    return _run_reading(reading, inputs, **options)


def run_functions(
    functions: Functions,
    tensors: Sequence[Any],
    *,
    scale: Any,
    name: str | None,
    text: str | None = None,
    names: Sequence[str] = (),
    numbers: Sequence[tuple[str, Any]] = (),
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for functions that torch.compile could not follow, which run outside of a graph."""
    q, k, v, *given = tensors
    inputs = check_inputs(q, k, v, scale)
    reading = read_functions(*functions, name, inputs.q.device)
    reading = reading.with_values({**dict(zip(names, given, strict=True)), **dict(numbers)})
    return _run_reading(reading, inputs, **options)


def _with_given(reading: Reading, spec: AttentionSpec, given: Mapping[str, Any]) -> Reading:
    """A reading with values that are given under the names of a spec: one of the same form, but for its numbers."""
    own = reading.program.spec
    nodes, others = ([*postorder(each.score, each.mask)] for each in (own, spec))
    pairs = [*zip(nodes, others, strict=False)]
    # A number that torch.compile leaves open is a tensor without dimensions, where the spec has a constant.
    alike = len(nodes) == len(others) and all(
        ours.op is theirs.op or (ours.op is Op.LOAD and not ours.args and theirs.op is Op.CONST)
        for ours, theirs in pairs
    )
    names = {str(b.value): str(a.value) for a, b in pairs if a.op is b.op and a.op in (Op.LOAD, Op.PARAM)}
    if not alike or names.keys() != given.keys() or len(set(names.values())) < len(names):
        raise UnsupportedError(
            "torch.compile turned numbers that the functions close over into inputs, and values are given by name",
            hint="let the functions close over all that they read",
        )
    return reading.with_values({names[name]: value for name, value in given.items()})


@functools.lru_cache(maxsize=512)
def _program_of_text(text: str) -> Program:
    from attncc.frontend import parse  # late: the grammar is loaded only where text is read

    return Program(parse(text.replace(LINE_END, "\n")), text)


def _run_reading(reading: Reading, inputs: Inputs, *, largest: bool, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = make_call(reading, inputs, check_options(**options))
    if largest:
        return run_with_largest(call)
    out, lse = run(call)
    return out, lse, lse.detach()


def _read_open(parts: Parts, operands: Sequence[Any], name: str | None, inputs: Inputs) -> Reading:
    """What the functions mean and capture where sizes and numbers are open."""
    with _disable_current_modes():
        examples = [_example(value) for value in operands]
        functions = parts.functions(examples)
        program = read_functions(*functions, name, inputs.q.device).program
        met = reach(functions)[0].tensors
    traced = program.traced
    if traced is None:
        raise InternalError("a program of functions was not traced")
    place_of = {id(value): place for place, value in enumerate(examples)}
    tensors = [operands[place_of[id(tensor)]] for tensor in met]
    if any(read(tensors[position], *args) != value for position, read, args, value in traced.guards):
        raise InternalError("a captured tensor is not what torch.compile said")
    named = {f"held_{place}": operands[place] for place in parts.held}
    numbers = {each: named[each] for each, _ in traced.numbers}
    for each, value in named.items():
        if isinstance(value, torch.SymInt) and each not in numbers:
            int(value)  # a constant of the program: torch.compile guards it
    if any(evaluate(divisor, numbers) == 0 for divisor in traced.divisors):
        raise InternalError("a division by zero in what torch.compile followed")
    found = traced.program.run(tensors, numbers, inputs.q.device)
    captures = {each.name: tensor for each, tensor in zip(program.spec.captures, found, strict=True)}
    return Reading(program, captures, {each.name: numbers[each.name] for each in program.spec.parameters})


def _example(value: Any) -> Any:
    """A tensor or number like one that is open; a float becomes a constant."""
    if isinstance(value, Tensor):
        sizes = [_example(size) for size in value.shape]
        one = torch.zeros((), dtype=value.dtype, device=value.device, requires_grad=value.requires_grad)
        return one.expand(sizes)  # it takes no memory
    if isinstance(value, torch.SymInt):
        return int(value) if value.node.hint is None else example_of(value)
    if isinstance(value, torch.SymFloat):
        return float(value)
    return bool(value) if isinstance(value, torch.SymBool) else value


# From nodes to functions.


def _parts_of(subgraph: fx.GraphModule) -> Parts:
    graph = subgraph.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    (meaning,) = [node for node in graph.nodes if str(node.target) == "attncc.meaning.default"]
    q, k, v, score, mask, given = meaning.args
    roles = {"score_mod": None if _is_argument(score) else score, "mask_mod": mask}
    roles = {role: result for role, result in roles.items() if result is not None}
    needed = {role: _needed(result) for role, result in roles.items()}
    held = tuple(i for i, node in enumerate(inputs) if any(node in nodes for nodes in needed.values()))
    scope: dict[str, Any] = {}
    lines = [f"def make({', '.join(f'held_{place}' for place in held)}):"]
    for role, result in roles.items():
        names = {inputs[place]: f"held_{place}" for place in held if inputs[place] in needed[role]}
        asked = [str(node.args[0]) for node in needed[role] if _is_argument(node)]
        arguments = list(dict.fromkeys((*POSITIONS[role], *asked)))
        scope[f"_{role}"] = _compiled(_copied(arguments, result, needed[role], names))
        lines.append(f"    def {role}({', '.join(arguments)}):")
        lines.append(f"        return _{role}(None, {', '.join((*arguments, *names.values()))})")
    lines.append(f"    return {', '.join(role if role in roles else 'None' for role in POSITIONS)}")
    _run("\n".join(lines), scope)
    places = tuple(inputs.index(each) for each in given)
    counts = any(node.op == "call_method" and node.target == "item" for node in graph.nodes)
    return Parts((inputs.index(q), inputs.index(k), inputs.index(v)), held, scope["make"], places, counts)


def _is_argument(node: Any) -> bool:
    return isinstance(node, fx.Node) and str(node.target) == ARGUMENT


def _needed(result: fx.Node) -> dict[fx.Node, None]:
    """The nodes that a result is made of, in their order."""
    found, stack = {result}, [result]
    while stack:
        for node in stack.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                stack.append(node)
    return {node: None for node in result.graph.nodes if node in found}


def _copied(
    arguments: Sequence[str], result: fx.Node, needed: dict[fx.Node, None], names: dict[fx.Node, str]
) -> fx.Graph:
    """A graph of what a result needs, with these arguments and then what it captures."""
    graph, copies = fx.Graph(), {}
    given = {name: graph.placeholder(name) for name in (*arguments, *names.values())}
    for node in needed:
        if node.op == "get_attr":
            raise UnsupportedError(f"torch.compile put `{node.target}` into a function, which attncc cannot trace")
        if node in names:
            copies[node] = given[names[node]]
        elif _is_argument(node):
            copies[node] = given[str(node.args[0])]
        elif node.op == "call_method" and node.target == "item" and node.args[0] in names:
            copies[node] = copies[
                node.all_input_nodes[0]
            ]  # torch.compile keeps a float that changes in a tensor of float64
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[result])
    return graph


def _compiled(graph: fx.Graph) -> Any:
    code = graph.python_code("self")
    scope = dict(code.globals)
    _run(code.src, scope)
    return scope.pop("forward")


def _run(text: str, scope: dict[str, Any]) -> None:
    exec(compile(text, "<what torch.compile followed>", "exec"), scope)
