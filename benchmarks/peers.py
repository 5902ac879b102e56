"""The libraries that hand-code one model, started where we start and run for as many iterations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .ours import Result, Run
from .problem import Array, Problem


def sklearn_full(problem: Problem) -> Run:
    """`sklearn.mixture.GaussianMixture`, full covariances."""
    factor = np.linalg.inv(problem.start["scale_tril"])
    return _sklearn(problem, "full", factor.transpose(0, 2, 1) @ factor)


def sklearn_diagonal(problem: Problem) -> Run:
    """`sklearn.mixture.GaussianMixture`, diagonal covariances."""
    return _sklearn(problem, "diag", problem.start["scale"] ** -2.0)


def sklearn_factors(problem: Problem) -> Run:
    """`sklearn.decomposition.FactorAnalysis`, whose iterations are no steps of EM."""
    from sklearn.decomposition import FactorAnalysis

    warnings.simplefilter("ignore")
    x, start = problem.rows["x"], problem.start

    def run(iterations: int) -> Result:
        model = FactorAnalysis(
            start["loadings"].shape[1],
            tol=0.0,
            max_iter=iterations,
            noise_variance_init=start["scale"] ** 2,
            svd_method="lapack",
        ).fit(x)
        return Result(float(model.score(x)) * len(x))

    return run


def statsmodels_system(problem: Problem) -> Run:
    """`statsmodels`' smoother, and the M-step from its moments by hand."""
    from statsmodels.tsa.statespace.mlemodel import MLEModel

    y, start = problem.rows["y"], problem.start
    T, D, k = len(y), y.shape[1], len(start["transition"])

    def run(iterations: int) -> Result:
        F, H, loc, noise = (start[name] for name in ("transition", "emission", "loc", "noise"))
        model = MLEModel(y, k_states=k, initialization="known", initial_state=np.zeros(k), initial_state_cov=np.eye(k))
        model["selection"], model["state_cov"] = np.eye(k), np.eye(k)
        model["obs_intercept"] = np.zeros((D, 1))
        for left in range(iterations, -1, -1):
            model["transition"], model["design"], model["obs_cov"] = F, H, np.diag(noise**2)
            model["obs_intercept", :, 0] = loc
            if not left:
                break
            found = model.ssm.smooth()
            mean, cov = found.smoothed_state.T, found.smoothed_state_cov
            beside = found.smoothed_state_autocov[:, :, : T - 1].sum(-1)
            moved = mean[1:].T @ mean[:-1] + beside
            F = np.linalg.solve(mean[:-1].T @ mean[:-1] + cov[:, :, :-1].sum(-1), moved.T).T
            u = np.column_stack([mean, np.ones(T)])
            gram = u.T @ u
            gram[:k, :k] += cov.sum(-1)
            coef = np.linalg.solve(gram, u.T @ y).T
            noise = np.sqrt(((y * y).sum(0) - (coef * (y.T @ u)).sum(1)) / T)
            H, loc = coef[:, :k], coef[:, k]
        return Result(float(model.ssm.loglike()))

    return run


def _sklearn(problem: Problem, kind: str, precisions: Array) -> Run:
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore")  # every fit of a fixed length says that it has not converged
    x, start = problem.rows["x"], problem.start

    def run(iterations: int) -> Result:
        mixture = GaussianMixture(
            len(start["weights"]),
            covariance_type=kind,
            tol=0.0,
            reg_covar=0.0,
            max_iter=iterations,
            init_params="random_from_data",
            weights_init=start["weights"],
            means_init=start["loc"],
            precisions_init=precisions,
            random_state=0,
        ).fit(x)
        return Result(float(mixture.score(x)) * len(x))

    return run


def stepmix(problem: Problem) -> Run:
    """`stepmix.StepMix` with binary measurements."""
    from stepmix.stepmix import StepMix

    warnings.simplefilter("ignore")
    x, start = problem.rows["x"], problem.start

    class Started(StepMix):
        """StepMix from a given start: it draws its own in `_initialize_parameters`."""

        def _initialize_parameters(self, X: Array, random_state: object) -> None:
            super()._initialize_parameters(X, random_state)
            self.weights_ = start["weights"].copy()
            self._mm.parameters["pis"] = start["probs"].copy()

    def run(iterations: int) -> Result:
        model = Started(
            n_components=len(start["weights"]),
            measurement="binary",
            max_iter=iterations,
            abs_tol=0.0,
            rel_tol=0.0,
            verbose=0,
            progress_bar=0,
            random_state=0,
        ).fit(x)
        return Result(float(model.score(x)) * len(x))

    return run


def hmmlearn(problem: Problem) -> Run:
    """`hmmlearn.hmm.GaussianHMM`, diagonal covariances, by its scaled recursions in C++."""
    from hmmlearn.hmm import GaussianHMM

    y, start = problem.rows["y"], problem.start
    n, T, D = y.shape
    stacked, lengths = y.reshape(n * T, D), [T] * n

    def run(iterations: int) -> Result:
        model = GaussianHMM(
            len(start["initial"]),
            covariance_type="diag",
            n_iter=iterations,
            tol=-np.inf,
            covars_prior=0.0,
            covars_weight=1.0,
            min_covar=0.0,
            init_params="",
            implementation="scaling",
        )
        model.startprob_, model.transmat_ = start["initial"], start["transition"]
        model.means_, model.covars_ = start["loc"], start["scale"] ** 2
        model.fit(stacked, lengths)
        return Result(float(model.score(stacked, lengths)))

    return run


def hmmlearn_symbols(problem: Problem) -> Run:
    """`hmmlearn.hmm.CategoricalHMM`, by its scaled recursions in C++."""
    from hmmlearn.hmm import CategoricalHMM

    y, start = problem.rows["y"].astype(int), problem.start
    n, T = y.shape
    stacked, lengths = y.reshape(n * T, 1), [T] * n
    S, C = start["probs"].shape

    def run(iterations: int) -> Result:
        fixed = {"tol": -np.inf, "init_params": "", "n_features": C, "implementation": "scaling"}
        model = CategoricalHMM(S, n_iter=iterations, **fixed)
        model.startprob_, model.transmat_, model.emissionprob_ = start["initial"], start["transition"], start["probs"]
        model.fit(stacked, lengths)
        return Result(float(model.score(stacked, lengths)))

    return run


def pomegranate(problem: Problem) -> Run:
    """`pomegranate.gmm.GeneralMixtureModel` of full-covariance normals."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    x, start = torch.as_tensor(problem.rows["x"]), problem.start
    torch.set_default_dtype(x.dtype)

    def run(iterations: int) -> Result:
        roots = [torch.as_tensor(root) for root in start["scale_tril"]]
        parts = [Normal(torch.as_tensor(m), r @ r.mT) for m, r in zip(start["loc"], roots, strict=True)]
        mixture = GeneralMixtureModel(
            parts, priors=torch.as_tensor(start["weights"]), max_iter=iterations, tol=-np.inf, verbose=False
        )
        mixture.fit(x)
        return Result(float(mixture.log_probability(x).double().sum()))

    return run


def mixle_full(problem: Problem) -> Run:
    """`mixle`: a mixture of `MultivariateGaussianDistribution`."""
    from mixle import stats

    pairs = zip(problem.start["loc"], problem.start["scale_tril"], strict=True)
    parts = [stats.MultivariateGaussianDistribution(m, r @ r.T) for m, r in pairs]
    return _mixle(stats.MixtureDistribution(parts, problem.start["weights"]), problem.rows["x"])


def mixle_diagonal(problem: Problem) -> Run:
    """`mixle`: a mixture of `DiagonalGaussianDistribution`."""
    from mixle import stats

    scales = problem.start["scale"]
    parts = [stats.DiagonalGaussianDistribution(m, s**2) for m, s in zip(problem.start["loc"], scales, strict=True)]
    return _mixle(stats.MixtureDistribution(parts, problem.start["weights"]), problem.rows["x"])


def mixle_answers(problem: Problem) -> Run:
    """`mixle`: a mixture of `CompositeDistribution`, one `BernoulliDistribution` an item."""
    from mixle import stats

    items = [[stats.BernoulliDistribution(p) for p in row] for row in problem.start["probs"]]
    parts = [stats.CompositeDistribution(tuple(row)) for row in items]
    answers = [tuple(row) for row in problem.rows["x"].astype(int).tolist()]
    return _mixle(stats.MixtureDistribution(parts, problem.start["weights"]), answers)


def mixle_chain(problem: Problem) -> Run:
    """`mixle`: a `HiddenMarkovModelDistribution` of `DiagonalGaussianDistribution`."""
    from mixle import stats

    start = problem.start
    pairs = zip(start["loc"], start["scale"], strict=True)
    parts = [stats.DiagonalGaussianDistribution(m, s**2) for m, s in pairs]
    chain = stats.HiddenMarkovModelDistribution(
        components=parts, weights=start["initial"], transitions=start["transition"]
    )
    return _mixle(chain, list(problem.rows["y"]))


def _mixle(start: Any, rows: Any) -> Run:
    """EM by `mixle.inference.estimation.optimize` on rows that are encoded beforehand."""
    from mixle.inference.estimation import optimize

    encoded = start.dist_to_encoder().seq_encode(rows)

    def run(iterations: int) -> Result:
        fitted = optimize(
            None,
            start.estimator(),
            max_its=iterations,
            delta=None,
            prev_estimate=start,
            enc_data=[(len(rows), encoded)],
            out=None,
        )
        return Result(float(fitted.seq_log_density(encoded).sum()))

    return run
