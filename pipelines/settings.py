"""What a run is told: its settings, and the catalogue of the stages.

A stage is a field of `Settings`, made by `_stage`: its settings, what it does, what its steps are called. The commands,
the flags, the order in which stages run, the funnel and what `verify` compares follow from it. Every setting is a
command-line flag (`near_duplicates` → `--near-duplicates`), so names are unique over all stages. Only light modules are
imported here, as `emsmine --help` shows all this.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from emsmine.errors import ConfigError
from emsmine.fields import setting
from emsmine.mining.approximate.choice import ENGINES
from emsmine.mining.selection import MARGINS, RETRIEVALS, SCORES
from emsmine.mining.text.rules import RulesConfig
from emsmine.pipelines.readers.formats import FORMATS

EXPORT_FORMATS = ("tsv", "moses", "parquet", "jsonl")


@dataclass(frozen=True)
class IngestSettings:
    """From input files to documents."""

    format: str = setting("auto", "input format", choices=("auto", *FORMATS))
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
class RescoreSettings:
    """From neighbours to candidate pairs with the probability that they are translations."""

    rescore: bool | None = setting(
        None,
        "read both sentences of every candidate before pairs are chosen (the default with an encoder that has a "
        "scorer, as ems:default)",
        kind=bool,
    )
    scorer: str = setting("auto", "model whose pair scorer is used; auto: the encoder's own, or that of ems:default")
    documents: bool = setting(
        True, "let pairs gain whose two documents hold other pairs (`run` only; `mine` knows no documents)"
    )


RATIO_THRESHOLD = 1.2
"""Lowest ratio margin of a pair, unless another is given."""
PROBABILITY_THRESHOLD = 0.5
"""Lowest probability of a rescored pair, unless another is given."""


@dataclass(frozen=True)
class SelectSettings:
    """From candidates to chosen pairs."""

    margin: str = setting("ratio", "margin function", choices=MARGINS)
    retrieval: str = setting("max", "how pairs are chosen among the candidates", choices=RETRIEVALS)
    sort_by: str = setting("probability", "what rescored pairs are chosen and sorted by", choices=SCORES)
    threshold: float | None = setting(
        None,
        f"lowest score of a pair ({PROBABILITY_THRESHOLD:g} for a probability, {RATIO_THRESHOLD:g} for a ratio margin "
        "unless asked otherwise)",
        kind=float,
    )
    cosine_floor: float = setting(0.35, "lowest cosine of a pair")

    def score(self, *, rescored: bool) -> str:
        """Return what pairs are chosen by: `probability` or `margin`."""
        return self.sort_by if rescored else "margin"

    def lowest_score(self, *, rescored: bool) -> float:
        """Return the threshold that holds.

        Raises:
            ConfigError: it is none of a probability, or a margin has no default.
        """
        if self.score(rescored=rescored) == "probability":
            if self.threshold is not None and not 0 <= self.threshold <= 1:
                raise ConfigError(
                    f"select.threshold {self.threshold:g}: the score of rescored pairs is a probability, 0 to 1; give "
                    "one, or choose by margins (--sort-by margin), or do not rescore (--no-rescore)"
                )
            return PROBABILITY_THRESHOLD if self.threshold is None else self.threshold
        if self.threshold is None and self.margin != "ratio":
            raise ConfigError(
                f"select.margin {self.margin} needs a select.threshold of its own (--threshold): the default "
                f"{RATIO_THRESHOLD} is for ratio margins"
            )
        return RATIO_THRESHOLD if self.threshold is None else self.threshold


@dataclass(frozen=True)
class ExportSettings:
    """From kept pairs to files."""

    formats: tuple[str, ...] = setting(("tsv", "moses", "parquet"), "output formats", choices=EXPORT_FORMATS)


@dataclass(frozen=True)
class StepEntry:
    """What is said of a step.

    Args:
        label: of its rows in the funnel; a step without one is not shown there, as its rows are those of the step
            before it, seen from another side.
        rows: what it counts rows by, if every row of a pair in the corpus comes by this step.
        takes: `stage.step` whose rows it takes, all of them.
        if_reused: the funnel shows it only where an earlier run was reused.
    """

    label: str = ""
    rows: Literal["", "together", "by language", "by pair"] = ""
    takes: str = ""
    if_reused: bool = False


@dataclass(frozen=True)
class StageEntry:
    """What is said of a stage.

    Args:
        settings: class of its settings.
        summary: what it does, as help says it.
        steps: its steps by name.
        needs_pairs: whether it can only run when the language pairs are known.
    """

    settings: type[Any]
    summary: str
    steps: Mapping[str, StepEntry]
    needs_pairs: bool = True


def _stage(settings: Any, summary: str, steps: Mapping[str, StepEntry], *, needs_pairs: bool = True) -> Any:
    """Enter a stage into the catalogue, as a field with the defaults of its settings."""
    entry = StageEntry(type(settings), summary, steps, needs_pairs)
    return dataclasses.field(default=settings, metadata={"stage": entry})


_UNSEEN = StepEntry()


@dataclass(frozen=True)
class Settings:
    """All settings that decide the result of a run; the stages in the order in which they run."""

    inputs: tuple[str, ...] = ()
    """Input files, folders and URLs, in this order."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Language pairs, as in `["de-en", "en-fr"]`; kept canonical, alphabetical and sorted."""
    reuse: str = ""
    """Folder of an earlier run whose results are taken over; empty: none."""
    ingest: IngestSettings = _stage(
        IngestSettings(),
        "read crawl files into documents",
        {"read": StepEntry("records → documents", "together")},
        needs_pairs=False,
    )
    dedup: DedupSettings = _stage(
        DedupSettings(),
        "drop exact and near-duplicate documents",
        {
            "sign": _UNSEEN,
            "cluster": _UNSEEN,
            "apply": StepEntry("→ distinct documents", "together", takes="ingest.read"),
        },
        needs_pairs=False,
    )
    langid: LangidSettings = _stage(
        LangidSettings(),
        "identify languages, split into distinct sentences",
        {
            "split": StepEntry("sentences → in wanted languages", "together"),
            "distinct": StepEntry("→ distinct sentences", "by language", takes="langid.split"),
        },
    )
    encode: EncodeSettings = _stage(
        EncodeSettings(),
        "turn sentences into vectors",
        {"encode": StepEntry("→ vectors", "by language", takes="langid.distinct")},
    )
    index: IndexSettings = _stage(
        IndexSettings(), "prepare the search of each language", {"index": _UNSEEN, "build": _UNSEEN}
    )
    search: SearchSettings = _stage(
        SearchSettings(),
        "find nearest neighbours in both directions",
        {
            "sample": _UNSEEN,
            "reuse": _UNSEEN,
            "tile": _UNSEEN,
            "merge": StepEntry("→ lists of neighbours", if_reused=True),
            "audit": StepEntry("sampled neighbours → found"),
        },
    )
    rescore: RescoreSettings = _stage(
        RescoreSettings(),
        "read both sentences of every candidate",
        {"collect": StepEntry("candidates → to be rescored", "by pair"), "look": _UNSEEN, "score": _UNSEEN},
    )
    select: SelectSettings = _stage(
        SelectSettings(), "choose pairs by score", {"select": StepEntry("candidates → chosen pairs", "by pair")}
    )
    filter: RulesConfig = _stage(
        RulesConfig(),
        "drop pairs that break a rule",
        {"filter": StepEntry("→ kept pairs", "by pair", takes="select.select")},
    )
    export: ExportSettings = _stage(
        ExportSettings(),
        "write TSV, Moses, Parquet, JSONL",
        {"export": StepEntry("→ exported pairs", "by pair", takes="filter.filter")},
    )

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of all pairs, sorted."""
        return tuple(sorted({lang for pair in self.pairs for lang in pair}))

    def params(self, stage: str, *names: str) -> dict[str, Any]:
        """Return settings of a stage as task parameters; all of them if no name is given."""
        values = dataclasses.asdict(getattr(self, stage))
        return {name: values[name] for name in names or values}


STAGES: dict[str, StageEntry] = {
    field.name: field.metadata["stage"] for field in dataclasses.fields(Settings) if "stage" in field.metadata
}
"""The catalogue, in the order in which stages run."""
STAGE_NAMES = tuple(STAGES)
STAGE_SETTINGS: dict[str, type[Any]] = {name: entry.settings for name, entry in STAGES.items()}
STEPS: dict[str, StepEntry] = {
    f"{stage}.{step}": told for stage, entry in STAGES.items() for step, told in entry.steps.items()
}
"""The steps of all stages by `stage.step`, in the order in which they run."""
