"""Brute force: the law of the discrete latents by running the model once for each joint assignment of all of them.

Nothing here enumerates in Pyro's sense. Every latent of every row gets a concrete value of full plate shape by
`poutine.condition`, the model runs, and its factors are written into a table with one line for each joint assignment.
Evidence, marginals and expected factors are sums over the lines.

Conventions:

*   A mask acts on observations. The factor of a latent is always its probability, so that a masked latent still sums
    to one and the evidence is that of the observations that remain.
*   A constant scale `c` on every site of a program multiplies its log evidence by `c`.
*   A tensor scale `w` gives each of its elements ("row") a weight that multiplies the row's log-sum over its own
    latents, before anything outside is summed. With `o` the unscaled latents and `z_n` the scaled ones of row `n`,

        Z = sum_o p(o) prod_n (sum_{z_n} f_n(o, z_n))^{w_n}

    so that an integer weight is the row repeated. All scaled sites must carry one and the same scale; nested weights
    raise here, and are checked by repeating rows instead.
*   Entries of latents that nothing observed depends on are *barren*. They cancel from the evidence, and their own
    factors are left out of the expected ones unless they are asked for.

`tapped_weights` is the second way to the same numbers, and lives in `tap.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from oracles.concrete import Latent, assignment, find_latents, run_all
from oracles.replay import Params
from oracles.tap import Tapped, tapped_weights

__all__ = ["Joint", "Latent", "Tapped", "brute_force", "tapped_weights"]


@dataclass(frozen=True)
class Joint:
    """Every joint assignment of a program's discrete latents, at one value of its parameters.

    Attributes:
        digits: which value each latent entry takes on each line, shape `(R, E)`, entries in the order of `latents`.
        tables: log factor of each site on each line, shape `(R, *site)`, float64, masked but not scaled.
        scale: the one scale that is not 1, or 1.
        scaled: names of the sites that carry it.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    latents: tuple[Latent, ...]
    digits: Tensor
    tables: dict[str, Tensor]
    scale: Tensor
    scaled: frozenset[str]

    @property
    def log_evidence(self) -> float:
        """Log of the (weighted) sum over all assignments."""
        return self._law[0]

    @cached_property
    def marginals(self) -> dict[str, Tensor]:
        """Posterior probability of each value of each latent, shape `(*batch, K)`; row weights do not multiply it."""
        found, entry = {}, 0
        for latent in self.latents:
            rows = []
            for _ in range(latent.shape.numel()):
                law = self._law[1][self._unit[entry]]
                rows.append(torch.zeros(len(latent.support)).double().index_add(0, self.digits[:, entry], law))
                entry += 1
            found[latent.name] = torch.stack(rows).reshape(*latent.shape, len(latent.support))
        return found

    def mode(self) -> dict[str, Tensor]:
        """The most probable joint assignment: a value of shape `(*batch, *event)` for each latent."""
        log_joint = sum(table.reshape(len(table), -1).sum(1) for table in self.tables.values())
        assert isinstance(log_joint, Tensor)
        return assignment(self.latents, self.digits[log_joint.argmax()])

    def expected_log_factors(self, params: Params | None, *, keep_barren: bool = False) -> dict[str, float]:
        """Expected log factor of each site at other parameters: the site's part of `Q(params | these)`.

        Args:
            params: new values by name; what is not named has the store's value. None for the values of this law.
            keep_barren: also count the factors of barren latent entries.
        """
        tables = {name: table.clone() for name, table in self.tables_at(params).items()}
        for latent in () if keep_barren else self.latents:
            tables[latent.name][:, self.barren[latent.name]] = 0.0
        weights = torch.cat([torch.ones(1), self.scale.reshape(-1)]).double()
        law = weights.unsqueeze(-1) * self._law[1]
        return {site: _expectation(law.T, self._by_unit(site, table)) for site, table in tables.items()}

    def tables_at(self, params: Params | None) -> dict[str, Tensor]:
        """Log factors of each site on each line at other parameters, each value of them run once."""
        if params is None:
            return self.tables
        key = tuple((name, value.detach().numpy().tobytes()) for name, value in sorted(params.items()))
        if key not in self._elsewhere:
            self._elsewhere[key] = run_all(self.model, self.args, self.kwargs, params, self.latents, self.digits)[0]
        return self._elsewhere[key]

    @cached_property
    def _elsewhere(self) -> dict[Any, dict[str, Tensor]]:
        return {}

    @cached_property
    def barren(self) -> dict[str, Tensor]:
        """Which entries of each latent, shape `(*batch)`, have no observed descendant.

        An entry *moves* a factor if the factor changes when that entry alone does. Barren are the entries that move
        no factor but their own and those of barren entries.
        """
        sizes = [len(latent.support) for latent in self.latents for _ in range(latent.shape.numel())]
        entries = [(latent.name, i) for latent in self.latents for i in range(latent.shape.numel())]
        moves: list[set[tuple[str, int]]] = [set() for _ in entries]
        for site, table in self.tables.items():
            cells = table.reshape(*sizes, -1)
            for e, moved in enumerate(moves):
                same = torch.isclose(cells.amax(e), cells.amin(e), rtol=0, atol=1e-12)
                moved.update((site, int(i)) for i in (~same.reshape(-1, cells.shape[-1]).all(0)).nonzero())
        gone: set[tuple[str, int]] = set()
        for _ in entries:
            gone |= {entry for entry, moved in zip(entries, moves, strict=True) if moved <= gone | {entry}}
        return {
            latent.name: torch.tensor([(latent.name, i) in gone for i in range(latent.shape.numel())])
            .bool()
            .reshape(latent.shape)
            for latent in self.latents
        }

    @cached_property
    def _unit(self) -> list[int]:
        """What each latent entry belongs to: 0 for everything unscaled, n + 1 for row n."""
        rows = 1 + torch.arange(self.scale.numel()).reshape(self.scale.shape)
        return [
            int(unit)
            for latent in self.latents
            for unit in (rows if latent.name in self.scaled else torch.tensor(0)).expand(latent.shape).reshape(-1)
        ]

    def _by_unit(self, site: str, table: Tensor) -> Tensor:
        """Sum a site's log factors within each unit: shape `(R, 1 + rows)`."""
        found = torch.zeros(len(table), 1 + self.scale.numel()).double()
        if site in self.scaled:
            inside = (1,) * (table.dim() - 1 - self.scale.dim()) + tuple(self.scale.shape)
            found[:, 1:] = table.sum_to_size(len(table), *inside).reshape(len(table), -1)
        else:
            found[:, 0] = table.reshape(len(table), -1).sum(1)
        return found

    @cached_property
    def _law(self) -> tuple[float, Tensor]:
        """Log evidence, and for each unit the posterior probability of each line, shape `(1 + rows, R)`.

        Many lines agree in the entries of a unit; the first of them stands for all and carries the probability.
        """
        total = sum(self._by_unit(site, table) for site, table in self.tables.items())
        assert isinstance(total, Tensor)
        outside = _first_lines(self.digits, [u == 0 for u in self._unit])
        _require_function_of(outside, total[:, 0])
        log_outside = torch.full((len(self.digits),), -torch.inf).double()
        law = torch.zeros(total.T.shape).double()
        for o in set(outside):
            log_outside[o] = total[o, 0]
        for n, w in enumerate(self.scale.reshape(-1).tolist()):
            row = _first_lines(self.digits, [u in (0, n + 1) for u in self._unit])
            _require_function_of(row, total[:, n + 1])
            for o in set(outside):
                lines = sorted({r for r, of in zip(row, outside, strict=True) if of == o})
                log_outside[o] += w * total[lines, n + 1].logsumexp(0)
                law[n + 1, lines] = total[lines, n + 1].softmax(0)
        law[0] = log_outside.softmax(0)
        law[1:] *= law[0][outside]
        return float(log_outside.logsumexp(0)), law


def brute_force(
    model: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    params: Params | None = None,
) -> Joint:
    """Run the model once for each joint assignment of its discrete latents.

    Args:
        model: a plain Pyro program, its latents not marked for enumeration.
        args: what the model is called with; `kwargs` likewise.
        kwargs: keyword arguments of the model.
        params: values of parameters and of all continuous latent sites, by name; what is not named has the store's.

    Raises:
        ValueError: if a latent is neither discrete nor given a value.
    """
    kwargs = kwargs or {}
    latents = find_latents(model, args, kwargs, params)
    sizes = [len(latent.support) for latent in latents for _ in range(latent.shape.numel())]
    lines = list(product(*map(range, sizes)))
    digits = torch.tensor(lines, dtype=torch.long).reshape(len(lines), len(sizes))
    tables, scales = run_all(model, args, kwargs, params, latents, digits)
    scaled = {site: s for site, s in scales.items() if (s != 1).any()}
    scale = next(iter(scaled.values()), torch.zeros(0))
    if any(s.shape != scale.shape or not torch.equal(s, scale) for s in scaled.values()):
        raise NotImplementedError("sites carry different scales; repeat rows instead")
    return Joint(model, args, kwargs, latents, digits, tables, scale, frozenset(scaled))


def _first_lines(digits: Tensor, entries: list[bool]) -> list[int]:
    """For each line, the first line that agrees with it in the chosen entries."""
    seen: dict[tuple[int, ...], int] = {}
    keys = map(tuple, digits[:, torch.tensor(entries, dtype=torch.bool)].tolist())
    return [seen.setdefault(key, line) for line, key in enumerate(keys)]


def _require_function_of(first: list[int], column: Tensor) -> None:
    """Refuse a column that changes while the entries it should depend on stay: rows that are not independent."""
    if not torch.isclose(column, column[first], rtol=0, atol=1e-9).all():
        raise NotImplementedError("a factor depends on latents outside its scaled row")


def _expectation(probability: Tensor, value: Tensor) -> float:
    """Sum of products, where probability zero times minus infinity is zero."""
    return float((probability * value.masked_fill(probability == 0, 0.0)).sum())
