"""The E-step and the posterior are those of brute force, in both engines, and those of Pyro's own contraction."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from oracles.brute import brute
from oracles.engines import Built, distance, laid_out, lay_out
from oracles.oracle import Joint, brute_force
from oracles.replay import Params, at, moved_params, starting_params, visit
from oracles.steps import expect, q, scaled
from oracles.tap import tapped_weights
from oracles.tolerances import IDENTITY
from oracles.varied import VARIED
from programs.registry import HIDDEN, NAMES, build
from programs.zoo import ZOO
from pyro import poutine
from torch import Tensor

from em_pyro.e_step.build import build as build_engine
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.expectation import Expectation
from em_pyro.errors import ParameterError
from em_pyro.posterior.posterior import Posterior, posterior

ENGINES = ("compiled", "replayed")
DRAWS = 2000

TOLERANCE = {"mixed_precision": 1e-6}
"""Where the program itself rounds to float32 (six digits), so do brute force and the replayed engine."""

REPEATED = [name for name in NAMES if build(name).repeated is not None]
SUMMED = [name for name in NAMES if name != "nested_counts"]  # brute force has no nested weights; see REPEATED
ROW_SCALES = ("plsa", "transcripts", "tomography")  # zoo models that Pyro's own contraction refuses
ALONE = ("no_latent", *(name for name in HIDDEN if name not in ("hmm_mixture", "hmm_under_a_global_latent")))
"""Programs with nothing to enumerate."""

ENUMERATED = [name for name in (*(name for name in NAMES if build(name).trace_enum), *ZOO) if name not in ROW_SCALES]

LABELLED = ("partly_labelled", "partly_labelled_chain")  # labels are not what brute force gives: test_labels.py

SCALED = (
    "row_weights",
    "row_counts",
    "sequence_counts",
    "person_counts",
    "constant_scale",
    "scaled_data_plain_prior",
)
"""Programs whose evidence is a weighted sum: no plain joint law of all latents."""


@cache
def expected(name: str, engine: str) -> Expectation:
    """The E-step `here`."""
    built = laid_out(name)
    return expect(engine_of(built, engine), built.here)


def engine_of(built: Built, engine: str) -> Engine:
    """One of the two engines."""
    return built.compiled if engine == "compiled" else built.replayed


def law_of(name: str) -> Posterior:
    """The posterior `here`."""
    built = laid_out(name)
    return posterior(built.compiled, built.here)


def gain(engine: Engine, built: Built, found: Expectation) -> float:
    """`Q(there) - Q(here)`: constants that no parameter enters cancel."""
    return float((q(engine, built.there, found) - q(engine, built.here, found)).detach())


@cache
def gain_by_sums(name: str, *, repeated: bool = False) -> float:
    """The same, by summing over all assignments."""
    built, joint = laid_out(name), repeated_rows(name) if repeated else brute(name)
    there, here = joint.expected_log_factors(built.there), joint.expected_log_factors(None)
    return sum(there[site] - here[site] for site in there)


@cache
def repeated_rows(name: str) -> Joint:
    """Every joint assignment of a program whose rows are repeated instead of weighted."""
    case = build(name)
    return brute_force(case.model, case.repeated or (), params=laid_out(name).here)


def in_both(names: list[str]) -> list[tuple[str, str]]:
    """Return programs, each in the compiled engine, and those of `VARIED` in the replayed one as well.

    That both have one evidence and one gradient of `Q` is a law of all programs.
    """
    return [(name, engine) for name in names for engine in ENGINES if engine == "compiled" or name in VARIED]


@pytest.mark.parametrize(("name", "engine"), in_both(SUMMED))
def test_evidence_and_expected_factors_are_sums_over_all_assignments(name: str, engine: str) -> None:
    """The objective and the change of `Q` are those of brute force; with one factor 0.1 % off they are not."""
    built, joint, found = laid_out(name), brute(name), expected(name, engine)
    tolerance = TOLERANCE.get(name, IDENTITY)
    assert distance(float(found.objective), joint.log_evidence) < tolerance
    if name in HIDDEN and engine == "compiled":
        return
    by_sums = gain_by_sums(name)
    assert distance(gain(engine_of(built, engine), built, found), by_sums) < tolerance
    more = scaled(found, 1.001)
    if found.sums or found.weights:
        assert distance(gain(engine_of(built, engine), built, more), by_sums) > tolerance


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", REPEATED)
def test_integer_weights_are_rows_repeated(name: str, engine: str) -> None:
    """Evidence and change of `Q` are those of the repeated rows by brute force, nested weights included."""
    built, found = laid_out(name), expected(name, engine)
    assert distance(float(found.objective), repeated_rows(name).log_evidence) < IDENTITY
    if name not in HIDDEN or engine == "replayed":
        assert distance(gain(engine_of(built, engine), built, found), gain_by_sums(name, repeated=True)) < IDENTITY


@pytest.mark.parametrize("name", [name for name in SUMMED if name not in LABELLED])
def test_marginals_and_mode(name: str) -> None:
    """Marginals are those of brute force, and the mode is its most probable line; reversed states are neither."""
    joint, law = brute(name), law_of(name)
    tolerance = TOLERANCE.get(name, IDENTITY)
    for site, want in joint.marginals.items():
        got = law.marginal(site)
        assert distance(got.reshape(want.shape), want) < tolerance
        if distance(want, want.flip(-1)) > 0:
            assert distance(got.reshape(want.shape).flip(-1), want) > tolerance
    mode = law.mode()
    for site, value in joint.mode().items():
        assert torch.equal(mode[site].double().reshape(-1), value.double().reshape(-1)), site


def lines_of(joint: Joint, draws: dict[str, Tensor]) -> Tensor:
    """The line of each draw in the table of all assignments."""
    columns = []
    for latent in joint.latents:
        n = len(next(iter(draws.values())))
        value = draws[latent.name].double().reshape((n, latent.shape.numel(), -1))
        support = latent.support.double().reshape(len(latent.support), -1)
        columns.append((value.unsqueeze(2) == support).all(-1).double().argmax(-1))
    digits = torch.cat(columns, 1)
    sizes = torch.tensor([len(latent.support) for latent in joint.latents for _ in range(latent.shape.numel())])
    strides = sizes.flip(0).cumprod(0).flip(0) // sizes
    lines = (digits * strides).sum(1)
    assert torch.equal(joint.digits[lines], digits)
    return lines


@pytest.mark.parametrize("name", [name for name in SUMMED if name not in (*SCALED, *ALONE, *LABELLED)])
def test_draws_come_from_the_joint_posterior(name: str) -> None:
    """Means over draws are within five standard errors of the exact ones: of every state, and of the log joint."""
    joint, law = brute(name), law_of(name)
    state = torch.get_rng_state()
    lines = lines_of(joint, law.sample(DRAWS, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    log_joint = torch.stack([table.reshape(len(table), -1).sum(1) for table in joint.tables.values()]).sum(0)
    probability = log_joint.softmax(0)
    bounded = log_joint.clamp(min=float(log_joint.max()) - 50)
    features = torch.cat([joint.digits.double(), bounded.unsqueeze(-1)], 1)
    mean = probability @ features
    error = (probability @ (features - mean) ** 2 / DRAWS).sqrt()
    assert ((features[lines].mean(0) - mean).abs() <= 5 * error + 1e-9).all()
    reversed_lines = len(joint.digits) - 1 - lines
    assert not ((features[reversed_lines].mean(0) - mean).abs() <= 5 * error + 1e-9).all()


def evidence_by(joint: Joint, plate: str) -> Tensor | None:
    """Row by row, by summing over the assignments of the row alone; None if another latent joins the rows."""
    nodes = visit(joint.model, *joint.args)
    dims = {
        name: frame.dim
        for name, node in nodes.items()
        if node["type"] == "sample"
        for frame in node["cond_indep_stack"]
        if frame.name == plate
    }
    size = next(f.size for name in dims for f in nodes[name]["cond_indep_stack"] if f.name == plate)
    entries = []
    for latent in joint.latents:
        rows = torch.full((), -1)
        if latent.name in dims:
            rows = torch.arange(size).reshape((size,) + (1,) * (-dims[latent.name] - 1))
        entries += rows.expand(latent.shape).reshape(-1).tolist()
    rows = torch.zeros(len(joint.digits), size)
    for name, table in joint.tables.items():
        if name in dims:
            padded = table.reshape(len(table), *(1,) * (-dims[name] - table.dim() + 1), *table.shape[1:])
            there = padded.movedim(dims[name], 1).reshape(len(table), padded.shape[dims[name]], -1).sum(-1)
            rows = rows + there.expand(-1, size)
    weights = joint.scale.reshape(-1) if joint.scale.numel() else torch.ones(1)
    found = []
    for n in range(size):
        own = torch.tensor([entry == n for entry in entries], dtype=torch.bool)
        best: dict[tuple[int, ...], float] = {}
        for key, value in zip(map(tuple, joint.digits[:, own].tolist()), rows[:, n].tolist(), strict=True):
            if abs(best.setdefault(key, value) - value) > 1e-9:
                return None
        found.append(torch.tensor(list(best.values())).logsumexp(0) * weights[n if len(weights) == size else 0])
    return torch.stack(found)


def plates_of(name: str) -> list[str]:
    """Plates that hold data."""
    case = build(name)
    starting_params(case)
    nodes = [n for n in visit(case.model, *case.args).values() if n["type"] == "sample" and n["is_observed"]]
    frames = [f for n in nodes if type(n["fn"]).__name__ != "_Subsample" for f in n["cond_indep_stack"]]
    return sorted({f.name for f in frames if f.vectorized})


@pytest.mark.parametrize("name", SUMMED)
def test_evidence_by_row(name: str) -> None:
    """Each row's evidence is the sum over its own latents; rows that another latent joins have none of their own."""
    joint, law = brute(name), law_of(name)
    for plate in plates_of(name):
        want = evidence_by(joint, plate)
        if want is None:
            with pytest.raises(ParameterError, match="joins them"):
                law.log_evidence_by(plate)
        else:
            assert distance(law.log_evidence_by(plate), want) < TOLERANCE.get(name, IDENTITY)
    with pytest.raises(ParameterError, match="expected one of the plates"):
        law.log_evidence_by("no such plate")


@cache
def tapped(name: str) -> tuple[float, float, bool]:
    """Evidence and change of `Q` by the second engine, and whether it counts what nothing observed depends on."""
    built = laid_out(name)
    visit(built.model, *built.args)  # a module's weights enter the store
    if not built.program.latents:
        here, there = (log_prob(built, params) for params in (built.here, built.there))
        return here, there - here, False
    before = tapped_weights(built.model, built.args, params=built.here)
    there = tapped_weights(built.model, built.args, params=built.there)
    new, old = before.expected_log_factors(there), before.expected_log_factors(before)
    counted = any(factor.alive is not None for factor in built.compiled.factors.values())
    return before.log_evidence, sum(new[site] - old[site] for site in new), counted


def log_prob(built: Built, params: Params) -> float:
    """Log joint of a program without latents, by one run."""
    with at(params, built.model, built.args) as fixed, torch.no_grad():
        return float(poutine.trace(fixed).get_trace(*built.args).log_prob_sum())


@pytest.mark.parametrize(("name", "engine"), in_both(ENUMERATED))
def test_weights_are_the_gradients_of_pyros_evidence(name: str, engine: str) -> None:
    """`TraceEnum_ELBO`, differentiated by every log factor, gives the same evidence and the same change of `Q`."""
    built, found = laid_out(name), expected(name, engine)
    evidence, change, barren = tapped(name)
    tolerance = TOLERANCE.get(name, IDENTITY)
    assert distance(float(found.objective), evidence) < tolerance
    summed_out = name.startswith("discrete-hmm") and engine == "compiled"  # its `Q` is that of the states as well
    if not barren and not summed_out:  # what nothing observed depends on is left out by the engine, not by the tap
        assert distance(gain(engine_of(built, engine), built, found), change) < tolerance


def test_swapped_statistics_are_noticed() -> None:
    """Exchange two components' statistics: the change of `Q` is another one."""
    built, found = laid_out("gaussian_mixture"), expected("gaussian_mixture", "compiled")
    swapped = replace(found, sums={site: part.changed(lambda part: part.flip(1)) for site, part in found.sums.items()})
    assert distance(gain(built.compiled, built, swapped), gain_by_sums("gaussian_mixture")) > IDENTITY


def test_a_dropped_factor_is_noticed() -> None:
    """Leave one observed site out of the contraction: evidence and change of `Q` are others."""
    built = laid_out("positive_families")
    with torch.no_grad():
        sites = {n: s for n, s in built.program.run(built.here).items() if n != "tries"}
    less = build_engine(built.program, built.recognition, sites, {}, {})
    found = expect(less, built.here)
    assert distance(float(found.objective), brute("positive_families").log_evidence) > IDENTITY
    assert distance(gain(less, built, found), gain_by_sums("positive_families")) > IDENTITY


def test_a_posterior_follows_its_parameters() -> None:
    """The posterior elsewhere is that of brute force elsewhere."""
    case = build("gaussian_mixture")
    starting_params(case)
    there = moved_params(case, seed=3)
    built = lay_out(case.model, case.args, there)
    law, joint = posterior(built.compiled, there), brute_force(case.model, case.args, params=there)
    assert distance(law.log_evidence, joint.log_evidence) < IDENTITY
    assert distance(law.marginal("z"), joint.marginals["z"]) < IDENTITY
    assert distance(law.marginal("z"), brute("gaussian_mixture").marginals["z"]) > IDENTITY
