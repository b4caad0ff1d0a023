"""`.attn` text becomes an `AttentionSpec`: the front door of the language. Reading a text never runs code.

The syntax is `grammar/attn.lark`. `mistakes` reads it, and `wording` says why where that fails; `names`, `operations`
and `expressions` give the words their meaning; `elaborate` makes the spec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from typing import Final

from attncc.errors import InputError, LanguageError
from attncc.frontend.elaborate import Elaboration, Setting
from attncc.frontend.expressions import Errors, Typing
from attncc.frontend.mistakes import read_tree
from attncc.ir import AttentionSpec
from attncc.ir.syntax import VERSION
from attncc.ir.verify import verify
from attncc.source import Source, Span

#: In bytes as UTF-8; definitions have a few hundred.
MAX_TEXT: Final = 1_000_000
MAX_LISTED: Final = 5
HEADER: Final = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*[ \t\f]*attn[ \t]+(\d+)")
BYTE_ORDER_MARK: Final = "\ufeff"


def parse(source: str | Source, parameters: Mapping[str, Setting] | None = None) -> AttentionSpec:
    """The spec that a text defines; `parameters` replaces defaults of its parameters.

    Raises LanguageError (LanguageErrors for several mistakes), and InputError if `parameters` do not fit the text.
    """
    source = _normalised(source if isinstance(source, Source) else Source("<string>", source))
    _check_size(source.name, len(source.text.encode("utf-8", "surrogatepass")))
    _check_version(source)
    reading = read_tree(source)
    typing = Typing(source, Errors(list(reading.errors)))
    if reading.tree is None:
        typing.errors.raise_all()
        raise AssertionError("a text without a tree has an error")
    spec = Elaboration(typing, parameters or {}, reading.lost).run(reading.tree)
    typing.errors.raise_all()
    verify(spec)
    return spec


def read_source(path: str | PathLike[str]) -> Source:
    """The text of a file. Raises InputError if it cannot be read, is not UTF-8, or is too long to be a definition."""
    name = fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_TEXT + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {name}", hint=_nearest_file(Path(path))) from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder", hint="name a file in it, such as causal.attn") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read: {why}", hint="name a file that this user may read") from None
    _check_size(name, len(data))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{name} is not UTF-8: byte {error.start}, in line {line}, is 0x{data[error.start]:02x}"
        raise InputError(message, hint="store the file with the encoding UTF-8") from None
    return _normalised(Source(name, text))


def _nearest_file(path: Path) -> str:
    """What to write instead of the path of a file that does not exist."""
    try:
        there = sorted(each.name for each in path.parent.iterdir() if each.suffix == ".attn")
    except OSError:
        return f"there is no folder {path.parent} either"
    near = get_close_matches(path.name, there, 1)
    if near:
        return f"did you mean {path.with_name(near[0])}?"
    folder = "this folder" if path.parent == Path() else f"the folder {path.parent}"
    return f"{folder} holds {', '.join(there[:MAX_LISTED]) or 'no .attn file'}"


def _normalised(source: Source) -> Source:
    """The source without a byte order mark, with plain line ends, and with one at its end."""
    text = source.text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")
    text = text if text.endswith("\n") else f"{text}\n"
    return source if text == source.text else Source(source.name, text, source.first_line)


def _check_size(name: str, length: int) -> None:
    if length > MAX_TEXT:
        message = f"{name} is too long for a definition: more than {MAX_TEXT:,} bytes"
        raise InputError(message, hint="large tables belong in captured tensors")


def _check_version(source: Source) -> None:
    """Refuse a text in another version of the language before its syntax is looked at."""
    header = HEADER.match(source.text)
    if header is None or (len(header[1]) < 10 and int(header[1]) == VERSION):
        return
    span = Span(source, header.start(1), header.end(1))
    message = (
        f"this text is written in version {header[1][:20]} of the language, and this attncc reads version {VERSION}"
    )
    raise LanguageError(message, span, "install a newer attncc, or write `attn 1`")
