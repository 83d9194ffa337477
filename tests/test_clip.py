"""CLIP: the loss against its definition, what an export folds in, and what users get wrong."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from maquette.base.errors import UserError, WrongUse
from maquette.models.base import PictureBatch
from maquette.models.clip import contrast, same
from maquette.models.clip_config import ClipConfig
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Parametrisation

SIZES = {
    "image_size": 16,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "patch": 4,
    "vocabulary": 20,
    "caption_length": 6,
    "text_width": 32,
    "text_depth": 2,
    "text_heads": 2,
    "embedding": 16,
    "parametrisation": Parametrisation(
        base_width=32, base_depth=2, base_head_dim=16, input_multiplier=10.0
    ),
}


def make(seed=0, **changes):
    return ClipConfig(**(SIZES | changes)).build().initialise(seed)


def captions(n, seed=0):
    """(n, 6): four tokens and the end."""
    drawn = torch.randint(1, 20, (n, 6), generator=torch.Generator().manual_seed(seed))
    drawn[:, 4:] = 0
    return drawn


def batch(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return PictureBatch(torch.rand(n, 3, 16, 16, generator=generator) * 2 - 1, captions(n, seed))


def test_the_loss_is_the_mean_of_both_cross_entropies():
    model = make().eval()
    b = batch(7)
    f, g = model.embed_pictures(b.pictures), model.embed_captions(b.captions)
    torch.testing.assert_close(f.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(g.norm(dim=1), torch.ones(7))
    scores = (f @ g.T).detach() / 0.07
    right = torch.arange(7)
    expected = (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
    loss = model.loss(b)
    assert loss.count == 7
    assert float(loss.total.detach()) / 7 == pytest.approx(float(expected), rel=1e-5)


def test_the_sigmoid_loss_is_that_of_every_pair():
    model = make(objective="sigmoid").eval()
    b = batch(5)
    f, g = model.embed_pictures(b.pictures), model.embed_captions(b.captions)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            logit = 10 * float(f.detach()[i] @ g.detach()[j]) - 10
            expected += math.log1p(math.exp(-logit if i == j else logit))
    assert float(model.loss(b).total.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_pictures_with_one_caption_are_no_wrong_answers_of_each_other(objective):
    """The loss of a batch whose second half repeats its captions does not push those apart."""
    rows = captions(3)
    rows = torch.cat([rows, rows[:1]])
    hidden = same(rows)
    assert hidden.nonzero().tolist() == [[0, 3], [3, 0]]
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    contrast(logits, hidden, objective).backward()
    assert (logits.grad[hidden] == 0).all()
    assert (logits.grad[~hidden] != 0).all()


def test_it_overfits_and_does_not_stay_at_the_logarithm_of_the_batch():
    model = make(seed=1)
    b = batch(64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = model.loss(b)
        (loss.total / loss.count).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert float(loss.value) / 64 < 0.2 < math.log(64) / 2
    hits = (model.embed_pictures(b.pictures) @ model.embed_captions(b.captions).T).argmax(1)
    assert (hits == torch.arange(64)).float().mean() > 0.95


def test_what_follows_the_end_of_a_caption_changes_nothing():
    model = make(caption_length=7).eval()
    short = captions(4)
    after = short.clone()
    after[:, 5] = 7
    torch.testing.assert_close(model.embed_captions(short), model.embed_captions(after))
    torch.testing.assert_close(model.embed_captions(short), model.embed_captions(short[:, :5]))
    before = short.clone()
    before[:, 3] = before[:, 3] % 19 + 1
    moved = (model.embed_captions(short) - model.embed_captions(before)).abs().amax(1)
    assert (moved > 1e-3).all()


def test_the_scale_is_held_at_a_hundred_and_can_come_down():
    model = make()
    with torch.no_grad():
        model.logit_scale.fill_(7.0)
    assert float(model.scale().detach()) == pytest.approx(100)
    model.loss(batch(4)).total.backward()
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(100))
    assert float(model.logit_scale.grad) != 0


def test_a_noised_one_sees_the_time_and_learns_from_pictures_with_noise():
    model = make(noised=True)
    b = batch(6)
    t = torch.tensor(0.5)
    with torch.no_grad():
        at_start, later = model.embed_pictures(b.pictures), model.embed_pictures(b.pictures, t)
    assert (at_start - later).abs().max() > 1e-3
    torch.manual_seed(0)
    first = model.loss(b).value
    torch.manual_seed(0)
    assert first == model.loss(b).value
    assert first != model.loss(b).value
    x = b.pictures.clone().requires_grad_()
    (model.embed_pictures(x, t) * model.embed_captions(b.captions)).sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()


def test_parameters_start_by_their_roles_and_are_counted():
    config = ClipConfig(**(SIZES | {"objective": "sigmoid", "noised": True}))
    model = config.build().initialise(0)
    assert config.parameters() == sum(p.numel() for p in model.parameters())
    starts = {p.name: p.start for p in declared(model)}
    assert starts["logit_scale"] == pytest.approx(math.log(10)) and starts["logit_bias"] == -10
    first = make()
    assert float(first.logit_scale.detach()) == pytest.approx(math.log(1 / 0.07))
    from maquette.nn.patches import sincos2d

    torch.testing.assert_close(first.picture_tower.positions.weight[1:], 0.5 * sincos2d(4, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 5}, "image_size 16 is not divisible by patch 5: use patch 4"),
        ({"heads": 3}, "width 32 is not divisible by heads 3: use heads 2 or width 33"),
        ({"width": 34}, "width 34 is not a multiple of 4: use 36"),
        ({"text_heads": 5}, "text_width 32 is not divisible by text_heads 5"),
        ({"bos_token_id": 20}, "bos_token_id is 20"),
        ({"embedding": 0}, "embedding is 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_the_mend(change, message):
    with pytest.raises(WrongUse, match=message):
        ClipConfig(**(SIZES | change))


def test_batches_that_cannot_be_are_refused():
    model = make()
    with pytest.raises(WrongUse, match="micro_batch 2"):
        model.loss(batch(1))
    with pytest.raises(WrongUse, match="captions"):
        model.loss(PictureBatch(batch(2).pictures))
    long = torch.ones(1, 9, dtype=torch.int64)
    with pytest.raises(WrongUse, match="9 tokens, the model has room for 6"):
        model.embed_captions(long)
    long[:, 4:] = 0  # filling is cut
    torch.testing.assert_close(model.embed_captions(long), model.embed_captions(long[:, :6]))


def logits(model, pictures, tokens):
    return model.logits(model.embed_pictures(pictures), model.embed_captions(tokens))


@torch.no_grad()
def test_an_export_has_the_multipliers_folded_in_and_the_tokenizers_numbers(tmp_path):
    CLIPModel = pytest.importorskip("transformers").CLIPModel
    from maquette.corpus.tokenizer import byte_tokenizer, save_tokenizer
    from maquette.serving.hugging_face_clip import export_clip
    from maquette.training.datasets.pictures import caption_tokens

    rules = Parametrisation(base_width=16, base_depth=1, base_head_dim=4, input_multiplier=7.0)
    model = make(vocabulary=257, caption_length=12, parametrisation=rules).eval()
    run = tmp_path / "run"
    run.mkdir()
    save_tokenizer(byte_tokenizer(), run / "tokenizer.json")
    assert export_clip(model, run, tmp_path / "out") == "CLIPModel"
    reference = CLIPModel.from_pretrained(tmp_path / "out").eval()
    texts = ["a red dot", "", "blue"]
    ids = torch.full((3, 12), 256)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(list(text.encode()), dtype=torch.int64)
    x = batch(4).pictures
    got = logits(model, x, caption_tokens(byte_tokenizer(), texts, 12))
    expected = reference(input_ids=ids, pixel_values=x).logits_per_image
    assert (got - expected).abs().max() < 1e-4


def test_what_transformers_has_no_place_for_is_not_exported(tmp_path):
    from maquette.serving.hugging_face_clip import export_clip

    for change, message in (
        ({"objective": "sigmoid"}, "sigmoid loss"),
        ({"noised": True}, "the time"),
    ):
        with pytest.raises(UserError, match=message):
            export_clip(make(**change), tmp_path, tmp_path / "out")


def test_a_config_comes_back_from_its_file(tmp_path):
    from maquette.models.store import load_config, save_config

    config = ClipConfig(**(SIZES | {"objective": "sigmoid"}))
    save_config(tmp_path, config)
    assert load_config(tmp_path) == config
    assert dataclasses.replace(config, objective="softmax") != config
