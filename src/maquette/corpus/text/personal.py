"""Personal data in a text (e-mail and IP addresses, payment cards), and its licences.

Candidates are found by a cheap scan and judged by libraries: `ipaddress`, and python-stdnum for the
check digit of a card. What is nobody's stays: addresses reserved for private use and documentation
(RFC 1918, 2606, 5737, 3849), the account of a version-control host. Known misses: addresses in words
("me at example dot org"), telephone numbers, names. Known false positives: the address of a list or
of a firm is masked as a person's is, and one long number in some hundreds that looks like a card's
in length and first digits has the right check digit, too.

A licence is known by its SPDX-License-Identifier or by the words of its usual header. That is what a
text says, and of whatever part of it: a package's list of copyrights names many.
"""

import ipaddress
import re

Span = tuple[int, int]

LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
LONGEST_LOCAL = 64  # RFC 5321, section 4.5.3.1.1
DOMAIN = re.compile(r"(?:[^\W_][\w-]{0,62}\.){1,8}([^\W\d_]{2,24}|xn--[\w-]{2,59})(?![\w-])")
RESERVED = re.compile(r"(.*\.)?(example(\.(com|org|net))?|invalid|test|localhost|local)")
FILES = frozenset(
    """png jpg jpeg gif svg webp html htm css js json md txt py rb service socket target timer mount
    device slice""".split()
)  # logo@2x.png, getty@tty1.service

DOTTED = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}")
VERSION = re.compile(
    r"(?i)(?<![^\W\d_])(?:v|ver|version|release|revision|build|section|chapter)[\s.:=#]*$"
)
SMALL = 20  # no number of a version is larger: (21/256)^4, 1 address in 22,000, is lost to it
GROUPS = re.compile(r"[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}")

CARD = re.compile(
    r"[0-9]{4}(?:[0-9]{10,15}|"
    r"([ -])(?:[0-9]{4}\1[0-9]{4}\1[0-9]{4}|[0-9]{6}\1[0-9]{4,5})(?!\1[0-9]{4}))(?![0-9])"
)  # 14 to 19 digits, or grouped as they are embossed


def emails(text: str) -> list[Span]:
    """E-mail addresses: the part before the @ read backwards, the domain forwards."""
    spans = []
    at = text.find("@")
    while at >= 0:
        domain = DOMAIN.match(text, at + 1)
        if domain:
            before = text[max(0, at - LONGEST_LOCAL) : at]
            local = before[len(before.rstrip(LOCAL)) :].lstrip(".%+-")
            if local and not local.endswith(".") and _somebody(text, local, domain):
                spans.append((at - len(local), domain.end()))
        at = text.find("@", at + 1)
    return spans


def _somebody(text: str, local: str, domain: re.Match[str]) -> bool:
    """Whether the address may be a person's."""
    if domain[1].lower() in FILES or RESERVED.fullmatch(domain[0].lower()):
        return False
    return not (local == "git" and text[domain.end() : domain.end() + 1] in (":", "/"))


def ip_addresses(text: str) -> list[Span]:
    """Public IP addresses, versions 4 and 6."""
    return sorted(_version_4(text) + _version_6(text))


def _version_4(text: str) -> list[Span]:
    spans: list[Span] = []
    for match in DOTTED.finditer(text):
        start, end = match.span()
        ranged = bool(spans) and spans[-1][1] == start - 1 and text[start - 1] == "-"
        if not ranged and _continues(text[max(0, start - 2) : start]):
            continue
        if _goes_on(text[end : end + 2]) and not DOTTED.match(text, end + 1):
            continue
        if max(map(int, match[0].split("."))) <= SMALL or not _public(match[0]):
            continue
        if not VERSION.search(text[max(0, start - 16) : start]):
            spans.append((start, end))
    return spans


def _continues(before: str) -> bool:
    """Whether four numbers are the rest of a fifth, of a name, of a package's version."""
    if not before:
        return False
    if before[-1].isalnum() or before[-1] in "._-+~":
        return True
    if len(before) < 2:
        return False
    return (before[0].isalnum() and before[1] == "/") or (before[0].isdigit() and before[1] == ":")


def _goes_on(after: str) -> bool:
    """Whether more of the same word follows; a full stop or a dash alone does not continue it."""
    if after[:1] in ("-", ".", "+", "~"):
        return after[1:].isalnum()
    return after[:1].isalnum() or after[:1] == "_"


def _version_6(text: str) -> list[Span]:
    """Public IP addresses of version 6: of 2000::/3 (RFC 4291, section 2.4), three groups or more."""
    spans = []
    for match in GROUPS.finditer(text):
        start, end = match.span()
        while text[end - 1] == ":" and text[end - 2 : end] != "::":
            end -= 1  # the colon of a sentence
        before, after = text[max(0, start - 1) : start], text[end : end + 2]
        if before.isalnum() or before in ("_", ":", ".") or _goes_on(after):
            continue
        if after[:1] == ":" and after[1:].isalnum():
            continue
        groups = [group for group in text[start:end].split(":") if group]
        if len(groups) >= 3 and _public(text[start:end]):
            spans.append((start, end))
    return spans


def _public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


def cards(text: str) -> list[Span]:
    """Card numbers: a known issuer, its length, the usual grouping, Luhn's check digit."""
    spans = []
    for match in CARD.finditer(text):
        start, end = match.span()
        if _part(text[max(0, start - 2) : start][::-1]) or _part(text[end : end + 2], " -"):
            continue
        number = re.sub("[ -]", "", match[0])
        if len(set(number)) > 2 and _issued(number) and _luhn(number):  # 4111 1111 ... is a sample
            spans.append((start, end))
    return spans


def _part(outwards: str, ends: str = "") -> bool:
    """Whether the two characters beside digits make them part of a word, a decimal, more digits."""
    if outwards[:1].isalnum() or outwards[:1] == "_":
        return True
    return outwards[:1] not in ends and outwards[:1] in " -.," and outwards[1:].isdigit()


def _issued(number: str) -> bool:
    """Whether an issuer's range and length hold the number (ISO/IEC 7812, as published in 2024)."""
    size, first = len(number), int(number[:4])
    if number[0] == "4":  # Visa
        return size in (16, 19)  # thirteen digits are of the past
    if 5100 <= first < 5600 or 2221 <= first < 2721:  # Mastercard
        return size == 16
    if first // 100 in (34, 37):  # American Express
        return size == 15
    if first == 6011 or 6440 <= first < 6600 or 3528 <= first < 3590 or first // 100 == 62:
        return 16 <= size <= 19  # Discover, JCB, UnionPay
    if 3000 <= first < 3060 or first // 100 in (36, 38, 39):  # Diners Club
        return size == 14
    return False


def _luhn(number: str) -> bool:
    from stdnum import luhn

    return bool(luhn.is_valid(number))


_GAP = r"[\s*#/;%.|-]{1,40}"  # between two words of a header, across the signs of a comment


def _header(words: str) -> re.Pattern[str]:
    """A pattern for words in small letters, wherever their lines are broken."""
    return re.compile(_GAP.join(words.split(" ")))


IDENTIFIER = re.compile(
    r"SPDX-License-Identifier:[ \t]*"
    r"(\(*[A-Za-z0-9][\w.+:-]*\)*(?:[ \t]+(?:OR|AND|WITH)[ \t]+\(*[A-Za-z0-9][\w.+:-]*\)*)*)"
)
GNU, GFDL, CC, BSD = "GNU", "GFDL", "CC", "BSD"  # families: what follows says which of them
HEADERS: tuple[tuple[str, str, re.Pattern[str]], ...] = (  # licence, a word of it, its header
    ("MIT", "permission",
     _header("permission is hereby granted, free of charge, to any person obtaining")),
    ("ISC", "permission",
     _header("permission to use, copy, modify,? and(?:/or)? distribute this software for any purpose "
             "with or without fee")),
    (BSD, "redistribution",
     _header("redistribution and use in source and binary forms, with or without modification,")),
    ("Apache-2.0", "apache", _header(r"licensed under the apache license, version 2\.0")),
    (GNU, "gnu",
     _header(r"gnu (lesser |library |affero )?general public license as published by the free "
             r"software foundation[,;:]? (?:either )?version (\d(?:\.\d)?)(?: of the license)?"
             r"(,? or \(?at your option\)?,? any later)?")),
    (GNU, "gpl", re.compile(r"license (l|a)?gplv(\d(?:\.\d)?)(\+)?: *<?gnu")),  # GNU's man pages
    (GFDL, "gnu", _header(r"gnu free documentation license, version (\d\.\d)( or any later)?")),
    ("MPL-2.0", "mozilla",
     _header(r"subject to the terms of the mozilla public license, v\. 2\.0")),
    ("BSL-1.0", "boost", _header(r"boost software license,? version 1\.0")),
    ("Zlib", "as-is",
     _header("in no event will the authors be held liable for any damages arising from the use")),
    ("Unlicense", "unencumbered", _header("this is free and unencumbered software released")),
    ("CC0-1.0", "cc0", _header(r"cc0 1\.0 universal")),
    (CC, "creative",
     re.compile(_header("creative commons attribution").pattern
                + r"((?:[\s-]+(?:non-?commercial|share-?alike|no-?deriv\w*))*)"
                  r"[\s,]+(?:\w+[\s,]+){0,2}(\d\.\d)")),
    ("PSF-2.0", "python", _header("python software foundation license version 2")),
    ("Artistic-1.0-Perl OR GPL-1.0-or-later", "perl",
     _header("under the same terms as perl itself")),
)  # fmt: skip
NOT_PERMISSIVE = re.compile(
    "(A|L)?GPL|GFDL|MPL|EPL|CPL|CDDL|EUPL|OSL|CECILL|MS-RL|Sleepycat|SSPL|BUSL|Elastic|PolyForm|"
    "CC-BY-(NC|ND|SA)"
)  # copyleft, weak or strong, and what forbids uses


def licences(text: str, lower: str) -> list[tuple[int, int, str]]:
    """Start, end and SPDX expression of each licence the text names; `lower` is it in small letters."""
    mentions = [(*match.span(), match[1]) for match in IDENTIFIER.finditer(text)]
    for name, word, header in HEADERS:
        if word in lower:
            for match in header.finditer(lower):
                mentions.append((*match.span(), _member(name, match)))
    return sorted(mentions)


def _member(family: str, header: re.Match[str]) -> str:
    """The SPDX identifier of a licence that comes in versions."""
    if family == GNU:
        kind, version, later = header.groups()
        prefix = kind[0].upper() if kind else ""
        whole = version if "." in version else f"{version}.0"
        return f"{prefix}GPL-{whole}-{'or-later' if later else 'only'}"
    if family == GFDL:
        return f"GFDL-{header[1]}-{'or-later' if header[2] else 'only'}"
    if family == CC:
        terms = re.findall("non|share|no", header[1])
        return "-".join(["CC-BY", *({"non": "NC", "share": "SA", "no": "ND"}[t] for t in terms),
                         header[2]])  # fmt: skip
    if family == BSD:
        rest = header.string[header.end() : header.end() + 1500]
        named = "neither the name" in rest or "endorse or promote" in rest
        return "BSD-3-Clause" if named else "BSD-2-Clause"
    return family


def permissive(expression: str) -> bool:
    """Whether one may choose, of an SPDX expression, a licence that is not known to be restrictive."""
    return _any_of(re.findall(r"[()]|[^\s()]+", expression)[::-1])


def _any_of(tokens: list[str]) -> bool:
    """An expression, taken from the end of the reversed tokens; AND binds closer than OR."""
    value = _one(tokens)
    while tokens and tokens[-1] in ("OR", "AND"):
        if tokens.pop() == "OR":
            return _any_of(tokens) or value
        value = _one(tokens) and value
    return value


def _one(tokens: list[str]) -> bool:
    token = tokens.pop() if tokens else ""
    if token == "(":
        value = _any_of(tokens)
        if tokens:
            tokens.pop()  # the closing bracket
        return value
    if tokens and tokens[-1] == "WITH":
        del tokens[-2:]  # an exception leaves copyleft what it is
    return not NOT_PERMISSIVE.match(token)
