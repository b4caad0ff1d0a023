"""Which code of the user's ran during a trace: what the walk did not see may have read anything.

Python runs some code whenever it likes (garbage collection, finalizers); that is no part of the traced function.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from attncc.frontend.places import is_library_frame


@contextmanager
def watching(executed: set[CodeType]) -> Iterator[None]:
    """Collect the code of every Python function of the user's that runs in this thread."""
    chance = {code for callback in gc.callbacks if (code := getattr(callback, "__code__", None)) is not None}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not is_library_frame(frame) and not _by_chance(frame, chance):
            executed.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def _by_chance(frame: FrameType | None, chance: set[CodeType]) -> bool:
    """Whether a frame runs for a collection of garbage or for an object that goes."""
    while frame is not None:
        # By identity: code that torch.compile made may hold constants without a hash.
        if any(frame.f_code is code for code in chance) or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def strangers(executed: set[CodeType], seen: set[CodeType]) -> set[CodeType]:
    """The code that ran, but is not in the code that was seen nor within it."""
    return executed - {nested for code in seen for nested in _nested(code)} if executed else set()


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
