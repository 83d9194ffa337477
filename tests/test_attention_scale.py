"""What q k is multiplied by, in every model that attends: as the parametrisation says, by its head."""

import math

import pytest
import torch
from torch.nn import functional as F

from maquette.models.base import PictureBatch, TokenBatch
from maquette.models.clip_config import ClipConfig
from maquette.models.config import DecoderConfig
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.prior_config import PriorConfig
from maquette.models.vit_config import ViTConfig
from maquette.nn.rules import Parametrisation

CAPTIONS = {"vocabulary": 9, "caption_length": 5}
TEXT = {"condition": "text", "text_width": 24, "text_depth": 1, "text_heads": 2, **CAPTIONS}
MODELS = {
    "decoder": (DecoderConfig, {"vocabulary": 9, "context": 8, "width": 32, "depth": 2, "heads": 4,
                                "kv_heads": 2}, [8, 8]),
    "decoder, wide heads": (DecoderConfig, {"vocabulary": 9, "context": 8, "width": 32, "depth": 1,
                                            "heads": 2, "head_dim": 32, "band": 4}, [32]),
    "vit": (ViTConfig, {"image_size": 8, "patch": 4, "width": 32, "depth": 2, "heads": 4, "classes": (3,)},
            [8, 8]),
    "clip": (ClipConfig, {"image_size": 8, "patch": 4, "width": 32, "depth": 1, "heads": 2, "text_width": 24,
                          "text_depth": 2, "text_heads": 2, "embedding": 8, **CAPTIONS}, [16, 12, 12]),
    "dit": (DiffusionConfig, {"backbone": "dit", "image_size": 8, "patch": 4, "width": 32, "depth": 1,
                              "heads": 2, **TEXT}, [12, 16, 16]),
    "unet": (DiffusionConfig, {"image_size": 8, "width": 16, "multipliers": (1, 2), "heads": 2, "depth": 1,
                               "attention": (8, 4), **TEXT}, [12, 8, 8, *[16] * 6, 8, 8]),
    "diffusion prior": (PriorConfig, {"embedding": 8, "width": 32, "depth": 2, "heads": 4, **CAPTIONS},
                        [8, 8]),
    "autoregressive prior": (PriorConfig, {"variant": "autoregressive", "embedding": 8, "width": 32,
                                           "depth": 1, "heads": 2, "components": 3, **CAPTIONS}, [16]),
}  # fmt: skip
"""config, settings, and the heads' sizes in the order they attend"""


def batch(kind: str) -> TokenBatch | PictureBatch:
    draw = torch.Generator().manual_seed(0)
    if kind.startswith("decoder"):
        rows = torch.randint(0, 9, (2, 9), generator=draw)
        return TokenBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
    captions = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 0, 0, 0, 0], [7, 8, 1, 2, 0]])
    unit = F.normalize(torch.randn(2, 4, 8, generator=draw), dim=2)
    labels = torch.tensor([[0], [1], [2], [0]])
    return PictureBatch(torch.rand(4, 3, 8, 8, generator=draw), captions, labels, *unit)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rules", ["mup", "standard"])
def test_attention_falls_as_one_over_the_head_under_maximal_update_rules(kind, rules, monkeypatch):
    """sqrt(base head) / head, and 1 / sqrt(head) under standard ones; never the kernel's own default."""
    make, settings, heads = MODELS[kind]
    parametrisation = Parametrisation(kind=rules, base_width=16, base_depth=1, base_head_dim=4)
    model = make(**settings, parametrisation=parametrisation).build().initialise(0)
    plain, found = F.scaled_dot_product_attention, []

    def attention(q, k, v, *rest, scale=None, **options):
        found.append((q.shape[-1], scale))
        return plain(q, k, v, *rest, scale=scale, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    model.loss(batch(kind))
    assert [head for head, _ in found] == heads
    for head, scale in found:
        expected = math.sqrt(4) / head if rules == "mup" else 1 / math.sqrt(head)
        assert scale == pytest.approx(expected), head


@pytest.mark.parametrize("masked", [False, True])
def test_plain_products_have_the_scale_they_are_given(masked):
    """What takes the kernel's place for short sequences in bf16 on a processor."""
    from maquette.nn.attention import attend
    from maquette.nn.mask import Mask

    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 2, 6, 4, generator=draw).bfloat16().requires_grad_() for _ in range(3)
    )
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = not masked
    for scale in (0.05, 0.9):
        scores = (q.float() @ k.float().transpose(-1, -2)) * scale
        seen = mask[:, None, None, :].expand_as(scores)
        expected = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v.float()
        found = attend(q, k, v, Mask(attention_mask=mask if masked else None), scale=scale)
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
        earlier = torch.ones(6, 6, dtype=torch.bool).tril()
        expected = scores.masked_fill(~earlier, -torch.inf).softmax(-1) @ v.float()
        found = attend(q, k, v, Mask(causal=True), scale=scale)
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
