"""What the functions of the Python interface return: small frozen objects that turn into Arrow, pandas and lists."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.errors import MissingDependencyError
from emsmine.mining.neighbours import Neighbours
from emsmine.outputs import check_outputs
from emsmine.pipelines.direct.mine import write_pairs
from emsmine.pipelines.runner.report import FunnelRow, format_funnel
from emsmine.pipelines.store.schemas import HASH, fixed_binary
from emsmine.pipelines.store.suspicious import ScoredPair


class Result(ABC):
    """Rows with named columns."""

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""

    def to_pandas(self) -> Any:
        """Return the rows as a pandas data frame.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            importlib.import_module("pandas")
        except ImportError:
            raise MissingDependencyError("to_pandas: pandas is not installed; run: pip install pandas") from None
        return self.to_arrow().to_pandas()

    def to_list(self) -> list[dict[str, Any]]:
        """Return the rows as plain dictionaries."""
        rows: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return rows


@dataclass(frozen=True, eq=False, repr=False)
class Table(Result):
    """Rows that are held as an Arrow table."""

    table: pa.Table

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows: {', '.join(self.table.column_names)})"


@dataclass(frozen=True)
class Pair:
    """A mined pair.

    `score` is what pairs are sorted and cut by: the probability that the pair is a translation, or the margin where
    nothing was rescored. `suspicious` holds the reasons to doubt it, joined by
    commas; "" for most pairs. Ids are places in the inputs of `mine`, or sentence ids of a run.
    """

    score: float
    margin: float
    cosine: float
    suspicious: str
    source_id: int
    target_id: int
    source: str
    target: str


_PAIR_COLUMNS = tuple(Pair.__dataclass_fields__)


@dataclass(frozen=True, eq=False, repr=False)
class Pairs(Table):
    """Mined pairs, best first: the columns of `Pair`; those of a run have more, such as `source_url`.

    `counts` tells what was left out on the way, by reason, as the command line does at its end.
    """

    counts: Mapping[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Pair]:
        for batch in self.table.select(_PAIR_COLUMNS).to_batches(max_chunksize=8192):
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Pair(*values)

    def write(self, path: str | PathLike[str]) -> None:
        """Write a TSV of score, source and target, as `emsmine mine -o` does; compressed if the name ends in .gz.

        Raises:
            ConfigError: the file could not be written.
        """
        check_outputs("write", {"path": fspath(path)}, ())
        rows = [
            ScoredPair(pair.score, pair.margin, pair.cosine, pair.suspicious, pair.source, pair.target) for pair in self
        ]
        write_pairs(rows, fspath(path))


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Table):
    """A scored bitext in its own order: `id` (the line, from 0), `score`, `margin`, `cosine`, `source`, `target`.

    Lines that cannot be scored have no score, margin and cosine; `counts` tells why.
    """

    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def margins(self) -> npt.NDArray[np.float64]:
        """The margin of every line, NaN for one that cannot be scored."""
        margins: npt.NDArray[np.float64] = self.table["margin"].to_numpy(zero_copy_only=False)
        return margins


@dataclass(frozen=True, eq=False, repr=False)
class Rejects(Table):
    """Samples of the rows that a run dropped: `stage`, `reason`, `id`, `sample`."""


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult(Result):
    """Nearest neighbours in both directions.

    `forward.ids` and `forward.cosine` hold the k nearest targets of every source, best first, `backward` the k nearest
    sources of every target; an id of -1 (cosine -inf) is no neighbour.

    Shapes: forward int64 and float32 [N, k]; backward [M, k].
    """

    forward: Neighbours
    backward: Neighbours
    source_ids: npt.NDArray[np.int64]
    target_ids: npt.NDArray[np.int64]

    def to_arrow(self) -> pa.Table:
        """Return a row per neighbour: `direction`, `id`, `rank` (from 1), `neighbour_id`, `cosine`."""
        parts = []
        for name, found, ids in (
            ("forward", self.forward, self.source_ids),
            ("backward", self.backward, self.target_ids),
        ):
            rows, ranks = np.nonzero(found.ids >= 0)
            columns = {
                "direction": pa.array([name] * len(rows), pa.string()),
                "id": ids[rows],
                "rank": ranks + 1,
                "neighbour_id": found.ids[rows, ranks],
                "cosine": found.cosine[rows, ranks],
            }
            parts.append(pa.table(columns))
        return pa.concat_tables(parts)

    def __repr__(self) -> str:
        return f"SearchResult(forward {list(self.forward.ids.shape)}, backward {list(self.backward.ids.shape)})"


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings(Result):
    """Vectors of sentences, and the encoder that made them.

    Shapes: ids int64 [N]; text_hashes uint8 [N, 16]; vectors float32 [N, D], unit rows.
    """

    ids: npt.NDArray[np.int64]
    text_hashes: npt.NDArray[np.uint8]
    vectors: npt.NDArray[np.float32]
    encoder: str
    """Its name."""
    fingerprint: str
    """Hash of all of the encoder that decides a vector."""

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} vectors of {self.dim} by {self.encoder})"

    def to_arrow(self) -> pa.Table:
        """Return the columns `sentence_id`, `text_hash` and `vector`, a list of float32."""
        flat = pa.array(self.vectors.reshape(-1))
        return pa.table(
            {
                "sentence_id": self.ids,
                "text_hash": fixed_binary(self.text_hashes) if len(self) else pa.array([], HASH),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dim),
            },
            metadata={"encoder": self.encoder, "encoder_fingerprint": self.fingerprint},
        )


_COUNTS = pa.map_(pa.string(), pa.int64())
_SAMPLE = pa.struct([(name, pa.string()) for name in ("margin", "cosine", "reason", "source", "target")])


@dataclass(frozen=True, eq=False, repr=False)
class Funnel(Result):
    """What came into each step of a run, what was dropped and why, what came out; `print` lays it out."""

    rows: tuple[FunnelRow, ...]
    doubts: tuple[str, ...] = ()
    """Why not every row is accounted for; nothing for a complete run whose files are whole."""

    def to_list(self) -> list[dict[str, Any]]:
        """Return the rows as `emsmine report --json` prints them."""
        return [row.as_dict() for row in self.rows]

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table; counts by reason are maps."""
        kinds = {
            **dict.fromkeys(("step", "group"), pa.string()),
            **dict.fromkeys(("rows_in", "rows_out"), pa.int64()),
            **dict.fromkeys(("dropped", "suspicious", "reused"), _COUNTS),
            "samples": pa.list_(_SAMPLE),
            "adds_up": pa.bool_(),
        }
        rows = self.to_list()
        columns = {
            name: pa.array([list(row[name].items()) if kind is _COUNTS else row[name] for row in rows], kind)
            for name, kind in kinds.items()
        }
        return pa.table(columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return format_funnel(list(self.rows), self.doubts)

    def __repr__(self) -> str:
        return f"Funnel({len(self)} rows)"
