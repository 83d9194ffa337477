"""The bytes of many symbols, one after the other: about three times as fast as joining them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.jit import jit


@jit
def gather(
    joined: npt.NDArray[np.uint8], edges: npt.NDArray[np.int64], tokens: npt.NDArray[Any]
) -> npt.NDArray[np.uint8]:
    """Symbol t is joined[edges[t]:edges[t + 1]]; returns those of `tokens`, (bytes,)."""
    total = 0
    for token in tokens:
        total += edges[token + 1] - edges[token]
    out = np.empty(total, np.uint8)
    at = 0
    for token in tokens:
        for i in range(edges[token], edges[token + 1]):
            out[at] = joined[i]
            at += 1
    return out
