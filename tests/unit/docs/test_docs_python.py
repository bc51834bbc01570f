"""docs/python.md: all of its code runs, in order, and it names what `emsmine` offers and nothing else."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

import pipeline_kit as kit
import pytest

import emsmine

PAGE = (Path(__file__).resolve().parents[3] / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def prepare(folder: Path) -> None:
    """Write the files that the page reads."""
    kit.write_crawl(folder / "crawl")
    for lang in ("de", "en"):
        lines = "".join(f"{sentence}\n" for sentence in kit.PARALLEL[lang])
        (folder / f"sentences.{lang}").write_text(lines, encoding="utf-8")


def test_all_code_of_the_page_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING)
    # One process, as every worker loads the libraries anew.
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(BLOCKS):
        # Numbered for the traceback.
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    assert len(BLOCKS) > 8
    assert [row["source"] for row in names["rows"]] == [
        pair.source for pair in names["again"].__class__(names["table"])
    ]
    assert (tmp_path / "pairs.tsv").read_text(encoding="utf-8").count("\n") == len(names["rows"])
    assert {pair.source for pair in names["reversed_pairs"]} == {pair.target for pair in names["pairs"]}
    assert len(names["bad"]) == 1
    assert len(names["from_files"]) > kit.NUM_PARALLEL / 2
    assert len(names["again"]) > kit.NUM_PARALLEL / 2
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "did you mean de (German)?" in printed.out
    assert "every row is accounted for" in printed.out
    assert caplog.messages == []


def test_what_the_page_says_of_a_score_that_is_missing(tmp_path: Path) -> None:
    scores = emsmine.score(
        ["Der Bäcker malt das Boot.", "Meine Tante verkauft sieben Lampen."],
        ["The baker paints the boat.", ""],
        source_lang="de",
        target_lang="en",
    )
    assert scores.counts["target.empty"] == 1
    assert [row["score"] is None for row in scores.to_list()] == [False, True]


def test_the_page_and_the_package_offer_the_same_names() -> None:
    named = set(re.findall(r"\bemsmine\.(\w+)", PAGE))
    assert named == set(emsmine.__all__)
    assert set(emsmine.__all__) <= set(dir(emsmine))
    for name in emsmine.__all__:
        assert getattr(emsmine, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'emsmine' has no attribute 'mien'"):
        emsmine.mien  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="mien"):
        from emsmine import mien  # type: ignore[attr-defined]  # noqa: F401
    assert sys.modules["emsmine.errors"] is emsmine.errors
