"""Round trips with Hugging Face: CLIP with a Vision Transformer, in and out.

What differs is folded into the weights. Theirs takes pixels scaled as its preprocessor_config.json says,
ours takes [-1, 1]: the factor goes into the patches' projection, the shift into their positions. Ours
may carry the multipliers of maximal-update parametrisation: they go into the embeddings, the query
projections and the layers that write into the residual stream. Captions reach ours renumbered, EOS first
(`training/datasets/encoder.py`); the rows of the embedding move along. The small files are those of
`clip_files.py` and `clip_processor.py`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.files import directory_aside, read_json, write_atomic, write_json
from maquette.corpus.pictures.caption_tokenizer import (
    TOKENIZER_CONFIG,
    load_caption_tokenizer,
    open_caption_tokenizer,
)
from maquette.corpus.terms import Term
from maquette.corpus.terms_card import write_terms
from maquette.corpus.text.store import TOKENIZER
from maquette.models.clip import LARGEST, Clip
from maquette.models.clip_config import ClipConfig
from maquette.models.store import CONFIG, WEIGHTS, load_parameters, save_config, save_tensors
from maquette.serving.clip_files import (
    CLASS,
    HIGHEST,
    read_captions,
    read_config,
    with_special_tokens,
    write_config,
    write_tokenizer_config,
)
from maquette.serving.clip_processor import (
    PREPROCESSOR,
    Scale,
    differences,
    read_processor,
    scale_of,
    write_processor,
)
from maquette.serving.hugging_face_tensors import read_tensors

TOKEN_EMBEDDING = "caption_tower.token_embedding.weight"
POSITIONS = "caption_tower.positions.weight"
TOWERS: dict[str, dict[str, str]] = {
    "picture_tower": {
        "patches.projection.weight": "vision_model.embeddings.patch_embedding.weight",
        "class_token.weight": "vision_model.embeddings.class_embedding",
        "positions.weight": "vision_model.embeddings.position_embedding.weight",
        "norm_before": "vision_model.pre_layrnorm",
        "blocks": "vision_model.encoder.layers",
        "norm": "vision_model.post_layernorm",
        "projection.weight": "visual_projection.weight",
    },
    "caption_tower": {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positions.weight": "text_model.embeddings.position_embedding.weight",
        "blocks": "text_model.encoder.layers",
        "norm": "text_model.final_layer_norm",
        "projection.weight": "text_projection.weight",
    },
}
IN_BLOCK = {
    "attention_norm": ("layer_norm1",),
    "attention.qkv": tuple(f"self_attn.{x}_proj" for x in "qkv"),
    "attention.out": ("self_attn.out_proj",),
    "feedforward_norm": ("layer_norm2",),
    "feedforward.up": ("mlp.fc1",),
    "feedforward.down": ("mlp.fc2",),
}
UNUSED = (  # buffers of older files, which count the positions
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


def import_clip(source: Path, out: Path, say: Callable[[str], None]) -> ClipConfig:
    """Read a folder of transformers' CLIPModel, its tokenizer and its processor, into a run `out`.

    say: is told each way in which their processor makes pictures otherwise than Maquette does.
    """
    theirs = read_json(source / CONFIG)
    captions, processor = read_captions(source, theirs), read_processor(source)
    config = read_config(theirs, captions)
    notes = differences(processor, config.image_size)
    model = Clip(config)
    tensors = from_theirs(model, read_tensors(source), scale_of(processor))
    token_ids = order(config.vocabulary, captions.eos_token_id)
    tensors[TOKEN_EMBEDDING] = tensors[TOKEN_EMBEDDING][token_ids]
    load_parameters(model, tensors, source)
    with directory_aside(out) as folder:
        save_config(folder, config)
        save_tensors(folder / WEIGHTS, dict(model.named_parameters()))
        write_atomic(folder / TOKENIZER, captions.content)
        write_json(folder / TOKENIZER_CONFIG, captions.settings)
        write_json(folder / PREPROCESSOR, write_processor(processor, config.image_size))
    for note in notes:
        say(note)
    return config


def export_clip(
    model: Clip,
    run: Path,
    out: Path,
    caption_length: int | None = None,
    terms: Sequence[Term] = (),
) -> str:
    """Write a CLIP run as a folder that transformers' CLIPModel and CLIPProcessor open.

    caption_length: most tokens of a caption, its EOS token included; None: the model's. terms: what its
    sources forbid.
    """
    c = model.config
    if c.objective != "softmax" or c.noised:
        reason = "sees noise and the time" if c.noised else "was trained with the sigmoid loss"
        raise UserError(f"{run} {reason}: transformers' {CLASS} has no place for that")
    imported = (run / TOKENIZER_CONFIG).exists()
    tokenizer = load_caption_tokenizer(run)
    if tokenizer.eos_token_id is None or (tokenizer.eos_token_id == HIGHEST and c.highest is None):
        raise UserError(
            f"captions of {run} end with token {tokenizer.eos_token_id}, which {CLASS} does not read"
        )
    token_ids = order(c.vocabulary, tokenizer.eos_token_id)
    bos_token_id = None if c.bos_token_id is None else int(token_ids[c.bos_token_id])
    content = tokenizer.to_json()
    settings = read_json(run / TOKENIZER_CONFIG) if imported else {}
    if not imported:
        foreign = open_caption_tokenizer(run / TOKENIZER, {})
        content = with_special_tokens(content, foreign, bos_token_id, tokenizer.eos_token_id)
        most = min(c.caption_length, caption_length or c.caption_length) + (
            bos_token_id is not None
        )
        settings = write_tokenizer_config(foreign.name_of(tokenizer.eos_token_id), most)
    kept = read_json(run / PREPROCESSOR) if (run / PREPROCESSOR).exists() else None
    tensors, name = to_theirs(model), TOWERS["caption_tower"]["token_embedding.weight"]
    tensors[name] = tensors[name][token_ids.argsort()]
    with directory_aside(out) as folder:
        save_tensors(folder / WEIGHTS, tensors)
        write_atomic(folder / TOKENIZER, content)
        write_json(folder / TOKENIZER_CONFIG, settings)
        write_json(folder / PREPROCESSOR, write_processor(kept, c.image_size))
        write_json(folder / CONFIG, write_config(c, bos_token_id, tokenizer.eos_token_id))
        write_terms(folder, terms)
    return CLASS


def order(vocabulary: int, eos_token_id: int) -> Tensor:
    """Their token id of each of ours, (vocabulary,): EOS first, then all others in their order."""
    token_ids = torch.arange(vocabulary)
    return torch.cat([token_ids[token_ids == eos_token_id], token_ids[token_ids != eos_token_id]])


def from_theirs(model: Clip, theirs: dict[str, Tensor], scale: Scale) -> dict[str, Tensor]:
    """Their tensors under our names, for pixels in [-1, 1].

    Raises UserError for a tensor that is missing, and for one that the config has no use for.
    """
    ours, used = {}, set(UNUSED)
    for name, parameter in model.named_parameters():
        names = their_names(name)
        missing = [key for key in names if key not in theirs]
        if missing:
            raise UserError(f"the checkpoint lacks {missing[0]}: it is cut short or no CLIP")
        used.update(names)
        joined = torch.cat([theirs[key].float() for key in names]) if len(names) > 1 else None
        tensor = theirs[names[0]].float() if joined is None else joined
        whole = name.endswith(("patches.projection.weight", "class_token.weight", "logit_scale"))
        ours[name] = tensor.reshape(parameter.shape) if whole else tensor
    if more := sorted(theirs.keys() - used):
        others = f" and {len(more) - 1} more tensors" if more[1:] else ""
        raise UserError(
            f"the checkpoint holds {more[0]}{others}, which its {CONFIG} does not use: "
            f"they belong to two models"
        )
    # scale.factor x + scale.shift: the factor goes into the patches' projection, the shift into the positions
    patches = theirs["vision_model.embeddings.patch_embedding.weight"].float()
    shift = (patches.sum((2, 3)) * scale.shift).sum(1)  # (width,)
    ours["picture_tower.patches.projection.weight"] = (
        patches * scale.factor[:, None, None]
    ).flatten(1)
    positions = ours["picture_tower.positions.weight"].clone()
    positions[1:] += shift
    ours["picture_tower.positions.weight"] = positions
    kept = model.config.caption_length + (
        model.config.bos_token_id is not None
    )  # a tokenizer may cut captions before
    ours[POSITIONS] = ours[POSITIONS][:kept]
    return ours


def to_theirs(model: Clip) -> dict[str, Tensor]:
    """Our tensors under their names, the multipliers of muP folded in."""
    c, scaling = model.config, model.scaling
    theirs = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().float().clone()
        text = name.startswith("caption_tower")
        width, heads = (c.text_width, c.text_heads) if text else (c.width, c.heads)
        if ".attention.qkv." in name:
            tensor[:width] *= scaling.attention_scale(width // heads) * math.sqrt(width // heads)
        elif ".attention.out." in name or ".feedforward.down." in name:
            tensor *= scaling.residual_multiplier
        elif name in (TOKEN_EMBEDDING, POSITIONS):
            tensor *= scaling.input_multiplier
        elif name.endswith("patches.projection.weight"):
            tensor = tensor.unflatten(1, (3, c.patch, c.patch))
        elif name.endswith("class_token.weight"):
            tensor = tensor[0]
        elif name == "logit_scale":
            tensor = tensor.clamp(max=LARGEST).reshape(())
        names = their_names(name)
        for key, part in zip(
            names, tensor.chunk(len(names)) if names[1:] else [tensor], strict=True
        ):
            theirs[key] = part.contiguous()
    return theirs


def their_names(name: str) -> tuple[str, ...]:
    """Their names of one of our parameters; several where ours stacks theirs along the output."""
    if name == "logit_scale":
        return (name,)
    tower, _, rest = name.partition(".")
    names = TOWERS[tower]
    if rest in names:
        return (names[rest],)
    module, _, kind = rest.rpartition(".")
    if module in names:
        return (f"{names[module]}.{kind}",)
    _, number, inner = module.split(".", 2)
    return tuple(f"{names['blocks']}.{number}.{layer}.{kind}" for layer in IN_BLOCK[inner])
