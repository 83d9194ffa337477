"""GGUF: blocks to the bit, containers, round trips, damaged and hostile files; llama.cpp itself."""

import json
import struct
import weakref
from collections.abc import Mapping
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from conftest import command, refused
from gguf.quants import dequantize, quantize
from tiny_models import byte_level, pieces
from tokenizers import Tokenizer as Theirs

from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.config import LoRAConfig
from maquette.base.errors import UserError
from maquette.corpus.foreign_tokenizer import Foreign
from maquette.corpus.special_tokens import SpecialTokens
from maquette.corpus.terms import Term
from maquette.corpus.tokenizer import BYTE_OF, byte_tokenizer, load_tokenizer, train_tokenizer
from maquette.models import families
from maquette.models.quantised import quantise, stored_tensors
from maquette.models.store import (
    WEIGHTS,
    SavedTensors,
    load_model,
    load_tensors,
    save_config,
    save_tensors,
    write_tensors,
)
from maquette.nn.quantised import Format
from maquette.nn.rules import Parametrisation
from maquette.serving.gguf import export_gguf, fitting, import_gguf
from maquette.serving.gguf_blocks import BLOCKS
from maquette.serving.gguf_format import GGUFReader, write_gguf
from maquette.serving.gguf_tokenizer import (
    HUGGING_FACE,
    LONGEST_PIECE,
    read_tokenizer,
    write_tokenizer,
)
from maquette.serving.peft import export_peft, import_peft
from maquette.training.run_terms import keep_terms
from maquette.workshop.export_gguf import export_run

RULES = Parametrisation(
    base_width=128, base_depth=1, base_head_dim=16, input_multiplier=2.0, output_multiplier=3.0
)
SIZES = {"vocabulary": 257, "context": 64, "width": 256, "depth": 2, "heads": 4}
SHAPES = {
    "llama": families.llama(**SIZES, kv_heads=2, hidden=512, parametrisation=RULES),
    "llama, tied": families.llama(**SIZES, head_dim=32, hidden=512, tied=True, rotary_base=70.0,
                                  norm_epsilon=0.1, parametrisation=RULES),
    "gpt2": families.gpt2(**SIZES, hidden=512, parametrisation=RULES),
    "bloom": families.bloom(**SIZES, parametrisation=RULES),
    "neox": families.neox(**SIZES, hidden=512, rotary_dims=16, parametrisation=RULES),
}  # fmt: skip
TEXT = "def hello(world):\n    return 'the cat sat', 12\n\n  hello  world é 日本 the Hello"
GROWTH = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 0.0056, "Q6_K": 0.018, "Q4_K": 0.074,
          "Q4_0": 0.09}  # fmt: skip
"""relative error of normal weights, at most"""


def model_of(config):
    """A model whose vectors are not 0 and 1."""
    model = config.build().initialise(1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def saved(model, folder):
    """The run of a model, its tokenizer plain bytes."""
    folder.mkdir()
    save_config(folder, model.config)
    save_tensors(folder / WEIGHTS, dict(model.named_parameters()))
    (folder / "tokenizer.json").write_text(byte_tokenizer().to_json(), encoding="utf-8")
    return folder


def exported(model, path, kind="F32", tokenizer=None):
    tokenizer = tokenizer or byte_tokenizer()
    export_gguf(path, model.config, dict(model.named_parameters()), tokenizer, kind=kind)
    return path


def tokens():
    return torch.randint(0, 257, (2, 48), generator=torch.Generator().manual_seed(0))


def weights():
    """Rows of weights with blocks of zeros, of one sign, with one large weight."""
    made = np.random.default_rng(0).standard_normal((64, 512), dtype=np.float32) * 0.05
    made[1, :300], made[2], made[3, 7] = 0, np.abs(made[2]) + 1, 9
    made[4, :32] = np.float32(0.49999997) * np.arange(32, dtype=np.float32)
    return made


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_the_gguf_package_to_the_bit(name):
    kind, x = BLOCKS[name], weights()
    theirs = gguf.GGMLQuantizationType[name]
    assert (kind.number, kind.file_type) == (theirs, kind.file_type)
    assert gguf.GGML_QUANT_SIZES[theirs] == (kind.weights, kind.size)
    packed = kind.quantise(x)
    assert kind.bits == 8 * packed.nbytes / x.size
    if not name.endswith("_K"):
        assert np.array_equal(packed, quantize(x, theirs).view(np.uint8).reshape(-1))
    back = kind.dequantise(packed).reshape(x.shape)
    assert np.array_equal(back, dequantize(packed.reshape(len(x), -1), theirs).reshape(x.shape))
    normal = slice(8, None)
    error = np.square(back - x)[normal].mean() / np.square(x)[normal].mean()
    assert error**0.5 <= GROWTH[name], error**0.5
    assert not back[1, :256].any()  # a block of zeros


def test_more_bits_lose_less():
    x = weights()[8:]
    lost = {
        n: float(np.square(k.dequantise(k.quantise(x)) - x.reshape(-1)).mean())
        for n, k in BLOCKS.items()
    }
    assert lost["Q8_0"] < lost["Q6_K"] < lost["Q4_K"] < lost["Q4_0"]


def test_the_package_reads_what_is_written_and_the_other_way_round(tmp_path):
    x = np.arange(96, dtype=np.float32).reshape(3, 32)
    metadata = {"general.architecture": "llama", "a": 7, "b": 0.5, "c": True, "d": ["x", "ü"],
                "e": np.array([1, 2], np.int32)}  # fmt: skip
    rows = [("one", (3, 32), "Q8_0"), ("two", (96,), "F32")]
    write_gguf(tmp_path / "a.gguf", metadata, rows,
               [BLOCKS["Q8_0"].quantise(x), BLOCKS["F32"].quantise(x)])  # fmt: skip
    theirs = gguf.GGUFReader(tmp_path / "a.gguf")
    assert {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")} == {
        **metadata, "e": [1, 2]
    }  # fmt: skip
    one, two = theirs.tensors
    assert (one.name, list(one.shape), one.tensor_type.name) == ("one", [32, 3], "Q8_0")
    assert np.array_equal(two.data, x.reshape(-1))
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "llama")
    writer.add_uint64("big", 2**40)
    writer.add_array("words", ["a", "b"])
    writer.add_tensor("x", x)
    writer.add_tensor("y", quantize(x, gguf.GGMLQuantizationType.Q4_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q4_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFReader(tmp_path / "b.gguf") as file:
        assert file.metadata["big"] == 2**40 and file.metadata["words"] == ["a", "b"]
        assert (file.tensors["x"].shape, file.tensors["y"].type) == ((3, 32), "Q4_0")
        assert np.array_equal(file.bytes_of(file.tensors["x"]).view(np.float32), x.reshape(-1))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_there_and_back_computes_the_same(shape, tmp_path):
    """With multipliers folded to rounding; from then on, which is without multipliers, to the bit."""
    model = model_of(SHAPES[shape])
    config, _ = import_gguf(exported(model, tmp_path / "a.gguf"), tmp_path / "back")
    back = load_model(tmp_path / "back")
    torch.testing.assert_close(back(tokens()), model(tokens()), atol=2e-5, rtol=2e-5)
    assert config == replace(model.config, parametrisation=config.parametrisation)
    import_gguf(exported(back, tmp_path / "b.gguf"), tmp_path / "again")
    assert torch.equal(load_model(tmp_path / "again")(tokens()), back(tokens()))
    assert load_tokenizer(tmp_path / "back/tokenizer.json").to_json() == byte_tokenizer().to_json()


@pytest.mark.parametrize("kind", BLOCKS)
@torch.no_grad()
def test_an_imported_model_has_the_weights_of_the_file(kind, tmp_path):
    model = model_of(replace(SHAPES["gpt2"], parametrisation=families.STANDARD))
    import_gguf(exported(model, tmp_path / "a.gguf", kind), tmp_path / "back")
    back = load_tensors(tmp_path / "back" / WEIGHTS)
    for name, parameter in model.named_parameters():
        held = "Q6_K" if name == "embedding.weight" and kind.startswith("Q4") else kind
        held = "F32" if parameter.dim() == 1 or name == "position.weight" else held
        wanted = BLOCKS[held].dequantise(BLOCKS[held].quantise(parameter.numpy()))
        assert np.array_equal(back[name].numpy().reshape(-1), wanted), name
    worst = (load_model(tmp_path / "back")(tokens()) - model(tokens())).abs().max()
    assert worst <= 20 * GROWTH[kind]


def test_rows_that_blocks_do_not_fill_fall_back(tmp_path):
    assert [fitting("Q4_K", n) for n in (512, 288, 33)] == ["Q4_K", "Q8_0", "F16"]
    narrow = families.llama(vocabulary=257, context=64, width=96, depth=1, heads=4, hidden=256)
    run = saved(model_of(narrow), tmp_path / "run")
    said = command("export", "gguf", run, tmp_path / "a.gguf", "--type", "Q4_K")
    assert "Q8_0 where rows do not fill blocks of Q4_K: token_embd.weight" in said.out
    with GGUFReader(tmp_path / "a.gguf") as file:
        types = {name: info.type for name, info in file.tensors.items()}
    assert types["blk.0.ffn_down.weight"] == "Q4_K" and types["blk.0.ffn_up.weight"] == "Q8_0"


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    """Where those that were given before live on, the whole model is there at once."""
    model, alive = model_of(SHAPES["llama"]), []

    class Once(Mapping):
        def __getitem__(self, name):
            assert sum(r() is not None for r in alive) <= 1, name
            tensor = model.get_parameter(name).detach().clone()
            alive.append(weakref.ref(tensor))
            return tensor

        def __iter__(self):
            raise AssertionError("all of them at once")

        __len__ = __iter__

    export_gguf(tmp_path / "a.gguf", model.config, Once(), None, kind="Q8_0")
    assert len(alive) == len(list(model.named_parameters()))


def test_tensors_one_by_one_are_a_safetensors_file(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(5)}
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    write_tensors(tmp_path / "x.safetensors", shapes, iter(tensors.values()))
    read = load_tensors(tmp_path / "x.safetensors")
    lazy = SavedTensors(tmp_path / "x.safetensors")
    assert set(lazy) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor) and torch.equal(lazy[name], tensor)


@torch.no_grad()
def test_the_command_line_merges_loras_and_writes_terms(tmp_path):
    model = model_of(SHAPES["llama"])
    run = saved(model, tmp_path / "run")
    keep_terms(run, [Term("llama2", "somewhere", ("others",))])
    assert command("export", "gguf", run, tmp_path / "a.gguf", "--type", "F32").code == 0
    said = command("import", "gguf", tmp_path / "a.gguf", tmp_path / "back", "--json")
    assert said.code == 0, said
    assert "llama2" in (tmp_path / "back/terms.json").read_text(encoding="utf-8")
    refused(command("export", "gguf", run, tmp_path / "a.gguf"), "exists")
    refused(command("export", "hf", run, tmp_path / "hf", "--type", "F16"), "--type is of gguf")
    keep_terms(run, [Term("CC-BY-NC-4.0", "somewhere", ("export",))])
    refused(command("export", "gguf", run, tmp_path / "b.gguf"), "CC-BY-NC-4.0")
    assert not (tmp_path / "b.gguf").exists()
    assert command("export", "gguf", run, tmp_path / "b.gguf", "--accept-terms").code == 0


@torch.no_grad()
def test_loras_are_merged(tmp_path):
    base = saved(model_of(SHAPES["llama"]), tmp_path / "base")
    model = load_model(base)
    adapter = LoRAConfig(rank=3).build(model)
    adapter.initialise(model, 1)
    for change in adapter.changes.values():
        change.lora_b.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    attach(model, "lora", adapter)
    wanted = model(tokens())
    export_peft(base, model, tmp_path / "peft")
    import_peft(tmp_path / "peft", base, base / WEIGHTS, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "a.gguf", "F32", [], print)
    import_gguf(tmp_path / "a.gguf", tmp_path / "back")
    got = load_model(tmp_path / "back")(tokens())
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(load_model(base)(tokens()), wanted, atol=1e-1)


@torch.no_grad()
def test_a_quantised_run_is_written_out(tmp_path):
    """Its tied matrix, positions and biases with it."""
    model = model_of(families.gpt2(**SIZES, hidden=512, tied=True, parametrisation=RULES))
    run = saved(model, tmp_path / "run")
    quantise(model, Format(bits=4))
    save_tensors(run / WEIGHTS, *stored_tensors(model))
    wanted = load_model(run)(tokens())
    said = command("export", "gguf", run, tmp_path / "a.gguf", "--type", "F32")
    assert said.code == 0, said
    assert "the run is quantised: its weights are written out" in said.out
    import_gguf(tmp_path / "a.gguf", tmp_path / "back")
    got = load_model(tmp_path / "back")(tokens())
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


def foreign(made: Theirs, *, prefix=()):
    ids = {name: made.token_to_id(name) for name in ("<s>", "</s>", "<|end|>")}
    end = ids["</s>"] if ids["</s>"] is not None else ids["<|end|>"]
    return Foreign(made.to_str(), SpecialTokens((end,), prefix, prefix[0] if prefix else None))


def complete(made: Theirs) -> Theirs:
    """The same pieces with every pair that makes one, as SentencePiece joins them."""
    content = json.loads(made.to_str())
    known = content["model"]["vocab"]
    names = [name for name in sorted(known, key=known.get) if not name.startswith("<0x")]
    content["model"]["merges"] = [
        [name[:k], name[k:]]
        for name in names
        for k in range(1, len(name))
        if name[:k] in known and name[k:] in known
    ]
    return Theirs.from_str(json.dumps(content))


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "trained": lambda: train_tokenizer([TEXT * 3], 300, or_fewer=True, digits=3),
    "gpt2": lambda: foreign(byte_level("<|end|>")),
    "llama": lambda: foreign(complete(pieces()), prefix=(1,)),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("whole", [True, False], ids=["tokenizer.json", "tokens and merges"])
def test_tokenizers_come_back(name, whole, tmp_path):
    tokenizer = TOKENIZERS[name]()
    notes = []
    metadata = write_tokenizer(tokenizer, tokenizer.vocabulary + 3, "{{ messages }}", notes.append)
    assert not notes
    if not whole:
        del metadata[HUGGING_FACE]
    read_tokenizer(metadata, tokenizer.vocabulary + 3, tmp_path, notes.append)
    back = load_tokenizer(tmp_path / "tokenizer.json")
    for text in (TEXT, "", " a", "a  b", "<0x41>", "the cat"):
        assert back.encode_prompt(text) == tokenizer.encode_prompt(text), text
        assert back.decode(back.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert back.special.eos_token_ids == tokenizer.special.eos_token_ids
    written = [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
    assert any("{{ messages }}" in content for content in written)


def test_a_pattern_that_llama_cpp_has_not_is_said():
    notes = []
    write_tokenizer(train_tokenizer([TEXT * 3], 300, or_fewer=True), 300, None, notes.append)
    assert "cuts numbers into 2 digits, llama.cpp into 3" in notes[0]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (families.gptj(**SIZES), "it has no GPT-J"),
        (families.gpt3(**SIZES, band=16), "no such architecture"),
        (families.palm(**SIZES), "no such architecture"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(config, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        exported(model_of(config), tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


def test_weights_beyond_a_type_are_refused(tmp_path):
    model = model_of(SHAPES["gpt2"])
    model.embedding.weight.data[0, 0] = 1e6
    with pytest.raises(UserError, match="cannot hold: use --type BF16 or F32"):
        exported(model, tmp_path / "a.gguf", "F16")
    assert not list(tmp_path.iterdir())


def small(path):
    """The bytes of a small model's file."""
    config = families.llama(vocabulary=257, context=16, width=32, depth=1, heads=2, hidden=32)
    return exported(model_of(config), path, "Q8_0").read_bytes()


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    whole = small(tmp_path / "a.gguf")
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 200, 3), *range(200, len(whole) - 31, len(whole) // 29)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError):
            import_gguf(cut, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_with_other_bytes_is_read_or_refused(tmp_path):
    """No change of the header raises anything else, and none makes it wait or take much memory."""
    whole = small(tmp_path / "a.gguf")
    generator = np.random.default_rng(0)
    before = whole.index(b"tokenizer.huggingface.json")
    after = whole.index(b"token_embd.weight")
    for number in range(120):
        changed = bytearray(whole)
        begin, end = ((0, 2000), (before - 9000, before), (after, after + 900))[number % 3]
        for _ in range(int(generator.integers(1, 4))):
            changed[int(generator.integers(max(0, begin), end))] = int(generator.integers(256))
        (tmp_path / "b.gguf").write_bytes(changed)
        said = ""
        try:
            import_gguf(tmp_path / "b.gguf", tmp_path / f"run{number}")
        except UserError as error:
            said = str(error)
        assert len(said.splitlines()) <= 1


def header(*values: bytes, tensors=0, entries=0):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + b"".join(values)


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"PK\3\4" + b"\0" * 60, "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<I", 9) + b"\0" * 60, "of version 9"),
        (header(tensors=2**60), "claims"),
        (header(entries=2**63), "claims"),
        (header(struct.pack("<Q", 2**63), b"\0" * 64, entries=1), "9,223,372,036,854,775,808 bytes"),
        (header(text("k"), struct.pack("<IIQ", 9, 8, 2**61), b"\0" * 64, entries=1), "list of"),
        (header(text("k"), struct.pack("<IIQ", 9, 6, 2**62), b"\0" * 64, entries=1), "claims"),
        (header(text("k"), struct.pack("<IIQ", 9, 9, 1), b"\0" * 64, entries=1), "of type 9"),
        (header(text("k"), struct.pack("<I", 99), b"\0" * 64, entries=1), "of type 99"),
        (header(text("t"), struct.pack("<IQIQ", 1, 2**62, 0, 0), b"\0" * 64, tensors=1), "cut short"),
        (header(text("t"), struct.pack("<I4QIQ", 4, *[2**62] * 4, 0, 0), tensors=1), "cut short"),
        (header(text("t"), struct.pack("<I", 9), b"\0" * 64, tensors=1), "9 dimensions"),
        (header(text("t"), struct.pack("<IQIQ", 1, 32, 77, 0), b"\0" * 64, tensors=1), "type 77"),
        (header(text("t"), struct.pack("<IQIQ", 1, 33, 8, 0), b"\0" * 64, tensors=1), "rows of 33"),
        (header(text("t"), struct.pack("<IQIQ", 1, 0, 0, 0), b"\0" * 64, tensors=1), "no elements"),
        (header(text("t"), struct.pack("<IQIQ", 1, 2, 0, 5), b"\0" * 64, tensors=1), "beside the"),
    ],
)  # fmt: skip
def test_a_hostile_header_is_refused(content, reason, tmp_path):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        import_gguf(tmp_path / "a.gguf", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"general.architecture": "mamba"}, "'mamba': Maquette reads llama, gpt2"),
        ({"llama.block_count": 10**9}, "it is damaged"),
        ({"llama.attention.head_count": 3}, "not divisible by kv_heads 2"),
        ({"llama.embedding_length": 64}, "shape|weights"),
        ({"llama.rope.scaling.type": "yarn"}, "'yarn': Maquette computes 'none' alone"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.attention.sliding_window": 8}, "sliding_window = 8, which Maquette does not"),
        ({"llama.context_length": "long"}, "not a whole number"),
    ],
)  # fmt: skip
def test_metadata_that_does_not_fit_is_refused(change, reason, tmp_path):
    small(tmp_path / "a.gguf")
    with GGUFReader(tmp_path / "a.gguf") as file:
        rows = [(i.name, i.shape, i.type) for i in file.tensors.values()]
        data = [file.bytes_of(info) for info in file.tensors.values()]
        write_gguf(tmp_path / "b.gguf", file.metadata | change, rows, data)
    with pytest.raises(UserError, match=reason) as error:
        import_gguf(tmp_path / "b.gguf", tmp_path / "run")
    assert len(str(error.value)) < 300
    assert not (tmp_path / "run").exists()


TABLE = [f"t{i}" for i in range(257)]
PIECES = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TABLE,
    "tokenizer.ggml.scores": np.zeros(257, np.float32),
    "tokenizer.ggml.token_type": np.ones(257, np.int32),
}  # without tokenizer.json


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"general.architecture": np.array([1, 2], np.int32)}, "of the architecture array"),
        ({"general.architecture": ["llama"]}, r"of the architecture \['llama'\]"),
        ({"general.architecture": "\udcff" * 1000}, "of the architecture"),
        ({"tokenizer.ggml.model": np.array([1, 2], np.int32)}, "of the kind array"),
        ({"tokenizer.ggml.model": ["gpt2"]}, r"of the kind \['gpt2'\]"),
        ({"tokenizer.ggml.model": "bert" * 1000} | {HUGGING_FACE: 1}, "of the kind 'bert"),
        ({"tokenizer.chat_template": "\udcff"}, "its chat template is not text in UTF-8"),
        ({HUGGING_FACE: "\udcff"}, "its tokenizer is not text in UTF-8"),
        ({HUGGING_FACE: "[" * 100_000}, "is not valid JSON"),
        (PIECES | {"tokenizer.ggml.tokens": ["\udcff", *TABLE[1:]]}, "its tokenizer is not text in"),
        (PIECES | {"tokenizer.ggml.token_type": np.full(257, np.nan, np.float32)}, "have no types"),
        (PIECES | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [*BYTE_OF, "x"],
                   "tokenizer.ggml.merges": ["a \udcff"]}, "its tokenizer is not text in UTF-8"),
        ({"general.alignment": np.arange(5000, dtype=np.uint32)}, "has an alignment of array"),
    ],
)  # fmt: skip
def test_metadata_of_other_types_are_refused_in_a_line(change, reason, tmp_path):
    small(tmp_path / "a.gguf")
    with GGUFReader(tmp_path / "a.gguf") as file:
        rows = [(i.name, i.shape, i.type) for i in file.tensors.values()]
        data = [file.bytes_of(info) for info in file.tensors.values()]
        own = {key: value for key, value in file.metadata.items() if key != HUGGING_FACE}
        whole = file.metadata if "tokenizer.ggml.scores" not in change else own
        write_gguf(tmp_path / "b.gguf", whole | change, rows, data)
    with pytest.raises(UserError, match=reason) as error:
        import_gguf(tmp_path / "b.gguf", tmp_path / "run")
    assert len(str(error.value)) < 1000 and len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_piece_is_cut_in_two_up_to_a_length_alone(tmp_path):
    """To cut one of n characters everywhere copies n squared of them."""
    longest = PIECES | {"tokenizer.ggml.tokens": ["a" * LONGEST_PIECE, *TABLE[1:]]}
    read_tokenizer(longest, 257, tmp_path, print)
    longer = PIECES | {"tokenizer.ggml.tokens": ["a" * (LONGEST_PIECE + 1), *TABLE[1:]]}
    with pytest.raises(UserError, match="has a token of 1,025 characters"):
        read_tokenizer(longer, 257, tmp_path, print)


@pytest.mark.parametrize("licence", ["(" * 100_000, "\udcff"])  # nobody can read these
def test_a_licence_that_is_none_is_left_out(licence, tmp_path):
    small(tmp_path / "a.gguf")
    with GGUFReader(tmp_path / "a.gguf") as file:
        rows = [(i.name, i.shape, i.type) for i in file.tensors.values()]
        data = [file.bytes_of(info) for info in file.tensors.values()]
        more = {"general.license": licence}
        write_gguf(tmp_path / "b.gguf", file.metadata | more, rows, data)
    assert command("import", "gguf", tmp_path / "b.gguf", tmp_path / "run").code == 0
    assert not (tmp_path / "run/terms.json").exists()
