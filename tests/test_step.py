"""One optimiser step, read from the checkpoints and held against what is written here by hand.

AdamW's first moment after one step is (1 - beta1) times the gradient it was given, so a checkpoint
says what was differentiated, scaled and clipped, whatever path the trainer took to it.
"""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Poison, Texts
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from maquette.corpus.order import SampleOrder
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.models.decoder import Decoder
from maquette.models.store import load_tensors
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Parametrisation, Role
from maquette.training.average import Average
from maquette.training.checkpoint import AVERAGE, MODEL, OPTIMISER
from maquette.training.datasets.text import TextDataset
from maquette.training.initial_model import make_model
from maquette.training.optimiser import clip_gradients
from maquette.training.recipe import Checkpoints, Schedule
from maquette.training.run import RunDirectory
from maquette.training.schedule import learning_rate_factor
from maquette.workshop.train import train

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """A corpus of documents of three words: a window of 32 bytes holds two or three of them."""
    folder = tmp_path_factory.mktemp("corpora") / "short"
    return build(folder, Texts(documents=150, words=3), BuildOptions(vocabulary=257, heldout=0.2))


@pytest.fixture
def every(recipe):
    """The recipe with a checkpoint of every step, and no samples."""
    return replace(
        recipe,
        checkpoints=Checkpoints(every=1, keep_every=1),
        watch=replace(recipe.watch, sample_tokens=0, report=False),
    )


def saved(path: Path, step: int, name: str) -> Tensors:
    return load_tensors(path / "checkpoints" / f"step-{step:08d}" / name)


def first_gradient(recipe, path: Path) -> Tensors:
    """What the optimiser was given at the first step, and that its second moment agrees."""
    if not path.exists():
        train(replace(recipe, stop=1), path)
    state = saved(path, 1, OPTIMISER)
    beta1, beta2 = recipe.optimiser.beta1, recipe.optimiser.beta2
    found = {
        name.removesuffix(".exp_avg"): t / (1 - beta1)
        for name, t in state.items()
        if name.endswith(".exp_avg")
    }
    for name, g in found.items():
        expected = (1 - beta2) * g.square()
        torch.testing.assert_close(state[f"{name}.exp_avg_sq"], expected, rtol=1e-4, atol=1e-20)
    return found


def norm(gradient: Tensors) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradient.values()))


# The gradient


def loss_by_hand(recipe, corpus, model, rows) -> tuple[torch.Tensor, float, int]:
    """Over rows of one token more than a sequence: what is differentiated, the entropy, targets."""
    length, rules = recipe.data.sequence, recipe.model.parametrisation
    ratio = rules.output_multiplier / (recipe.model.width / rules.base_width)
    total, plain = torch.zeros(()), 0.0
    for row in (torch.from_numpy(row).long() for row in rows):
        cuts = [0, length]
        if recipe.data.document_mask:
            cuts += [i + 1 for i in range(length - 1) if row[i] == corpus.eos_token_id]
        cuts.sort()
        for a, b in itertools.pairwise(cuts):
            logits = model.hidden(row[None, a:b])[0] @ model.output.weight.T * ratio
            z = torch.logsumexp(logits, 1).square().sum()
            entropy = F.cross_entropy(logits, row[a + 1 : b + 1], reduction="sum")
            total = total + entropy + recipe.optimiser.z_loss * z
            plain += float(entropy.detach())
    return total, plain, len(rows) * length


def gradient_by_hand(recipe, corpus) -> tuple[Tensors, float]:
    """Gradient and loss of the first step: every document by itself, plain logits, their mean."""
    model = make_model(recipe).train()
    assert isinstance(model, Decoder)
    length = recipe.data.sequence
    starts = SampleOrder(len(corpus.train), length, recipe.seed).starts(0, recipe.batch)
    rows = [corpus.train.read(int(start), length + 1) for start in starts]
    total, plain, count = loss_by_hand(recipe, corpus, model, rows)
    (total / count).backward()
    return {n: p.grad for n, p in model.named_parameters()}, plain / count


@pytest.mark.parametrize(
    "change",
    ["plain", "micro-batches", "z-loss", "z-loss in chunks", "documents", "multiplier"],
)
def test_the_gradient_of_a_step_is_that_of_the_mean_loss(
    change, every, short, tmp_path, monkeypatch
):
    recipe = replace(
        every,
        data=replace(every.data, corpus=str(short.path)),
        optimiser=replace(every.optimiser, clip=0.0),
    )
    if change == "micro-batches":
        recipe = replace(recipe, micro_batch=1)
    if change.startswith("z-loss"):
        recipe = replace(recipe, optimiser=replace(recipe.optimiser, z_loss=0.03))
    if change.endswith("chunks"):
        monkeypatch.setattr("maquette.nn.loss.CHUNK_BYTES", {"cpu": 4 * 257 * 9})
    if change == "documents":
        recipe = replace(recipe, data=replace(recipe.data, document_mask=True),
                         model=replace(recipe.model, positions="learned"))  # fmt: skip
    if change == "multiplier":
        rules = Parametrisation(base_width=8, base_depth=1, base_head_dim=4, output_multiplier=3.0)
        recipe = replace(recipe, model=replace(recipe.model, parametrisation=rules))
    wanted, loss = gradient_by_hand(recipe, short)
    found = first_gradient(recipe, tmp_path / "run")
    assert found.keys() == wanted.keys()
    size = norm(wanted)
    for name, g in wanted.items():
        torch.testing.assert_close(found[name], g, rtol=1e-3, atol=1e-5 * size)
    (record,) = RunDirectory(tmp_path / "run").records()
    assert record["loss"] == pytest.approx(loss, rel=1e-5)  # without the regulariser
    assert record["gradient_norm"] == pytest.approx(size, rel=1e-4)


def test_z_loss_and_documents_change_what_is_learnt(every, short):
    """Or the tests above would hold for a trainer that ignores them."""
    recipe = replace(every, data=replace(every.data, corpus=str(short.path)))
    plain, _ = gradient_by_hand(recipe, short)
    for other in (
        replace(recipe, optimiser=replace(recipe.optimiser, z_loss=0.03)),
        replace(recipe, data=replace(recipe.data, document_mask=True)),
    ):
        changed, _ = gradient_by_hand(other, short)
        apart = norm({n: changed[n] - plain[n] for n in plain})
        assert apart > 0.02 * norm(plain)


# Clipping


@given(
    clip=st.sampled_from([0.0, 0.3, 1.0, 7.0, 1e6]),
    scales=st.lists(st.floats(1e-2, 1e2), min_size=1, max_size=5),
)
def test_gradients_are_clipped_as_one_vector(clip, scales):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (1, 1), (2, 3, 2), (7,)]
    parameters = [torch.nn.Parameter(torch.zeros(s)) for s in shapes]
    for p, scale in zip(parameters, scales, strict=False):  # the rest have no gradient
        p.grad = scale * torch.randn(p.shape, generator=generator)
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    length = math.sqrt(sum(float(g.double().square().sum()) for g in before if g is not None))
    told = clip_gradients(parameters, clip)
    assert told == pytest.approx(length, rel=1e-5)  # before clipping
    factor = min(1.0, clip / length) if clip else 1.0
    for p, g in zip(parameters, before, strict=True):
        if g is None:
            assert p.grad is None
        elif factor == 1:
            assert torch.equal(p.grad, g)
        else:
            torch.testing.assert_close(p.grad, g * factor, rtol=1e-4, atol=0)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_run_clips_by_its_recipe_and_records_the_length_before(micro_batch, every, tmp_path):
    found = {}
    for clip in (0.0, 0.01, 100.0):
        optimiser = replace(every.optimiser, clip=clip)
        recipe = replace(every, optimiser=optimiser, micro_batch=micro_batch)
        found[clip] = first_gradient(recipe, tmp_path / str(clip))
        (record,) = RunDirectory(tmp_path / str(clip)).records()
        assert record["gradient_norm"] == pytest.approx(norm(found[0.0]), rel=1e-5)
    length = norm(found[0.0])
    assert 0.1 < length < 100
    for name, g in found[0.0].items():
        assert torch.equal(found[100.0][name], g)
        torch.testing.assert_close(found[0.01][name], g * 0.01 / length, rtol=1e-3, atol=1e-12)


# The update


def test_every_update_is_adamws_with_each_roles_rate_and_decay(every, tmp_path):
    """Loshchilov and Hutter 2019, algorithm 2, from one checkpoint's weights to the next's."""
    rules = Parametrisation(base_width=8, base_depth=1, base_head_dim=16)
    model = replace(every.model, parametrisation=rules, norm_bias=True, norm="layernorm",
                    feedforward_bias=True)  # fmt: skip
    settings = replace(every.optimiser, weight_decay=0.3, beta1=0.8, beta2=0.9, epsilon=1e-7)
    recipe = replace(every, model=model, optimiser=settings, steps=5)
    train(recipe, tmp_path / "run")
    records = RunDirectory(tmp_path / "run").records()
    built = make_model(recipe)
    weights = {n: p.detach() for n, p in built.named_parameters()}
    # m = 4: hidden matrices have a quarter of the rate and four times the decay; vectors none
    of_role = {
        Role.HIDDEN: (0.25, 4.0),
        Role.INPUT: (1, 1),
        Role.OUTPUT: (1, 1),
        Role.VECTOR: (1, 0),
    }
    roles = {p.name: of_role[p.role] for p in declared(built)}
    first = {n: torch.zeros_like(p) for n, p in weights.items()}
    second = {n: torch.zeros_like(p) for n, p in weights.items()}
    for step, record in enumerate(records, 1):
        rate = settings.learning_rate * learning_rate_factor(
            recipe.schedule, step - 1, recipe.steps
        )
        assert record["learning_rate"] == pytest.approx(rate)
        after, state = (saved(tmp_path / "run", step, name) for name in (MODEL, OPTIMISER))
        for name, p in weights.items():
            m, v = state[f"{name}.exp_avg"], state[f"{name}.exp_avg_sq"]
            g = (m - 0.8 * first[name]) / 0.2  # the gradient, and both moments of that same one
            wanted = 0.9 * second[name] + 0.1 * g.square()
            torch.testing.assert_close(v, wanted, rtol=1e-2, atol=1e-3 * float(v.max()))
            own, decay = roles[name]
            corrected = (v / (1 - 0.9**step)).sqrt() + 1e-7
            expected = (
                p * (1 - rate * own * 0.3 * decay) - rate * own * m / (1 - 0.8**step) / corrected
            )
            torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-6)
            weights[name], first[name], second[name] = after[name], m, v


def test_a_skipped_batch_leaves_everything_but_the_data_where_it_was(every, tmp_path, monkeypatch):
    Poison(monkeypatch, {3: math.nan})
    averaged = replace(every, steps=5, optimiser=replace(every.optimiser, average=0.5))
    train(averaged, tmp_path / "run")
    assert [r.get("skipped", False) for r in RunDirectory(tmp_path / "run").records()] == [
        False, False, True, False, False
    ]  # fmt: skip
    for name in (MODEL, OPTIMISER, AVERAGE):
        before, after = (saved(tmp_path / "run", step, name) for step in (2, 3))
        assert all(torch.equal(before[n], after[n]) for n in before), name
        later = saved(tmp_path / "run", 4, name)
        assert any(not torch.equal(later[n], after[n]) for n in after), name


# The moving average


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_an_average_warms_up_to_exactly_its_decay(decay):
    """Of a weight that jumps from 0 to 1: the rest of the way is the product of the decays."""
    model = torch.nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    model.register_buffer("moving", torch.zeros(2))
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = Average(model, decay)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(5.0)
        model.moving.fill_(7.0)
    bias, left = average.model.bias.clone(), 1.0
    for step in range(1, 120):
        average.update(step)
        now = 1 - float(average.model.weight)
        expected = decay if step >= 100 else min(decay, (1 + step) / (10 + step))
        assert now == pytest.approx(left * expected, abs=2e-7)
        left *= expected
        if left < 1e-3:  # begin again, or nothing is left to see
            average.model.weight.zero_()
            left = 1.0
    assert torch.equal(average.model.bias, bias)  # what does not learn is left alone
    assert torch.equal(average.model.moving, model.moving)  # a buffer is not averaged
    average.begin()
    assert (
        torch.equal(average.model.weight, model.weight) and not average.model.weight.requires_grad
    )


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_the_average_takes_in_each_taken_step_once(micro_batch, every, tmp_path, monkeypatch):
    calls = recipe_calls(every, micro_batch)
    Poison(monkeypatch, {calls * 6 + 1: math.nan})  # the first part of step 7
    recipe = replace(
        every, micro_batch=micro_batch, optimiser=replace(every.optimiser, average=0.45)
    )
    train(recipe, tmp_path / "run")
    records = RunDirectory(tmp_path / "run").records()
    assert [r["step"] for r in records if r.get("skipped")] == [7]
    expected = {n: p.detach().clone() for n, p in make_model(recipe).named_parameters()}
    for step in range(1, recipe.steps + 1):
        now, kept = (saved(tmp_path / "run", step, name) for name in (MODEL, AVERAGE))
        decay = 1.0 if step == 7 else min(0.45, (1 + step) / (10 + step))
        for n, t in expected.items():
            expected[n] = decay * t + (1 - decay) * now[n]
            torch.testing.assert_close(kept[n], expected[n], rtol=1e-5, atol=1e-6)


def recipe_calls(recipe, micro_batch: int | None) -> int:
    """Forward passes of a step."""
    return recipe.batch // (micro_batch or recipe.batch)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_last_held_out_loss_is_that_of_the_weights_that_are_kept(
    average, every, short, tmp_path
):
    recipe = replace(
        every,
        model=replace(every.model, dropout=0.3, positions="learned"),  # dropped in training alone
        optimiser=replace(every.optimiser, average=average, z_loss=0.1),
        data=replace(every.data, corpus=str(short.path), document_mask=True),
        watch=replace(every.watch, tokens=96),
    )
    outcome = train(recipe, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    model = recipe.model.build().eval()
    model.load_state_dict(load_tensors(run / "model.safetensors"), strict=False)
    windows = (len(short.heldout) - 1) // 32  # three of them, spread evenly
    rows = [short.heldout.read(i * windows // 3 * 32, 33) for i in range(3)]
    _, value, count = loss_by_hand(recipe, short, model, rows)
    assert outcome.heldout_loss == run.records()[-1]["heldout_loss"]
    assert outcome.heldout_loss == pytest.approx(value / count, rel=1e-5)
    last = saved(tmp_path / "run", recipe.steps, AVERAGE if average else MODEL)
    assert all(torch.equal(last[n], p) for n, p in model.named_parameters())


# Random numbers


@pytest.mark.parametrize("parts", [1, 2])
def test_random_numbers_are_drawn_anew_for_every_part_of_every_step(
    parts, every, tmp_path, monkeypatch
):
    """On one batch, at a rate of 0, losses differ by what is dropped alone."""
    losses, drawn = [], []
    original = Decoder.loss

    def recorded(model, batch, z_loss=0.0):
        if model.training:
            drawn.append(float(torch.rand(())))
        result = original(model, batch, z_loss)
        if model.training:
            losses.append(float(result.value))
        return result

    read = TextDataset.step

    def same(dataset, sample, rank, world):
        return read(dataset, 0)[:1] * parts

    monkeypatch.setattr(TextDataset, "step", same)
    monkeypatch.setattr(Decoder, "loss", recorded)
    still = replace(every, optimiser=replace(every.optimiser, learning_rate=0.0), steps=6)
    dropping = replace(still, model=replace(every.model, dropout=0.5), micro_batch=4 // parts)
    for name, recipe in (("a", dropping), ("b", dropping), ("c", replace(dropping, seed=1)),
                         ("d", replace(still, micro_batch=4 // parts))):  # fmt: skip
        train(recipe, tmp_path / name)
    n = 6 * parts
    first, again, _, plain = (losses[i : i + n] for i in range(0, 4 * n, n))
    assert len(set(first)) == n
    assert first == again
    assert len(set(plain)) == 1
    first, again, other, _ = (drawn[i : i + n] for i in range(0, 4 * n, n))
    assert len(set(first)) == n
    assert first == again
    assert not set(first) & set(other)  # another seed draws others


# The schedule


@given(
    kind=st.sampled_from(["cosine", "wsd", "linear", "constant"]),
    steps=st.integers(1, 400),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
    floor=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
)
def test_no_step_is_taken_at_a_rate_of_0(kind, steps, warmup, decay, floor):
    schedule = Schedule(kind=kind, warmup=warmup, decay=decay, floor=floor)
    factors = [learning_rate_factor(schedule, step, steps) for step in range(steps)]
    assert min(factors) > 0
    assert max(factors) <= 1
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    rising = max(1, round(warmup * steps))
    assert factors[0] == pytest.approx(1 / rising)
    assert factors[min(rising, steps) - 1] == 1.0  # the peak is reached
    if kind == "constant":
        assert set(factors[rising:]) <= {1.0}


def test_a_linear_schedule_falls_in_equal_steps_from_the_peak_to_above_0():
    factors = [
        learning_rate_factor(Schedule(kind="linear", warmup=0.2, floor=0.0), step, 10)
        for step in range(10)
    ]
    assert factors == pytest.approx([1 / 2, 1, *(i / 9 for i in range(8, 0, -1))])
