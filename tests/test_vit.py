"""The Vision Transformer: parity with Hugging Face's, positions."""

import dataclasses

import pytest
import torch

from maquette.base.errors import WrongUse
from maquette.experiments.lab import Lab
from maquette.experiments.results import measure
from maquette.models.vit import ViT
from maquette.models.vit_config import ViTConfig
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Parametrisation
from maquette.systems import vit

SMALL = {
    "image_size": 16,
    "patch": 4,
    "width": 32,
    "depth": 2,
    "heads": 4,
    "classes": (3, 2),
    "parametrisation": Parametrisation(base_width=32, base_depth=2, base_head_dim=8),
}


def make(**changes) -> ViT:
    return ViTConfig(**(SMALL | changes)).build().initialise(0).eval()


def drawn(n: int = 3, image_size: int = 16) -> torch.Tensor:
    return (
        torch.rand(n, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )


def test_it_is_hugging_faces_vit():
    """Random weights through a map of names: the normed sequence is the same within 1e-4 in fp32."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            image_size=16, patch_size=4, layer_norm_eps=1e-6, initializer_range=0.3,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    ours = make()
    weights = {name: p.detach() for name, p in theirs.named_parameters()}
    with torch.no_grad():
        for name, p in ours.named_parameters():
            if not name.startswith("heads."):
                p.copy_(theirs_of(name, weights))
        a, b = ours.hidden(drawn()), theirs(drawn()).last_hidden_state
    assert a.shape == b.shape == (3, 17, 32)
    assert float((a - b).abs().max()) < 1e-4
    assert float(b.std()) > 0.1


def theirs_of(name: str, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Hugging Face's tensor for ours of that name."""
    w = {k.replace("encoder.layer.", "layers."): v for k, v in weights.items()}
    positions = w["embeddings.position_embeddings"][0]
    if name == "cls.weight":
        return w["embeddings.cls_token"][0] + positions[:1]
    if name == "position.weight":
        return positions[1:]
    if name.startswith("patches.projection."):
        part = name.rpartition(".")[2]
        return w[f"embeddings.patch_embeddings.projection.{part}"].flatten(1 if "w" in part else 0)
    if name.startswith("norm."):
        return w[name.replace("norm", "layernorm")]
    _, layer, inner = name.split(".", 2)
    if inner.startswith("attention.qkv."):
        part = inner.rpartition(".")[2]
        parts = [w[f"layers.{layer}.attention.{x}_proj.{part}"] for x in "qkv"]
        return torch.cat(parts)
    for mine, other in {
        "attention_norm": "layernorm_before",
        "feedforward_norm": "layernorm_after",
        "attention.out": "attention.o_proj",
        "feedforward.up": "mlp.fc1",
        "feedforward.down": "mlp.fc2",
    }.items():
        if inner.startswith(mine + "."):
            return w[f"layers.{layer}.{inner.replace(mine, other)}"]
    raise KeyError(name)


@pytest.mark.parametrize("changes", [{}, {"pool": "mean"}, {"positions": "sincos2d"}])
def test_features_at_two_resolutions(changes):
    """A learned table is resized, a fixed one made anew; the class token has no place in it."""
    model = make(**changes)
    assert model.features(drawn()).shape == model.features(drawn(image_size=24)).shape == (3, 32)
    assert [tuple(x.shape) for x in model(drawn())] == [(3, 3), (3, 2)]
    with pytest.raises(WrongUse, match="multiple of 4"):
        model.features(drawn(image_size=18))


def test_without_positions_patches_may_be_shuffled():
    """And with them they may not: the control of the claim loses exactly this."""
    for positions, same in (("none", True), ("learned", False)):
        model = make(positions=positions)
        pictures = drawn()
        turned = pictures.roll(4, dims=3)  # whole patches change places
        a, b = model.features(pictures), model.features(turned)
        assert torch.allclose(a, b, atol=1e-4) is same


def test_every_parameter_has_a_role_and_is_counted():
    for changes in ({}, {"pool": "mean"}):
        config = ViTConfig(**(SMALL | changes))
        model = config.build().initialise(0)
        assert sum(p.tensor.numel() for p in declared(model)) == config.parameters()
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize(
    "wrong",
    [{"patch": 5}, {"heads": 5}, {"width": 30, "heads": 2, "positions": "sincos2d"}],
)  # fmt: skip
def test_shapes_that_cannot_be_are_refused(wrong):
    with pytest.raises(WrongUse):
        ViTConfig(**(SMALL | wrong))


@pytest.mark.slow
@pytest.mark.parametrize("one", [vit.small_data, vit.large_data, vit.all_labels])
def test_every_claim_runs_at_toy_size(one, tmp_path):
    result = measure(dataclasses.replace(one, system="x"), Lab(seeds=1, quick=True), tmp_path)
    low, high = result.interval
    assert result.measured in (low, high)  # the end that is harder
    assert (tmp_path / f"x.{one.name}.png").read_bytes()[:4] == b"\x89PNG"
    assert all(0 <= share["share"] <= 1 for share in result.details["shares"].values())


def test_recipes_of_the_catalogue():
    """Both read all five labels of the world, and both take as many steps."""
    recipes = [vit.vit(), vit.cnn()]
    assert all(r.data.kind == "pictures" and r.model.classes == (6, 4, 6, 4, 2) for r in recipes)
    assert [r.name for r in recipes] == ["vit", "cnn"]
    assert recipes[0].steps == recipes[1].steps
    key = ("ViT", vit.SMALLEST, 1)
    assert vit.wanted(key, False).model.read_classes == (2,)
    assert vit.wanted(key, False).data.count == vit.SMALLEST
