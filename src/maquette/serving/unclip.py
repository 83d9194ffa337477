"""unCLIP: captions to pictures through the embedding of a picture, and edits of pictures by it.

    caption --CLIP--> text embedding --prior--> picture embedding --decoder--> picture (--upsampler-->)
    picture --CLIP--> picture embedding ----------------------------^
    picture --DDIM, backwards--> latent (what else the picture is) -^

A picture is two things here: its embedding, which says what is in it, and the noise that the decoder
turns into it under that embedding. Keeping one and changing the other is an edit: variations, ways
between two pictures, and a picture moved along the difference of two captions.

Source: Ramesh et al. 2022, sections 2 and 3. Inversion: Dhariwal and Nichol 2021, appendix F, each step
with a few rounds of a fixed point, as in Pan et al. 2023.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.clip import Clip
from maquette.models.diffusion.drawing import (
    DRAWING,
    INVERSION,
    PRIOR,
    UPSAMPLING,
    Drawing,
    PriorDrawing,
)
from maquette.models.diffusion.model import Diffusion
from maquette.models.prior import Prior
from maquette.models.prior_autoregressive import AutoregressivePrior
from maquette.models.prior_diffusion import DiffusionPrior
from maquette.nn.noise import Generators, draw, generators, part_of
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule
from maquette.serving.sample import in_parts, sample
from maquette.serving.solvers import ddim, solve, times

Read = Callable[[list[str]], Tensor]
BATCH = 128  # pictures at a time
PRIOR_STAGE, UPSAMPLER_STAGE = 1, 2  # stages whose noise is not the decoder's
FURTHEST = 0.5  # of the way to a text difference (the paper goes 0.25 to 0.5)


@dataclass
class UnClip:
    """The models that belong together: a decoder and a prior of one CLIP's embeddings.

    read: captions to the decoder's tokens (n, caption_length); clip_reads, prior_reads: to the CLIP's and
    the prior's, None for the same. Raises WrongUse where their embeddings do not have
    the same size, or the decoder takes none.
    """

    clip: Clip
    decoder: Diffusion
    read: Read
    prior: Prior | None = None
    upsampler: Diffusion | None = None
    clip_reads: Read | None = None
    prior_reads: Read | None = None

    def __post_init__(self) -> None:
        d = self.clip.config.embedding
        if not self.decoder.config.embedding:
            raise WrongUse(
                "this model makes no pictures from embeddings: name a run with a decoder"
            )
        wanted = {"decoder": self.decoder.config.embedding}
        if self.prior is not None:
            wanted["prior"] = self.prior.config.embedding
        for name, size in wanted.items():
            if size != d:
                raise WrongUse(
                    f"the {name} takes embeddings of {size} numbers, the CLIP makes {d}: "
                    f"name the CLIP run it was trained with"
                )
        for model in (self.clip, self.decoder, self.prior, self.upsampler):
            if model is not None:
                model.eval()

    @torch.no_grad()
    def of_pictures(self, pictures: Tensor) -> Tensor:
        """The embeddings (n, d), of length 1, of pictures (n, 3, height, width) in [-1, 1]."""
        parts = [self.clip.embed_pictures(part) for part in pictures.split(BATCH)]
        return torch.cat(parts).float()

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """CLIP's embeddings (n, d), of length 1, of captions."""
        tokens = (self.clip_reads or self.read)(list(texts))
        parts = [self.clip.embed_captions(part) for part in tokens.split(BATCH)]
        return torch.cat(parts).float()

    def from_texts(self, texts: Sequence[str], drawing: PriorDrawing = PRIOR) -> Tensor:
        """Embeddings (n, d), of length 1, of pictures that fit the captions, from the prior.

        See `embeddings`. Raises WrongUse without a prior.
        """
        if self.prior is None:
            raise WrongUse("captions need a prior: name a run of one")
        captions = (self.prior_reads or self.read)(list(texts))
        return embeddings(self.prior, captions, self.of_texts(texts), drawing)

    def generate(
        self,
        texts: Sequence[str],
        drawing: Drawing = DRAWING,
        prior: PriorDrawing = PRIOR,
    ) -> Tensor:
        """A picture (n, 3, height, width) in [-1, 1] of each caption: prior, decoder, upsampler.

        drawing: settings of the decoder; its seed is that of all models. The captions reach the decoder,
        too, if it reads any.
        """
        seed = drawing.seed
        embedding = self.from_texts(texts, replace(prior, seed=seed))
        return self.larger(self.decode(embedding, texts, drawing), replace(UPSAMPLING, seed=seed))

    def decode(
        self,
        embedding: Tensor,
        texts: Sequence[str] | None = None,
        drawing: Drawing = DRAWING,
    ) -> Tensor:
        """Pictures (n, 3, height, width) from embeddings (n, d), without the upsampler."""
        model = self.decoder
        captions = self.read(list(texts)) if texts and "text" in model.conditioners else None
        generator = generators(drawing.seed, len(embedding))

        def part(rows: slice) -> Tensor:
            z = embedding[rows]
            words = None if captions is None else captions[rows]
            condition = model.condition(len(z), text=words, embedding=z)
            return sample(model, condition, drawing, generator[rows])

        return in_parts(len(embedding), part, BATCH)

    def larger(self, pictures: Tensor, drawing: Drawing = UPSAMPLING) -> Tensor:
        """Pictures enlarged by the upsampler; unchanged where there is none."""
        if self.upsampler is None:
            return pictures
        model, generator = self.upsampler, generators(drawing.seed, len(pictures), UPSAMPLER_STAGE)

        def part(rows: slice) -> Tensor:
            small = pictures[rows]
            condition = model.condition(len(small), low_resolution=small)
            return sample(model, condition, drawing, generator[rows])

        return in_parts(len(pictures), part, BATCH)

    @torch.no_grad()
    def take_apart(self, pictures: Tensor, drawing: Drawing = INVERSION) -> tuple[Tensor, Tensor]:
        """Embeddings (n, d) and latents, shaped as the pictures, that the decoder makes them from."""
        embedding = self.of_pictures(pictures)
        model, schedule = self.decoder, self.decoder.process.schedule

        def part(rows: slice) -> Tensor:
            condition = model.condition(len(pictures[rows]), embedding=embedding[rows])
            grid = times(drawing.steps, schedule)
            return invert(model.denoiser(condition), pictures[rows], grid, schedule)

        return embedding, in_parts(len(pictures), part, BATCH)

    @torch.no_grad()
    def put_together(
        self,
        embedding: Tensor,
        latent: Tensor,
        drawing: Drawing = INVERSION,
        *,
        eta: float = 0.0,
    ) -> Tensor:
        """Pictures from embeddings (n, d) and latents (n, 3, height, width), by DDIM without guidance.

        eta: 0 undoes `take_apart`; up to 1, with so much new noise at every step.
        """
        model, schedule = self.decoder, self.decoder.process.schedule
        generator = generators(drawing.seed, len(embedding))
        grid = times(drawing.steps, schedule)

        def part(rows: slice) -> Tensor:
            denoiser = model.denoiser(model.condition(len(latent[rows]), embedding=embedding[rows]))
            return ddim(denoiser, latent[rows], grid, schedule, eta=eta, generator=generator[rows])

        return in_parts(len(embedding), part, BATCH)

    def variations(
        self,
        picture: Tensor,
        count: int,
        drawing: Drawing = INVERSION,
        *,
        eta: float = 1.0,
    ) -> Tensor:
        """Pictures (count, 3, height, width) that share what CLIP sees in one picture (3, height, width).

        eta: how far from it, 0 makes the picture again (section 3.1).
        """
        embedding, latent = self.take_apart(picture.unsqueeze(0), drawing)
        return self.put_together(
            embedding.expand(count, -1), latent.expand(count, -1, -1, -1), drawing, eta=eta
        )

    def interpolate(
        self, first: Tensor, second: Tensor, count: int, drawing: Drawing = INVERSION
    ) -> Tensor:
        """Pictures (count, 3, height, width) on the way from one picture (3, height, width) to another.

        Embeddings and latents both go along the sphere (section 3.2); the ends are the two pictures.
        """
        embedding, latent = self.take_apart(torch.stack([first, second]), drawing)
        share = torch.linspace(0, 1, count)
        return self.put_together(
            slerp(embedding[:1], embedding[1:], share),
            slerp(latent[:1], latent[1:], share),
            drawing,
        )

    def text_diff(
        self,
        picture: Tensor,
        before: str,
        after: str,
        count: int,
        drawing: Drawing = INVERSION,
        *,
        furthest: float = FURTHEST,
    ) -> Tensor:
        """Pictures (count, 3, height, width) on which what one caption says becomes what another says.

        The embedding of the picture (3, height, width) turns towards the difference of the captions'
        embeddings, up to `furthest` of the way; the latent stays (section 3.3).
        """
        if before == after:
            raise WrongUse("the two captions are the same: there is no difference to follow")
        embedding, latent = self.take_apart(picture.unsqueeze(0), drawing)
        texts = self.of_texts([before, after])
        difference = F.normalize(texts[1:] - texts[:1], dim=1)
        share = torch.linspace(0, furthest, count)
        turned = slerp(embedding, difference, share)
        return self.put_together(turned, latent.expand(count, -1, -1, -1), drawing)


@torch.no_grad()
def embeddings(
    prior: Prior,
    captions: Tensor,
    text_embedding: Tensor,
    drawing: PriorDrawing = PRIOR,
    generator: Generators = None,
) -> Tensor:
    """An embedding (n, d) of length 1 for each caption (n, caption_length), drawn from the prior.

    Of the candidates drawn, the one closest to the text embedding (n, d) is kept. generator: one of each
    caption, or of all; None: one of each, from the drawing's seed.
    """
    candidates = drawing.candidates
    if generator is None:
        generator = generators(drawing.seed, len(captions), PRIOR_STAGE)
    prior.eval()

    def part(rows: slice) -> Tensor:
        words = captions[rows].repeat_interleave(candidates, 0)
        texts = text_embedding[rows].repeat_interleave(candidates, 0)
        own = part_of(generator, rows)  # a caption's candidates are drawn one after the other
        if isinstance(own, Sequence):
            own = [row for row in own for _ in range(candidates)]
        if isinstance(prior, AutoregressivePrior):
            drawn = prior.draw(words, texts, drawing.guidance, own)
        else:
            assert isinstance(prior, DiffusionPrior)
            schedule = prior.process.schedule
            grid = times(drawing.steps, schedule)
            noise = draw(texts, own)
            denoiser = prior.denoiser(words, texts, drawing.guidance)
            drawn = solve(drawing.solver, denoiser, noise, grid, schedule, generator=own)
        drawn = F.normalize(drawn, dim=1).unflatten(0, (-1, candidates))  # (n, candidates, d)
        closeness = (drawn * texts.view_as(drawn)).sum(2)
        return drawn[torch.arange(len(drawn)), closeness.argmax(1)]  # type: ignore[no-any-return]

    return in_parts(len(captions), part, max(1, 2 * BATCH // candidates))


@torch.no_grad()
def invert(
    denoiser: Denoiser, pictures: Tensor, times: Tensor, schedule: NoiseSchedule, rounds: int = 3
) -> Tensor:
    """The latent, shaped as the pictures (n, ...), from which DDIM makes them along `times`.

    times: falling from 1 to 0, as for the solver. A step of DDIM from s to t < s is solved for x_s:
    x_s = sigma_s / sigma_t (x_t - alpha_t x0) + alpha_s x0 with x0 the denoiser's at (x_s, s), which
    is guessed with x_t and refined `rounds` times. The last step, to t = 0, forgets x_s: there the
    noise is what the denoiser finds in the picture itself.
    """
    grid = times.flip(0)
    x = pictures
    for t, s in pairwise(grid):
        a, b = schedule.alpha(t), schedule.sigma(t)
        if b == 0:
            guess = pictures
            for _ in range(rounds):
                noise = schedule.noise_of(guess, s, denoiser(guess, s))
                guess = schedule.mix(pictures, noise, s)
            x = guess
            continue
        noise = schedule.noise_of(x, t, denoiser(x, t))
        guess = schedule.mix((x - b * noise) / a, noise, s)
        for _ in range(rounds):
            denoised = denoiser(guess, s)
            guess = schedule.sigma(s) / b * (x - a * denoised) + schedule.alpha(s) * denoised
        x = guess
    return x


def slerp(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Along the great circle: (1, ...) and (1, ...) at shares (count,) in [0, 1] -> (count, ...).

    Lengths go in proportion. Where the two point the same way it is a straight line.
    """
    a, b = first.flatten(1), second.flatten(1)
    lengths = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    u, v = a / lengths[0], b / lengths[1]
    angle = (u * v).sum(1, keepdim=True).clamp(-1, 1).acos()  # (1, 1)
    s = share.to(a)[:, None]
    if float(angle) < 1e-4:
        way = u + s * (v - u)
    else:
        way = (torch.sin((1 - s) * angle) * u + torch.sin(s * angle) * v) / torch.sin(angle)
    length = (1 - s) * lengths[0] + s * lengths[1]
    return way.mul(length).view(len(share), *first.shape[1:])  # type: ignore[no-any-return]
