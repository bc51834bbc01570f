"""The settings of a run: one frozen dataclass per stage, read from TOML, overridden by flags.

Every field is also a command-line flag (`near_duplicates` → `--near-duplicates`), so names are unique over all stages.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from emsmine.fields import setting
from emsmine.mining.approximate.choice import ENGINES
from emsmine.pipelines.store.tasks import JSON

MARGINS = ("ratio", "distance", "absolute")
RETRIEVALS = ("max", "forward", "backward", "intersect")
FORMATS = ("tsv", "moses", "parquet", "jsonl")


@dataclass(frozen=True)
class IngestSettings:
    """From input files to documents."""

    format: str = setting("auto", "input format", choices=("auto", "warc", "wet", "jsonl", "parquet", "text"))
    text_field: str = setting("text", "name of the text field or column in JSONL and Parquet")
    url_field: str = setting("url", "name of the URL field or column in JSONL and Parquet")


@dataclass(frozen=True)
class DedupSettings:
    """From documents to distinct documents."""

    near_duplicates: bool = setting(True, "also drop near-duplicates of earlier documents (MinHash)")
    near_duplicate_threshold: float = setting(
        0.8, "Jaccard similarity from which documents are near-duplicates", low=0.01, high=1
    )


@dataclass(frozen=True)
class LangidSettings:
    """From distinct documents to the distinct sentences of each language."""

    identifier: str = setting("py3langid", "language identifier")
    min_lid_score: float = setting(0.5, "drop sentences whose language score is lower", low=0, high=1)
    max_sentence_chars: int = setting(1000, "drop sentences that are longer", low=1)
    shard_rows: int = setting(100_000, "sentences per shard: the unit of work of the later stages", low=1)


@dataclass(frozen=True)
class EncodeSettings:
    """From sentences to embeddings."""

    encoder: str = setting(
        "ems:default", "encoder: ems:NAME or ems:FOLDER (also @int8, @bf16), sentence-transformers:NAME"
    )


@dataclass(frozen=True)
class IndexSettings:
    """How neighbours are searched."""

    engine: str = setting("exact", "search engine", choices=ENGINES)
    index_memory_gb: float = setting(8.0, "GiB that the index of a language may take before auto compresses it", low=0)


@dataclass(frozen=True)
class SearchSettings:
    """From embeddings to nearest neighbours in both directions."""

    k: int = setting(4, "neighbours per sentence and direction", low=1)
    target_recall: float = setting(
        0.95, "share of pairs that each direction of an approximate search is tuned to find", low=0, high=1
    )
    min_recall: float = setting(
        0.95, "share of the pairs that an approximate search must find; it fails below", low=0, high=1
    )
    min_precision: float = setting(
        0.9, "share of its pairs that must be those of exact search; it fails below", low=0, high=1
    )
    audit_queries: int = setting(1000, "queries per direction on which an approximate search is measured", low=1)


@dataclass(frozen=True)
class SelectSettings:
    """From neighbours to candidate pairs."""

    margin: str = setting("ratio", "margin function", choices=MARGINS)
    retrieval: str = setting("max", "how pairs are chosen among the candidates", choices=RETRIEVALS)
    threshold: float = setting(1.2, "lowest margin of a pair")
    cosine_floor: float = setting(0.35, "lowest cosine of a pair")


@dataclass(frozen=True)
class FilterSettings:
    """From candidate pairs to kept pairs."""

    max_length_ratio: float = setting(2.0, "largest ratio of lengths, corrected for the languages", low=1)
    min_letters: int = setting(2, "fewest letters a side", low=0)
    max_pair_chars: int = setting(1000, "most characters a side", low=1)
    max_similarity: float = setting(0.85, "largest character similarity of the two sides", low=0)
    min_lid_support: float = setting(0.05, "lowest support for the expected language of either side", low=0)
    min_digit_agreement: float = setting(0.3, "lowest agreement of the numbers of both sides", low=0)
    min_letter_share: float = setting(0.4, "lowest share of letters among the visible characters", low=0)
    rules_off: tuple[str, ...] = setting((), "rules to leave out, by name")


@dataclass(frozen=True)
class ExportSettings:
    """From kept pairs to files."""

    formats: tuple[str, ...] = setting(("tsv", "moses", "parquet"), "output formats", choices=FORMATS)


STAGE_SETTINGS: dict[str, type[Any]] = {
    "ingest": IngestSettings,
    "dedup": DedupSettings,
    "langid": LangidSettings,
    "encode": EncodeSettings,
    "index": IndexSettings,
    "search": SearchSettings,
    "select": SelectSettings,
    "filter": FilterSettings,
    "export": ExportSettings,
}


@dataclass(frozen=True)
class Settings:
    """All settings that decide the result of a run."""

    inputs: tuple[str, ...] = ()
    """Input files, folders and URLs, in this order."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Language pairs, as in `["de-en", "en-fr"]`; kept canonical, alphabetical and sorted."""
    reuse: str = ""
    """Folder of an earlier run whose results are taken over; empty: none."""
    ingest: IngestSettings = IngestSettings()
    dedup: DedupSettings = DedupSettings()
    langid: LangidSettings = LangidSettings()
    encode: EncodeSettings = EncodeSettings()
    index: IndexSettings = IndexSettings()
    search: SearchSettings = SearchSettings()
    select: SelectSettings = SelectSettings()
    filter: FilterSettings = FilterSettings()
    export: ExportSettings = ExportSettings()

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of all pairs, sorted."""
        return tuple(sorted({lang for pair in self.pairs for lang in pair}))

    def params(self, stage: str, *names: str) -> dict[str, JSON]:
        """Return settings of a stage as task parameters; all of them if no name is given."""
        values = dataclasses.asdict(getattr(self, stage))
        return {name: values[name] for name in names or values}


STAGE_NAMES = ("ingest", "dedup", "langid", "encode", "index", "search", "select", "filter", "export")
"""In the order in which they run."""
