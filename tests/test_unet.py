"""The backbones: shapes, starts, what reaches what, and convolutions and norms against torch's own."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from maquette.base.errors import WrongUse
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.dit import DiT
from maquette.models.diffusion.unet import ResidualBlock, UNet
from maquette.nn.parametrisation import declared, initialise
from maquette.nn.rules import Parametrisation, Scaling

RULES = Parametrisation(base_width=16, base_depth=1)
SMALL = DiffusionConfig(
    image_size=16, width=16, depth=1, heads=2, multipliers=(1, 2), parametrisation=RULES
)
DIT = DiffusionConfig(
    image_size=16, width=32, depth=2, heads=2, patch=4, backbone="dit", parametrisation=RULES
)


def make(config: DiffusionConfig, kind: type = UNet):
    """A backbone in which nothing is zero, as if it had been trained."""
    scaling = Scaling(config.parametrisation, config.width, config.depth)
    model = kind(config, scaling, *doors(config))
    initialise(model, scaling, 0)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1 and float(p.abs().max()) == 0:
                p.normal_(0, 0.1)
    return model.eval()


def doors(config: DiffusionConfig) -> tuple[int, int | None]:
    """Channels of the input, and the width of the tokens."""
    channels = 3 + {"generate": 0, "inpaint": 4, "upsample": 3}[config.task]
    return channels, config.text_width if config.condition == "text" else None


def inputs(config: DiffusionConfig, n: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    channels, context = doors(config)
    x = torch.randn(n, channels, config.image_size, config.image_size)
    arguments = [x, torch.randn(n, config.vector)]
    if context:
        arguments.append(torch.randn(n, 5, context))
    return arguments


CONFIGS = [
    (SMALL, UNet),
    (DiffusionConfig(image_size=16, width=16, depth=2, heads=2, multipliers=(1, 2, 3), attention=(8, 4),
                     condition="text", text_width=8, text_heads=2, parametrisation=RULES), UNet),
    (DiffusionConfig(image_size=24, width=16, patch=2, depth=1, heads=2, multipliers=(1, 2), task="inpaint",
                     parametrisation=RULES), UNet),
    (DIT, DiT),
    (DiffusionConfig(image_size=16, width=32, depth=2, heads=2, patch=4, backbone="dit", task="upsample",
                     condition="text", text_width=8, text_heads=2, parametrisation=RULES), DiT),
]  # fmt: skip


@pytest.mark.parametrize(("config", "kind"), CONFIGS)
def test_a_backbone_gives_three_channels_and_a_gradient_to_every_parameter(config, kind):
    model = make(config, kind)
    out = model(*inputs(config))
    assert out.shape == (2, 3, config.image_size, config.image_size)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and float(p.grad.abs().max()) > 0, name


@pytest.mark.parametrize(("config", "kind"), CONFIGS)
def test_it_starts_at_zero(config, kind):
    scaling = Scaling(config.parametrisation, config.width, config.depth)
    model = kind(config, scaling, *doors(config))
    initialise(model, scaling, 0)
    assert float(model(*inputs(config)).detach().abs().max()) == 0


@pytest.mark.parametrize(("config", "kind"), CONFIGS)
def test_pictures_of_a_batch_do_not_see_each_other(config, kind):
    model, arguments = make(config, kind), inputs(config, 3)
    with torch.no_grad():
        whole = model(*arguments)
        for i in range(3):
            assert_close(
                model(*[a[i : i + 1] for a in arguments])[0], whole[i], atol=2e-4, rtol=1e-3
            )


@pytest.mark.parametrize(("config", "kind"), CONFIGS)
def test_in_bf16_it_is_nearly_the_same(config, kind):
    model, (x, *rest) = make(config, kind), inputs(config)
    with torch.no_grad():
        exact, rounded = model(x, *rest), model(x.bfloat16(), *rest)
    assert rounded.dtype == torch.float32
    assert float((exact - rounded).norm() / exact.norm()) < 0.05


def test_every_place_sees_every_other_through_the_middle():
    model, (x, vector) = make(SMALL), inputs(SMALL, 1)
    x.requires_grad_()
    model(x, vector)[0, :, 0, 0].sum().backward()
    assert bool((x.grad[0].abs().sum(0) > 0).all())


def test_hidden_tokens_change_nothing():
    config = CONFIGS[1][0]
    model, (x, vector, context) = make(config), inputs(config)
    mask = torch.tensor([[True, True, False, True, False]] * 2)
    with torch.no_grad():
        one = model(x, vector, context, mask)
        other = context.clone()
        other[:, [2, 4]] = 9.0
        assert torch.equal(model(x, vector, other, mask), one)
        other[:, 1] = 9.0
        assert not torch.allclose(model(x, vector, other, mask), one, atol=1e-3)


def test_a_residual_block_is_what_its_docstring_says():
    """Against torch's functions, in one channel order and the other."""
    block = ResidualBlock(32, 48, 8)
    initialise(block, Scaling(RULES, 16, 1), 0)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in block.parameters():
            p.normal_(0, 0.2)
    x, vector = torch.randn(2, 32, 8, 8), torch.randn(2, 8)
    b = dict(block.named_parameters())
    h = F.silu(F.group_norm(x, 2, b["first_norm.weight"], b["first_norm.bias"]))
    h = F.conv2d(h, b["first.weight"], b["first.bias"], padding=1)
    scale, shift = F.linear(vector, b["film.weight"], b["film.bias"]).chunk(2, dim=1)
    h = F.group_norm(h, 3, b["second_norm.weight"], b["second_norm.bias"])
    h = F.silu(h * (1 + scale)[:, :, None, None] + shift[:, :, None, None])
    h = F.conv2d(h, b["second.weight"], b["second.bias"], padding=1)
    expected = h + F.conv2d(x, b["shortcut.weight"], b["shortcut.bias"])
    assert_close(block(x, vector), expected, atol=1e-4, rtol=1e-4)
    last = x.contiguous(memory_format=torch.channels_last)
    out = block(last, vector)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_the_input_of_a_patched_unet_is_ordered_by_channel():
    """So that weights for more channels follow those for the picture's three."""
    config = CONFIGS[2][0]
    model, (x, vector) = make(config), inputs(config, 1)
    with torch.no_grad():
        model.input.weight[:, 3 * 4 :] = 0
        one = model(x, vector)
        x[:, 3:] = 5.0
        assert torch.equal(model(x, vector), one)


def test_dit_knows_where_a_patch_stands():
    """Without positions, exchanged patches would come out exchanged."""
    model, (x, vector) = make(DIT, DiT), inputs(DIT, 1)
    swapped = x.clone()
    swapped[..., :4, :4], swapped[..., 4:8, 8:12] = x[..., 4:8, 8:12], x[..., :4, :4]
    with torch.no_grad():
        a, b = model(x, vector), model(swapped, vector)
        assert float((a[..., :4, :4] - b[..., 4:8, 8:12]).abs().max()) > 1e-2
        model.positions.zero_()
        a, b = model(x, vector), model(swapped, vector)
        assert_close(a[..., :4, :4], b[..., 4:8, 8:12], atol=1e-4, rtol=1e-3)


def test_more_resolution_costs_in_proportion():
    """Convolutions have no part that grows faster than the pixels; the middle's attention has."""
    counts = []
    for size in (16, 32):
        config = DiffusionConfig(image_size=size, width=16, depth=1, heads=2, attention=(),
                                 parametrisation=RULES, multipliers=(1, 2))  # fmt: skip
        model, arguments = make(config), inputs(config, 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*arguments)
        counts.append(counter.get_total_flops())
    assert 3.9 < counts[1] / counts[0] < 4.6  # the time costs as much at every size


def test_the_smallest_level_attends_at_any_size():
    """At 32 and three levels as where 8 is named; at 64, too, there is attention in its blocks."""
    named = DiffusionConfig(attention=(8,))
    assert DiffusionConfig().attention_resolutions == named.attention_resolutions == (8,)
    assert DiffusionConfig() == named, "a run that was begun with the one goes on with the other"
    assert DiffusionConfig().parameters() == named.parameters()
    wide = DiffusionConfig(image_size=64)
    assert wide.attention_resolutions == (16,) and wide.parameters() == named.parameters()
    assert DiffusionConfig(image_size=64, attention=(32, 16)).attention_resolutions == (32, 16)


def test_every_parameter_has_a_role():
    for config, kind in CONFIGS:
        model = make(config, kind)
        assert len(list(declared(model))) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image_size": 30}, "halved 2 times"),
        ({"width": 20}, "multiple of 8"),
        ({"multipliers": ()}, "as in 1,2,2"),
        ({"patch": 3}, "use patch 2"),
        (
            {"image_size": 64, "attention": (8,)},
            "at resolution 8: this U-Net's levels have resolutions 64, 32, 16;",
        ),
        ({"backbone": "dit", "width": 40, "patch": 4}, "multiple of 4 x heads"),
        ({"condition": "class"}, "give the classes"),
        ({"classes": (3,)}, "give the classes"),
        ({"path": "flow"}, "velocity"),
        ({"prediction": "velocity"}, "velocity"),
        ({"task": "upsample", "scale": 3}, "divisible by scale 3"),
        ({"condition": "text", "text_width": 30}, "use text_width 32"),
        ({"drop": 1.5}, "drop"),
    ],
)
def test_a_shape_that_cannot_be(wrong, words):
    with pytest.raises(WrongUse, match=words):
        DiffusionConfig(**wrong)
