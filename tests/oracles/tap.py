"""The second way to posterior weights: zero leaves in `log_prob`, differentiated through Pyro's own `TraceEnum_ELBO`.

If `L_s` are the log factors of a program and `Z` its evidence, the weight of factor `s` is `d log Z / d L_s`. A handler
wraps each site's distribution so that a leaf of zeros is added to its `log_prob`; the gradient of the evidence with
respect to the leaf is the weight, masked and scaled as Pyro masks and scales.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine.messenger import Messenger
from torch import Tensor

from oracles.replay import Params, at, visit


@dataclass(frozen=True)
class Tapped:
    """Log evidence, and by site the weights and log factors, both of the shape of the enumerated `log_prob`."""

    log_evidence: float
    weights: dict[str, Tensor]
    log_factors: dict[str, Tensor]

    def expected_log_factors(self, new: "Tapped") -> dict[str, float]:
        """Sum of these weights times another run's log factors, by site, with `0 * -inf = 0`."""
        return {
            site: float((w * new.log_factors[site].masked_fill(w == 0, 0.0)).sum()) for site, w in self.weights.items()
        }


class _TappedDistribution(TorchDistribution):
    """A distribution whose `log_prob` has a leaf of zeros added; everything else is the wrapped one's."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Any, record: Callable[[Tensor], Tensor]) -> None:
        self.base, self.record = base, record
        self.has_enumerate_support = base.has_enumerate_support
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["base"], name)

    @property
    def support(self) -> Any:
        return self.base.support

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.base.sample(*args, **kwargs)

    def enumerate_support(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.base.enumerate_support(*args, **kwargs)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.record(self.base.log_prob(value))


class _Tap(Messenger):
    """Wrap every site's distribution after the plates have expanded it and before anything is enumerated."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: dict[str, Tensor] = {}
        self.log_factors: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ == "_Subsample" or msg["infer"].get("_deterministic"):
            return
        name = msg["name"]

        def record(log_prob: Tensor) -> Tensor:
            factor = log_prob.detach().double()  # Pyro's contraction refuses float32 beside float64
            self.log_factors[name] = factor
            self.leaves[name] = torch.zeros_like(factor, requires_grad=True)
            return factor + self.leaves[name]

        msg["fn"] = _TappedDistribution(msg["fn"], record)


def tapped_weights(
    model: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    params: Params | None = None,
) -> Tapped:
    """Weights of every site by differentiating `TraceEnum_ELBO`, every discrete latent enumerated in parallel.

    Args:
        model: a plain Pyro program, its latents not marked for enumeration.
        args: what the model is called with; `kwargs` likewise.
        kwargs: keyword arguments of the model.
        params: values of parameters and of all continuous latent sites, by name; what is not named has the store's.
    """
    kwargs = kwargs or {}
    tap = _Tap()
    with at(params, model, args, kwargs) as fixed:
        frames = [
            frame
            for node in visit(fixed, *args, **kwargs).values()
            if node["type"] == "sample"
            for frame in node["cond_indep_stack"]
        ]
        nesting = max((-frame.dim for frame in frames if frame.vectorized), default=0)
        elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
        loss: Any = elbo.differentiable_loss(config_enumerate(tap(fixed)), lambda *_, **__: None, *args, **kwargs)
    gradients = torch.autograd.grad(-loss, list(tap.leaves.values()), materialize_grads=True, allow_unused=True)
    return Tapped(float(-loss.detach()), dict(zip(tap.leaves, gradients, strict=True)), tap.log_factors)
