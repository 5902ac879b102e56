"""What a file of a fit says of the program that was fitted, and the program planned again from its model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial
from math import isclose
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer import config_enumerate
from torch import Tensor

from .. import files
from ..errors import DataError, EMError, ModelError, ParameterError
from ..fit.problem import Problem, prepare
from ..posterior.misfits import FAULTS
from ..program.devices import beside
from ..program.handlers import Substitute, Weights
from ..program.named import Params, batched
from ..program.site import Parameter
from ..program.stated import Known, misfit, stem
from ..records.frozen import frozen
from .fitted import write_back

if TYPE_CHECKING:
    from .criteria import Criteria

KIND, FORM, WHOSE = "fit of em_pyro", 1, "Fit.save"  # of the file
IN_NO_FILE = ("prepared", "model", "patterns")  # fields of records: what runs, and what is worked out again
SAME = {torch.float64: 1e-8, torch.float32: 1e-4}  # of the log-likelihood, relative to 1 + its size: of the same data


@frozen
class Source:
    """How a program was planned, as far as words can say it.

    Attributes:
        m_step: the user's choices, functions left out.
        continuous: what was done with continuous latents.
        collapse: whether equal rows could be merged.
        unconstrained: whether priors are those of unconstrained coordinates.
        states: how many states every latent has.
        criteria: of the fit, which take its data.
        model: the model, if it was given with the file.
    """

    m_step: Mapping[str, str] = field(default_factory=dict)
    continuous: Mapping[str, str] = field(default_factory=dict)
    collapse: bool = True
    unconstrained: bool = False
    states: Mapping[str, int] = field(default_factory=dict)
    criteria: Criteria | None = None
    model: Callable[..., Any] | None = field(default=None, repr=False)

    def planned(self, params: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Problem:
        """Survey and plan the model on data, at fitted values; no initialiser is run and the store is not touched.

        Raises:
            ParameterError: the model has other parameters, or one of another shape.
            ModelError: the model does not run at the fitted values, or is another program.
            DataError: the data cannot be used.
        """
        assert self.model is not None
        known = Known({name: Parameter(name, "", None, value) for name, value in params.items()}, params)
        density = "unconstrained" if self.unconstrained else "constrained"
        plan = partial(prepare, collapse=self.collapse, prior_density=density, continuous=self.continuous)
        try:
            with pyro.get_param_store().scope():  # what another fit has left there does not matter here
                problem = plan(self.model, args, kwargs, self.m_step, check=True, known=known)
        except EMError:
            raise
        except FAULTS as error:
            raise ModelError(
                f"The model: expected to run at the fitted values, got {type(error).__name__}: {error}. Pass the model "
                f"that was fitted, and data like those."
            ) from error
        self._check(problem, params)
        return problem

    def _check(self, problem: Problem, params: Params) -> None:
        """Refuse a program with other parameters, or other latents."""
        parameters, states = problem.program.parameters, problem.program.states
        for name in params.keys() - parameters.keys():
            raise ParameterError(
                f'Parameter "{name}": expected the model that was fitted, got one without it: it has '
                f"{sorted(parameters)}. Pass the model of the fit."
            )
        for name, parameter in parameters.items():
            if parameter.stated not in (None, tuple(params[name].shape)):
                raise misfit(name, params[name], f"an initial value of shape {parameter.stated}")
        if _by_stem(states) != _by_stem(self.states):  # of a loop, other rows may have more steps or fewer
            raise ModelError(
                f"The model: expected latents with the states {dict(self.states)}, got {states}. Pass the model that "
                f"was fitted, and data with the same categories."
            )

    def fitted_model(self, params: Params) -> Callable[..., Any]:
        """Return the model at the fitted values, with its latents marked for enumeration."""
        enumerated = config_enumerate(self.model)

        def fitted(*args: Any, **kwargs: Any) -> Any:
            with Weights(params), Substitute(params):
                return enumerated(*args, **kwargs)

        return fitted


def _by_stem(states: Mapping[str, int]) -> set[tuple[str, int]]:
    return {(stem(name), size) for name, size in states.items()}


def save(record: Any, path: str | os.PathLike[str], remarks: Mapping[str, Any]) -> None:
    """Write the record of a fit to a file, and words and numbers beside it.

    Raises:
        ParameterError: what stands beside it is something else, which could not be read again.
    """
    if not isinstance(remarks, Mapping):
        raise ParameterError(f"Fit.save: expected remarks to be a dict, got {type(remarks).__name__}.")
    for name, value in remarks.items():
        if not isinstance(name, str) or not _plain(value):
            raise ParameterError(
                f"Fit.save: expected remarks to be words, numbers and tensors by name, and lists and dicts of these, "
                f"got {type(value).__name__} for {name!r}. Write text or a tensor in its place."
            )
    files.write(path, KIND, FORM, {"fit": files.laid_out(record, IN_NO_FILE), "remarks": dict(remarks)})


def _plain(value: Any) -> bool:
    """Whether a file that runs nothing can hold a value."""
    if type(value) is dict:
        return all(_plain(key) and _plain(part) for key, part in value.items())
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    return value is None or type(value) in (bool, int, float, complex, str, bytes) or isinstance(value, Tensor)


def remarks_in(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the words and numbers that stand beside a fit in its file.

    Raises:
        DataError: the file is damaged, or no fit.
        OSError: it is not there, or may not be read.
    """
    found = files.read(path, KIND, FORM, WHOSE).get("remarks")
    return found if isinstance(found, dict) else {}


def source_of(problem: Problem) -> Source:
    """Return what can be said of a program in words."""
    program = problem.program
    kept = dict.fromkeys(program.by_row, "maximise") | dict.fromkeys(program.integrated, "integrate")
    chosen = {name: choice for name, choice in problem.options.items() if isinstance(choice, str)}
    return Source(chosen, kept, problem.collapse, program.unconstrained, program.states)


def same_data(problem: Problem, params: Params, log_likelihood: float) -> dict[str, Tensor]:
    """Return fitted values beside the data of a program, if these are the data of the fit.

    Raises:
        DataError: the log-likelihood is another one on them.
    """
    params = write_back(problem, _beside(problem, params))
    with beside(problem.program.device):
        bound = problem.bind(batched({name: value.double() for name, value in params.items()}))
        found = float(problem.expect(bound).log_evidence)
    single = any(value.dtype == torch.float32 for value in params.values())
    close = SAME[torch.float32 if single else torch.float64]
    if not isclose(found, log_likelihood, rel_tol=close, abs_tol=close):
        raise DataError(
            f"load: expected the data and the model that were fitted, of log-likelihood {log_likelihood:.9g}, got "
            f"{found:.9g} at the fitted values. Pass those in args and kwargs, or leave both out and ask "
            f"Fit.posterior_on(...) of other data."
        )
    return params


def _beside(problem: Problem, params: Params) -> dict[str, Tensor]:
    return {name: value.to(problem.program.device) for name, value in params.items()}
