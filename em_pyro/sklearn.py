"""Any Pyro model as an estimator of scikit-learn: pipelines, grid searches and cross-validation as usual."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import pyro
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from .after.fit import Fit
from .em import EM
from .errors import DataError, ParameterError
from .fit.loop import State
from .m_step.plan import Choice
from .posterior.posterior import Posterior
from .program.data.row_weights import weighted

Array = npt.NDArray[np.float64]

OWN = ("model", "latent", "model_kwargs")  # arguments that are no options of EM


class EMEstimator(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Fit `model(X, **model_kwargs)` by EM, with the methods of scikit-learn's mixtures.

    The model is given `X` as a tensor of float64, shape (rows, columns), and has one plate of as many rows. Parameters
    of the model can be searched over as `model_kwargs__K`.

    Args:
        model: a Pyro model of `X`.
        latent: the discrete latent of the rows that `predict` says; None where there is one.
        model_kwargs: other arguments of the model, by name.
        tol: this and all others are options of `EM`; `seed` is what others call `random_state`.

    Attributes:
        fit_: the `Fit`, with its plan, notes, standard errors and all else.
        params_: fitted values by name, arrays.
        converged_: whether the stopping rule was met.
        n_iter_: EM steps taken.
        n_features_in_: columns of `X`.
        plate_: the plate of the rows.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        latent: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        tol: float = 1e-8,
        max_steps: int = 1000,
        seed: int = 0,
        starts: int | Mapping[str, Any] | Sequence[Mapping[str, Any]] = 1,
        m_step: Mapping[str, Choice] | None = None,
        check: bool = True,
        progress: bool = False,
        callback: Callable[[State], Any] | None = None,
        screen: bool = True,
        collapse: bool = True,
        acceleration: str | None = "auto",
        prior_density: str = "constrained",
        continuous: Mapping[str, str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int = 100,
        e_step: str = "soft",
        batches: int | None = None,
        update: str = "incremental",
        step_size: float = 0.6,
        process_group: Any = None,
    ) -> None:
        """Keep all of it as it is: scikit-learn copies estimators by their arguments."""
        self.model, self.latent, self.model_kwargs = model, latent, model_kwargs
        self.tol, self.max_steps, self.seed, self.starts, self.m_step = tol, max_steps, seed, starts, m_step
        self.check, self.progress, self.callback = check, progress, callback
        self.screen, self.collapse, self.acceleration = screen, collapse, acceleration
        self.prior_density, self.continuous = prior_density, continuous
        self.checkpoint, self.every, self.e_step = checkpoint, every, e_step
        self.batches, self.update, self.step_size = batches, update, step_size
        self.process_group = process_group

    # ---- what scikit-learn asks for ----

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Return all arguments, those of the model as `model_kwargs__...` too."""
        found: dict[str, Any] = super().get_params(deep=False)
        if deep and isinstance(self.model_kwargs, Mapping):
            found |= {f"model_kwargs__{name}": value for name, value in self.model_kwargs.items()}
        return found

    def set_params(self, **params: Any) -> EMEstimator:
        """Set arguments; `model_kwargs__K=3` one of the model, also where it had its default so far."""
        own = {n: v for n, v in params.items() if not n.startswith("model_kwargs__")}
        super().set_params(**own)
        inner = {n.removeprefix("model_kwargs__"): v for n, v in params.items() if n not in own}
        if inner:
            self.model_kwargs = {**(self.model_kwargs or {}), **inner}
        return self

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> EMEstimator:  # noqa: N803
        """Fit the model to rows; the param store stays as it was.

        Args:
            X: data, shape (rows, columns).
            y: not used.
            sample_weight: how often each row counts; without it once.

        Raises:
            ValueError: the data, the model or an option is of no use: the errors of `EM.fit` are such.
        """
        x = torch.tensor(validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
        options = {n: v for n, v in super().get_params(deep=False).items() if n not in OWN}
        model, args = self.model, tuple[Tensor, ...]((x,))
        if sample_weight is not None:
            weights = torch.tensor(_check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True))
            x = x[weights > 0]
            model, args = weighted(self.model), (weights[weights > 0], x)
        with pyro.get_param_store().scope():
            self.fit_: Fit = EM(model, **options).fit(*args, **self._inner)
        self._counted = sample_weight is not None
        self.params_ = {name: value.numpy() for name, value in self.fit_.params.items()}
        self.converged_, self.n_iter_ = self.fit_.converged, self.fit_.num_steps
        self.plate_ = self._plate(len(x))
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> npt.NDArray[np.int64]:  # noqa: N803
        """Fit, and return the most probable state of every row."""
        return self.fit(X, y, sample_weight).predict(X)

    def predict(self, X: Any) -> npt.NDArray[np.int64]:  # noqa: N803
        """Return the most probable state of every row."""
        return self.predict_proba(X).argmax(-1)

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Return the posterior probabilities of the states of every row, shape (rows, states).

        Raises:
            ParameterError: the rows have no discrete latent, or several and `latent` says none of them.
        """
        law = self._law(X)
        found = law.marginal(self._latent(law))
        return np.asarray(found.reshape(-1, found.shape[-1]), dtype=np.float64)

    def score_samples(self, X: Any) -> Array:  # noqa: N803
        """Return the log evidence of every row, in nats."""
        return np.asarray(self._law(X).log_evidence_by(self.plate_), dtype=np.float64)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Return the mean log evidence of a row, in nats: higher is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, *, seed: int = 0) -> dict[str, Array]:
        """Draw rows at the fitted values: what the model observes, by site, rows first.

        Args:
            n_samples: how many rows.
            seed: of the draws.

        Raises:
            ValueError: `n_samples` is no number of at least one.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
            raise ParameterError(
                f"EMEstimator: expected n_samples to be a number of rows of at least one, got {n_samples!r}."
            )
        like = torch.zeros((int(n_samples), self.n_features_in_), dtype=torch.float64)
        drawn = self._alive().simulate(*self._args(like), seed=seed, **self._inner)
        return {name: value.numpy() for name, value in drawn.items()}

    def bic(self, X: Any) -> float:  # noqa: N803
        """Return -2 log L + p log n of rows: lower is better."""
        found = self.score_samples(X)
        return float(-2 * found.sum() + self._alive().num_parameters * np.log(len(found)))

    def aic(self, X: Any) -> float:  # noqa: N803
        """Return -2 log L + 2 p of rows: lower is better."""
        return float(-2 * self.score_samples(X).sum() + 2 * self._alive().num_parameters)

    # ---- how ----

    @property
    def _inner(self) -> dict[str, Any]:
        """Arguments of the model besides the rows."""
        if not isinstance(self.model_kwargs, (Mapping, type(None))):
            raise ParameterError(
                f"EMEstimator: expected model_kwargs to be a dict of arguments of the model, got {self.model_kwargs!r}."
            )
        return dict(self.model_kwargs or {})

    def _alive(self) -> Fit:
        """Return the fit; of an estimator that comes from a file, with its model."""
        check_is_fitted(self)
        if self.fit_.prepared is None and self.fit_.source is not None and self.fit_.source.model is None:
            model = weighted(self.model) if self._counted else self.model
            self.fit_ = replace(self.fit_, source=replace(self.fit_.source, model=model))
        return self.fit_

    def _args(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.ones(len(x), dtype=torch.float64), x) if self._counted else (x,)

    def _law(self, X: Any) -> Posterior:  # noqa: N803
        fit = self._alive()
        x = torch.tensor(validate_data(self, X, dtype=np.float64, reset=False))
        return fit.posterior_on(*self._args(x), **self._inner)

    def _plate(self, rows: int) -> str:
        """Return the plate of the rows: the one with as many, of which each has its own part of the evidence."""
        law, sizes = self.fit_.posterior, self.fit_.posterior.engine.program.plates
        for name in (name for name, size in sizes.items() if size == rows):
            try:
                law.log_evidence_by(name)
            except ParameterError:
                continue
            return name
        raise DataError(
            f"EMEstimator: expected a model with a plate of {rows} independent rows, got the plates {dict(sizes)}. "
            f"Write pyro.plate(..., len(x)) around what each row has."
        )

    def _latent(self, law: Posterior) -> str:
        latents = law.engine.program.latents
        own = [name for name, latent in latents.items() if latent.plates == (self.plate_,)]
        wanted = self.latent if self.latent is not None else own[0] if len(own) == 1 else None
        if wanted not in own:
            raise ParameterError(
                f"EMEstimator: expected latent to be one of the discrete latents of the rows, {own}, got "
                f"{self.latent!r}."
            )
        return str(wanted)
