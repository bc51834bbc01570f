"""Text from data, made fit for a terminal."""

import re

# C0, DEL and C1 (cursor, colours, titles), line and paragraph separators, what turns the direction of writing,
# annotations, tags that nobody sees, and surrogates. Joiners stay: scripts need them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNSEEN_IN_LINES = re.compile(_UNSEEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(text: str, *, lines: bool = False) -> str:
    """Replace every character that a terminal would act on by a visible escape, as in `\\x1b`.

    A file name, a sentence of a crawl or a manifest of somebody else may hold any character. Printed as they are, they
    could recolour the screen, forge lines of a message or turn its reading direction.

    Args:
        text: from a file, a file name, or a message that quotes one.
        lines: leave line feeds and tabs alone, for text of several lines that we laid out.

    Returns:
        Text that can be encoded in UTF-8 and whose characters all show.
    """
    return (_UNSEEN_IN_LINES if lines else _UNSEEN).sub(_escape, text)


def _escape(found: "re.Match[str]") -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8, as Python stands it in
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
