"""Triton kernels from their text to a binary, for any target and without a GPU; found again in a pack or the cache.

`build` looks in this process, then in the pack, then in the cache, and compiles last. It compiles nothing while a CUDA
graph is captured, and nothing where ATTNCC_DISABLE_JIT forbids it. A kernel that is found needs no Triton at all.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attncc.config import LOG, settings
from attncc.errors import AttnccError, CompileError, InternalError, UnsupportedError
from attncc.runtime import triton_version
from attncc.runtime.binary import Facts, Parameter, Resources, read_amdgcn, read_cubin
from attncc.runtime.cache import default_store, digest
from attncc.runtime.manifest import Entry
from attncc.runtime.pack import settings_pack
from attncc.runtime.triton_source import define, file_name
from attncc.source import Source, Span

if TYPE_CHECKING:  # a process that finds its kernels by their keys loads neither the emitter nor its templates
    from attncc.emit.kernel import Argument, Setting, TritonKernel

#: The sizes of run-time arguments in bytes; each lies at a multiple of its size.
SIZES = {"i1": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "fp16": 2, "i32": 4, "u32": 4, "fp32": 4}
SIZES |= {"i64": 8, "u64": 8, "fp64": 8}
POINTER = 8
#: What the TMA needs to know of a tensor, in a form that only the driver knows: its name here, bytes, alignment.
DESCRIPTOR, DESCRIPTOR_BYTES, DESCRIPTOR_ALIGNMENT = "descriptor", 128, 64
SIZES |= {DESCRIPTOR: DESCRIPTOR_BYTES}
#: Where parameters begin in Hopper's constant memory; alignments are of addresses there.
PARAMETERS_AT = 0x210
WARM_UP = "call it once with the same arguments before the capture"


class CompilerFailure(CompileError):
    """Triton failed on a kernel whose text it had read without complaint: under another schedule it may compile."""


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled kernel: `name` is its symbol in `binary`, `arguments` the types that a launch passes, in order."""

    key: str
    name: str
    target: str
    arguments: tuple[str, ...]
    num_warps: int
    num_ctas: int
    resources: Resources
    metadata: Mapping[str, int]
    binary: bytes


_built: dict[str, Built] = {}
#: Kernels on which the compiler failed in this process; it would fail again.
_failed: dict[str, CompilerFailure] = {}
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def available() -> str | None:
    """None if this machine can have Triton kernels, compiled or from a pack; otherwise why not.

    Where ATTNCC_DISABLE_JIT is set they are available: a call whose kernels are missing is refused, not run otherwise.
    """
    if triton_version.version() is None and settings().pack is None:
        return "Triton is not installed"
    return None


def compile_refusal() -> str | None:
    """None if kernels may be compiled here, otherwise why not."""
    if settings().disable_jit:
        return "ATTNCC_DISABLE_JIT forbids it"
    return "Triton is not installed" if triton_version.version() is None else None


def identify(kernel: TritonKernel, target: str, triton: str | None) -> dict[str, Any]:
    """All that a binary depends on, as JSON; its digest is the key. The kernel's names are only for people."""
    return {
        "kind": "triton",
        "program": kernel.source.digest,
        "entry": kernel.entry,
        "arguments": [[one.type, one.divisible, _exact(one.value)] for one in kernel.arguments],
        "num_warps": kernel.num_warps,
        "num_stages": kernel.num_stages,
        "options": {name: _exact(value) for name, value in kernel.options},
        "gluon": kernel.gluon,
        "target": target,
        "triton": triton,
    }


def _exact(value: Setting) -> Setting:
    return value.hex() if isinstance(value, float) else value


def build(kernel: TritonKernel, target: str) -> Built:
    """The binary of a kernel, from wherever it is found first; each is compiled once, whatever the threads do.

    Raises UnsupportedError if it would have to be compiled and may not be, CompileError if Triton refuses it.
    """
    key = digest(identify(kernel, target, triton_version.version()))
    found = _built.get(key)
    if found is not None:
        return found
    refuse_in_capture(f"the kernel {kernel.source.name} is not built yet")
    with _locks[key]:
        if key in _failed:
            raise _failed[key]
        if key not in _built:
            try:
                _built[key] = _find_in_pack(kernel, target) or _find_or_compile(kernel, target, key)
            except CompilerFailure as failure:
                _failed[key] = failure
                raise
        return _built[key]


def is_built(kernel: TritonKernel, target: str) -> bool:
    """Whether a kernel need not be compiled: this process, the pack or the cache has it."""
    pack, here = settings_pack(), triton_version.version()
    versions = [here] if pack is None else [here, pack.triton]
    return any(find(digest(identify(kernel, target, version))) is not None for version in dict.fromkeys(versions))


def find(key: str) -> Built | None:
    """The binary that a key names, from this process, the pack or the cache; None if it must be compiled."""
    found = _built.get(key)
    if found is not None:
        return found
    refuse_in_capture(f"the kernel {key[:12]} is not loaded yet")
    pack = settings_pack()
    entry = (pack.store.load(key) if pack is not None else None) or default_store().load(key)
    return None if entry is None else _built.setdefault(key, unpack(entry))


def forget() -> None:
    """Forget the kernels of this process, as a new process would; pack and cache keep theirs."""
    _built.clear()
    _failed.clear()


def refuse_in_capture(what: str) -> None:
    """Raises UnsupportedError while the current stream is captured into a CUDA graph."""
    torch = sys.modules.get("torch")  # nothing is captured by a process that has not imported torch
    if torch is not None and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise UnsupportedError(f"{what}, and nothing can be built while a CUDA graph is captured", hint=WARM_UP)


def _find_in_pack(kernel: TritonKernel, target: str) -> Built | None:
    pack = settings_pack()
    if pack is None:
        return None
    # A pack is found by the Triton that made it, not by the one that is installed here, if any.
    entry = pack.store.load(digest(identify(kernel, target, pack.triton)))
    return None if entry is None else unpack(entry)


def _find_or_compile(kernel: TritonKernel, target: str, key: str) -> Built:
    store = default_store()
    entry = store.load(key)
    if entry is not None:
        return unpack(entry)
    _check_compilable(kernel, target)
    with store.lock(key):
        entry = store.load(key)
        if entry is not None:  # another process built it meanwhile
            return unpack(entry)
        made = compile_entry(kernel, target)
    if debugging := triton_version.debugging_variables():
        LOG.warning("%s is not kept in the cache, since %s is set", kernel.source.name, ", ".join(debugging))
    else:
        store.keep(made)
    return unpack(made)


def _check_compilable(kernel: TritonKernel, target: str) -> None:
    reason = compile_refusal()
    if reason is None:
        return
    pack = settings().pack
    places = "not in the cache" if pack is None else f"neither in the pack {pack} nor in the cache"
    raise UnsupportedError(
        f"the kernel {kernel.source.name} ({kernel.entry} for {target}) must be compiled, but {reason}; it is {places}",
        hint="compile it ahead of time (attncc compile) and name the folder in ATTNCC_PACK",
    )


def compile_kernel(kernel: TritonKernel, target: str) -> Built:
    """Compile a kernel, touching neither cache nor memory of this process. Raises CompileError if Triton refuses it."""
    return unpack(compile_entry(kernel, target))


def compile_entry(kernel: TritonKernel, target: str) -> Entry:
    """Compile a kernel into what the cache holds of it. Raises CompileError if Triton refuses it."""
    made, metadata = _compile(kernel, target)
    kind, name = triton_version.binary_kind(target), str(metadata["name"])
    binary = made[kind]
    if not isinstance(binary, bytes):
        raise InternalError(f"Triton {triton_version.version()} made no binary for {target}")
    facts = read_cubin(binary, name) if kind == "cubin" else read_amdgcn(str(made["amdgcn"]), name)
    arguments = tuple(one.type for one in kernel.run_time)
    _check_layout(kernel, arguments, facts)
    launch = {key: int(metadata.get(key) or usual) for key, usual in triton_version.LAUNCH_FACTS.items()}
    resources = Resources(facts.registers, facts.local, facts.shared + launch["shared"])
    described = {
        "name": name,
        "source": kernel.source.name,
        "arguments": arguments,
        "launch": launch,
        "resources": dataclasses.asdict(resources),
    }
    files = {f"kernel.{kind}": binary, "kernel.py": kernel.source.text.encode()}
    identity = identify(kernel, target, triton_version.version())
    if settings().print_code:
        sys.stderr.write(f"{kernel.source.text.rstrip()}\n")
    return Entry(digest(identity), identity, described, files)


def _compile(kernel: TritonKernel, target: str) -> tuple[dict[str, str | bytes], dict[str, Any]]:
    signature, constants = {}, {}
    for one in kernel.arguments:
        signature[one.name] = one.type
        if one.is_constant:
            constants[one.name] = one.value
    divisible = [index for index, one in enumerate(kernel.arguments) if one.divisible]
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages} | dict(kernel.options)
    function = _entry_function(kernel)
    _check_parameters(kernel, list(function.arg_names))
    try:
        return triton_version.compile_stages(function, signature, constants, divisible, target, options, kernel.gluon)
    except AttnccError:
        raise
    except triton_version.StageError as error:
        found = f"Triton {triton_version.version()} fails on the kernel {kernel.source.name} for {target}"
        raise CompilerFailure(f"{found}, at {error.stage}: {_innermost_reason(error)}") from error
    except Exception as error:
        raise _explain(kernel, target, error) from error


def _entry_function(kernel: TritonKernel) -> Any:
    names = define(kernel.source.name, kernel.source.text)
    if kernel.entry not in names:
        raise InternalError(f"the source {kernel.source.name} defines no {kernel.entry}")
    return names[kernel.entry]


def _check_parameters(kernel: TritonKernel, names: list[str]) -> None:
    stated = [one.name for one in kernel.arguments]
    if stated != names:
        raise InternalError(f"{kernel.entry} takes {', '.join(names)}, but was described with {', '.join(stated)}")


def _explain(kernel: TritonKernel, target: str, error: Exception) -> CompileError:
    """Triton's refusal at the line of the generated text that it means."""
    head = f"Triton {triton_version.version()} refuses the kernel {kernel.source.name} for {target}"
    return CompileError(f"{head}: {_innermost_reason(error)}", _find_mistake(kernel, error))


def _find_mistake(kernel: TritonKernel, error: Exception) -> Span | None:
    text = kernel.source.text
    # The innermost place may lie in a function of Triton's own, called from ours.
    for function, line, column in reversed(triton_version.locate(error)):
        start = text.find(function)
        if start >= 0:
            at = start + sum(len(above) + 1 for above in function.split("\n")[: line - 1]) + column
            end = text.find("\n", at)
            return Span(Source(file_name(kernel.source.name, text), text), at, end if end >= 0 else len(text))
    return None


def _innermost_reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(getattr(error, "error_message", None) or error).strip() or type(error).__name__


def layout(arguments: tuple[str, ...]) -> tuple[Parameter, ...]:
    """Where a kernel expects its run-time arguments, then the pointers that Triton adds."""
    at, places = 0, []
    for kind in parameters_of(arguments):
        size = POINTER if kind.startswith("*") else SIZES.get(kind)
        if size is None:
            raise UnsupportedError(f"a kernel cannot take a {kind} at run time")
        alignment = min(size, DESCRIPTOR_ALIGNMENT)
        at = -(-(at + PARAMETERS_AT) // alignment) * alignment - PARAMETERS_AT
        places.append(Parameter(at, size))
        at += size
    return tuple(places)


def parameters_of(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The types of all parameters: a descriptor is followed by the sizes and strides of its tensor, which our kernels
    do not read, and the arguments by the pointers that Triton adds."""
    found: list[str] = []
    for kind in arguments:
        if is_descriptor(kind):
            found += [DESCRIPTOR, *["i32"] * rank_of(kind), *["i64"] * rank_of(kind)]
        else:
            found.append(kind)
    return (*found, *["*"] * triton_version.HIDDEN_POINTERS)


def rank_of(kind: str) -> int:
    """The dimensions of the tensor that an argument describes."""
    return kind[kind.index("[") : kind.index("]")].count(",") + 1


def is_descriptor(kind: str) -> bool:
    """Whether an argument describes a tensor to the TMA."""
    return kind.startswith("tensordesc<")


def _check_layout(kernel: TritonKernel, arguments: tuple[str, ...], facts: Facts) -> None:
    """The binary itself says where it expects its arguments: a launch that packs them otherwise would read rubbish."""
    expected = layout(arguments)
    if facts.parameters != expected:
        raise InternalError(
            f"Triton {triton_version.version()} passes arguments in a way that attncc does not know: {kernel.entry} "
            f"has its parameters at {facts.parameters}, not at {expected}"
        )


def unpack(entry: Entry) -> Built:
    """A compiled kernel as the cache or a pack holds it."""
    facts, launch, target = entry.facts, entry.facts["launch"], str(entry.identity["target"])
    return Built(
        key=entry.key,
        name=facts["name"],
        target=target,
        arguments=tuple(facts["arguments"]),
        num_warps=launch["num_warps"],
        num_ctas=launch["num_ctas"],
        resources=Resources(**facts["resources"]),
        metadata=launch,
        binary=entry.files[f"kernel.{triton_version.binary_kind(target)}"],
    )


def interpret(kernel: TritonKernel) -> Callable[..., None]:
    """The same source in Triton's interpreter: call it with a grid and the run-time arguments, tensors on the CPU.

    Raises UnsupportedError unless TRITON_INTERPRET=1 was set before Triton was imported.
    """
    if triton_version.version() is None or not triton_version.interprets():
        raise UnsupportedError(
            "Triton's interpreter is not active", hint="set TRITON_INTERPRET=1 before Python starts; it is slow"
        )
    function = _entry_function(kernel)
    order, constants = _call_order(kernel.arguments)

    def launch(grid: tuple[int, int, int], *args: object) -> None:
        function[grid](**dict(zip(order, args, strict=True)), **constants)

    return launch


def _call_order(arguments: tuple[Argument, ...]) -> tuple[list[str], dict[str, Setting]]:
    order = [one.name for one in arguments if not one.is_constant]
    return order, {one.name: one.value for one in arguments if one.is_constant}
