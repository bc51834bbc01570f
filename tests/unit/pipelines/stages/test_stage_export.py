"""export: files as the field expects them; the columns follow the name of the pair."""

import json
from pathlib import Path
from typing import Any

import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import ExportSettings, Settings
from emsmine.pipelines.stages.export import in_export_order
from emsmine.pipelines.store.schemas import pairs_schema
from emsmine.pipelines.store.store import Store


def pairs(rows: list[tuple[float, str, str]], suspicious: tuple[str, ...] = ()) -> pa.Table:
    schema = pairs_schema(["identical"])
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for number, (score, source, target) in enumerate(rows):
        columns["score"].append(score)
        columns["support"].append(0)
        # In another order: what comes first is decided by the score.
        columns["margin"].append(2.0 - score)
        columns["cosine"].append(0.5)
        columns["suspicious"].append(suspicious[number] if suspicious else "")
        columns["rule_identical"].append(0.0)
        for side, text in (("source", source), ("target", target)):
            values = [text, number, f"http://{side}/{number}", "", 7, number, 0.9, [side]]
            for name, value in zip(_NAMES, values, strict=True):
                columns[f"{side}_{name}"].append(value)
    return pa.table(columns, schema=schema)


_NAMES = ("text", "sentence_id", "url", "date", "doc_id", "position", "lid_score", "mt_hints")


def export(root: Path, pair: str, table: pa.Table, *formats: str) -> Path:
    (canonical,) = parse_pairs([pair])
    folder = "-".join(canonical)
    kit.publish(root, "filter", "filter", {f"{folder}/00000": {f"pairs/{folder}": table}})
    kit.run_stage(root, Settings(pairs=(canonical,), export=ExportSettings(formats)), "export")
    return root / "export"


@pytest.mark.parametrize(
    ("source", "target", "names"),
    [
        ("deu_Latn", "eng_Latn", ("de", "en")),
        ("fra_Latn", "spa_Latn", ("es", "fr")),
        ("eng_Latn", "zho_Hans", ("en", "zh")),
        ("zho_Hans", "zho_Hant", ("zh", "zh-Hant")),
        ("deu_Latn", "ell_Grek", ("de", "el")),
        ("nld_Latn", "swe_Latn", ("nl", "sv")),
    ],
)
def test_names_are_alphabetical_and_everything_of_a_side_moves(
    source: str, target: str, names: tuple[str, str]
) -> None:
    table = pairs([(1.2, "source text", "target text")])
    ordered, left, right = in_export_order(table, source, target)
    assert (left, right) == names
    assert ordered.column_names == table.column_names
    (row,) = ordered.to_pylist()
    swapped = names[0] == "es"
    first, second = ("target", "source") if swapped else ("source", "target")
    assert (row["source_text"], row["target_text"]) == (f"{first} text", f"{second} text")
    assert (row["source_url"], row["target_url"]) == (f"http://{first}/0", f"http://{second}/0")
    assert (row["source_mt_hints"], row["target_mt_hints"]) == ([first], [second])
    assert row["rule_identical"] == 0.0


def test_all_formats_say_the_same_best_first(tmp_path: Path) -> None:
    rows = [(1.1, "un", "uno"), (1.3, "trois « x »", 'tres "x"'), (1.3, "trois bis", "tres bis"), (1.2, "deux", "dos")]
    folder = export(tmp_path, "fr-es", pairs(rows), "tsv", "moses", "parquet", "jsonl")
    assert sorted(path.name for path in folder.iterdir()) == [
        "corpus.es-fr.es",
        "corpus.es-fr.fr",
        "es-fr.jsonl",
        "es-fr.parquet",
        "es-fr.tsv",
    ]
    tsv = (folder / "es-fr.tsv").read_bytes().decode("utf-8")
    # Equal scores: by the ids, as everywhere.
    assert tsv == (
        '1.300000\ttres "x"\ttrois « x »\n1.300000\ttres bis\ttrois bis\n1.200000\tdos\tdeux\n1.100000\tuno\tun\n'
    )
    columns = [line.split("\t") for line in tsv.splitlines()]
    assert (folder / "corpus.es-fr.es").read_text(encoding="utf-8").split("\n")[:-1] == [row[1] for row in columns]
    assert (folder / "corpus.es-fr.fr").read_text(encoding="utf-8").split("\n")[:-1] == [row[2] for row in columns]
    parsed = [json.loads(line) for line in (folder / "es-fr.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["translation"] for row in parsed] == [{"es": row[1], "fr": row[2]} for row in columns]
    assert list(parsed[0]["translation"]) == ["es", "fr"]
    assert list(parsed[0]) == ["translation", "score", "margin", "cosine", "suspicious"]
    assert [(row["score"], row["margin"]) for row in parsed] == [(1.3, 0.7), (1.3, 0.7), (1.2, 0.8), (1.1, 0.9)]
    assert {row["cosine"] for row in parsed} == {0.5}
    stored = kit.rows(tmp_path, "export/es-fr.parquet")
    assert [(row["source_text"], row["target_text"]) for row in stored] == [(row[1], row[2]) for row in columns]


def test_nothing_breaks_a_line_or_a_column(tmp_path: Path) -> None:
    folder = export(tmp_path, "de-en", pairs([(1.0, "a\tb\nc\u2028d\x85e", "f\r\ng\x0ch")]), "tsv", "moses")
    assert (folder / "de-en.tsv").read_bytes() == b"1.000000\ta b c d e\tf g h\n"
    assert (folder / "corpus.de-en.de").read_bytes() == b"a b c d e\n"


def test_only_the_formats_asked_for(tmp_path: Path) -> None:
    folder = export(tmp_path, "de-en", pairs([]), "jsonl")
    assert [path.name for path in folder.iterdir()] == ["de-en.jsonl"]
    assert (folder / "de-en.jsonl").read_bytes() == b""


MARKS = ("low_cosine", "", "low_cosine,few_neighbours")
ROWS = [(1.25, "un", "uno"), (1.5, "deux", "dos"), (1.75, "tr\tois", "tres\u2028")]


def test_suspicious_pairs_are_listed_and_stay_in_every_file(tmp_path: Path) -> None:
    folder = export(tmp_path / "marked", "fr-es", pairs(ROWS, MARKS), "tsv", "moses", "jsonl", "parquet")
    plain = export(tmp_path / "plain", "fr-es", pairs(ROWS), "tsv", "moses", "jsonl", "parquet")
    assert (folder / "es-fr.suspicious.tsv").read_bytes().decode("utf-8") == (
        "0.250000\t0.500000\tlow_cosine,few_neighbours\ttres\ttr ois\n0.750000\t0.500000\tlow_cosine\tuno\tun\n"
    )
    for name in ("es-fr.tsv", "corpus.es-fr.es", "corpus.es-fr.fr"):
        assert (folder / name).read_bytes() == (plain / name).read_bytes()
    assert len((folder / "es-fr.tsv").read_text(encoding="utf-8").splitlines()) == 3
    records = [json.loads(line) for line in (folder / "es-fr.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["suspicious"] for row in records] == [MARKS[2], "", MARKS[0]]
    assert [row["suspicious"] for row in kit.rows(tmp_path, "marked/export/es-fr.parquet")] == [MARKS[2], "", MARKS[0]]
    (manifest,) = Store(tmp_path / "marked").manifests("export", "export")
    assert manifest.counters == {"suspicious.few_neighbours": 1, "suspicious.low_cosine": 2}
    assert (manifest.rows_in, manifest.rows_out, manifest.spec.version) == (3, 3, 3)


def test_no_listing_without_suspicious_pairs(tmp_path: Path) -> None:
    folder = export(tmp_path, "de-en", pairs(ROWS), "tsv")
    assert [path.name for path in folder.iterdir()] == ["de-en.tsv"]


def test_the_listing_does_not_hang_on_the_formats(tmp_path: Path) -> None:
    folder = export(tmp_path, "de-en", pairs(ROWS, MARKS), "parquet")
    assert sorted(path.name for path in folder.iterdir()) == ["de-en.parquet", "de-en.suspicious.tsv"]
