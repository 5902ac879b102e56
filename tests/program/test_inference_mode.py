"""Tensors of `torch.inference_mode`, and fits within it."""

import pyro
import pytest
import torch
from test_fingerprint import X, rates
from torch import tensor

from em_pyro import EM, EMError


@pytest.mark.parametrize("outside", [False, True], ids=["argument", "closure"])
def test_tensors_of_inference_mode_are_refused_by_name(*, outside: bool) -> None:
    """Autograd may not use them, and torch says so in words of its own."""
    with torch.inference_mode():
        x = tensor(X)
    with pytest.raises(EMError, match=r"inference_mode.*clone"):
        EM((lambda: rates(x)) if outside else rates).fit(*([] if outside else [x]))


@pytest.mark.parametrize("how", ["torch", "closed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_inference_mode_changes_nothing(how: str, dtype: torch.dtype) -> None:
    """A fit within it is the fit outside; so are steps and posteriors."""
    x = tensor(X, dtype=dtype)

    def run() -> tuple[float, ...]:
        pyro.clear_param_store()
        em = EM(rates, m_step={"loc": how})
        return em.step(x), em.fit(x).log_likelihood, float(em.posterior(x).log_evidence)

    outside = run()
    with torch.inference_mode():
        assert run() == outside
        assert torch.is_inference_mode_enabled()
