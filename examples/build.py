"""Build the example crawl and its gold pairs from the sentences in `sources/`.

    python examples/build.py            write crawl/ and gold/
    python examples/build.py --check    exit 1 and name the files that differ from what would be written

Same sources, same bytes: dates are fixed, record ids come from URLs, and gzip headers hold no time and no system.
Only the standard library is used, so that the examples can be rebuilt before anything is installed.
"""

import argparse
import base64
import gzip
import hashlib
import html
import json
import struct
import sys
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import accumulate, combinations, pairwise
from pathlib import Path

LANGUAGES = ("de", "el", "en", "fr", "ru", "zh")
PARALLEL_COLUMNS = ("id", "site", "page", "en", "de", "fr", "ru", "zh", "el")
MONO_COLUMNS = ("id", "lang", "site", "page", "text")
FEED_SITES = ("cycling", "hut", "market", "harbour")

# An image of one white pixel.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg==")

Key = tuple[str, str, str]  # site, page and language


class SourceError(Exception):
    """A source file does not have the shape that the examples need."""


@dataclass(frozen=True)
class Chrome:
    """What every page of a language repeats around its text; `sidebar` starts with its heading."""

    name: str
    menu: list[str]
    cookies: str
    buttons: list[str]
    sidebar: list[str]
    rights: str


@dataclass(frozen=True)
class SiteTexts:
    """The texts of the sites that are not sentences of the corpus: names, boilerplate and noise."""

    chrome: dict[str, Chrome]  # by language
    site_names: dict[str, dict[str, str]]  # by site and language
    page_names: dict[str, list[str]]  # by site, in the order of the page numbers
    code_block: list[str]  # the lines of a program
    print_notice: str  # the sentence in which the printer-friendly page differs from its original
    translated_by_plugin: list[str]  # what a plugin made, word for word, of sentences about the choir
    keywords: list[str]  # for search engines, not for readers


@dataclass(frozen=True)
class Page:
    """A page with text, before it becomes HTML or a feed line."""

    site: str
    path: str
    language: str
    paragraphs: tuple[str, ...]
    versions: tuple[str, ...] = ()  # languages that the page exists in, for its hreflang links
    html_lang: str = ""  # the `lang` attribute, where it is not the language
    head: str = ""  # HTML to put into the head,
    first: str = ""  # before the first paragraph,
    last: str = ""  # and after the last
    is_bare: bool = False  # without menus, banner and footer

    @property
    def url(self) -> str:
        """Where the page stands; the hosts are under `.example`, which nobody can own."""
        return f"https://{self.site}.example/{self.path}"

    def alternates(self) -> list[tuple[str, str]]:
        """Return (language, URL) of every version of the page, itself included."""
        name = self.path.rpartition("/")[2]
        return [(code, f"https://{self.site}.example/{code}/{name}") for code in self.versions]


@dataclass(frozen=True)
class Response:
    """An answer of a web server."""

    url: str
    body: bytes
    content_type: str = "text/html; charset=utf-8"
    status: str = "200 OK"
    location: str = ""


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a tab-separated file.

    Raises:
        SourceError: the header, the number of cells, an empty or padded cell, or an id that was there before.
    """
    lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    if tuple(lines[0].split("\t")) != tuple(columns):
        raise SourceError(f"build: {path}:1: header is {lines[0]!r}; it must be {' '.join(columns)}, tab-separated")
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(columns) or any(not cell or cell != " ".join(cell.split()) for cell in cells):
            shape = f"{len(cells)} cells, {len(columns)} needed, none of them empty or with irregular white space"
            raise SourceError(f"build: {path}:{number}: {shape}: {line[:80]!r}; correct the line")
        if cells[0] in rows:
            raise SourceError(f"build: {path}:{number}: id {cells[0]!r} stands twice; give the line an id of its own")
        rows[cells[0]] = dict(zip(columns, cells, strict=True))
    return list(rows.values())


def group_sentences(parallel: Iterable[dict[str, str]], mono: Iterable[dict[str, str]]) -> dict[Key, list[str]]:
    """Gather the sentences of both tables by page and language."""
    sentences: dict[Key, list[str]] = defaultdict(list)
    for row in parallel:
        for language in LANGUAGES:
            sentences[row["site"], row["page"], language].append(row[language])
    for row in mono:
        sentences[row["site"], row["page"], row["lang"]].append(row["text"])
    return dict(sentences)


def paragraphs(sentences: Sequence[str], language: str, sizes: Sequence[int]) -> tuple[str, ...]:
    """Join sentences to paragraphs of the given sizes."""
    space = "" if language == "zh" else " "
    return tuple(space.join(sentences[start:end]) for start, end in pairwise(accumulate(sizes, initial=0)))


def make_pages(sentences: dict[Key, list[str]], names: dict[str, list[str]]) -> dict[Key, Page]:
    """Lay every page of the sources out, in the order of the sources.

    Raises:
        SourceError: a page that has no name, or a number of sentences other than 5 (parallel) or 15.
    """
    pages: dict[Key, Page] = {}
    for (site, page, language), texts in sentences.items():
        is_parallel, number = page[0] == "p", int(page[1:])
        sizes = ((5,), (3, 2))[number % 2] if is_parallel else (4, 6, 5)
        if number > len(names.get(site, ())) or len(texts) != sum(sizes):
            where = f"page {page} of site {site!r} in {language} with {len(texts)} sentences"
            raise SourceError(f"build: {where}; the sites are {', '.join(names)}, with 5 sentences a page, or 15")
        path = f"{language}/" * is_parallel + f"{names[site][number - 1]}.html"
        versions = LANGUAGES if is_parallel else ()
        pages[site, page, language] = Page(site, path, language, paragraphs(texts, language, sizes), versions)
    return pages


def list_items(links: Iterable[tuple[str, str]]) -> str:
    """Return links, as (URL, label), as an HTML list."""
    return "<ul>" + "".join(f'<li><a href="{url}">{label}</a></li>' for url, label in links) + "</ul>"


def chrome_around(page: Page, texts: SiteTexts) -> tuple[str, str]:
    """Return what stands before and after the text on every page of a site."""
    chrome, name = texts.chrome[page.language], texts.site_names[page.site][page.language]
    menu = list_items((f"/menu/{number}", label) for number, label in enumerate(chrome.menu))
    languages = list_items((url, texts.chrome[code].name) for code, url in page.alternates())
    heading, *entries = chrome.sidebar
    sidebar = list_items((f"/more/{number}", label) for number, label in enumerate(entries))
    buttons = "".join(f"<button>{label}</button>" for label in chrome.buttons)
    before = [
        f'<div class="cookie-banner" role="dialog"><p>{chrome.cookies}</p>{buttons}</div>',
        f"<header><h1>{name}</h1></header>",
        f'<nav>{menu}</nav>\n<nav class="languages">{languages}</nav>',
    ]
    after = [
        f'<aside class="sidebar"><h2>{heading}</h2>{sidebar}</aside>',
        f'<footer class="footer"><p>© 2026 {name}. {chrome.rights}</p></footer>',
    ]
    return "\n".join(before), "\n".join(after)


def render(page: Page, texts: SiteTexts) -> str:
    """Write a page as HTML."""
    before, after = ("", "") if page.is_bare else chrome_around(page, texts)
    head = [f"<title>{texts.site_names[page.site][page.language]}</title>", page.head]
    head += [f'<link rel="alternate" hreflang="{code}" href="{url}">' for code, url in page.alternates()]
    body = [page.first, *(f"<p>{html.escape(text, False)}</p>" for text in page.paragraphs), page.last]
    opening = f'<!DOCTYPE html>\n<html lang="{page.html_lang or page.language}">\n<head>'
    lines = [opening, *head, "</head>\n<body>", before, "<main>\n<article>"]
    lines += [*body, "</article>\n</main>", after, "</body>\n</html>"]
    return "\n".join(line for line in lines if line) + "\n"


def as_response(page: Page, texts: SiteTexts, encoding: str = "utf-8") -> Response:
    """Answer with a page in an encoding, named in the header; what the encoding lacks becomes a character reference."""
    body = render(page, texts).encode(encoding, "xmlcharrefreplace")
    return Response(page.url, body, f"text/html; charset={encoding}")


def odd_pages(pages: dict[Key, Page], texts: SiteTexts) -> list[Response]:
    """Return the pages of the sources that something is odd about."""
    program = html.escape("\n".join(texts.code_block), False)
    with_program = replace(pages["observatory", "p4", "en"], last=f"<pre><code>{program}</code></pre>")
    # As from a template that nobody adapted: a Greek page that declares itself English.
    wrong_lang = replace(pages["bakery", "p3", "el"], html_lang="en")
    # An old encoding that only the HTTP header names, and one that only the <meta> names.
    windows_1251 = as_response(pages["chess", "m1", "ru"], texts, "windows-1251")
    gb18030 = as_response(replace(pages["teahouse", "m1", "zh"], head='<meta charset="gb18030">'), texts, "gb18030")
    unnamed = replace(gb18030, content_type="text/html")
    return [as_response(with_program, texts), as_response(wrong_lang, texts), windows_1251, unnamed]


def duplicates(sentences: dict[Key, list[str]], pages: dict[Key, Page], texts: SiteTexts) -> list[Response]:
    """Return the same bytes under a URL with a campaign parameter, and a printed version with one sentence changed."""
    exact = as_response(pages["library", "p1", "en"], texts)
    printed = [*sentences["choir", "m2", "de"][:-1], texts.print_notice]
    near = Page("choir", "druck/saengerfest.html", "de", paragraphs(printed, "de", (4, 6, 5)), is_bare=True)
    return [replace(exact, url=exact.url + "?utm_source=newsletter"), as_response(near, texts)]


def bilingual_page(sentences: dict[Key, list[str]], texts: SiteTexts) -> Response:
    """German and English paragraphs in turn, all of them from other pages and none a translation of another."""
    german = paragraphs(sentences["choir", "m3", "de"], "de", (5, 5, 5))
    english = paragraphs(sentences["radio", "m3", "en"], "en", (5, 5, 5))
    mixed = tuple(text for both in zip(german, english, strict=True) for text in both)
    return as_response(Page("choir", "gaeste-guests.html", "de", mixed), texts)


def plugin_page(texts: SiteTexts) -> Response:
    """A German page as a translation plugin serves it, with the traces that such plugins leave."""
    head = '<meta name="generator" content="GTranslate">'
    banner = '<div class="skiptranslate">Powered by GTranslate</div>'
    clumsy = (" ".join(texts.translated_by_plugin),)
    return as_response(Page("choir", "en/proben.html", "en", clumsy, head=head, first=banner), texts)


def keyword_page(texts: SiteTexts) -> Response:
    """Keywords for search engines, in an order that means nothing."""
    words = texts.keywords
    lists = (", ".join(words[(7 * row + 5 * item) % len(words)] for item in range(12)) for row in range(8))
    body = "".join(f"<p>{line}</p>\n" for line in lists)
    page = f'<!DOCTYPE html>\n<html lang="en"><head><title>Cheap deals</title></head>\n<body>\n{body}</body></html>\n'
    return Response("https://deals.example/index.html", page.encode())


def answers_without_text() -> list[Response]:
    """What a crawler meets besides pages: an error, a redirect, an image, nothing, and a page that is all script."""
    lost = '<html lang="en"><body><h1>Not found</h1><p>The page that you asked for does not exist.</p></body></html>\n'
    script = '<div id="root"></div><script>render(document.getElementById("root"))</script>'
    player = f'<html lang="en"><head><title></title></head><body>{script}</body></html>\n'
    site = "https://radio.example/"
    return [
        Response(site + "closed.html", lost.encode(), status="404 Not Found"),
        Response(site, b"", status="301 Moved Permanently", location=site + "station.html"),
        Response(site + "logo.png", PNG, "image/png"),
        Response(site + "empty.html", b""),
        Response(site + "player.html", player.encode()),
    ]


def make_responses(sentences: dict[Key, list[str]], pages: dict[Key, Page], texts: SiteTexts) -> list[Response]:
    """Return all that the crawl fetched: the pages in the order of the sources, then the noise."""
    odd = {response.url: response for response in odd_pages(pages, texts)}
    crawled = (page for page in pages.values() if page.site not in FEED_SITES)
    responses = [odd.get(page.url) or as_response(page, texts) for page in crawled]
    responses += duplicates(sentences, pages, texts)
    responses += [bilingual_page(sentences, texts), plugin_page(texts), keyword_page(texts)]
    return responses + answers_without_text()


def fetch_time(index: int) -> tuple[str, str]:
    """Return when the crawl fetched its page number `index`, as WARC and as HTTP write it."""
    moment = datetime(2026, 3, 2, 6, 0, tzinfo=UTC) + timedelta(seconds=7 * index)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ"), format_datetime(moment, usegmt=True)


def gzip_member(content: bytes) -> bytes:
    """Compress one gzip member; Python's own header names the system, and differs between versions of Python."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    trailer = struct.pack("<II", zlib.crc32(content), len(content))
    return header + deflater.compress(content) + deflater.flush() + trailer


def digest(content: bytes) -> str:
    """Return a digest as WARC files carry it."""
    return "sha1:" + base64.b32encode(hashlib.sha1(content).digest()).decode()


def warc_record(kind: str, name: str, date: str, fields: dict[str, str], block: bytes) -> bytes:
    """Return one WARC record in a gzip member of its own; its id depends on the name (a URL or a file name) only."""
    identity = f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"
    fields = {"WARC-Type": kind, "WARC-Record-ID": identity, "WARC-Date": date, **fields}
    fields |= {"WARC-Block-Digest": digest(block), "Content-Length": str(len(block))}
    lines = ["WARC/1.1", *(f"{field}: {value}" for field, value in fields.items()), "", ""]
    return gzip_member("\r\n".join(lines).encode() + block + b"\r\n\r\n")


def build_warc(responses: Iterable[Response], filename: str) -> bytes:
    """Write the crawl as WARC 1.1: a warcinfo record and one response record for each answer."""
    about = b"software: emsmine examples/build.py\r\nformat: WARC File Format 1.1\r\ndescription: invented sites\r\n"
    fields = {"WARC-Filename": filename, "Content-Type": "application/warc-fields"}
    records = [warc_record("warcinfo", filename, fetch_time(0)[0], fields, about)]
    for index, response in enumerate(responses):
        warc_date, http_date = fetch_time(index)
        http = [f"HTTP/1.1 {response.status}", f"Date: {http_date}", "Server: example"]
        http += [f"Location: {response.location}"] if response.location else []
        http += [f"Content-Type: {response.content_type}", f"Content-Length: {len(response.body)}", "", ""]
        fields = {"WARC-Target-URI": response.url, "Content-Type": "application/http; msgtype=response"}
        fields |= {"WARC-Payload-Digest": digest(response.body)}
        block = "\r\n".join(http).encode() + response.body
        records.append(warc_record("response", response.url, warc_date, fields, block))
    return b"".join(records)


def build_feeds(pages: Iterable[Page]) -> bytes:
    """Write the sites that have a feed as JSON lines, with a broken line and one without text in the middle."""
    lines = []
    for index, page in enumerate(page for page in pages if page.site in FEED_SITES):
        row = {"url": page.url, "date": fetch_time(index)[0], "text": "\n".join(page.paragraphs)}
        lines.append(json.dumps(row | {"lang": page.language}, ensure_ascii=False))
    middle = len(lines) // 2
    malformed = lines[middle][: len(lines[middle]) // 2]  # a line cut short by a writer that died
    textless = json.dumps({"url": "https://hut.example/en/webcam.html", "date": fetch_time(0)[0], "lang": "en"})
    lines[middle:middle] = [malformed, textless]
    return gzip_member("".join(line + "\n" for line in lines).encode())


def build_all(sources: Path) -> dict[str, bytes]:
    """Return every built file by its path below `examples/`; SourceError if the sources do not fit."""
    parallel = read_table(sources / "parallel.tsv", PARALLEL_COLUMNS)
    sentences = group_sentences(parallel, read_table(sources / "mono.tsv", MONO_COLUMNS))
    stored = json.loads((sources / "site_texts.json").read_bytes())
    chrome = {language: Chrome(**labels) for language, labels in stored.pop("chrome").items()}
    texts = SiteTexts(chrome=chrome, **stored)
    pages = make_pages(sentences, texts.page_names)
    responses = make_responses(sentences, pages, texts)
    built = {
        "crawl/sites.warc.gz": build_warc(responses, "sites.warc.gz"),
        "crawl/feeds.jsonl.gz": build_feeds(pages.values()),
    }
    for left, right in combinations(LANGUAGES, 2):
        lines = (f"{row[left]}\t{row[right]}\n" for row in parallel)
        built[f"gold/{left}-{right}.tsv"] = "".join(lines).encode()
    return built


def contents(stored: bytes) -> bytes:
    """Return a file decompressed: comparing this allows for a zlib that compresses differently (zlib-ng does)."""
    try:
        return gzip.decompress(stored)
    except (OSError, EOFError, zlib.error):
        return stored


def outdated_files(built: dict[str, bytes], folder: Path) -> list[str]:
    """Name the files below `folder` that are missing, differ, or should not be there."""
    found = {path.relative_to(folder).as_posix() for name in ("crawl", "gold") for path in (folder / name).glob("*")}
    changed = {name for name in found & built.keys() if contents((folder / name).read_bytes()) != contents(built[name])}
    return sorted((found ^ built.keys()) | changed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check the examples and return the exit code."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Build the example crawl and its gold pairs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the built files are not current")
    parser.add_argument("--sources", type=Path, default=here / "sources", help="folder of parallel.tsv and mono.tsv")
    parser.add_argument("--output", type=Path, default=here, help="folder for crawl/ and gold/")
    options = parser.parse_args(arguments)
    try:
        built = build_all(options.sources)
    except (SourceError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.check:
        outdated = outdated_files(built, options.output)
        for name in outdated:
            print(f"build: {options.output / name} is not what the sources give; run: python examples/build.py")
        return 1 if outdated else 0
    for name, content in built.items():
        path = options.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"build: wrote {len(built)} files to {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
