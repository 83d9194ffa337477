"""WebDataset shards: tar files in which neighbours of one key are a picture and what is said of it.

    d/0001.jpg d/0001.txt d/0001.json d/0001.cls       key d/0001: the name up to the first dot
    d/2023.01.05 a.jpg  d/2023.01.05 b.jpg             no KEY.jpg among them: the names up to the last dot

In the second case KEY.txt, KEY.json and KEY.cls go with each of the pictures; beside a KEY.jpg, other
pictures of the key (KEY.seg.png) are views of it and are left. Nothing is unpacked to disk, so names are
words, not places. Of a member only what is used is held, and long headers are refused, so that no shard
takes more memory than a few pictures do.
"""

import json
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from maquette.corpus.contents import Contents, plain
from maquette.corpus.document import Skipped
from maquette.corpus.picture_captions import CLASSES, TEXTS, caption, decoded, named
from maquette.corpus.picture_decode import MOST_BYTES
from maquette.corpus.picture_item import LONGEST_TEXT, PICTURES, Picture, Place, captioned
from maquette.corpus.read import File

SHARDS = (".tar", ".tgz")
TEXT_MEMBERS = ("txt", "caption", "json", "cls")
LONGEST_HEADER = 1 << 20  # bytes of a member's long name or extended header
HELD = 64  # members of one key, before what is whole of it is given
_DAMAGED = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]
_LONG = b"".join(
    (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
     tarfile.SOLARIS_XHDTYPE)
)  # fmt: skip


def is_shard(name: str) -> bool:
    """Whether a file of that name is read as one."""
    return plain(name).endswith(SHARDS)


class _Member(NamedTuple):
    """A file in a shard; data: None where a worker reads it."""

    name: str
    offset: int
    size: int
    data: bytes | None

    @property
    def key(self) -> str:
        """The name up to the first dot of its last part."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def stem(self) -> str:
        """The name up to its last dot."""
        return self.name.rpartition(".")[0]

    @property
    def ending(self) -> str:
        """What follows the last dot."""
        return self.name.rpartition(".")[2].lower()

    @property
    def used(self) -> bool:
        """Whether it is a picture, or says something of one, by its ending."""
        return f".{self.ending}" in PICTURES or self.ending in TEXT_MEMBERS

    def same(self, other: "_Member") -> bool:
        """Whether it takes the same place in a sample."""
        return (self.stem, self.ending) == (other.stem, other.ending)

    @property
    def of_key(self) -> bool:
        """Whether there is one dot in the name, so that the sample is the key's."""
        return self.stem == self.key


class _Header(tarfile.TarInfo):
    """A header that is damaged or cut off raises; tarfile takes it for the end of the shard.

    So does one that says a megabyte or more follows of it, which tarfile would read in one piece.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type in _LONG and header.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tarfile_)
        except _DAMAGED as error:
            raise tarfile.ReadError(str(error)) from error


def shard(file: File) -> Iterator[Picture | Skipped]:
    """The samples of a shard; of one that is damaged those before the damage."""
    key, held = "", list[_Member]()
    try:
        with open(file.path, "rb") as raw:
            for member in _members(raw, file.path):
                if not member.name.rpartition("/")[2].partition(".")[0]:  # hidden
                    continue
                if member.key != key:
                    yield from _samples(file, key, held)
                    key, held = member.key, []
                elif len(held) >= HELD and member.stem != held[-1].stem:
                    yield from _samples(file, key, held)
                    held = [one for one in held if one.of_key and one.ending in TEXT_MEMBERS]
                if not held or (member.used and not any(one.same(member) for one in held)):
                    held.append(member)
        yield from _samples(file, key, held)
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        yield from _samples(file, key, held)
        yield Skipped(file.source, "a shard that is damaged or cut off: read up to there")
    except OSError as error:
        yield Skipped(file.source, error.strerror or "cannot be read")


def _members(raw: BinaryIO, name: str) -> Iterator[_Member]:
    """Pictures by their place, unless the shard is packed; all else is read on the way."""
    packed = Contents(raw, name.lower().replace(".tgz", ".tar.gz"))
    plainly = name.lower().endswith(".tar")
    stream: Any = raw if plainly else packed
    mode: Any = "r:" if plainly else "r|"
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_Header) as shard:
        tar: Any = shard  # `members` and `offset` are not declared
        last = -1
        while (member := tar.next()) is not None:
            tar.members.clear()  # it would keep every header
            if tar.offset <= last or member.size < 0:
                raise tarfile.ReadError("a member that leads backwards")
            last = tar.offset
            if not member.isreg() or member.issparse():
                continue
            found = _Member(member.name, member.offset_data, member.size, None)
            picture = f".{found.ending}" in PICTURES
            if found.used and not (plainly and picture):
                opened = tar.extractfile(member)
                data = opened.read(MOST_BYTES + 1 if picture else LONGEST_TEXT) if opened else b""
                found = found._replace(data=data)
            yield found
    if packed.fault:
        raise tarfile.ReadError(packed.fault)


def _samples(file: File, key: str, held: list[_Member]) -> Iterator[Picture | Skipped]:
    """The samples that members of one key make up."""
    whole, parts = dict[str, _Member](), dict[str, dict[str, _Member]]()
    for member in held:
        sample = whole if member.of_key else parts.setdefault(member.stem, {})
        sample.setdefault(member.ending, member)
    pictured = {stem: sample for stem, sample in parts.items() if _pictures(sample)}
    if _pictures(whole) or not pictured:
        if held:
            yield from _sample(file, key, whole)
        return
    texts = {ending: whole[ending] for ending in TEXT_MEMBERS if ending in whole}
    for stem, sample in pictured.items():
        yield from _sample(file, stem, texts | sample)


def _pictures(sample: dict[str, _Member]) -> list[str]:
    return [ending[1:] for ending in PICTURES if ending[1:] in sample]


def _sample(file: File, key: str, sample: dict[str, _Member]) -> Iterator[Picture | Skipped]:
    """A picture with its caption; each, where the same name has several endings."""
    found = _pictures(sample)
    if not found:
        yield Skipped(f"{file.source}:{key}", "no picture in the sample")
        return
    try:
        record = json.loads(decoded(sample["json"].data or b"")[0]) if "json" in sample else {}
    except (ValueError, RecursionError):
        record = {}
    fields: dict[str, Any] = record if isinstance(record, dict) else {}
    text = next((sample[name].data for name in ("txt", "caption") if name in sample), None)
    label = sample["cls"].data if "cls" in sample else named(fields, CLASSES)
    known = caption(named(fields, TEXTS) if text is None else text, label)
    for ending in found:
        picture = sample[ending]
        source = f"{file.source}:{key}" + (f".{ending}" if len(found) > 1 else "")
        if picture.data is not None:
            yield captioned(source, known, Place(len(picture.data), picture.data))
        else:
            yield captioned(source, known, Place(picture.size, None, file.path, picture.offset))
