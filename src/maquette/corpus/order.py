"""The order of the data: a pseudo-random permutation that can be read at any point, and inverted.

Training sample n of a run is sample `order(n)` of the corpus, a number that anyone can compute
from (seed, n) without having read what came before: a resumed run, on any number of ranks, with
any batch, sees what the uninterrupted one would have seen; and from any piece of text it can be
said at which step it was trained on. (The idea is levanter's; the construction is a Feistel
network with cycle walking, Black and Rogaway 2002, algorithm 7.)
"""

import hashlib

import numpy as np
import numpy.typing as npt

ROUNDS = 6
Indices = npt.NDArray[np.int64]


class Permutation:
    """A bijection of 0 .. size - 1 drawn by `seed`, in both directions, for arrays of indices."""

    def __init__(self, size: int, seed: int, epoch: int = 0) -> None:
        self.size = size
        # The network permutes 4^bits numbers, the least such that reaches size; walking the cycle
        # from inside until it comes back inside leaves a permutation of what is inside.
        self._bits = max(1, ((size - 1).bit_length() + 1) // 2)
        digest = hashlib.sha512(f"{seed}/{epoch}/{size}".encode()).digest()
        self._keys = np.frombuffer(digest, dtype=np.uint64)[:ROUNDS]

    def __call__(self, index: npt.ArrayLike) -> Indices:
        """The images of indices."""
        return self._walk(index, backwards=False)

    def inverse(self, index: npt.ArrayLike) -> Indices:
        """The preimages of indices."""
        return self._walk(index, backwards=True)

    def _walk(self, index: npt.ArrayLike, backwards: bool) -> Indices:
        shape = np.shape(index)
        x = np.atleast_1d(np.asarray(index, dtype=np.int64))  # scalars would warn of overflow
        if x.size and (x.min() < 0 or x.max() >= self.size):
            raise IndexError(f"index outside 0..{self.size - 1}")
        y = self._network(x.astype(np.uint64), backwards)
        while (outside := y >= self.size).any():
            y = np.where(outside, self._network(y, backwards), y)
        return y.astype(np.int64).reshape(shape)

    def _network(self, x: npt.NDArray[np.uint64], backwards: bool) -> npt.NDArray[np.uint64]:
        bits, mask = np.uint64(self._bits), np.uint64((1 << self._bits) - 1)
        left, right = x >> bits, x & mask
        if backwards:
            for key in self._keys[::-1]:
                left, right = right ^ (_mix(left ^ key) & mask), left
        else:
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << bits) | right


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of MurmurHash3: every input bit moves every output bit."""
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


class SampleOrder:
    """The order of training samples over any number of epochs.

    The stream of `tokens` is cut into samples of `length` tokens (each also needs the token after
    its last, as its target); every epoch visits all of them once, in an order of its own.
    """

    def __init__(self, tokens: int, length: int, seed: int) -> None:
        self.samples = (tokens - 1) // length
        if self.samples < 1:
            raise ValueError(f"{tokens} tokens hold no sample of {length} + 1")
        self.length, self.seed = length, seed

    def starts(self, first: int, count: int) -> Indices:
        """Offsets in the stream of training samples first .. first + count - 1."""
        n = np.arange(first, first + count, dtype=np.int64)
        epoch, index = np.divmod(n, self.samples)
        starts = np.empty(count, dtype=np.int64)
        for e in np.unique(epoch):
            chosen = epoch == e
            starts[chosen] = self._permutation(int(e))(index[chosen]) * self.length
        return starts

    def seen_at(self, offset: int, epoch: int = 0) -> int:
        """The number of the training sample that holds the token at `offset` in an epoch."""
        inside = self._permutation(epoch).inverse(offset // self.length)
        return epoch * self.samples + int(inside)

    def _permutation(self, epoch: int) -> Permutation:
        return Permutation(self.samples, self.seed, epoch)


class Interleaving:
    """Two sequences of samples as one: a share of the samples of a run is of the second, spread evenly."""

    def __init__(self, share: float) -> None:
        self._parts = round(
            share * (1 << 20)
        )  # of 2^20: whole numbers, so that no rounding moves a sample
        if not 0 <= self._parts < 1 << 20:
            raise ValueError(f"a share of {share} is not from 0 to below 1")

    def second_before(self, n: npt.ArrayLike) -> Indices:
        """How many of a run's first n samples are of the second sequence."""
        return np.asarray(n, np.int64) * self._parts >> 20

    def number(self, k: int) -> int:
        """The number in the run of sample k of the first sequence, both from 0."""
        return (k << 20) // ((1 << 20) - self._parts)
