"""Text made fit for a terminal: nothing in it acts, all of it shows."""

import unicodedata

import pytest

from emsmine.display import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Straße 北京 नमस्ते 👩‍🔬 می‌خواهم", "Straße 北京 नमस्ते 👩‍🔬 می‌خواهم"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb\nc\td\x00\x7f", "a\\x0db\\x0ac\\x09d\\x00\\x7f"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
        ("\u202efdp.exe\u2066x\u2069\u200f\u061c", "\\u202efdp.exe\\u2066x\\u2069\\u200f\\u061c"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("caf\udce9.txt", "caf\\xe9.txt"),
        ("\ud800", "\\ud800"),
        ("a\\x1b", "a\\x1b"),
    ],
)
def test_escapes(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_keeps_our_own_lines_on_request() -> None:
    assert printable("one\n\ttwo\r\x1b", lines=True) == "one\n\ttwo\\x0d\\x1b"


@pytest.mark.parametrize("lines", [False, True])
def test_every_character_is_harmless_afterwards(lines: bool) -> None:
    shown = printable("".join(map(chr, range(0x110000))), lines=lines)
    shown.encode("utf-8")
    left = set(shown) - ({"\n", "\t"} if lines else set())
    assert not {c for c in left if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")}
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not {c for c in left if unicodedata.bidirectional(c) in turning}
