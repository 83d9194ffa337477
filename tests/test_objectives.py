"""Objectives: exact counts, what is hidden and what is not, and the way back."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maquette.nn.noise import generators
from maquette.training.datasets.text import TextDataset
from maquette.training.objectives import (
    masked,
    next_token,
    noise_mask,
    permuted,
    segments,
    span_counts,
    spans,
    split_documents,
)

SENTINEL, EOS, MASK = 1099, 1000, 1001  # tokens of text are below 1000


def text(batch: int, time: int) -> torch.Tensor:
    return torch.randint(0, 1000, (batch, time), generator=torch.Generator().manual_seed(1))


def test_documents_and_positions_restart_after_every_end():
    tokens = torch.tensor([[5, 6, 0, 7, 0, 0, 8, 9], [0, 1, 2, 3, 4, 5, 6, 0]])
    documents, positions = split_documents(tokens, eos_token_id=0)
    assert documents.tolist() == [[0, 0, 0, 1, 1, 2, 3, 3], [0, 1, 1, 1, 1, 1, 1, 1]]
    assert positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]


def runs(mask) -> int:
    """Stretches of True."""
    padded = [False, *mask.tolist()]
    return sum(b and not a for a, b in pairwise(padded))


@given(time=st.integers(2, 200), seed=st.integers(0, 99),
       density=st.floats(0.05, 0.9), length=st.floats(1, 10))  # fmt: skip
def test_every_row_has_exactly_as_many_corrupted_tokens_and_spans(time, seed, density, length):
    noise, count = span_counts(time, density, length)
    mask = noise_mask(3, time, torch.Generator().manual_seed(seed), density, length)
    assert mask.sum(1).tolist() == [noise] * 3
    assert [runs(row) for row in mask] == [count] * 3
    assert not mask[:, 0].any()


def test_the_counts_are_those_of_t5():
    assert span_counts(512) == (77, 26)
    assert span_counts(568) == (85, 28)  # what T5 reads for 512 tokens of source
    batch = spans(
        text(2, 568), torch.Generator().manual_seed(0), sentinel=SENTINEL, eos_token_id=EOS
    )
    assert (batch.source.shape, batch.targets.shape) == ((2, 512), (2, 114))


def restored(source: list[int], targets: list[int], first: int, count: int) -> list[int]:
    """The row that was corrupted."""
    sentinels = [first - n for n in range(count)]
    assert [t for t in source if t in sentinels] == sentinels
    assert [t for t in targets if t in sentinels] == sentinels
    spans_of: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token in sentinels:
            spans_of[token] = current = []
        else:
            current.append(token)
    return [t for token in source[:-1] for t in spans_of.get(token, [token])]


@given(time=st.integers(2, 90), seed=st.integers(0, 99))
def test_source_and_targets_together_are_the_row(time, seed):
    rows = text(3, time)
    batch = spans(rows, torch.Generator().manual_seed(seed), sentinel=SENTINEL, eos_token_id=EOS)
    _, count = span_counts(time)
    for row, source, targets in zip(rows, batch.source, batch.targets, strict=True):
        assert restored(source.tolist(), targets.tolist(), SENTINEL, count) == row.tolist()
        assert source[-1] == targets[-1] == EOS
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert (batch.tokens[:, 0] == EOS).all()
    assert batch.source_mask.all()


def test_of_fifteen_percent_eight_tenths_are_masked_and_a_tenth_is_random():
    rows = text(200, 100)
    batch = masked(rows, torch.Generator().manual_seed(0), mask_token_id=MASK, vocabulary=1000)
    chosen = batch.targets >= 0
    assert chosen.sum(1).tolist() == [15] * 200
    assert torch.equal(batch.targets[chosen], rows[chosen])
    assert torch.equal(batch.tokens[~chosen], rows[~chosen])
    total = int(chosen.sum())
    hidden = int((batch.tokens == MASK).sum())
    other = int((chosen & (batch.tokens != rows) & (batch.tokens != MASK)).sum())
    for count, share in ((hidden, 0.8), (other, 0.1 * 999 / 1000), (total - hidden - other, 0.1)):
        assert abs(count - total * share) < 4 * (total * share * (1 - share)) ** 0.5
    places = chosen.float().mean(0)
    assert places.std() < 2 * (0.15 * 0.85 / 200) ** 0.5  # no place is preferred


def test_special_tokens_are_never_masked():
    rows = text(8, 40)
    rows[:, ::2] = EOS
    rows[0] = EOS
    batch = masked(
        rows,
        torch.Generator().manual_seed(0),
        mask_token_id=MASK,
        vocabulary=9,
        special_token_ids=[EOS],
    )
    assert (batch.targets[rows == EOS] < 0).all()
    assert (batch.targets >= 0).sum(1).tolist() == [0] + [3] * 7


def test_each_query_sees_exactly_its_predecessors_in_the_order():
    rows = text(4, 24)
    batch = permuted(rows, torch.Generator().manual_seed(0))
    assert len({tuple(order.tolist()) for order in batch.order}) == 4
    for row, order in enumerate(batch.order.tolist()):
        assert sorted(order) == list(range(24))
        placed = sorted(range(24), key=order.__getitem__)  # positions in the factorisation order
        for place, position in enumerate(placed):
            assert batch.query_mask[row, position].nonzero().flatten().tolist() == sorted(
                placed[:place]
            )
            assert batch.content_mask[row, position].nonzero().flatten().tolist() == sorted(
                placed[: place + 1]
            )
            wanted = int(rows[row, position]) if place >= 20 else -1
            assert int(batch.targets[row, position]) == wanted


@pytest.mark.parametrize(
    "make",
    [
        lambda rows, g: spans(rows, g, sentinel=SENTINEL, eos_token_id=EOS),
        lambda rows, g: masked(rows, g, mask_token_id=MASK, vocabulary=1000),
        permuted,
    ],
)
def test_a_row_with_a_generator_of_its_own_is_the_same_beside_any_others(make):
    rows = text(6, 50)
    whole = make(rows, generators(7, 6))
    part = make(rows[2:4], generators(7, 6)[2:4])
    assert torch.equal(part.targets, whole.targets[2:4])
    assert torch.equal(part.tokens, whole.tokens[2:4])
    assert len(whole.rows(0, 2)) == 2
    again = make(rows, generators(8, 6))
    assert not torch.equal(again.targets, whole.targets)


def test_segments_of_a_sample_follow_each_other_and_an_epoch_reads_each_once(recipe, corpus):
    k, length = 4, 8
    recipe = replace(recipe, data=replace(recipe.data, sequence=k * length), batch=2)
    dataset = TextDataset(recipe, corpus)
    stream = corpus.train.read(0, len(corpus.train))
    begun = []
    for sample in range(0, 2 * (dataset.order.samples // 2), 2):
        for rank in range(2):  # a sample each
            (batch,) = dataset.step(sample, rank, 2)
            start = int(dataset.order.starts(sample + rank, 1)[0])
            for n, segment in enumerate(segments(batch, length)):
                at = start + n * length
                assert segment.tokens[0].tolist() == stream[at : at + length].tolist()
                assert segment.targets[0].tolist() == stream[at + 1 : at + length + 1].tolist()
                begun.append(at)
    left = dataset.order.samples % 2 * k
    assert len(set(begun)) == len(begun) == (len(stream) - 1) // (k * length) * k - left
    assert set(np.mod(begun, length)) == {0}


def test_segments_keep_documents_and_refuse_a_part_of_one():
    rows = text(2, 13)
    rows[:, 5] = EOS
    batch = next_token(rows, EOS)
    parts = segments(batch, 4)
    assert torch.equal(torch.cat([part.document_ids for part in parts], 1), batch.document_ids)
    assert torch.equal(torch.cat([part.positions for part in parts], 1), batch.positions)
    assert segments(next_token(rows), 4)[0].document_ids is None
    with pytest.raises(ValueError, match="no whole segments"):
        segments(batch, 5)
