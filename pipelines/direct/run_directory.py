"""What a run left, for Python: its pairs, funnel, rejects and vectors. Every file is verified when it is read."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emsmine import languages
from emsmine.errors import ConfigError, InputError
from emsmine.pipelines.direct.results import Embeddings, Funnel, Pairs, Rejects
from emsmine.pipelines.runner.prepare import output_path
from emsmine.pipelines.runner.report import verified_funnel
from emsmine.pipelines.settings import STAGE_NAMES
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.stages.export import best_first, in_export_order, swapped_sides
from emsmine.pipelines.store import schemas
from emsmine.pipelines.store.context import REJECTS_SCHEMA
from emsmine.pipelines.store.layout import pair_folder, select_outputs
from emsmine.pipelines.store.parquet import ParquetInfo, parquet_info, read_groups, read_table
from emsmine.pipelines.store.store import Store

logger = logging.getLogger(__name__)

_NAMES = {
    f"{side}_{old}": f"{side}{new}"
    for old, new in (("sentence_id", "_id"), ("text", ""))
    for side in ("source", "target")
}


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not.

    Args:
        output: the directory.

    Raises:
        ConfigError: that cannot be a run directory.
        InputError: nothing was run there.
    """

    output: Path

    def __init__(self, output: str | PathLike[str]) -> None:
        path = output_path(fspath(output))
        if not (path / "manifests").is_dir():
            raise InputError(
                f"run: {path} holds no run; make one: emsmine.run([...], pairs=[...], output={str(path)!r})"
            )
        object.__setattr__(self, "output", path)

    def pairs(self, pair: str | None = None) -> Pairs:
        """Return the kept pairs of two languages, best first: those that are exported, with all that is known of them.

        Args:
            pair: `de-en` has German sources and English targets, `en-de` the reverse. It may be left out if the run has
                one pair; sides are then as in the exported files.

        Raises:
            InputError: the run has not come so far, or has no such pair.
            LanguageError: the pair is not two languages.
            CorruptOutputError: a file is damaged.
        """
        store = Store(self.output)
        manifests = store.manifests("filter", "filter")
        known = {manifest.spec.partition.split("/")[0] for manifest in manifests}
        names = {folder: languages.pair_name(*folder.split("-"), canonical=False) for folder in sorted(known)}
        if pair is None and len(known) != 1:
            raise InputError(f"run: {self.output} has the pairs {', '.join(names.values())}; name one of them")
        left, right = next(iter(names)).split("-") if pair is None else languages.pair(pair)
        folder = pair_folder((min(left, right), max(left, right)))
        if folder not in known:
            raise InputError(f"run: {self.output} has no pair {pair}; it has {', '.join(names.values()) or 'none'}")
        refs = select_outputs(manifests, f"pairs/{folder}")
        tables = [read_table(store.verified(ref), None) for ref in refs]
        table, first, _ = in_export_order(best_first(pa.concat_tables(tables)), *folder.split("-"))
        if pair is not None and languages.resolve(first) != left:
            table = swapped_sides(table)
        return Pairs(_as_pairs(table), {"pairs": table.num_rows})

    def funnel(self) -> Funnel:
        """Return what came into each step, what was dropped and why, what came out; every file is verified.

        Raises:
            InputError: no step is finished.
        """
        rows, doubts = verified_funnel(Store(self.output))
        return Funnel(tuple(rows), tuple(doubts))

    def rejects(self, *, stage: str | None = None, reason: str | None = None) -> Rejects:
        """Return samples of what was dropped, at most 1,000 for each task and reason; `funnel` has the full counts.

        Args:
            stage: one stage; None: all.
            reason: one reason, as in the funnel; None: all.

        Raises:
            ConfigError: there is no such stage.
            CorruptOutputError: a file is damaged.
        """
        if stage is not None and stage not in STAGE_NAMES:
            raise ConfigError(f"rejects: stage {stage!r} is unknown; stages: {', '.join(STAGE_NAMES)}")
        store = Store(self.output)
        tables = [REJECTS_SCHEMA.empty_table()]
        for name in STAGE_NAMES if stage is None else (stage,):
            steps = [step.name for step in load_stage(name).steps if store.has_step(name, step.name)]
            for ref in (ref for step in steps for ref in select_outputs(store.manifests(name, step), "rejects")):
                tables.append(read_table(store.verified(ref), None))
        table = pa.concat_tables(tables)
        if reason is None:
            return Rejects(table)
        found = table.filter(pc.equal(table["reason"], reason))
        if not found.num_rows:
            reasons = sorted(set(table["reason"].to_pylist()))
            logger.warning(
                "rejects: nothing was dropped for %r; reasons here: %s", reason, ", ".join(reasons) or "none"
            )
        return Rejects(found)

    def embeddings(self, lang: str) -> Embeddings:
        """Return the vectors of a language, see `read_embeddings`.

        Args:
            lang: any code of the language.

        Raises:
            InputError: the run has no vectors of that language.
            LanguageError: the code is unknown or ambiguous.
        """
        return read_embeddings(self.output / "embeddings" / languages.resolve(lang))


def _as_pairs(table: pa.Table) -> pa.Table:
    """Bring the columns of kept pairs into the form of `Pairs`; further ones follow."""
    renamed = table.rename_columns([_NAMES.get(name, name) for name in table.column_names])
    first = ["score", "margin", "cosine", "suspicious", "source_id", "target_id", "source", "target"]
    rest = [name for name in renamed.column_names if name not in first]
    return renamed.select([*first, *rest])


def read_embeddings(path: str | PathLike[str] | Sequence[str | PathLike[str]]) -> Embeddings:
    """Read the vectors of a run directory, or of `emsmine embed -o x.parquet`.

    Args:
        path: the folder of a language, as in `out/embeddings/deu_Latn`, or one or several Parquet files.

    Returns:
        float32 vectors of unit length with the ids and text hashes of their sentences. The rows are normalised in
        float32, as those that are stored as float16 are up to 5e-4 off. Memory is that of the result and little more.

    Raises:
        InputError: nothing is there, or what is there are no embeddings, or those of different encoders.
        CorruptOutputError: a file is damaged.
    """
    files = list(_files(path))
    infos = [parquet_info(file) for file in files]
    metadata = [_metadata(file, info) for file, info in zip(files, infos, strict=True)]
    for file, other in zip(files, metadata, strict=True):
        if other != metadata[0]:
            raise InputError(
                f"read_embeddings: {file} holds vectors of {other['encoder']} (dim {other['dim']}, fingerprint "
                f"{other['encoder_fingerprint'][:12]}), {files[0]} those of {metadata[0]['encoder']} (dim "
                f"{metadata[0]['dim']}, fingerprint {metadata[0]['encoder_fingerprint'][:12]}); read them one by one"
            )
    num_rows, dim = sum(info.num_rows for info in infos), int(metadata[0]["dim"])
    ids, hashes = np.empty(num_rows, np.int64), np.empty((num_rows, 16), np.uint8)
    vectors = np.empty((num_rows, dim), np.float32)
    start = 0
    for file in files:
        for group in read_groups(file, ["sentence_id", "text_hash", "embedding"]):
            table = group.replace_schema_metadata(infos[0].schema.metadata)
            rows = slice(start, start + table.num_rows)
            ids[rows] = table["sentence_id"].to_numpy()
            hashes[rows] = schemas.text_hashes(table)
            vectors[rows] = schemas.read_embeddings(table)
            start = rows.stop
    return Embeddings(ids, hashes, vectors, metadata[0]["encoder"], metadata[0]["encoder_fingerprint"])


def _files(path: str | PathLike[str] | Sequence[str | PathLike[str]]) -> Iterator[Path]:
    given = [Path(path)] if isinstance(path, str | PathLike) else [Path(one) for one in path]
    if not given:
        raise InputError("read_embeddings: no file is given; name the folder of a language, or Parquet files")
    for one in given:
        found = sorted(one.glob("*.parquet")) if one.is_dir() else [one]
        if not found:
            below = sorted({file.parent.relative_to(one).as_posix() for file in one.glob("**/embeddings/*/*.parquet")})
            below += sorted({file.parent.name for file in one.glob("*/*.parquet") if one.name == "embeddings"})
            hint = f"name one of the folders in it: {', '.join(below[:10])}" if below else "encode sentences first"
            raise InputError(f"read_embeddings: {one} holds no embeddings; {hint}")
        if not found[0].exists():
            raise InputError(f"read_embeddings: {one} does not exist; name the folder of a language, or Parquet files")
        yield from found


def _metadata(file: Path, info: ParquetInfo) -> dict[str, str]:
    """Return what a file says of its vectors; refuse one whose columns do not fit."""
    metadata = schemas.embeddings_metadata(info.schema)
    names = ("dim", "dtype", "encoder", "encoder_fingerprint")
    if not set(names) <= set(metadata) or not metadata["dim"].isdecimal():
        raise InputError(
            f"read_embeddings: {file} holds no embeddings (its metadata lack dim, dtype or encoder; columns: "
            f"{', '.join(info.schema.names)[:200]}); name a file of the folder embeddings/ of a run"
        )
    expected = schemas.embeddings_schema(int(metadata["dim"]), "", "")
    if metadata["dtype"] != "float16" or not info.schema.equals(expected):
        raise InputError(
            f"read_embeddings: the columns of {file} are not those that its metadata describe; encode again"
        )
    return {name: metadata[name] for name in names}
