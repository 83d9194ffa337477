"""Cleaning: every rule at its bar, known false positives, and texts that are never rewritten."""

import itertools
import random
from collections import Counter

import pytest
from conftest import command
from hypothesis import given
from hypothesis import strategies as st

from maquette.base.errors import WrongUse
from maquette.corpus.document import Document
from maquette.corpus.text import clean
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.clean import (
    GROUPS,
    RULES,
    Applied,
    Attribute,
    apply,
    attributes,
    rules_named,
    why,
)
from maquette.corpus.text.language import View
from maquette.corpus.text.personal import licences, permissive
from maquette.corpus.text.scripts import parts_of_words
from maquette.corpus.text.words import STOP_WORDS

PARTS = parts_of_words(0x32400)
EVERYTHING = (*GROUPS, "language", "licence", "licence:permissive")


def plain(words: int, seed: int = 0) -> list[str]:
    """Words of five letters, all different."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < words:
        found["".join(draw.choices("bcdfghklmnprstvwz", k=5))] = None
    return list(found)


def lines(count: int, words: int = 6) -> list[str]:
    drawn = iter(plain(count * words))
    return [" ".join(itertools.islice(drawn, words)) + "." for _ in range(count)]


def repeated(n: int, share: float, words: int = 1000) -> str:
    """A text of words of one length, of which a share stands in n-grams that stood before."""
    fresh = plain(words)
    gram, rest = fresh[:n], iter(fresh[n:])
    times = round(share * words / n)
    pieces = [gram]
    for _ in range(times):
        pieces += [[next(rest)], gram]
    while sum(map(len, pieces)) < words:
        pieces.append([next(rest)])
    return " ".join(itertools.chain(*pieces))


def top(n: int, share: float, words: int = 1000) -> str:
    """The same, of which a share stands in all occurrences of one n-gram."""
    return repeated(n, share - n / words, words)


WORDS = plain(200)
BARS = {  # rule: a document that just passes, one that just fails
    "gopher:words": (" ".join(WORDS[:50]), " ".join(WORDS[:49])),
    "gopher:mean-word-length": (" ".join(["b" * 10] * 60), " ".join(["b" * 10] * 59 + ["b" * 11])),
    "gopher:hash-ratio": (
        " ".join(WORDS[:90] + ["#"] * 10),
        " ".join(WORDS[:89] + ["#"] * 11),
    ),
    "gopher:ellipsis-ratio": (
        " ".join(WORDS[:90] + ["..."] * 5 + ["…"] * 5),
        " ".join(WORDS[:89] + ["..."] * 6 + ["…"] * 5),
    ),
    "gopher:bullet-lines": (
        "\n".join(["- " + x for x in lines(9)] + ["plain"]),
        "\n".join(["• " + x for x in lines(19)] + ["plain"]),
    ),
    "gopher:ellipsis-lines": (
        "\n".join([x + ".." for x in lines(3)] + ["so it is."] * 7),
        "\n".join([x[:-1] + "…" for x in lines(4)] + ["so it is."] * 6),
    ),
    "gopher:alphabetic-words": (
        " ".join(WORDS[:80] + ["1,000"] * 20),
        " ".join(WORDS[:79] + ["1,000"] * 21),
    ),
    "gopher:stop-words": ("cats The (be)", "cats the them bed"),
    "gopher:duplicate-lines": (
        "\n".join(lines(7) + lines(3)),
        "\n".join(lines(13) + lines(6)),
    ),
    "gopher:duplicate-line-characters": (
        "\n".join(["x" * 20, "x" * 20, "y" * 60]),
        "\n".join(["x" * 21, "x" * 21, "y" * 60]),
    ),
    "gopher:duplicate-paragraphs": (
        "\n\n".join(lines(7) + lines(3)),
        "\n \n".join(lines(13) + lines(6)),
    ),
    "gopher:duplicate-paragraph-characters": (
        "\n\n".join(["x" * 20, "x" * 20, "y" * 60]),
        "\n\n".join(["x" * 21, "x" * 21, "y" * 60]),
    ),
    "gopher:top-2-gram": (top(2, 0.20), top(2, 0.202)),
    "gopher:top-3-gram": (top(3, 0.18), top(3, 0.183)),
    "gopher:top-4-gram": (top(4, 0.16), top(4, 0.164)),
    "gopher:duplicate-5-gram": (repeated(5, 0.15), repeated(5, 0.155)),
    "gopher:duplicate-6-gram": (repeated(6, 0.138), repeated(6, 0.144)),
    "gopher:duplicate-7-gram": (repeated(7, 0.126), repeated(7, 0.133)),
    "gopher:duplicate-8-gram": (repeated(8, 0.12), repeated(8, 0.128)),
    "gopher:duplicate-9-gram": (repeated(9, 0.108), repeated(9, 0.117)),
    "gopher:duplicate-10-gram": (repeated(10, 0.10), repeated(10, 0.11)),
    "c4:lorem-ipsum": ("lorem et ipsum", "Say Lorem Ipsum dolor."),
    "c4:curly-bracket": ("a (b) c", "a {b} c"),
    "c4:sentences": (
        'One two three four five. Six "seven".\nAnd this makes three sentences!',
        "One two three four five. Six seven 1.5 e.g\nAnd this makes two sentences!\nShort one.",
    ),
    "licence:permissive": (
        "# SPDX-License-Identifier: MIT OR GPL-2.0-only",
        "# SPDX-License-Identifier: LGPL-2.1-or-later",
    ),
}


@pytest.mark.parametrize("name", [n for n, rule in RULES.items() if rule.action == "drop document"])
def test_a_document_rule_at_its_bar(name):
    """`BARS` has every rule that drops documents, so a new rule needs a pair of documents."""
    passes, fails = BARS[name]
    rule = RULES[name]
    (kept,) = rule(passes)
    (dropped,) = rule(fails)
    assert rule.keeps(kept.score), kept
    assert not rule.keeps(dropped.score), dropped
    assert (kept.start, kept.end, kept.rule) == (0, len(passes), name)
    assert apply(passes, [kept], [name]).text == passes
    assert apply(fails, [dropped], [name]) == clean.Applied(None, name, 0, 0)


def test_the_other_bars_of_gopher():
    """Those with two ends."""
    assert not RULES["gopher:words"].keeps(100_001)
    assert RULES["gopher:words"].keeps(100_000)
    assert RULES["gopher:mean-word-length"].keeps(3)
    assert not RULES["gopher:mean-word-length"].keeps(2.999)


def cut(name: str, text: str) -> list[str]:
    return [text[a.start : a.end] for a in RULES[name](text)]


def test_c4_cuts_lines():
    text = 'Home\nA line of five words.\nAnother one without an end\nHe said "it is so"\nAnd so on...\nEnd!'
    assert cut("c4:terminal-punctuation", text) == [
        "Home\n",
        "Another one without an end\n",
        "And so on...\n",
    ]
    assert cut("c4:short-lines", text) == ["Home\n", "And so on...\nEnd!"]
    rules = ("c4:terminal-punctuation", "c4:short-lines")
    left = apply(text, attributes(text, rules, "prose"), rules)
    assert left.text == 'A line of five words.\nHe said "it is so"\n'
    assert left.removed == len(text) - len(left.text)


def test_boilerplate():
    text = (
        "Home | About us | Contact\n"
        "| a | table |\n"
        "start | stop | restart\n"
        "Please enable JavaScript in your browser.\n"
        "JavaScript was made in ten days.\n"
        "We use cookies.\n"
        "Cookies are baked for ten minutes.\n"
    )
    found = [line for name in GROUPS["boilerplate"] for line in cut(name, text)]
    assert found == [
        "Please enable JavaScript in your browser.\n",
        "We use cookies.\n",
        "Home | About us | Contact\n",
    ]
    article = "They use cookies. " + " ".join(WORDS) + "\n"
    assert cut("boilerplate:notice", article) == []
    line = "this line is here too often\n"
    assert cut("boilerplate:repeated-lines", line + "a\n" + line) == []
    assert cut("boilerplate:repeated-lines", line + "a\n" + line + "b\n" + line) == [line, line]
    assert cut("boilerplate:repeated-lines", "too short\n" * 9) == []


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ("email", "write to Joe.Doe+x@mail.example.co.uk.", ["Joe.Doe+x@mail.example.co.uk"]),
        ("email", "<a@b.de>, mailto:c@d.org; joe@münchen.de", ["a@b.de", "c@d.org", "joe@münchen.de"]),
        ("email", "you@example.com, x@sub.example.org, y@host.test, root@localhost", []),
        ("email", "x@notexample.com", ["x@notexample.com"]),
        ("email", "@property\ndef a(self): b @ c.d  logo@2x.png getty@tty1.service", []),
        ("email", "git clone git@github.com:owner/name", []),
        ("email", "package@1.2.3 me@home @joe .@x.org", []),
        ("ip", "from 81.2.69.142.", ["81.2.69.142"]),
        ("ip", "http://81.2.69.142:80/ root@81.2.69.142 81.2.69.0/24", ["81.2.69.142"] * 2 + ["81.2.69.0"]),
        ("ip", "81.2.69.142-81.2.69.150", ["81.2.69.142", "81.2.69.150"]),
        ("ip", "version 1.2.3.4, v1.2.3.40, version 81.2.69.142, Section 4.3.2.81", []),
        ("ip", "Chrome/41.0.2.1 2:8.39.0.1 8.39.0.1-3ubuntu1 8.39.0.1.5 1.8.39.0.1 lib.so.81.2.69.14", []),
        ("ip", "10.0.0.1 127.0.0.1 192.168.1.99 172.16.30.40 169.254.1.99", []),
        ("ip", "192.0.2.77 198.51.100.99 203.0.113.99 224.0.0.251 0.0.0.0 255.255.255.255", []),
        ("ip", "300.1.1.99 1.2.3 81.02.69.142 12.10.2024", []),
        ("ip", "[2a00:1450:4001:81b::200e]:443", ["2a00:1450:4001:81b::200e"]),
        ("ip", "2001:4860:4860:0:0:0:0:8888 is it.", ["2001:4860:4860:0:0:0:0:8888"]),
        ("ip", "2001:db8::1 fe80::1 ::1 fc00:1:2::3 2001:4860:4860:0:0:0:0:8888:1", []),
        ("ip", "2024:01:31 12:30:45 00:1a:2b:3c:4d:5e std::2000::x 2023::int", []),
        ("card", "4539 1488 0343 6467 12/27", ["4539 1488 0343 6467"]),
        ("card", "4539-1488-0343-6467, 4539148803436467.", ["4539-1488-0343-6467", "4539148803436467"]),
        ("card", "3782 822463 10005 and 5425233430109903", ["3782 822463 10005", "5425233430109903"]),
        ("card", "4539148803436468 4539 1488 0343 6468", []),  # the check digit is another
        ("card", "14539148803436467 45391488034364671 1.4539148803436467", []),
        ("card", "20 4539 1488 0343 6467, 4539 1488 0343 6467 1234, 4539 14880343 6467", []),
        ("card", "4111 1111 1111 1111", []),  # the number of the manuals
        ("card", "2024-01-31 12:30:45 1706700645123 9780306406157", []),
        ("card", "e4539148803436467a 0x4539148803436467 d41d8cd98f00b204e9800998ecf8427e", []),
    ],
)  # fmt: skip
def test_personal_data(rule, text, found):
    assert cut(f"personal:{rule}", text) == found


def test_personal_data_is_masked_and_the_rest_stays():
    text = "Ask joe@mail.org or 81.2.69.142, card 4539148803436467."
    found = attributes(text, ["personal"], "code")
    assert apply(text, found, ["personal"]) == clean.Applied(
        "Ask <EMAIL> or <IP>, card <CARD>.", None, 0, 3
    )
    assert apply(text, found, ["personal:ip"]).text == text.replace("81.2.69.142", "<IP>")
    assert apply(text, found, []).text == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("// SPDX-License-Identifier: Apache-2.0 */", "Apache-2.0"),
        ("# SPDX-License-Identifier: (MIT OR GPL-2.0-only) -->", "(MIT OR GPL-2.0-only)"),
        (
            "# Permission is hereby granted, free of charge,\n# to any person obtaining a copy",
            "MIT",
        ),
        (
            " * Licensed under the Apache License,\n *  Version 2.0 (the 'License')",
            "Apache-2.0",
        ),
        (
            "under the terms of the GNU General Public License as published by the Free Software\n"
            "Foundation; either version 2 of the License, or\n(at your option) any later version.",
            "GPL-2.0-or-later",
        ),
        (
            "the GNU Lesser General Public License as published by the Free Software Foundation, "
            "version 2.1.",
            "LGPL-2.1-only",
        ),
        ("License GPLv3+: GNU GPL version 3 or later", "GPL-3.0-or-later"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution 4.0", "CC-BY-4.0"),
        (
            "Redistribution and use in source and binary forms, with or without\nmodification, are",
            "BSD-2-Clause",
        ),
        (
            "Redistribution and use in source and binary forms, with or without modification, are "
            "permitted ... Neither the name of the University",
            "BSD-3-Clause",
        ),
    ],
)
def test_licences(text, name):
    (found,) = RULES["licence"](text)
    assert found.rule == f"licence:{name}"
    assert 0 <= found.start < found.end <= len(text)


def test_what_only_speaks_of_licences_is_under_none():
    text = "The GNU General Public License is longer than the MIT License or Apache 2.0."
    assert licences(text, text.lower()) == []


@pytest.mark.parametrize(
    ("expression", "verdict"),
    [
        ("MIT", True),
        ("LicenseRef-of-our-own", True),  # only what is known to be otherwise is dropped
        ("GPL-3.0-or-later", False),
        ("CC-BY-NC-4.0", False),
        ("GPL-2.0-only OR MIT", True),
        ("MIT AND GPL-2.0-only", False),
        ("MIT AND GPL-2.0-only OR ISC", True),
        ("(MIT OR ISC) AND MPL-2.0", False),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0 AND MIT", False),
    ],
)
def test_licence_expressions(expression, verdict):
    assert permissive(expression) is verdict


GERMAN = "Der Hund läuft schnell über die Straße, weil auf der anderen Seite eine Katze sitzt. Es regnet."
ENGLISH = (
    "The dog runs quickly over the street, because a cat sits on the other side. It is raining."
)


def test_language():
    (mark,) = RULES["language"](GERMAN)
    assert mark.rule == "language:de"
    rules = ("language:en",)
    assert apply(ENGLISH, attributes(ENGLISH, rules, "prose"), rules).text == ENGLISH
    assert apply(GERMAN, attributes(GERMAN, rules, "prose"), rules).dropped_by == "language:en"
    assert apply(GERMAN, attributes(GERMAN, ["language"], "prose"), ["language"]).text == GERMAN
    assert attributes("x = 1", rules, "code") == []
    with pytest.raises(WrongUse, match="unknown language zz"):
        rules_named(("language:zz",))


FRENCH = """Le vieux port possède un phare qui guide les navires pendant la nuit. Les pêcheurs se lèvent avant
l'aube et réparent leurs filets sur le quai. L'après-midi, les enfants descendent regarder le retour des
bateaux, tandis que les marchandes annoncent les prix du jour. Quand le vent souffle du nord, les bateaux
restent au port et les hommes parlent à l'auberge des tempêtes qu'ils ont connues autrefois."""
CHINESE = """机器学习是人工智能的一个分支，主要研究如何让计算机从数据中学习规律，
并利用这些规律对未知数据进行预测和决策。
深度学习则使用多层神经网络来自动提取特征，近年来在语音识别、图像识别和自然语言处理等领域取得了突破性进展。
许多公司和研究机构都投入了大量资源，希望把这些方法用到医疗、教育、交通和金融等行业中去。"""
JAPANESE = """吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。
何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。吾輩はここで始めて人間というものを見た。
しかもあとで聞くとそれは書生という人間中で一番
獰悪な種族であったそうだ。この書生というのは時々我々を捕えて煮て食うという話である。"""
THAI = """ภาษาไทยเป็นภาษาที่ไม่มีการเว้นวรรคระหว่างคำ ทำให้การตัดคำเป็นปัญหาสำคัญของการประมวลผลภาษาธรรมชาติ
นักวิจัยหลายคนจึงพัฒนาพจนานุกรมและแบบจำลองทางสถิติเพื่อหาขอบเขตของคำในประโยคยาว ๆ ปัจจุบันวิธีการเรียนรู้เชิงลึก
ให้ผลดีกว่าวิธีเดิมมาก แต่ยังต้องการข้อมูลจำนวนมากสำหรับการฝึกฝน และยังมีข้อผิดพลาดเมื่อพบคำใหม่ที่ไม่เคยเห็นมาก่อน"""


@pytest.mark.parametrize(
    ("text", "code"),
    [(GERMAN * 4, "de"), (FRENCH, "fr"), (CHINESE, "zh"), (JAPANESE, "ja"), (THAI, "th")],
)
def test_what_knows_english_alone_is_not_asked_of_other_languages(text, code):
    text = text.replace(GERMAN * 4, GERMAN + " Danach gehen alle nach Hause und essen Kuchen mit Sahne. "
        "Die Kinder spielen im Garten, bis die Sonne hinter den Bergen steht und der Abend kommt. "
        "Niemand hat an diesem Tag etwas anderes vor, und so bleibt man lange wach.")  # fmt: skip
    for rules in (["quality"], ["c4"], ["quality", "c4"]):
        found = attributes(text, rules, "prose")
        assert apply(text, found, rules) == Applied(text, None, 0, 0), why(found, rules)
        marks = [a for a in found if a.rule.startswith("not-english")]
        if rules == ["c4"] and not marks:
            continue  # there was nothing that it would have cut
        (mark,) = marks
        assert mark.rule == f"not-english:{code}"
        assert f"rules for English not asked: {code}, probability" in why(found, rules)[-1]


def test_of_english_and_of_what_is_unsure_all_is_asked():
    words = "The dog and the cat have to be in that house with the old man. " * 2
    for text in (words, "x1 y2 z3 " * 30, "Ab 12 cd. " * 30):
        found = attributes(text, ["quality", "c4"], "prose")
        assert not [a for a in found if a.rule.startswith("not-english")]
        assert [a for a in found if a.rule == "gopher:stop-words"]
    rules = ["gopher:stop-words"]
    listed = "apple orange pear banana grape melon cherry plum peach lemon lime fig date kiwi mango"
    assert apply(listed, attributes(listed, rules, "prose"), rules).dropped_by == rules[0]


def test_repetition_is_found_without_spaces():
    rules = ["quality"]
    for text in (CHINESE, JAPANESE, THAI):
        again = text[:40] * 12
        assert apply(again, attributes(again, rules, "prose"), rules).dropped_by
    short = CHINESE[:40]
    assert apply(short, attributes(short, rules, "prose"), rules).dropped_by == "gopher:words"


def test_a_build_counts_the_languages_that_english_was_not_asked_of(tmp_path):
    documents = [Document(text, "prose", name) for name, text in (("f", FRENCH), ("c", CHINESE))]
    made = build(tmp_path / "c", documents, BuildOptions(vocabulary=257, clean=("quality",)))
    assert made.manifest["documents"] == 2
    assert made.manifest["not_english"] == {"fr": 1, "zh": 1}
    said = command("corpus", "show", made.path)
    assert "rules for English were not asked of documents in others: 1 in" in said.out


def test_rules_for_prose_are_not_asked_about_code():
    text = "x = {1}\n" * 9
    assert attributes(text, ["quality", "c4", "boilerplate"], "code") == []
    assert attributes(text, ["quality", "c4", "boilerplate"], "tests") == []
    assert apply(text, attributes(text, ["c4"], "notes"), ["c4"]).dropped_by == "c4:curly-bracket"


def test_names_of_rules():
    assert [r.name for r in rules_named(("personal", "personal:ip", "c4:sentences"))] == [
        "personal:email",
        "personal:ip",
        "personal:card",
        "c4:sentences",
    ]
    with pytest.raises(WrongUse, match="'quality'"):
        rules_named(("qualty",))
    assert sum(len(rules) for rules in GROUPS.values()) == len(RULES) - 3
    for rule in RULES.values():
        assert bool(rule.placeholder) == (rule.action == "mask span")


def test_overlapping_spans():
    """Cuts are joined and win over masks; of two masks the first and longer one stands."""
    text = "0123456789"
    rules = ("boilerplate", "personal")
    lines, mail, ip = "boilerplate:menu", "personal:email", "personal:ip"

    def left(*spans):
        return apply(text, [Attribute(a, b, 1.0, rule) for a, b, rule in spans], rules)

    assert left((2, 5, lines), (4, 6, lines), (6, 7, lines)).text == "01789"
    assert left((2, 5, lines), (4, 7, mail)).text == "0156789"
    assert left((1, 3, mail), (1, 4, ip), (5, 6, mail)) == clean.Applied(
        "0<IP>4<EMAIL>6789", None, 0, 2
    )
    assert left((0, 10, lines)) == clean.Applied(None, lines, 10, 0)


@given(st.text(alphabet="ab.#-{|1@ \n…é", max_size=200))
def test_what_is_left_is_what_no_span_touched(text):
    """For any text: attributes lie in it, and what is kept is in it, in order."""
    rules = ("c4:terminal-punctuation", "c4:short-lines", "boilerplate")
    found = attributes(text, EVERYTHING, "prose")
    for one in found:
        assert 0 <= one.start <= one.end <= len(text)
    applied = apply(text, found, rules)
    spared = set(range(len(text)))
    for one in found:
        if one.rule in {r.name for r in rules_named(rules)}:
            spared -= set(range(one.start, one.end))
    left = "".join(text[i] for i in sorted(spared))
    if applied.text is None:
        assert not left.strip()
    else:
        assert applied.text == left
        assert applied.removed == len(text) - len(left)
    assert attributes(text, EVERYTHING, "prose") == found


def in_words(text: str) -> tuple[list[str], int, int]:
    """Words, each character by itself where no spaces are; these characters, and their twelfths."""
    words, singles, parts = [], 0, 0
    for run in text.split():
        word, single = "", False
        for c in run:
            part = int(PARTS[ord(c)]) if ord(c) < len(PARTS) and c.isalpha() else 12
            if word and (part < 12 or (single and c.isalpha())):
                words.append(word)
                word, single = "", False
            if part < 12:
                single, singles, parts = True, singles + 1, parts + part
            word += c
        words.append(word)
    return words, singles, parts


def naive(text: str) -> dict[str, float]:
    """Gopher's measures, word by word, as their definitions read."""
    words, singles, parts = in_words(text)
    whole = len(words) - singles + parts / 12
    ratio = 12 * singles / parts if parts / 12 > len(words) - singles else 1
    count, total = max(1, whole), sum(map(len, words))
    filled = [line.strip() for line in text.split("\n") if line.strip()]
    shown = max(1, len(filled))
    letters = ["".join(c for c in w if c.isalpha()).lower() for w in words]
    measures = {
        "words": whole,
        "mean-word-length": total / count,
        "hash-ratio": text.count("#") / count,
        "ellipsis-ratio": sum(_ellipses(w) for w in words) / count,
        "alphabetic-words": sum(any(c.isalpha() for c in w) for w in words) / max(1, len(words)),
        "stop-words": len(set(STOP_WORDS) & set(letters)),
        "bullet-lines": sum(line[0] in "-*•‣▪◦●·–" for line in filled) / shown,
        "ellipsis-lines": sum(line.endswith(("...", "…")) for line in filled) / shown,
    }
    paragraphs, open_ = [], False
    for line in text.split("\n"):
        if line.strip() and open_:
            paragraphs[-1] += (line.strip(),)
        elif line.strip():
            paragraphs.append((line.strip(),))
        open_ = bool(line.strip())
    for name, parts in (("line", [(line,) for line in filled]), ("paragraph", paragraphs)):
        sizes = [sum(map(len, p)) for p in parts]
        again = [p in parts[:i] for i, p in enumerate(parts)]
        measures[f"duplicate-{name}s"] = sum(again) / max(1, len(parts))
        measures[f"duplicate-{name}-characters"] = sum(
            size for size, a in zip(sizes, again, strict=True) if a
        ) / max(1, sum(sizes))
    for size in range(2, 11):
        n = round(size * ratio)
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        most = counts.most_common(1)[0] if grams else (None, 0)
        if size <= 4:
            places = [i for i, g in enumerate(grams) if most[1] > 1 and g == most[0]]
        else:
            places = [i for i, g in enumerate(grams) if g in grams[:i]]
        covered = {word for i in places for word in range(i, i + n)}
        share = sum(len(words[i]) for i in covered) / max(1, total)
        measures[f"top-{size}-gram" if size <= 4 else f"duplicate-{size}-gram"] = share
    return measures


def _ellipses(word: str) -> int:
    runs = [len(list(run)) for dot, run in itertools.groupby(word) if dot == "."]
    return word.count("…") + sum(run >= 3 for run in runs)


@given(
    st.lists(
        st.sampled_from(
            ["中", "文。", "かな", "ไทย", "the", "The,", "be", "dog", "été", "them",
             "#", "...", "a…", "....b", "-", "1", "\n", "\n\n"]
        ),
        max_size=60,
    ).map(" ".join)
    | st.text(max_size=60)
)  # fmt: skip
def test_the_measures_are_those_of_their_definitions(text):
    view = View(text)
    assert view.gopher | view.repetition == pytest.approx(naive(text))


def test_small_letters_stand_where_the_large_ones_stood():
    for text in ("ABC def", "İstanbul SAYS", "Straße ΣΑΣ", ""):
        assert len(View(text).lower) == len(text)
    text = "İİİ\nWe Use Cookies here.\nend of it"
    assert cut("boilerplate:notice", text) == ["We Use Cookies here.\n"]


def test_why_in_english():
    text = " ".join(["counterrevolutionaries"] * 20 + ["joe@mail.org"])
    rules = ("gopher:mean-word-length", "gopher:words", "personal", "licence")
    found = [*attributes(text, rules, "prose"), Attribute(0, 9, 1.0, "licence:MIT")]
    said = why(found, rules)
    assert said[0] == "dropped by gopher: mean word length 21.5 > 10"
    assert said[1] == "dropped by gopher: number of words 21 < 50"
    assert "masked by personal: e-mail addresses (1 span, 12 characters)" in said
    assert "licence: MIT in 9 characters" in said
    passing = attributes(ENGLISH, ["gopher:mean-word-length"], "prose")
    assert why(passing, ["gopher:mean-word-length"]) == [
        "passed gopher: mean word length 4.06, at least 3, at most 10"
    ]
    assert why([], []) == ["kept: no rule has anything to say of it"]
