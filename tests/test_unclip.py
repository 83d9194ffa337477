"""The pipeline from captions to pictures, inversion against a closed form, and edits of pictures."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.base import PictureBatch
from maquette.models.clip_config import ClipConfig
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.drawing import INVERSION, UPSAMPLING, Drawing, PriorDrawing
from maquette.models.prior_config import PriorConfig
from maquette.nn.noise_schedule import NoiseSchedule
from maquette.nn.rules import Parametrisation
from maquette.serving import unclip
from maquette.serving.solvers import ddim, times
from maquette.serving.unclip import UnClip, invert, slerp

SIZE, D, WORDS = 8, 16, 6
SHORT = replace(INVERSION, steps=20)


def read(texts: list[str]) -> torch.Tensor:
    """A token for every letter a to z."""
    rows = [[ord(letter) - 96 for letter in text[: WORDS - 1]] for text in texts]
    return torch.tensor([row + [0] * (WORDS - len(row)) for row in rows])


def decoder_config(**changes):
    fields = {
        "image_size": SIZE, "width": 16, "depth": 1, "multipliers": (1, 2),
        "heads": 2, "text_width": 16, "embedding": D,
        "parametrisation": Parametrisation(base_width=16, base_depth=1, base_head_dim=8),
    }  # fmt: skip
    return DiffusionConfig(**(fields | changes))


def build(config, seed=0):
    """A model whose parameters are all drawn, those that start at 0 too."""
    model = config.build().initialise(seed).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1 and not p.any():
                p.copy_(0.05 * torch.randn(p.shape, generator=draw))
    return model


@pytest.fixture(scope="module")
def models() -> UnClip:
    clip = ClipConfig(
        image_size=SIZE, width=16, depth=1, heads=2, vocabulary=27, caption_length=WORDS,
        text_width=16, text_depth=1, text_heads=2, embedding=D,
    )  # fmt: skip
    prior = PriorConfig(
        embedding=D, vocabulary=27, caption_length=WORDS, width=16, depth=1, heads=2
    )
    upsampler = decoder_config(image_size=2 * SIZE, embedding=0, task="upsample", scale=2)
    clip = build(clip)
    decoder = learned(decoder_config().build().initialise(0), clip)
    return UnClip(clip, decoder, read, prior=build(prior), upsampler=build(upsampler))


def smooth(n: int, seed: int) -> torch.Tensor:
    """Pictures that go from one colour to another: a dark or a bright one at every corner."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 2, (n, 1, 2, 2), generator=draw) * 1.2 - 0.6
    corners = corners + 0.2 * torch.randn(n, 3, 2, 2, generator=draw)
    return F.interpolate(corners, size=(SIZE, SIZE), mode="bilinear").clamp(-1, 1)


def learned(decoder, clip):
    """After some steps: a denoiser that denoises at all can be walked along in both directions."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(decoder.train().parameters(), lr=0.004)
    for step in range(150):
        pictures = smooth(32, step)
        with torch.no_grad():
            embedding = clip.embed_pictures(pictures)
        loss = decoder.loss(PictureBatch(pictures, embedding=embedding))
        optimiser.zero_grad()
        (loss.total / loss.count).backward()
        optimiser.step()
    return decoder.eval()


@pytest.fixture
def pictures():
    return smooth(4, 1_000_000)


def gaussian(mean: float, deviation: float, schedule: NoiseSchedule):
    """The denoiser of pictures whose numbers are all drawn from one normal distribution."""

    def clean(x, t):
        a, s = schedule.alpha(t), schedule.sigma(t)
        return mean + a * deviation**2 / (a**2 * deviation**2 + s**2) * (x - a * mean)

    return clean


@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_inversion_finds_the_latent_of_the_closed_form(kind):
    """Of a normal distribution DDIM in many steps is a linear map (Song et al. 2021, appendix)."""
    schedule, mean, deviation = NoiseSchedule(kind), 0.3, 0.5
    x0 = torch.linspace(-0.8, 1.2, 7)[:, None]
    latent = invert(gaussian(mean, deviation, schedule), x0, times(200, schedule), schedule)
    a, s = schedule.alpha(torch.tensor(1.0)), schedule.sigma(torch.tensor(1.0))
    scale = (a**2 * deviation**2 + s**2).sqrt() / deviation
    torch.testing.assert_close(latent, a * mean + scale * (x0 - mean), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("steps", [5, 20])
def test_ddim_undoes_inversion_and_the_rounds_are_why(steps):
    schedule = NoiseSchedule("cosine")
    denoiser = gaussian(0.3, 0.5, schedule)
    x0 = torch.linspace(-0.8, 1.2, 7)[:, None]
    errors = []
    for rounds in (0, 3, 10):
        grid = times(steps, schedule)
        latent = invert(denoiser, x0, grid, schedule, rounds=rounds)  # 0: as is usually done
        errors.append(float((ddim(denoiser, latent, grid, schedule) - x0).abs().max()))
    assert errors[2] < 0.02 and errors[2] < errors[1] < errors[0]


def test_slerp_goes_along_the_sphere_at_an_even_pace():
    draw = torch.Generator().manual_seed(0)
    a, b = F.normalize(torch.randn(2, 1, 5, generator=draw), dim=2)
    way = slerp(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(way[:1], a)
    torch.testing.assert_close(way[-1:], b)
    torch.testing.assert_close(way.norm(dim=1), torch.ones(5))
    angles = (way[1:] * way[:-1]).sum(1).acos()
    torch.testing.assert_close(angles, angles[:1].expand(4), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.3])), a)
    longer = slerp(2 * a, 4 * b, torch.tensor([0.5]))  # pictures: any shape, any length
    torch.testing.assert_close(longer.norm(), torch.tensor(3.0))
    assert slerp(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), torch.rand(6)).shape == (
        6,
        3,
        4,
        4,
    )


def test_captions_become_pictures_by_way_of_embeddings(models):
    texts = ["ab", "ba", "abc"]

    def generated(seed: int) -> torch.Tensor:
        return models.generate(texts, Drawing(steps=3, seed=seed), PriorDrawing(steps=4))

    made = generated(1)
    assert made.shape == (3, 3, 2 * SIZE, 2 * SIZE) and torch.isfinite(made).all()
    assert torch.equal(made, generated(1))
    assert not torch.equal(made, generated(2))
    z = models.from_texts(texts, PriorDrawing(steps=4, seed=1))
    assert z.shape == (3, D)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    small = models.decode(z, drawing=Drawing(steps=3, seed=1))
    assert small.shape == (3, 3, SIZE, SIZE) and small.abs().max() <= 1
    torch.testing.assert_close(models.larger(small, replace(UPSAMPLING, seed=1)), made)


def test_a_picture_does_not_depend_on_how_many_are_made_at_a_time(models, monkeypatch):
    z = F.normalize(torch.randn(5, D, generator=torch.Generator().manual_seed(0)), dim=1)
    few = Drawing(steps=3, seed=1)
    together = models.decode(z, drawing=few)
    monkeypatch.setattr(unclip, "BATCH", 2)
    torch.testing.assert_close(models.decode(z, drawing=few), together, rtol=0, atol=1e-4)
    torch.testing.assert_close(models.decode(z[:2], drawing=few), together[:2], rtol=0, atol=1e-4)
    assert models.larger(together, replace(UPSAMPLING, steps=2)).shape == (5, 3, 2 * SIZE, 2 * SIZE)
    assert models.of_pictures(together).shape == (5, D)


def test_a_decoder_is_told_the_embedding_and_guided_by_it(models):
    z = F.normalize(torch.randn(2, D, generator=torch.Generator().manual_seed(0)), dim=1)
    few, free = Drawing(steps=3), Drawing(steps=3, guidance=0.0)
    one = models.decode(z, drawing=few)
    assert not torch.allclose(one, models.decode(z.flip(0), drawing=few))
    nothing = models.decode(z, drawing=free)
    torch.testing.assert_close(nothing, models.decode(z.flip(0), drawing=free))


def test_captions_reach_a_decoder_that_reads_them(models):
    reads = build(decoder_config(condition="text", vocabulary=27, caption_length=WORDS))
    both = UnClip(models.clip, reads, read)
    z = F.normalize(torch.randn(2, D, generator=torch.Generator().manual_seed(0)), dim=1)
    assert not torch.allclose(both.decode(z, ["ab", "cd"]), both.decode(z, ["cd", "ab"]))
    torch.testing.assert_close(models.decode(z, ["ab", "cd"]), models.decode(z, ["cd", "ab"]))


def test_clip_and_prior_read_captions_each_in_their_own_way(models):
    asked = []

    def reader(name):
        return lambda texts: asked.append(name) or read(texts)

    each = UnClip(models.clip, models.decoder, reader("decoder"), models.prior,
                  clip_reads=reader("clip"), prior_reads=reader("prior"))  # fmt: skip
    each.from_texts(["ab"], PriorDrawing(steps=1))
    assert sorted(asked) == ["clip", "prior"]


def test_a_picture_taken_apart_can_be_put_together(models, pictures):
    embedding, latent = models.take_apart(pictures)
    assert embedding.shape == (4, D) and latent.shape == pictures.shape
    again = models.put_together(embedding, latent)
    assert (again - pictures).abs().mean() < 0.03
    other = models.put_together(embedding, torch.randn(pictures.shape))
    assert (other - pictures).abs().mean() > 0.2


def test_edits_begin_at_the_picture(models, pictures):
    embedding, latent = models.take_apart(pictures[:2], drawing=SHORT)
    again = models.put_together(embedding, latent, drawing=SHORT)
    way = models.interpolate(pictures[0], pictures[1], count=3, drawing=SHORT)
    torch.testing.assert_close(way[[0, 2]], again, rtol=0, atol=1e-3)
    assert (way[1] - way[0]).abs().mean() > 0.05
    turned = models.text_diff(pictures[0], "ab", "ba", count=3, drawing=SHORT)
    torch.testing.assert_close(turned[:1], again[:1], rtol=0, atol=1e-3)
    assert (turned[2] - turned[0]).abs().mean() > (turned[1] - turned[0]).abs().mean() > 1e-4
    back = models.text_diff(pictures[0], "ba", "ab", count=3, drawing=SHORT)
    assert not torch.allclose(back[2], turned[2], atol=1e-3)


def test_variations_keep_the_embedding_and_change_the_rest(models, pictures):
    faithful = models.variations(pictures[0], count=2, eta=0.0, drawing=SHORT)
    assert torch.allclose(faithful[0], faithful[1], atol=1e-5)
    some = models.variations(pictures[0], count=3, eta=0.3, drawing=replace(SHORT, seed=1))
    more = models.variations(pictures[0], count=3, eta=1.0, drawing=replace(SHORT, seed=1))
    near, far = ((x - faithful[0]).abs().mean() for x in (some, more))
    assert 0.001 < near < far
    assert not torch.allclose(more[0], more[1], atol=0.01)


def test_what_does_not_belong_together_is_refused_with_the_mend(models):
    plain = build(decoder_config(embedding=0))
    with pytest.raises(WrongUse, match="makes no pictures from embeddings"):
        UnClip(models.clip, plain, read)
    with pytest.raises(WrongUse, match="decoder takes embeddings of 8 numbers, the CLIP makes 16"):
        UnClip(models.clip, build(decoder_config(embedding=8)), read)
    bare = UnClip(models.clip, models.decoder, read)
    with pytest.raises(WrongUse, match="captions need a prior"):
        bare.generate(["ab"])
    with pytest.raises(WrongUse, match="no difference to follow"):
        models.text_diff(torch.zeros(3, SIZE, SIZE), "ab", "ab", 2)
    small = torch.zeros(1, 3, SIZE, SIZE)
    assert bare.larger(small) is small
