"""What a user holds: `compile`, `attention`, `load`, `loads` and the `Variant` that they give."""

from attncc.api.entry import attention, compile, load, loads
from attncc.api.variant import Variant

__all__ = ["Variant", "attention", "compile", "load", "loads"]
