"""How often programs are run: noted down outside of the model, which may then be run at several points at once."""

from typing import Any

import pytest

from em_pyro.program.program import Program


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that has an entry for each run of a program from now on."""
    calls, run = list[int](), Program.run

    def noted(program: Program, *args: Any) -> Any:
        calls.append(1)
        return run(program, *args)

    monkeypatch.setattr(Program, "run", noted)
    return calls
