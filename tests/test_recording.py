"""What is recorded of a model is the model: values, gradients, and how often the model itself is run."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import hidden_markov
from engines import EVERYTHING, Built, distance, laid_out
from tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.prepare
import em_pyro.recording.fold
import em_pyro.recording.record
from em_pyro import EM, Fit
from em_pyro.prepare import prepare
from em_pyro.recording.fold import Template, fold
from em_pyro.recording.graph import Slot
from em_pyro.recording.record import Untraceable, record
from em_pyro.recording.recorded import Recording, close, other_values, played, recorded
from em_pyro.recording.trim import constants

EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}

REFUSED = {
    "ModuleWithPrior": "reads a number",  # its prior, built outside the model, checks its values
    # Pyro's log-sum-exp, with which a DiscreteHMM is summed out, has a backward pass of its own.
    **{name: "gradient" for name in EVERYTHING if name.startswith(("discrete-hmm-", "hmm_"))},
}
"""Programs of which not every site can be recorded, and why."""


def sites_of(built: Built) -> tuple[list[str], list[str]]:
    """All sites of a program, and those among them that are priors."""
    run = built.recognition.runs[0]
    priors = [name for name, site in run.items() if site.role == "prior"]
    return [name for name in run if name not in priors], priors


def whole_recording(built: Built) -> Recording:
    """Every site of a program recorded, whether or not it is recognised."""
    sites, priors = sites_of(built)
    points, runs = built.recognition.points[:2], built.recognition.runs[:2]
    return recorded(built.program, sites, priors, points, runs)


def gradients(built: Built, moved: Callable[[Mapping[str, Tensor]], Any], seed: int) -> dict[str, Tensor]:
    """Gradient of a random combination of all factors and priors at `there`."""
    leaves = {name: value.clone().requires_grad_() for name, value in built.there.items()}
    weights = {name: p.tensor for name, p in built.program.parameters.items() if p.tensor is not None}
    with built.program.given(leaves):
        found = moved(leaves)
        total, generator = found.prior, torch.Generator().manual_seed(seed)
        for _, part in sorted(found.factors.items()):
            v = torch.randn(part.tensor.shape, generator=generator, dtype=torch.float64)
            total = total + torch.where(part.tensor > -1e9, part.tensor, 0.0).mul(v).sum()
        of_leaves = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, retain_graph=True)
        of_weights = torch.autograd.grad(total, list(weights.values()), allow_unused=True) if weights else ()
    pairs = zip(leaves.items(), of_leaves, strict=True)
    sums = {name: torch.zeros_like(leaf) if slope is None else slope for (name, leaf), slope in pairs}
    for name, slope in zip(weights, of_weights, strict=True):
        sums[name] = sums[name] + (0.0 if slope is None else slope)
    return sums


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_recording_is_the_model(name: str) -> None:
    """At values that the recording has not seen, every factor and every gradient are those of a run of the model."""
    built = laid_out(name)
    if name in REFUSED:
        with pytest.raises(Untraceable, match=REFUSED[name]):
            whole_recording(built)
        return
    recording = whole_recording(built)
    for params in (built.here, built.there):
        with torch.no_grad():
            run = built.program.run(params)
        assert other_values(recording, params, run, EXACT) == []
    sites, priors = sites_of(built)
    mine = gradients(built, recording, 4)
    theirs = gradients(built, lambda values: played(built.program, sites, priors, values), 4)
    single = any(p.initial.dtype == torch.float32 for p in built.program.parameters.values())
    size = 1 + max((float(slope.abs().max()) for slope in theirs.values()), default=0.0)
    for key, slope in theirs.items():
        assert distance(mine[key] / size, slope / size) < (SOLVERS if single else 1e-12)
    moved = {key: value + 0.01 for key, value in built.there.items()}
    if built.there:  # the fault: other parameters
        with torch.no_grad():
            assert other_values(recording, moved, built.program.run(built.there), EXACT) != []


@pytest.mark.parametrize("name", ["hurdle-poisson", "hmm-poisson-stationary", "irt-normal-ogive"])
def test_the_second_derivatives_too(name: str) -> None:
    """A recording differentiates twice as the model does."""
    built = laid_out(name)
    engine = built.compiled
    recording = recorded(
        built.program, engine.moving, (), built.recognition.points[:1], built.recognition.runs[:1]
    )
    products = []
    for moved in (recording, lambda values: played(built.program, engine.moving, (), values)):
        leaves = {key: value.clone().requires_grad_() for key, value in built.there.items()}
        total = torch.as_tensor(sum(part.tensor.sin().sum() for part in moved(leaves).factors.values()))
        used = [leaf for leaf in leaves.values()]
        first = torch.autograd.grad(total, used, create_graph=True, allow_unused=True)
        size = torch.as_tensor(sum(slope.cos().sum() for slope in first if slope is not None))
        products.append([g for g in torch.autograd.grad(size, used, allow_unused=True) if g is not None])
    assert products[0]
    assert max(distance(a, b) for a, b in zip(*products, strict=True)) < IDENTITY


# ---- what a graph holds ----------------------------------------------------------------------------------------------


def test_data_are_not_copied() -> None:
    """A graph refers to the user's own tensor."""
    data = torch.arange(5.0)
    graph = record(lambda v: {"out": v["a"] * data[1:] + data[0]}, {"a": tensor(2.0)}, {})
    held = [t for t in constants(graph.steps) if t.untyped_storage().data_ptr() == data.untyped_storage().data_ptr()]
    assert len(held) == len(constants(graph.steps)) == 2
    assert torch.equal(graph({"a": tensor(3.0)})["out"], 3 * data[1:])


def test_only_what_is_needed_is_kept_and_once() -> None:
    """Operations that lead nowhere are dropped, and those that repeat are merged."""

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values["a"].exp().sum()
        return {f"out{k}": values["a"].log() * tensor([1.0, 2.0]) + k for k in range(3)}

    graph = record(f, {"a": tensor([1.0, 3.0])}, {})
    names = sorted(str(step.op) for step in graph.steps)
    assert names == ["aten.add.Tensor"] * 3 + ["aten.log.default", "aten.mul.Tensor"]
    found = graph({"a": tensor([2.0, 5.0])})
    assert all(torch.equal(found[f"out{k}"], tensor([2.0, 5.0]).log() * tensor([1.0, 2.0]) + k) for k in range(3))


def in_place(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fill a matrix entry by entry, look at it through views taken before and after, and add to what was computed."""
    matrix = torch.full((2, 2), 7.0)
    row = matrix[1]
    matrix[0, 0] = values["a"]
    matrix[0, 1] = 1 - values["a"]
    row[0] = values["b"]
    before = matrix * 2
    matrix[1, 1] = 0.5
    total = values["a"] * 3
    total += values["b"]
    return {"before": before, "after": matrix.log().sum(0), "row": row.exp(), "total": total}


def test_writing_in_place_is_repeated() -> None:
    """A matrix that the model fills is filled anew in every evaluation, and differentiated."""
    graph = record(in_place, {"a": tensor(0.3), "b": tensor(2.0)}, {})
    for a, b in ((0.3, 2.0), (0.8, 0.1), (0.3, 2.0)):
        values = {"a": tensor(a, requires_grad=True), "b": tensor(b, requires_grad=True)}
        mine, theirs = graph(values), in_place(values)
        assert {name: distance(mine[name], theirs[name]) for name in theirs} == dict.fromkeys(theirs, 0.0)
        slopes = [
            torch.autograd.grad(sum((part.sin().sum() for part in found.values()), tensor(0.0)), list(values.values()))
            for found in (mine, theirs)
        ]
        assert max(distance(x, y) for x, y in zip(*slopes, strict=True)) < IDENTITY


def test_a_graph_that_forgets_to_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: nothing counts as written to."""
    monkeypatch.setattr(em_pyro.recording.record, "_written", lambda func, args, kwargs: [])
    try:
        graph = record(in_place, {"a": tensor(0.3), "b": tensor(2.0)}, {})
    except Untraceable:
        return
    values = {"a": tensor(0.8), "b": tensor(0.1)}
    mine, theirs = graph(values), in_place(values)
    assert not all(close(mine[name], theirs[name], EXACT) for name in theirs)


def test_the_part_that_some_parameters_enter() -> None:
    """Outputs that they do not enter are left out, and what the others determine is computed once."""

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fixed = values["b"].exp().log().exp()
        return {"both": values["a"] * fixed, "b": fixed + 1}

    graph = record(f, {"a": tensor(1.0), "b": tensor(2.0)}, {})
    assert graph.depends == {"both": {"a", "b"}, "b": {"b"}}
    part = graph.at({"a": tensor(1.0), "b": tensor(0.5)}, ["a"])
    assert set(part.outputs) == {"both"}
    assert len(part) == 1
    assert distance(part({"a": tensor(3.0), "b": tensor(9.0)})["both"], 3 * tensor(0.5).exp()) < IDENTITY


@pytest.mark.parametrize("name", ["hmm-with-covariate", "hmm-categorical", "hmm-multivariate"])
def test_sites_that_are_one_function_are_folded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer operations, the same values; where an operation cannot be mapped over a stack, they stay apart."""
    built = laid_out(name)
    recording = whole_recording(built)
    monkeypatch.setattr(Template, "__call__", lambda self, *values: torch.zeros(()).mm(torch.zeros(())))
    apart = whole_recording(built)
    monkeypatch.undo()
    assert recording.folded
    assert apart.folded == {}
    assert 2 * len(recording.graph) < len(apart.graph)
    both = recording(built.there).factors, apart(built.there).factors
    assert both[0].keys() == both[1].keys()
    assert all(part.names == both[1][site].names for site, part in both[0].items())
    assert max(distance(part.tensor, both[1][site].tensor) for site, part in both[0].items()) < 1e-12


def test_a_chain_takes_as_many_operations_however_long() -> None:
    """Thirty steps are recorded as twenty are: transitions by a probit, which no family recognises."""

    def probit(y: Tensor, u: Tensor) -> None:
        slope, level = pyro.param("slope", tensor([0.3, -0.2])), pyro.param("level", tensor([-0.5, 0.6]))
        loc, state = pyro.param("loc", tensor([0.0, 2.0])), None
        for t in pyro.markov(range(len(y))):
            stay = 0.5 * (1 + torch.erf(level + slope * u[t]))
            rows = torch.stack([stay, 1 - stay], -1)
            law = tensor([0.5, 0.5]) if state is None else rows[state]
            state = pyro.sample(f"state_{t}", dist.Categorical(law))
            pyro.sample(f"y_{t}", dist.Normal(loc[state], 1.0), obs=y[t])

    sizes = []
    for T in (20, 30):
        pyro.clear_param_store()
        y = torch.linspace(-1.0, 3.0, T)
        here = prepare(probit, (y, y.sin()), {}, {}, check=False)
        assert here.engine.recording is not None
        sizes.append(len(here.engine.recording.graph))
    assert sizes[0] == sizes[1] < 40


def test_checks_stay_behind_what_they_check() -> None:
    """A factorisation of each output, whose check has no result: not folded, and still an error where it fails."""
    matrices = [torch.eye(2) * (k + 1.0) for k in range(4)]

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        roots = [torch.linalg.cholesky(matrix * values["a"].exp() - values["b"]) for matrix in matrices]
        return {f"out{k}": root.diagonal().log().sum() for k, root in enumerate(roots)}

    graph, _ = fold(record(f, {"a": tensor(0.1), "b": tensor(0.2)}, {}), [f"out{k}" for k in range(4)])
    values = {"a": tensor(0.7), "b": tensor(0.3)}
    assert all(torch.equal(part, f(values)[name]) for name, part in graph(values).items())
    with pytest.raises(torch.linalg.LinAlgError):
        graph({"a": tensor(0.7), "b": tensor(9.0)})


def test_folding_mistakes_no_site_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: all outputs look alike; the comparison with the model notices."""

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"out{k}": (values["a"] * (k + 1.0)) * tensor([1.0, 2.0 + k]) for k in range(3)}

    graph = record(f, {"a": tensor(2.0)}, {})
    right, members = fold(graph, list(graph.outputs))
    assert members == {}
    monkeypatch.setattr(em_pyro.recording.fold, "_signature", lambda steps, end: "alike")
    wrong, members = fold(graph, list(graph.outputs))
    assert members == {"out0": ("out0", "out1", "out2")}
    found = wrong({"a": tensor(1.0)})["out0"]
    assert not close(found[1], right({"a": tensor(1.0)})["out1"], EXACT)


# ---- models that cannot be recorded ----------------------------------------------------------------------------------


class Straight(torch.autograd.Function):
    """The identity, with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return it."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """Say twice the slope."""
        return 2 * slope


CALLS = torch.zeros(())


def counts(x: Tensor, how: str) -> None:
    """Poisson counts whose rate is reached by a way that no family knows."""
    start = tensor([0.4, 0.9])
    if how == "start":  # a number read from random ones, of which nothing is left
        start = start + 0.0 * torch.rand(2).sort().values[0].item()
    a = pyro.param("a", start)
    rate = (1 + a.square()).log().exp()
    if how == "branch":
        rate = rate if a[0] < a[1] else rate.flip(0).flip(0)
    elif how == "number":
        rate = rate + 0.0 * a[0].item()
    elif how == "caught":
        try:
            rate = rate + 0.0 * a[0].item()
        except Exception:  # noqa: BLE001
            rate = rate + 0.0
    elif how == "list":
        rate = rate + torch.as_tensor([0.1 * v for v in a.tolist()])
    elif how == "gradient":
        rate = Straight.apply(rate)
    elif how == "shape":
        rate = torch.cat([rate[rate > 1.0], rate[rate <= 1.0]])
    elif how == "buffer":
        CALLS.add_(1)
    elif how == "random":
        rate = rate + 1e-12 * torch.rand(2)
    elif how == "order":
        table = torch.ones(2)
        rate = rate + table - 1
        table[0] = 5.0
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


X = tensor([0.0, 1.0, 1.0, 2.0, 5.0, 6.0, 7.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("branch", "reads a number out of a tensor that depends on a parameter"),
        ("number", "reads a number out of a tensor that depends on a parameter"),
        ("caught", "reads a number out of a tensor that depends on a parameter"),
        ("list", "has other values elsewhere than its recording"),
        ("gradient", 'the gradient of parameter "a" is not that of its recording'),
        ("shape", "a shape in the model depends on the value of a parameter"),
        ("buffer", "writes into a tensor that it did not make"),
        ("random", "draws random numbers"),
        ("order", "changes a tensor after it has used it"),
    ],
)
def test_what_cannot_be_recorded_is_run(how: str, reason: str) -> None:
    """The plan says why, and the fit by running the model ends where that of the plain model does."""
    plan = EM(counts).plan(X, how)
    assert any("the model is replayed in every step" in note for note in plan.notes)
    assert any(reason in note for note in plan.notes)
    if how in ("list", "gradient", "random"):  # another model, or none to be maximised
        return
    fit = EM(counts).fit(X, how)
    pyro.clear_param_store()
    plain = EM(counts)
    assert not any("replayed in every step" in note for note in plain.plan(X, "").notes)
    assert distance(fit.objective, plain.fit(X, "").objective) < SOLVERS


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("LONGEST", "it takes more than"), ("ALIVE", "recording it would take more than"), ("HELD", "it would hold")],
)
def test_what_is_too_large_is_run(limit: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations, memory while recording and memory afterwards have bounds, and the plan names the one that was hit."""

    def model(x: Tensor) -> None:
        a = pyro.param("a", tensor(0.4))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(1 + a.square() * x.exp().log1p()), obs=x)

    assert not any("replayed in every step" in note for note in EM(model).plan(X).notes)
    monkeypatch.setattr(em_pyro.recording.record, limit, 1)
    assert any(reason in note for note in EM(model).plan(X).notes)


def test_random_starts_are_no_random_model() -> None:
    """What a model draws for its starting values does not keep it from being recorded."""
    assert not any("replayed in every step" in note for note in EM(counts).plan(X, "start").notes)


def kinked(x: Tensor) -> None:
    """A mean that goes on more steeply from 30 on, by a branch that no probe sees: data at 50."""
    b = pyro.param("b", tensor(1.0))
    mean = b + 0.001 * b.square() if b.tolist() < 30 else 30.9 + 2 * (b - 30)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def test_a_branch_that_no_probe_sees_is_found_out_at_the_end() -> None:
    """The fitted values are on the other side: the recording is withdrawn, the fit goes on, and says so."""
    x = tensor([48.0, 50.0, 52.0])
    em = EM(kinked)
    assert not any("replayed in every step" in note for note in em.plan(x).notes)
    fit = em.fit(x)
    assert any("recording of ['x'] withdrawn" in note for note in fit.notes)
    assert any("the model is replayed in every step" in note for note in fit.plan.notes)
    assert distance(fit.params["b"], tensor(30 + (50 - 30.9) / 2)) < SOLVERS


def test_a_recording_that_is_believed_blindly_ends_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: nothing is compared at the end."""
    monkeypatch.setattr(em_pyro.em, "disagreements", lambda engine, params: [])
    fit = EM(kinked).fit(tensor([48.0, 50.0, 52.0]))
    assert distance(fit.params["b"], tensor(30 + (50 - 30.9) / 2)) > 0.01


# ---- how often the model runs ----------------------------------------------------------------------------------------


def calls_of(steps: int, model: Callable[..., Any], *args: Any) -> tuple[int, Fit]:
    """Runs of the model in a fit of so many steps."""
    seen = [0]

    def counted(*args: Any) -> None:
        seen[0] += 1
        model(*args)

    pyro.clear_param_store()
    fit = EM(counted, tol=0, max_steps=steps).fit(*args)
    return seen[0], fit


class Gate:
    """A mixture of two experts whose gate is a small network."""

    def __init__(self) -> None:
        """Start from weights of a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Run the mixture on `x` and `y`, both of shape `(N,)`."""
        net = pyro.module("gate", self.net)
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=net(x.unsqueeze(-1))))
            pyro.sample("y", dist.Normal(loc[z], 0.7), obs=y)



def lines() -> tuple[Tensor, Tensor]:
    """High in the middle, low at both ends."""
    x = torch.linspace(-2, 2, 24)
    return x, torch.where(x.abs() < 1, 2.0, -2.0)


RECORDED: dict[str, Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "counts": lambda: (counts, (X, "")),
    "stationary": lambda: (lambda y: hidden_markov.poisson(y, stationary=True), (X.unsqueeze(0),)),
    "network": lambda: (Gate(), lines()),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_model_runs_as_often_in_few_steps_as_in_many(name: str) -> None:
    """The number of its runs (the checks before and after) does not depend on the number of steps."""
    few, _ = calls_of(1, *_flat(RECORDED[name]()))
    many, fit = calls_of(12, *_flat(RECORDED[name]()))
    assert few == many < 80
    assert fit.path[-1] > fit.path[0]


def test_the_count_notices_a_model_that_is_run_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: no recording; the ends of both ways agree."""
    model, args = RECORDED["counts"]()
    _, there = calls_of(12, model, *args)
    monkeypatch.setattr(em_pyro.prepare, "_recorded", lambda engine, refuted: replace(engine, unrecorded="a test"))
    few, _ = calls_of(1, model, *args)
    many, here = calls_of(12, model, *args)
    assert many > few + 12
    assert distance(here.objective, there.objective) < IDENTITY


def _flat(case: tuple[Callable[..., Any], tuple[Any, ...]]) -> tuple[Any, ...]:
    return case[0], *case[1]


def test_priors_with_parameters_are_recorded() -> None:
    """A prior whose scale is a parameter itself runs without the model too."""

    def model(x: Tensor) -> None:
        spread = pyro.param("spread", tensor(1.5), constraint=constraints.interval(0.5, 4.0))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), spread).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    few, _ = calls_of(1, model, X)
    many, fit = calls_of(9, model, X)
    assert few == many
    assert fit.path[-1] > fit.path[0]


def test_slots_are_reused_by_number_alone() -> None:
    """A graph's slots are numbered without gaps, whatever was dropped."""
    built = laid_out("hmm-poisson-stationary")
    graph = whole_recording(built).graph
    used = {n for step in graph.steps for n in step.outputs if n is not None} | set(graph.inputs.values())
    assert used == set(range(graph.size))
    assert all(isinstance(output, (Slot, Tensor)) for output in graph.outputs.values())
