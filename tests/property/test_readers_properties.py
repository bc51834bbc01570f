"""Properties of the readers that hold for any content."""

import gzip
import json
import tempfile
from pathlib import Path

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.pipelines.readers.formats import FORMATS
from emsmine.pipelines.readers.html import extract
from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Problem, Record, one_line, paragraphs

FEW = settings(deadline=None, max_examples=60)
LINE_BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def read(content: bytes, format: str) -> list[Record | Problem]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "input"
        path.write_bytes(content)
        return list(read_records(str(path), format=format))


@FEW
@given(
    st.binary(max_size=300), st.sampled_from([name for name in FORMATS if name != "parquet"]), st.sampled_from("ngz")
)
def test_any_bytes_give_items_and_no_exception(content: bytes, format: str, codec: str) -> None:
    packed = {"n": content, "g": gzip.compress(content), "z": zstandard.compress(content)}[codec]
    for item in read(packed, format):
        text = item.text if isinstance(item, Record) else item.sample
        assert text.encode().decode() == text
        if isinstance(item, Problem):
            assert len(item.sample) <= 200
            assert "\n" not in item.sample


@FEW
@given(st.lists(st.text(max_size=40), max_size=8), st.sampled_from([bytes, gzip.compress, zstandard.compress]))
def test_jsonl_accounts_for_every_line_and_offset(texts: list[str], pack: object) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=True).encode() + b"\n" for text in texts]
    found = read(pack(b"".join(lines)), "jsonl")  # type: ignore[operator]
    assert [item.offset for item in found] == [sum(map(len, lines[:n])) for n in range(len(lines))]
    for text, item in zip(texts, found, strict=True):
        assert (item.text if isinstance(item, Record) else "") == paragraphs(text)


@FEW
@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_paragraphs_is_idempotent_and_keeps_every_visible_character(text: str) -> None:
    once = paragraphs(text)
    assert paragraphs(once) == once
    assert "".join(once.split()) == "".join(text.split())
    assert not any(mark in once for mark in LINE_BREAKS)
    assert all(line.strip() for line in once.split("\n")) or not once


@FEW
@given(st.text())
def test_samples_are_short_and_on_one_line(text: str) -> None:
    for sample in (one_line(text), one_line(text.encode("utf-8", "surrogatepass"))):
        assert len(sample) <= 200
        assert sample.isprintable()


@FEW
@given(
    st.lists(
        st.sampled_from(["<p>", "</p>", "<b>", "</div>", "<main>", "<nav>", "<li>", "Brot", " ", "&amp;", "<", "<!--"])
    )
)
def test_any_markup_gives_clean_paragraphs(parts: list[str]) -> None:
    page = extract("".join(parts))
    assert page.text == paragraphs(page.text)
    assert page == extract("".join(parts))
