"""search: a grid of tiles and a merge find what one product over everything finds."""

from pathlib import Path

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.errors import TaskFailedError
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import IndexSettings, SearchSettings, Settings
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary, read_embeddings

PAIR = "deu_Latn-eng_Latn"


def shards(rng: np.random.Generator, sizes: list[int], fingerprint: str = "f" * 64) -> list[pa.Table]:
    tables = []
    for number, size in enumerate(sizes):
        rows = rng.normal(size=(size, 6))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        ids = (number << 40) + np.arange(size)
        columns = [pa.array(ids), pa.array([bytes(16)] * size, pa.binary(16)), fixed_binary(rows.astype(np.float16))]
        tables.append(pa.Table.from_arrays(columns, schema=embeddings_schema(6, "ems:x", fingerprint)))
    return tables


def put_vectors(root: Path, sides: dict[str, list[pa.Table]]) -> None:
    parts = {
        f"{lang}/{number:05d}": {f"embeddings/{lang}": table}
        for lang, tables in sides.items()
        for number, table in enumerate(tables)
    }
    kit.publish(root, "encode", "encode", parts)


@pytest.mark.parametrize(
    ("sizes", "k"),
    [
        (([7, 3, 5], [4, 6]), 3),
        (([1], [1]), 4),
        (([5], [0]), 2),
        (([3, 0], [2, 2]), 8),
        (([0], [0]), 4),
        (([3], [2] * 19), 3),
    ],
)
@pytest.mark.parametrize("engine", ["exact", "faiss-flat"])
def test_tiles_and_merge_equal_one_search(
    tmp_path: Path, sizes: tuple[list[int], list[int]], k: int, engine: str
) -> None:
    rng = np.random.default_rng(5)
    sides = {"deu_Latn": shards(rng, sizes[0]), "eng_Latn": shards(rng, sizes[1])}
    put_vectors(tmp_path, sides)
    settings = Settings(pairs=parse_pairs(["de-en"]), search=SearchSettings(k), index=IndexSettings(engine))
    kit.run_stage(tmp_path, settings, "index", "search")
    joined = [pa.concat_tables(tables) for tables in sides.values()]
    ids = [table["sentence_id"].to_numpy() for table in joined]
    expected = search_both(
        read_embeddings(joined[0]), read_embeddings(joined[1]), k, source_ids=ids[0], target_ids=ids[1]
    )
    for direction, row_ids, neighbours in zip(("forward", "backward"), ids, expected, strict=True):
        paths = sorted((tmp_path / "neighbours" / PAIR).glob(f"{direction}-*.parquet"))
        rows = [row for path in paths for row in kit.rows(tmp_path, str(path.relative_to(tmp_path)))]
        assert [row["sentence_id"] for row in rows] == row_ids.tolist()
        found = Neighbours(
            np.array([row["ids"] for row in rows], np.int64).reshape(-1, k),
            np.array([row["cosine"] for row in rows], np.float32).reshape(-1, k),
        )
        np.testing.assert_array_equal(found.ids, neighbours.ids)
        np.testing.assert_array_equal(found.cosine, neighbours.cosine)


def test_one_tile_per_combination_of_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    put_vectors(tmp_path, {"deu_Latn": shards(rng, [2, 2, 2]), "eng_Latn": shards(rng, [2, 2])})
    kit.run_stage(tmp_path, Settings(pairs=parse_pairs(["de-en"])), "index", "search")
    assert len(list((tmp_path / "tiles" / PAIR).glob("forward-*.parquet"))) == 6
    assert len(list((tmp_path / "tiles" / PAIR).glob("backward-*.parquet"))) == 6
    assert len(list((tmp_path / "neighbours" / PAIR).glob("*.parquet"))) == 3 + 2


def test_vectors_of_two_encoders_are_not_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    put_vectors(tmp_path, {"deu_Latn": shards(rng, [2]), "eng_Latn": shards(rng, [2], "0" * 64)})
    settings = Settings(pairs=parse_pairs(["de-en"]))
    kit.run_stage(tmp_path, settings, "index")
    with pytest.raises(TaskFailedError, match=r"encoded differently.*--redo encode"):
        kit.run_stage(tmp_path, settings, "search")
