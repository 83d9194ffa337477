"""Keys of users: a file that holds their hashes and limits, never the keys.

    {"keys": [{"name": "ana", "sha256": "...", "requests": 60, "tokens": null, "concurrent": 4,
               "revoked": false}]}

A key is 32 random bytes, so that one round of SHA-256 hides it as well as many. The file is read again when
it has changed: a revoked key is refused from the next request on. A file that cannot be read admits nobody.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from maquette.base.errors import UserError, WrongUse, did_you_mean, within
from maquette.base.files import lock, read_json, write_json

PREFIX = "mq-"
RANDOM_BYTES = 32


@dataclass(frozen=True)
class Key:
    """A user's key."""

    name: str
    sha256: str
    """hex SHA-256 of the key"""
    requests: int | None = None
    """number of requests a minute at most; None: no limit"""
    tokens: int | None = None
    """number of tokens a minute at most, of prompts and answers; None: no limit"""
    concurrent: int | None = None
    """number of requests at a time at most; None: no limit"""
    revoked: bool = False

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or len(self.name) > 64:
            raise WrongUse(f"the name {self.name!r} is none: use 1 to 64 printable characters")
        within(self, 1, float("inf"), "requests", "tokens", "concurrent")


class Keys:
    """The keys of a file. Raises UserError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._read_at: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}
        self.find("")

    def find(self, key: str) -> Key | None:
        """The user's entry of a key; None: there is none, or it is revoked. Raises UserError."""
        try:
            state = os.stat(self.path)
        except OSError as error:
            raise UserError(
                f"the keys in {self.path} cannot be read ({error.strerror}): maquette keys add makes them"
            ) from error
        now = (state.st_mtime_ns, state.st_size, state.st_ino)
        if now != self._read_at:
            self._keys = {one.sha256: one for one in read_keys(self.path) if not one.revoked}
            self._read_at = now
        return self._keys.get(digest(key))


def digest(key: str) -> str:
    """Hex SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> list[Key]:
    """All keys of a file, those that are revoked too. Raises UserError where it is damaged."""
    content = read_json(path)
    try:
        return [Key(**one) for one in content["keys"]]
    except (TypeError, KeyError, WrongUse) as error:
        raise UserError(f"{path} holds no keys ({error}): restore it") from error


def add_key(
    path: Path,
    name: str,
    *,
    requests: int | None = None,
    tokens: int | None = None,
    concurrent: int | None = None,
) -> str:
    """Make a key for a user and keep its hash; returns the key, which is nowhere else."""
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    added = Key(name, digest(secret), requests, tokens, concurrent)
    with _changed(path) as keys:
        if any(one.name == name and not one.revoked for one in keys):
            raise WrongUse(f"{name} has a key: revoke it first, or choose another name")
        keys[:] = [*(one for one in keys if one.name != name), added]
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Refuse a user's key from now on."""
    with _changed(path) as keys:
        names = [one.name for one in keys if not one.revoked]
        if name not in names:
            raise WrongUse(f"{name} has no key{did_you_mean(name, names)}")
        keys[:] = [replace(one, revoked=True) if one.name == name else one for one in keys]


@contextlib.contextmanager
def _changed(path: Path) -> Iterator[list[Key]]:
    """Gives the keys of a file to change, and writes them; others wait meanwhile."""
    path = path.expanduser()
    with lock(path.parent / f".{path.name}.lock"):
        keys = read_keys(path) if path.exists() else []
        yield keys
        write_json(path, {"keys": [asdict(one) for one in keys]})
        os.chmod(path, 0o600)
