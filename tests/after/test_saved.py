"""Files of fits: what they hold, what a fit that was read from one does, and what is refused."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import factor_analysis, gaussian_mixture
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from programs.loops import equal, mixture, points, stored
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, Fit, ModelError, ParameterError, files, load

NAMES = (
    "gaussian_mixture",
    "ModuleMixture",
    "RegisteredLinear",
    "hmm_ragged",
    "beta_coins",
    "mixed_precision",
    "topics",
)


def of(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a program and its arguments."""
    if name == "factors":
        return factor_analysis.factor_analysis, factor_analysis.simulate(n=40, seed=0)
    case = build(name)
    return case.model, case.args


def alike(one: Fit, other: Fit) -> bool:
    """Whether two fits say the same."""
    values = all(torch.equal(one.params[n], v) and one.params[n].dtype == v.dtype for n, v in other.params.items())
    return values and one.path == other.path and str(one) == str(other) and str(one.plan) == str(other.plan)


@pytest.mark.parametrize("name", [*NAMES, "factors"])
def test_a_fit_comes_back(name: str, tmp_path: Path) -> None:
    """As it was; with its model posteriors of rows, with its data all that it did. The store is not touched."""
    model, args = of(name)
    fit, path = EM(model, max_steps=8, acceleration="squarem").fit(*args), tmp_path / "fit.pt"
    fit.save(path)
    assert isinstance(torch.load(path, weights_only=True), dict)
    before = stored()
    plain, shown, whole = load(path), load(path, model), load(path, model, args)
    assert equal(stored(), before)
    for loaded in (plain, shown, whole):
        assert alike(loaded, fit)
        assert [*loaded.starts] == [*fit.starts]
        assert loaded.criteria() == fit.criteria()
        assert loaded.num_parameters == fit.num_parameters
        loaded.save(tmp_path / "again.pt")
        assert alike(load(tmp_path / "again.pt"), fit)
    assert distance(whole.posterior.log_evidence, fit.posterior.log_evidence) < IDENTITY
    if name != "topics":  # which has an entry for each row
        expected = fit.posterior_on(*args).log_evidence
        assert distance(shown.posterior_on(*args).log_evidence, expected) < IDENTITY
        assert distance(whole.posterior_on(*args).log_evidence, expected) < IDENTITY
    traces = [pyro.poutine.trace(one.model).get_trace(*args) for one in (fit, shown, whole)]
    for trace in traces:
        for site in ("loc", "weights"):
            if site in trace.nodes and trace.nodes[site]["type"] == "param":
                assert distance(trace.nodes[site]["value"], fit.params[site]) < IDENTITY


def test_a_single_new_row_needs_no_initialiser(tmp_path: Path) -> None:
    """The shipped mixture starts from the spread of its data, of which one row has none."""
    x = points(n=30).unsqueeze(-1)
    fit, path = EM(gaussian_mixture.full, max_steps=5).fit(x, 2), tmp_path / "fit.pt"
    fit.save(path)
    row = load(path, gaussian_mixture.full).posterior_on(x[:1], 2)
    assert distance(row.log_evidence, fit.posterior_on(x[:1], 2).log_evidence) < IDENTITY


def test_what_the_fit_was_told_is_kept(tmp_path: Path) -> None:
    """Choices of M-steps, the density of priors and what is done with continuous latents plan the program again."""

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        b = pyro.param("b", tensor(0.3))
        with pyro.plate("row", len(x)):
            u = pyro.sample("u", dist.Normal(b, 1.0))
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(u + z, 1.0), obs=x)

    x, path = points(n=12), tmp_path / "fit.pt"
    em = EM(model, max_steps=3, prior_density="unconstrained", continuous={"u": "maximise"}, m_step={"b": "fixed"})
    fit = em.fit(x)
    fit.save(path)
    again = load(path, model, (x,))
    assert again.prepared is not None
    assert again.prepared.plan.free == ("weights", "u")
    assert again.prior_density == "unconstrained"
    assert distance(again.posterior.log_evidence, fit.log_likelihood) < IDENTITY
    with pytest.raises(ParameterError, match="an entry for each"):
        load(path, model).posterior_on(x)


def test_a_model_without_arguments(tmp_path: Path) -> None:
    """An empty tuple says that the data are the model's own."""
    x = points()

    def model() -> None:
        mixture(x)

    fit, path = EM(model, max_steps=4).fit(), tmp_path / "fit.pt"
    fit.save(path)
    assert distance(load(path, model, ()).posterior.log_evidence, fit.log_likelihood) < IDENTITY
    assert distance(load(path, model, kwargs={}).posterior.log_evidence, fit.log_likelihood) < IDENTITY


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """A fit without its data says how to give them; what does not fit is refused by name."""
    x, path = points(), tmp_path / "fit.pt"
    EM(mixture, max_steps=4).fit(x).save(path)
    for ask in (lambda fit: fit.posterior, lambda fit: fit.information(), lambda fit: fit.reordered("z", "loc")):
        with pytest.raises(ParameterError, match=r"em_pyro\.load\(path, model, args="):
            ask(load(path, mixture))
    with pytest.raises(ParameterError, match="expected the model and the data"):
        load(path).posterior_on(x)
    with pytest.raises(ParameterError, match="got data alone"):
        load(path, args=(x,))
    with pytest.raises(ParameterError, match=r"args=\(x,\)"):
        load(path, mixture, args=x)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="callable"):
        load(path, 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="log-likelihood"):
        load(path, mixture, (x + 1e-3,))
    with pytest.raises(DataError, match="log-likelihood"):
        load(path, mixture, (x[1:],))
    with pytest.raises((ParameterError, ModelError), match="expected"):
        load(path, mixture, (x, 3))
    with pytest.raises(ParameterError, match="expected one of the fitted parameters"):
        load(path, build("binomial_coins").model, build("binomial_coins").args)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pt")


def test_a_model_that_lacks_a_parameter_is_another(tmp_path: Path) -> None:
    """Also where all that it has is there."""

    def fewer(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
        loc = pyro.param("loc", tensor([0.0, 1.0]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    EM(mixture, max_steps=4).fit(points()).save(tmp_path / "fit.pt")
    with pytest.raises(ParameterError, match='"scale": expected the model that was fitted'):
        load(tmp_path / "fit.pt", fewer, (points(),))


def test_pickles_go_on_working(tmp_path: Path) -> None:
    """A fit that was pickled can be written to a file, which plans as the fit did."""
    x = points()
    fit = EM(mixture, max_steps=4, m_step={"loc": "fixed"}).fit(x)
    again = pickle.loads(pickle.dumps(fit))
    again.save(tmp_path / "fit.pt")
    assert alike(load(tmp_path / "fit.pt"), fit)
    whole = load(tmp_path / "fit.pt", mixture, (x,))
    assert whole.prepared is not None
    assert whole.prepared.plan.free == ("weights", "scale")


# ---- what is refused -------------------------------------------------------------------------------------------------

RAN: list[str] = []


class Bomb:
    """Something that runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Say so."""
        return RAN.append, ("ran",)


class Shell:
    """Another thing that runs."""

    def __init__(self, path: Path) -> None:
        """Take a path that is made by what runs."""
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a folder."""
        return os.mkdir, (str(self.path),)


def written(value: Any, **options: Any) -> bytes:
    """Return what `torch.save` makes of something."""
    into = io.BytesIO()
    torch.save(value, into, **options)
    return into.getvalue()


@pytest.mark.parametrize("where", ["alone", "inside", "in a tensor's place", "pickle", "older torch", "key"])
@pytest.mark.parametrize("what", ["function", "system"])
def test_a_malicious_file_runs_nothing(where: str, what: str, tmp_path: Path) -> None:
    """Whatever it claims to be."""
    path, trace = tmp_path / "fit.pt", tmp_path / "trace"
    EM(mixture, max_steps=2).fit(points()).save(path)
    honest, bomb = torch.load(path, weights_only=True), Bomb() if what == "function" else Shell(trace)
    place = next(pair for pair in honest["fit"]["of"] if pair[0] == "fitted")[1]["of"]
    if where == "in a tensor's place":
        place[0][1] = bomb
    content = {
        "alone": lambda: written(bomb),
        "inside": lambda: written({**honest, "more": [bomb]}),
        "in a tensor's place": lambda: written(honest),
        "pickle": lambda: pickle.dumps(bomb),
        "older torch": lambda: written({**honest, "more": bomb}, _use_new_zipfile_serialization=False),
        "key": lambda: written({**honest, (bomb,): 1}) if what == "system" else written([bomb]),
    }
    path.write_bytes(content[where]())
    with pytest.raises(DataError, match="expected a file of Fit.save"):
        load(path)
    assert RAN == []
    assert not trace.exists()


def test_the_bombs_go_off_elsewhere(tmp_path: Path) -> None:
    """Planted: read without `weights_only` they run."""
    (tmp_path / "bomb.pt").write_bytes(written(Shell(tmp_path / "trace")))
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "trace").exists()


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    """At any length."""
    path = tmp_path / "fit.pt"
    EM(mixture, max_steps=2).fit(points()).save(path)
    data = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="Pass the path that was given there, or write it anew"):
            load(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Or it was in what nobody reads: no number comes back as another one."""
    path = tmp_path / "fit.pt"
    fit = EM(mixture, max_steps=2).fit(points())
    fit.save(path)
    data, generator, refused = path.read_bytes(), np.random.default_rng(0), 0
    at = data.index(struct.pack("<d", float(fit.params["loc"][1])))
    for place in [at, at + 5, *generator.integers(0, len(data), 150)]:
        other = bytearray(data)
        other[int(place)] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(other))
        try:
            assert alike(load(path), fit)
        except DataError:
            refused += 1
    assert refused > 30


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    """Weights of a network, arrays of NumPy, an archive, a checkpoint, text."""
    path = tmp_path / "fit.pt"
    module = torch.nn.Linear(2, 2).state_dict()
    arrays, archive = io.BytesIO(), io.BytesIO()
    np.savez(arrays, a=np.zeros(3))
    with zipfile.ZipFile(archive, "w") as there:
        there.writestr("a.txt", "words")
    EM(mixture, max_steps=2, checkpoint=tmp_path / "other.pt").fit(points())
    checkpoint = (tmp_path / "other.pt").read_bytes()
    for data in (written(module), arrays.getvalue(), archive.getvalue(), checkpoint, b"x,y\n1,2\n", b""):
        path.write_bytes(data)
        with pytest.raises(DataError, match="expected a file of Fit.save"):
            load(path)


def test_a_newer_file_says_so(tmp_path: Path) -> None:
    """With the version that wrote it."""
    path = tmp_path / "fit.pt"
    files.write(path, "fit of em_pyro", 2, {"fit": {}})
    with pytest.raises(DataError, match=f"up to 1, got format 2, written by em_pyro {files.version()}"):
        load(path)


def _part(found: Any, name: str) -> Any:
    return next(pair for pair in found["fit"]["of"] if pair[0] == name)


SPOILT: dict[str, Callable[[Any], Any]] = {
    "no fit": lambda found: found.pop("fit"),
    "another record": lambda found: found["fit"].update({"is": "Bomb"}),
    "another record inside": lambda found: _part(found, "plan")[1].update({"is": "Engine"}),
    "a field too many": lambda found: found["fit"]["of"].append(["more", 1]),
    "a field too few": lambda found: found["fit"]["of"].pop(0),
    "words for values": lambda found: _part(found, "fitted").__setitem__(1, "words"),
    "no tensor": lambda found: _part(found, "fitted")[1]["of"][0].__setitem__(1, 3.0),
    "no outcome": lambda found: _part(found, "outcome").__setitem__(1, "splendid"),
    "no starts": lambda found: _part(found, "starts").__setitem__(1, None),
    "no path": lambda found: _part(found, "path").__setitem__(1, ("a", "b")),
    "no notes": lambda found: _part(found, "notes").__setitem__(1, (1, 2)),
}


@pytest.mark.parametrize("how", SPOILT)
def test_the_right_words_with_other_contents_are_damaged(how: str, tmp_path: Path) -> None:
    """What was read is looked at before it is a fit."""
    path = tmp_path / "fit.pt"
    EM(mixture, max_steps=2).fit(points()).save(path)
    found = torch.load(path, weights_only=True)
    SPOILT[how](found)
    path.write_bytes(written(found))
    with pytest.raises(DataError, match="expected a file of Fit.save, got a damaged one"):
        load(path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `OSError`, what was there before, and nothing beside it."""
    path = tmp_path / "fit.pt"
    fit = EM(mixture, max_steps=2).fit(points())
    fit.save(path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        EM(mixture, max_steps=5).fit(points()).save(path)
    assert alike(load(path), fit)
    assert [there.name for there in tmp_path.iterdir()] == ["fit.pt"]
