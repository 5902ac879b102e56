"""Groups of real processes, which are forked where torch is imported already."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from programs.share import Ran

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """What every process of a group has found; None of one that has ended without a word. Each is asked once."""
    program = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "programs" / "share.py")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("share")
    with subprocess.Popen(program, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT, env=env) as server:

        @cache
        def asked(scenario: str, size: int = 2, again: str = "") -> list[Any]:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(f"{scenario} {size} {folder}\n")
            server.stdin.flush()
            found: list[Any] = json.loads(server.stdout.readline())
            return found

        yield asked
