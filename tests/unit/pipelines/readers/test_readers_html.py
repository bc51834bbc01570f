"""What counts as the text of a page."""

import contextlib
import time

import pytest

from emsmine.pipelines.readers.html import PageTooComplex, extract

SITE = """<!DOCTYPE html><html lang="de-DE"><head><title>Titel</title></head><body class="has-cookie-bar">
<header><a href="/">Start</a></header><nav><ul><li><a href="a">Menüpunkt</a></li></ul></nav>
<div id="cookie-banner">Wir verwenden Cookies.</div>
{open}<h1>Das Backen</h1><p>Man darf den Ofen <b>nicht</b>
 öffnen, bis <code>ende</code> erscheint.<br>Dann schon.</p><pre>ofen.auf()</pre>
<ul><li>Mehl</li><li><p>Wasser</p><ul><li>Salz</li></ul></li></ul>
<table><tr><th>Brot</th><th>Zeit</th></tr><tr><td>Roggen</td><td>lang</td></tr></table>
<p hidden>versteckt</p><img alt="Bild"><p>Z<span>wei</span>fel</p>{close}
<footer>Impressum</footer></body></html>"""
EXPECTED = (
    "Das Backen\nMan darf den Ofen nicht öffnen, bis ende erscheint.\nDann schon.\nMehl\nWasser\nSalz\nBrot\nZeit\n"
    "Roggen\nlang\nZweifel"
)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("<main>", "</main>"), ("<article>", "</article>"), ('<div role="main">', "</div>"), ("<div>", "</div>")],
)
def test_main_text_is_whole_and_alone(opening: str, closing: str) -> None:
    page = extract(SITE.format(open=opening, close=closing))
    assert page.text == EXPECTED
    assert page.lang == "de-DE"


def test_page_wrapped_in_a_form_or_hidden_until_loaded_is_kept() -> None:
    for wrapper in ("<form>", '<div class="cookie-consent-page">', '<div style="display:none">'):
        tag = wrapper[1:5].strip(">").strip()
        assert extract(f"<body>{wrapper}<p>Der ganze Text.</p></{tag}></body>").text == "Der ganze Text."


def test_lists_of_links_outside_main_are_menus() -> None:
    links = "".join(f'<li><a href="{n}">Seite {n}</a></li>' for n in range(5))
    assert (
        extract(f"<body><ul>{links}</ul><p>Ein Satz mit <a href='x'>Link</a>.</p></body>").text == "Ein Satz mit Link."
    )


@pytest.mark.parametrize(
    ("markup", "hints"),
    [
        ('<html class="translated-ltr"><p>x', ("google_translated",)),
        ('<meta name="generator" content="WPML ver:4.6"><p>x', ("wpml",)),
        ('<meta name="Generator" content="TranslatePress 2"><p>x', ("translatepress",)),
        ('<div class="gtranslate_wrapper"></div><p>x', ("gtranslate",)),
        ('<div class="skiptranslate goog-te-gadget"></div><p>x', ("google_widget", "skiptranslate")),
        (
            '<meta name="translation-stats" content="{}"><span class="transposh_x">a</span>',
            ("translation_stats", "transposh"),
        ),
        ("<p>An article about gtranslate, weglot, wpml and translated-ltr.", ()),
    ],
)
def test_signs_of_machine_translation(markup: str, hints: tuple[str, ...]) -> None:
    assert extract(markup).mt_hints == hints


@pytest.mark.parametrize(
    ("markup", "text"),
    [("", ""), ("<", "<"), ("<html>", ""), ("plain words", "plain words"), ("<html lang='" + "x" * 99 + "'><p>a", "a")],
)
def test_odd_markup(markup: str, text: str) -> None:
    page = extract(markup)
    assert (page.text, page.lang) == (text, "")


@pytest.mark.parametrize(
    "unit", ["<nav>a</nav>", "<div class=cookie>", "<ul><li><a>x</a>", "<header>a", "<p hidden>x</p>", "<div>"]
)
def test_hostile_markup_takes_linear_time(unit: str) -> None:
    start = time.process_time()
    with contextlib.suppress(PageTooComplex):
        extract("<body>" + unit * 20_000)
    assert time.process_time() - start < 2
