"""Weights in few bits: packing, products, runs, adapters."""

import copy
import json
import math
import os
import signal
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import command, refused
from torch.nn import functional as F

from maquette.adaptation.adapters.adapter import adapters_of, attach, detach, saved_tensors
from maquette.adaptation.adapters.config import LoRAConfig
from maquette.adaptation.adapters.lora import Merged
from maquette.base.errors import UserError, WrongUse
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.models.quantised import (
    METADATA,
    dequantise,
    load_quantised,
    parameters,
    quantise,
    quantised_modules,
    stored_forms,
    stored_tensors,
    weight_bytes,
)
from maquette.models.store import save_config, save_tensors
from maquette.nn import native_products
from maquette.nn.linear import Linear
from maquette.nn.quantised import LANES, Format, Packed, QuantisedLinear
from maquette.serving import weights
from maquette.serving.weights import memory_bytes, prepare
from maquette.training.initial_model import check_quantised, make_model
from maquette.workshop import quantise as workshop_quantise

KINDS = [(bits, asymmetric) for bits in (8, 4) for asymmetric in (False, True)]
GROUPS = (8, 32, 40)
compiled = pytest.mark.skipif(native_products.library() is None, reason="no C++ compiler here")


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    """The machine is not measured, which takes seconds: activations are in bf16."""
    torch.manual_seed(0)
    monkeypatch.setattr(weights, "measure", lambda: SimpleNamespace(precision="bf16"))


def decoder(tied: bool = False, **changes):
    settings = {"vocabulary": 96, "context": 32, "width": 64, "depth": 2, "heads": 4, "hidden": 96}
    return DecoderConfig(**settings | {"tied": tied} | changes).build().initialise(0).eval()


def tokens(rows: int = 2, time: int = 9):
    return torch.randint(0, 96, (rows, time))


def written_out(form: Format, weight: torch.Tensor) -> torch.Tensor:
    """By torch alone."""
    rows, columns = weight.shape
    return form._unpack(form.pack(weight), torch.float32)[:rows, :columns]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("bits", "asymmetric"), KINDS)
def test_a_weight_is_at_most_half_a_step_away(bits, asymmetric, group):
    """But where 4 symmetric bits clip: there the squared error is no more than that of the plain scale."""
    form = Format(bits=bits, group=group, asymmetric=asymmetric)
    x = torch.randn(37, 2 * group) * torch.logspace(-6, 3, 37)[:, None]
    x[3], x[4] = 0.0, 0.25
    back = written_out(form, x).view(37, 2, group)
    groups = x.view(37, 2, group)
    if asymmetric:
        step = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
        slack = 0.02 * step + 0.01 * groups.abs().amax(-1)
    else:
        step, slack = groups.abs().amax(-1) / (2 ** (bits - 1) - 1), 0.0
    error = (back - groups).abs().amax(-1)
    if bits == 4 and not asymmetric:
        plain = groups.abs().amax(-1, keepdim=True) / 7
        rounded = (groups / plain.clamp(min=1e-30)).round() * plain
        own = (back - groups).square().sum(-1)
        assert (own <= 1.1 * (rounded - groups).square().sum(-1) + 1e-12).all()
    else:
        assert (error <= 0.51 * step + slack).all()
    assert torch.equal(back[3], torch.zeros(2, group))


@compiled
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("bits", "asymmetric"), KINDS)
def test_kernels_compute_what_torch_does(bits, asymmetric, group, monkeypatch):
    """Products, written weights and rows of a table; of sizes that fill no panel and no group."""
    form = Format(bits=bits, group=group, asymmetric=asymmetric)
    for rows, columns in ((37, 77), (16, group), (5, 3)):
        weight = torch.randn(rows, columns)
        matrix, plain = Packed(form, form.pack(weight), rows, columns), written_out(form, weight)
        torch.testing.assert_close(matrix.matrix(), plain, rtol=1e-6, atol=1e-6)
        index = torch.tensor([[0, rows - 1], [rows // 2, 0]])
        torch.testing.assert_close(form.rows(matrix.packed, index, columns), plain[index])
        for dtype, bound in ((torch.float32, 2e-4), (torch.bfloat16, 2e-2)):
            x = torch.randn(3, columns).to(dtype)
            expected = x.double() @ plain.double().T
            few = matrix.product(x)
            assert few.dtype == dtype
            scale = float(expected.abs().max())
            torch.testing.assert_close(few.double(), expected, rtol=0, atol=bound * scale)
            for alone, together in zip(x.split(1), few.split(1), strict=True):
                assert torch.equal(matrix.product(alone), together)  # not of the rows beside it
            with monkeypatch.context() as without:
                without.setattr(native_products, "library", lambda: None)
                slow = matrix.product(x)
            torch.testing.assert_close(slow.double(), expected, rtol=0, atol=bound * scale)


@compiled
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("bits", "asymmetric"), KINDS)
def test_a_row_that_is_not_finite_gives_no_finite_numbers(bits, asymmetric, value):
    """Whatever its place in its group; the rows beside it are as ever."""
    form = Format(bits=bits, group=32, asymmetric=asymmetric)
    matrix = Packed(form, form.pack(torch.randn(37, 77)), 37, 77)
    for dtype in (torch.float32, torch.bfloat16):
        plain = torch.randn(3, 77).to(dtype)
        for place in (0, 17, 31, 40, 76):
            x = plain.clone()
            x[1, place] = value
            got = matrix.product(x)
            assert got[1].isnan().all()
            assert torch.equal(got[::2], matrix.product(plain)[::2])


@compiled
def test_a_row_of_bf16_is_multiplied_as_torch_does():
    for rows, columns in ((37, 77), (4, 32), (1, 1), (6, 64)):
        linear = Linear(columns, rows, bias=True).requires_grad_(False)
        torch.nn.init.normal_(linear.weight)
        torch.nn.init.normal_(linear.bias)
        linear.bfloat16()
        x = torch.randn(1, 1, columns).bfloat16()
        expected = F.linear(x.double(), linear.weight.double(), linear.bias.double())
        torch.testing.assert_close(
            linear(x).double(), expected, rtol=2e-2, atol=2e-2 * columns**0.5
        )


def test_while_a_model_is_quantised_no_weight_outlives_its_turn(monkeypatch):
    """Its peak is then that of reading it; a tied matrix is packed once for all."""
    model, pack, gone = decoder(tied=True), Format.pack, []
    matrices = {id(p) for p in model.parameters() if p.dim() > 1}

    def packed(form, weight):
        # Two of before: of the module at hand, and of the embedding until the output's turn.
        assert sum(ref() is not None for ref in gone) <= 2
        gone.append(weakref.ref(weight))
        return pack(form, weight)

    monkeypatch.setattr(Format, "pack", packed)
    quantise(model, Format(bits=4))
    assert len(gone) == len(matrices) and all(ref() is None for ref in gone)


def test_the_memory_of_a_run_is_that_of_its_reading():
    """In fp32 whatever it becomes, but for a run that is quantised on the disk."""
    for kind in weights.CHOICES:
        assert memory_bytes(1000, kind) == 4000
        bits = kind in ("auto", "int8", "int4")
        assert memory_bytes(1000, kind, 700) == (700 if bits else 4700)


def test_bits_per_weight_are_exact():
    """Codes, scales and minima, of a matrix whose sizes fill panels and groups."""
    for (bits, asymmetric), group in zip(KINDS, (32, 64, 32, 16), strict=True):
        form = Format(bits=bits, group=group, asymmetric=asymmetric)
        packed = form.pack(torch.randn(3 * LANES, 4 * group))
        expected = bits + (32 if asymmetric else 16) / group
        assert 8 * packed.nbytes == expected * 3 * LANES * 4 * group
    model = decoder(tied=True)
    count = sum(p.numel() for p in model.parameters())
    quantise(model, Format(bits=4))
    assert parameters(model) == count
    norms = sum(p.nbytes for p in model.parameters())
    blocks = count - 96 * 64 - norms // 4
    assert weight_bytes(model) == norms + 4.5 * blocks / 8 + 8.5 * 96 * 64 / 8


@pytest.mark.parametrize("tied", [False, True])
def test_a_quantised_model_computes_with_rounded_weights_and_is_read_back(tied, tmp_path):
    model, x = decoder(tied, positions="alibi", attention_bias=True), tokens()
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in rounded.named_parameters():
            if p.dim() > 1:
                table = name in ("embedding.weight", "output.weight")
                p.copy_(written_out(Format(bits=8 if table else 4), p))
        expected = rounded(x)
        quantise(model, Format(bits=4))
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-3)
        save_config(tmp_path, model.config)
        save_tensors(tmp_path / "m", *stored_tensors(model))
        again = load_quantised(model.config, tmp_path / "m").eval()
        assert torch.equal(again(x), model(x))
        with pytest.raises(UserError, match="belongs to another model"):
            load_quantised(decoder(tied, depth=3).config, tmp_path / "m")
        assert dequantise(again)
        torch.testing.assert_close(again(x), expected, rtol=1e-4, atol=1e-3)
        assert again.state_dict().keys() == rounded.state_dict().keys()


@pytest.mark.parametrize(
    "said", ["[]", "1", "null", '"a"', "[1]", '{"a": 5}', '{"a": []}', '{"a": {}}', "{", "[deep"]
)
def test_hostile_metadata_are_refused(said, tmp_path):
    said = said.replace("deep", "[" * 100_000 + "]" * 100_001)
    save_tensors(tmp_path / "m", {"a": torch.zeros(2)}, {METADATA: said})
    with pytest.raises(UserError, match="m is damaged or of another version: restore it"):
        stored_forms(tmp_path / "m")


@pytest.mark.parametrize(
    "change",
    [{"group": 32.0}, {"group": None}, {"group": 2**70}, {"bits": "4"}, {"bits": True}, {"bits": 4.0},
     {"asymmetric": "no"}, {"asymmetric": 1}, {"rows": 96.0}, {"rows": -96}, {"columns": None},
     {"columns": [64]}, {"more": 1}],
)  # fmt: skip
def test_a_packing_of_other_types_is_refused(change, tmp_path):
    model = decoder()
    quantise(model, Format(bits=4))
    tensors, metadata = stored_tensors(model)
    forms = json.loads(metadata[METADATA])
    forms["blocks.1.feedforward.up.weight"] |= change
    save_tensors(tmp_path / "m", tensors, {METADATA: json.dumps(forms)})
    with pytest.raises(UserError, match="m is damaged or of another version: restore it"):
        load_quantised(model.config, tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("blocks.1.feedforward.up.weight", lambda x: x[:-1], r"where its metadata say bytes of shape"),
        ("blocks.1.feedforward.up.weight", lambda x: x[..., :-1], "where its metadata say bytes of"),
        ("blocks.1.feedforward.up.weight", lambda x: x.flatten(), "where its metadata say bytes of"),
        ("blocks.1.feedforward.up.weight", torch.Tensor.float, r"is torch.float32 of shape"),
        ("blocks.1.feedforward.up.weight", torch.Tensor.char, r"is torch.int8 of shape"),
        ("embedding.weight", lambda x: x.flatten(), "where its metadata say bytes of shape"),
        ("embedding.weight", None, "lacks embedding.weight"),
        ("norm.weight", lambda x: x.to(torch.uint8), "norm.weight is torch.uint8 of shape"),
        ("norm.weight", lambda x: x[:-1], r"norm.weight is torch.float32 of shape \(63,\), not numbers"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_as_packed_are_refused(name, change, reason, tmp_path):
    """By a check and no assertion: the kernels would read beyond them."""
    model = decoder(tied=True)
    quantise(model, Format(bits=4))
    tensors, metadata = stored_tensors(model)
    tensor = tensors.pop(name)
    if change is not None:
        tensors[name] = change(tensor)
    save_tensors(tmp_path / "m", tensors, metadata)
    with pytest.raises(UserError, match=reason) as error:
        load_quantised(model.config, tmp_path / "m")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_adapters_take_part_in_weights_of_every_kind(kind):
    """LoRA attached before is neither lost nor doubled, weighs what it is told, and can be detached."""
    model, x = decoder(), tokens(1, 1)
    base = copy.deepcopy(model)
    prepare(base, kind)
    adapter = LoRAConfig(rank=2).build(model)
    adapter.initialise(model, 0)
    for p in adapter.parameters():
        torch.nn.init.normal_(p, std=0.1)
    attach(model, "one", adapter)
    prepare(model, kind)
    with torch.no_grad():
        plain, changed = base(x), model(x)
        assert not torch.allclose(changed, plain, atol=0.1)
        attach(base, "one", copy.deepcopy(adapter))  # on what is quantised already
        torch.testing.assert_close(base(x), changed, rtol=0.05, atol=0.05)
        for one in (model, base):
            adapters_of(one)["one"].weight = 0.0
            assert torch.equal(one(x), plain)
        adapters_of(model)["one"].weight = 1.0
        detach(model, "one")
        assert torch.equal(model(x), plain)


def test_gradients_pass_through_quantised_maps():
    linear = Linear(40, 24).requires_grad_(False)
    torch.nn.init.normal_(linear.weight)
    form = Format(bits=4)
    own = QuantisedLinear(linear, Packed(form, form.pack(linear.weight), 24, 40))
    x = torch.randn(2, 40, requires_grad=True)
    own(x).sum().backward()
    torch.testing.assert_close(x.grad, written_out(form, linear.weight).sum(0).expand(2, -1))


def test_bad_forms_and_weights_are_refused():
    for group in (0, 12, 264):
        with pytest.raises(WrongUse, match=f"group is {group}: use a multiple of 8"):
            Format(bits=4, group=group)
    with pytest.raises(WrongUse, match="bits is 5"):
        Format(bits=5)
    model = decoder()
    with torch.no_grad():
        model.blocks[1].feedforward.up.weight[3, 3] = math.nan
    with pytest.raises(
        UserError, match=r"blocks.1.feedforward.up.weight holds numbers that are not"
    ):
        quantise(model, Format(bits=4))
    model = decoder()
    quantise(model, Format(bits=4))
    with pytest.raises(WrongUse, match="quantised to 4 bits"):
        prepare(model, "int8")


def test_a_quantised_run_is_a_run(shared_run, tmp_path):
    """It generates, is scored, exported, and refused where its weights would be shared_run."""
    out = tmp_path / "few"
    own, row = command("quantise", shared_run, out, "--bits", "int8", "--json").json["rows"]
    assert row["disk"] == (out / "model.safetensors").stat().st_size < own["disk"] / 3
    assert abs(row["change"]) < 0.02
    scored = command("eval", out, "--json").json["bits_per_byte"]
    assert scored == pytest.approx(row["bits_per_byte"], rel=0.02)
    words = ("the ", "--tokens", "6", "--temperature", "0", "--json")
    told = command("generate", shared_run, *words, "--weights", "int8").json["text"]
    assert command("generate", out, *words).json["text"] == told
    assert "written out in fp32" in command("export", "hf", out, tmp_path / "hf").out
    refused(command("quantise", out, tmp_path / "again"), "quantised already", code=2)
    refused(command("quantise", shared_run, out), "exists: choose another folder", code=2)
    refused(
        command("quantise", shared_run, tmp_path / "again", "--group", "12"),
        "multiple of 8",
        code=2,
    )
    assert not (tmp_path / "again").exists()


def test_of_a_quantised_run_adapters_alone_are_trained(tmp_path, recipe):
    model = recipe.model.build().initialise(0)
    quantise(model, Format(bits=4))
    save_config(tmp_path, recipe.model)
    save_tensors(tmp_path / "model.safetensors", *stored_tensors(model))
    with pytest.raises(WrongUse, match="is quantised and its weights cannot be trained"):
        check_quantised(replace(recipe, start=str(tmp_path)))
    adapted = make_model(replace(recipe, start=str(tmp_path), adapter=LoRAConfig(rank=2)))
    assert quantised_modules(adapted).keys() == quantised_modules(model).keys()
    x = torch.randint(0, 257, (2, 9))
    with torch.no_grad():
        assert torch.equal(adapted(x), model(x))
    adapted.loss(TokenBatch(x[:, :-1], x[:, 1:])).total.backward()
    trained = {n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
    assert len(trained) == sum(n.endswith("lora_b") for n, _ in adapted.named_parameters())
    assert saved_tensors(adapted).keys() == {
        n for n, _ in adapted.named_parameters() if n.startswith("adapters.")
    }
    with pytest.raises(WrongUse, match="cannot be merged into quantised weights"):
        Merged(adapted)
    dequantise(adapted)
    Merged(adapted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_kill_amid_quantising_leaves_no_half_run(shared_run, tmp_path, monkeypatch):
    def die(*arguments):
        save_tensors(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(workshop_quantise, "save_tensors", die)
        child = os.fork()
        if not child:
            try:
                workshop_quantise.quantise_run(shared_run, tmp_path / "out", Format(bits=4))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert command("quantise", shared_run, tmp_path / "out").code == 0
    assert not list(tmp_path.glob(".out*"))


def test_a_quantised_model_takes_no_more_memory_than_its_bits():
    model = decoder(width=128, hidden=256)
    quantise(model, Format(bits=4))
    kept = {m.matrix for m in quantised_modules(model).values()}
    tensors = [t for m in model.modules() for t in [*m._parameters.values(), *m._buffers.values()]]
    assert sum(t.nbytes for t in {id(t): t for t in tensors if t is not None}.values()) == sum(
        p.nbytes for p in model.parameters()
    ) + sum(m.packed.nbytes for m in kept)
