"""Text out of pages of HTML and PDF, by libraries: resiliparse and PDFium.

    HTML     the main content without navigation (Bevendorff et al. 2018, "Elastic ChatNoir"), and
             the title; the encoding as the HTML standard finds it, but valid UTF-8 is UTF-8
    PDF      the text of its pages in reading order as PDFium finds it, and the title

What cannot be read raises `Unreadable` with the reason. Left out: text in pictures (no OCR).
"""

import codecs
import re
import threading
from collections import Counter
from typing import BinaryIO

NOT_TEXT = "not text in UTF-8"
DEEPEST = 512  # as Chromium's parser; the extraction goes back over the levels for each level
NESTED = re.compile(r"<(/?)(article|div|ol)\b", re.IGNORECASE)
DECLARED = re.compile(rb"\s*<\?xml[^>]{1,100}encoding\s*=\s*[\"']([\w.:-]+)")
MARKS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
HYPHEN = re.compile("[\x02\ufffe]")  # what PDFium writes for a hyphen that only broke the line
_pdfium = threading.Lock()  # PDFium is not thread-safe


class Unreadable(Exception):
    """A file that gives no more text; its message is the reason."""


def page(data: bytes) -> tuple[str, str | None]:
    """Text and title of a page of HTML."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    html = _decode(data)
    if "\0" in html:
        raise Unreadable(NOT_TEXT)
    _refuse_deep(html)
    tree = HTMLTree.parse(html)
    text = extract_plain_text(tree, preserve_formatting=True, main_content=True)
    if not text or text.isspace():
        raise Unreadable("no text in the page")
    return text, " ".join((tree.title or "").split()) or None


def _decode(data: bytes) -> str:
    """https://html.spec.whatwg.org/#determining-the-character-encoding, valid UTF-8 first."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if b"\x1b" not in data:  # ISO-2022-JP is ASCII to the eye of UTF-8
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    declared = DECLARED.match(data)
    named = map_encoding_to_html5(declared[1].decode()) if declared else None
    return str(bytes_to_str(data, named or detect_encoding(data, from_html_meta=True) or "utf-8"))


def _refuse_deep(html: str) -> None:
    """The extraction's time and output grow with the square of the depth of these elements."""
    tags = NESTED.findall(html)
    if len(tags) <= DEEPEST:
        return
    depth: Counter[str] = Counter()
    for closes, name in tags:
        depth[name] = max(0, depth[name] + (-1 if closes else 1))
        if depth[name] > DEEPEST:
            raise Unreadable(f"elements nested deeper than {DEEPEST}")


def pdf(file: BinaryIO) -> tuple[str, str | None, list[int]]:
    """Text and title of a PDF, and the numbers of the pages that are damaged."""
    import pypdfium2

    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            encrypted = "password" in str(error)
            raise Unreadable("encrypted PDF" if encrypted else "damaged PDF") from error
        try:
            texts, damaged = [], []
            for number in range(len(document)):
                try:
                    texts.append(document[number].get_textpage().get_text_bounded())
                except pypdfium2.PdfiumError:
                    damaged.append(number + 1)
            title = document.get_metadata_value("Title")
        finally:
            document.close()
    text = HYPHEN.sub("", "\n\n".join(t for t in texts if t)).replace("\r\n", "\n")
    if not text or text.isspace():
        raise Unreadable("no text in the PDF (a scan?)")
    return text.replace("\0", ""), " ".join(title.split()) or None, damaged
