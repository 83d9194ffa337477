"""Masks: one rule, as a dense matrix and as a function of single indices."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.nn.attention import attend
from maquette.nn.mask import Mask, caption_mask

BATCH, KEYS = 2, 7


@st.composite
def masks(draw) -> tuple[Mask, int]:
    """A mask of any combination of conditions, and a number of queries."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    queries = draw(st.integers(1, KEYS))

    def maybe(tensor: torch.Tensor) -> torch.Tensor | None:
        return tensor if draw(st.booleans()) else None

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) < 0.7

    mask = Mask(
        causal=draw(st.booleans()),
        window=draw(st.none() | st.integers(1, KEYS)),
        document_ids=maybe(torch.randint(0, 3, (BATCH, KEYS), generator=generator)),
        attention_mask=maybe(some(BATCH, KEYS)),
        pair_mask=maybe(some(BATCH, queries, KEYS)),
    )
    return mask, queries


def by_hand(mask: Mask, row: int, query: int, key: int, queries: int) -> bool:
    place = KEYS - queries + query
    return all(
        [
            not mask.causal or key <= place,
            mask.window is None or abs(key - place) < mask.window,
            mask.document_ids is None
            or bool(mask.document_ids[row, key] == mask.document_ids[row, place]),
            mask.attention_mask is None or bool(mask.attention_mask[row, key]),
            mask.pair_mask is None or bool(mask.pair_mask[row, query, key]),
        ]
    )


@settings(max_examples=60)
@given(drawn=masks())
def test_the_matrix_and_the_function_are_the_rule(drawn):
    mask, queries = drawn
    dense = mask.dense(BATCH, queries, KEYS, torch.device("cpu"))
    if dense is None:
        dense = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    assert dense.ndim == 4 and dense.dtype == torch.bool
    dense = dense.expand(BATCH, 3, queries, KEYS)  # any number of heads
    for row in range(BATCH):
        for query in range(queries):
            for key in range(KEYS):
                expected = by_hand(mask, row, query, key, queries)
                assert bool(dense[row, 1, query, key]) == expected
                single = (torch.tensor(one) for one in (row, query, key))
                assert bool(mask.allows(*single, KEYS - queries)) == expected


def test_no_matrix_is_made_where_none_is_needed():
    cpu = torch.device("cpu")
    assert Mask().dense(2, 5, 5, cpu) is None
    assert Mask().only_causal and Mask(causal=True).only_causal
    keys = Mask(attention_mask=torch.ones(2, 5, dtype=torch.bool))
    assert not keys.only_causal
    assert keys.dense(2, 3, 5, cpu).shape == (2, 1, 1, 5)  # a row for all queries


def test_a_prefix_sees_itself_and_the_rest_is_causal():
    """The mask of a prefix language model (Raffel et al. 2020, section 3.2.1) as a mask of pairs."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 4, generator=generator) for _ in range(3))
    place = torch.arange(6)
    prefix = (place <= place[:, None]) | (place < 3)
    found = attend(q, k, v, Mask(pair_mask=prefix[None]), scale=0.5)
    inside = attend(q[:, :, :3], k[:, :, :3], v[:, :, :3], Mask(), scale=0.5)
    torch.testing.assert_close(found[:, :, :3], inside)
    causal = attend(q, k, v, Mask(causal=True), scale=0.5)
    torch.testing.assert_close(found[:, :, 3:], causal[:, :, 3:])
    assert not torch.allclose(found[:, :, 0], causal[:, :, 0])


def test_a_caption_ends_with_its_first_end():
    tokens = torch.tensor([[5, 0, 0, 7], [0, 1, 2, 3], [1, 2, 3, 0]])
    assert caption_mask(tokens, 0).int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
