"""LoRA adapters to peft and back: the same logits, and what cannot be read."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import command, refused
from safetensors.torch import load_file, save_file

from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.config import LoRAConfig
from maquette.models import families
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.nn.rules import Parametrisation
from maquette.serving.peft import export_peft, import_peft
from maquette.training.trained_model import open_model

RULES = Parametrisation(base_width=16, base_depth=2, base_head_dim=8)
SIZES = {"vocabulary": 97, "context": 32, "width": 64, "depth": 3, "heads": 4}
FAMILIES = {"gpt2": {}, "gptj": {}, "llama": {"kv_heads": 2}, "bloom": {}}


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path):
    """The run of a model of a family, with multipliers that are not 1."""
    config = getattr(families, request.param)(**SIZES, **FAMILIES[request.param])
    config = replace(config, parametrisation=RULES)
    (tmp_path / "base").mkdir()
    save_config(tmp_path / "base", config)
    save_tensors(tmp_path / "base" / WEIGHTS, dict(config.build().initialise(0).named_parameters()))
    return tmp_path / "base"


def adapted(base, **options):
    """The base with a LoRA that is not zero."""
    model = open_model(base)
    adapter = LoRAConfig(rank=3, alpha=5.0, **options).build(model)
    adapter.initialise(model, 1)
    with torch.no_grad():
        for change in adapter.changes.values():
            change.lora_b.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    attach(model, "lora", adapter)
    return model


def tokens():
    return torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_there_and_back_changes_nothing(base, tmp_path):
    model = adapted(base)
    assert export_peft(base, model, tmp_path / "out") > 0
    import_peft(tmp_path / "out", base, base / WEIGHTS, tmp_path / "back")
    back = open_model(tmp_path / "back")
    assert not torch.allclose(open_model(base)(tokens()), model(tokens()), atol=1e-2)
    torch.testing.assert_close(back(tokens()), model(tokens()), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_ours_opens_in_peft_and_theirs_here(base, tmp_path):
    peft = pytest.importorskip("peft", reason="the package peft is not installed")
    transformers = pytest.importorskip("transformers")
    model = adapted(base, target_modules=("*.attention.qkv", "*.feedforward.*"))
    said = command("export", "hf", base, tmp_path / "hf")
    assert said.code == 0, said.err
    export_peft(base, model, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    opened = peft.PeftModel.from_pretrained(theirs, tmp_path / "out").eval()
    torch.testing.assert_close(opened(tokens()).logits, model(tokens()), atol=1e-5, rtol=1e-4)

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    config = peft.LoraConfig(r=2, lora_alpha=7, task_type="CAUSAL_LM", init_lora_weights=False)
    made = peft.get_peft_model(theirs, config).eval()  # peft's own choice of maps: of LLaMA q and v
    made.save_pretrained(tmp_path / "theirs")
    said = command(
        "import", "peft", tmp_path / "theirs", tmp_path / "run", "--base", base, "--json"
    )
    assert said.code == 0, said.err
    ours = open_model(tmp_path / "run")
    wanted = made(tokens()).logits
    assert not torch.allclose(open_model(base)(tokens()), wanted, atol=1e-2)
    torch.testing.assert_close(ours(tokens()), wanted, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_read_is_one_line(trained, tmp_path):
    export_peft(trained, adapted(trained, target_modules=("*.up",)), tmp_path / "out")

    def of(folder, *more):
        return command("import", "peft", folder, tmp_path / "run", "--base", trained, *more)

    refused(command("import", "peft", tmp_path / "out", tmp_path / "run"), "with --base", code=2)
    refused(of(tmp_path / "none"), "holds no adapter of peft", code=1)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    first = min(tensors)
    for number, (settings, content, part) in enumerate(
        [
            ({"peft_type": "IA3"}, tensors, "is IA3: Maquette reads LORA"),
            ({"use_dora": True}, tensors, "sets use_dora"),
            ({"bias": "all"}, tensors, "sets bias"),
            ({}, {n: t for n, t in tensors.items() if n != first}, "one matrix of two"),
            ({}, tensors | {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 3)}, "lm_head"),
            ({}, tensors | {first: torch.ones(3, 5)}, "belongs to another model"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config | settings), encoding="utf-8")
        save_file(content, folder / "adapter_model.safetensors")
        refused(of(folder), part, code=1)
    assert not (tmp_path / "run").exists()
    refused(
        command("export", "peft", trained, tmp_path / "x"), "no decoder adapted by lora", code=2
    )
    assert of(tmp_path / "out").code == 0
