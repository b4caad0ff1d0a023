"""Inline assembly: straight lines of PTX on 32-bit registers, and the instructions of the named barriers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from tests.gluon.barriers import NamedBarriers
from tests.gluon.machine import Fault, current, here
from tests.gluon.values import BFLOAT16, FLOAT32, Array, Dtype, Tensor, tensor

BARRIER: Final = re.compile(r"(?:bar|barrier)(?:\.cta)?\.(sync|arrive)(?:\.aligned)? (\S+?)(?:, ?(\S+?))?;")
UNPACK: Final = "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;"  # two bfloat16 of one register as two float32
STATEMENT: Final = re.compile(r"([a-z0-9_.]+) (\S+), (.+)")
HINTS: Final = {"approx", "ftz", "rn", "full", "u32", "s32", "b32", "f32"}  # of an instruction: all else is unknown

FLOATS: Final[dict[str, Callable[..., Array]]] = {
    "tanh": lambda x: np.tanh(x).astype(np.float16),  # off by up to 2**-11, as the instruction may be
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda x: np.float32(1) / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.float32(1) / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "abs": np.abs,
    "neg": np.negative,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "fma": lambda a, b, c: a * b + c,
    "min": np.fmin,
    "max": np.fmax,
}
WORDS: Final[dict[str, Callable[..., Array]]] = {
    "mov": lambda x: x,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "add": np.add,
    "sub": np.subtract,
}


def inline_asm_elementwise(
    asm: str, constraints: str, args: Sequence[Any], dtype: Dtype, is_pure: bool, pack: int
) -> Tensor:
    """Run assembly for every element. Raises Fault for instructions that the tables above lack."""
    text = " ".join(asm.split())
    operands = [tensor(argument) for argument in args]
    barrier = BARRIER.match(text)
    if barrier:
        return _meet(barrier, operands, is_pure)
    if text == UNPACK and operands[0].dtype is BFLOAT16 and pack == 2:
        return operands[0].to(FLOAT32)
    if pack != 1 or dtype.primitive_bitwidth != 32 or any(x.dtype.primitive_bitwidth != 32 for x in operands):
        raise Fault("unmodelled", f"assembly on other than 32 bits `{text}` {here()}")
    shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    return Tensor(_run(text, [np.broadcast_to(x.values, shape) for x in operands]).view(dtype.array), dtype)


def _meet(barrier: re.Match[str], operands: list[Tensor], is_pure: bool) -> Tensor:
    action, *numbers = barrier.groups()
    if is_pure:
        raise Fault("type", f"a barrier that the compiler may drop, as is_pure is set {here()}")
    me = current()
    number, threads = (_constant(text, operands) for text in numbers)
    if operands[0].values.size > 32 * me.warps:
        raise Fault("barrier", f"a barrier met twice by each of the {me.warps} warps of {me.name} {here()}")
    if me.program.named is None:
        me.program.named = NamedBarriers()
    me.program.named.meet(number, threads, waits=action == "sync")
    return Tensor(np.zeros(operands[0].shape, np.int32), operands[0].dtype)


def _constant(text: str | None, operands: list[Tensor]) -> int:
    if text is None:
        raise Fault("unmodelled", f"a barrier of all threads {here()}")
    if not text.startswith("$"):
        return int(text, 0)
    values = operands[int(text[1:]) - 1].values  # $0 is the result
    if values.min() != values.max():
        raise Fault("barrier", f"threads meet at different barriers {here()}")
    return int(values.flat[0])


def _run(text: str, operands: list[Array]) -> Array:
    """The register $0 after the statements, as words."""
    registers = {f"${i + 1}": np.ascontiguousarray(x).view(np.uint32) for i, x in enumerate(operands)}
    for statement in (part.strip(" {}") for part in text.split(";")):
        if statement and not statement.startswith(".reg"):
            target, value = _step(statement, registers)
            registers[target] = value
    return np.broadcast_to(registers["$0"], operands[0].shape).copy()


def _step(statement: str, registers: dict[str, Array]) -> tuple[str, Array]:
    match = STATEMENT.fullmatch(statement)
    if match is None:
        raise Fault("unmodelled", f"assembly `{statement}` {here()}")
    instruction, target, rest = match.groups()
    name, *hints = instruction.split(".")
    sources = [_source(source.strip(), registers) for source in rest.split(",")]
    table = FLOATS if "f32" in hints else WORDS
    if name not in table or not HINTS.issuperset(hints):
        raise Fault("unmodelled", f"assembly `{statement}` {here()}")
    if table is WORDS:
        kind = np.int32 if "s32" in hints else np.uint32
        return target, np.asarray(WORDS[name](*(source.view(kind) for source in sources))).view(np.uint32)
    result = np.asarray(FLOATS[name](*(source.view(np.float32) for source in sources)), np.float32)
    return target, result.view(np.uint32)


def _source(text: str, registers: dict[str, Array]) -> Array:
    if text in registers:
        return registers[text]
    if re.fullmatch(r"0f[0-9A-Fa-f]{8}", text):
        return np.array(int(text[2:], 16), np.uint32)
    if re.fullmatch(r"-?(0x)?[0-9A-Fa-f]+", text):
        return np.array(int(text, 0) & 0xFFFFFFFF, np.uint32)
    raise Fault("unmodelled", f"assembly operand {text} {here()}")
