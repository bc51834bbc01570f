"""A search that takes over what an earlier one found ends with the lists of one search over everything.

First on vectors, with many exact ties; then as the stages do it, compared byte for byte.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emsmine.mining.exact.incremental import (
    Renumbering,
    TiedNeighbours,
    carry_over,
    merge_tied,
    search_both_new,
    search_both_tied,
)
from emsmine.mining.text.normalise import dedup_key, hash128
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import LangidSettings, SearchSettings, SelectSettings, Settings
from emsmine.pipelines.stages import encode, load_stage
from emsmine.pipelines.stages.base import PlanContext
from emsmine.pipelines.store.schemas import SEGMENTS
from emsmine.pipelines.store.store import Store

Array = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Side:
    """Sentences of which some stand in the earlier run, some in this one; ids are drawn anew or stay in order."""

    vectors: Array
    in_old: NDArray[np.bool_]
    in_new: NDArray[np.bool_]
    old_ids: Ids
    new_ids: Ids

    def part(self, which: str) -> tuple[Array, Ids]:
        """Return vectors and ids of a run, by id."""
        mask, ids = (self.in_old, self.old_ids) if which == "old" else (self.in_new, self.new_ids)
        rows = np.flatnonzero(mask)[np.argsort(ids[mask])]
        return np.ascontiguousarray(self.vectors[rows]), ids[rows]

    def renumbering(self) -> Renumbering:
        both = np.flatnonzero(self.in_old & self.in_new)
        both = both[np.argsort(self.old_ids[both])]
        return Renumbering(self.old_ids[both], self.new_ids[both], int(self.in_old.sum()))


@st.composite
def sides(draw: st.DrawFn, keep: bool, kind: str) -> Side:
    num_rows = draw(st.integers(0, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = rng.standard_normal((num_rows, 3))
    if kind == "signs":
        rows = np.sign(rows)
    elif kind == "axes":
        rows = np.eye(3)[rng.integers(0, 3, num_rows)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [rng.permutation(50)[:num_rows].astype(np.int64) for _ in range(2)]
    in_old = rng.random(num_rows) < draw(st.sampled_from([0.0, 0.7, 1.0]))
    in_new = rng.random(num_rows) < draw(st.sampled_from([0.0, 0.8, 1.0]))
    if keep:
        ids, in_new = [np.sort(numbers) for numbers in ids], in_new | in_old
    return Side(rows.astype(np.float32).reshape(num_rows, 3), in_old, in_new, *ids)


def same(found: TiedNeighbours, expected: TiedNeighbours) -> bool:
    return (
        found.neighbours.ids.tobytes() == expected.neighbours.ids.tobytes()
        and found.neighbours.cosine.tobytes() == expected.neighbours.cosine.tobytes()
        and found.tied.tobytes() == expected.tied.tobytes()
    )


@settings(deadline=None, max_examples=250)
@given(data=st.data(), k=st.integers(1, 5), more=st.integers(0, 2), keep=st.booleans())
def test_lists_that_hold_and_what_is_new_make_the_whole(data: st.DataObject, k: int, more: int, keep: bool) -> None:
    kind = data.draw(st.sampled_from(["random", "signs", "axes"]))
    source, target = data.draw(sides(keep, kind)), data.draw(sides(keep, kind))
    (old_source, old_source_ids), (old_target, old_target_ids) = source.part("old"), target.part("old")
    earlier = search_both_tied(old_source, old_target, k + more, old_source_ids, old_target_ids)
    (new_source, source_ids), (new_target, target_ids) = source.part("new"), target.part("new")
    expected = search_both_tied(new_source, new_target, k, source_ids, target_ids)
    carried, held = [], []
    for lists, query, base, old_ids, ids in (
        (earlier[0], source, target, old_source_ids, source_ids),
        (earlier[1], target, source, old_target_ids, target_ids),
    ):
        found, holds = carry_over(lists, base.renumbering(), k)
        numbers = query.renumbering()(old_ids)
        kept = holds & (numbers >= 0)
        places = np.searchsorted(ids, numbers[kept])
        carried.append(found.take(np.flatnonzero(kept)).spread(places, len(ids)))
        held.append(np.isin(np.arange(len(ids)), places))
    found_new = search_both_new(new_source, new_target, k, source_ids, target_ids, held[0], held[1])
    for part, lists, whole in zip(found_new, carried, expected, strict=True):
        assert same(merge_tied([part, lists]), whole)
    if keep and more == 0:
        # Nothing left and the order stayed: every list holds.
        assert all(mask.sum() == side.in_old.sum() for mask, side in zip(held, (source, target), strict=True))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), k=st.integers(1, 5), cuts=st.lists(st.integers(0, 14), max_size=3))
def test_lists_of_parts_make_those_of_the_whole(data: st.DataObject, k: int, cuts: list[int]) -> None:
    kind = data.draw(st.sampled_from(["random", "signs", "axes"]))
    (source, source_ids), (target, target_ids) = (data.draw(sides(True, kind)).part("new") for _ in range(2))
    whole, _ = search_both_tied(source, target, k, source_ids, target_ids)
    edges = sorted({0, len(target), *(min(cut, len(target)) for cut in cuts)})
    pieces = [slice(start, stop) for start, stop in zip(edges, [*edges[1:], edges[-1]], strict=True)]
    parts = [search_both_tied(source, target[p], k, source_ids, target_ids[p])[0] for p in pieces]
    assert same(merge_tied(parts), whole)
    assert same(merge_tied([merge_tied(parts[:1]), merge_tied([*parts[1:], parts[0]])]), whole)


class CaseEncoder(kit.AngleEncoder):
    """Directions in the plane by the leading number of degrees; in capitals 45 degrees further."""

    def encode(self, sentences: Sequence[str], *, lang: str) -> Array:
        shifted = [
            f"{int(text.split(' ')[0]) + 45}" if text.isupper() and text[0].isdigit() else text for text in sentences
        ]
        return super().encode(shifted, lang=lang)


LANGS = ("deu_Latn", "eng_Latn")
STEPS = (
    ("langid", "distinct"),
    ("encode", "encode"),
    ("index", "index"),
    ("index", "build"),
    ("search", "sample"),
    ("search", "reuse"),
    ("search", "tile"),
    ("search", "merge"),
    ("select", "select"),
)
# Few directions, so that many cosines are equal; one sentence in ten has no vector.
TEXTS = st.builds(
    lambda angle, word, upper: f"{angle} {word.upper() if upper else word}",
    st.sampled_from(["0", "0", "10", "10", "20", "45", "90", "180", "270", "x"]),
    st.sampled_from(["lamp", "boat", "tree", "stone", "river", "cloud"]),
    st.booleans(),
)


def put_segments(root: Path, texts: dict[str, list[list[str]]]) -> None:
    """Publish sentences of one file after the other, as `langid.split` does."""
    parts: dict[str, dict[str, pa.Table]] = {}
    for lang, files in texts.items():
        for number, sentences in enumerate(files):
            rows = sorted(
                (hash128(dedup_key(text)), (number << 40) + place, text) for place, text in enumerate(sentences)
            )
            columns = [
                [key for key, _, _ in rows],
                [text for _, _, text in rows],
                [0.9] * len(rows),
                ["sentence"] * len(rows),
                [place for _, place, _ in rows],
                [0] * len(rows),
            ]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SEGMENTS, strict=True)]
            table = pa.Table.from_arrays(arrays, schema=SEGMENTS)
            parts.setdefault(f"{number:05d}", {})[f"segments/{lang}"] = table
    kit.publish(root, "langid", "split", parts)


def run_steps(root: Path, chosen: Settings) -> None:
    """Plan and run the steps from distinct sentences to selected pairs."""
    store = Store(root)
    for stage, name in STEPS:
        step = next(step for step in load_stage(stage).steps if step.name == name)
        specs = step.plan(step, PlanContext(store, chosen))
        for spec in specs:
            with store.task(spec) as task:
                step.run(task)
        store.finish_step(stage, name, specs)


def results(root: Path) -> dict[str, str]:
    wanted = ("sentences/", "embeddings/", "neighbours/", "selected/", "rejects/encode")
    return {name: digest for name, digest in kit.tree(root).items() if name.startswith(wanted)}


@st.composite
def crawls(draw: st.DrawFn) -> tuple[dict[str, list[list[str]]], dict[str, list[list[str]]]]:
    """Two files of sentences a language for the earlier run; for this one some of them, in any order, and a new one."""
    old, new = {}, {}
    for lang in LANGS:
        files = [draw(st.lists(TEXTS, max_size=12)) for _ in range(2)]
        change = draw(st.sampled_from(["keep", "keep", "swap", "drop", "thin"]))
        kept = {"keep": files, "swap": files[::-1], "drop": files[:1], "thin": [files[0][::2], files[1]]}[change]
        old[lang], new[lang] = files, [*kept, draw(st.lists(TEXTS, max_size=8))]
    while len({len(files) for files in new.values()}) > 1:  # a file holds both languages
        min(new.values(), key=len).append([])
    return old, new


@settings(deadline=None, max_examples=12)
@given(
    crawl=crawls(),
    k=st.integers(1, 4),
    more=st.integers(0, 1),
    old_rows=st.sampled_from([5, 9, 100]),
    new_rows=st.sampled_from([5, 9, 100]),
)
def test_incremental_is_all_at_once_byte_for_byte(
    crawl: tuple[dict[str, list[list[str]]], dict[str, list[list[str]]]],
    k: int,
    more: int,
    old_rows: int,
    new_rows: int,
) -> None:
    chosen = Settings(
        pairs=parse_pairs(["de-en"]),
        search=SearchSettings(k),
        langid=LangidSettings(shard_rows=new_rows),
        rescore=kit.BY_MARGIN,
        select=SelectSettings(threshold=0.5, cosine_floor=-1.0),
    )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "_encoder", lambda spec, device: CaseEncoder())
        patch.setattr(os, "fsync", lambda handle: None)  # durability is not at stake, and takes most of the time
        root = Path(folder)
        for name, texts in (("old", crawl[0]), ("new", crawl[1]), ("all", crawl[1])):
            put_segments(root / name, texts)
        earlier = dataclasses.replace(
            chosen, search=SearchSettings(k + more), langid=LangidSettings(shard_rows=old_rows)
        )
        run_steps(root / "old", earlier)
        run_steps(root / "all", chosen)
        before = kit.tree(root / "old")
        run_steps(root / "new", dataclasses.replace(chosen, reuse=str(root / "old")))
        assert results(root / "new") == results(root / "all")
        assert kit.tree(root / "old") == before
