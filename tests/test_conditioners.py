"""A conditioner that is made here: learned, guided and sampled without a change of the model's files."""

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from maquette.base.errors import UserError, WrongUse
from maquette.models.base import PictureBatch
from maquette.models.diffusion.conditioner import Conditioner, Signal
from maquette.models.diffusion.conditioners import CONDITIONERS
from maquette.models.diffusion.config import DiffusionConfig
from maquette.nn.linear import Linear
from maquette.nn.rules import Parametrisation


@dataclass(frozen=True, kw_only=True)
class BrightConfig(DiffusionConfig):
    """A model that is told how bright a picture is, by one door or by all three."""

    doors: Literal["vector", "tokens", "channels"] = "vector"


@dataclass
class BrightBatch(PictureBatch):
    levels: Tensor | None = None


class Brightness(Conditioner):
    """Values (n, 1); 0 stands for none."""

    def __init__(self, config: BrightConfig) -> None:
        super().__init__()
        self.drop, self.door, self.image_size = config.drop, config.doors, config.image_size
        self.attended, self.channels = self.door == "tokens", int(self.door == "channels")
        width = {"vector": config.vector, "tokens": config.text_width, "channels": 1}[self.door]
        self.projection = Linear(1, width, bias=True)

    @classmethod
    def of(cls, config, scaling):
        return cls(config) if isinstance(config, BrightConfig) else None

    def null(self, n, device):
        return torch.full((n, 1), 0.0, device=device)

    def example(self, batch):
        if batch.levels is None:
            raise UserError("how bright the pictures are is not said")
        return batch.levels

    def forward(self, value, compute):
        told = self.projection(4 * value)  # (n, width)
        if self.door == "vector":
            return Signal(told)
        if self.door == "tokens":
            return Signal(tokens=told[:, None].to(compute))
        return Signal(
            channels=told[:, :, None, None].expand(-1, 1, self.image_size, self.image_size)
        )


@pytest.fixture(autouse=True)
def one_more(monkeypatch):
    monkeypatch.setitem(CONDITIONERS, "brightness", Brightness)


def build(doors: str, **changes):
    rules = Parametrisation(base_width=16, base_depth=1)
    sizes = {"image_size": 8, "width": 16, "depth": 1, "heads": 2, "multipliers": (1, 2), "text_heads": 2,
             "text_width": 16, "text_depth": 1, "vocabulary": 20, "caption_length": 4}  # fmt: skip
    config = BrightConfig(**(sizes | changes), doors=doors, parametrisation=rules)
    return config.build().initialise(0)


def batch(n: int = 16) -> BrightBatch:
    levels = torch.tensor([-0.6, 0.5])[torch.arange(n) % 2, None]
    pictures = levels[:, :, None, None].expand(n, 3, 8, 8).contiguous()
    captions = torch.tensor([[3, 4, 0, 0]]).expand(n, 4)
    return BrightBatch(pictures, captions=captions, levels=levels)


@pytest.mark.parametrize("doors", ["vector", "tokens", "channels"])
def test_it_is_learned_and_guided(doors):
    model = build(doors, drop=0.2).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    torch.manual_seed(0)
    for step in range(150):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, 2 - step / 75)
        optimiser.zero_grad()
        (model.loss(batch()).total / 16).backward()
        optimiser.step()
    model.eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    late, levels = torch.tensor(0.95), batch(2).levels
    with torch.no_grad():
        told = model.denoiser(model.condition(2, brightness=levels))(x, late).mean((1, 2, 3))
        free = model.denoiser(model.condition(2))(x, late).mean((1, 2, 3))
        more = model.denoiser(model.condition(2, brightness=levels), 1.5)(x, late).mean((1, 2, 3))
    assert_close(told, levels[:, 0], atol=0.25, rtol=0)
    assert float((free[0] - free[1]).abs()) < 0.5 < float((told[0] - told[1]).abs())
    assert float((more[1] - more[0]) - (told[1] - told[0])) > 0, "further from the unconditional"


@pytest.mark.parametrize("doors", ["vector", "tokens", "channels"])
def test_it_stands_beside_captions_and_known_pixels(doors):
    model = build(doors, condition="text", task="inpaint").eval()
    assert list(model.conditioners) == ["text", "known_pixels", "brightness"] and model.guided
    given = batch(3)
    signal = model.shown(given).joined()
    assert signal.tokens.shape[1] == 3 + (doors == "tokens")  # two tokens and the end
    assert signal.mask.shape == signal.tokens.shape[:2] and signal.mask.dtype == torch.bool
    assert signal.channels.shape[1] == 4 + (doors == "channels")
    null = model.null(model.shown(given)).joined()
    assert_close(null.channels[:, :4], signal.channels[:, :4]), "known pixels are not guided"
    if doors == "channels":
        assert not torch.equal(null.channels[:, 4:], signal.channels[:, 4:])
    assert torch.isfinite(
        model.denoiser(model.shown(given), 2.0)(given.pictures, torch.tensor(0.5))
    ).all()


def test_a_share_of_it_is_left_out_in_training_alone():
    model, given = build("vector", drop=0.5), batch(400)
    torch.manual_seed(0)
    learned = model.train().conditioners["brightness"].learned(given)
    left_out = (learned == 0).float().mean()
    assert 0.4 < float(left_out) < 0.6 and torch.equal(
        learned[learned != 0], given.levels[learned != 0]
    )
    assert torch.equal(model.eval().conditioners["brightness"].learned(given), given.levels)


def test_what_is_not_said_and_what_is_not_asked_is_one_line():
    with pytest.raises(UserError, match="is not said"):
        build("vector").loss(BrightBatch(torch.zeros(2, 3, 8, 8)))
    with pytest.raises(WrongUse, match="no condition label; those it has: brightness"):
        build("vector").condition(2, label=torch.zeros(2, 1))
