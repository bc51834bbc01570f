"""The main text of an HTML page, its language attribute, and signs that it was machine translated.

resiliparse parses and renders; what is boilerplate is decided here. Its own `main_content=True` was tried on real pages
and drops short inline elements from the middle of sentences ("do <b>not</b> press" becomes "do press"), which turns
their meaning round.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from emsmine.pipelines.readers.records import one_line, paragraphs

# Never sentences of the page. A code block is none either; inline <code> stays, for it is a word of its sentence.
_ALWAYS_DROPPED = (
    "script, style, template, noscript, pre, textarea, select, button, svg, iframe, object, nav, footer, dialog, menu, "
    "[role=navigation], [role=contentinfo], [role=search], [role=dialog], [role=alertdialog], [role=menu], "
    '[role=menubar], [class*="skip-link" i], [class*="skiplink" i]'
)
# Dropped unless most of the page is inside: some sites hide the whole page until a script has run.
_HIDDEN = '[hidden], [aria-hidden=true], [style*="display:none" i], [style*="display: none" i]'
# The same for blocks that sites name so: `has-cookie-bar` may stand on a wrapper of the whole page.
_NAMED_BLOCKS = (
    'aside, form, [class*="cookie" i], [id*="cookie" i], [class*="consent" i], [id*="consent" i], [class*="gdpr" i], '
    '[id*="gdpr" i], [class*="breadcrumb" i], [class~="navbar"], [class~="navigation"], [class~="menu"], '
    '[class~="sidebar"], [class~="toc"], [class~="footer"], [class~="pagination"], [class~="share"], '
    '[class~="social"], '
    '[id="navigation"], [id="menu"], [id="sidebar"], [id="toc"], [id="footer"]'
)
# All whose content is looked at, once for each.
_TESTED = f"{_HIDDEN}, {_NAMED_BLOCKS}, ul, ol, dl, table, main, [role=main], article, header, [role=banner]"
_BLOCK_TAGS = frozenset(["aside", "details", "div", "form", "header", "ol", "section", "table", "ul"])
_PAGE_TAGS = frozenset(["html", "body", "main", "article"])
_MAX_SHARE = 0.5
_MIN_MAIN_SHARE = 0.2
_MAX_LINK_SHARE = 0.75
_MIN_LINKS = 3
_MAX_HEADERS = 100
_CHARGE_PER_LINK = 200
# Characters of node text that may be looked at, as a multiple of the page's: bounds pages of deeply nested blocks.
_WORK_FACTOR = 20
# As in the WHATWG MIME Sniffing Standard; resiliparse misses pages without a doctype.
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|!--|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|"
    rb"meta)[\s>-]",
    re.IGNORECASE,
)
# As browsers do, which put deeper elements beside each other.
_MAX_DEPTH = 512
# So few tags that nesting them in any way costs little.
_FEW_TAGS = 4096
_STEPS_PER_CHAR = 4
_MAX_TAGS = 500_000
_MAX_OPEN = 10_000
_MAX_ATTRIBUTES = 20_000
_LONG_TAG_CHARS = 1 << 14
_LARGE_CHARS = 1 << 16
_TAG = re.compile(r"""<[A-Za-z](?:[^"'>]++|"[^"]*+"|'[^']*+')*+>?""")
_QUOTED = re.compile(r""""[^"]*+"|'[^']*+'""")
_TAG_NAME = re.compile(r"<(/?[a-z][a-z0-9]{0,15})")
# An end tag is often left out, and the next start tag closes them.
_VOID = ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
_CLOSED_BY_THEMSELVES = frozenset(
    [*_VOID, "p", "li", "dt", "dd", "option", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup", "rt", "rp"]
)
_CELL = re.compile(r"\t+")

# (hint, words of which its markup holds one, selector)
_MT_SIGNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("google_translated", ("translated-",), ".translated-ltr, .translated-rtl"),
    (
        "google_widget",
        ("goog-te", "google_translate", "translate.google"),
        '[class*="goog-te" i], #google_translate_element, script[src*="translate.google" i]',
    ),
    ("gtranslate", ("gtranslate",), '[class*="gtranslate" i], [id*="gtranslate" i], [src*="gtranslate" i]'),
    ("skiptranslate", ("skiptranslate",), '[class*="skiptranslate" i]'),
    ("transposh", ("transposh",), '[class*="transposh" i], [id*="transposh" i], [src*="transposh" i]'),
    (
        "translatepress",
        ("translatepress", "trp-language"),
        '[class*="translatepress" i], [class*="trp-language" i], [href*="translatepress" i], [src*="translatepress" i]',
    ),
    ("translation_stats", ("translation-stats",), 'meta[name="translation-stats" i]'),
    ("weglot", ("weglot",), '[class*="weglot" i], [src*="weglot" i], [href*="weglot" i]'),
    ("wpml", ("wpml",), '[class*="wpml" i], [id*="wpml" i], [href*="wpml" i], [src*="wpml" i]'),
)
_GENERATORS = ("gtranslate", "transposh", "translatepress", "weglot", "wpml")


@dataclass(frozen=True, slots=True)
class Page:
    """What a page gives: its main text as paragraphs, `<html lang>` as written, and signs of machine translation."""

    text: str
    lang: str
    mt_hints: tuple[str, ...]


class PageTooComplex(Exception):
    """A page would take more work than a page of people can; the message says which limit it is over."""


class _Work:
    """A budget of characters, so that the tests of nested nodes stay linear in the size of the page.

    Deeply nested nodes without text cost time too, so each test counts as a fiftieth of the page at least.
    """

    def __init__(self, size: int) -> None:
        self._left = _WORK_FACTOR * size
        self._minimum = size // 50
        self._steps = _STEPS_PER_CHAR * size

    def text_length(self, node: Any) -> int:
        """Return the number of characters in a node, without the whitespace that indents the markup."""
        text = str(node.text or "")
        self._left -= max(len(text), self._minimum)
        return len(" ".join(text.split()))

    def charge(self, size: int) -> None:
        """Count other work, as if `size` characters had been looked at."""
        self._left -= size

    def check_depth(self, node: Any) -> None:
        """Refuse a node that is nested too deeply: what is done for each node of a chain takes quadratic time."""
        depth = 0
        parent = node.parent
        while parent is not None:
            depth += 1
            parent = parent.parent
            if depth > _MAX_DEPTH:
                raise PageTooComplex(f"elements are nested more than {_MAX_DEPTH} deep")
        self._steps -= depth
        if self._steps < 0:
            raise PageTooComplex("too many deeply nested elements")

    @property
    def is_spent(self) -> bool:
        return self._left < 0


def check_markup(markup: str) -> None:
    """Refuse a large page whose markup alone tells that a parser would take more than linear time or much memory.

    Raises:
        PageTooComplex: it has more tags, elements left open, or attributes in one tag than allowed.
    """
    num_tags = markup.count("<")
    if num_tags > _MAX_TAGS:
        raise PageTooComplex(f"{num_tags} tags, limit {_MAX_TAGS}")
    for tag in _TAG.finditer(markup):
        if tag.end() - tag.start() > _LONG_TAG_CHARS:
            num_attributes = len(_QUOTED.sub("", tag[0]).split())
            if num_attributes > _MAX_ATTRIBUTES:
                raise PageTooComplex(f"a tag with some {num_attributes} attributes, limit {_MAX_ATTRIBUTES}")
    if num_tags > _MAX_OPEN:
        tags = Counter(_TAG_NAME.findall(markup.lower()))
        for name, count in tags.items():
            num_open = count - tags[f"/{name}"]
            if num_open > _MAX_OPEN and name not in _CLOSED_BY_THEMSELVES and not name.startswith("/"):
                raise PageTooComplex(f"{num_open} elements {name} are left open, limit {_MAX_OPEN}")


def _select(node: Any, selector: str) -> list[Any]:
    """Return the matching descendants; iterating over the collection itself takes quadratic time in resiliparse 2.0."""
    return list(node.query_selector_all(selector).values())


def sniff(content: bytes) -> str:
    """Return the media type of a page that declares none, such as `text/html`, `text/plain` or `application/pdf`."""
    from resiliparse.parse.encoding import detect_mime

    if _HTML_START.match(content):
        return "text/html"
    return str(detect_mime(content[: 1 << 16])) if content else "text/plain"


def extract(markup: str) -> Page:
    """Return the main text of a page and what else its markup tells.

    Each heading, paragraph, list item, table cell and line before a `<br>` is a paragraph of its own; inline elements
    are joined. Code blocks, navigation, footers, cookie notices and hidden elements are left out.

    Args:
        markup: the page as a decoded string; broken markup is read as browsers read it.

    Raises:
        PageTooComplex: the page would take more work than allowed.
    """
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if len(markup) > _LARGE_CHARS:
        check_markup(markup)
    tree = HTMLTree.parse(markup)
    lang, mt_hints = _lang(tree), _mt_hints(tree, markup)
    if tree.body is None:
        return Page("", lang, mt_hints)
    work = _Work(len(markup))
    if markup.count("<") > _FEW_TAGS:
        for node in _select(tree.body, _TESTED):
            work.check_depth(node)
    for node in _select(tree.body, _ALWAYS_DROPPED):
        if node.tag not in _PAGE_TAGS:
            node.remove()
    _drop_unless_most(tree.body, work)
    if not _keep_main(tree.body, work):
        _drop_page_header(tree.body)
        _drop_link_lists(tree.body, work)
    text = extract_plain_text(tree, preserve_formatting=True, list_bullets=False, alt_texts=False)
    return Page(paragraphs(_CELL.sub("\n", text)), lang, mt_hints)


def _lang(tree: Any) -> str:
    root = tree.document.query_selector("html")
    if root is None:
        return ""
    lang = one_line(root.getattr("lang") or root.getattr("xml:lang") or "")
    return lang if len(lang) <= 35 else ""  # the longest tag that BCP 47 asks programs to take


def _mt_hints(tree: Any, markup: str) -> tuple[str, ...]:
    lowered = markup.lower()
    hints = set()
    for hint, words, selector in _MT_SIGNS:
        # The words also stand in articles about these programs: only markup counts.
        if any(word in lowered for word in words) and tree.document.query_selector(selector) is not None:
            hints.add(hint)
    if any(name in lowered for name in _GENERATORS):
        for meta in _select(tree.document, 'meta[name="generator" i]'):
            content = (meta.getattr("content") or "").lower()
            hints.update(name for name in _GENERATORS if name in content)
    return tuple(sorted(hints))


def _drop_unless_most(body: Any, work: _Work) -> None:
    total = work.text_length(body)
    for selector, tags in ((_HIDDEN, None), (_NAMED_BLOCKS, _BLOCK_TAGS)):
        for node in _select(body, selector):
            if work.is_spent:
                return
            if node.tag in _PAGE_TAGS or (tags and node.tag not in tags):
                continue
            if work.text_length(node) <= _MAX_SHARE * total:
                node.remove()


def _keep_main(body: Any, work: _Work) -> bool:
    """Leave only the main element in the page; False if it has none that holds a fair share of the text."""
    total = work.text_length(body)
    mains, articles = _select(body, "main, [role=main]"), _select(body, "article")
    candidates = mains[:20] or ([articles[0]] if len(articles) == 1 else [])
    sizes = [work.text_length(node) for node in candidates]
    if not sizes or max(sizes) <= (_MIN_MAIN_SHARE if mains else _MAX_SHARE) * total:
        return False
    main = candidates[sizes.index(max(sizes))]
    if main.tag != "body":
        body.replace_children(main)
    return True


def _drop_page_header(body: Any) -> None:
    """Drop banners; a header with the page's title, or in an article, belongs to the text."""
    for node in _select(body, "header, [role=banner]")[:_MAX_HEADERS]:
        if node.query_selector("h1") is None and node.closest("article") is None and node.tag not in _PAGE_TAGS:
            node.remove()


def _drop_link_lists(body: Any, work: _Work) -> None:
    """Drop lists and tables that are nearly all links: menus of pages that do not mark them as such."""
    for node in _select(body, "ul, ol, dl, table"):
        if work.is_spent:
            return
        links = _select(node, "a")
        if len(links) >= _MIN_LINKS:
            work.charge(_CHARGE_PER_LINK * len(links))
            linked = sum(len(" ".join(str(link.text or "").split())) for link in links)
            if linked > _MAX_LINK_SHARE * work.text_length(node):
                node.remove()
