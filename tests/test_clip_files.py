"""CLIPs from elsewhere and to elsewhere, used as transformers' users use them: processor and model.

The files are made here: a byte-level BPE as OpenAI's (lower case, NFC, `</w>`, both special tokens at the
end of the vocabulary) and random weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command, refused
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from maquette.base.errors import UserError
from maquette.corpus.tokenizer import byte_tokenizer, save_tokenizer, train_tokenizer
from maquette.models.clip_config import ClipConfig
from maquette.models.store import WEIGHTS, load_config, save_config, save_tensors
from maquette.serving.clip_files import PROJECTION, TEXT, VISION, tower
from maquette.serving.clip_processor import PICTURES
from maquette.serving.hugging_face import import_model
from maquette.training.datasets.pictures import to_tensor
from maquette.workshop.load_pictures import load_pictures

transformers = pytest.importorskip("transformers")
MEAN, DEVIATION = [0.48, 0.45, 0.40], [0.26, 0.27, 0.28]
LENGTH = 16  # tokens of a caption, both special ones included
CAPTIONS = [
    "a photo of a cat",
    "A PHOTO of a Cat",
    "  two   spaces\nand a newline ",
    "café naïve 日本 🎉",
    "Ünḯcödé NFD café",
    "it's a dog's life, isn't it?",
    "",
    "word " * 40,
    "<|endoftext|> inside",
    "a <|startoftext|> b!",
    "no",
]


def bpe():
    """A small tokenizer of the kind of OpenAI's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=180, end_of_word_suffix="</w>", show_progress=False)
    words = "a photo of the cat dog red circle two spaces life café it's newline and".split()
    learner.train_from_iterator(words * 3, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(x + "</w>" for x in letters), *("".join(m) for m in merges)]
    names = [*dict.fromkeys(names), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={n: i for i, n in enumerate(names)}, merges=merges)


@pytest.fixture(scope="module")
def tokenizer():
    return bpe()


def write(folder: Path, tokenizer, *, more: int = 0, processor=None, top=None, **text) -> Path:
    """A folder as people download it; `more`: rows of the embedding beyond the tokenizer."""
    torch.manual_seed(0)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(
        projection_dim=24,
        vision_config=sizes | {"num_attention_heads": 4, "image_size": 32, "patch_size": 8},
        text_config=sizes
        | {
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer) + more,
            "max_position_embeddings": LENGTH,
            "bos_token_id": end - 1,
            "eos_token_id": end,
            "pad_token_id": end,
        }
        | text,
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.15 * torch.randn_like(p)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = LENGTH
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    plain = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": MEAN,
        "image_std": DEVIATION,
        "size": 32,
        "crop_size": 32,
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps(plain | (processor or {})), encoding="utf-8"
    )
    return folder


@torch.no_grad()
def as_users_do(folder: Path, captions, pictures):
    """(ids, embeddings of captions, of pictures, the inverse temperature) by transformers."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    given = processor(
        text=captions, images=pictures, padding=True, truncation=True, return_tensors="pt"
    )
    out = model(**given)
    ids = [
        row[mask.bool()].tolist()
        for row, mask in zip(given.input_ids, given.attention_mask, strict=True)
    ]
    text, seen = F.normalize(out.text_embeds, dim=1), F.normalize(out.image_embeds, dim=1)
    return ids, text, seen, float((out.logits_per_image / (seen @ text.T)).median())


@torch.no_grad()
def ours(run: Path, captions, pictures):
    loaded = load_pictures(run)
    loaded.model.compute = torch.float32
    return (
        loaded.model.embed_captions(loaded.captions(captions)),
        loaded.model.embed_pictures(to_tensor(np.stack([np.asarray(p) for p in pictures]))),
    )


def squares(n=2, side=32):
    drawn = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in drawn]


def agree(folder: Path, run: Path, captions=CAPTIONS) -> None:
    """Every caption, alone and beside others, and every picture."""
    pictures = squares()
    text, seen = ours(run, captions, pictures)
    _, theirs, looked, scale = as_users_do(folder, captions, pictures)
    torch.testing.assert_close((text * theirs).sum(1), torch.ones(len(captions)), atol=2e-5, rtol=0)
    torch.testing.assert_close((seen * looked).sum(1), torch.ones(2), atol=2e-5, rtol=0)
    assert float(load_pictures(run).model.scale()) == pytest.approx(scale, rel=1e-3)
    assert (theirs @ theirs.T)[0, 2:6].max() < 0.999, "captions differ at all"
    alone = torch.cat([as_users_do(folder, [one], pictures)[1] for one in captions[:3]])
    torch.testing.assert_close(alone, theirs[:3], atol=2e-5, rtol=0)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("more", [0, 3])
def test_an_imported_one_reads_captions_and_pictures_as_theirs(tmp_path, tokenizer, legacy, more):
    """OpenAI's config says that a caption begins with 0 and ends with 2; their tokenizer does not."""
    text = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1} if legacy else {}
    folder = write(tmp_path / "theirs", tokenizer, more=more, **text)
    config = import_model(folder, tmp_path / "run")
    assert config.highest is None and config.bos_token_id == len(tokenizer) - 1
    agree(folder, tmp_path / "run")
    said = command("export", "hf", tmp_path / "run", tmp_path / "back")
    assert said.code == 0, said.err
    agree(tmp_path / "back", tmp_path / "run")
    before, after = (as_users_do(f, CAPTIONS, squares()) for f in (folder, tmp_path / "back"))
    assert before[0] == after[0]
    torch.testing.assert_close(before[1], after[1], atol=2e-5, rtol=0)


def test_with_tokens_added_behind_the_end_the_highest_stands_for_a_caption(tmp_path):
    """transformers takes the highest token where config.json says 2, the first end where it says more."""
    grown = bpe()
    grown.add_tokens(["<cat>", "<dog>"])
    captions = ["a <cat> and a <dog>", "a <dog>, no <cat>", "a photo"]
    for name, text in (("old", {"bos_token_id": 0, "eos_token_id": 2}), ("new", {})):
        folder = write(tmp_path / name, grown, **text)
        config = import_model(folder, tmp_path / f"run-{name}")
        assert (config.highest is None) == (name == "new")
        agree(folder, tmp_path / f"run-{name}", captions)
        command("export", "hf", tmp_path / f"run-{name}", tmp_path / f"back-{name}")
        agree(tmp_path / f"back-{name}", tmp_path / f"run-{name}", captions)


@pytest.mark.parametrize("post_processor", ["none", "in the file", "template"])
def test_the_ends_of_a_caption_come_from_the_files_in_their_order(
    tmp_path, tokenizer, post_processor
):
    """The post-processor, then tokenizer_config.json, then config.json."""
    folder = write(tmp_path / "theirs", tokenizer)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if post_processor == "none":
        content["post_processor"] = None
    if post_processor == "template":
        names = ["<|startoftext|>", "<|endoftext|>"]
        parts = [{"SpecialToken": {"id": n, "type_id": 0}} for n in names]
        single = [parts[0], {"Sequence": {"id": "A", "type_id": 0}}, parts[1]]
        special = {
            n: {"id": n, "ids": [tokenizer.convert_tokens_to_ids(n)], "tokens": [n]} for n in names
        }
        content["post_processor"] = {
            "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special,
        }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    import_model(folder, tmp_path / "run")
    agree(folder, tmp_path / "run")


def test_what_a_config_leaves_out_is_transformers_default():
    defaults = transformers.CLIPConfig()
    for ours, theirs in ((TEXT, defaults.text_config), (VISION, defaults.vision_config)):
        for key, value in ours.items():
            assert getattr(theirs, key) == value, key
    assert defaults.projection_dim == PROJECTION
    processor = transformers.CLIPImageProcessor()
    for key, value in PICTURES.items():
        theirs = getattr(processor, key)
        assert (theirs if not isinstance(value, list | dict) else type(value)(theirs)) == value, key


def test_an_older_dictionary_beside_a_towers_config_counts_with_its_defaults():
    given = {
        "text_config": {"hidden_size": 32, "num_hidden_layers": 2},
        "text_config_dict": {"hidden_size": 64},
    }
    theirs = transformers.CLIPConfig(**json.loads(json.dumps(given))).text_config
    for key, value in tower(given, "text_config", TEXT).items():
        assert getattr(theirs, key) == value, key


@pytest.mark.parametrize(
    "processor",
    [
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0, 70.0, 80.0]},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        {"do_resize": False, "resample": 2},
        {"do_normalize": None, "image_mean": None},
        {
            "do_rescale": None,
            "rescale_factor": None,
            "image_mean": [120.0] * 3,
            "image_std": [60.0] * 3,
        },
        {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    ],
)
def test_pixels_are_scaled_as_their_processor_scales_them(tmp_path, tokenizer, processor):
    folder = write(tmp_path / "theirs", tokenizer, processor=processor)
    import_model(folder, tmp_path / "run")
    agree(folder, tmp_path / "run", CAPTIONS[:6])
    command("export", "hf", tmp_path / "run", tmp_path / "back")
    agree(tmp_path / "back", tmp_path / "run", CAPTIONS[:6])


def test_what_of_a_processor_is_not_followed_is_named(tmp_path, tokenizer):
    changes = {"size": 40, "resample": 3}
    folder = write(tmp_path / "theirs", tokenizer, processor=changes)
    said = command("import", "hf", folder, tmp_path / "run", "--json")
    assert "resizes pictures by the bicubic filter, Maquette by Lanczos" in said.json["notes"][0]
    assert "takes the middle 32 pixels of 40" in said.json["notes"][1]
    kept = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert kept["size"] == {"shortest_edge": 40} and kept["resample"] == 3


def edited(folder: Path, name: str, **changes) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(content | changes), encoding="utf-8")


def damage_tensors(folder: Path, **more) -> None:
    save_file(load_file(folder / WEIGHTS) | more, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (
            lambda f: (f / "tokenizer.json").write_text("{}", encoding="utf-8"),
            "is not a tokenizer that can be read",
        ),
        (lambda f: edited(f, "preprocessor_config.json", crop_size=24), "belong to two models"),
        (lambda f: edited(f, "preprocessor_config.json", image_mean=None), "image_mean is null"),
        (lambda f: edited(f, "preprocessor_config.json", crop_size=None), "crop_size is null"),
        (
            lambda f: damage_tensors(f, **{"text_model.encoder.layers.2.layer_norm1.bias": torch.ones(32)}),
            "holds text_model.encoder.layers.2.layer_norm1.bias, which its config.json does not use",
        ),
        (lambda f: damage_tensors(f, **{"text_projection.bias": torch.ones(24)}), "text_projection.bias"),
        (lambda f: text_config(f, eos_token_id=5), "ends a caption by token"),
        (lambda f: text_config(f, vocab_size=None), "text_config.vocab_size is None, not a whole number"),
        (lambda f: text_config(f, hidden_size="32"), "text_config.hidden_size is '32'"),
        (lambda f: edited(f, "config.json", text_config=[1]), "text_config is no object"),
        (lambda f: (f / "tokenizer_config.json").write_text("[1]", encoding="utf-8"),
         "tokenizer_config.json is no JSON object"),
        (lambda f: text_config(f, vocab_size=400), "tokens up to"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_followed_is_refused(tmp_path, tokenizer, damage, part):
    folder = write(tmp_path / "theirs", tokenizer)
    damage(folder)
    refused(command("import", "hf", folder, tmp_path / "run"), part)
    assert not (tmp_path / "run").exists()


def text_config(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edited(folder, "config.json", text_config=content["text_config"] | changes)


def test_positions_that_older_files_count_are_no_weights(tmp_path, tokenizer):
    folder = write(tmp_path / "theirs", tokenizer)
    damage_tensors(folder, **{"text_model.embeddings.position_ids": torch.arange(LENGTH)[None]})
    import_model(folder, tmp_path / "run")


def test_a_tokenizer_that_cuts_captions_before_the_model_does_is_followed(tmp_path, tokenizer):
    folder = write(tmp_path / "theirs", tokenizer)
    edited(folder, "tokenizer_config.json", model_max_length=10)
    assert import_model(folder, tmp_path / "run").caption_length == 9
    agree(folder, tmp_path / "run")


@pytest.mark.parametrize("kind", ["bytes", "pairs"])
def test_one_trained_here_is_used_by_transformers_as_its_users_use_it(tmp_path, kind):
    """Its ids, its padding, its place of pooling, and pictures of another size, resized."""
    run = tmp_path / "run"
    run.mkdir()
    reader = byte_tokenizer() if kind == "bytes" else train_tokenizer(CAPTIONS * 9, 290)
    config = ClipConfig(
        image_size=32, width=32, depth=2, heads=2, patch=8, vocabulary=reader.vocabulary + 2,
        caption_length=12, text_width=32, text_depth=2, text_heads=2, embedding=16,
    )  # fmt: skip
    model = config.build().initialise(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.15 * torch.randn_like(p)
    save_config(run, config)
    save_tensors(run / WEIGHTS, dict(model.named_parameters()))
    save_tokenizer(reader, run / "tokenizer.json")
    assert command("export", "hf", run, tmp_path / "out").code == 0
    agree(tmp_path / "out", run)
    ids, text, *_ = as_users_do(tmp_path / "out", CAPTIONS, squares())
    assert ids == [[*reader.encode(one)[:11], reader.eos_token_id] for one in CAPTIONS]
    assert (text @ text.T)[0, 1:].max() < 0.9999
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (
        auto(CAPTIONS[0])["input_ids"] == [*reader.encode(CAPTIONS[0]), reader.eos_token_id]
        or kind == "bytes"
    )

    from maquette.workshop.picture_input import Input

    squares(1, 80)[0].resize((96, 96)).save(tmp_path / "large.png")
    seen = load_pictures(run).model.embed_pictures(Input().tensor(tmp_path / "large.png", 32))
    processed = as_users_do(tmp_path / "out", CAPTIONS[:1], [Image.open(tmp_path / "large.png")])[2]
    assert float((seen * processed).sum()) == pytest.approx(1, abs=2e-5)


def test_an_export_cuts_captions_where_the_run_does(tmp_path):
    from maquette.training.datasets.encoder import caption_length_of
    from maquette.training.datasets.picture_config import PictureData, PictureRecipe

    config = ClipConfig(
        image_size=16, width=32, depth=1, heads=2, vocabulary=257, caption_length=12, text_width=32,
        text_depth=1, text_heads=2,
    )  # fmt: skip
    model = config.build().initialise(0)
    save_config(tmp_path, config)
    save_tensors(tmp_path / WEIGHTS, dict(model.named_parameters()))
    save_tokenizer(byte_tokenizer(), tmp_path / "tokenizer.json")
    PictureRecipe(model=config, data=PictureData(image_size=16, caption_length=8)).save(
        tmp_path / "recipe.yaml"
    )
    assert caption_length_of(tmp_path) == 8 and load_pictures(tmp_path).captions(["a"]).shape == (
        1,
        8,
    )
    assert command("export", "hf", tmp_path, tmp_path / "out").code == 0
    given = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(
        "word " * 9, truncation=True
    )
    assert given["input_ids"] == [*b"word wo", 256]
    assert load_config(tmp_path) == config


def test_a_caption_that_names_a_special_token_is_text_where_it_was_trained(tmp_path):
    from maquette.training.datasets.encoder import caption_tokens

    with pytest.raises(UserError, match="is missing"):
        load_pictures_without_tokenizer(tmp_path)
    tokens = caption_tokens(byte_tokenizer(), ["<|endoftext|>"], 20)[0]
    assert int((tokens == 0).nonzero()[0]) == 13


def load_pictures_without_tokenizer(folder: Path):
    config = ClipConfig(
        image_size=16, width=16, depth=1, heads=2, text_width=16, text_depth=1, text_heads=2
    )
    model = config.build().initialise(0)
    save_config(folder, config)
    save_tensors(folder / WEIGHTS, dict(model.named_parameters()))
    return load_pictures(folder)
