"""WebDataset shards: tar files in which the members of one key are a picture and its captions.

    d/0001.jpg d/0001.txt d/0001.json d/0001.cls       key d/0001: the name up to the first dot
    d/0001.jpg d/0001.jpg.txt d/0001.caption.txt       the same: what says something of it may say so twice
    d/2023.01.05 a.jpg  d/2023.01.05 b.jpg             no KEY.jpg among them: the names up to the last dot

In the last case KEY.txt, KEY.json and KEY.cls go with each of the pictures; beside a KEY.jpg, other
pictures of the key (KEY.seg.png) are views of it and are left. The first that holds a caption counts, in
the order of picture_sidecars.py. Nothing is unpacked to disk, so names are words, not places.

Members of one key are neighbours in a shard that is sorted, and a picture is given when the next key comes.
Where pictures are left without captions, the shard is read a second time: captions that stood elsewhere
are joined by their key (64 MB of them are held), and a folder that has no caption at all is the class of its
pictures. A member whose name is there already begins another sample, where the first has its caption. Of a
member only what is used is held, and long headers are refused, so that no shard takes more memory than that.
"""

import functools
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from maquette.corpus.decompress import Contents, plain
from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import (
    LONGEST_TEXT,
    USUAL,
    Caption,
    Fields,
    caption,
    folded,
    folder_caption,
    named,
    parsed,
)
from maquette.corpus.pictures.decode import MOST_BYTES
from maquette.corpus.pictures.foreign import FOREIGN_ENDINGS
from maquette.corpus.pictures.item import PICTURES, Location, Picture, captioned
from maquette.corpus.pictures.sidecars import NO_RECORD, TEXT_ENDINGS, WORDS
from maquette.corpus.pictures.tables import SECOND
from maquette.corpus.read import File

SHARDS = (".tar", ".tgz")
TEXT_MEMBERS = ("txt", "caption", "json", "cls")
LONGEST_HEADER = 1 << 20  # bytes of a member's long name or extended header
HELD = 64  # members of one key, before what is whole of it is given
LATE = 512 << 20  # bytes of captions that are held until their pictures come
HELD = 1 << 10  # bytes that holding one takes besides
NO_PICTURE = "no picture in the sample"
REPEATED = "a picture of the same name beside one without a caption"
TOO_LATE = (
    f"more than {LATE >> 20} MB of captions apart from their pictures: sort the shard "
    f"(tar --sort=name)"
)
_DAMAGED = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]
_LONG = b"".join(
    (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
     tarfile.SOLARIS_XHDTYPE)
)  # fmt: skip


def is_shard(name: str) -> bool:
    """Whether a file of that name is read as a shard."""
    return plain(name).endswith(SHARDS)


class _Member(NamedTuple):
    """A file in a shard; data: None where a worker reads it."""

    name: str
    offset: int
    size: int
    data: bytes | None

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def key(self) -> str:
        """The path up to the first dot of its last part."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def stem(self) -> str:
        """The path without its suffix."""
        return self.name[: -len(self.ending) - 1] if "." in self.name else self.name

    @property
    def ending(self) -> str:
        """The suffix after the last dot; of a text for a picture or a caption, both suffixes."""
        return _ending(self.name)

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture, of a format that is read or not, by its suffix."""
        return f".{self.ending}" in PICTURES or f".{self.ending}" in FOREIGN_ENDINGS

    @property
    def is_text(self) -> bool:
        """Whether it describes a picture, by its suffix."""
        return self.ending.rpartition(".")[2] in TEXT_MEMBERS

    @property
    def used(self) -> bool:
        return self.is_picture or self.is_text

    def same(self, other: "_Member") -> bool:
        """Whether both have the same role in a sample."""
        return (self.stem, self.ending) == (other.stem, other.ending)

    @property
    def of_key(self) -> bool:
        """Whether the name has one dot alone, so that the sample has the key."""
        return self.stem == self.key


@functools.lru_cache(maxsize=256)  # it is asked for again and again while a sample is put together
def _ending(name: str) -> str:
    rest, _, last = name.rpartition("/")[2].rpartition(".")
    before = rest.rpartition(".")[2].lower()
    double = "." in rest and f".{before}" in (*PICTURES, *WORDS)
    return f"{before}.{last.lower()}" if double and last.lower() in TEXT_MEMBERS else last.lower()


Sample = dict[str, _Member]
"""members by suffix"""


class _Header(tarfile.TarInfo):
    """A tar header that raises where it is damaged or cut off; tarfile takes it for the end of the shard.

    A header that announces a megabyte or more of itself raises, too: tarfile would read all of it.
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


def shard(file: File, fields: Fields = USUAL) -> Iterator[Picture | Skipped]:
    """The samples of a shard; of a damaged shard those before the damage."""
    yield from _Shard(file, fields)


class _Shard:
    """The samples of a shard, those of neighbours first."""

    def __init__(self, file: File, fields: Fields) -> None:
        self._file, self._fields = file, fields
        self._bare = False  # whether a picture was left without a caption
        self._said: set[str] = set()  # folders with captions
        self._late: dict[
            str, Sample
        ] = {}  # what is said of pictures that stand elsewhere, by their stem
        self._held, self._full = 0, False  # bytes of it; whether that was too much

    def __iter__(self) -> Iterator[Picture | Skipped]:
        for group in _groups(self._file):
            if isinstance(group, Skipped):
                yield group
                continue
            self._said |= {member.folder for member in group if member.is_text}
            for stem, sample in _samples(group):
                yield from self._first(stem, sample)
        if self._bare:
            yield from self._again()
        for stem in self._late:
            yield Skipped(f"{self._file.source}:{stem}", NO_PICTURE)
        if self._full:
            yield Skipped(self._file.source, TOO_LATE)

    def _first(self, stem: str, sample: Sample) -> Iterator[Picture | Skipped]:
        """Emit a sample of neighbouring members."""
        pictures = _pictures(sample)
        for ending in pictures:
            known = _caption(sample, ending, self._fields)
            if known.text or f".{ending}" in FOREIGN_ENDINGS:
                yield self._made(stem, sample, ending, known)
            else:
                self._bare = True
        if pictures:
            return
        texts = {ending: member for ending, member in sample.items() if member.is_text}
        size = sum(len(member.data or b"") + HELD for member in texts.values())
        if not texts:
            yield Skipped(f"{self._file.source}:{stem}", NO_PICTURE)
        elif self._held + size > LATE:
            self._full = True
        else:
            self._held += size
            held = self._late.setdefault(stem, {})
            for ending, member in texts.items():
                if held.setdefault(ending, member) is not member:
                    yield Skipped(f"{self._file.source}:{member.name}", SECOND)

    def _again(self) -> Iterator[Picture | Skipped]:
        """Emit the pictures without a neighbouring caption."""
        alike = {folded(stem): stem for stem in reversed(self._late)}
        for group in _groups(self._file):
            if isinstance(group, Skipped):
                continue
            for stem, sample in _samples(group):
                for ending in _pictures(sample):
                    known = _caption(sample, ending, self._fields)
                    if known.text or f".{ending}" in FOREIGN_ENDINGS:
                        continue
                    late = stem if stem in self._late else alike.get(folded(stem), "")
                    if late in self._late:
                        sample = self._late.pop(late) | sample
                        known = _better(known, _caption(sample, ending, self._fields))
                    folder = sample[ending].folder
                    if not known.text and folder not in self._said:
                        known = _class(folder)
                    yield self._made(stem, sample, ending, known)

    def _made(self, stem: str, sample: Sample, ending: str, known: Caption) -> Picture | Skipped:
        picture = sample[ending]
        several = f".{ending}" if len(_pictures(sample)) > 1 else ""
        source = f"{self._file.source}:{stem}{several}"
        if f".{ending}" in FOREIGN_ENDINGS:
            return Skipped(source, FOREIGN_ENDINGS[f".{ending}"])
        if not known.text and any(_damaged(member) for member in sample.values()):
            return Skipped(source, NO_RECORD)
        if picture.data is not None:
            return captioned(source, known, Location(len(picture.data), picture.data))
        location = Location(picture.size, None, self._file.path, picture.offset)
        return captioned(source, known, location)


def _groups(file: File) -> Iterator[list[_Member] | Skipped]:
    """Groups of neighbouring members of one key."""
    held: list[_Member] = []
    try:
        with open(file.path, "rb") as raw:
            for member in _members(raw, file.path):
                if not member.name.rpartition("/")[2].partition(".")[0]:  # hidden
                    continue
                if held and member.key != held[0].key:
                    yield held
                    held = []
                elif len(held) >= HELD and member.stem != held[-1].stem:
                    yield held
                    held = [other for other in held if other.of_key and other.is_text]
                same = (
                    next((other for other in held if other.same(member)), None)
                    if member.used
                    else None
                )
                if same is None:
                    if member.used or not held:
                        held.append(member)
                elif (member.is_picture or same.name == member.name) and _whole(held):
                    yield held
                    held = [member]
                else:
                    why = SECOND if member.is_text else REPEATED
                    yield Skipped(f"{file.source}:{member.name}", why)
        if held:
            yield held
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        if held:
            yield held
        yield Skipped(file.source, "a shard that is damaged or cut off: read up to there")
    except OSError as error:
        yield Skipped(file.source, error.strerror or "cannot be read")


def _whole(held: list[_Member]) -> bool:
    return any(member.is_picture for member in held) and any(member.is_text for member in held)


def _members(raw: BinaryIO, name: str) -> Iterator[_Member]:
    """The members; pictures by their location unless the shard is compressed, all else with content."""
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
            entry = _Member(member.name, member.offset_data, member.size, None)
            picture = f".{entry.ending}" in PICTURES
            unread = f".{entry.ending}" in FOREIGN_ENDINGS
            if entry.used and not unread and not (plainly and picture):
                opened = tar.extractfile(member)
                data = opened.read(MOST_BYTES + 1 if picture else LONGEST_TEXT) if opened else b""
                entry = entry._replace(data=data)
            yield entry
    if packed.fault:
        raise tarfile.ReadError(packed.fault)


def _samples(group: list[_Member]) -> Iterator[tuple[str, Sample]]:
    """The samples in the members of one key, each with its stem."""
    key = group[0].key
    whole, parts = Sample(), dict[str, Sample]()
    for member in group:
        sample = whole if member.of_key else parts.setdefault(member.stem, {})
        sample.setdefault(member.ending, member)
    pictured = {stem: sample for stem, sample in parts.items() if _pictures(sample)}
    if _pictures(whole):
        yield key, whole
        return
    if not pictured:
        texts = {
            stem: members
            for stem, members in parts.items()
            if any(m.is_text for m in members.values())
        }
        yield from texts.items()
        if whole or not texts:
            yield key, whole
        return
    common = {ending: member for ending, member in whole.items() if member.is_text}
    for stem, sample in parts.items():
        if stem in pictured:
            yield stem, common | sample
        elif any(member.is_text for member in sample.values()):
            yield stem, sample


def _pictures(sample: Sample) -> list[str]:
    """The suffixes of a sample's pictures."""
    usual = [ending[1:] for ending in (*PICTURES, *FOREIGN_ENDINGS)]
    return [ending for ending in usual if ending in sample]


def _caption(sample: Sample, picture: str, fields: Fields) -> Caption:
    """The caption of a sample's picture of a suffix."""
    texts = [ending[1:] for ending in TEXT_ENDINGS]
    order = [f"{picture}.{ending}" for ending in (*texts, "json")] + texts
    order += [f"{word[1:]}.{ending}" for word in WORDS for ending in texts] + ["json"]
    if fields.named:
        order.sort(key=lambda ending: not ending.endswith("json"))
    label = sample["cls"].data if "cls" in sample else None
    values: list[Any] = []
    for ending in order:
        if ending not in sample:
            continue
        data = sample[ending].data or b""
        if not ending.endswith("json"):
            values.append(data)
            continue
        record = parsed(data) or {}
        values.append(named(record, fields.caption))
        label = named(record, fields.label) if label is None else label
    return _better(
        *(caption(text, label) for text in values if text is not None), caption(None, label)
    )


def _better(*captions: Caption) -> Caption:
    """The first caption that differs from the class, else the first that is not empty, else the first."""
    own = next(
        (caption for caption in captions if caption.text and caption.text != caption.label), None
    )
    return own or next((caption for caption in captions if caption.text), captions[0])


def _damaged(member: _Member) -> bool:
    return member.ending.endswith("json") and parsed(member.data or b"") is None


def _class(folder: str) -> Caption:
    """The caption of a folder's name; "" at the top of a shard."""
    name = folder.rpartition("/")[2]
    return Caption("") if name in ("", ".", "..") else folder_caption(name)
