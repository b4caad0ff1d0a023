"""Two processes with half the batch each train as one process does, under DDP and under FSDP2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.flex.oracle import close
from tests.flex.training import train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_train_as_one(way, tmp_path, repository):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "trained.pt"
    command = [sys.executable, "-W", "ignore", "-m", "tests.flex.training", way, str(path)]
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": str(repository)}
    started = [
        subprocess.Popen(command, cwd=repository, env={**os.environ, **common, "RANK": rank}, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    found = torch.load(path)
    for name, wanted in train("alone", 0, 1).items():
        close(name, found[name], wanted, 1e-10)
