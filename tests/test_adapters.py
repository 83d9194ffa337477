"""Adapters as objects: what each kind adds, weights, several at once, merging, packing."""

import copy
import dataclasses
import math

import pytest
import torch

from maquette.adaptation.adapters.adapter import (
    adapters_of,
    attach,
    blocks_of,
    detach,
    saved_tensors,
    trainable,
)
from maquette.adaptation.adapters.config import (
    KINDS,
    BiasConfig,
    BottleneckConfig,
    LoRAConfig,
    PrefixConfig,
    PromptConfig,
    adapter_from,
)
from maquette.adaptation.adapters.lora import Merged
from maquette.base.errors import WrongUse
from maquette.base.named import named
from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.models.smlp_config import SMLPConfig
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.models.vit_config import ViTConfig
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Parametrisation
from maquette.serving.pack import PackedLinear, pack
from maquette.training.cost import measure_cost
from maquette.training.initial_model import begin_with

RULES = Parametrisation(base_width=32, base_depth=2, base_head_dim=16)
SMALL = DecoderConfig(
    vocabulary=50, context=24, width=32, depth=2, heads=2, kv_heads=1, parametrisation=RULES
)
PICTURES = ViTConfig(
    image_size=16, patch=4, width=32, depth=2, heads=2, classes=(3, 2), parametrisation=RULES
)
EVERY = [
    BiasConfig(),
    LoRAConfig(rank=2, alpha=6.0),
    BottleneckConfig(size=3),
    PromptConfig(length=3),
    PrefixConfig(length=3),
]
ADDED = EVERY[:3]  # kinds whose change is a sum


def decoder(**changes):
    return dataclasses.replace(SMALL, **changes).build().initialise(0).eval()


def vit(**changes):
    return ViTConfig(**(vars(PICTURES) | changes)).build().initialise(0).eval()


def filled(config, model, name="one", seed=1):
    """An attached adapter whose tensors are no zeros."""
    adapter = config.build(model)
    adapter.initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    attach(model, name, adapter)
    return adapter.eval()


def tokens(rows=3, time=9):
    return torch.randint(50, (rows, time), generator=torch.Generator().manual_seed(rows))


def drawn():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
def test_a_weight_of_zero_is_the_base_and_detaching_leaves_nothing(config):
    """Bit for bit."""
    model, x = decoder(), tokens()
    names, base = list(dict(model.named_parameters())), model(x)
    adapter = filled(config, model)
    changed = model(x)
    assert not torch.allclose(changed, base, atol=1e-3)
    adapter.weight = 0.0
    assert torch.equal(model(x), base)
    adapter.weight = 1.0
    assert torch.equal(model(x), changed)
    detach(model, "one")
    assert torch.equal(model(x), base) and list(dict(model.named_parameters())) == names
    assert not adapters_of(model)


@pytest.mark.parametrize("config", ADDED[:2], ids=lambda c: c.kind)
def test_weights_multiply_and_two_adapters_add_up(config):
    """At one place the change of both is the sum of the changes, each times its weight."""
    model = decoder()
    up = model.blocks[0].feedforward.up
    x = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(0))
    base, changes = up(x), {}
    for name, seed in (("a", 1), ("b", 2)):
        filled(config, model, name, seed)
        changes[name] = up(x) - base
        detach(model, name)
        assert bool(changes[name].any())
    filled(config, model, "a", 1).weight = 0.7
    filled(config, model, "b", 2).weight = -0.3
    assert torch.allclose(up(x) - base, 0.7 * changes["a"] - 0.3 * changes["b"], atol=1e-5)


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
def test_every_row_has_its_own_weight(config):
    model, x = decoder(), tokens(3)
    base = model(x)
    adapter = filled(config, model)
    weights = (0.0, 1.0, 0.4)
    alone = []
    for row, weight in enumerate(weights):
        adapter.weight = weight
        alone.append(model(x[row : row + 1]))
    adapter.weight = torch.tensor(weights)
    assert torch.allclose(model(x), torch.cat(alone), atol=1e-4)
    assert torch.allclose(model(x)[0], base[0], atol=1e-4)
    with pytest.raises(WrongUse, match="weights for 3 rows, and 2 are computed"):
        model(tokens(2))


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_step_by_step_with_a_cache_is_the_whole_sequence(config, weight):
    model, x = decoder(), tokens()
    filled(config, model).weight = weight
    whole, cache = model(x), model.cache(3, 9)
    steps = [model(x[:, :4], cache=cache)] + [
        model(x[:, i : i + 1], cache=cache) for i in range(4, 9)
    ]
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "none"])
@pytest.mark.parametrize("block", ["serial", "parallel"])
def test_prompts_of_a_decoder_are_tokens_before_the_first(positions, block):
    """With the embeddings of tokens as prompts, the rest of the sequence is what it is after them."""
    model, x = decoder(positions=positions, block=block), tokens()
    whole = model.hidden(x)[:, 3:]
    for config in (PromptConfig(length=3), PrefixConfig(length=3)):
        for row in range(3):
            adapter = config.build(model)
            vectors = model.embedding.weight.detach()[x[row, :3]]
            with torch.no_grad():
                if config.kind == "prompt":
                    adapter.vectors.copy_(vectors)
                else:
                    found = model.prefixes(vectors)
                    adapter.keys.copy_(torch.stack([p.keys for p in found]))
                    adapter.values.copy_(torch.stack([p.values for p in found]))
            attach(model, "one", adapter)
            after = model.hidden(x[row : row + 1, 3:])
            detach(model, "one")
            assert torch.allclose(after[0], whole[row], atol=1e-4)


@pytest.mark.parametrize("family", ["gpt3", "palm", "bloom", "llama"])
def test_every_document_of_a_sequence_sees_a_prefix(family):
    """Two documents in one row are what each is alone, in every family."""
    sizes = {"vocabulary": 50, "context": 24, "width": 32, "depth": 2, "heads": 2}
    config = getattr(families, family)(**sizes)
    model = config.build().initialise(0).eval()
    filled(PrefixConfig(length=3), model)
    a, b = tokens(2, 5), tokens(2, 4)
    ids = torch.tensor([0] * 5 + [1] * 4).expand(2, -1)
    positions = torch.tensor([*range(5), *range(4)]).expand(2, -1)
    both = model(torch.cat([a, b], 1), document_ids=ids, positions=positions)
    assert torch.allclose(both[:, :5], model(a), atol=1e-4)
    assert torch.allclose(both[:, 5:], model(b), atol=1e-4)


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
def test_recomputation_and_a_copy_have_gradients_of_their_own(config):
    """A deep copy, as an average is, computes with its own tensors."""
    gradients = []
    batch = TokenBatch(tokens(), tokens())
    for recompute in (False, True):
        model = decoder()
        adapter = filled(config, model)
        model.recompute = recompute
        twin = copy.deepcopy(model)
        before = twin(tokens())
        model.train().loss(batch).total.backward()
        gradients.append([p.grad for p in adapter.parameters()])
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(1.0)
        assert torch.equal(twin(tokens()), before)
        assert all(p.grad is None for p in twin.parameters())
    for a, b in zip(*gradients, strict=True):
        assert a is not None and bool(a.any()) and torch.equal(a, b)


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
def test_traced_blocks_compute_with_the_adapter(config):
    """What the compiler sees of a block is what runs in eager mode, gradients too, and after a new weight."""
    found = []
    batch = TokenBatch(tokens(), tokens())
    for traced in (False, True):
        model = decoder().requires_grad_(False)
        adapter = filled(config, model)
        if traced:
            torch.compiler.reset()
            for block in model.blocks:
                block.compile(backend="eager", dynamic=False)
        losses = []
        for weight in (1.0, 0.5):
            adapter.weight = weight
            loss = model.loss(batch).total
            loss.backward()
            losses.append(loss.detach())
        found.append([*losses, *(p.grad for p in adapter.parameters())])
    for plain, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, plain)


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
def test_a_frozen_model_costs_two_thirds_of_a_trained_one(config):
    """As torch counts it; that is what a run's utilisation is computed with."""
    batch, costs = TokenBatch(tokens(), tokens()), []
    for adapted in (False, True):
        model = decoder(width=128)
        if adapted:
            model.requires_grad_(False)
            small = config if not hasattr(config, "rank") else LoRAConfig(rank=1)
            filled(small, model)
        costs.append(measure_cost(model, batch).flops)
    assert costs[1] / costs[0] == pytest.approx(2 / 3, rel=0.1)


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
def test_what_is_trained_has_a_role_and_is_all_that_is_kept(config):
    model = decoder()
    base = set(dict(model.named_parameters()))
    adapter = filled(config, model)
    own = {f"adapters.one.{n}" for n, _ in adapter.named_parameters()}
    assert own == set(saved_tensors(model)) == {n for n, _ in trainable(model)}
    assert {p.name for p in declared(model)} == base | own


def test_p_tuning_trains_a_network_and_is_a_plain_prompt_afterwards():
    """What it keeps is a prompt's, with the same logits, and differs from the inputs of its network."""
    config, x = PromptConfig(length=3, reparametrised=True), tokens()
    model, plain = decoder(), decoder()
    adapter = filled(config, model)
    assert {p.name for p in declared(model)} == set(dict(model.named_parameters()))
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())
    kept = adapter.trained_tensors()
    prompt = config.trained.build(plain)
    assert {n: p.shape for n, p in prompt.named_parameters()} == {
        n: t.shape for n, t in kept.items()
    }
    prompt.load_state_dict(kept)
    attach(plain, "one", prompt.eval())
    assert torch.allclose(plain(x), model(x), atol=1e-5)
    prompt.load_state_dict({"vectors": adapter.vectors})
    assert not torch.allclose(plain(x), model(x), atol=1e-2)


def test_low_rank_changes_start_at_nothing_and_merge_exactly():
    """Merged is the same model; unmerged the base's weights, to the bit; two at once add up."""
    model, x = decoder(), tokens()
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    config = LoRAConfig(rank=2, alpha=6.0, target_modules=("*.attention.*", "*.up"))
    for name, seed, weight in (("a", 1, 0.7), ("b", 2, -0.3)):
        adapter = config.build(model)
        adapter.initialise(model, seed)
        before = model(x)
        attach(model, name, adapter)
        assert torch.equal(model(x), before)  # B is 0
        with torch.no_grad():
            for change in adapter.changes.values():
                change.lora_b.normal_(generator=torch.Generator().manual_seed(seed))
        adapter.weight = weight
    assert len(adapter.changes) == 2 * 3
    changed = model(x)
    merged = Merged(model)
    up = model.blocks[0].feedforward.up
    a, b = (adapters_of(model)[n].changes["blocks.0.feedforward.up"] for n in "ab")
    wanted = base["blocks.0.feedforward.up.weight"]
    wanted = wanted + 0.7 * 3 * a.lora_b @ a.lora_a - 0.3 * 3 * b.lora_b @ b.lora_a
    assert torch.allclose(up.weight, wanted, atol=1e-5)
    assert torch.allclose(model(x), changed, atol=1e-3, rtol=1e-3)
    merged.undo()
    for name, tensor in base.items():
        assert torch.equal(model.get_parameter(name), tensor), name
    assert torch.equal(model(x), changed)
    adapters_of(model)["a"].weight = torch.ones(3)
    with pytest.raises(WrongUse, match="weights by row cannot be merged"):
        Merged(model)


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.kind)
def test_packed_weights_keep_their_adapters(config):
    """As unpacked, and not as the base alone; a weight set later counts, and it can be detached."""
    model, x = decoder(), tokens()
    base = model(x)
    adapter = filled(config, model)
    changed = model(x)
    if not pack(model):
        pytest.skip("this build has no packed products")
    assert any(isinstance(m, PackedLinear) for m in model.modules())
    assert torch.allclose(model(x), changed, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(model(x), base, atol=1e-2)
    adapter.weight = 0.0
    assert torch.allclose(model(x), base, atol=1e-3, rtol=1e-3)
    adapter.weight = 1.0
    detach(model, "one")
    assert torch.allclose(model(x), base, atol=1e-3, rtol=1e-3)


def test_an_all_mlp_takes_what_it_has_places_for():
    config = SMLPConfig(
        vocabulary=50, context=16, width=32, dense=1, sparse=1, parametrisation=RULES
    )
    model = config.build().initialise(0).eval()
    base = model(tokens())
    for one in ADDED:
        adapter = filled(one, model)
        assert not torch.allclose(model(tokens()), base, atol=1e-3)
        adapter.weight = 0.0
        assert torch.equal(model(tokens()), base)
        detach(model, "one")
    for one in EVERY[3:]:
        with pytest.raises(WrongUse, match="smlp has no attention"):
            one.build(model)


def test_biases_are_those_of_the_model_or_of_its_linear_maps():
    """Every bias but those of the outputs; and a model without any gets one at every linear map."""
    model = vit()
    biases = {n.removesuffix(".bias") for n, _ in model.named_parameters() if n.endswith(".bias")}
    adapter = BiasConfig().build(model)
    assert set(adapter.changes) == {n for n in biases if not n.startswith("heads.")}
    plain = decoder()
    assert not any(n.endswith("bias") for n, _ in plain.named_parameters())
    places = BiasConfig().build(plain).changes
    assert len(places) == len(list(blocks_of(plain))) * 4


def test_visual_prompts_start_uniform_and_from_the_seed():
    """U(-v, v) with v = sqrt(6 / (3 P^2 + D)), Jia et al. 2022."""
    model = vit()
    first, again, other = (PromptConfig(length=50, deep=True).build(model) for _ in range(3))
    for adapter, seed in ((first, 0), (again, 0), (other, 1)):
        adapter.initialise(model, seed)
    v, p = math.sqrt(6 / (3 * 16 + 32)), first.vectors.detach()
    assert p.shape == (2, 50, 32)
    assert 0.98 * v < float(p.abs().max()) <= v
    assert float(p.var()) == pytest.approx(v * v / 3, rel=0.05)
    assert torch.equal(p, again.vectors) and not torch.equal(p, other.vectors)


def test_deep_prompts_replace_what_came_out_of_the_earlier_ones():
    """The prompts before block 1 see to it that those of block 0 reach the rest through block 0 alone."""
    seen, own = {}, {}
    for name in ("deep", "shallow"):
        model = vit()
        own[name] = filled(PromptConfig(length=2, deep=name == "deep"), model).vectors

        def keep(module, inputs, name=name):
            seen[name] = inputs[0].detach()

        with torch.no_grad():
            own[name][0] = 0.1
        model.blocks[1].register_forward_pre_hook(keep)
        hidden = model.hidden(drawn())
        assert hidden.shape == (3, 17, 32)  # without the prompts
    assert seen["deep"].shape == seen["shallow"].shape == (3, 19, 32)
    assert torch.equal(seen["deep"][:, 1:3], own["deep"][1].expand(3, -1, -1))
    assert not torch.allclose(seen["shallow"][:, 1:3], own["shallow"][0].expand(3, -1, -1))
    assert torch.equal(seen["deep"][:, 3:], seen["shallow"][:, 3:])  # the first block sees the same


def test_the_mean_is_of_the_patches_alone_and_prompts_are_on_or_off():
    model = vit(pool="mean")
    base = model.features(drawn())
    adapter = filled(PromptConfig(length=2, dropout=0.5), model)
    x = model.hidden(drawn())
    assert x.shape == (3, 16, 32) and torch.allclose(model.features(drawn()), x.mean(1))
    assert torch.equal(model.features(drawn()), model.features(drawn()))
    model.train()
    assert not torch.equal(model.features(drawn()), model.features(drawn()))  # dropout
    adapter.weight = 0
    assert torch.equal(model.features(drawn()), base)
    with pytest.raises(WrongUse, match="on or off"):
        adapter.weight = 0.5
    with pytest.raises(WrongUse, match="has prompts already"):
        filled(PromptConfig(length=2), model, "two")


def test_adapters_that_cannot_be_are_refused():
    model = decoder()
    with pytest.raises(WrongUse, match="no linear map is called"):
        LoRAConfig(target_modules=("*.atention.qkv",)).build(model)
    with pytest.raises(WrongUse, match="unknown field places.*target_modules"):
        adapter_from({"kind": "lora", "places": ["*"]})  # as it was called before
    with pytest.raises(WrongUse, match="deep prompts are for Vision Transformers"):
        PromptConfig(deep=True).build(model)
    with pytest.raises(WrongUse, match="rank"):
        LoRAConfig(rank=0)
    with pytest.raises(WrongUse, match="dropout"):
        PromptConfig(dropout=1.0)
    adapter = filled(PrefixConfig(length=2), model)
    with pytest.raises(WrongUse, match="use 0 or more"):
        adapter.weight = -0.5
    with pytest.raises(WrongUse, match="cannot be called one"):
        filled(LoRAConfig(), model)
    with pytest.raises(WrongUse, match="did you mean"):
        adapter_from({"kind": "loar"})


def test_what_a_base_was_fitted_to_is_begun_with(tmp_path):
    """Buffers of a run are part of the model that is adapted, as the components of a prior."""
    save_config(tmp_path, SMALL)
    given = {"weight": torch.ones(3), "mean": torch.full((2,), 5.0)}
    save_tensors(tmp_path / WEIGHTS, given)
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(3))
    module.register_buffer("mean", torch.zeros(2))
    begun = begin_with(module, tmp_path)
    assert not begun.new and not begun.unused
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in given.items())


def test_every_kind_says_its_name():
    for kind, config in KINDS.items():
        assert named(config)().kind == kind
