"""A second device, pretended: its tensors carry a mark, and what would fail or wait on a real one is seen.

Marked tensors say that they are on `cuda:0`. An operation that mixes them with others raises, as it would there, and
every operation that would make the host wait for the device is counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

THERE, HERE = torch.device("cuda:0"), torch.device("cpu")
MAKERS = frozenset(
    {
        torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.rand,
        torch.randint, torch.randn, torch.randperm, torch.scalar_tensor, torch.tensor, torch.tril_indices,
        torch.triu_indices, torch.zeros,
    }
)  # fmt: skip
WAITING = frozenset(
    "item tolist numpy cpu nonzero equal unique bincount allclose is_nonzero masked_select argwhere "
    "__bool__ __float__ __int__ __index__".split()
)
STRICT = frozenset(
    "cat stack index_select index_add index_add_ gather scatter scatter_add scatter_add_ bucketize searchsorted mm "
    "matmul __matmul__ bmm".split()
)
"""Operations that want even a single number on the same device."""

FREE = frozenset("copy_ size dim numel stride is_contiguous __len__ broadcast_tensors result_type __repr__".split())
"""Operations that may mix devices, or look at shapes only."""


class MixedDevicesError(RuntimeError):
    """An operation whose tensors are not on one device."""


def there(value: Tensor) -> bool:
    """Whether a tensor is on the second device."""
    return bool(value.__dict__.get("there", False))


def sent(value: Any) -> Any:
    """Copy all tensors of some arguments to the second device."""
    if isinstance(value, Tensor):
        return _mark(value.clone())
    if isinstance(value, (tuple, list)):
        return type(value)(sent(part) for part in value)
    return value


def _mark(found: Any) -> Any:
    for tensor in _tensors((found,)):
        tensor.__dict__["there"] = True
    return found


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among values and in the lists and tables among them; called for every operation of torch."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
        elif isinstance(value, dict):
            found += _tensors(value.values())
    return found


def _mapped(vmap: Any, func: Callable[..., Any], *options: Any, **named: Any) -> Callable[..., Any]:
    """`torch.func.vmap`, whose tensors are where those are that they are parts of, or results."""

    def mapped(*values: Any) -> Any:
        where = list[bool]()

        def inside(*parts: Any) -> Any:
            for part, whole in zip(_tensors(parts), _tensors(values), strict=True):
                part.__dict__["there"] = there(whole)
            found = func(*parts)
            where.extend(there(tensor) for tensor in _tensors((found,)))
            return found

        found = vmap(inside, *options, **named)(*values)
        for tensor, marked in zip(_tensors((found,)), where, strict=True):
            tensor.__dict__["there"] = marked
        return found

    return mapped


class SecondDevice(TorchFunctionMode):
    """While it is entered, marked tensors behave as if they were on a second device."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._vmap: Any = torch.func.vmap

    def __enter__(self) -> "SecondDevice":
        """Let what is mapped over a dimension keep its mark, which torch would put on no tensor."""
        torch.func.vmap = partial(_mapped, self._vmap)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        """Leave torch as it was."""
        torch.func.vmap = self._vmap
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function of torch."""
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "__get__":
            return self._looked_up(func, args)
        tensors = _tensors((*args, *kwargs.values()))
        marked = [tensor for tensor in tensors if there(tensor)]
        wanted: torch.device | None = None
        if kwargs.get("device") is not None:
            wanted, kwargs["device"] = torch.device(kwargs["device"]), HERE
        if name in ("to", "cpu"):
            return self._moved(name, func, args, kwargs, wanted)
        if func in MAKERS or name.startswith("new_") or name.endswith("_like"):
            found = func(*args, **kwargs)
            goes = bool(marked) and func not in MAKERS - {torch.as_tensor} if wanted is None else wanted.type == "cuda"
            return self._placed(found, goes=goes)
        if marked and name in WAITING:
            self.waits[name] += 1
        if marked and name not in FREE:
            self._refuse_mixed(name, args, tensors)
        found = func(*args, **kwargs)
        return _mark(found) if marked else found

    def _looked_up(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        what = getattr(getattr(func, "__self__", None), "__name__", "")
        marked = there(args[0])
        if marked and what in ("device", "is_cuda", "is_cpu"):
            return {"device": THERE, "is_cuda": True, "is_cpu": False}[what]
        return _mark(func(*args)) if marked else func(*args)

    def _moved(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        wanted: torch.device | None,
    ) -> Any:  # fmt: skip
        """`to` and `cpu`: the result is on the device asked for, by whatever it was named."""
        if name == "cpu":
            wanted = HERE
        for other in args[1:]:
            if isinstance(other, (torch.device, str)):
                wanted = torch.device(other)
            elif isinstance(other, Tensor):
                wanted = THERE if there(other) else HERE
        plain = tuple(HERE if isinstance(a, (torch.device, str)) else a for a in args)
        goes = there(args[0]) if wanted is None else wanted.type == "cuda"
        self.waits["to"] += there(args[0]) and not goes
        return self._placed(func(*plain, **kwargs), goes=goes)

    def _placed(self, found: Tensor, *, goes: bool) -> Tensor:
        """The result, on the second device or not: a copy where it is an argument that is elsewhere."""
        if there(found) == goes:
            return found
        return _mark(found.clone()) if goes else found.detach().clone()

    def _refuse_mixed(self, name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
        """Raise where a real device would: an index, and a single number in arithmetic, may be on the host."""
        away = [t for t in tensors if not there(t) and (t.dim() > 0 or name in STRICT)]
        if name == "__getitem__":
            away = [t for t in away if t is args[0]]
        if name == "__setitem__":
            away = [t for t in (args[0], args[2]) if isinstance(t, Tensor) and not there(t) and t.dim() > 0]
        if away:
            raise MixedDevicesError(f"{name}: expected all tensors on {THERE}, got one of shape {tuple(away[0].shape)}")
