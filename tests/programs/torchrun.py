"""The example of several processes, in a process that torchrun might have started."""

import contextlib
import io
import os
import runpy
import socket
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "many_processes.py"


def free_port() -> int:
    """Return the number of a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def example(rank: int, size: int, port: int) -> str:
    """Return what the example says; it joins the group that the environment names."""
    torch.set_default_dtype(torch.float32)
    where = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in where.items()}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return said.getvalue()
