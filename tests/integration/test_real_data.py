"""The pipeline on real pages and real sentences, where they lie beside the repository."""

import shutil
import tarfile
from pathlib import Path

import pipeline_kit as kit
import pytest
import zstandard

from emsmine.pipelines.direct.sentences import read_lines
from emsmine.pipelines.settings import PROBABILITY_THRESHOLD, RATIO_THRESHOLD

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
CRAWL = DATA / "crawl"


def needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the repository; this test needs real data")
    return path


@pytest.mark.parametrize("name", ["docs-crawl.warc.gz", "docs-crawl.warc.wet.gz", "docs-crawl.jsonl.gz"])
def test_real_pages_are_read_without_loss(tmp_path: Path, name: str) -> None:
    path = needed(CRAWL / name)
    result = kit.emsmine("run", path, "-p", "de-en", "-o", tmp_path / "run", "-j", 1, "--until", "ingest")
    assert result.code == 0, result.err
    (row,) = kit.emsmine("report", tmp_path / "run", "--json").json
    assert row["adds_up"]
    assert row["rows_out"] > 0
    documents = kit.rows(tmp_path / "run", "documents")
    assert len(documents) == row["rows_out"]
    assert all(document["text"] and "\r" not in document["text"] for document in documents)
    assert len({document["url"] for document in documents}) > len(documents) / 2


@pytest.mark.parametrize(("flags", "lowest"), [([], PROBABILITY_THRESHOLD), (["--no-rescore"], RATIO_THRESHOLD)])
def test_real_sentences_are_mined(tmp_path: Path, flags: list[str], lowest: float) -> None:
    sides = []
    for lang in ("de", "en"):
        path = needed(DATA / "mining-dev" / f"de-en.{lang}.zst")
        sentences = [line.decode("utf-8").split("\t", 1)[1] for line in read_lines(str(path))][:3000]
        sides.append(tmp_path / f"sentences.{lang}")
        sides[-1].write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    result = kit.emsmine("mine", *sides, "--source-lang", "de", "--target-lang", "en", *flags)
    assert result.code == 0, result.err
    rows = [line.split("\t") for line in result.out.split("\n")[:-1]]
    assert {len(row) for row in rows} <= {3}
    scores = [float(row[0]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert min(scores, default=lowest) >= lowest
    assert len({row[1] for row in rows}) == len(rows)


def test_tatoeba_as_it_is_shipped(tmp_path: Path) -> None:
    archive = needed(DATA / "tatoeba" / "tatoeba-v1.tar.zst")
    tar = tmp_path / "tatoeba.tar"
    with archive.open("rb") as packed, tar.open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(packed, plain)
    folder = tmp_path / "tatoeba"
    folder.mkdir()
    with tarfile.open(tar) as members:
        for member in members:
            name = Path(member.name).name
            stream = members.extractfile(member) if ".deu-eng." in name or ".fra-eng." in name else None
            if stream is not None:
                with (folder / name).open("wb") as target:
                    shutil.copyfileobj(stream, target)
    result = kit.emsmine("eval", "tatoeba", folder, "--langs", "de,fr")
    assert result.code == 0, result.err
    assert result.json["languages"] == 2
    # A broken reader or encoder gives a fraction of a per cent; any trained model far more.
    assert result.json["mean"] > 50
    assert {row["sentences"] for row in result.json["per_language"].values()} == {1000}
