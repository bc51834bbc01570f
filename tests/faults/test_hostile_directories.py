"""A run directory made by somebody else: no command reads, changes or removes anything outside it, or waits for ever.

Each case spoils a copy of a finished run. Then every command goes over it, and a tree beside it must not change, not
even in its times.
"""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bootstrap_kit
import pipeline_kit as kit
import pytest

from emsmine.errors import ForeignPathError
from emsmine.pipelines.bootstrap.report import Round, load_round
from emsmine.pipelines.settings import STAGE_NAMES
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import AtomicFile, write_atomically
from emsmine.pipelines.store.tasks import canonical_json

Spoil = Callable[[Path, Path], None]
STAGE_MANIFEST = "manifests/export.export/deu_Latn-eng_Latn.json"
TEMPORARY = "manifests/export.export/.tmp-1-deadbeef-deu_Latn-eng_Latn.json"
STEP_MANIFEST = "manifests/export.export.json"
DEADLINE = 60


@pytest.fixture(autouse=True)
def _never_waits() -> Iterator[None]:
    def give_up(number: int, frame: Any) -> None:
        raise AssertionError(f"waited for {DEADLINE} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(DEADLINE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a tree that must not change."""
    folder = tmp_path / "outside"
    (folder / "deeper").mkdir(parents=True)
    for name in ("sentinel", "sentinel.json", "sentinel.parquet", "deeper/00000.parquet", "deeper/.tmp-1-deadbeef-x"):
        (folder / name).write_text(f"precious {name}\n", encoding="utf-8")
    return folder


def state(folder: Path) -> dict[str, tuple[str, int, int]]:
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = content, stat.st_mtime_ns, stat.st_ctime_ns
    return found


def sealed(body: dict[str, Any]) -> bytes:
    """Return the bytes of a manifest with a right checksum, as anybody can make one."""
    body = {key: value for key, value in body.items() if key != "checksum"}
    body["checksum"] = hashlib.sha256(canonical_json(body)).hexdigest()
    return json.dumps(body, sort_keys=True, indent=1).encode("ascii") + b"\n"


def forge(root: Path, manifest: str, target: str, change: Callable[[dict[str, Any]], Any]) -> None:
    body = json.loads((root / manifest).read_bytes())
    change(body)
    (root / target).write_bytes(sealed(body))


def names_output(path: str, *, target: str) -> Spoil:
    def spoil(root: Path, outside: Path) -> None:
        named = path.replace("OUTSIDE", str(outside))

        def change(body: dict[str, Any]) -> None:
            body["outputs"] = [{**body["outputs"][0], "path": named}]

        forge(root, STAGE_MANIFEST, target, change)

    return spoil


def names_partition(path: str) -> Spoil:
    def spoil(root: Path, outside: Path) -> None:
        def change(body: dict[str, Any]) -> None:
            body["tasks"][0]["partition"] = path.replace("OUTSIDE", str(outside))

        # That of a step which later ones are planned from; others are written anew.
        forge(root, "manifests/langid.distinct.json", "manifests/langid.distinct.json", change)

    return spoil


def link(path: str, to: str) -> Spoil:
    def spoil(root: Path, outside: Path) -> None:
        place = root / path
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(outside / to if to else outside)

    return spoil


def moved_out(path: str) -> Spoil:
    """Move a folder or file out and put a link in its place: all is whole, behind a link."""

    def spoil(root: Path, outside: Path) -> None:
        shutil.move(root / path, outside / "moved")
        (root / path).symlink_to(outside / "moved")

    return spoil


def hard_link(path: str) -> Spoil:
    def spoil(root: Path, outside: Path) -> None:
        (root / path).unlink(missing_ok=True)
        os.link(outside / "sentinel", root / path)

    return spoil


def special(path: str, make: Callable[[Path], Any]) -> Spoil:
    def spoil(root: Path, outside: Path) -> None:
        (root / path).unlink(missing_ok=True)
        make(root / path)

    return spoil


PATHS = [
    "OUTSIDE/sentinel",
    "../outside/sentinel",
    "export/../../outside/sentinel",
    "export/../../../outside/sentinel",
    "",
    ".",
    "..",
    "export//x",
    "export/./x",
    "export\\..\\x",
    "a\0b",
    "x" * 300,
    "-rf",
    "export/\u202eabc",
    "emsmine.lock",
    "config.toml",
    "logs/steps.jsonl",
    "manifests/ingest.read/00000.json",
    "rejects/ingest.read/00000.parquet",
]
REFUSED: dict[str, Spoil] = {
    **{f"temporary {path[:40]!r}": names_output(path, target=TEMPORARY) for path in PATHS},
    **{f"manifest {path[:40]!r}": names_output(path, target=STAGE_MANIFEST) for path in PATHS[::3]},
    "linked lock": link("emsmine.lock", "sentinel"),
    "dangling lock": link("emsmine.lock", "made-by-emsmine"),
    "linked manifests": moved_out("manifests"),
    "linked step": moved_out("manifests/export.export"),
    "linked manifest": moved_out(STAGE_MANIFEST),
    "linked step manifest": moved_out(STEP_MANIFEST),
    "linked dataset": moved_out("documents"),
    "linked dataset of other files": link("documents", "deeper"),
    "linked language": moved_out("sentences/deu_Latn"),
    "linked output": moved_out("export/de-en.tsv"),
    "linked config": moved_out("config.toml"),
    "linked record": link("emsmine.stat", "sentinel"),
    "linked temporary": link("documents/.tmp-1-deadbeef-x", "sentinel"),
    "lock with a second name": hard_link("emsmine.lock"),
    "lock that is a pipe": special("emsmine.lock", os.mkfifo),
    "lock that is a folder": special("emsmine.lock", os.mkdir),
    "output that is a pipe": special("export/de-en.tsv", os.mkfifo),
    "manifest that is a pipe": special(STAGE_MANIFEST, os.mkfifo),
    "config that is a pipe": special("config.toml", os.mkfifo),
    "record that is a pipe": special("emsmine.stat", os.mkfifo),
    "temporary that is a pipe": special("documents/.tmp-1-deadbeef-x", os.mkfifo),
}
# Nothing is written to these while there is nothing to do, and what is dropped is listed nowhere but in the manifests.
LATER: dict[str, Spoil] = {
    "linked logs": moved_out("logs"),
    "linked log": link("logs/steps.jsonl", "sentinel"),
    "log with a second name": hard_link("logs/steps.jsonl"),
    "log that is a pipe": special("logs/steps.jsonl", os.mkfifo),
}


@pytest.fixture
def hostile(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "hostile"))


def go_over(root: Path, crawl: list[Path], other: Path, *, stages: bool) -> None:
    """Run every command on a directory; how each ends is not looked at."""
    for command in (("verify", root), ("report", root), ("run", "-o", root, "--dry-run")):
        kit.emsmine(*command)
    kit.run(crawl[:1], other, "--reuse", root, "--until", "ingest")
    kit.run(crawl, root)
    for stage in STAGE_NAMES if stages else ("export",):
        kit.emsmine(stage, "-o", root, "-j", 1)
    kit.run(crawl, root, "--redo", "filter")
    kit.emsmine("report", root)


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_outside_is_touched_and_the_culprit_is_named(
    name: str, hostile: Path, outside: Path, crawl: list[Path], tmp_path: Path
) -> None:
    REFUSED[name](hostile, outside)
    before, here = state(outside), sorted(map(str, hostile.rglob("*")))
    result = kit.run(crawl, hostile)
    assert result.code == 1, result.err
    assert "nothing there was touched" in result.err
    assert str(hostile) in result.err
    left = {path for path in here if not path.endswith(("emsmine.lock", "emsmine.stat"))}
    assert left <= set(map(str, hostile.rglob("*"))), "something was removed"
    go_over(hostile, crawl, tmp_path / "other", stages=name.startswith("linked"))
    assert state(outside) == before


@pytest.mark.parametrize("path", ["../../../outside/sentinel", "OUTSIDE/sentinel", "", "a\0b"])
def test_a_step_manifest_that_lists_what_lies_elsewhere(
    path: str, hostile: Path, outside: Path, crawl: list[Path], tmp_path: Path
) -> None:
    names_partition(path)(hostile, outside)
    before = state(outside)
    # A run writes the manifests of steps anew before it reads them; a stage of its own reads those before it.
    result = kit.emsmine("encode", "-o", hostile, "-j", 1)
    assert result.code == 1, result.err
    assert "langid.distinct.json names the partition" in result.err
    go_over(hostile, crawl, tmp_path / "other", stages=True)
    assert state(outside) == before


@pytest.mark.parametrize("name", LATER)
def test_logs_that_lead_elsewhere(name: str, hostile: Path, outside: Path, crawl: list[Path], tmp_path: Path) -> None:
    LATER[name](hostile, outside)
    before = state(outside)
    result = kit.run(crawl, hostile, "--redo", "export")
    assert result.code == 1, result.err
    assert "nothing there was touched" in result.err
    go_over(hostile, crawl, tmp_path / "other", stages=False)
    assert state(outside) == before


def test_the_directory_itself_may_be_a_link(finished: Path, crawl: list[Path], tmp_path: Path) -> None:
    real = Path(shutil.copytree(finished, tmp_path / "real"))
    (tmp_path / "link").symlink_to(real)
    assert kit.run(crawl, tmp_path / "link", "--redo", "export").code == 0
    assert kit.tree(real) == kit.tree(finished)
    assert kit.emsmine("verify", tmp_path / "link").code == 0


@pytest.mark.parametrize("change", [{"outputs": 3}, {"outputs": [{}]}, {"rows_in": "7"}, {"inputs": [{"path": 1}]}])
def test_a_sealed_manifest_with_other_fields_is_damaged_not_a_crash(
    hostile: Path, crawl: list[Path], finished: Path, change: dict[str, Any]
) -> None:
    forge(hostile, STAGE_MANIFEST, STAGE_MANIFEST, lambda body: body.update(change))
    found = kit.emsmine("verify", hostile)
    assert found.code == 1
    assert "is damaged: not the fields" in found.out
    assert kit.run(crawl, hostile).code == 0
    assert kit.tree(hostile) == kit.tree(finished)


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/..", "a//b", "./a", "a/", "a/../b", "a\0b"])
def test_inside_refuses_what_is_no_plain_path(tmp_path: Path, path: str) -> None:
    for action in (inside.file_stat, inside.open_to_read, inside.unlink, inside.create):
        with pytest.raises(ForeignPathError):
            action(tmp_path, path)


@pytest.mark.parametrize("place", ["linked/file", "linked/deeper/file", "folder/linked"])
def test_inside_goes_through_no_link(tmp_path: Path, outside: Path, place: str) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (outside / "file").write_text("x", encoding="utf-8")
    (outside / "deeper/file").write_text("x", encoding="utf-8")
    (root / "linked").symlink_to(outside)
    (root / "folder/linked").symlink_to(outside / "file")
    before = state(outside)
    actions: list[Callable[[], Any]] = [
        lambda: inside.file_stat(root, place),
        lambda: inside.read_bytes(root, place),
        lambda: inside.unlink(root, place),
        lambda: inside.append_line(root, place, "x"),
        lambda: inside.open_in_place(root, place, os.O_RDWR),
        lambda: write_atomically(root / place, b"x", "1-00000000", root=root),
        lambda: AtomicFile(root / place, "1-00000000", root=root),
        lambda: inside.make_folders(root, place),
    ]
    for action in actions:
        with pytest.raises(ForeignPathError, match="symbolic link"):
            action()
    assert state(outside) == before
    assert list(inside.walk(root)) == ["linked", "folder/linked"]


# ---- bootstrap ----


def make_round(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Round(1, "", {}, {}, 0.0, {}, files, "").save(folder)


@pytest.mark.parametrize("path", ["OUTSIDE/sentinel", "../../outside/sentinel", "", "a\0b", "pipe", "link"])
def test_the_record_of_a_round_names_no_file_elsewhere(tmp_path: Path, outside: Path, path: str) -> None:
    folder = tmp_path / "out/round-1"
    make_round(folder, {path.replace("OUTSIDE", str(outside)): "0" * 64})
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(outside / "sentinel")
    before = state(outside)
    with pytest.raises(ForeignPathError):
        load_round(folder, "")
    assert state(outside) == before


@pytest.mark.parametrize("path", ["bootstrap.json", "round-1", "round-1/data", "round-1/round.json", "logs", "model"])
def test_a_bootstrap_follows_no_link(tmp_path: Path, outside: Path, path: str) -> None:
    data = bootstrap_kit.write_data(tmp_path / "data")
    config = bootstrap_kit.write_config(tmp_path / "c.toml", data, tmp_path / "out")
    (tmp_path / "out" / path).parent.mkdir(parents=True)
    (tmp_path / "out" / path).symlink_to(outside / "deeper" if "." not in path else outside / "sentinel")
    before = state(outside)
    result = kit.emsmine("bootstrap", config, "-j", 1, "--device", "cpu")
    assert result.code in (1, 2), result.err
    assert str(tmp_path / "out") in result.err
    assert state(outside) == before
