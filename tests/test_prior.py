"""Priors over embeddings: against distributions that are known, and against themselves."""

import dataclasses

import pytest
import torch
from conftest import in_ranks
from torch.nn import functional as F

from maquette.base.errors import UserError, WrongUse
from maquette.models.base import PictureBatch
from maquette.models.diffusion.drawing import PriorDrawing
from maquette.models.picture_config import EOS_TOKEN_ID
from maquette.models.prior_autoregressive import Components
from maquette.models.prior_config import PriorConfig
from maquette.models.store import load_parameters, tensors_of
from maquette.serving.unclip import embeddings
from maquette.training.datasets.picture_config import PictureRecipe
from maquette.training.decide import Decisions
from maquette.training.single import Single

D, WORDS, KINDS = 16, 4, 3
SIZES = {"embedding": D, "vocabulary": 8, "caption_length": WORDS, "width": 64, "depth": 2}
FIXED = torch.Generator().manual_seed(5)
CENTRES = F.normalize(torch.randn(KINDS, D, generator=FIXED), dim=1)
SIDES = torch.randn(KINDS, D, generator=FIXED)
SIDES = F.normalize(SIDES - (SIDES * CENTRES).sum(1, keepdim=True) * CENTRES, dim=1)
TEXTS = F.normalize(torch.randn(KINDS, D, generator=FIXED) + 0.5, dim=1)  # away from the pictures


def mixture(n: int, seed: int, kind: int | None = None) -> PictureBatch:
    """Each kind of caption fits pictures to both sides of a centre, 0.6 away, and none between."""
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, KINDS, (n,), generator=draw)
    if kind is not None:
        kinds = torch.full((n,), kind)
    signs = torch.where(torch.rand(n, 1, generator=draw) < 0.5, 1.0, -1.0)
    noise = 0.08 * torch.randn(n, D, generator=draw)
    embedding = F.normalize(CENTRES[kinds] + 0.6 * signs * SIDES[kinds] + noise, dim=1)
    captions = torch.full((n, WORDS), EOS_TOKEN_ID)
    captions[:, 0] = kinds + 1
    return PictureBatch(torch.zeros(n, 3, 1, 1), captions, None, embedding, TEXTS[kinds])


def make(variant="diffusion", **changes):
    small = SIZES | {"components": 12, "buckets": 32} | changes
    return PriorConfig(variant=variant, **small).build().initialise(0).eval()


@pytest.fixture(scope="module")
def learned():
    """Both priors after some hundreds of steps on the mixture."""
    priors = {}
    for variant, steps in (("diffusion", 600), ("autoregressive", 300)):
        model = make(variant).train()
        model.prepare(mixture(128, seed=0))
        torch.manual_seed(0)
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.003)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 0.003 * (1 - step / steps)
            loss = model.loss(mixture(128, seed=step))
            optimiser.zero_grad()
            (loss.total / loss.count).backward()
            optimiser.step()
        priors[variant] = model.eval()
    return priors


def drawn(model, kind, n=300, **changes):
    batch = mixture(n, seed=1_000_000, kind=kind)
    draw = torch.Generator().manual_seed(1)
    drawing = PriorDrawing(**({"candidates": 1, "steps": 32} | changes))
    z = embeddings(model, batch.captions, batch.text_embedding, drawing, draw)
    return z, batch.embedding


@pytest.mark.parametrize("variant", ["diffusion", "autoregressive"])
@pytest.mark.parametrize("kind", range(KINDS))
def test_samples_have_the_mean_and_the_spread_of_what_fits_a_caption(learned, variant, kind):
    """The mean alone would let through a prior that always says the mean: both sides must be there."""
    ours, true = drawn(learned[variant], kind)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(len(ours)))
    # The mean of 300 draws along the side is off by 0.03 by chance.
    assert (ours.mean(0) - true.mean(0)).norm() < 0.15
    along, expected = ours @ SIDES[kind], true @ SIDES[kind]
    assert float(along.std()) == pytest.approx(float(expected.std()), rel=0.15)
    assert float((along.abs() > 0.25).float().mean()) > 0.9  # between the sides nothing fits
    spread, wanted = ((x - x.mean(0)).square().sum(1).mean() for x in (ours, true))
    assert float(spread) == pytest.approx(float(wanted), rel=0.3)


def test_one_step_says_the_mean_of_what_fits(learned):
    """Why a higher cosine to the true embedding is no better prior: this has the highest."""
    one, true = drawn(learned["diffusion"], 0, steps=1)
    many, _ = drawn(learned["diffusion"], 0)
    assert float((one @ SIDES[0]).std()) < 0.25 * float((true @ SIDES[0]).std())
    assert float((one * true).sum(1).mean()) > float((many * true).sum(1).mean()) + 0.05


@pytest.mark.parametrize("variant", ["diffusion", "autoregressive"])
def test_of_several_the_closest_to_the_text_is_kept(learned, variant):
    batch = mixture(200, seed=3)
    closeness = []
    for candidates in (1, 8):
        draw = torch.Generator().manual_seed(1)
        z = embeddings(
            learned[variant], batch.captions, batch.text_embedding,
            PriorDrawing(candidates=candidates, steps=16), draw,
        )  # fmt: skip
        closeness.append(float((z * batch.text_embedding).sum(1).mean()))
    assert closeness[1] > closeness[0] + 0.05


@pytest.mark.parametrize("variant", ["diffusion", "autoregressive"])
def test_guidance_leads_away_from_what_fits_every_caption(learned, variant):
    """With w = 0 the caption does not count; with w = 3 other kinds' embeddings get further away."""
    model = learned[variant]
    other = CENTRES[[1, 2]]

    def near_others(w: float) -> float:
        z, _ = drawn(model, 0, guidance=w)
        return float((z @ other.T).mean())

    assert near_others(1.0) < near_others(0.0) - 0.05
    if model.config.variant == "diffusion":  # of rounded components each leads away by itself
        assert near_others(3.0) < near_others(1.0)
    batch = mixture(20, seed=4)
    draws = []
    for captions in (batch.captions, batch.captions.flip(0)):
        draw = torch.Generator().manual_seed(1)
        z = embeddings(
            model,
            captions,
            batch.text_embedding,
            PriorDrawing(candidates=1, guidance=0.0, steps=4),
            draw,
        )
        draws.append(z)
    torch.testing.assert_close(draws[0], draws[1])


def test_an_empty_caption_is_no_caption(learned):
    model = learned["diffusion"]
    batch = mixture(6, seed=5)
    x, t = torch.randn(6, D), torch.tensor(0.7)
    with torch.no_grad():
        empty = model.denoiser(torch.full_like(batch.captions, EOS_TOKEN_ID), batch.text_embedding)(
            x, t
        )
        other = model.denoiser(
            torch.full_like(batch.captions, EOS_TOKEN_ID), -batch.text_embedding
        )(x, t)
        null = model.denoiser(batch.captions, batch.text_embedding, guidance=0.0)(x, t)
        given = model.denoiser(batch.captions, batch.text_embedding)(x, t)
    torch.testing.assert_close(empty, other)
    torch.testing.assert_close(empty, null)
    assert (given - empty).abs().max() > 0.05


@pytest.mark.parametrize("variant", ["diffusion", "autoregressive"])
def test_reading_the_caption_once_changes_nothing(learned, variant):
    """Step by step with what was kept of the caption, or the whole sequence at once."""
    model = learned[variant]
    batch = mixture(5, seed=6)
    with torch.no_grad():
        read = model.caption(batch.captions, batch.text_embedding)
        behind = torch.randn(5, 3, 64)
        whole = model.run(torch.cat([read, behind], dim=1))
        caches = model.caches(5, WORDS + 1 + 3)
        parts = [model.run(read, caches=caches)]
        parts += [model.run(behind[:, i : i + 1], WORDS + 1 + i, caches) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_every_number_that_is_read_counts_and_the_rest_does_not():
    """The query is told the time, the noised embedding, the caption and the text embedding."""
    model = make()
    batch = mixture(4, seed=7)
    x, t = torch.randn(4, D), torch.tensor(0.5)

    def said(captions=batch.captions, text=batch.text_embedding, x=x, t=t):
        with torch.no_grad():
            return model.denoiser(captions, text)(x, t)

    plain = said()
    assert plain.shape == (4, D)
    torch.testing.assert_close(said(t=torch.full((4,), 0.5)), plain)
    for changed in (said(captions=batch.captions + 1), said(text=-batch.text_embedding),
                    said(x=x + 1), said(t=torch.tensor(0.6))):  # fmt: skip
        assert (changed - plain).abs().max() > 1e-3


def test_the_loss_is_the_error_of_the_clean_embedding():
    """An untrained prior that says 0 is off by the mean square of the embedding, which is 1."""
    model = make()
    with torch.no_grad():
        model.output.weight.zero_()
    loss = model.loss(mixture(64, seed=8))
    assert loss.count == 64
    assert float(loss.value) == pytest.approx(64.0, rel=1e-4)


def test_components_are_the_principal_ones_and_rounding_is_to_the_nearest_bucket():
    draw = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(8, 8, generator=draw))
    scales = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.1, 0.1, 0.1, 0.1])
    x = torch.randn(2000, 8, generator=draw) * scales @ directions.T + 3.0
    pca = Components(8, 4, 256)
    with torch.no_grad():
        for p in pca.parameters():
            p.zero_()
    assert not pca.fitted
    pca.fit(x)
    assert pca.fitted
    pca.requires_grad_(False)
    torch.testing.assert_close(pca.basis @ pca.basis.T, torch.eye(4), rtol=0, atol=1e-5)
    assert ((pca.basis @ directions[:, :4]).diagonal().abs() > 0.98).all()
    again = Components(8, 4, 256)
    again.fit(x.flip(0))
    torch.testing.assert_close(again.basis.detach(), pca.basis, rtol=0, atol=1e-5)
    rounded = pca.rounded(x)
    assert rounded.min() >= 0 and rounded.max() <= 255
    back = pca.vectors(rounded)
    along = (x - pca.mean) @ pca.basis.T
    assert (((back - pca.mean) @ pca.basis.T - along).abs() <= (pca.high - pca.low) / 500).all()
    assert (x - back).square().sum(
        1
    ).mean() < 0.045  # the four small directions, 0.04, and little more
    assert torch.equal(pca.rounded(back), rounded)
    assert pca.rounded(torch.full((1, 8), 1e6)).max() <= 255  # outside the range: its end


def test_the_components_are_kept_with_the_weights_and_not_trained():
    model = make("autoregressive").train()
    assert not model.components.fitted
    model.prepare(mixture(64, seed=9))
    fitted = {n: b.clone() for n, b in model.components.named_buffers()}
    loss = model.loss(mixture(64, seed=10))
    loss.total.backward()
    assert model.values.weight.grad.abs().sum() > 0
    other = make("autoregressive")
    load_parameters(other, tensors_of(model), "here")
    assert other.components.fitted and fitted.keys() == {"mean", "basis", "low", "high"}
    for name, b in other.components.named_buffers():
        assert torch.equal(b, fitted[name]), name


def fits_as_rank(group) -> None:
    import torch.distributed as dist

    recipe = PictureRecipe(model=make("autoregressive").config)
    decisions = Decisions("cpu", "fp32", False, 1, "", "", {})
    learner = Single(recipe, decisions, group.device)
    learner.prepare(mixture(64, seed=20 + group.rank), group)  # each rank has pictures of its own
    basis = learner.model.components.basis
    bases = [torch.zeros_like(basis) for _ in range(2)]
    dist.all_gather(bases, basis.detach())
    assert torch.equal(bases[0], bases[1]) and learner.model.components.fitted


def test_two_ranks_fit_the_same_components():
    in_ranks(fits_as_rank, 2)


def test_an_untrained_autoregressive_prior_loses_log_buckets():
    model = make("autoregressive")
    model.prepare(mixture(64, seed=11))
    with torch.no_grad():
        model.output.weight.zero_()
    loss = model.loss(mixture(64, seed=11))
    assert float(loss.value / loss.count) == pytest.approx(3.4657, rel=1e-3)  # ln 32
    squared = model.loss(mixture(64, seed=11), z_loss=1.0)
    assert float((squared.total.detach() - squared.value) / 64) == pytest.approx(
        3.4657**2, rel=1e-3
    )


@pytest.mark.parametrize("variant", ["diffusion", "autoregressive"])
def test_captions_are_dropped_in_training_alone(variant):
    model = make(variant, drop=0.9)
    batch = mixture(64, seed=12)
    model.prepare(batch)

    def losses(training: bool) -> list[float]:
        model.train(training)
        values = []
        for captions in (batch.captions, batch.captions.flip(0)):
            torch.manual_seed(0)
            changed = dataclasses.replace(batch, captions=captions)
            values.append(float(model.loss(changed).value))
        return values

    kept, dropped = losses(False), losses(True)
    assert abs(dropped[0] - dropped[1]) < 0.5 * abs(kept[0] - kept[1])


def test_a_config_builds_what_it_says_and_counts_it():
    for variant in ("diffusion", "autoregressive"):
        config = PriorConfig(variant=variant, **SIZES, components=5)
        model = config.build()
        assert config.parameters() == sum(p.numel() for p in model.parameters())
        assert model.config.kind == "prior"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 66}, "width 66 is not divisible by heads 4: use width 68"),
        ({"components": 17}, "components is 17: use 1 to 16"),
        ({"drop": 1.0}, "drop is 1.0"),
        ({"buckets": 1}, "buckets is 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_the_mend(change, message):
    with pytest.raises(WrongUse, match=message):
        PriorConfig(**({"components": 12} | SIZES | change))


def test_what_a_prior_cannot_learn_from_is_refused_with_the_mend():
    model, batch = make(), mixture(4, seed=14)
    with pytest.raises(UserError, match="set data.encoder to a CLIP run"):
        model.loss(dataclasses.replace(batch, embedding=None))
    with pytest.raises(UserError, match="set model.embedding to 8"):
        model.loss(dataclasses.replace(batch, embedding=batch.embedding[:, :8]))
    with pytest.raises(
        WrongUse, match="captions have 2 tokens, the prior reads 4: use data.caption_length 4"
    ):
        model.loss(dataclasses.replace(batch, captions=batch.captions[:, :2]))
    with pytest.raises(UserError, match="has not learned yet"):
        embeddings(make("autoregressive"), batch.captions, batch.text_embedding)
    with pytest.raises(
        UserError, match="12 components cannot be fitted to 12 pictures: use a batch"
    ):
        make("autoregressive").prepare(mixture(12, seed=15))
    make("autoregressive").prepare(mixture(13, seed=15))
    with pytest.raises(WrongUse, match="candidates is 0"):
        PriorDrawing(candidates=0)
