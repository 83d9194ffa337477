"""Limits of the server and of each key: sizes, times, rates.

A rate is a bucket that holds a minute's worth and fills evenly (a token bucket): a user may spend the minute
at once, and then as fast as it fills. Tokens are taken at the start for the prompt and the longest answer,
and what was not written is given back.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from maquette.serving.api.errors import ApiError
from maquette.serving.api.keys import Key

MINUTE = 60.0
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server."""

    body_bytes: int = 16 * MIB
    """most bytes of a request's body"""
    head_seconds: float = 10.0
    """seconds in which a request's head must come"""
    body_seconds: float = 30.0
    """seconds in which a request's body must come"""
    answer_seconds: float = 600.0
    """seconds that an answer may take, the time in the queue included"""
    drain_seconds: float = 30.0
    """seconds that answers have to finish when the server is asked to stop"""
    connections: int = 1000
    """most connections"""
    requests: int = 512
    """most requests that are answered at a time"""
    choices: int = 16
    """most answers of a request: prompts times n"""
    inputs: int = 256
    """most texts of a request for embeddings"""
    pictures: int = 10
    """most pictures of a request"""
    steps: int = 250
    """most steps of a solver"""
    unread: int = 4096
    """most tokens of an answer that wait for a slow client"""


class Bucket:
    """A minute's worth of something, which fills evenly. clock: gives seconds."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.size, self._clock = float(per_minute), clock
        self._level, self._at = self.size, clock()

    def take(self, amount: float) -> float:
        """Take an amount; returns 0, or the seconds after which there is enough, and takes nothing."""
        now = self._clock()
        self._level = min(self.size, self._level + (now - self._at) * self.size / MINUTE)
        self._at = now
        if amount > self._level:
            return (amount - self._level) * MINUTE / self.size
        self._level -= amount
        return 0.0

    def give_back(self, amount: float) -> None:
        """Put back what was taken and not used."""
        self._level = min(self.size, self._level + amount)


class Account:
    """What a key has used. clock: gives seconds."""

    def __init__(self, key: Key, clock: Callable[[], float] = time.monotonic) -> None:
        self.key, self.running = key, 0
        self._requests = None if key.requests is None else Bucket(key.requests, clock)
        self._tokens = None if key.tokens is None else Bucket(key.tokens, clock)

    def enter(self) -> None:
        """Begin a request, which `leave` ends. Raises ApiError (429) beyond a limit."""
        if self.key.concurrent is not None and self.running >= self.key.concurrent:
            raise _limited(f"{self.key.concurrent} requests at a time", 1.0)
        if self._requests is not None and (wait := self._requests.take(1)):
            raise _limited(f"{self.key.requests} requests a minute", wait)
        self.running += 1

    def leave(self) -> None:
        """End a request."""
        self.running -= 1

    def take(self, tokens: int) -> None:
        """Take tokens. Raises ApiError: 429 for more than are left, 400 for more than a minute has."""
        if self._tokens is None:
            return
        if tokens > self._tokens.size:
            raise ApiError(
                400,
                f"the prompt and the longest answer have {tokens} tokens, and the key's limit is "
                f"{self.key.tokens} a minute: ask for fewer with max_tokens",
                code="rate_limit_exceeded",
                param="max_tokens",
            )
        if wait := self._tokens.take(tokens):
            raise _limited(f"{self.key.tokens} tokens a minute", wait)

    def give_back(self, tokens: int) -> None:
        """Give back tokens that were taken and not used."""
        if self._tokens is not None:
            self._tokens.give_back(tokens)


class Accounts:
    """The account of every key that was seen. clock: gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, key: Key) -> Account:
        """The account of a key; a key whose limits were changed begins anew."""
        known = self._accounts.get(key.sha256)
        if known is None or known.key != key:
            known = self._accounts[key.sha256] = Account(key, self._clock)
        return known


def _limited(limit: str, wait: float) -> ApiError:
    message = f"the key's limit is {limit}: try again"
    return ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)
