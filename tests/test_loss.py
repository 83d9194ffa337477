"""The chunked loss against the plain one: value, gradients, z-loss, ignored targets."""

import pytest
import torch
from torch.nn import functional as F

from maquette.nn.loss import linear_cross_entropy


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("multiplier", [1.0, 0.25])
def test_equals_the_plain_loss_and_its_gradients(z_loss, with_bias, multiplier, monkeypatch):
    monkeypatch.setattr("maquette.nn.loss.CHUNK_BYTES", {"cpu": 4 * 11 * 5})  # five rows a chunk
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, requires_grad=True)
    weight = torch.randn(11, 8, requires_grad=True)
    bias = torch.randn(11, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 11, (23,))
    targets[3] = targets[17] = -100
    logits = multiplier * hidden @ weight.T + (0 if bias is None else bias)
    plain = F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
    z = (z_loss * torch.logsumexp(logits, -1).square())[targets >= 0].sum()
    total, entropy = linear_cross_entropy(hidden, weight, targets, bias, multiplier, z_loss)
    torch.testing.assert_close(total, plain + z)
    torch.testing.assert_close(entropy, plain)
    inputs = [t for t in (hidden, weight, bias) if t is not None]
    wanted = torch.autograd.grad((plain + z) / 7, inputs)
    found = torch.autograd.grad(total / 7, inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_without_gradients_it_gives_the_same_value_and_keeps_nothing():
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 8), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(0, 11, (9,))
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, targets)
    assert not total.requires_grad
    torch.testing.assert_close(total, F.cross_entropy(hidden @ weight.T, targets, reduction="sum"))


def test_the_logits_never_exist_whole():
    """At most one chunk of logits is alive: the largest matrix product gives a chunk's rows."""
    rows = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == 50_000:
                rows.append(out.shape[0])
            return out

    hidden = torch.randn(600, 4, requires_grad=True)
    weight = torch.randn(50_000, 4, requires_grad=True)
    with Watch():
        linear_cross_entropy(hidden, weight, torch.zeros(600, dtype=torch.long))
    assert rows
    assert max(rows) * 50_000 * 4 <= 1 << 24
