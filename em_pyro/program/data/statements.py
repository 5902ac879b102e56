"""Statements of Pyro's that cannot be carried out: sampled from no distribution, a plate without a size, no mask."""

from __future__ import annotations

from types import FrameType
from typing import Any

import torch
from pyro import sample
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistributionMixin
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from pyro.primitives import _masked_observe
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from ...errors import DataError, EMError, ModelError
from ..changes.lost import arguments_of
from ..named import unwrap
from ..site import Site
from ..unroll import user_site
from .supports import support_of

MASKS = {MaskMessenger.__init__.__code__: "poutine.mask", MaskedDistribution.__init__.__code__: "fn.mask"}
SCALE = ScaleMessenger.__init__.__code__
STATEMENTS = (sample.__code__, SubsampleMessenger.__init__.__code__, SCALE, *MASKS)


def at_statement(error: Exception) -> str:
    """Say at which statement of the model an error was raised, what is expected of it, and the remedy; else nothing."""
    trace, inner, masked = error.__traceback__, None, ""
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code in STATEMENTS:
            inner = frame
        elif frame.f_code is _masked_observe.__code__:
            masked = f'Site "{frame.f_locals["name"]}": expected an obs_mask'
        trace = trace.tb_next
    if inner is None:
        return ""
    if inner.f_code in MASKS:
        return _at_mask(inner, masked or f"{MASKS[inner.f_code]}: expected a mask")
    if inner.f_code is SCALE:
        return _at_scale(inner)
    return _at_site(inner, error) if inner.f_code is sample.__code__ else _at_plate(inner)


def check_law(name: str, fn: Any) -> None:
    """Raise where a site is sampled from no distribution of Pyro's.

    Raises:
        ModelError: with what it is sampled from.
    """
    if isinstance(fn, TorchDistributionMixin):
        return
    kind = type(fn).__name__
    if isinstance(fn, Distribution):
        got = f"torch's own {kind}. Import it from pyro.distributions"
    else:
        got = f"{kind}. Write dist.Normal(loc, scale), say"
    raise ModelError(f'Site "{name}": expected a distribution of pyro.distributions, got {got}.')


def check_support(name: str, fn: Any) -> None:
    """Raise where a latent is sampled from a distribution whose class does not say which values it has.

    Raises:
        ModelError: with the class.
    """
    support = support_of(fn)
    try:
        if fn.has_enumerate_support or isinstance(support.is_discrete, bool):
            return
    except (AttributeError, NotImplementedError):  # none at all, or one that leaves open whether it is discrete
        pass
    raise ModelError(
        f'Site "{name}": expected a latent of a distribution with a support, got {type(unwrap(fn).base).__name__}, '
        f"whose class states none. Give it one: support = constraints.real, say."
    )


def check_real(site: Site) -> None:
    """Raise where a distribution was made of complex numbers: torch has some of its density, and drops a part.

    Raises:
        DataError: naming the argument.
    """
    base = unwrap(site.fn).base
    for key, argument in arguments_of(base):
        if argument.is_complex():
            name, kind = key.rpartition(".")[2], type(base).__name__
            raise DataError(
                f'Site "{user_site(site.name)}": expected {name} of {kind} to be real, got {argument.dtype}. Take '
                f".real of what is complex, or its two parts as two columns."
            )


def check_density(site: Site) -> None:
    """Raise where a distribution of the user's own, or a transformed one, has no density of what was observed.

    Raises:
        ModelError: with what it raised.
    """
    base = unwrap(site.fn).base
    if type(base).__module__.startswith(("pyro.", "torch.")) and not isinstance(base, TransformedDistribution):
        return
    try:
        with torch.no_grad():
            site.log_prob()
    except EMError:
        raise
    except (LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f'Site "{user_site(site.name)}": expected a density of what was observed, with all states of its latents '
            f"at once, got {type(error).__name__} from {type(base).__name__}: {error}. Its class, and every transform, "
            f"need a log_prob or an inverse that takes more dimensions on the left."
        ) from error


def _at_site(frame: FrameType, error: Exception) -> str:
    """Say which arguments do not go together, or with their plates, or that `infer=` is no dict; empty if none does."""
    fn, what = frame.f_locals["fn"], f'Site "{frame.f_locals["name"]}": expected'
    infer = frame.f_locals["infer"]
    if infer is not None and not isinstance(infer, dict):
        return f"{what} infer= to be a dict, got {infer!r}. Drop it: every discrete latent is enumerated by itself."
    if not isinstance(error, (RuntimeError, ValueError)) or not isinstance(fn, TorchDistributionMixin):
        return ""
    base: Any = unwrap(fn).base
    if isinstance(error, NotImplementedError):
        got = f"{type(base).__name__} ({error})"
        return f"{what} a distribution that its plates expand, got {got}. Give its class a method for it."
    stated = [name for name in base.arg_constraints if isinstance(vars(base).get(name), Tensor)]
    shapes = [f"{name} {tuple(vars(base)[name].shape)}" for name in stated]
    frames = [frame for frame in frame.f_locals["msg"]["cond_indep_stack"] if frame.vectorized]
    plates = ", ".join(f'"{frame.name}" ({frame.size})' for frame in frames) or "none"
    return (
        f"{what} arguments of {type(base).__name__} that go together and broadcast to its plates, got "
        f"{', '.join(shapes) or 'none'} within plates {plates}: {error}. Give them shapes that agree."
    )


def _at_mask(frame: FrameType, what: str) -> str:
    """Say that a mask is no tensor of booleans; empty if it is one."""
    mask = frame.f_locals["mask"]
    if not isinstance(mask, Tensor):
        remedy = "torch.as_tensor(mask, dtype=torch.bool)"
        return f"{what} that is a tensor of booleans, got {type(mask).__name__}. Pass {remedy}."
    if mask.dtype == torch.bool:
        return ""
    return (
        f"{what} that is a tensor of booleans, got one of {str(mask.dtype).removeprefix('torch.')}. Pass mask.bool()."
    )


def _at_scale(frame: FrameType) -> str:
    """Say that a scale is no number and no tensor; empty if it is one."""
    scale = frame.f_locals["scale"]
    if isinstance(scale, (int, float, Tensor)):
        return ""
    got = f"got {type(scale).__name__}. Pass torch.as_tensor(weights)."
    return f"poutine.scale: expected a number, or a tensor of row weights, {got}"


def _at_plate(frame: FrameType) -> str:
    name, size = frame.f_locals["name"], frame.f_locals["size"]
    if isinstance(size, int):
        return ""
    return f'Plate "{name}": expected a whole number as its size, got {size!r}. Pass len(data), or data.shape[0].'
