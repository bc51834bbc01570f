"""An approximate search as a run does it: built once, tuned, cut anywhere, measured, refused if it finds too little."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from emsmine.errors import CorruptOutputError, TaskFailedError
from emsmine.mining.approximate.audit import neighbour_recall, pair_agreement, verdicts
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.runner.run import RunOptions, run_stages
from emsmine.pipelines.settings import IndexSettings, SearchSettings, SelectSettings, Settings
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary, read_embeddings

PAIR = "deu_Latn-eng_Latn"
DIM = 16
K = 4


def side(seed: int, rows: int, noise: float = 0.5) -> NDArray[np.float32]:
    """Vectors around shared centres, so that sentences of one language have neighbours in the other."""
    centres = np.random.default_rng(0).normal(size=(40, DIM))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, 40, rows)] + noise * rng.normal(size=(rows, DIM))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def tables(vectors: NDArray[np.float32], cuts: int, first_id: int, fingerprint: str = "f" * 64) -> list[pa.Table]:
    """Cut one side into shards; ids and hashes belong to the rows, whatever the cut."""
    hashes = np.random.default_rng(first_id).integers(0, 256, (len(vectors), 16)).astype(np.uint8)
    found = []
    for rows in np.array_split(np.arange(len(vectors)), cuts):
        columns = [
            pa.array(first_id + rows),
            fixed_binary(hashes[rows]),
            fixed_binary(vectors[rows].astype(np.float16)),
        ]
        found.append(pa.Table.from_arrays(columns, schema=embeddings_schema(DIM, "ems:x", fingerprint)))
    return found


def put(root: Path, sides: dict[str, list[pa.Table]]) -> None:
    parts = {
        f"{lang}/{number:05d}": {f"embeddings/{lang}": table}
        for lang, shards in sides.items()
        for number, table in enumerate(shards)
    }
    kit.publish(root, "encode", "encode", parts)


def two_sides(
    root: Path, cuts: tuple[int, int] = (1, 1), rows: tuple[int, int] = (1500, 1300), noise: float = 0.5
) -> None:
    source, target = side(1, rows[0], noise), side(2, rows[1], noise)
    put(root, {"deu_Latn": tables(source, cuts[0], 0), "eng_Latn": tables(target, cuts[1], 7 << 40)})


def translated_sides(root: Path, rows: int = 1500) -> None:
    """Put two sides of which each sentence has a translation, which is nearer than what shares its centre."""
    source = side(1, rows, 1.5)
    target = source + 0.05 * np.random.default_rng(2).normal(size=source.shape)
    target = (target / np.linalg.norm(target, axis=1, keepdims=True)).astype(np.float32)
    put(root, {"deu_Latn": tables(source, 1, 0), "eng_Latn": tables(target, 1, 7 << 40)})


def settings(engine: str, **search: Any) -> Settings:
    return Settings(
        pairs=parse_pairs(["de-en"]),
        index=IndexSettings(engine),
        search=SearchSettings(**{"audit_queries": 200, **search}),
        rescore=kit.BY_MARGIN,
        select=SelectSettings(threshold=1.02),
    )


def neighbours(root: Path, direction: str) -> tuple[list[int], Neighbours]:
    paths = sorted((root / "neighbours" / PAIR).glob(f"{direction}-*.parquet"))
    rows = [row for path in paths for row in kit.rows(root, str(path.relative_to(root)))]
    ids = np.array([row["ids"] for row in rows], np.int64).reshape(-1, K)
    cosine = np.array([row["cosine"] for row in rows], np.float32).reshape(-1, K)
    return [row["sentence_id"] for row in rows], Neighbours(ids, cosine)


def oracle(root: Path) -> tuple[Neighbours, Neighbours]:
    tables = [
        pa.concat_tables([pa.parquet.read_table(path) for path in sorted((root / "embeddings" / lang).iterdir())])
        for lang in ("deu_Latn", "eng_Latn")
    ]
    ids = [table["sentence_id"].to_numpy() for table in tables]
    source, target = (read_embeddings(table) for table in tables)
    return search_both(source, target, K, source_ids=ids[0], target_ids=ids[1])


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("engine", ["faiss-ivf", "faiss-hnsw"])
def test_search_reaches_its_target_and_is_measured(tmp_path: Path, engine: str) -> None:
    translated_sides(tmp_path)
    kit.run_stage(tmp_path, settings(engine), "index", "search")
    report = read_json(tmp_path / "audit" / f"{PAIR}.json")
    for direction, exact in zip(("forward", "backward"), oracle(tmp_path), strict=True):
        _, found = neighbours(tmp_path, direction)
        recall = float(neighbour_recall(exact, found).mean())
        assert pair_agreement(exact, found) >= 0.93
        low, high = report[direction]["interval"]
        assert low - 0.01 <= recall <= high + 0.01
        # What was found is scored as the exact engine scores it: never above the truth, equal where the ids are.
        assert (found.cosine <= exact.cosine).all()
        same = found.ids == exact.ids
        assert same.mean() > 0.5
        np.testing.assert_array_equal(found.cosine[same], exact.cosine[same])
        tuning = read_json(tmp_path / "tuning" / PAIR / f"{direction}.json")
        earlier = max([0.0, *(tried["pair_agreement"] for tried in tuning["tried"][:-1])])
        assert tuning["pair_agreement"] >= 0.95 > earlier
        assert tuning["engine"] == engine


def test_pairs_need_less_effort_than_all_neighbours(tmp_path: Path) -> None:
    translated_sides(tmp_path)
    kit.run_stage(tmp_path, settings("faiss-ivf"), "index", "search")
    for direction in ("forward", "backward"):
        tuning = read_json(tmp_path / "tuning" / PAIR / f"{direction}.json")
        assert tuning["recall"] < 0.8 < 0.95 <= tuning["pair_agreement"]
        report = read_json(tmp_path / "audit" / f"{PAIR}.json")[direction]
        # The run may find a pair in either direction.
        assert min(item.share for item in verdicts(report)) > 0.97


def test_whole_agreement_takes_more_effort(tmp_path: Path) -> None:
    translated_sides(tmp_path)
    kit.run_stage(tmp_path, settings("faiss-ivf", target_recall=1.0), "index", "search")
    for direction, exact in zip(("forward", "backward"), oracle(tmp_path), strict=True):
        tuning = read_json(tmp_path / "tuning" / PAIR / f"{direction}.json")
        _, found = neighbours(tmp_path, direction)
        if tuning["width"] == read_json(tmp_path / "index" / "eng_Latn.engine.json")["lists"]:
            np.testing.assert_array_equal(found.ids, exact.ids)
        assert tuning["pair_agreement"] == 1.0
        assert pair_agreement(exact, found) > 0.98


@pytest.mark.parametrize("engine", ["faiss-ivf", "exact"])
def test_cuts_and_workers_give_the_same_pairs(tmp_path: Path, engine: str) -> None:
    seen = []
    for number, (cuts, workers) in enumerate([((1, 1), 1), ((7, 5), 2), ((3, 11), 1)]):
        root = tmp_path / str(number)
        two_sides(root, cuts)
        run_stages(root, settings(engine), ["index", "search", "select"], RunOptions(workers=workers))
        found = [neighbours(root, direction) for direction in ("forward", "backward")]
        selected = (root / "selected" / PAIR / "00000.parquet").read_bytes()
        bytes_of = [part.tobytes() for _, both in found for part in (both.ids, both.cosine)]
        seen.append((selected, [ids for ids, _ in found], bytes_of, kit.rows(root, "selected")))
    assert len(seen[0][3]) > 100
    assert seen[0] == seen[1] == seen[2]


def test_an_index_is_built_once_for_all_pairs_and_a_new_pair_keeps_it(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            lang: tables(side(seed, 1100), 2, seed << 40)
            for seed, lang in enumerate(("deu_Latn", "eng_Latn", "fra_Latn"), start=1)
        },
    )
    one = settings("faiss-ivf")
    kit.run_stage(tmp_path, one, "index", "search")
    before = {path: path.stat().st_ino for path in (tmp_path / "index").glob("*.faiss")}
    assert sorted(path.name for path in before) == ["deu_Latn.faiss", "eng_Latn.faiss"]
    kit.run_stage(tmp_path, replace(one, pairs=parse_pairs(["de-en", "en-fr"])), "index", "search")
    assert {path: path.stat().st_ino for path in before} == before
    assert len(list((tmp_path / "index").glob("*.faiss"))) == 3
    assert sorted(path.stem for path in (tmp_path / "audit").iterdir()) == [PAIR, "eng_Latn-fra_Latn"]


def test_too_little_recall_fails_and_says_what_to_change(tmp_path: Path) -> None:
    two_sides(tmp_path, noise=2.0)
    bad = settings("faiss-ivf", target_recall=0.0)
    with pytest.raises(
        TaskFailedError, match=r"\d+\.\d % of .* pairs .*search\.min_(recall = 0\.95|precision = 0\.9)\. "
    ) as caught:
        kit.run_stage(tmp_path, bad, "index", "search")
    assert "--target-recall" in str(caught.value)
    assert "--redo search" in str(caught.value)
    assert not (tmp_path / "audit").exists()
    # Lower limits accept the same neighbours: only the audit runs. Each limit alone refuses them.
    before = {path: path.stat().st_ino for path in (tmp_path / "neighbours").rglob("*.parquet")}
    for kept, lowered in (("min_recall", "min_precision"), ("min_precision", "min_recall")):
        with pytest.raises(TaskFailedError, match=f"or lower --{kept.replace('_', '-')}$"):
            kit.run_stage(tmp_path, replace(bad, search=replace(bad.search, **{lowered: 0.1})), "index", "search")
    low = replace(bad.search, min_recall=0.1, min_precision=0.1)
    kit.run_stage(tmp_path, replace(bad, search=low), "index", "search")
    assert {path: path.stat().st_ino for path in before} == before
    report = read_json(tmp_path / "audit" / f"{PAIR}.json")
    assert 0.1 < report["forward"]["recall"] < 0.95
    assert report["forward"]["margin_error"]["p95"] > 0
    assert kit.dropped(tmp_path, "search", "audit")["neighbour_not_found"] > 50


@pytest.mark.parametrize(("rows", "kind"), [((30, 0), "exact"), ((3, 1200), "exact"), ((0, 0), "exact")])
def test_small_and_empty_languages_need_no_lists(tmp_path: Path, rows: tuple[int, int], kind: str) -> None:
    two_sides(tmp_path, rows=rows)
    kit.run_stage(tmp_path, settings("faiss-ivf"), "index", "search", "select")
    assert read_json(tmp_path / "index" / "deu_Latn.engine.json")["engine"] == kind
    assert not (tmp_path / "index" / "deu_Latn.faiss").exists()
    for direction, exact in zip(("forward", "backward"), oracle(tmp_path), strict=True):
        _, found = neighbours(tmp_path, direction)
        assert found.ids.shape == exact.ids.shape
        assert neighbour_recall(exact, found).mean() > 0.6 if len(exact.ids) else True
        np.testing.assert_array_equal((found.ids < 0), (exact.ids < 0))


def test_auto_is_exact_for_small_pairs_and_builds_nothing(tmp_path: Path) -> None:
    two_sides(tmp_path, rows=(50, 40))
    kit.run_stage(tmp_path, settings("auto"), "index", "search")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["deu_Latn.json", "eng_Latn.json"]
    _, found = neighbours(tmp_path, "forward")
    np.testing.assert_array_equal(found.ids, oracle(tmp_path)[0].ids)
    assert not (tmp_path / "audit").exists()


def test_auto_searches_large_pairs_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emsmine.mining.approximate.choice.EXACT_ROWS", 1_000)
    two_sides(tmp_path)
    kit.run_stage(tmp_path, settings("auto"), "index", "search")
    summary = read_json(tmp_path / "index" / "deu_Latn.engine.json")
    assert summary["engine"] == "faiss-ivf"
    assert "1,500 rows of 16 values" in summary["reason"]
    assert (tmp_path / "audit" / f"{PAIR}.json").exists()


def test_equal_vectors_are_found_by_their_smallest_ids(tmp_path: Path) -> None:
    vectors = side(1, 1200)
    vectors[:600:100] = vectors[0]
    put(tmp_path, {"deu_Latn": tables(vectors, 2, 0), "eng_Latn": tables(vectors[:1100], 1, 7 << 40)})
    kit.run_stage(tmp_path, settings("faiss-ivf", target_recall=1.0), "index", "search")
    ids, found = neighbours(tmp_path, "backward")
    assert found.ids[ids.index(7 << 40)].tolist() == [0, 100, 200, 300]


def test_vectors_of_two_encoders_are_not_compared(tmp_path: Path) -> None:
    put(
        tmp_path,
        {"deu_Latn": tables(side(1, 1100), 1, 0), "eng_Latn": tables(side(2, 1100), 1, 7 << 40, "0" * 64)},
    )
    with pytest.raises(TaskFailedError, match=r"encoded differently.*--redo encode"):
        kit.run_stage(tmp_path, settings("faiss-ivf"), "index", "search")


def test_a_damaged_index_is_noticed(tmp_path: Path) -> None:
    two_sides(tmp_path)
    kit.run_stage(tmp_path, settings("faiss-ivf"), "index")
    path = tmp_path / "index" / "eng_Latn.vectors"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises((TaskFailedError, CorruptOutputError), match=r"does not match its manifest.*--redo index"):
        kit.run_stage(tmp_path, settings("faiss-ivf"), "search")


def test_the_same_bytes_with_one_thread_and_with_two(tmp_path: Path) -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    trees = []
    try:
        for threads in (1, 2):
            root = tmp_path / str(threads)
            two_sides(root, (2, 1))
            faiss.omp_set_num_threads(threads)
            kit.run_stage(root, settings("faiss-ivf"), "index", "search")
            assert faiss.omp_get_max_threads() == threads
            trees.append(kit.tree(root, config=False))
    finally:
        faiss.omp_set_num_threads(before)
    assert trees[0] == trees[1]


def test_the_report_shows_the_audit(tmp_path: Path) -> None:
    from emsmine.pipelines.runner.report import format_funnel, funnel
    from emsmine.pipelines.store.store import Store

    two_sides(tmp_path)
    kit.run_stage(tmp_path, settings("faiss-ivf"), "index", "search")
    rows = [row for row in funnel(Store(tmp_path)) if row.step == "search.audit"]
    (row,) = rows
    assert row.rows_in == 2 * 200 * K
    assert row.rows_out > 0.95 * row.rows_in
    assert row.adds_up
    assert "sampled neighbours → found" in format_funnel(rows)
