"""Round trips with transformers: tiny random models agree in logits, in both directions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from conftest import command, refused
from tiny_models import byte_level, write_files
from tokenizers import Tokenizer, models, pre_tokenizers

import maquette
from maquette.base.errors import UserError
from maquette.corpus.tokenizer import load_tokenizer
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.store import WEIGHTS, load_model, load_tensors, save_config, save_tensors
from maquette.nn.rules import Parametrisation
from maquette.serving.hugging_face import export_model, import_model
from maquette.serving.hugging_face_config import DEFAULTS, read_config

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


def save(model, folder: Path, **options) -> None:
    """Write a folder that people download: the model, and a tokenizer that fits it."""
    model.save_pretrained(folder, **options)
    words = {f"word{i}": i for i in range(96)} | {"</s>": 96}
    made = Tokenizer(models.WordLevel(words, "word0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))


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
    save(theirs, tmp_path / "theirs")
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
    own = maquette.load(trained).tokenizer
    for text in ("the cat", "a<|endoftext|>b", "é 🙂"):
        assert tokenizer.encode(text) == own.encode(text) == own.encode_prompt(text)
    assert tokenizer.eos_token_id == own.eos_token_id == tokenizer.bos_token_id
    rows = tokenizer(["the cat", "a"], padding=True)
    assert rows["input_ids"][1] == [own.eos_token_id] * 6 + [ord("a")]
    assert rows["attention_mask"][1] == [0] * 6 + [1]
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
        "--weights",
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
        "--weights",
        "fp32",
        "--json",
    )
    assert a.json["text"] == b.json["text"]


def test_weights_in_several_files_are_read(tmp_path):
    theirs = random_model("llama")
    save(theirs, tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    import_model(tmp_path / "theirs", tmp_path / "run")
    tokens = torch.randint(0, 97, (1, 8))
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path / "run")(tokens), theirs(tokens).logits, atol=1e-4, rtol=0
        )


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mamba"}, "is a mamba model: Maquette reads gpt2, gptj, llama, bloom"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type = 'linear'"),
        ({"rope_scaling": "linear"}, "rope_parameters is 'linear', not an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"quantization_config": {"bits": 4}}, "weights are quantised"),
        ({"hidden_size": "48"}, "hidden_size is '48', not a whole number above 0"),
        ({"hidden_size": None}, "hidden_size is None, not a whole number"),
        ({"vocab_size": 97.0}, "vocab_size is 97.0, not a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6', not a number"),
        ({"rope_parameters": {"rope_theta": "10000"}}, "rope_theta is '10000'"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'"),
        ({"num_attention_heads": 5, "head_dim": None}, "width 48 is not divisible by heads 5"),
        ({"model_type": ["llama"]}, "is a ['llama'] model"),
    ],
)
def test_what_would_compute_otherwise_is_refused(values, message, tmp_path):
    save(random_model("llama"), tmp_path / "theirs")
    change_config(tmp_path / "theirs", **values)
    refused(command("import", "hf", tmp_path / "theirs", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_pickled_weights_are_refused(tmp_path):
    save(random_model("llama"), tmp_path / "theirs")
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


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a folder."""
    tensors = load_tensors(folder / WEIGHTS)
    change(tensors)
    save_tensors(folder / WEIGHTS, tensors)


def zeros(*names: str):
    return lambda tensors: tensors.update({name: torch.zeros(48) for name in names})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            zeros("model.layers.0.self_attn.q_proj.bias"),
            "1 tensors that a model of this config.json",
        ),
        (zeros("model.layers.2.input_layernorm.weight"), "(model.layers.2.input_layernorm.weight)"),
        (zeros("value_head.weight", "a", "b", "c"), "(a, b, c, ...)"),
        (lambda tensors: tensors.pop("model.norm.weight"), "lacks model.norm.weight"),
    ],
)
def test_a_tensor_that_has_no_place_is_refused(change, message, tmp_path):
    save(random_model("llama"), tmp_path / "theirs")
    rewrite(tmp_path / "theirs", change)
    refused(command("import", "hf", tmp_path / "theirs", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_head_beside_tied_weights_is_the_embedding_or_refused(family, tmp_path):
    theirs = random_model(family)
    save(theirs, tmp_path / "theirs")
    change_config(tmp_path / "theirs", tie_word_embeddings=True)
    weight = theirs.get_input_embeddings().weight.detach()
    rewrite(tmp_path / "theirs", lambda tensors: tensors.update({"lm_head.weight": weight + 1}))
    refused(
        command("import", "hf", tmp_path / "theirs", tmp_path / "run"),
        "lm_head.weight that is not the embedding", "tie_word_embeddings: false",
    )  # fmt: skip
    rewrite(tmp_path / "theirs", lambda tensors: tensors.update({"lm_head.weight": weight.clone()}))
    assert command("import", "hf", tmp_path / "theirs", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("gptj", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
    ],
)
def test_masks_and_rotations_of_older_files_are_no_parameters(family, names, tmp_path):
    save(random_model(family), tmp_path / "theirs")
    rewrite(tmp_path / "theirs", zeros(*names))
    assert command("import", "hf", tmp_path / "theirs", tmp_path / "run").code == 0


FULL = {
    "gpt2": transformers.GPT2Config,
    "gptj": transformers.GPTJConfig,
    "llama": transformers.LlamaConfig,
    "bloom": transformers.BloomConfig,
}


def shape(config: DecoderConfig) -> DecoderConfig:
    """The config with what None stands for."""
    return replace(config, kv_heads=config.group_heads, head_dim=config.head, hidden=config.inner)


@pytest.mark.parametrize("family", FULL)
def test_a_key_that_is_not_there_means_what_it_means_in_transformers(family):
    """Every key of a config is left out in turn, from one of other values than the defaults."""
    other = {
        "gpt2": {"vocab_size": 97, "n_positions": 32, "n_embd": 36, "n_layer": 3, "n_head": 6,
              "n_inner": 50, "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False},
        "gptj": {"vocab_size": 97, "n_positions": 32, "n_embd": 256, "n_layer": 3, "n_head": 4,
              "n_inner": 50, "layer_norm_epsilon": 1e-3, "rotary_dim": 4},
        "llama": {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 50, "num_hidden_layers": 3,
               "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 6,
               "max_position_embeddings": 32, "rms_norm_eps": 1e-3, "rope_theta": 500.0,
               "tie_word_embeddings": True},
        "bloom": {"vocab_size": 97, "hidden_size": 48, "n_layer": 3, "n_head": 16,
               "layer_norm_epsilon": 1e-3},
    }[family]  # fmt: skip
    for left_out in [None, *other]:
        given = {key: value for key, value in other.items() if key != left_out}
        whole = FULL[family](**given).to_dict()
        assert shape(read_config(family, given)) == shape(read_config(family, whole)), left_out
    for key in set(DEFAULTS[family]) & FULL[family]().to_dict().keys():
        assert (
            DEFAULTS[family][key] == getattr(FULL[family](), key) or DEFAULTS[family][key] is None
        )


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_other_names_of_a_key_are_read(family):
    named = {"max_position_embeddings": 32, "hidden_size": 64, "num_hidden_layers": 3,
             "num_attention_heads": 4, "vocab_size": 97, "rotary_dim": 8}  # fmt: skip
    whole = FULL[family](**named).to_dict()
    assert read_config(family, named) == read_config(family, whole)


def test_the_two_files_of_gpt2s_tokenizer_are_read(tmp_path):
    torch.manual_seed(0)
    made = byte_level("<|endoftext|>")
    config = transformers.GPT2Config(
        vocab_size=made.get_vocab_size(), n_positions=64, n_embd=32, n_layer=1, n_head=2,
        bos_token_id=made.token_to_id("<|endoftext|>"), eos_token_id=made.token_to_id("<|endoftext|>"),
    )  # fmt: skip
    folder = tmp_path / "theirs"
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    refused(command("import", "hf", folder, tmp_path / "run"), "copy the model's tokenizer.json")
    content = json.loads(made.to_str())
    vocabulary = content["model"]["vocab"] | {"<|endoftext|>": made.token_to_id("<|endoftext|>")}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    refused(command("import", "hf", folder, tmp_path / "run"), "merges.txt beside its vocab.json")
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    assert command("import", "hf", folder, tmp_path / "run").code == 0
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("Hello world", " the  cat\n", "日本 🙂", "a<|endoftext|>b"):
        assert tokenizer.encode_prompt(text) == theirs(text)["input_ids"]
    assert tokenizer.special.eos_token_ids == (theirs.eos_token_id,)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}), encoding="utf-8"
    )
    assert command("import", "hf", folder, tmp_path / "begun").code == 0
    begun = load_tokenizer(tmp_path / "begun" / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert begun.encode_prompt("the cat") == theirs("the cat")["input_ids"]
    (folder / "merges.txt").write_text("#version: 0.2\nno merge\n", encoding="utf-8")
    refused(command("import", "hf", folder, tmp_path / "x"), "merges.txt does not fit vocab.json")
    (folder / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    refused(command("import", "hf", folder, tmp_path / "x"), "is not of a byte-level tokenizer")


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path):
    save(random_model("llama"), tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    (tmp_path / "theirs" / "tokenizer.model").write_bytes(b"\x0a")
    refused(
        command("import", "hf", tmp_path / "theirs", tmp_path / "run"),
        "its tokenizer.model is not read: open it with transformers' AutoTokenizer",
    )
    write_files(tmp_path / "theirs", byte_level(), None)
    refused(
        command("import", "hf", tmp_path / "theirs", tmp_path / "run"),
        "tokens, the model 97: it belongs to another model",
    )
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}", encoding="utf-8")
    refused(
        command("import", "hf", tmp_path / "theirs", tmp_path / "run"),
        "is not a tokenizer that can be read",
    )
    assert not (tmp_path / "run").exists()
