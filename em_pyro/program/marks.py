"""What a tensor was computed from: latents, by marks that it carries; parameters, by the graph of its gradient.

Marks are Pyro's provenance, without a walk through every tree of arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from pyro.ops.provenance import ProvenanceTensor, extract_provenance, track_provenance
from torch import Tensor
from torch.distributions import transform_to

from .changes.lost import MADE_OF, arguments_of
from .named import Params, unexpand, unwrap
from .program import Program
from .site import Site

Marks = frozenset[str]
WITHOUT = frozenset({bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device})
"""Kinds of values that carry no marks: Pyro would look for tensors inside, and find none."""


class Marked(ProvenanceTensor):
    """A tensor that carries the names of latents; what is computed from it carries them too."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute by plain tensors, and mark what comes out."""
        found = set[str]()
        plain = _plain(args, found), _plain(kwargs or {}, found)
        return _marked(func(*plain[0], **plain[1]), frozenset(found))


def _plain(value: Any, found: set[str]) -> Any:
    """Take the marks off all tensors inside, and add them to `found`."""
    if isinstance(value, ProvenanceTensor):
        found |= value._provenance
        return value._t
    kind = type(value)
    if kind in WITHOUT:
        return value
    if kind is tuple or kind is list:
        return kind([_plain(part, found) for part in value])
    if kind is dict:
        return {key: _plain(part, found) for key, part in value.items()}
    if isinstance(value, (tuple, list, dict, set, frozenset)):  # of a kind that Pyro takes apart
        value, marks = extract_provenance(value)
        found |= marks
    return value


def _marked(value: Any, marks: Marks) -> Any:
    if isinstance(value, ProvenanceTensor):
        return track_provenance(value, marks)
    if isinstance(value, Tensor):
        return Marked(value, marks)
    if type(value) in WITHOUT:
        return value
    if type(value) is tuple or type(value) is list:
        return type(value)([_marked(part, marks) for part in value])
    return track_provenance(value, marks)


def marks_of(*values: Any) -> Marks:
    """Return the latents on which any tensor in some values, or inside some distributions, depends."""
    found = set[str]()
    _gather(values, found, ())
    return frozenset(found)


def _gather(values: Iterable[Any], found: set[str], inside: tuple[Any, ...]) -> None:
    """Add those of values in what they are `inside` of: a transform and its inverse hold one another."""
    for value in values:
        if isinstance(value, MADE_OF):
            if not any(value is one for one in inside):
                _gather(vars(value).values(), found, (*inside, value))
        elif type(value) in (list, tuple) and any(isinstance(part, MADE_OF) for part in value):
            _gather(value, found, inside)
        else:
            _plain(value, found)


def traced_run(
    program: Program, values: Params, latents: Params | None = None
) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """Replay with a gradient: leaves are unconstrained values (a module's weights themselves).

    Args:
        program: what is run.
        values: of its parameters.
        latents: of what is integrated, in place of those that stand for it.
    """
    leaves, constrained = {}, {}
    for name, value in values.items():
        parameter = program.parameters[name]
        if parameter.tensor is not None:
            leaves[name], constrained[name] = parameter.tensor, value
            continue
        transform = transform_to(parameter.constraint)
        leaves[name] = transform.inv(value).detach().requires_grad_()
        constrained[name] = transform(leaves[name])
    with torch.enable_grad():
        return leaves, program.run(constrained, latents)


def tensors_of(site: Site) -> list[Tensor]:
    """Return every floating tensor that a site's density may depend on."""
    return [site.value, *(tensor for _, tensor in arguments_of(site.fn))]


def reached(
    traced: Mapping[str, Any], leaves: Mapping[str, Tensor], of: Callable[[Any], Sequence[Tensor]] | None = None
) -> dict[str, frozenset[str]]:
    """Return the parameters that each site depends on, by walking the graph of the gradient, each of its nodes once.

    `of` says which tensors of a site, or of what else has a name, are asked for; None is all of a site.
    """
    names = {id(leaf): name for name, leaf in leaves.items()}
    known: dict[Any, frozenset[str]] = {}  # the nodes are kept: their identity is that of the Python object

    def below(root: Any) -> frozenset[str]:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in known:
                stack.pop()
                continue
            inputs = [parent for parent, _ in node.next_functions if parent is not None]
            waiting = [parent for parent in inputs if parent not in known]
            if waiting:
                stack.extend(waiting)
                continue
            leaf = getattr(node, "variable", None)  # of a node that accumulates a gradient
            own = frozenset({names[id(leaf)]}) if leaf is not None and id(leaf) in names else frozenset()
            known[node] = own.union(*(known[parent] for parent in inputs))
            stack.pop()
        return known[root]

    found = {}
    for name, site in traced.items():
        parts = []
        for tensor in (unexpand(t) for t in (of or tensors_of)(site) if t.requires_grad):
            if tensor.grad_fn is None:
                parts.append(frozenset({names[id(tensor)]}) if id(tensor) in names else frozenset())
            else:
                parts.append(below(tensor.grad_fn))
        found[name] = frozenset[str]().union(*parts)
    return found


def bounding(program: Program, values: Params, name: str) -> frozenset[str]:
    """Return the parameters that enter the support of a site, by one more run."""
    with program.given(values):
        leaves, traced = traced_run(program, values)
    return reached({name: traced[name]}, leaves, lambda site: _bounds(unwrap(site.fn).base.support))[name]


def is_known(program: Program, values: Params, name: str, argument: str) -> bool:
    """Tell whether an argument of a site is data alone: no parameter enters it, by one more run."""
    with program.given(values):
        leaves, traced = traced_run(program, values)
    return not reached({name: traced[name]}, leaves, lambda site: [getattr(unwrap(site.fn).base, argument)])[name]


def _bounds(support: Any) -> list[Tensor]:
    """Return the tensors of which a constraint is made."""
    found = list(vars(support).values())
    parts = [part for part in found if isinstance(part, torch.distributions.constraints.Constraint)]
    return [part for part in found if isinstance(part, Tensor)] + [t for part in parts for t in _bounds(part)]


def not_fitted(traced: Mapping[str, Site], leaves: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the sites that depend on a tensor which takes a gradient and is no parameter, with the shape of one."""
    own, met = {id(leaf) for leaf in leaves.values()}, set[Any]()
    tensors = [unexpand(t) for site in traced.values() for t in tensors_of(site) if t.requires_grad]
    stack = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    ends = [tensor for tensor in tensors if tensor.grad_fn is None]
    while stack:
        node = stack.pop()
        ends += [node.variable] if hasattr(node, "variable") else []
        inputs = [parent for parent, _ in node.next_functions if parent is not None and parent not in met]
        met.update(inputs)
        stack += inputs
    found = {f"{k}": leaf for k, leaf in enumerate(ends) if id(leaf) not in own}
    sites = reached(traced, found) if found else {}
    return {name: tuple(found[min(keys)].shape) for name, keys in sites.items() if keys}
