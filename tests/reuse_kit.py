"""An invented crawl that comes in two files, for runs that take an earlier one over."""

import os
from pathlib import Path

import pipeline_kit as kit

from emsmine.pipelines.store.store import Store

PAIR = ("de-en",)


def write_files(folder: Path) -> list[Path]:
    """Write three German and English pages each; then the fourth, and pages that repeat sentences in other case."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {**kit.pages("de"), **kit.pages("en")}
    first = {url: text for url, text in pages.items() if not url.endswith("/3")}
    later = {url: text for url, text in pages.items() if url.endswith("/3")}
    later["https://en.example/again"] = " ".join([*kit.PARALLEL["en"][5:8], kit.PARALLEL["en"][9].upper()])
    paths = [folder / "first.jsonl", folder / "later.jsonl"]
    for path, part in zip(paths, (first, later), strict=True):
        path.write_bytes(b"".join(kit.json_line(url, text) for url, text in part.items()))
    return paths


def first_run(files: list[Path], root: Path) -> Path:
    """Mine the first file."""
    assert kit.run(files[:1], root, pairs=PAIR).code == 0
    return root


def corpus(root: Path) -> dict[str, str]:
    """Return the hashes of what a run made, but for what only a run that takes another over has."""
    own = ("known/", "held/", "tiles/", "manifests/encode", "manifests/search")
    return {name: digest for name, digest in kit.tree(root, config=False).items() if not name.startswith(own)}


def counters(root: Path, stage: str, step: str) -> dict[str, int | float]:
    """Add up the counters of a step."""
    total: dict[str, int | float] = {}
    for manifest in Store(root).manifests(stage, step):
        for name, number in manifest.counters.items():
            total[name] = total.get(name, 0) + number
    return total


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file, and keep its size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o644)
    path.write_bytes(bytes(data))
