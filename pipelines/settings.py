"""The settings of a run: one frozen dataclass per stage, read from TOML, overridden by flags.

Every field is also a command-line flag (`near_duplicates` → `--near-duplicates`), so names are unique over all stages.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsmine import languages
from emsmine.errors import ConfigError
from emsmine.mining.approximate.choice import ENGINES
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.layout import CONFIG_NAME
from emsmine.pipelines.store.tasks import JSON
from emsmine.toml import parse_toml, read_toml

MARGINS = ("ratio", "distance", "absolute")
RETRIEVALS = ("max", "forward", "backward", "intersect")
FORMATS = ("tsv", "moses", "parquet", "jsonl")


def setting(
    default: Any, text: str, *, choices: tuple[str, ...] = (), low: float = -math.inf, high: float = math.inf
) -> Any:
    """Declare a setting with its help text, allowed words, lowest and highest value."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices, "low": low, "high": high})


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
    """All settings that decide the result of a run.

    `inputs` are paths or URLs in the order given; `pairs` canonical, alphabetical, sorted; `reuse` is the directory of
    an earlier run whose results are taken over, or "".
    """

    inputs: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    reuse: str = ""
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


def parse_pairs(codes: tuple[str, ...] | list[str]) -> tuple[tuple[str, str], ...]:
    """Read `de-en,zh-en` or several such words into canonical pairs, each alphabetical, all sorted.

    Raises:
        LanguageError: a code is unknown, or a pair is not two languages.
    """
    found = set()
    for word in (part.strip() for code in codes for part in code.split(",")):
        if word:
            left, right = sorted(languages.pair(word))
            found.add((left, right))
    return tuple(sorted(found))


def check_setting(stage: str, name: str, value: Any) -> Any:
    """Return a value with its type, choice and range checked.

    Raises:
        ConfigError: unknown name, wrong type, unknown word, or too small.
    """
    fields = {field.name: field for field in dataclasses.fields(STAGE_SETTINGS[stage])}
    if name not in fields:
        raise ConfigError(f"config: unknown setting {stage}.{name}; known: {', '.join(fields)}")
    field = fields[name]
    default: Any = field.default
    wanted = type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is tuple and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"config: {stage}.{name} is {value!r}; it must be a {wanted.__name__}")
    choices = field.metadata["choices"]
    for word in value if isinstance(value, tuple) else (value,):
        if wanted is tuple and not isinstance(word, str):
            raise ConfigError(f"config: {stage}.{name} holds {word!r}; it must be a list of strings")
        if choices and word not in choices:
            raise ConfigError(f"config: {stage}.{name} is {word!r}; choose from {', '.join(choices)}")
    if isinstance(value, (int, float)) and wanted is not bool:
        low, high = field.metadata["low"], field.metadata["high"]
        if not math.isfinite(value) or not low <= value <= high:
            bounds = [f"at least {low}"] * math.isfinite(low) + [f"at most {high}"] * math.isfinite(high)
            raise ConfigError(f"config: {stage}.{name} is {value}; it must be {' and '.join(bounds) or 'finite'}")
    if isinstance(value, tuple):
        # A set, in one order: another order or a repetition is no other result.
        return tuple(sorted(set(value), key=lambda word: choices.index(word) if choices else word))
    return value


def build_settings(
    base: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]],
    *,
    inputs: tuple[str, ...] = (),
    pairs: tuple[tuple[str, str], ...] = (),
    reuse: str | None = None,
) -> Settings:
    """Combine a parsed TOML configuration with overrides.

    Args:
        base: tables per stage, `inputs`, `pairs` and `reuse` at the top; unknown keys are errors.
        overrides: stage → name → value; win over `base`.
        inputs: win over `base["inputs"]` if not empty.
        pairs: win over `base["pairs"]` if not empty.
        reuse: wins over `base["reuse"]` if not None; "" takes nothing over.
    """
    unknown = sorted(set(base) - {*STAGE_SETTINGS, "inputs", "pairs", "reuse"})
    if unknown:
        known = ", ".join(["inputs", "pairs", "reuse", *STAGE_SETTINGS])
        raise ConfigError(f"config: unknown table or key {', '.join(unknown)}; known: {known}")
    stages = {}
    for stage, kind in STAGE_SETTINGS.items():
        table = base.get(stage, {})
        if not isinstance(table, Mapping):
            raise ConfigError(f"config: [{stage}] must be a table, got {type(table).__name__}")
        values = {**table, **overrides.get(stage, {})}
        stages[stage] = kind(**{name: check_setting(stage, name, value) for name, value in values.items()})
    chosen = {**base.get("select", {}), **overrides.get("select", {})}
    if stages["select"].margin != "ratio" and "threshold" not in chosen:
        raise ConfigError(
            f"config: select.margin {stages['select'].margin} needs a select.threshold of its own (--threshold): the "
            f"default {SelectSettings.threshold} is for ratio margins"
        )
    for key in ("inputs", "pairs"):
        value = base.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"config: {key} must be a list of strings, got {value!r}")
    reused = base.get("reuse", "") if reuse is None else reuse
    if not isinstance(reused, str):
        raise ConfigError(f"config: reuse must be the directory of an earlier run as a string, got {reused!r}")
    return Settings(
        inputs=inputs or tuple(base.get("inputs", ())),
        pairs=pairs or parse_pairs(base.get("pairs", [])),
        reuse=reused,
        **stages,
    )


def read_config(path: Path) -> dict[str, Any]:
    """Parse a TOML configuration.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds what no setting can be.
    """
    return read_toml(path, "config")


def read_saved_config(root: Path) -> dict[str, Any]:
    """Parse the settings saved in a run directory; empty if there are none.

    Raises:
        ConfigError: as `read_config`.
        ForeignPathError: the file is a link or no plain file.
    """
    try:
        content = inside.read_bytes(root, CONFIG_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"config: cannot read {root / CONFIG_NAME} ({error.strerror})") from error
    return parse_toml(content, root / CONFIG_NAME, "config")


def to_toml(settings: Settings) -> str:
    """Write settings as TOML that `read_config` and `build_settings` read back to equal settings."""
    pairs = ["-".join(pair) for pair in settings.pairs]
    lines = [f"inputs = {_toml(list(settings.inputs))}", f"pairs = {_toml(pairs)}"]
    lines += [f"reuse = {_toml(settings.reuse)}"] if settings.reuse else []
    for stage in STAGE_SETTINGS:
        lines.append(f"\n[{stage}]")
        lines += [f"{key} = {_toml(value)}" for key, value in dataclasses.asdict(getattr(settings, stage)).items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{"".join(map(_toml_character, str(value)))}"'


def _toml_character(c: str) -> str:
    if 0xDC80 <= ord(c) <= 0xDCFF:
        # A byte of a file name that is no UTF-8, as Python stands it in; `parse_toml` reads it back.
        return f"\\u0000{ord(c) - 0xDC00:02x}"
    return f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}"
