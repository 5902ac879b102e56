"""Who holds the rows of a fit: this process, or several; at hand, or in batches.

Few fits have batches or other processes: what serves these is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..problem import Problem

if TYPE_CHECKING:
    from .scan import Prepare


def shared(
    em: Any, prepare: Prepare, args: tuple[Any, ...], kwargs: Mapping[str, Any], before: Problem | None = None
) -> Problem:
    """Plan on the rows of this process, and return the problem of the rows of all.

    Args:
        em: with the options, which must be the same in all processes; without a process group this one is alone.
        prepare: plans.
        args: of the model, with the rows of this process; they may be none.
        kwargs: likewise.
        before: what this has returned, to be kept if no process has other arguments now.

    Raises:
        PlanError: processes have other plans or options; or statistics of a site do not add up over their rows.
        DataError: no process has a row.
        EMError: planning failed in one of them, or one of them does not answer.
    """
    if em.process_group is None:
        return prepare(args, kwargs)
    from .agreed import agreed

    return agreed(em, prepare, args, kwargs, before)


def shared_stream(em: Any, prepare: Prepare, batches: Any, passes: int | None) -> Problem:
    """Plan on the first batch of this process, read all of them once, and return the problem of the rows of all.

    Args:
        em: as for `shared`.
        prepare: plans.
        batches: of this process; they may be none.
        passes: the same in all processes.

    Raises:
        EMError: as for `shared`, and of batches.
    """
    if em.process_group is None:
        from .scan import streamed

        return streamed(prepare, batches)
    from .agreed import agreed_stream

    return agreed_stream(em, prepare, batches, passes)
