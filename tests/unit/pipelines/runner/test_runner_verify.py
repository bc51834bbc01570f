"""`verify`, what `report` and a re-run make of it, and the record that spares a second reading."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.pipelines.runner.verify import verify
from emsmine.pipelines.store import stat_cache
from emsmine.pipelines.store.layout import STAT_NAME
from emsmine.pipelines.store.stat_cache import StatCache
from emsmine.pipelines.store.store import Store

COMPLETE = "every row is accounted for"
EXPORT = "export/de-en.tsv"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a finished run that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def flip(path: Path, at: int = -1) -> None:
    """Change one bit, and neither size nor mtime."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at < 0 else at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def problems(root: Path) -> list[tuple[str, str]]:
    return [(problem.kind, problem.path) for problem in verify(root, 2).problems]


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_a_sound_run_has_no_problem_and_nothing_changes(copied: Path) -> None:
    before = state(copied)
    found = kit.emsmine("verify", copied)
    assert found.code == 0, found.out
    assert found.out.endswith("verified: no problem\n")
    assert (
        kit.emsmine("report", copied).out.splitlines()[-1] == COMPLETE or COMPLETE in kit.emsmine("report", copied).out
    )
    assert state(copied) == before


@pytest.mark.parametrize("flags", [["--rescore"], ["--no-rescore"], ["--sort-by", "margin", "--no-documents"]])
def test_defaults_that_follow_from_others_are_no_change(crawl: list[Path], tmp_path: Path, flags: list[str]) -> None:
    """Threshold, score and scorer are not given: the settings do not say them, the results do."""
    result = kit.emsmine("run", crawl[1], "-p", "de-en", "-o", tmp_path / "run", "-j", 1, *flags)
    assert result.code == 0, result.err
    assert COMPLETE in result.out
    assert problems(tmp_path / "run") == []
    config = tmp_path / "run/config.toml"
    settings = config.read_text(encoding="utf-8")
    config.write_text(settings.replace("[select]\n", "[select]\nthreshold = 0.25\n"), encoding="utf-8")
    assert problems(tmp_path / "run") == [("stale", "select.select")]
    if "--no-rescore" in flags:
        config.write_text(settings.replace("rescore = false", "rescore = true"), encoding="utf-8")
        assert ("stale", "rescore.collect") in problems(tmp_path / "run")


def test_a_flipped_bit_in_any_file_is_found(copied: Path) -> None:
    """One bit in each file that a manifest lists, and in each manifest, in turn."""
    own = {"emsmine.lock", STAT_NAME, "config.toml", "logs/steps.jsonl"}
    names = [path.relative_to(copied).as_posix() for path in sorted(copied.rglob("*")) if path.is_file()]
    checked = [name for name in names if name not in own and (copied / name).stat().st_size]
    assert len(checked) > 60
    for name in checked:
        flip(copied / name)
    found = {path for _, path in problems(copied)}
    # The outputs of a task whose manifest cannot be read are nobody's.
    assert set(checked) <= found


@pytest.mark.parametrize(
    ("spoil", "kind", "path"),
    [
        (lambda root: flip(root / EXPORT), "damaged", EXPORT),
        (lambda root: (root / EXPORT).unlink(), "missing", EXPORT),
        (lambda root: (root / EXPORT).write_bytes(b"x"), "damaged", EXPORT),
        (lambda root: (root / "export/notes.txt").write_text("x"), "foreign", "export/notes.txt"),
        (lambda root: (root / "a link").symlink_to(root), "foreign", "a link"),
        (lambda root: os.mkfifo(root / "documents/pipe"), "foreign", "documents/pipe"),
        (lambda root: (root / "export/.tmp-1-deadbeef-x").write_text("x"), "temporary", "export/.tmp-1-deadbeef-x"),
        (
            lambda root: (root / "manifests/dedup.apply/00001.json").unlink(),
            "missing",
            "manifests/dedup.apply/00001.json",
        ),
        (
            lambda root: shutil.copy(
                root / "manifests/dedup.apply/00001.json", root / "manifests/dedup.apply/00000.json"
            ),
            "damaged",
            "manifests/dedup.apply/00000.json",
        ),
        (lambda root: (root / "manifests/dedup.apply.json").write_text("{}"), "damaged", "manifests/dedup.apply.json"),
        (lambda root: (root / "manifests/old.step.json").write_text("{}"), "foreign", "manifests/old.step.json"),
        (lambda root: (root / "config.toml").write_text("= x"), "damaged", "config.toml"),
    ],
)
def test_each_kind_of_problem_has_its_line(copied: Path, spoil: Callable[[Path], object], kind: str, path: str) -> None:
    spoil(copied)
    assert (kind, path) in problems(copied)
    found = kit.emsmine("verify", copied)
    assert found.code == 1
    assert any(line.startswith(f"{kind:<10} {path}: ") for line in found.out.splitlines()), found.out


def test_control_characters_of_a_name_are_not_printed(copied: Path) -> None:
    (copied / "export/\x1b[31m\u202ex").write_text("x")
    found = kit.emsmine("verify", copied)
    assert "export/\\x1b[31m\\u202ex" in found.out
    assert "\x1b" not in found.out + found.err


def test_verify_of_what_is_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        found = kit.emsmine("verify", folder)
        assert found.code == 1
        assert "holds no results of a run" in found.err


# ---- report ----


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda root: flip(root / EXPORT), f"damaged    {EXPORT}"),
        (lambda root: (root / "selected/deu_Latn-eng_Latn/00000.parquet").unlink(), "missing    selected/"),
        (lambda root: (root / "manifests/export.export.json").unlink(), "unfinished export.export: 2 tasks are done"),
        (
            lambda root: (root / "config.toml").write_text(
                (root / "config.toml").read_text().replace("threshold = 1.0", "threshold = 1.1")
            ),
            "made with threshold 1.0, config.toml says 1.1",
        ),
        (
            lambda root: (root / "config.toml").write_text(
                (root / "config.toml").read_text().replace("pairs = [", 'pairs = ["deu_Latn-ita_Latn", ')
            ),
            "no results of deu_Latn-ita_Latn",
        ),
    ],
)
def test_report_says_what_is_missing_for_a_complete_run(
    copied: Path, spoil: Callable[[Path], object], word: str
) -> None:
    spoil(copied)
    shown = kit.emsmine("report", copied)
    assert shown.code == 0, shown.err
    assert COMPLETE not in shown.out
    assert "NOT COMPLETE" in shown.out
    assert word in shown.out
    assert f"emsmine run -o {copied}" in shown.out


def test_report_of_half_a_run_and_of_one_redone_from_below(crawl: list[Path], copied: Path, tmp_path: Path) -> None:
    half = kit.run(crawl, tmp_path / "half", "--until", "dedup")
    assert COMPLETE not in half.out
    assert "unfinished langid.split: it has not run" in half.out
    # The rows of earlier stages change under later results.
    assert kit.run(crawl[:1], copied, "--redo", "ingest", "--until", "dedup").code == 0
    shown = kit.emsmine("report", copied).out
    assert COMPLETE not in shown
    assert "unfinished langid.split" in shown


# ---- the record ----


def hashed(root: Path) -> int:
    return verify(root, 1, StatCache(root)).hashed_bytes


def test_a_run_hashes_what_it_did_not_write_and_once_only(
    copied: Path, crawl: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = stat_cache.hash_inside
    monkeypatch.setattr(stat_cache, "hash_inside", lambda root, path: (read.append(path), real(root, path))[1])
    # A copy has other inodes: the record that came with it is worth nothing.
    assert kit.run(crawl, copied).code == 0
    num_files = verify(copied, 1).num_files
    assert len(set(read)) == num_files
    read.clear()
    assert kit.run(crawl, copied).code == 0
    assert read == []
    assert hashed(copied) == 0


def test_a_fresh_run_records_what_it_wrote(crawl: list[Path], tmp_path: Path) -> None:
    assert kit.run(crawl, tmp_path / "run").code == 0
    found = verify(tmp_path / "run", 1, StatCache(tmp_path / "run"))
    # Those of the last tick of the clock are left out.
    assert found.hashed_bytes < found.num_bytes / 2
    assert not found.problems


def test_the_record_misses_no_change_that_keeps_size_and_mtime(copied: Path, crawl: list[Path], finished: Path) -> None:
    assert kit.run(crawl, copied).code == 0
    assert hashed(copied) == 0
    flip(copied / EXPORT)
    again = kit.run(crawl, copied)
    assert again.code == 0, again.err
    assert f"{copied / EXPORT} does not match its manifest" in again.err
    assert kit.tree(copied) == kit.tree(finished)


def test_a_file_of_the_same_tick_is_not_recorded(copied: Path) -> None:
    (copied / STAT_NAME).unlink()
    manifest = Store(copied).manifests("export", "export")[0]
    output = manifest.outputs[0]
    os.utime(copied / output.path, ns=(2**62, 2**62))  # as if written after the verification began
    cache = StatCache(copied, writable=True)
    assert cache.state(output) == "good"
    cache.save()
    assert (
        not (copied / STAT_NAME).exists() or output.path not in json.loads((copied / STAT_NAME).read_bytes())["files"]
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 9}', b'{"version": 1, "files": {"a": [1]}}', b"[" * 99999]
)
def test_a_damaged_record_is_ignored(copied: Path, crawl: list[Path], content: bytes) -> None:
    (copied / STAT_NAME).write_bytes(content)
    assert kit.run(crawl, copied).code == 0
    assert json.loads((copied / STAT_NAME).read_bytes())["version"] == 1
