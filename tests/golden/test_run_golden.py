"""A run directory that an earlier version made is continued, byte for byte.

`run_directory.tar.gz` is a run over the invented German and English pages of `pipeline_kit`, made by the version of
1 December 2026 (the first one that can rescore), by margin, without lock, record and logs:
`emsmine run memory://feed.jsonl -p de-en -j 1 --no-rescore --threshold 1.0 --formats tsv,moses,parquet,jsonl`.

With another shipped model, or after a change of stored results that is meant: python tests/golden/test_run_golden.py
"""

import dataclasses
import gzip
import importlib.metadata
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pipeline_kit as kit

from emsmine.encoder.registry import load_encoder
from emsmine.pipelines.stages import select

ARCHIVE = Path(__file__).parent / "run_directory.tar.gz"
ARGS = ("-p", "de-en", "-j", "1", *kit.MARGIN_OF_ONE, "--formats", "tsv,moses,parquet,jsonl")


@contextmanager
def inputs() -> Iterator[None]:
    """Put the inputs where the run found them."""
    memory = fsspec.filesystem("memory")
    pages = {**kit.pages("de"), **kit.pages("en")}
    memory.pipe("/feed.jsonl", b"".join(kit.json_line(url, text) for url, text in pages.items()))
    memory.pipe("/more.jsonl", b"".join(kit.json_line(url, text) for url, text in kit.pages("fr").items()))
    yield
    memory.rm("/feed.jsonl")
    memory.rm("/more.jsonl")


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """Return the run directory, with its input where it was."""
    root = tmp_path / "old"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    made_with = {
        name: version
        for path in sorted((root / "manifests").rglob("*.json"))
        for name, version in json.loads(path.read_bytes()).get("params", {}).get("libraries", {}).items()
    }
    others = [name for name, version in made_with.items() if importlib.metadata.version(name) != version]
    if others:
        pytest.skip(f"made with other versions of {', '.join(others)}, which would ask for --redo")
    manifest = json.loads((root / "manifests/encode.encode/deu_Latn/00000.json").read_bytes())
    assert manifest["params"]["encoder_fingerprint"] == load_encoder("ems:default", device="cpu").fingerprint(), (
        "the run was made with another shipped model; if that is meant: python tests/golden/test_run_golden.py"
    )
    with inputs():
        yield root


def scores(path: Path) -> dict[str, float]:
    """Return the score of each line of a TSV by its texts."""
    rows = (line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {texts: float(score) for score, texts in rows}


def test_it_is_complete_and_verified(old: Path) -> None:
    report = kit.emsmine("report", old)
    assert "every row is accounted for" in report.out
    assert "NOT COMPLETE" not in report.out
    verified = kit.emsmine("verify", old)
    assert (verified.code, "no problem" in verified.out) == (0, True), verified.out


def test_nothing_is_done_again(old: Path) -> None:
    before = kit.tree(old)
    times = {name: (old / name).stat().st_mtime_ns for name in before}
    result = kit.emsmine("run", "memory://feed.jsonl", *ARGS, "-o", old)
    assert result.code == 0, result.err
    assert {name: digest for name, digest in kit.tree(old).items() if name != "emsmine.stat"} == before
    assert {name: (old / name).stat().st_mtime_ns for name in before} == times


def test_a_raised_version_of_a_stage_leaves_what_is_before_it(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (step,) = select.STAGE.steps
    raised = dataclasses.replace(step, version=step.version + 1)
    monkeypatch.setattr(select, "STAGE", dataclasses.replace(select.STAGE, steps=(raised,)))
    before = kit.tree(old)
    times = {name: (old / name).stat().st_mtime_ns for name in before}
    refused = kit.emsmine("run", "memory://feed.jsonl", *ARGS, "-o", old)
    assert refused.code == 1
    assert f"version {step.version} -> {raised.version}. Rerun with --redo select" in refused.err
    assert {name: digest for name, digest in kit.tree(old).items() if name != "emsmine.stat"} == before
    assert kit.emsmine("run", "-o", old, "-j", "1", "--redo", "select").code == 0
    stages = [f"{folder}/{stage}." for folder in ("manifests", "rejects") for stage in ("select", "filter", "export")]
    late = ("selected/", "pairs/", "export/", "config.toml", *stages)
    early = {name: time for name, time in times.items() if not name.startswith(late)}
    assert {name.split("/")[0] for name in early} > {"documents", "sentences", "embeddings", "neighbours"}
    assert {name: (old / name).stat().st_mtime_ns for name in early} == early


@pytest.mark.parametrize("stage", ["ingest", "langid", "index", "rescore", "select", "filter", "export"])
def test_what_is_made_again_has_the_same_bytes(old: Path, stage: str) -> None:
    before = kit.tree(old)
    assert kit.emsmine("run", "-o", old, "-j", "1", "--redo", stage).code == 0
    after = {name: digest for name, digest in kit.tree(old).items() if name != "emsmine.stat"}
    # Vectors may be rounded otherwise on another processor.
    parts = ("embeddings/", "tiles/", "neighbours/", "selected/", "pairs/", "export/", "rejects/select", "manifests/")
    late = stage in ("rescore", "select", "filter", "export")
    exact = [name for name in before if late or not name.startswith(parts)]
    assert sorted(after) == sorted(before)
    assert {name: after[name] for name in exact} == {name: before[name] for name in exact}


def test_it_can_be_extended(old: Path, tmp_path: Path) -> None:
    both = ("memory://feed.jsonl", "memory://more.jsonl")
    args = ("-p", "de-en,en-fr", *ARGS[2:])
    extended, alone = tmp_path / "extended", tmp_path / "alone"
    result = kit.emsmine("run", *both, *args, "-o", extended, "--reuse", old)
    assert result.code == 0, result.err
    assert kit.emsmine("run", *both, *args, "-o", alone).code == 0
    for name in ("de-en.tsv", "en-fr.tsv"):
        found, expected = (scores(root / "export" / name) for root in (extended, alone))
        # Vectors may be rounded otherwise on another processor.
        assert found == pytest.approx(expected, abs=2e-3)
        assert len(found) == kit.NUM_PARALLEL
    rows = {row["step"]: row for row in json.loads(kit.emsmine("report", extended, "--json").out) if row["reused"]}
    assert rows["encode.encode"]["reused"]["reused_vectors"] > 0


def make() -> None:
    """Write the archive anew; the same bytes from the same results."""
    with tempfile.TemporaryDirectory() as folder, inputs():
        root = Path(folder) / "run"
        result = kit.emsmine("run", "memory://feed.jsonl", *ARGS, "-o", root)
        assert result.code == 0, result.err
        with (
            ARCHIVE.open("wb") as file,
            gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for name in kit.tree(root):
                member = tarfile.TarInfo(name)
                member.size = (root / name).stat().st_size
                with (root / name).open("rb") as content:
                    archive.addfile(member, content)


if __name__ == "__main__":
    make()
