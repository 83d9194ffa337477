"""Round trips with transformers: tiny random models agree in logits, in both directions."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import command, refused

from maquette.base.errors import UserError
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.store import WEIGHTS, load_model, save_config, save_tensors
from maquette.nn.rules import Parametrisation
from maquette.serving.hugging_face import export_model, import_model

ENDS = {"bos_token_id": 0, "eos_token_id": 0}
THEIRS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=32, n_embd=32, n_layer=3, n_head=4, **ENDS)
    ),
    "gptj": lambda: transformers.GPTJForCausalLM(
        transformers.GPTJConfig(
            vocab_size=97, n_positions=32, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, **ENDS
        )
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=64, **ENDS,
        )
    ),
    "bloom": lambda: transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=97, hidden_size=48, n_layer=2, n_head=6, **ENDS)
    ),
    # numbers that are nobody's default, large enough to be seen
    "llama, other numbers": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
            num_attention_heads=6, max_position_embeddings=64, rms_norm_eps=0.1, head_dim=16,
            rope_parameters={"rope_type": "default", "rope_theta": 70.0}, rope_theta=70.0, **ENDS,
        )
    ),
    "gpt2, other numbers": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=32, n_embd=32, n_layer=2, n_head=2,
                                n_inner=40, layer_norm_epsilon=0.1, **ENDS)
    ),
    "bloom, other numbers": lambda: transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=97, hidden_size=48, n_layer=2, n_head=4,
                                 layer_norm_epsilon=0.1, **ENDS)
    ),
}  # fmt: skip


def random_model(family: str):
    torch.manual_seed(0)
    model = THEIRS[family]().eval()
    with torch.no_grad():
        for p in model.parameters():  # biases and gains start at 0 and 1, which hides mistakes
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("family", THEIRS)
def test_import_and_export_agree_in_logits(family, tmp_path):
    theirs = random_model(family)
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "run")
    ours = load_model(tmp_path / "run")
    tokens = torch.randint(0, 97, (2, 24))
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert float(expected.abs().max()) > 0.5
        torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=0)
        export_model(tmp_path / "run", tmp_path / "back")
        back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
        torch.testing.assert_close(back(tokens).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {"tied": True}),
        ("gpt2", {"tied": False}),
        ("gptj", {}),  # never tied
        ("llama", {"tied": True, "kv_heads": 1}),
        ("llama", {"tied": False, "kv_heads": 1}),
        ("bloom", {}),  # always tied
    ],
)
def test_export_folds_every_multiplier_of_mup(family, settings, tmp_path):
    rules = Parametrisation(
        base_width=16, base_depth=2, base_head_dim=8, input_multiplier=3.0, output_multiplier=2.0
    )
    sizes = {"vocabulary": 97, "context": 32, "width": 64, "depth": 3, "heads": 2}
    config = getattr(families, family)(**sizes, **settings, parametrisation=rules)
    model = Decoder(config).initialise(0).eval()
    save_config(tmp_path, config)
    save_tensors(tmp_path / WEIGHTS, dict(model.named_parameters()))
    export_model(tmp_path, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.randint(0, 97, (2, 24))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-4, rtol=1e-4)


def test_the_tokenizer_goes_along(trained, tmp_path):
    said = command("export", "hf", trained, tmp_path / "out", "--json")
    assert said.code == 0
    assert said.json["class"] == "LlamaForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.encode("the cat") == list(b"the cat")
    said = command("import", "hf", tmp_path / "out", tmp_path / "again", "--json")
    assert said.code == 0
    a = command(
        "generate",
        trained,
        "the ",
        "--temperature",
        "0",
        "--tokens",
        "8",
        "--precision",
        "fp32",
        "--json",
    )
    b = command(
        "generate",
        tmp_path / "again",
        "the ",
        "--temperature",
        "0",
        "--tokens",
        "8",
        "--precision",
        "fp32",
        "--json",
    )
    assert a.json["text"] == b.json["text"]


def test_weights_in_several_files_are_read(tmp_path):
    theirs = random_model("llama")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    import_model(tmp_path / "theirs", tmp_path / "run")
    tokens = torch.randint(0, 97, (1, 8))
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path / "run")(tokens), theirs(tokens).logits, atol=1e-4, rtol=0
        )


def change(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mamba"}, "is a mamba model: Maquette reads gpt2, gptj, llama, bloom"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn'"),
        ({"attention_bias": True}, "has biases"),
    ],
)
def test_what_would_compute_otherwise_is_refused(values, message, tmp_path):
    random_model("llama").save_pretrained(tmp_path / "theirs")
    change(tmp_path / "theirs", **values)
    refused(command("import", "hf", tmp_path / "theirs", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_pickled_weights_are_refused(tmp_path):
    random_model("llama").save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / WEIGHTS).rename(tmp_path / "theirs" / "pytorch_model.bin")
    refused(
        command("import", "hf", tmp_path / "theirs", tmp_path / "run"),
        "pickled weights", "convert them to safetensors",
    )  # fmt: skip


def test_an_architecture_without_a_class_is_refused(tmp_path):
    config = DecoderConfig(vocabulary=97, context=32, width=32, heads=2, block="parallel")
    save_config(tmp_path, config)
    save_tensors(tmp_path / WEIGHTS, dict(Decoder(config).initialise(0).named_parameters()))
    with pytest.raises(UserError, match="no Hugging Face class has this architecture"):
        export_model(tmp_path, tmp_path / "out")
