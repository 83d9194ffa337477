"""Diffusion: a network learns to tell picture from noise at every strength of the noise.

    process        what noise does to a picture, and what the network predicts   process.py
    conditioners   what a picture is made from, one for each kind                conditioners.py
    backbone       the network: a U-Net or a transformer                         unet.py, dit.py

`denoiser(condition, guidance)` is what solvers (serving/solvers.py) ask for denoised pictures.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from maquette.base.errors import WrongUse
from maquette.models.base import Loss, PictureBatch, PictureModel
from maquette.models.diffusion.conditioner import Condition, Conditioner, Signal
from maquette.models.diffusion.conditioners import conditioners_of
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.dit import DiT
from maquette.models.diffusion.process import Process, guided
from maquette.models.diffusion.unet import UNet
from maquette.nn.linear import Linear
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule
from maquette.nn.patches import timestep_embedding


class Diffusion(PictureModel):
    """The diffusion model of a config."""

    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config)
        c = config
        self.process = Process(NoiseSchedule(c.path), c.prediction)
        self.time = nn.Sequential(
            Linear(c.width, c.vector, bias=True), nn.SiLU(), Linear(c.vector, c.vector, bias=True)
        )
        own = conditioners_of(c, self.scaling)
        self.conditioners = nn.ModuleDict(own)
        channels = 3 + sum(conditioner.channels for conditioner in own.values())
        context = (
            c.text_width if any(conditioner.attended for conditioner in own.values()) else None
        )
        network = UNet if c.backbone == "unet" else DiT
        self.backbone: UNet | DiT = network(c, self.scaling, channels, context)

    def initialise(self, seed: int) -> "Diffusion":
        """Fill the parameters; the input's weights of a condition's channels start at 0."""
        super().initialise(seed)
        with torch.no_grad():  # both order the input by channel, then by place in the patch
            self.backbone.input_weight[:, 3 * self.config.patch**2 :] = 0
        return self

    @property
    def guided(self) -> bool:
        """Whether the model has a condition for classifier-free guidance."""
        return any(conditioner.guided for _, conditioner in self._conditioners())

    def forward(self, x: Tensor, t: Tensor, signal: Signal) -> Tensor:
        """Prediction of the network, (n, 3, height, width) in fp32, at noisy x and times t (n,)."""
        vector = self.time(timestep_embedding(t, self.config.width))
        vector = vector if signal.vector is None else vector + signal.vector
        x = x if signal.channels is None else torch.cat([x, signal.channels.to(x)], dim=1)
        return self.backbone(x.to(self.compute), vector, signal.tokens, signal.mask)  # type: ignore[no-any-return]

    def denoiser(self, condition: Condition, guidance: float = 1.0) -> Denoiser:
        """(x, t) -> denoised pictures in [-1, 1], u + guidance (c - u) of them; 1: unguided.

        Both predictions are one batch. x has the condition's n pictures; t: () or (n,).
        """
        n, signal = len(condition), condition.joined()
        twice = guidance != 1.0
        if twice:
            signal = signal.beside(self.null(condition).joined())

        def denoised(x: Tensor, t: Tensor) -> Tensor:
            t = t.to(x).expand(n)
            out = (
                self(torch.cat([x, x]), torch.cat([t, t]), signal) if twice else self(x, t, signal)
            )
            return self.process.denoised(x, t, guided(out, guidance)).clamp(-1, 1)

        return denoised

    def condition(self, n: int, **values_given: Any) -> Condition:
        """Encode the condition of n pictures; values_given: a value for each conditioner, see its class.

        None and absent values are no condition. Raises WrongUse for a condition that the model
        does not have.
        """
        for name, value in values_given.items():
            if value is not None and name not in self.conditioners:
                known = ", ".join(self.conditioners) or "none"
                raise WrongUse(f"this model has no condition {name}; those it has: {known}")
        values = {
            name: conditioner.null(n, self.device)
            if values_given.get(name) is None
            else values_given[name]
            for name, conditioner in self._conditioners()
        }
        return self._encoded(n, values)

    def null(self, condition: Condition) -> Condition:
        """The condition without its guided parts; known pixels and the like are kept."""
        n, kept = len(condition), dict(condition.signals)
        for name, conditioner in self._conditioners():
            if conditioner.guided:
                kept[name] = conditioner(conditioner.null(n, self.device), self.compute)
        return Condition(n, kept)

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """Squared error of the prediction, a mean over each picture's pixels, summed over pictures."""
        n = len(batch.pictures)
        x, t, target = self.process.noised(batch.pictures)
        values = {name: conditioner.learned(batch) for name, conditioner in self._conditioners()}
        out = self(x, t, self._encoded(n, values).joined())
        total = self.process.error(out, target).sum()
        return Loss(total, total.detach(), n)

    def shown(self, batch: PictureBatch) -> Condition:
        """The condition of the pictures of a batch, nothing dropped."""
        values = {name: conditioner.example(batch) for name, conditioner in self._conditioners()}
        return self._encoded(len(batch.pictures), values)

    def compile_blocks(self) -> None:
        """Compile every block of the backbone."""
        for block in self.backbone.blocks:
            block.compile(dynamic=False)

    def _encoded(self, n: int, values: dict[str, Any]) -> Condition:
        return Condition(
            n,
            {
                name: conditioner(values[name], self.compute)
                for name, conditioner in self._conditioners()
            },
        )

    def _conditioners(self) -> Iterator[tuple[str, Conditioner]]:
        for name, conditioner in self.conditioners.items():
            assert isinstance(conditioner, Conditioner)
            yield name, conditioner

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.parameters()).device
