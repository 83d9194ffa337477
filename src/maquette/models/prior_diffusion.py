"""The diffusion prior: the embedding of a picture out of noise, step by step, given a caption.

    caption | text embedding | time | noised embedding | query
                                                          |
                                                          +--> the clean embedding

The output at the last position predicts the clean embedding itself, not the noise (Ramesh et al. 2022,
section 2.2, equation 2: mean squared error). Every step sees the caption's part unchanged and before it
everything is causal, so that a sampler computes that part once.

A prediction in one step is the mean of all embeddings that fit: close to each and like none. That is
why the loss, or the cosine to the true embedding, does not measure a prior; what it samples does.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from maquette.models.base import Loss, PictureBatch
from maquette.models.diffusion.process import Process, guided
from maquette.models.prior import Prior
from maquette.models.prior_config import PriorConfig
from maquette.nn.linear import Linear
from maquette.nn.noise_schedule import NoiseSchedule
from maquette.nn.parametrisation import scaled
from maquette.nn.patches import timestep_embedding
from maquette.nn.rules import Role


class DiffusionPrior(Prior):
    """The diffusion prior of a config."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__(config, after=3)
        self.process = Process(NoiseSchedule("cosine"), "picture")
        self.time = Linear(config.width, config.width, bias=True)
        self.noised = Linear(config.embedding, config.width, bias=True, role=Role.INPUT)
        self.output = Linear(config.width, config.embedding, bias=True, role=Role.OUTPUT)

    def behind(self, x: Tensor, t: Tensor) -> Tensor:
        """The positions after the caption: (n, d) noised embeddings at times (n,) -> (n, 3, width)."""
        time = self.time(timestep_embedding(t, self.config.width))
        noised = scaled(self.noised(x.float()), self.scaling.input_multiplier)
        query = torch.zeros_like(time)  # its position is all there is to it, and is learned
        return torch.stack([time, noised, query], dim=1)

    def predict(self, hidden: Tensor) -> Tensor:
        """The clean embedding times sqrt(d): (n, time, width) -> (n, d), fp32."""
        product = scaled(self.output.product(hidden[:, -1]), self.scaling.output_multiplier)
        assert self.output.bias is not None
        return product + self.output.bias

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """The mean squared error of the clean embedding, times sqrt(d), summed over the pictures."""
        embedding, read = self.learns_from(batch)
        n = len(embedding)
        x, t, target = self.process.noised(embedding)
        predicted = self.predict(self.run(torch.cat([read, self.behind(x, t)], dim=1)))
        total = self.process.error(predicted, target).sum()
        return Loss(total, total.detach(), n)

    def denoiser(
        self, captions: Tensor, text_embedding: Tensor, guidance: float = 1.0
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A function of noised embeddings (n, d) and a time that gives the denoised ones, times sqrt(d).

        captions: (n, caption_length); text_embedding: (n, d) of length 1. The caption is read once, here.
        """
        read = self.with_and_without(captions, text_embedding, guidance)
        caches = self.caches(len(read), self.read + 3)
        self.run(read, caches=caches)

        def denoised(x: Tensor, t: Tensor) -> Tensor:
            for cache in caches:
                cache.length = self.read  # what the step before appended is written over
            behind = self.behind(x, t.to(x).expand(len(x)))
            behind = behind.repeat(len(read) // len(x), 1, 1)
            return guided(self.predict(self.run(behind, self.read, caches)), guidance)

        return denoised
