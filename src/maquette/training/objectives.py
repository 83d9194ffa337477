"""Training objectives: rows of tokens to inputs and targets.

    next_token   the token that follows                               a decoder
    spans        what stood where sentinels stand: T5 (Raffel et al. 2020, section 3.1.4)
    masked       15 % of the tokens, from all others: BERT (Devlin et al. 2019, section 3.1)
    permuted     each token from those before it in a random order: XLNet (Yang et al. 2019, section 2.2)

Each is a function of the rows and of random numbers. A generator for each row (`nn.noise.Generators`)
makes a row's batch independent of the rows beside it, and so of the number of ranks. Left out: whole words
(BERT-WWM) and spans of geometric lengths (SpanBERT) as units of masking, and next-sentence prediction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from maquette.models.base import TokenBatch
from maquette.models.batches import PairBatch, PermutedBatch
from maquette.nn.noise import Generators


def next_token(rows: Tensor, eos_token_id: int | None = None) -> TokenBatch:
    """The tokens of rows (batch, time + 1) but the last, and the targets that follow them: (batch, time).

    eos_token_id: the token that ends a document, where documents shall not attend to each other.
    """
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    if eos_token_id is None:
        return TokenBatch(tokens, targets)
    documents, positions = split_documents(tokens, eos_token_id)
    return TokenBatch(tokens, targets, documents, positions)


def split_documents(tokens: Tensor, eos_token_id: int) -> tuple[Tensor, Tensor]:
    """Number the documents in each row, and the tokens in each document.

    tokens: (batch, time); an EOS token belongs to the document before it. Returns two (batch, time).
    """
    ends = tokens == eos_token_id
    documents = ends.cumsum(1) - ends.long()
    position = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    first = torch.where(documents.diff(dim=1, prepend=documents[:, :1]) > 0, position, 0)
    return documents, position - first.cummax(1).values


def segments(batch: TokenBatch, length: int) -> list[TokenBatch]:
    """A batch of (batch, k length) as k consecutive ones of (batch, length).

    For recurrence inside a step: a model reads them in turn and carries its state, or its memory of
    keys and values, from each to the next (LSTM; Transformer-XL, Dai et al. 2019). A sample of k
    segments is a sample of `k length` tokens, so the data's order stays what it is.
    """
    if batch.tokens.shape[1] % length:
        raise ValueError(f"{batch.tokens.shape[1]} tokens are no whole segments of {length}")
    parts = [
        [None] * (batch.tokens.shape[1] // length) if whole is None else whole.split(length, dim=1)
        for whole in (batch.tokens, batch.targets, batch.document_ids, batch.positions)
    ]
    return [TokenBatch(*part) for part in zip(*parts, strict=True)]


def spans(
    rows: Tensor,  # (batch, time)
    generator: Generators = None,
    *,
    sentinel: int,
    eos_token_id: int,
    density: float = 0.15,
    mean_length: float = 3.0,
) -> PairBatch:
    """Span corruption: the source has a sentinel for each span, the targets each sentinel and its span.

    rows        Thank you for inviting me to your party last week
    source      Thank you <X> me to your party <Y> end
    targets     <X> for inviting <Y> last week end

    sentinel: the first sentinel; the following ones are numbered downwards from there, as in T5's
    vocabulary. eos_token_id: closes source and targets, and is what the decoder reads first. All rows
    have as many corrupted tokens and spans: (batch, time - noise + spans + 1) and
    (batch, noise + spans + 1).
    """
    batch, time = rows.shape
    noise = noise_mask(batch, time, generator, density, mean_length).to(rows.device)
    ends = rows.new_full((batch, 1), eos_token_id)
    source = torch.cat((_with_sentinels(rows, noise, sentinel), ends), 1)
    targets = torch.cat((_with_sentinels(rows, ~noise, sentinel), ends), 1)
    tokens = torch.cat((ends, targets[:, :-1]), 1)
    return PairBatch(source, torch.ones_like(source, dtype=torch.bool), tokens, targets)


def span_counts(time: int, density: float = 0.15, mean_length: float = 3.0) -> tuple[int, int]:
    """Number of corrupted tokens in a row of `time`, and number of spans."""
    if time < 2:
        raise ValueError(f"a row of {time} tokens has no span to corrupt: use 2 or more")
    noise = min(max(round(time * density), 1), time - 1)
    return noise, min(max(round(noise / mean_length), 1), noise, time - noise)


def noise_mask(
    batch: int,
    time: int,
    generator: Generators = None,
    density: float = 0.15,
    mean_length: float = 3.0,
) -> Tensor:
    """Corrupted tokens (batch, time) bool: spans that alternate with others, which come first.

    `random_spans_noise_mask` of T5's code: both kinds of tokens are cut into as many spans, at places
    drawn without replacement, so that the counts are exact.
    """
    noise, count = span_counts(time, density, mean_length)
    kept = _segment_lengths(batch, time - noise, count, generator)
    lost = _segment_lengths(batch, noise, count, generator)
    bounds = torch.stack((kept, lost), 2).flatten(1).cumsum(1)  # (batch, 2 spans)
    position = torch.arange(time).expand(batch, time).contiguous()
    return torch.searchsorted(bounds, position, right=True) % 2 == 1


def masked(
    rows: Tensor,  # (batch, time)
    generator: Generators = None,
    *,
    mask_token_id: int,
    vocabulary: int,
    special_token_ids: Sequence[int] = (),
    fraction: float = 0.15,
) -> TokenBatch:
    """Masked tokens as targets (batch, time), all others negative.

    A fraction of each row is chosen; of these 80 % become `mask_token_id`, 10 % a random token below
    `vocabulary`, 10 % stay. special_token_ids: tokens that are never chosen.
    """
    chooser, fate, other = (_uniform(rows, generator) for _ in range(3))
    for token in special_token_ids:
        chooser = chooser.masked_fill(rows == token, torch.inf)
    open_to = torch.isfinite(chooser).sum(1, keepdim=True)  # (batch, 1)
    count = torch.minimum((open_to * fraction).round().clamp(min=1), open_to)
    chosen = chooser.argsort(1).argsort(1) < count
    tokens = torch.where(chosen & (fate < 0.8), mask_token_id, rows)
    random = (other * vocabulary).long().clamp(max=vocabulary - 1)
    tokens = torch.where(chosen & (fate >= 0.9), random, tokens)
    return TokenBatch(tokens, torch.where(chosen, rows, -1))


def permuted(
    rows: Tensor,  # (batch, time)
    generator: Generators = None,
    *,
    predicted: float = 1 / 6,
) -> PermutedBatch:
    """A factorisation order for each row, whose last tokens are targets (section 2.3, partial prediction).

    predicted: fraction of the tokens that are targets. See `PermutedBatch` for the attention masks.
    """
    order = _uniform(rows, generator).argsort(1)
    time = rows.shape[1]
    first = time - max(1, round(time * predicted))
    return PermutedBatch(rows, torch.where(order >= first, rows, -1), order)


def _uniform(like: Tensor, generator: Generators) -> Tensor:
    """Numbers in [0, 1) of the shape of `like`, each row's from its generator."""
    if isinstance(generator, Sequence):
        rows = [_uniform(row, g) for row, g in zip(like, generator, strict=True)]
        return torch.stack(rows) if rows else torch.empty(like.shape)
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=device).to(like.device)


def _segment_lengths(batch: int, items: int, count: int, generator: Generators) -> Tensor:
    """Cut `items` into `count` parts of one or more, evenly drawn among all ways: (batch, count)."""
    cuts = _uniform(torch.empty(batch, items - 1), generator).argsort(1)[:, : count - 1]
    cuts = cuts.sort(1).values + 1
    zero = torch.zeros(batch, 1, dtype=torch.long)
    return torch.cat((zero, cuts, zero + items), 1).diff(dim=1)


def _with_sentinels(rows: Tensor, gone: Tensor, sentinel: int) -> Tensor:
    """Rows with a sentinel in the place of each stretch that is gone: of as many tokens in each row."""
    first = gone & ~torch.roll(gone, 1, 1)
    first[:, 0] = gone[:, 0]
    named = torch.where(first, sentinel + 1 - first.cumsum(1), rows)
    return named[first | ~gone].view(rows.shape[0], -1)
