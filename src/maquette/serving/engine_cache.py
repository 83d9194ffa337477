"""Keys and values of rows that come and go: one rectangle, in which all rows end at the same column.

    column     0        start                    end     room
    row 0      . . . . . a a a a a a a a a a a a | . . . .
    row 1      . . . . . . . . . . b b b b b b b | . . . .      . nothing: hidden by the mask
    row 2      . . . . . . . c c c c c c c c c c | . . . .

Since every row's newest token stands in the last column, distances between columns are distances between
positions: causal masks, windows, ALiBi and the mixing matrices of all-MLPs hold as they are in training, and
the model runs its own code. What stands before a row's first token belongs to another document, which
nothing sees. A row that leaves gives its place to the last one; a row that joins is copied in so that it
ends where the others end. Where the columns are used up, all rows move to the left; between two such moves
the longest row of the first has ended, so that moving costs less than a copy of the rectangle a row.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maquette.models.base import LanguageModel
from maquette.nn.attention import LayerCache, Prefix

Kept = list[dict[str, Tensor]]
"""what one row's first tokens left in every block: tensors (..., tokens, size) by name"""


class Slots:
    """Caches of every block for rows of different lengths; `rows` of them are live, the first ones.

    lengths: number of tokens of each row. prefixes: what adapters put before every row, one of each block;
    None: nothing.
    """

    def __init__(
        self,
        model: LanguageModel,
        capacity: int,
        room: int,
        prefixes: Sequence[Prefix] | None = None,
    ) -> None:
        """room: number of columns, as many as the longest row has tokens, its answer's included."""
        self.model, self.capacity, self.room = model, capacity, room
        self.prefixes = prefixes
        self.before = len(prefixes[0]) if prefixes else 0
        """number of columns before the first, of what adapters put before every row"""
        self.layers = model.cache(capacity, self.before + room)
        for layer, prefix in zip(self.layers, prefixes or (), strict=False):
            layer.keys[:, :, : self.before] = prefix.keys
            layer.values[:, :, : self.before] = prefix.values
            layer.prefix = prefix
        self.lengths: list[int] = []
        self.end = 0
        """column after the rows' last tokens"""
        self._views: list[Any] | None = None
        self._starts: Tensor | None = None

    @property
    def start(self) -> int:
        """The first column that holds a token."""
        return self.end - max(self.lengths, default=0)

    def bytes(self) -> int:
        """Number of bytes that the rectangle takes."""
        return self.capacity * (self.before + self.room) * self.model.kv_bytes_per_token()

    @torch.inference_mode()
    def run(self, tokens: Tensor) -> Tensor:  # (rows, new) -> (rows, new, width)
        """The hidden states of the next tokens of every row, whose keys and values stay here."""
        new = tokens.shape[1]
        if self.end + new > self.room:
            self._move(-self.start)
        assert self.end + new <= self.room, "a row is longer than it said"
        views = self._views = self._views or self._viewed()
        seen = views[0].length
        context = self.model.config.context
        if min(self.lengths) == seen and seen + new <= context:  # nothing before any row's tokens
            hidden = self.model.hidden(tokens, cache=views)
        else:
            if self._starts is None:
                lengths = torch.tensor(self.lengths, device=tokens.device).unsqueeze(1)
                self._starts = seen - lengths  # (rows, 1), among the columns that are seen
            columns = torch.arange(seen + new, device=tokens.device)
            hidden = self.model.hidden(
                tokens,
                positions=(columns[seen:] - self._starts).clamp(0, context - 1),
                document_ids=(columns >= self._starts).long(),
                cache=views,
            )
        self.end += new
        self.lengths = [length + new for length in self.lengths]
        return hidden

    def begin(self, lengths: Sequence[int], columns: int, laid: Sequence[Kept | None]) -> None:
        """Make rows of so many tokens each, of which the first `columns` columns are laid from what was kept.

        The rows' tokens end at column max(lengths); those in the columns after `columns` are still to be
        run, whatever else was kept.
        """
        longest = max(lengths)
        for row, (length, kept) in enumerate(zip(lengths, laid, strict=True)):
            padding = min(longest - length, columns)
            self._clear(slice(row, row + 1), 0, padding)
            if columns > padding:
                assert kept is not None, "there is something to lay"
                for layer, tensors in zip(self.layers, kept, strict=True):
                    for name, tensor in tensors.items():
                        target = self._columns(layer, name, slice(row, row + 1), padding, columns)
                        target.copy_(tensor[..., : columns - padding, :])
        self.lengths, self.end = [columns - (longest - length) for length in lengths], columns
        self._change()

    def settle(self) -> None:
        """Clear what was run as padding before the rows' first tokens."""
        for row, length in enumerate(self.lengths):
            self._clear(slice(row, row + 1), 0, self.end - length)

    def join(self, other: "Slots", row: int) -> None:
        """Copy a row of other slots in, so that it ends where the rows here end."""
        length, start, rows = other.lengths[row], self.start, len(self.lengths)
        if not self.lengths:
            self.end = start = length
        elif length > self.end:
            self._move(length - self.end)
            start = self.start
        own = self.end - length
        self._clear(slice(0, rows), own, start)
        self._clear(slice(rows, rows + 1), min(own, start), own)
        for target, source in zip(self.layers, other.layers, strict=True):
            for name in _names(target):
                new = other._columns(
                    source, name, slice(row, row + 1), other.end - length, other.end
                )
                self._columns(target, name, slice(rows, rows + 1), own, self.end).copy_(new)
        self.lengths.append(length)
        self._change()

    def leave(self, row: int) -> None:
        """Give a row's place to the last row."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                for name in _names(layer):
                    source = self._columns(layer, name, slice(last, last + 1), self.start, self.end)
                    target = self._columns(layer, name, slice(row, row + 1), self.start, self.end)
                    target.copy_(source)
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self._change()

    def take_back(self, counts: Sequence[int]) -> None:
        """Drop each row's last tokens, so many of each; what is left ends at the same column again."""
        least = min(counts)
        for row, count in enumerate(counts):
            if count > least:
                first = self.end - self.lengths[row]
                by = count - least
                for layer in self.layers:
                    for name in _names(layer):
                        kept = self._columns(
                            layer, name, slice(row, row + 1), first, self.end - count
                        ).clone()
                        self._columns(
                            layer, name, slice(row, row + 1), first + by, self.end - least
                        ).copy_(kept)
                self._clear(slice(row, row + 1), first, first + by)
        self.end -= least
        self.lengths = [n - count for n, count in zip(self.lengths, counts, strict=True)]
        self._change()

    def kept(self, row: int, tokens: int) -> Kept:
        """A copy of what the first tokens of a row left in every block."""
        start = self.end - self.lengths[row]
        return [
            {
                name: self._columns(layer, name, slice(row, row + 1), start, start + tokens)[
                    0
                ].clone()
                for name in _names(layer)
            }
            for layer in self.layers
        ]

    def resize(self, capacity: int, room: int) -> None:
        """Make the rectangle larger or smaller, one block after the other, with the rows in it.

        Nothing is copied where both are as they were.
        """
        if (capacity, room) == (self.capacity, self.room):
            return
        if self.lengths and self.start > 0:
            self._move(-self.start)
        rows = slice(0, len(self.lengths))
        for layer in self.layers:
            for name in _names(layer):
                old = getattr(layer, name)
                shape = list(old.shape)
                shape[0], shape[-2] = capacity, self.before + room
                new = old.new_empty(shape)
                new[:, ..., : self.before, :] = old[:1, ..., : self.before, :]
                setattr(layer, name, new)
                source = old[rows, ..., self.before : self.before + self.end, :]
                new[rows, ..., self.before : self.before + self.end, :] = source
        self.capacity, self.room = capacity, room
        self._change()

    def _viewed(self) -> list[Any]:
        """Caches of the live rows' columns, for the model; with prefixes of adapters, of all columns."""
        first = 0 if self.before else self.start
        rows, views = slice(0, len(self.lengths)), []
        for layer in self.layers:
            seen = {name: getattr(layer, name)[rows, ..., first:, :] for name in _names(layer)}
            views.append(replace(layer, length=self.end - first, **seen))
        return views

    def _move(self, by: int) -> None:
        """Move all rows to the right by so many columns, or to the left."""
        start, rows = self.start, slice(0, len(self.lengths))
        for layer in self.layers:
            for name in _names(layer):
                moved = self._columns(layer, name, rows, start, self.end).clone()
                self._columns(layer, name, rows, start + by, self.end + by).copy_(moved)
        if by > 0:
            self._clear(rows, start, start + by)
        self.end += by
        self._change()

    def _clear(self, rows: slice, first: int, last: int) -> None:
        """Write zeros: what is not seen is multiplied by 0, and must be a number."""
        if last > first:
            for layer in self.layers:
                for name in _names(layer):
                    self._columns(layer, name, rows, first, last).zero_()

    def _columns(self, layer: Any, name: str, rows: slice, first: int, last: int) -> Tensor:
        tensor: Tensor = getattr(layer, name)
        return tensor[rows, ..., self.before + first : self.before + last, :]

    def _change(self) -> None:
        self._views = self._starts = None


def _names(layer: Any) -> tuple[str, ...]:
    """The tensors of a block's cache, (rows, ..., columns, size)."""
    return ("keys", "values") if isinstance(layer, LayerCache) else ("values",)
