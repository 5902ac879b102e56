"""`dist.DiscreteHMM` as one site: Baum-Welch in closed form, equal to the loop with an unobserved first state.

The law of its states is that of all paths, written out.
"""

from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import laid_out
from oracles.oracle import brute_force
from oracles.replay import starting_params
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from programs.registry import HIDDEN, build
from pyro import poutine
from test_chain import needs_numba
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError
from em_pyro.e_step.forward_backward.compiled import recursion
from em_pyro.posterior.posterior import Posterior, posterior


def parameters() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Initial law, transitions and emissions of two states."""
    initial = pyro.param("initial", tensor([0.7, 0.3]), constraint=constraints.simplex)
    transition = pyro.param("transition", tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.5, 2.5]))
    scale = pyro.param("scale", tensor([1.0, 1.4]), constraint=constraints.positive)
    return initial, transition, loc, scale


def site(y: Tensor, seen: Tensor) -> None:
    """One site a batch of sequences."""
    initial, transition, loc, scale = parameters()
    emission = dist.Normal(loc, scale).mask(seen[..., None])
    with pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(initial.log(), transition.log(), emission, duration=y.shape[1])
        pyro.sample("y", hmm, obs=y)


def loop(y: Tensor, seen: Tensor) -> None:
    """The same, one latent a step; the first of them has no observation."""
    initial, transition, loc, scale = parameters()
    with pyro.plate("sequence", len(y)):
        x = pyro.sample("x_0", dist.Categorical(initial))
        for t in pyro.markov(range(y.shape[1])):
            x = pyro.sample(f"x_{t + 1}", dist.Categorical(transition[x]))
            pyro.sample(f"y_{t}", dist.Normal(loc[x], scale[x]).mask(seen[:, t]), obs=y[:, t])


def data(steps: int) -> tuple[Tensor, Tensor]:
    """Three sequences, the last two shorter."""
    y = torch.randn((3, steps), generator=torch.Generator().manual_seed(3)) + 2 * (torch.arange(steps) // 3 % 2)
    return y, torch.arange(steps) < tensor([steps, steps - 2, steps // 2])[:, None]


def late(y: Tensor, seen: Tensor) -> None:
    """The loop in the other convention: the first state is observed, which is another model."""
    initial, transition, loc, scale = parameters()
    with pyro.plate("sequence", len(y)):
        x = None
        for t in pyro.markov(range(y.shape[1])):
            x = pyro.sample(f"x_{t + 1}", dist.Categorical(initial if x is None else transition[x]))
            pyro.sample(f"y_{t}", dist.Normal(loc[x], scale[x]).mask(seen[:, t]), obs=y[:, t])


@pytest.mark.laws
@pytest.mark.parametrize("steps", [4, 8])
def test_site_is_the_loop_step_by_step(steps: int) -> None:
    """Below and above the length from which the loop's latents are run as a chain."""
    paths = []
    for model in (site, loop, late):
        pyro.clear_param_store()
        em = EM(model, tol=0, max_steps=4)
        plan = em.plan(*data(steps))
        assert all(plan[name].closed_form for name in ("initial", "transition", "loc", "scale"))
        paths.append(em.fit(*data(steps)))
    a, b, other = paths
    assert abs(a.path[0] - other.path[0]) > 1e-3
    assert max(abs(p - q) / (1 + abs(q)) for p, q in zip(a.path, b.path, strict=True)) < IDENTITY
    for name, value in a.params.items():
        assert float((value - b.params[name]).abs().max()) < IDENTITY * (1 + float(value.abs().max()))
    smooth, mode = a.posterior.marginal("y"), a.posterior.mode()["y"]
    for t in range(steps):
        seen = data(steps)[1][:, t]
        assert float((smooth[:, t] - b.posterior.marginal(f"x_{t + 1}"))[seen].abs().max()) < 1e-9
        assert torch.equal(mode[:, t][seen], b.posterior.mode()[f"x_{t + 1}"][seen])


def test_long_chains_are_cut_into_blocks() -> None:
    """Two thousand steps: evidence and statistics as by Pyro's own parallel scan."""
    y = torch.randn((1, 2000), generator=torch.Generator().manual_seed(4))
    seen = torch.ones_like(y, dtype=torch.bool)
    fit = EM(site, tol=0, max_steps=2).fit(y, seen)
    node = pyro.poutine.trace(fit.model).get_trace(y, seen).nodes["y"]
    assert abs(float(node["fn"].log_prob(y).sum()) - fit.log_likelihood) < 1e-9 * abs(fit.log_likelihood)


# ---- the law of the states, by all paths -----------------------------------------------------------------------------


def paths_of(hmm: dist.DiscreteHMM, y: Tensor) -> tuple[Tensor, Tensor]:
    """All paths `(P, T)`, and their log joint with the data, `(P,) + batch`, best over the unobserved first state last.

    Returns the paths and the log joints by first state, `(S, P) + batch`.
    """
    seen = hmm.observation_dist.log_prob(y.unsqueeze(-1 - hmm.observation_dist.event_dim))
    steps, states = y.shape[-1], hmm.initial_logits.shape[-1]
    moves = hmm.transition_logits
    moves = moves if moves.dim() > 2 else moves.unsqueeze(-3)
    moves = moves.expand((*moves.shape[:-3], steps, states, states))
    paths = torch.tensor(list(product(range(states), repeat=steps)))
    tables = []
    for start in range(states):
        total = []
        for path in paths.tolist():
            log = hmm.initial_logits[..., start]
            for t, (before, now) in enumerate(zip([start, *path], path, strict=False)):
                log = log + moves[..., t, before, now] + seen[..., t, now]
            total.append(log)
        tables.append(torch.stack(torch.broadcast_tensors(*total)))
    return paths, torch.stack(tables)


def site_of(name: str) -> tuple[dist.DiscreteHMM, Tensor, Posterior, Tensor]:
    """The distribution at its start, with its latents enumerated; the data; its law; weights of the outer states."""
    built = laid_out(name)
    sites = built.program.run(built.here)
    fn = sites["y"].fn
    while not isinstance(fn, dist.DiscreteHMM):
        fn = fn.base_dist
    law = posterior(built.compiled, built.here)
    case = build(name)
    outer = torch.ones(1)
    if "z" in built.program.latents:
        outer = brute_force(case.model, case.args, params=starting_params(case)).marginals["z"]
    return fn, sites["y"].value, law, outer


@pytest.mark.laws
@pytest.mark.parametrize("name", [n for n in HIDDEN if n != "hmm_of_many_symbols"])
def test_law_of_the_states(name: str) -> None:
    """Marginals, the best path and draws are those of all paths; with time reversed the marginals are not."""
    hmm, y, law, outer = site_of(name)
    paths, logs = paths_of(hmm, y)
    logs = logs.expand((*logs.shape[:2], *torch.broadcast_shapes(logs.shape[2:], y.shape[:-1])))
    logs = logs.reshape((*logs.shape[:2], -1, len(y)))  # (S, P, outer, N)
    states = hmm.initial_logits.shape[-1]
    weight = logs.logsumexp(0).softmax(0)  # (P, outer, N)
    outer = outer.unsqueeze(0) if outer.dim() == 1 else outer  # (1 or N, outer)
    weight = (weight * outer.mT).sum(1)
    truth = torch.stack([(paths == k).double().mT @ weight for k in range(states)], -1).movedim(1, 0)  # (N, T, S)
    got = law.marginal("y")
    assert got.shape == (*y.shape, states)
    assert float((got - truth).abs().max()) < IDENTITY
    assert float((got.flip(-2) - truth).abs().max()) > 1e-3
    draws = law.sample(2000, seed=3)["y"]
    assert draws.shape == (2000, *y.shape)
    error = (truth * (1 - truth) / 2000).sqrt()
    means = torch.stack([(draws == k).double().mean(0) for k in range(states)], -1)
    assert bool(((means - truth).abs() <= 5 * error + 1e-9).all())
    together = (draws[..., 1:] * draws[..., :-1]).double().mean(0)  # both neighbours in the last state
    both = ((paths[:, 1:] * paths[:, :-1]).double().mT @ weight).mT
    assert bool(((together - both).abs() <= 5 * (both * (1 - both) / 2000).sqrt() + 1e-9).all())
    if "z" not in law.engine.program.latents:  # else the best path goes with the best outer state: see below
        best = paths[logs.amax(0)[:, 0].argmax(0)]
        assert torch.equal(law.mode()["y"], best)


def test_the_mode_is_joint_with_the_latents_around_a_chain() -> None:
    """The mixture's component and path are the best together, not the best component and then its path."""
    hmm, y, law, _ = site_of("hmm_mixture")
    paths, logs = paths_of(hmm, y)
    weights = laid_out("hmm_mixture").here["weights"].log()
    best = (logs.amax(0) + weights[:, None]).amax(1)  # (P, N) if `amax` is over the component
    assert torch.equal(law.mode()["y"], paths[best.argmax(0)])
    assert torch.equal(law.mode()["z"], (logs.amax(0) + weights[:, None]).amax(0).argmax(0))


def test_what_the_plan_says_of_a_chain() -> None:
    """Which recursion runs, and why."""
    y, seen = data(12)
    assert any("chain y: a scan in torch, because the chain is short" in note for note in EM(site).plan(y, seen).notes)
    pyro.clear_param_store()
    assert any("scan in torch" in note and "short" in note for note in EM(loop).plan(y, seen).notes)


@needs_numba
@pytest.mark.parametrize("model", [site, loop])
def test_compiled_and_not(model: object) -> None:
    """The two recursions give the same fits, and the plan says which it was."""
    fits = []
    for method in ("numba", "torch"):
        pyro.clear_param_store()
        with recursion(method):
            fits.append(EM(model, tol=0, max_steps=5).fit(*data(40)))  # type: ignore[arg-type]
        assert any(("compiled" if method == "numba" else "torch") in note for note in fits[-1].plan.notes)
    a, b = fits
    assert max(abs(p - q) / (1 + abs(q)) for p, q in zip(a.path, b.path, strict=True)) < IDENTITY
    for name, value in a.params.items():
        assert float((value - b.params[name]).abs().max()) < IDENTITY * (1 + float(value.abs().max()))


IN_A_BATCH = (
    "hmm_ragged hmm_groups hmm_of_many_symbols hmm_autoregressive hmm_seasons hmm_mixture hmm_counts "
    "loop_of_eight loop_of_many_symbols loop_of_two_seasons loop_ragged_and_weighted loop_seen_at_times"
).split()


@pytest.mark.parametrize("method", ["torch", pytest.param("numba", marks=needs_numba)])
@pytest.mark.parametrize("name", IN_A_BATCH)
def test_starts_in_a_batch(name: str, method: str) -> None:
    """`expect` with a dimension of starts is one start after the other."""
    with recursion(method):
        engine = laid_out.__wrapped__(name).compiled
    built = laid_out(name)
    both = {n: torch.stack([value, built.there[n]]) for n, value in built.here.items()}
    found = engine.expect(engine.bind(both))
    for k, params in enumerate((built.here, built.there)):
        alone = expect(engine, params)
        assert abs(float(found.log_evidence[k] - alone.log_evidence)) < IDENTITY * (1 + abs(float(alone.log_evidence)))
        for key, sums in alone.sums.items():
            for several, one in zip(found.sums[key].parts, sums.parts, strict=True):
                assert float((several[k] - one[0]).abs().max()) < IDENTITY * 10


# ---- hard data -------------------------------------------------------------------------------------------------------


def test_an_outlier_of_three_hundred_deviations() -> None:
    """One wild value at a step: the fit runs, and its evidence is the model's own."""
    y, seen = data(12)
    y[0, 5] = 300.0
    fit = EM(site, tol=0, max_steps=3).fit(y, seen)
    node = poutine.trace(fit.model).get_trace(y, seen).nodes["y"]
    assert abs(float(node["fn"].log_prob(y).sum()) - fit.log_likelihood) < 1e-9 * abs(fit.log_likelihood)


def left_to_right(y: Tensor) -> None:
    """Go from the first state to the second once, and never back; emissions are narrow and far apart."""
    stay = pyro.param("stay", tensor(0.9), constraint=constraints.unit_interval)
    loc = pyro.param("loc", tensor([0.0, 60.0]))
    row = torch.stack([stay, 1 - stay])
    transition = torch.stack([row, tensor([0.0, 1.0])])
    with pyro.plate("sequence", len(y)):
        pyro.sample(
            "y",
            dist.DiscreteHMM(tensor([0.0, -torch.inf]), transition.log(), dist.Normal(loc, 0.5), duration=20),
            obs=y,
        )


def test_emissions_thousands_of_nats_apart_between_structural_zeros() -> None:
    """A value 7,000 nats from where the zeros force it: log space takes over; Pyro's own scan gives -inf."""
    y = torch.where(torch.arange(20) < 12, 0.0, 60.0).repeat(2, 1)
    y += 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    y[0, 3] = 60.0
    fit = EM(left_to_right, tol=0, max_steps=1).fit(y)
    law = EM(left_to_right).posterior(y)
    assert float((law.marginal("y").sum(-1) - 1).abs().max()) < IDENTITY
    assert (law.mode()["y"].diff(dim=-1) >= 0).all()
    assert torch.equal(law.marginal("y").argmax(-1), law.mode()["y"])
    stay, loc = fit.params["stay"], fit.params["loc"]
    logs = dist.Normal(loc, 0.5).log_prob(y.unsqueeze(-1))  # (N, T, S)
    moves = stay.log() * torch.arange(20) + (1 - stay).log()
    truth = torch.stack(  # by the number of steps in the first state; the unobserved state is one of them
        [logs[:, :k, 0].sum(1) + logs[:, k:, 1].sum(1) + (moves[k] if k < 20 else 20 * stay.log()) for k in range(21)]
    )
    assert abs(float(truth.logsumexp(0).sum()) - fit.log_likelihood) < 1e-9 * abs(fit.log_likelihood)


def test_a_sequence_that_no_path_explains_is_named() -> None:
    """Structural zeros in the emissions: the second row is impossible, and the error says so."""

    def symbols(y: Tensor) -> None:
        probs = pyro.param("probs", tensor([[0.5, 0.5, 0.0], [0.3, 0.7, 0.0]]), constraint=constraints.simplex)
        with pyro.plate("sequence", len(y)):
            transition = tensor([[0.8, 0.2], [0.3, 0.7]]).log()
            emission = dist.Categorical(logits=probs.log())
            pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), transition, emission, duration=3), obs=y)

    with pytest.raises(DataError, match="index 1"):
        EM(symbols).fit(tensor([[0, 1, 1], [0, 2, 1]]))


def test_transitions_by_covariates_are_regressions() -> None:
    """Their logits are affine in the parameters, which Newton's method solves."""
    plan = laid_out("hmm_covariate").plan
    assert {plan[name].how for name in ("slope", "intercept")} == {"Newton"}
