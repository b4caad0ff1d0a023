"""Which kernels have been tried and found right: looked up by their keys, beside them in the cache."""

from __future__ import annotations

from typing import Any

import torch

from attncc.config import settings
from attncc.runtime.cache import default_store, digest
from attncc.runtime.triton_attention import Loaded


def needs_test(loaded: Loaded, device: torch.device) -> bool:
    """Whether kernels have to be tried before they are used; the interpreter's, and those of a capture, are not."""
    if not settings().self_test or device.type == "cpu" or torch.cuda.is_current_stream_capturing():
        return False
    return default_store().load(digest(_identity(loaded, device))) is None


def pass_test(loaded: Loaded, device: torch.device, name: str) -> None:
    """Remember that kernels were found right, for the variant of this name."""
    default_store().publish(_identity(loaded, device), {"variant": name}, {})


def _identity(loaded: Loaded, device: torch.device) -> dict[str, Any]:
    keys = sorted(kernel.launch.built.key for kernel in loaded.kernels.values())  # type: ignore[attr-defined]  # a Launch
    return {"kind": "self-test", "kernels": keys, "device": torch.cuda.get_device_name(device)}
