"""What ingest takes for its inputs: folders without run directories, and files of any name."""

import logging
import os
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.errors import InputError
from emsmine.pipelines.settings import IngestSettings, Settings
from emsmine.pipelines.stages import ingest

LINE = kit.json_line("https://a.example", "One plain sentence.")


def make_run(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "not an input"}\n')


@pytest.mark.parametrize(
    "names",
    [
        ("emsmine.lock",),
        ("emsmine.lock", "config.toml", "manifests/ingest.read/00000.json", "documents/00000.jsonl"),
        ("config.toml", "manifests/ingest.read.json", "rejects/a.jsonl"),
    ],
)
@pytest.mark.parametrize("place", ["out", "deep/er/out"])
def test_run_directories_inside_the_input_are_left_out(
    tmp_path: Path, names: tuple[str, ...], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    crawl = tmp_path / "crawl"
    (crawl / "deep" / "er").mkdir(parents=True)
    for name in ("b.jsonl", "deep/a.jsonl", "deep/er/config.toml", ".hidden.jsonl"):
        (crawl / name).write_bytes(LINE)
    make_run(crawl / place, *names)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            files = ingest.expand_inputs((str(crawl),))
    assert [os.path.relpath(file, crawl) for file in files] == ["b.jsonl", "deep/a.jsonl", "deep/er/config.toml"]
    assert [record.message for record in caplog.records] == [
        f"ingest: {crawl / place} is a run directory inside an input folder; no file of it is read"
    ]


def test_a_run_directory_itself_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "out", "emsmine.lock", "manifests/a.json")
    with pytest.raises(InputError, match="out is a run directory; give the crawl files"):
        ingest.expand_inputs((str(tmp_path / "out"),))


def test_a_run_writes_into_its_input_folder_and_never_reads_it(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    crawl.mkdir()
    (crawl / "a.jsonl").write_bytes(LINE)
    for _ in range(2):
        kit.run_stage(crawl / "out", Settings(inputs=(str(crawl),), ingest=IngestSettings()), "ingest")
        assert [row["source_file"] for row in kit.rows(crawl / "out", "documents")] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "shown"), [(b"se\xf1or.jsonl", "se\\xf1or.jsonl"), ("señor.jsonl".encode(), "señor.jsonl")]
)
def test_file_names_in_the_data_are_clean_strings(tmp_path: Path, name: bytes, shown: str) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    try:
        Path(path).write_bytes(LINE + b"broken\n")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    kit.run_stage(tmp_path / "run", Settings(inputs=(path,), ingest=IngestSettings()), "ingest")
    assert [row["source_file"] for row in kit.rows(tmp_path / "run", "documents")] == [shown]
    assert [row["id"] for row in kit.rows(tmp_path / "run", "rejects")] == [f"{shown}:{len(LINE)}"]
