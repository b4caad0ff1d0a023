"""The other process in which kernels are tried that might never end: it replays the cases whose folders it is told."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch

from attncc.api.self_test import replay
from attncc.errors import AttnccError

#: Seconds that a process waits for the first case, which has to be compiled, and then for others before it ends and
#: gives its part of the GPU's memory back.
FIRST, IDLE = 60.0, 10.0


def serve(device: str) -> NoReturn:
    """Replay the folders named on standard input, and print what was found, until nothing is asked for a while.

    Whoever started it has gone where the input ends: then it ends at once, whatever its kernels do.
    """
    folders: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            folders.put(line.strip())
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    if device != "cpu":
        torch.empty(1, device=device)  # the GPU's start takes a while, beside the compiler of whoever started this
    patience = FIRST
    while True:
        try:
            folder = folders.get(timeout=patience)
        except queue.Empty:
            os._exit(0)
        patience = IDLE
        found = found_in(Path(folder))
        sys.stdout.write(f"{json.dumps(found)}\n")
        sys.stdout.flush()
        if "failed" in found or "broken" in found:
            os._exit(1)


def found_in(folder: Path) -> dict[str, Any]:
    """What is `wrong` with the kernels of a case; why it `failed` to be tried; whether the GPU is `broken` since."""
    try:
        return {"wrong": [f"WRONG  {finding.line}" for finding, is_right in replay(folder) if not is_right]}
    except (AttnccError, torch.OutOfMemoryError) as error:
        return {"failed": str(error).splitlines()[0]}
    except RuntimeError as error:  # the kernels have failed, and left nothing that this process could use
        traceback.print_exc()
        return {"wrong": [f"WRONG  {str(error).splitlines()[0]}"], "broken": True}
