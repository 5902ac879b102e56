"""The degree of every tensor of a run in the latents that are integrated: a proof, where probes would be evidence.

A run is exact algebra in the latents as long as every operation that they pass is linear, or multiplies polynomials.
The degree is carried through these operations. Anything else (`abs`, `clamp`, a comparison, a number read out of a
tensor) has no degree, and is remembered by its name: the site that it reaches is refused with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import ModelError
from ...program.masks import masks_of
from ...program.named import Params, listed, unwrap
from ...program.program import Program
from ...program.site import Site
from ...recording.graph import leaves_of

NONE = 1 << 20  # the degree of what is no polynomial

LINEAR = frozenset(
    "view _unsafe_view reshape expand permute transpose t select slice unsqueeze squeeze sum mean neg clone detach "
    "alias _to_copy cat stack unbind split split_with_sizes diagonal cumsum flip roll index_select as_strided repeat "
    "tril triu lift_fresh index gather movedim unfold constant_pad_nd zero mT numpy_T _reshape_alias view_as take "
    "take_along_dim expand_as narrow contiguous diag_embed trace swapaxes positive resolve_conj resolve_neg "
    "masked_select block_diag rot90 embedding pixel_shuffle pixel_unshuffle im2col col2im _fft_r2c _fft_c2r _fft_c2c "
    "view_as_real view_as_complex _conj _conj_physical _neg_view avg_pool2d avg_pool3d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
    "upsample_bicubic2d upsample_trilinear3d nansum".split()
)
LISTS = ("cat", "stack", "block_diag")  # linear in all tensors of a list
ALGEBRA: dict[str, Callable[[Sequence[int]], int]] = {
    **dict.fromkeys("add sub rsub add_ sub_ complex".split(), max),
    **dict.fromkeys("mul mm bmm mv dot vdot mul_ multiply linalg_cross _trilinear _sparse_mm".split(), sum),
    **dict.fromkeys(
        "addmm baddbmm addmv addbmm addr addcmul _sparse_addmm".split(),
        lambda degrees: max(degrees[0], degrees[1] + degrees[2]),
    ),
    "convolution": lambda degrees: max([sum(degrees[:2]), *degrees[2:]]),
    "lerp": lambda degrees: max(degrees[:2]) + sum(degrees[2:]),
    "addcdiv": lambda degrees: NONE if degrees[2] else max(degrees),
}
SOLVES = {
    "_linalg_solve_ex": 1, "linalg_solve_triangular": 1, "triangular_solve": 0, "cholesky_solve": 0,
    "linalg_lu_solve": 2, "linalg_lstsq": 1,
}  # fmt: skip
"""Of every operation that solves equations, which of its arguments is the right side: they are linear in that alone."""
QUOTIENTS = frozenset("div div_".split())
WRITES = frozenset(
    "index_put index_put_ _index_put_impl_ copy_ copy masked_fill masked_fill_ fill_ slice_scatter select_scatter "
    "index_copy index_copy_ index_fill index_fill_ diagonal_scatter put scatter scatter_ masked_scatter "
    "masked_scatter_ index_add index_add_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_reduce "
    "index_reduce_ segment_reduce".split()
)
SUMS = frozenset({"sum", "mean", "add", 0, 1})
"""Of the ways to put several operands in one place those that are linear, by name, or by number for embeddings."""
POWERS = {1.0: 1, 2.0: 2}
SHAPES = frozenset(
    "zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full sym_size size sym_stride "
    "sym_numel sym_storage_offset is_floating_point".split()
)
READS = frozenset("nonzero unique _unique2 unique_dim unique_consecutive".split())
LEAVES = frozenset("numpy tolist __array__ data_ptr storage untyped_storage __dlpack__ __reduce_ex__".split())

LOCATION = {"Normal": "loc", "MultivariateNormal": "loc", "LowRankMultivariateNormal": "loc", "Delta": "v"}
"""Of every law that may have latents inside, the argument in which they may be."""


class Degrees(TorchDispatchMode):
    """Watches a run and keeps the degree of its tensors, and what broke the first that has none."""

    def __init__(self, latents: Params) -> None:
        """Begin with the latents, each of degree one."""
        super().__init__()
        self.degree: dict[int, int] = {}  # by id
        self.stored: dict[int, int] = {}  # by storage: views of it are as high
        self.broken: dict[int, str] = {}
        self.kept: list[Tensor] = []  # so that no id or storage is used twice
        self.read = ""
        for latent in latents.values():
            self._note(latent, 1, "")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch's compiler, which takes long to import, where it is."""
        return False

    def of(self, part: Any) -> int:
        """Return the degree of a tensor."""
        if not isinstance(part, Tensor):
            return 0
        return max(self.degree.get(id(part), 0), self.stored.get(_storage(part), 0))

    def why(self, part: Any) -> str:
        """Return the operation by which a tensor is no polynomial."""
        return self.broken.get(_storage(part), "") if isinstance(part, Tensor) else ""

    def _note(self, part: Tensor, degree: int, why: str) -> None:
        self.degree[id(part)] = degree
        storage = _storage(part)
        self.stored[storage] = max(degree, self.stored.get(storage, 0))
        self.kept.append(part)
        if why:
            self.broken.setdefault(storage, why)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note the degree of what it makes."""
        kwargs = kwargs or {}
        every = [leaf for leaf in leaves_of((args, *kwargs.values())) if isinstance(leaf, Tensor)]
        degrees = [self.of(leaf) for leaf in every]
        why = next((w for leaf in every if (w := self.why(leaf))), "")
        found = func(*args, **kwargs)
        name = func.__name__.split(".")[0]
        if not any(degrees) or name in SHAPES:
            return found
        if self._solved(name, args, found) or self._bagged(name, args, found, sum(degrees)):
            return found
        self._watch(name, found)
        degree = min(self._after(name, args, kwargs, degrees), NONE)
        if _rounded(found, [leaf for leaf, d in zip(every, degrees, strict=True) if d]):
            degree = NONE
        if degree == NONE and not why:
            why = name
        for part in leaves_of(found):
            if isinstance(part, Tensor):
                self._note(part, degree, why if degree == NONE else "")
        return found

    def _watch(self, name: str, found: Any) -> None:
        """Remember the first operation that takes a number out of latents."""
        if name in READS or any(isinstance(part, (bool, int, float, complex)) for part in leaves_of(found)):
            self.read = self.read or name

    def _solved(self, name: str, args: Any, found: Any) -> bool:
        """Whether equations were solved, with no latents in their matrix; note the degree of the solution."""
        if name not in SOLVES or any(self.of(part) for k, part in enumerate(args) if k != SOLVES[name]):
            return False
        right = args[SOLVES[name]]
        self._note(found[0] if isinstance(found, tuple) else found, self.of(right), self.why(right))
        return True

    def _bagged(self, name: str, args: Any, found: Any, degree: int) -> bool:
        """Whether rows of a table were added up, with weights or none; note the degree of these sums."""
        if not name.startswith("_embedding_bag") or args[4] not in SUMS or any(map(self.of, args[1:3])):
            return False
        self._note(found[0], min(degree, NONE), next((w for part in args if (w := self.why(part))), ""))
        return True

    def _after(self, name: str, args: Any, kwargs: Any, degrees: list[int]) -> int:
        """Return the degree of what an operation makes of operands of these degrees."""
        if name.rstrip("_") in LINEAR:
            rest = () if name in LISTS else leaves_of((*args[1:], *kwargs.values()))
            return NONE if any(self.of(part) for part in rest) else max(degrees)
        if name in ALGEBRA:
            return ALGEBRA[name](degrees)
        if name in QUOTIENTS:
            return NONE if len(args) < 2 or self.of(args[1]) or kwargs.get("rounding_mode") else degrees[0]
        if name == "pow":
            power = args[1] if len(args) > 1 else None
            return degrees[0] * POWERS.get(float(power), NONE) if isinstance(power, (int, float)) else NONE
        return max(degrees) if self._chooses(name, args, kwargs) else NONE

    def _chooses(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether an operation puts its operands in places that no latent chooses."""
        if name == "where":
            return len(args) > 2 and not self.of(args[0])
        every = list(leaves_of((*args[1:], *kwargs.values())))
        places = [part for part in every if isinstance(part, Tensor) and not part.is_floating_point()]
        added = all(part in SUMS for part in every if isinstance(part, str))
        return name in WRITES and added and not any(self.of(part) for part in places)


def _rounded(found: Any, latents: list[Tensor]) -> bool:
    """Whether what an operation makes of latents is a whole number, or has fewer digits than they have."""
    digits = max(map(_digits, latents))
    return any(_digits(part) < digits for part in leaves_of(found) if isinstance(part, Tensor))


def _digits(part: Tensor) -> int:
    """Return how many bits a number has, or its real part; none of one that is whole."""
    return torch.finfo(part.dtype).bits if part.is_floating_point() or part.is_complex() else 0


class Leaving(TorchFunctionMode):
    """Watches for what takes the numbers of a tensor out of torch, where their degree is lost."""

    def __init__(self, degrees: Degrees) -> None:
        """Begin with the degrees that are watched beside it."""
        super().__init__()
        self.degrees = degrees

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Remember the first."""
        name = getattr(func, "__name__", "")
        if name in LEAVES and args and self.degrees.of(args[0]):
            self.degrees.read = self.degrees.read or name
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:  # of a sparse matrix there is no view
        return -id(tensor)
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata


def sites_of_latents(program: Program, params: Params, latents: Params) -> frozenset[str]:
    """Return the sites that the latents enter, each with a residual that is affine in them: proved for all values.

    Args:
        program: what is run.
        params: values of its parameters.
        latents: of what is integrated.

    Raises:
        ModelError: a site is not linear-Gaussian in the latents; the message names it and the operation.
    """
    with torch.no_grad(), Degrees(latents) as degrees, Leaving(degrees):
        sites = program.run(params, latents)
    if degrees.read:
        raise ModelError(
            f"The model: expected no branch on a continuous latent, got one (a number is read out of a tensor that "
            f"depends on {_listed(latents)}: {degrees.read}). {_remedy(latents)}"
        )
    found = set[str]()
    for name, site in sites.items():
        with torch.no_grad(), degrees:
            entered = name in latents or any(degrees.of(part) for _, part in _parts(site))
        if entered:
            _check(name, site, degrees, _remedy(latents))
            found.add(name)
    return frozenset(found)


def _remedy(latents: Mapping[str, Any]) -> str:
    """Say what can be done of latents that are no part of a normal law."""
    return f"Integrate {_listed(latents)} by em_pyro.quadrature, or write a marginal density."


def _check(name: str, site: Site, degrees: Degrees, remedy: str) -> None:
    """Refuse a site that is no Normal, MultivariateNormal or Delta whose residual alone has latents in it."""
    base = unwrap(site.fn).base
    kind = type(base).__name__
    if kind not in LOCATION:
        raise ModelError(
            f'Site "{name}": expected Normal, MultivariateNormal or Delta where a continuous latent enters, got '
            f"{kind}. {remedy}"
        )
    location = LOCATION[kind]
    for what, part in _parts(site):
        degree = degrees.of(part)
        through = f" through {degrees.why(part)}" if degree == NONE and degrees.why(part) else ""
        if what in ("value", location):
            if degree > 1:
                how = "as a product of latents" if degree < NONE else f"nonlinearly{through}"
                raise ModelError(
                    f'Site "{name}": expected a residual that is affine in the continuous latents, got one that they '
                    f"enter {how}. {remedy}"
                )
        elif degree:
            what = what.removeprefix("_unbroadcasted_")
            raise ModelError(
                f'Site "{name}": expected latents in the location alone, got one in its {what}{through}. {remedy}'
            )


def _parts(site: Site) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a site: value, arguments, masks and weight; of other laws the density."""
    yield "value", site.value
    base = unwrap(site.fn).base
    if type(base).__name__ not in LOCATION:
        yield "density", site.log_prob().tensor
    masks = {key: mask.tensor for key, mask in masks_of(site).items()}
    for key, part in {**vars(base), **masks, "row weights": site.scale}.items():
        if isinstance(part, Tensor):
            yield key, part


def _listed(latents: Mapping[str, Any]) -> str:
    return listed([f'"{name}"' for name in latents])
