"""What a compiled kernel says of itself: registers, spills, shared memory, and where it expects its parameters.

A cubin is an ELF file whose `.nv.info` sections hold attributes; what is read here agrees with `cuobjdump -res-usage
-elf`, without starting a process. For AMD the same facts stand in the assembly's metadata. Nothing here needs a GPU.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from attncc.errors import InternalError

#: Attributes of `.nv.info` sections, by the names that cuobjdump gives them (EIATTR_...).
REGCOUNT, MIN_STACK_SIZE, FRAME_SIZE, KPARAM_INFO = 0x2F, 0x12, 0x11, 0x17
#: Formats of an attribute: none, a byte, a half word, or that many bytes of value.
SIZED = 0x04
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
NOBITS = 8


@dataclass(frozen=True, slots=True)
class Resources:
    """What a program takes: registers per thread, bytes of local memory per thread (0: nothing spilled), and bytes of
    shared memory per program."""

    registers: int
    spills: int
    shared: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """Where a kernel expects a parameter, and how many bytes it has."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a binary says of one kernel; `shared` is what it reserves itself, beside what a launch asks for."""

    registers: int
    local: int
    shared: int
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    data: bytes
    size: int


def read_cubin(data: bytes, kernel: str) -> Facts:
    """The facts of a kernel in a cubin. Raises InternalError if they cannot be read."""
    try:
        sections = {section.name: section for section in _sections(data)}
        index = _symbols(sections[".symtab"].data, sections[".strtab"].data).index(kernel)
        stated = {
            (code, int.from_bytes(value[:4], "little")): int.from_bytes(value[4:], "little")
            for code, value in _attributes(sections[".nv.info"].data)
            if len(value) == 8
        }
        own = sections.get(f".nv.shared.{kernel}")
        parameters = [v for code, v in _attributes(sections[f".nv.info.{kernel}"].data) if code == KPARAM_INFO]
        local = max(stated.get((MIN_STACK_SIZE, index), 0), stated.get((FRAME_SIZE, index), 0))
        return Facts(stated[REGCOUNT, index], local, own.size if own else 0, _parameters(parameters))
    except (KeyError, ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise InternalError(f"the binary of {kernel} cannot be read: {error!r}") from error


def _sections(data: bytes) -> Iterator[_Section]:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no ELF file")
    (start,) = struct.unpack_from("<Q", data, 0x28)
    step, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [SECTION.unpack_from(data, start + step * number) for number in range(count)]
    titles = data[headers[names][4] :]
    for title, kind, _, _, offset, size, *_ in headers:
        yield _Section(_text(titles, title), kind, b"" if kind == NOBITS else data[offset : offset + size], size)


def _text(table: bytes, start: int) -> str:
    return table[start : table.index(0, start)].decode()


def _symbols(table: bytes, names: bytes) -> list[str]:
    return [_text(names, SYMBOL.unpack_from(table, at)[0]) for at in range(0, len(table), SYMBOL.size)]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of an info section; a value shorter than its word comes with the size field as it stands."""
    at = 0
    while at + 4 <= len(data):
        form, code, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == SIZED:
            yield code, data[at : at + size]
            at += size
        else:
            yield code, b""


def _parameters(values: list[bytes]) -> tuple[Parameter, ...]:
    found = {}
    for value in values:
        _, ordinal, offset, packed = struct.unpack("<IHHI", value)
        found[ordinal] = Parameter(offset, packed >> 18)
    return tuple(found[ordinal] for ordinal in range(len(found)))


def read_amdgcn(text: str, kernel: str) -> Facts:
    """The facts of a kernel in AMD assembly. Raises InternalError if they cannot be read."""
    metadata = text[text.find(".amdgpu_metadata") :]

    def number(name: str) -> int:
        found = re.search(rf"^ +(?:- )?\.{name}: +(\d+)$", metadata, re.MULTILINE)
        if found is None:
            raise InternalError(f"the assembly of {kernel} does not state its {name}")
        return int(found[1])

    places = zip(re.findall(r"\.offset: +(\d+)", metadata), re.findall(r"\.size: +(\d+)", metadata), strict=True)
    parameters = tuple(Parameter(int(offset), int(size)) for offset, size in places)
    # Scalar registers spill into lanes of vector registers, which are counted; only the others go to memory.
    local = max(number("private_segment_fixed_size"), 4 * number("vgpr_spill_count"))
    return Facts(number("vgpr_count"), local, number("group_segment_fixed_size"), parameters)
