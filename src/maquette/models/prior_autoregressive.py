"""The autoregressive prior: principal components of the embedding, rounded, one after the other.

    caption | text embedding | component 1 | ... | component k - 1
                    |               |                    |
                    +-> component 1 +-> component 2      +-> component k

Each component is rounded to one of `buckets` values between the least and the largest seen, and a
causal transformer predicts it as it would a word, in the order of falling variance (Ramesh et al. 2022,
section 2.2; the paper keeps 319 of 1,024 components and 1,024 buckets). The components are fitted to
the first batch of a run and stay as they are, as buffers. Left out: the prefix that states how close the
embedding is to the text's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import UserError
from maquette.models.base import Loss, PictureBatch
from maquette.models.diffusion.process import guided
from maquette.models.prior import Prior
from maquette.models.prior_config import PriorConfig
from maquette.nn.linear import Embedding, Linear
from maquette.nn.noise import Generators, draw_exponential
from maquette.nn.parametrisation import scaled
from maquette.nn.rules import Role


class Components(nn.Module):
    """Principal components of vectors, rounded: (n, d) <-> (n, k) int64 in 0 ... buckets - 1."""

    def __init__(self, d: int, k: int, buckets: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("basis", torch.zeros(k, d))
        self.register_buffer("low", torch.zeros(k))
        self.register_buffer("high", torch.zeros(k))

    mean: Tensor
    basis: Tensor
    low: Tensor
    high: Tensor

    @property
    def fitted(self) -> bool:
        return bool((self.basis != 0).any())

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Take the directions of largest variance of (n, d), and the range along each, a tenth wider.

        A direction's sign is such that its largest entry is positive, so that the fit is one.
        """
        x = vectors.double()
        mean = x.mean(0)
        _, directions = torch.linalg.eigh((x - mean).T @ (x - mean))  # columns, variance rising
        basis = directions.flip(1).T[: len(self.low)]
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        basis = basis * largest.sign()
        along = (x - mean) @ basis.T
        low, high = along.amin(0), along.amax(0)
        margin = 0.1 * (high - low) + 1e-6
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.low.copy_(low - margin)
        self.high.copy_(high + margin)

    @torch.no_grad()
    def rounded(self, vectors: Tensor) -> Tensor:
        """(n, d) -> (n, k); what is outside the range goes into the bucket at its end."""
        along = (vectors - self.mean) @ self.basis.T
        share = (along - self.low) / (self.high - self.low)
        return (share * self.buckets).long().clamp(0, self.buckets - 1)

    def vectors(self, rounded: Tensor) -> Tensor:
        """(n, k) -> (n, d): the middle of each bucket."""
        share = (rounded + 0.5) / self.buckets
        return (self.low + share * (self.high - self.low)) @ self.basis + self.mean


class AutoregressivePrior(Prior):
    """The autoregressive prior of a config."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__(config, after=config.kept - 1)
        c = config
        self.components = Components(c.embedding, c.kept, c.buckets)
        self.values = Embedding(c.buckets, c.width)
        self.output = Linear(c.width, c.buckets, bias=True, role=Role.OUTPUT)

    @property
    def least_batch(self) -> int:
        """Pictures that components are fitted to: n of them spread in at most n - 1 directions."""
        return self.config.kept + 1

    def prepare(self, batch: PictureBatch) -> None:
        """Fit the components. Raises UserError where the batch is too small, or has no embeddings."""
        denoised = self.embeddings(batch)
        if len(denoised) < self.least_batch:
            raise UserError(
                f"{self.config.kept} components cannot be fitted to {len(denoised)} pictures: use a "
                f"batch and a micro_batch of {self.least_batch} or more, or fewer model.components"
            )
        self.components.fit(denoised)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., buckets), fp32."""
        assert self.output.bias is not None
        product = scaled(self.output.product(hidden), self.scaling.output_multiplier)
        return product + self.output.bias

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """The cross-entropy in nats, mean over the components, summed over the pictures."""
        clean, read = self.learns_from(batch)
        rounded = self.components.rounded(clean)
        values = scaled(self.values(rounded[:, :-1]), self.scaling.input_multiplier)
        hidden = self.run(torch.cat([read, values], dim=1))
        logits = self.logits(hidden[:, self.read - 1 :])  # (n, components, buckets)
        k = self.config.kept
        value = F.cross_entropy(logits.flatten(0, 1), rounded.flatten(), reduction="sum") / k
        total = value
        if z_loss:
            total = total + z_loss * logits.logsumexp(-1).square().sum() / k
        return Loss(total, value.detach(), len(clean))

    @torch.no_grad()
    def draw(
        self,
        captions: Tensor,  # (n, caption_length)
        text_embedding: Tensor,  # (n, d), of length 1
        guidance: float = 1.0,
        generator: Generators = None,
    ) -> Tensor:
        """One embedding of each caption, (n, d), times sqrt(d)."""
        if not self.components.fitted:
            raise UserError("this prior has not learned yet: train it first")
        n, k = len(captions), self.config.kept
        read = self.with_and_without(captions, text_embedding, guidance)
        caches = self.caches(len(read), self.read + k - 1)
        hidden = self.run(read, caches=caches)[:, -1]
        chosen: list[Tensor] = []
        for i in range(k):
            logits = guided(self.logits(hidden), guidance)
            race = draw_exponential(logits, generator)
            chosen.append((logits.softmax(-1) / race).argmax(-1))  # a draw by an exponential race
            if i < k - 1:
                value = scaled(self.values(chosen[-1]), self.scaling.input_multiplier)
                value = value.repeat(len(read) // n, 1).unsqueeze(1)
                hidden = self.run(value, self.read + i, caches)[:, -1]
        return self.components.vectors(torch.stack(chosen, dim=1))
