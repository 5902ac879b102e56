"""The exact law of the enumerated latents at given parameters: evidence, marginals, mode, draws.

Everything comes from the schedule of the E-step. A marginal is the weight of a zero factor laid over the latent and its
plates; the mode and the draws run the schedule backwards, choosing a state where the E-step would share weight out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..e_step.build import build
from ..e_step.chains.hmm import Hmm
from ..e_step.chains.paths import best_paths, draw_paths, state_law
from ..e_step.contraction import Factor, Product, Schedule, Sum
from ..e_step.elimination import plan_contraction
from ..e_step.engine import Engine
from ..e_step.precision import suited
from ..errors import ParameterError
from ..program.devices import there
from ..program.named import Named, Params, align
from ..reading.bound import Bound

Pick = Callable[[Tensor], Tensor]
ABSENT = 1e-200
MANY = 12  # latents from which all marginals are worked out at the first that is asked for


@dataclass(frozen=True)
class Posterior:
    """Exact posterior of every discrete latent, given the data and `params`.

    Attributes:
        params: the parameter values.
        log_evidence: log of the sum over all latents; row weights count.
    """

    params: Params = field(repr=False)
    log_evidence: float
    engine: Engine = field(repr=False)

    @cached_property
    def _bound(self) -> Bound:
        with torch.no_grad():
            return self.engine.bind(self.params)

    @cached_property
    def _factors(self) -> dict[str, Named]:
        with torch.no_grad():
            return self.engine.log_factors(self.params)

    @there
    def log_evidence_by(self, plate: str) -> Tensor:
        """Log evidence of every row of a plate, shape `(N,)`, times the row's weight if it has one.

        Raises:
            ParameterError: no such plate, or its rows depend on one another through a latent outside it.
        """
        plates, recognition = self.engine.program.plates, self.engine.recognition
        if plate not in plates:
            raise ParameterError(f'log_evidence_by: expected one of the plates {sorted(plates)}, got "{plate}".')
        if any(plate in term.folded for term in self.engine.terms.values()):  # its rows are summed inside a factor
            whole = build(self.engine.program, recognition, recognition.runs[0], recognition.priors, {}, compiled=False)
            return replace(self, engine=whole).log_evidence_by(plate)
        schedule, inputs, _ = self._schedule()
        _, values, _ = schedule.forward(inputs)
        total = torch.zeros(plates[plate], dtype=torch.float64)
        for step in schedule.steps:
            if not isinstance(step, Product):
                continue
            missing = dict(step.missing)
            if plate not in step.over and plate not in missing:
                continue
            if step.output not in schedule.roots:
                latent = next(n for n in schedule.names[step.output] if n in self.engine.program.latents)
                raise ParameterError(
                    f'log_evidence_by("{plate}"): expected independent rows, but latent "{latent}" outside the plate '
                    f"joins them. Ask for a plate that holds it."
                )
            value, have = align(values[step.input], schedule.names[step.input], step.names), step.names
            if step.scale is not None:
                value = value * step.scale.align(have)
            rest = tuple(i for i, name in enumerate(have) if name != plate)
            value = value.sum(rest) if rest else value
            for other, size in missing.items():
                value = value * (size if other != plate else 1)
            total = total + value
        return total

    @there
    def marginal(self, site: str) -> Tensor:
        """Posterior probabilities of one latent: shape (plates of the site) + `(K,)`, the support last.

        For a partly labelled site (`obs_mask`), labelled rows are one-hot.
        """
        latents = self.engine.program.latents
        if site in latents and len(latents) > MANY:  # the steps of a loop: one backward pass for all of them
            return self._every_marginal[site].clone()
        if site in latents:
            return self._marginals([site])[site]
        if site in self.engine.hmms:
            return self._state_law(self.engine.hmms[site])
        hidden, seen = f"{site}_unobserved", self.engine.recognition.runs[0].get(f"{site}_observed")
        if hidden in latents and seen is not None and seen.mask is not None:
            probabilities = self._marginals([hidden])[hidden]
            states = latents[hidden].support
            labels = (seen.value.unsqueeze(seen.value.dim() - states.dim() + 1) == states).double()
            labels = labels.flatten(seen.value.dim()).all(-1).double() if states.dim() > 1 else labels
            return torch.where(seen.mask.unsqueeze(-1), labels, probabilities)
        raise ParameterError(f'marginal: expected one of the latent sites {sorted(latents)}, got "{site}".')

    @there
    def mode(self) -> dict[str, Tensor]:
        """The jointly most probable values of all latents (Viterbi), each of the shape of its plates (+ event)."""
        with torch.no_grad():
            best = {n: best_paths(h, self._natural(h)) for n, h in self.engine.hmms.items()}
        scores = {n: Named(score, self.engine.hmms[n].names) for n, (score, _) in best.items()}
        found = self._trace(lambda product: product.argmax(0), scores, largest=True)
        return self._values(found) | {n: self._path(h, best[n][1], found) for n, h in self.engine.hmms.items()}

    @there
    def sample(self, n: int = 1, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw `n` times from the joint posterior: shape `(n,)` + plates (+ event); no global generator moves."""
        generator = torch.Generator().manual_seed(seed)

        def pick(product: Tensor) -> Tensor:
            top = product.amax(0, keepdim=True)
            gumbel = -(-torch.rand(product.shape, generator=generator, dtype=product.dtype).log()).log()
            return (torch.where(top == -torch.inf, 0.0, product - top) + gumbel).argmax(0)

        with torch.no_grad():
            paths = {name: draw_paths(h, self._natural(h), n, generator) for name, h in self.engine.hmms.items()}
        draws = []
        for k in range(n):
            found = self._trace(pick, {}, largest=False)
            drawn = {name: self._path(h, paths[name][k], found) for name, h in self.engine.hmms.items()}
            draws.append(self._values(found) | drawn)
        return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}

    # ---- states that are summed out inside a site ----

    def _natural(self, hmm: Hmm) -> tuple[Tensor, ...]:
        return hmm.natural(self._bound, self.engine.replays(self.engine.moved(self.params)))

    def _state_law(self, hmm: Hmm) -> Tensor:
        """Posterior of the states of a DiscreteHMM, averaged over the latents around it: plates + `(T, S)`."""
        program = self.engine.program
        with torch.no_grad():
            law, names = state_law(hmm, self._natural(hmm)), hmm.names
            latents = [n for n in names if n in program.latents]
            if latents:
                schedule, inputs, _ = self._schedule()
                share = schedule.contract(inputs)[1][list(self.engine.factors).index(hmm.name)]
                assert share is not None
                axes = tuple(names.index(n) for n in latents)
                law = (law * (share / share.sum(axes, keepdim=True))[..., None, None]).sum(axes)
                names = tuple(n for n in names if n not in latents)
        return self._in_plates(hmm, law, names, 2)

    def _path(self, hmm: Hmm, paths: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        """The path of every row, given the states of the latents around the chain."""
        names = hmm.names
        for latent in [n for n in names if n in self.engine.program.latents]:
            rest = tuple(n for n in names if n != latent)
            index = align(chosen[latent], self.engine.program.latents[latent].plates, rest)
            moved = align(paths, names, (latent, *rest), 1)
            index = index.expand(moved.shape[1:-1])[None, ..., None].expand(1, *moved.shape[1:])
            paths, names = moved.gather(0, index).squeeze(0), rest
        return self._in_plates(hmm, paths, names, 1)

    def _in_plates(self, hmm: Hmm, found: Tensor, names: tuple[str, ...], trailing: int) -> Tensor:
        """Give `found` one dimension for each plate of the site."""
        plates = tuple(p for p in self.engine.sizes if p in self.engine.factors[hmm.name].plates)
        found = align(found, names, plates, trailing)
        shape = [self.engine.program.plates[p] for p in plates]
        return found.expand((*shape, *found.shape[found.dim() - trailing :])).contiguous()

    def _schedule(
        self, extra: tuple[str, ...] = (), *, chains: bool = False
    ) -> tuple[Schedule, list[Tensor], dict[str, int]]:
        """The contraction of all rows at once, with a zero factor over each of `extra` and its plates."""
        engine, program = self.engine, self.engine.program
        factors = [replace(f, scale=_positive(f.scale), alive=None, pool=None) for f in engine.factors.values()]
        inputs = [self._factors[f.name].tensor for f in factors]
        sizes = engine.sizes
        owners = {name: frozenset(latent.plates) for name, latent in program.latents.items()}
        for name in extra:
            names = tuple(n for n in sizes if n == name or n in program.latents[name].plates and sizes[n] > 1)
            names = tuple(n for n in names if sizes[n] > 1)
            scale = next((f.scale for f in factors if f.plates == owners[name]), None)
            factors.append(Factor(f"[{name}]", names, owners[name], scale))
            inputs.append(torch.zeros([sizes[n] for n in names], dtype=torch.float64))
        return (
            plan_contraction(factors, owners, sizes, chains=chains),
            inputs,
            {n: len(engine.factors) + i for i, n in enumerate(extra)},
        )

    @cached_property
    def _every_marginal(self) -> dict[str, Tensor]:
        return self._marginals(list(self.engine.program.latents))

    def _marginals(self, sites: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            schedule, inputs, places = self._schedule(tuple(sites), chains=True)
            _, shares = schedule.contract(inputs)
        program, found = self.engine.program, {}
        for name in sites:
            plates = program.latents[name].plates
            found_share = shares[places[name]]
            assert found_share is not None
            share = align(found_share, schedule.names[places[name]], (*plates, name))
            share = share / share.sum(-1, keepdim=True)  # a row's weight multiplies its share
            found[name] = share.expand(*(program.plates[p] for p in plates), program.latents[name].size).contiguous()
        return found

    def _trace(self, pick: Pick, instead: Mapping[str, Named], *, largest: bool) -> dict[str, Tensor]:
        """Choose states backwards through the elimination, each latent given those eliminated after it: indices.

        Args:
            pick: chooses along the first dimension.
            instead: factors that take the place of others: the best path of a chain in place of its sum.
            largest: whether latents are maximised out, not summed.
        """
        program = self.engine.program
        with torch.no_grad():
            # A zero factor over every latent makes each elimination carry all plates of its latent.
            schedule, values, _ = self._schedule(tuple(program.latents))
            for i, name in enumerate(self.engine.factors):
                if name in instead:
                    values[i] = align(instead[name].tensor, instead[name].names, self._factors[name].names)
            products: list[Tensor | None] = []
            for step in schedule.steps:
                if isinstance(step, Sum):
                    parts = (align(values[i], schedule.names[i], step.names) for i in step.inputs)
                    product = sum(parts, torch.zeros(()))
                    products.append(product)
                    axes = tuple(range(len(step.over)))
                    reduce = product.amax if largest else product.logsumexp
                    values.append(reduce(axes) if axes else product)
                else:
                    assert isinstance(step, Product)  # no chains: they were not asked for
                    products.append(None)
                    values.append(schedule._product(values[step.input], step))
            chosen: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
            for step, made in zip(reversed(schedule.steps), reversed(products), strict=True):
                if isinstance(step, Sum) and step.over:
                    assert made is not None
                    left, names = made, step.names
                    for other in [n for n in step.names[1:] if n in program.latents]:
                        left, names = _given(left, names, other, *chosen[other])
                    chosen[step.over[0]] = pick(left), names[1:]
        found = {}
        for name, latent in program.latents.items():
            shape = tuple(program.plates[p] for p in latent.plates)
            if name in chosen:
                index = align(chosen[name][0], chosen[name][1], latent.plates).expand(shape)
            else:
                index = torch.zeros(shape, dtype=torch.long)
            found[name] = index
        return found

    def _values(self, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of all latents at the chosen indices."""
        return {name: self.engine.program.latents[name].support[index] for name, index in chosen.items()}

    def __str__(self) -> str:
        """One line: the latents and the log evidence."""
        latents = ", ".join(f"{n} ({latent.size} states)" for n, latent in self.engine.program.latents.items())
        return f"Posterior of {latents or 'no latent'}; log evidence {self.log_evidence:.6f}"


def _positive(scale: Named | None) -> Named | None:
    """A row of weight zero still has a posterior: give it next to none."""
    return None if scale is None else Named(scale.tensor.clamp(min=ABSENT), scale.names)


def _given(
    product: Tensor, names: tuple[str, ...], latent: str, index: Tensor, plates: tuple[str, ...]
) -> tuple[Tensor, tuple[str, ...]]:
    """Select the chosen state of one latent, row by row."""
    axis = names.index(latent)
    rest = names[:axis] + names[axis + 1 :]
    index = align(index, plates, [n if n in plates else n for n in rest]).unsqueeze(axis)
    shape = list(product.shape)
    shape[axis] = 1
    picked = product.gather(axis, index.expand(shape)).squeeze(axis)
    return picked, rest


def posterior(engine: Engine, params: Mapping[str, Tensor]) -> Posterior:
    """The posterior of `engine`'s program at `params`."""
    engine = suited(engine.full, params)
    values = {name: value.detach().double() for name, value in params.items()}
    with torch.no_grad():
        evidence = float(engine.expect(values).log_evidence)
    return Posterior(dict(params), evidence, engine)
