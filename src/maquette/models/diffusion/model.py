"""Diffusion: a network learns to tell picture from noise at every strength of the noise.

    loss       t ~ stratified uniform, x_t = alpha x_0 + sigma e, || network(x_t, t, condition) - target ||^2
    sampling   a solver (serving/solvers.py) asks `denoiser(condition, guidance)` for denoised pictures

A condition enters by three doors only: tokens that blocks attend to, a vector added to the time's, and
channels beside the noisy picture.

    text       all tokens, and the pooled one in the vector (GLIDE: Nichol et al. 2022, section 4)
    class      the sum of a row for each label in the vector; a table has a row more, for no label
    embedding  a projection in the vector and four more tokens (unCLIP: Ramesh et al. 2022, section 2.1)
    inpaint    channels: the known pixels, and where they are
    upsample   channels: the smaller picture, bilinear (GLIDE: blurred in training)

What of it is left out of a share of the training pictures can be left out when sampling, for guidance
(Ho and Salimans 2022). Channels that only a task has start at 0, so that a run without the task can be
its start.

`condition(n, known=, mask=)`: known is the picture (n, 3, s, s), of which mask (n, 1, s, s) is 1 where
its pixels are known. `null(n, like)`: like is a Condition, whose channels are kept.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import UserError
from maquette.models.base import Loss, PictureBatch, PictureModel
from maquette.models.cnn import blur
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.dit import DiT
from maquette.models.diffusion.unet import UNet
from maquette.models.picture_config import END
from maquette.nn.linear import Embedding, Linear
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule
from maquette.nn.norm import LayerNorm
from maquette.nn.patches import timestep_embedding
from maquette.nn.rules import Scaling
from maquette.nn.transformer import TransformerBlock, seen

TOKENS = 4  # of a picture embedding
BLUR = 0.6  # pixels: widest blur of the smaller picture, in training
TEXT_DROP = 0.5  # of captions beside an embedding (Ramesh et al. 2022, section 2.1)


@dataclass
class Condition:
    """What n pictures are made from, encoded once for all evaluations of a solver.

    vector: (n, vector), added to the time's. tokens: (n, k, text_width), mask: (n, k), True where a
    token counts. channels: (n, extra, size, size), put beside the noisy picture.
    """

    vector: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None
    channels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.vector)

    def beside(self, other: "Condition") -> "Condition":
        """Both as one batch."""

        def join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b])

        return Condition(
            torch.cat([self.vector, other.vector]),
            join(self.tokens, other.tokens),
            join(self.mask, other.mask),
            join(self.channels, other.channels),
        )

    def rows(self, start: int, end: int) -> "Condition":
        """Of the pictures from start to before end."""

        def cut(a: Tensor | None) -> Tensor | None:
            return None if a is None else a[start:end]

        return Condition(
            self.vector[start:end], cut(self.tokens), cut(self.mask), cut(self.channels)
        )


class TextEncoder(nn.Module):
    """Captions (n, words) -> their tokens, which of them count, and the pooled one."""

    def __init__(self, config: DiffusionConfig, scaling: Scaling) -> None:
        super().__init__()
        c = config
        self.embedding = Embedding(c.vocabulary, c.text_width)
        self.position = Embedding(c.words, c.text_width)
        self.blocks = nn.ModuleList(
            TransformerBlock(c.text_width, c.text_heads, scaling) for _ in range(c.text_depth)
        )
        self.norm = LayerNorm(c.text_width, bias=True)

    def forward(self, captions: Tensor, compute: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        mask = seen(captions, END)
        used = int(mask.sum(1).max())  # beyond the longest caption there is nothing to read
        captions, mask = captions[:, :used], mask[:, :used]
        x = self.embedding(captions) + self.position.weight[:used]
        x = x.to(compute)
        for block in self.blocks:
            x = block(x, mask=mask)
        x = self.norm(x)
        last = mask.sum(1) - 1
        return x, mask, x[torch.arange(len(x), device=x.device), last]


class Diffusion(PictureModel):
    """The diffusion model of a config."""

    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config)
        c = config
        self.schedule = NoiseSchedule(c.path)
        self.time = nn.Sequential(
            Linear(c.width, c.vector, bias=True), nn.SiLU(), Linear(c.vector, c.vector, bias=True)
        )
        self.text = TextEncoder(c, self.scaling) if c.condition == "text" else None
        self.pooled = Linear(c.text_width, c.vector, bias=True) if c.condition == "text" else None
        self.label = Embedding(sum(c.classes) + len(c.classes), c.vector) if c.classes else None
        starts = torch.tensor([sum(c.classes[:i]) + i for i in range(len(c.classes))])
        self.register_buffer("label_starts", starts, persistent=False)
        self.embedded = Linear(c.embedding, c.vector, bias=True) if c.embedding else None
        self.embedded_tokens = (
            Linear(c.embedding, TOKENS * c.text_width, bias=True) if c.embedding else None
        )
        self.backbone: UNet | DiT = (UNet if c.backbone == "unet" else DiT)(c, self.scaling)

    label_starts: Tensor

    def initialise(self, seed: int) -> "Diffusion":
        """Fill the parameters; the input's weights of a task's channels start at 0."""
        super().initialise(seed)
        weight = self.backbone.input.weight if isinstance(self.backbone, UNet) else None
        weight = self.backbone.input.map.weight if isinstance(self.backbone, DiT) else weight
        assert weight is not None
        with torch.no_grad():  # both order the input by channel, then by place in the patch
            weight[:, 3 * self.config.patch**2 :] = 0
        return self

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the network predicts, (n, 3, size, size) in fp32, at noisy x and times t (n,)."""
        self.backbone.recompute = self.recompute
        vector = self.time(timestep_embedding(t, self.config.width)) + condition.vector
        x = x if condition.channels is None else torch.cat([x, condition.channels.to(x)], dim=1)
        return self.backbone(x.to(self.compute), vector, condition.tokens, condition.mask)  # type: ignore[no-any-return]

    def denoiser(self, condition: Condition, guidance: float = 1.0) -> Denoiser:
        """(x, t) -> denoised pictures in [-1, 1], u + guidance (c - u) of them; 1: unguided.

        Both predictions are one batch. x has the condition's n pictures; t: () or (n,).
        """
        n = len(condition)
        guided = guidance != 1.0
        both = condition.beside(self.null(n, condition)) if guided else condition

        def denoised(x: Tensor, t: Tensor) -> Tensor:
            t = t.to(x).expand(n)
            out = self(torch.cat([x, x]), torch.cat([t, t]), both) if guided else self(x, t, both)
            if guided:
                conditional, unconditional = out.chunk(2)
                out = unconditional + guidance * (conditional - unconditional)
            return self.schedule.denoised(x, t, out, self.config.prediction).clamp(-1, 1)

        return denoised

    def condition(
        self,
        n: int,
        *,
        captions: Tensor | None = None,
        labels: Tensor | None = None,
        embedding: Tensor | None = None,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        small: Tensor | None = None,
    ) -> Condition:
        """Encode what n pictures are made from; what is not given is no condition.

        captions: (n, words) int64. labels: (n, factors), negative ones are no label. embedding:
        (n, d) of length 1, rows of zeros are none. known: (n, 3, size, size), the picture whose
        pixels are known where mask (n, 1, size, size) is 1. small: (n, 3, size/scale, size/scale).
        """
        c, device = self.config, self._device
        vector = torch.zeros(n, c.vector, device=device)
        tokens = seen_tokens = None
        if self.text is not None and self.pooled is not None:
            if captions is None:
                captions = torch.full((n, 1), END, device=device)
            tokens, seen_tokens, last = self.text(captions, self.compute)
            vector = vector + self.pooled(last.float())
        if self.label is not None:
            if labels is None:
                labels = torch.full((n, len(c.classes)), -1, device=device)
            none = torch.tensor(c.classes, device=device)
            vector = vector + self.label(
                self.label_starts + torch.where(labels < 0, none, labels)
            ).sum(1)
        if self.embedded is not None and self.embedded_tokens is not None:
            if embedding is None:
                embedding = torch.zeros(n, c.embedding, device=device)
            embedding = embedding.float() * math.sqrt(c.embedding)  # numbers of variance 1
            vector = vector + self.embedded(embedding)
            more = self.embedded_tokens(embedding).unflatten(1, (TOKENS, c.text_width))
            more = more.to(self.compute)
            tokens = more if tokens is None else torch.cat([tokens, more], dim=1)
            if seen_tokens is not None:
                seen_tokens = F.pad(seen_tokens, (0, TOKENS), value=True)
        return Condition(vector, tokens, seen_tokens, self._channels(n, known, mask, small))

    def null(self, n: int, like: Condition | None = None) -> Condition:
        """No condition, for n pictures; like: a condition whose channels and tokens' shape it has."""
        none = self.condition(n)
        if like is None:
            return none
        tokens, mask = none.tokens, none.mask
        if tokens is not None and mask is not None and like.tokens is not None:
            missing = like.tokens.shape[1] - tokens.shape[1]
            tokens, mask = F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)
        return Condition(none.vector, tokens, mask, like.channels)

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """Squared error of the prediction, a mean over each picture's pixels, summed over pictures."""
        x0 = batch.pictures
        n = len(x0)
        t = (torch.arange(n, device=x0.device) + torch.rand(n, device=x0.device)) / n
        noise = torch.randn_like(x0)
        prediction = self.config.prediction
        out = self(self.schedule.mix(x0, noise, t), t, self._learned_from(batch))
        errors = (out - self.schedule.target(x0, noise, t, prediction)).square().mean((1, 2, 3))
        total = errors.sum()
        return Loss(total, total.detach(), n)

    def compile_blocks(self) -> None:
        """Compile every block of the backbone."""
        for block in self.backbone.blocks:
            block.compile(dynamic=False)

    def _learned_from(self, batch: PictureBatch) -> Condition:
        """The condition of training pictures, some of it left out, and what the task hides."""
        c, x0 = self.config, batch.pictures
        n, device = len(x0), x0.device
        captions, labels, embedding = batch.captions, batch.labels, batch.embedding

        def dropped(share: float) -> Tensor:
            return torch.rand(n, 1, device=device) < (share if self.training else 0.0)

        if c.condition == "text":
            if captions is None:
                raise UserError("a model of captions cannot learn from pictures without any")
            captions = captions.masked_fill(dropped(TEXT_DROP if c.embedding else c.drop), END)
        if c.condition == "class":
            found = 0 if labels is None else labels.shape[1]
            if labels is None or found != len(c.classes):
                raise UserError(
                    f"a model of {len(c.classes)} label factors cannot learn from pictures with "
                    f"{found}: set model.classes to the classes of each factor of the data"
                )
            labels = labels.masked_fill(dropped(c.drop), -1)
        if c.embedding:
            if embedding is None or embedding.shape[1] != c.embedding:
                raise UserError(
                    f"a model of embeddings of {c.embedding} dimensions cannot learn without them: "
                    f"set data.encoder to a CLIP run with as many"
                )
            embedding = embedding.masked_fill(dropped(c.drop), 0.0)
        mask = random_known(n, c.size, device) if c.task == "inpaint" else None
        small = None
        if c.task == "upsample":
            small = blur(F.avg_pool2d(x0, c.scale), BLUR * torch.rand(n, device=device))
        return self.condition(
            n,
            captions=captions,
            labels=labels,
            embedding=embedding,
            known=x0,
            mask=mask,
            small=small,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _channels(
        self, n: int, known: Tensor | None, mask: Tensor | None, small: Tensor | None
    ) -> Tensor | None:
        c = self.config
        if c.task == "generate":
            return None
        device = self._device
        if c.task == "upsample":
            if small is None:
                return torch.zeros(n, 3, c.size, c.size, device=device)
            return F.interpolate(small, size=(c.size, c.size), mode="bilinear", align_corners=False)
        if known is None or mask is None:
            return torch.zeros(n, 4, c.size, c.size, device=device)
        assert known.shape[1] == 3 and mask.shape[1] == 1, (
            "known is a picture, mask has one channel"
        )
        mask = mask.to(known)
        return torch.cat([known * mask, mask.expand(n, 1, -1, -1)], dim=1)


def random_known(n: int, size: int, device: torch.device) -> Tensor:
    """Masks (n, 1, size, size) to learn inpainting from: 1 where known, 0 in what is hidden.

    Two fifths hide a box, one fifth all but a box, one fifth a stroke; a tenth each hide everything
    and nothing. Boxes have sides of a quarter to three quarters of the picture's.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(n, *shape, 1, 1, device=device)

    place = (torch.arange(size, device=device) + 0.5) / size
    y, x = place[:, None], place[None, :]  # (size, 1), (1, size)
    half = 0.125 + 0.25 * draw(2)
    centre = draw(2)
    box = ((y - centre[:, 0]).abs() < half[:, 0]) & ((x - centre[:, 1]).abs() < half[:, 1])
    stroke = torch.zeros_like(box)
    ends = draw(4, 2)  # a line through four points
    for a, b in zip(ends.unbind(1)[:-1], ends.unbind(1)[1:], strict=True):
        line = b - a
        along = (y - a[:, 0]) * line[:, 0] + (x - a[:, 1]) * line[:, 1]
        along = (along / line.square().sum(1).clamp_min(1e-6)).clamp(0, 1)
        gap = (y - a[:, 0] - along * line[:, 0]).square()
        gap = gap + (x - a[:, 1] - along * line[:, 1]).square()
        stroke = stroke | (gap.sqrt() < 0.06)
    kind = torch.rand(n, 1, 1, device=device)
    hidden = torch.where(kind < 0.4, box, torch.where(kind < 0.6, ~box, stroke))
    hidden = torch.where(kind < 0.8, hidden, kind < 0.9)
    return (~hidden).float().unsqueeze(1)
