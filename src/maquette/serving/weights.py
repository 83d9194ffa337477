"""Weights for serving: in the precision, or the few bits, that are asked for, laid out for reading.

A decoding step reads every weight once, so bytes are time. On a processor with a compiler a row is multiplied
by the kernels of `nn/products.cpp` as the weights lie; else weights in fp32 and bf16 are reordered once by
oneDNN (`pack.py`), and those in few bits are written out for each product.
"""

from typing import Literal, get_args

import torch

from maquette.base.errors import WrongUse
from maquette.base.machine import measure
from maquette.models.base import LanguageModel
from maquette.models.quantised import dequantise, quantise, quantised_modules
from maquette.nn import native_products
from maquette.nn.quantised import Format
from maquette.serving.pack import pack

Weights = Literal["auto", "fp32", "bf16", "int8", "int4"]
CHOICES: tuple[str, ...] = get_args(Weights)
"""what `--weights` takes; auto: those of a quantised run as they are, else the faster precision here"""
BITS = {"int8": 8, "int4": 4}
READ = 4  # bytes of a parameter of a run of numbers while it is read


def prepare(model: LanguageModel, weights: Weights = "auto") -> None:
    """Turn a model's weights into those asked for, in place; it then generates and scores, and is not saved.

    With int8 and int4 activations are in the precision that is faster here. Adapters stay attached. Raises
    WrongUse for a quantised run that is asked for in other bits than it has.
    """
    has = {m.matrix.form.bits for n, m in quantised_modules(model).items() if n != "embedding"}
    if weights in BITS:
        if not has:
            quantise(model, Format(bits=BITS[weights]))
        elif BITS[weights] != min(has):
            raise WrongUse(
                f"the run is quantised to {min(has)} bits: leave --weights out, or quantise the run it "
                f"was made of"
            )
    elif weights != "auto":
        dequantise(model)
    precision = measure().precision if weights in ("auto", *BITS) else weights
    model.compute = torch.bfloat16 if precision == "bf16" else torch.float32
    model.to(model.compute)
    if precision == "fp32" or native_products.library() is None:
        pack(model)


def memory_bytes(parameters: int, weights: str = "auto", stored: int | None = None) -> int:
    """How many bytes a model's weights take at most, which is while they are read and turned.

    A run of numbers is read in fp32, then turned matrix by matrix. stored: size of a quantised run's file,
    which is read as it is, and written out in fp32 where other weights are asked for.
    """
    if stored is not None and weights in ("auto", *BITS):
        return stored
    return READ * parameters + (stored or 0)
