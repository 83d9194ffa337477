"""The sparse all-MLP: what it may see, what it costs, that its experts are used, and a whole run."""

import dataclasses

import pytest
import torch
from conftest import Texts, command, in_ranks, refused, same_steps
from torch.utils.flop_counter import FlopCounterMode

from maquette.base.errors import UserError, WrongUse
from maquette.models.base import TokenBatch
from maquette.models.smlp import SMLP
from maquette.models.smlp_config import SMLPConfig
from maquette.nn.moe import TokenExperts, choose, prices
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Parametrisation, Role
from maquette.nn.token_mixing import SpatialGating

SIZES = {"vocabulary": 61, "context": 24, "width": 32, "dense": 1, "sparse": 2}
ROUTINGS = ("deterministic", "partial", "naive")
CAUSAL = ROUTINGS[:2]


def make(routing: str = "deterministic", **changes) -> SMLP:
    """A model whose mixing matrices are not 0, as if it had been trained."""
    model = SMLPConfig(**(SIZES | {"routing": routing} | changes)).build().initialise(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SpatialGating):
                module.mixing.normal_(0, 0.5)
                module.bias.normal_(0, 0.5)
    return model.eval()


def tokens(batch: int = 3, time: int = 24) -> torch.Tensor:
    return torch.randint(0, 61, (batch, time), generator=torch.Generator().manual_seed(1))


def changed(routing: str, at: int) -> int:
    """Logits up to `at` that change by over 1e-9 when every later token changes, in fp64.

    In fp32 the number of tokens an expert gets decides how its product is rounded.
    """
    model, before = make(routing).double(), tokens()
    model.compute = torch.float64
    after = before.clone()
    after[:, at + 1 :] = (after[:, at + 1 :] + 7) % 61
    with torch.no_grad():
        a, b = model(before), model(after)
    assert float((a - b)[:, at + 1 :].abs().amax()) > 1e-3
    return int(((a - b)[:, : at + 1].abs() > 1e-9).sum())


@pytest.mark.parametrize("at", [1, 3, 4, 15, 22])
@pytest.mark.parametrize("routing", CAUSAL)
def test_nothing_sees_the_future(routing, at):
    """Inside the prefix of partial routing (4 of 24 positions) and after it."""
    assert changed(routing, at) == 0


def test_a_gate_over_the_whole_sequence_leaks_the_future():
    assert changed("naive", 15) > 100


@pytest.mark.parametrize("routing", CAUSAL)
def test_step_by_step_with_the_cache_is_the_same(routing):
    model, row = make(routing), tokens()
    with torch.no_grad():
        cache = model.cache(3, 24)
        steps = [model(row[:, :2], cache=cache)]
        steps += [model(row[:, i : i + 1], cache=cache) for i in range(2, 24)]
        torch.testing.assert_close(torch.cat(steps, 1), model(row), atol=1e-4, rtol=1e-4)
    held = sum(c.values.nbytes for c in cache)
    assert held == 3 * 24 * model.kv_bytes_per_token()


@pytest.mark.parametrize("routing", CAUSAL)
def test_documents_in_one_sequence_do_not_see_each_other(routing):
    model, row = make(routing), tokens()
    document_ids = torch.tensor([[0] * 9 + [1] * 15]).expand(3, 24)
    positions = torch.tensor([[*range(9), *range(15)]]).expand(3, 24)
    with torch.no_grad():
        packed = model(row, document_ids=document_ids, positions=positions)
        torch.testing.assert_close(packed[:, :9], model(row[:, :9]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(packed[:, 9:], model(row[:, 9:]), atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_cross_entropy_of_the_logits():
    model, row = make(), tokens()
    loss = model.loss(TokenBatch(row, row.flip(1)))
    plain = torch.nn.functional.cross_entropy(
        model(row).flatten(0, 1), row.flip(1).flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss.total, plain)
    assert loss.count == 72


def test_partial_prediction_counts_what_comes_after_the_prefix():
    """Of 24 positions the gate sees 4: the predictions from the fourth on know all of it."""
    model, row = make("partial"), tokens()
    assert model.config.unpredicted == 4
    loss = model.loss(TokenBatch(row, row.flip(1)))
    logits, targets = model(row)[:, 3:].flatten(0, 1), row.flip(1)[:, 3:].flatten()
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(loss.total, plain)
    assert loss.count == 3 * 21
    with pytest.raises(WrongUse, match="predicts from position 4 on, but a sequence has 3"):
        model.loss(TokenBatch(row[:, :3], row[:, 1:4]))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_stated_costs_are_torchs_count_within_one_percent(routing):
    model = make(routing, vocabulary=512, context=64, width=64).train()
    batch = TokenBatch(*torch.randint(0, 512, (2, 4, 64)).unbind(0))
    with FlopCounterMode(display=False) as counter:
        model.loss(batch).total.backward()
    stated = model.flops_per_token(64) * 4 * 64
    assert stated == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert model.config.parameters() == sum(p.numel() for p in model.parameters())
    roles = dict.fromkeys(Role, 0)
    for p in declared(model):
        roles[p.role] += p.tensor.numel()
    assert {k: v for k, v in roles.items() if v} == model.config.parameters_by_role()


def test_more_experts_cost_parameters_and_next_to_no_operations():
    few = SMLPConfig(**SIZES, token_experts=2, feature_experts=2)
    many = SMLPConfig(**SIZES, token_experts=8, feature_experts=8)
    expert = 2 * 32 * 128
    assert many.parameters() - few.parameters() > 2 * 6 * expert
    gates = 2 * 32 * (8 - 2)
    assert many.flops_per_token(24) - few.flops_per_token(24) == 6 * gates
    assert many.parameters() - many.active_parameters() == 2 * 7 * expert


def test_the_choice_in_training_is_balanced():
    """Though the gate prefers one expert for nearly every item."""
    torch.manual_seed(0)
    scores = torch.randn(4000, 5) + torch.tensor([9.0, 0, 0, 0, -9.0])
    greedy = choose(scores, None)[0].bincount(minlength=5)
    balanced = choose(scores, scores)[0].bincount(minlength=5)
    assert greedy[0] > 3990
    assert balanced.min() > 0.9 * 800 and balanced.max() < 1.1 * 800
    # the price of balance is small: what is given up against the best balanced assignment is not
    taken = scores.gather(1, choose(scores, scores)[0][:, None]).mean()
    anyone = scores.mean()
    assert taken > anyone + 0.5


def test_few_items_choose_freely():
    assert prices(torch.randn(3, 5)).tolist() == [0] * 5
    assert prices(torch.randn(10, 1)).tolist() == [0]


def test_every_token_goes_through_the_expert_it_chose():
    torch.manual_seed(0)
    layer = TokenExperts(16, 24, 3).eval()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 7, 16)
    expert, strength = choose(layer.gate(x), None)
    expected = torch.stack(
        [
            layer.down(torch.nn.functional.gelu(layer.up(row[None], int(e))), int(e))[0] * s
            for row, e, s in zip(x.flatten(0, 1), expert.flatten(), strength.flatten(), strict=True)
        ]
    )
    torch.testing.assert_close(layer(x).flatten(0, 1), expected)
    assert len(expert.unique()) == 3


def test_every_expert_learns():
    model = make("partial").train()
    model.loss(TokenBatch(tokens(8), tokens(8).flip(1))).total.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        if p.dim() == 3:  # (experts, ...)
            assert (p.grad.abs().amax((1, 2)) > 0).all(), name


@pytest.mark.parametrize("routing", CAUSAL)
def test_the_gradient_of_the_mixing(routing):
    torch.manual_seed(0)
    gating = SpatialGating(6, 5, 3, routing=routing, prefix=2).double().eval()
    for p in gating.parameters():
        torch.nn.init.normal_(p)
    gating.norm = torch.nn.Identity()  # which computes in fp32
    h = torch.randn(2, 5, 12, dtype=torch.float64)
    names = ("mixing", "bias")

    def of(mixing, bias):
        values = {"mixing": mixing, "bias": bias}
        return torch.func.functional_call(gating, values, (h,))

    weights = [getattr(gating, name).detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(of, weights)
    torch.autograd.backward(of(*weights).square().sum())
    assert (weights[0].grad.triu(1) == 0).all()


def test_parameters_start_by_their_roles():
    """Matrices by fan-in, mixing at 0, so that before training no token knows of another."""
    rules = Parametrisation(base_width=32, base_depth=3)
    config = SMLPConfig(**(SIZES | {"width": 128, "parametrisation": rules}))
    model = config.build().initialise(0).eval()
    for p in declared(model):
        expected = model.scaling.multipliers(p.role, p.fan_in, p.residual).std
        if p.role == Role.VECTOR:
            assert (p.tensor == (1 if p.name.endswith("norm.weight") else 0)).all(), p.name
        elif p.tensor.numel() > 1000:
            assert float(p.tensor.detach().std()) == pytest.approx(expected, rel=0.1), p.name
    row = tokens()
    with torch.no_grad():
        alone = model(row[:, 5:6])
        torch.testing.assert_close(model(row)[:, 5:6], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"width": 30, "hidden": 60},
            "hidden 60 is not divisible by 2 x feature_experts 4: use hidden 64",
        ),
        ({"dense": 0, "sparse": 0}, "at least one block"),
        ({"prefix": 1.0}, "prefix is 1.0"),
        ({"token_experts": 0}, "token_experts is 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_the_mend(change, message):
    with pytest.raises(WrongUse, match=message):
        SMLPConfig(**change)


def test_a_sequence_longer_than_the_matrices_is_refused():
    with pytest.raises(WrongUse, match="25 tokens does not fit the mixing matrices of 24"):
        make()(tokens(1, 25))


@pytest.fixture
def sparse(recipe):
    model = SMLPConfig(
        vocabulary=257, context=32, width=32, dense=1, sparse=1, routing="partial",
        parametrisation=Parametrisation(base_width=32, base_depth=2),
    )  # fmt: skip
    return dataclasses.replace(recipe, model=model)


def test_a_run_resumes_bit_for_bit(sparse, tmp_path):
    from maquette.training.run import RunDirectory
    from maquette.workshop.train import train

    train(sparse, tmp_path / "whole")
    train(dataclasses.replace(sparse, stop=5), tmp_path / "parts")
    train(dataclasses.replace(sparse, stop=None), tmp_path / "parts", resume=True)
    whole, parts = (RunDirectory(tmp_path / name).records() for name in ("whole", "parts"))
    assert parts[4].pop("heldout_loss") > 0  # looked at because the call ended there
    same_steps(whole, parts)
    assert whole[-1]["loss"] < whole[0]["loss"] - 0.5


def test_a_run_counts_what_it_reads_and_learns_from_what_the_loss_counts(sparse, tmp_path):
    """With partial routing 27 of a sequence's 32 tokens are predicted; all 32 are read."""
    from maquette.corpus.text.named import open_corpus
    from maquette.training.datasets.text import TextDataset
    from maquette.training.run import RunDirectory
    from maquette.workshop.train import train

    recipe = dataclasses.replace(sparse, steps=1, micro_batch=2)
    outcome = train(recipe, tmp_path / "run")
    records = RunDirectory(tmp_path / "run").records()
    assert outcome.tokens == records[0]["tokens"] == 4 * 32

    model = recipe.model.build().initialise(recipe.seed)
    total, count = 0.0, 0
    for batch in TextDataset(recipe, open_corpus(recipe.data.corpus)).step(0):
        part = model.loss(batch)
        total, count = total + part.total, count + part.count
    assert count == 4 * 27
    (total / count).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert records[0]["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert records[0]["loss"] == pytest.approx((total / count).item(), rel=1e-4)


def test_documents_shorter_than_the_prefix_are_refused(sparse, tmp_path):
    from maquette.corpus.text.build import build
    from maquette.corpus.text.build_options import BuildOptions
    from maquette.training.datasets.text_config import TextData
    from maquette.workshop.train import train

    short = build(
        tmp_path / "short", Texts(300, words=1), BuildOptions(vocabulary=257, heldout=0.2)
    )
    model = dataclasses.replace(sparse.model, prefix=0.9)
    data = TextData(corpus=str(short.path), sequence=32, document_mask=True)
    recipe = dataclasses.replace(sparse, model=model, data=data)
    with pytest.raises(UserError, match="step 1: no target counts, as where every document"):
        train(recipe, tmp_path / "run")


def test_a_sequence_shorter_than_the_prefix_is_refused_before_there_is_a_run(sparse):
    with pytest.raises(WrongUse, match="predicts from position 6 on, but a sequence has 5"):
        dataclasses.replace(sparse, data=dataclasses.replace(sparse.data, sequence=5))


def test_what_a_user_does_with_a_run(sparse, tmp_path):
    recipe, run = tmp_path / "smlp.yaml", tmp_path / "run"
    sparse.save(recipe)
    said = command("train", recipe, "--run", run, "--json", "--model.token-experts", "3")
    assert said.code == 0, said.err
    loaded_config = (run / "config.json").read_text(encoding="utf-8")
    assert '"kind": "smlp"' in loaded_config and '"token_experts": 3' in loaded_config
    said = command("generate", run, "the cat", "--tokens", "9", "--temperature", "0", "--json")
    assert said.code == 0 and said.json["text"], said.err
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat and saw one red bird. " * 3, encoding="utf-8")
    said = command("eval", run, "--text", text, "--json")
    assert said.code == 0 and 0 < said.json["bits_per_byte"] < 20, said.err
    assert command("runs", run).code == 0
    refused(
        command("export", "hf", run, tmp_path / "hf"),
        "kind smlp",
        "only decoders and CLIPs",
        code=1,
    )
    refused(
        command("train", recipe, "--run", tmp_path / "x", "--model.heads", "2"), "--model.heads"
    )


def test_prompts_of_different_lengths_continue_as_alone(sparse, tmp_path):
    import maquette
    from maquette.serving.generate import stream_without_cache
    from maquette.serving.sampler import Sampling
    from maquette.workshop.train import train

    train(sparse, tmp_path / "run")
    run = maquette.load(tmp_path / "run")
    prompts = ["the old bird sat", "a", "saw one"]
    greedy = Sampling(temperature=0)
    together, _ = run.generate_batch(prompts, tokens=12, sampling=greedy)
    for prompt, one in zip(prompts, together, strict=True):
        row = run.tokenizer.encode(prompt)
        alone = list(stream_without_cache(run.model, row, 12, greedy))
        assert one.tokens == alone[: len(one.tokens)]


def train_as_rank(group, path: str) -> None:
    from maquette.training.run import RunDirectory
    from maquette.workshop.train import run_rank

    run_rank(RunDirectory(path), group)


def test_two_ranks_share_one_training(sparse, tmp_path):
    """With one expert the run of one rank; with several, each rank balances its own batch."""
    from maquette.training.run import RunDirectory
    from maquette.workshop.train import train

    model = dataclasses.replace(sparse.model, routing="deterministic", token_experts=1)
    recipe = dataclasses.replace(sparse, model=model, steps=6)
    train(recipe, tmp_path / "one")
    path = tmp_path / "two"
    train(dataclasses.replace(recipe, stop=1), path)  # prepares the run
    dataclasses.replace(RunDirectory(path).recipe(), stop=None).save(path / "recipe.yaml")
    (path / "model.safetensors").unlink()
    in_ranks(train_as_rank, 2, str(path))
    one, two = RunDirectory(tmp_path / "one").records(), RunDirectory(path).records()
    assert len(one) == len(two) == 6
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.slow
def test_the_claims_at_toy_size(tmp_path, monkeypatch):
    """The count is exact even after eight steps; of the losses only that they are there."""
    from maquette.experiments.catalogue import select
    from maquette.experiments.lab import Lab
    from maquette.experiments.results import measure
    from maquette.workshop.train import train

    def here(self, recipes, workers=None):
        """In this process: seven others would start longer than they train."""
        paths = [tmp_path / f"run-{abs(hash(recipe))}" for recipe in recipes]
        for recipe, path in zip(recipes, paths, strict=True):
            train(recipe, path, resume=True)
        return paths

    monkeypatch.setattr(Lab, "train_all", here)
    results = {
        c.name: measure(c, Lab(1, quick=True), tmp_path)
        for c in select(["smlp"])
        if c.name != "experts"
    }
    assert results["causal"].measured == 0 and results["causal"].holds
    assert results["causal"].control_measured > 0
    details = results["equal-flops"].details
    flops = list(details["flops a token"].values())
    assert max(flops) < 1.002 * min(flops)
    assert all(len(v) == 1 and 2 < v[0] < 7 for v in details["losses"].values())
    assert (tmp_path / "smlp.equal-flops.png").exists()
