"""The processor of transformers' CLIP: how it makes the numbers that its model sees of a picture.

Ours are in [-1, 1]; `Scale` says what their model sees instead. How a picture of another size is cut and
resized is no part of a model: it is kept for an export, and `differences` names where it differs. Keys that a
file leaves out have transformers' defaults (version 5).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.files import read_json

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
USED = {
    "size": "do_resize",
    "crop_size": "do_center_crop",
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
}
PICTURES = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
LANCZOS, BICUBIC = 1, 3  # as Pillow numbers them; ours are resized by the first
FILTERS = {
    0: "nearest",
    LANCZOS: "Lanczos",
    2: "bilinear",
    BICUBIC: "bicubic",
    4: "box",
    5: "Hamming",
}


@dataclass(frozen=True)
class Scale:
    """Their scaling of a pixel x in [-1, 1]: factor x + shift, (3,) each."""

    factor: Tensor
    shift: Tensor


def read_processor(source: Path) -> dict[str, Any]:
    """The settings of their processor, completed by its defaults."""
    if (source / PREPROCESSOR).exists():
        content = read_json(source / PREPROCESSOR)
    elif (source / PROCESSOR).exists():
        content = read_json(source / PROCESSOR).get("image_processor", {})
    else:
        raise UserError(
            f"{source} holds no {PREPROCESSOR}, which says how pixels are scaled: copy it there"
        )
    if not isinstance(content, dict):
        raise UserError(f"the {PREPROCESSOR} of {source} is no JSON object: restore it")
    kind = str(content.get("image_processor_type", content.get("feature_extractor_type", "CLIP")))
    left_out = sorted(PICTURES.keys() - content.keys())
    if left_out and not kind.startswith("CLIP"):
        raise UserError(
            f"the {PREPROCESSOR} of {source} is a {kind}, whose default of {left_out[0]} Maquette does not "
            f"know: add it there"
        )
    processor: dict[str, Any] = PICTURES | content
    for name, used in USED.items():  # of null transformers makes no, and refuses what it then needs
        if processor[name] is None and processor[used]:
            raise UserError(
                f"the {PREPROCESSOR} of {source} says {used}, and {name} is null: restore it"
            )
    for name, edge in (("size", "shortest_edge"), ("crop_size", "")):
        side = processor[name]
        if isinstance(side, int):
            processor[name] = {edge: side} if edge else {"height": side, "width": side}
    return processor


def scale_of(processor: dict[str, Any]) -> Scale:
    """The scaling of a processor: (255 (x + 1) / 2 rescale - mean) / deviation."""
    ones = torch.ones(3)
    half = 127.5 * (float(processor["rescale_factor"]) if processor["do_rescale"] else 1.0) * ones
    if not processor["do_normalize"]:
        return Scale(half, half)
    mean, deviation = torch.tensor(processor["image_mean"]), torch.tensor(processor["image_std"])
    return Scale(half / deviation, (half - mean) / deviation)


def differences(processor: dict[str, Any], image_size: int) -> list[str]:
    """Notes on differences between their processing of a picture of another size and ours.

    Raises UserError where what they make does not fit the model.
    """
    crop, shape = processor["crop_size"], processor["size"]
    whole = {"height": image_size, "width": image_size}
    if processor["do_center_crop"] and {k: crop.get(k) for k in whole} != whole:
        raise UserError(
            f"{PREPROCESSOR} cuts pictures to crop_size {crop}, the model takes {image_size} x {image_size}: "
            f"they belong to two models"
        )
    notes = []
    if processor["do_resize"] and processor["resample"] != LANCZOS:
        name = FILTERS.get(processor["resample"], str(processor["resample"]))
        notes.append(f"resizes pictures by the {name} filter, Maquette by Lanczos")
    if processor["do_resize"] and not processor["do_center_crop"] and "shortest_edge" not in shape:
        notes.append("squeezes a picture into a square, Maquette takes its middle square")
    if processor["do_resize"] and shape.get("shortest_edge", image_size) != image_size:
        notes.append(
            f"takes the middle {image_size} pixels of {shape['shortest_edge']}, Maquette the whole middle "
            f"square"
        )
    if not processor["do_resize"]:
        notes.append("resizes no picture, Maquette resizes its middle square")
    return [
        f"their processor {note}: pictures of {image_size} x {image_size} are read alike"
        for note in notes
    ]


def write_processor(processor: dict[str, Any] | None, image_size: int) -> dict[str, Any]:
    """The processor of a model that takes pixels in [-1, 1]. processor: what was read with it, if it was.

    Else as our pictures are made: the middle square, resized by Lanczos.
    """
    ours: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": LANCZOS,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_convert_rgb": True,
    }
    scaled = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return (ours if processor is None else processor) | scaled
