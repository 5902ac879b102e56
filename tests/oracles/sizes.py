"""How large the tensors are that operations make."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """Remembers how many bytes the largest tensor has that an operation made, views of others apart."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what came out."""
        out = func(*args, **(kwargs or {}))
        flat = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        known = {a.untyped_storage().data_ptr() for a in flat}
        for made in torch.utils._pytree.tree_leaves(out):
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in known:
                self.size = max(self.size, made.untyped_storage().nbytes())
        return out
