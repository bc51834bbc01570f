"""The parts of `emsmine bootstrap`: pairs, training files, retrieval, records of rounds, report, shared stages."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.encoder.data.pairs import PairFile, read_pairs
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.encoder.training.settings import TrainingConfig
from emsmine.errors import CorruptOutputError, InputError, ModelError, StaleOutputError
from emsmine.pipelines.bootstrap.pairs import (
    Known,
    PairSet,
    held_out,
    measure,
    num_held_out,
    pair_langs,
    read_pair_sets,
    write_mined,
    write_training,
)
from emsmine.pipelines.bootstrap.report import Round, best_round, build_report, format_report, load_round, record_hash
from emsmine.pipelines.bootstrap.tokenizer import tokenizer_sample, train_shared_tokenizer
from emsmine.pipelines.settings import STAGE_NAMES
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.store.adopt import adopt_steps
from emsmine.pipelines.store.files import hash_file
from emsmine.pipelines.store.store import Store

DE_EN = ("deu_Latn", "eng_Latn")
TEXT_STAGES = STAGE_NAMES[:3]
TEXT_STEPS = [(stage, step.name) for stage in TEXT_STAGES for step in load_stage(stage).steps]


def numbered(size: int) -> PairSet:
    return PairSet(DE_EN, [(f"Satz {n}", f"sentence {n}") for n in range(size)])


# ---- pairs ----


def test_files_of_the_same_languages_are_one_set_in_the_order_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "de-en.a.tsv").write_text("Haus\thouse\textra\n\thole\n \x07\tbell\n", encoding="utf-8")
    (tmp_path / "en-de.b.tsv").write_text("a  cat\tdie\u00a0Katze\nalone\n", encoding="utf-8")
    (tmp_path / "pt-es.tsv").write_text("gato\tgata\n", encoding="utf-8")
    rejected: Counter[str] = Counter()
    found = read_pair_sets([str(tmp_path)], rejected)
    assert list(found) == ["de-en", "es-pt"]
    assert found["de-en"] == PairSet(DE_EN, [("Haus", "house"), ("die Katze", "a cat")])
    # By short code, as exported files are: by canonical code Portuguese would be first.
    assert found["es-pt"] == PairSet(("spa_Latn", "por_Latn"), [("gata", "gato")])
    assert rejected == {"empty_side": 2, "too_few_columns": 1}
    assert pair_langs("pt-es") == ("spa_Latn", "por_Latn")


@pytest.mark.parametrize(("size", "wanted", "expected"), [(100, 4, 4), (39, 4, 3), (9, 4, 0), (100, 0, 0)])
def test_at_most_a_tenth_of_the_seed_is_held_out(size: int, wanted: int, expected: int) -> None:
    seed = numbered(size)
    assert num_held_out(seed, wanted) == expected
    found = held_out({"de-en": seed}, wanted)
    assert found == ({"de-en": PairSet(DE_EN, seed.pairs[size - expected :])} if expected else {})


def lines(path: Path) -> list[tuple[str, str]]:
    return list(read_pairs(PairFile(path, *DE_EN), Counter()))


def test_training_files_hold_the_seed_the_mined_pairs_and_last_what_is_held_out(tmp_path: Path) -> None:
    mined = tmp_path / "mined"
    mined.mkdir()
    new = [(f"neu {n}", f"new {n}") for n in range(60)]
    (mined / "de-en.tsv").write_text("".join(f"{s}\t{t}\t1.5\n" for s, t in new), encoding="utf-8")
    (mined / "de-fr.tsv").write_text("neu\tnouveau\t1.2\n", encoding="utf-8")
    (mined / "en-fr.tsv").write_text("", encoding="utf-8")
    seeds = {"de-en": numbered(40), "de-it": PairSet(("deu_Latn", "ita_Latn"), [("ja", "sì")])}
    counts = write_training(seeds, mined, ["de-en", "de-fr", "en-fr"], tmp_path / "data", 6)
    assert counts == {
        "de-en": {"seed": 40, "mined": 60},
        "de-fr": {"seed": 0, "mined": 1},
        "de-it": {"seed": 1, "mined": 0},
    }
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["de-en.tsv", "de-fr.tsv", "de-it.tsv"]
    seed = numbered(40).pairs
    assert lines(tmp_path / "data" / "de-en.tsv") == seed[:36] + new + seed[36:]
    # Training holds out 6 of 100: the 4 of the seed that no round may see, and the last of the mined.
    assert lines(tmp_path / "data" / "de-en.tsv")[-6:] == new[-2:] + seed[36:]
    assert (tmp_path / "data" / "de-fr.tsv").read_text(encoding="utf-8") == "neu\tnouveau\n"


def test_without_mined_pairs_the_training_file_is_the_seed(tmp_path: Path) -> None:
    assert write_training({"de-en": numbered(30)}, None, ["de-en", "de-fr"], tmp_path, 5) == {
        "de-en": {"seed": 30, "mined": 0}
    }
    assert lines(tmp_path / "de-en.tsv") == numbered(30).pairs
    assert not (tmp_path / "de-fr.tsv").exists()


def test_known_pairs_are_recognised_by_what_they_say() -> None:
    dev = {"de-en": PairSet(DE_EN, [("Das Haus ist rot.", "The house is red.")]), "de-fr": PairSet(("a", "b"))}
    seeds = {"de-en": PairSet(DE_EN, [("Ein Hund.", "A dog."), ("das haus ist rot", "Red house.")])}
    known = Known(dev, seeds)
    assert known.reason("de-en", DE_EN, ("DAS HAUS ist rot!", "something new")) == "in_dev"
    assert known.reason("de-en", DE_EN, ("etwas Neues", "the house is  red")) == "in_dev"
    # Whichever pair of languages it comes in, but in its own language.
    assert known.reason("en-fr", ("eng_Latn", "fra_Latn"), ("The house is red", "neuf")) == "in_dev"
    assert known.reason("en-fr", ("eng_Latn", "fra_Latn"), ("Das Haus ist rot.", "neuf")) == ""
    assert known.reason("de-en", DE_EN, ("ein Hund", "A dog")) == "in_seed"
    assert known.reason("de-en", DE_EN, ("ein Hund", "Some dog")) == ""
    assert known.reason("de-nl", ("deu_Latn", "nld_Latn"), ("ein Hund", "A dog")) == ""
    assert known.num_in_dev(seeds) == 1


def filtered(root: Path, pair: str, rows: Sequence[tuple[float, str, str]]) -> Store:
    """Put kept pairs into a run directory, in two shards."""
    columns = ("score", "margin", "source_text", "target_text", "source_sentence_id", "target_sentence_id")
    values = [(score, score, source, target, n, 100 + n) for n, (score, source, target) in enumerate(rows)]
    half = len(values) // 2
    parts = {
        f"{pair}/{n:05}": {f"pairs/{pair}": pa.Table.from_pylist([dict(zip(columns, v, strict=True)) for v in part])}
        for n, part in enumerate((values[:half], values[half:]))
    }
    kit.publish(root, "filter", "filter", parts)
    return Store(root)


def test_mined_pairs_are_written_best_first_without_the_known_ones(tmp_path: Path) -> None:
    rows = [(1.5, "vier", "four"), (2.0, "eins", "one"), (1.9, "geheim", "secret"), (1.5, "fünf", "five")]
    rows += [(1.7, "alt", "old"), (1.6, "drei", "three")]
    store = filtered(tmp_path / "run", "deu_Latn-eng_Latn", rows)
    known = Known({"de-en": PairSet(DE_EN, [("Geheim!", "x")])}, {"de-en": PairSet(DE_EN, [("alt", "old")])})
    found = write_mined(store, DE_EN, tmp_path / "pairs", known, 0)
    assert (found.kept, found.dropped) == (4, {"in_dev": 1, "in_seed": 1})
    expected = "eins\tone\t2.000000\ndrei\tthree\t1.600000\nvier\tfour\t1.500000\nfünf\tfive\t1.500000\n"
    assert (tmp_path / "pairs" / "de-en.tsv").read_text(encoding="utf-8") == expected
    few = write_mined(store, DE_EN, tmp_path / "few", known, 2)
    assert (few.kept, few.dropped) == (2, {"in_dev": 1, "in_seed": 1, "over_max_pairs": 2})
    assert (tmp_path / "few" / "de-en.tsv").read_text(encoding="utf-8") == "".join(expected.splitlines(True)[:2])
    assert [path.name for path in (tmp_path / "few").iterdir()] == ["de-en.tsv"]


def test_mined_sides_follow_the_name_of_the_file(tmp_path: Path) -> None:
    store = filtered(tmp_path / "run", "por_Latn-spa_Latn", [(1.5, "gato", "gata"), (1.4, "\u2028cão", "perro")])
    write_mined(store, ("por_Latn", "spa_Latn"), tmp_path, Known({}, {}), 0)
    assert (tmp_path / "es-pt.tsv").read_text(encoding="utf-8") == "gata\tgato\t1.500000\nperro\tcão\t1.400000\n"


def test_damaged_results_of_a_run_are_no_pairs(tmp_path: Path) -> None:
    store = filtered(tmp_path / "run", "deu_Latn-eng_Latn", [(1.5, "gut", "good"), (1.4, "kalt", "cold")])
    path = tmp_path / "run" / "pairs" / "deu_Latn-eng_Latn" / "00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptOutputError, match=r"00001\.parquet does not match its manifest"):
        write_mined(store, DE_EN, tmp_path / "pairs", Known({}, {}), 0)
    assert list((tmp_path / "pairs").iterdir()) == []


def test_retrieval_is_measured_in_both_directions_and_no_vector_is_a_miss() -> None:
    # Degrees. 0 and 10 find each other; 50 finds 48, which finds 49; the last pair has no vector on one side.
    pairs = [("0 a", "10 b"), ("50 a", "80 b"), ("49 a", "48 b"), ("x", "200 b")]
    found = measure(kit.AngleEncoder(), {"de-en": PairSet(DE_EN, pairs)})["de-en"]
    assert (found["pairs"], found["source_to_target"], found["target_to_source"]) == (4, 50.0, 75.0)
    assert found["mean"] == 62.5
    assert found["interval_95"][0] < 62.5 < found["interval_95"][1]
    assert found["signature"].startswith("enc:angles|model:")
    assert "|data:dev|pair:de-en|texts:" in found["signature"]
    none = measure(kit.AngleEncoder(), {"de-en": PairSet(DE_EN, [("x", "y")])})["de-en"]
    assert (none["source_to_target"], none["target_to_source"]) == (0.0, 0.0)


def test_a_copy_of_the_right_sentence_is_found_too() -> None:
    found = measure(kit.AngleEncoder(), {"de-en": PairSet(DE_EN, [("10 a", "10 b"), ("11 a", "10 b")])})["de-en"]
    assert found["source_to_target"] == 100.0


# ---- the shared tokeniser ----


def test_the_tokeniser_sees_seed_and_text_alike(finished: Path) -> None:
    text = Store(finished)
    seeds = {"de-en": numbered(10), "de-it": PairSet(("deu_Latn", "ita_Latn"), [("ja", "sì"), ("x" * 400, "no")])}
    everything = dict(tokenizer_sample(text, seeds, DE_EN, 1000, 1))
    stored = {lang: [row["text"] for row in kit.rows(finished, f"sentences/{lang}")] for lang in DE_EN}
    # The long sentence tells more about itself than about the language.
    assert everything == {
        "deu_Latn": [*(f"Satz {n}" for n in range(10)), "ja", *stored["deu_Latn"]],
        "eng_Latn": [*(f"sentence {n}" for n in range(10)), *stored["eng_Latn"]],
        "ita_Latn": ["sì", "no"],
    }
    few = dict(tokenizer_sample(text, seeds, DE_EN, 12, 1))
    assert len(set(few["eng_Latn"])) == 12
    assert 0 < len(set(few["eng_Latn"]) & set(stored["eng_Latn"])) < 12
    assert few == dict(tokenizer_sample(text, seeds, DE_EN, 12, 1))
    assert few != dict(tokenizer_sample(text, seeds, DE_EN, 12, 2))
    # A Han character says as much as three letters.
    chinese = {"zh-en": PairSet(("zho_Hans", "eng_Latn"), [(f"句 {n}", f"line {n}") for n in range(40)])}
    assert {lang: len(texts) for lang, texts in tokenizer_sample(text, chinese, (), 12, 1)} == {
        "eng_Latn": 12,
        "zho_Hans": 36,
    }


def test_every_shard_of_the_text_is_drawn_from(tmp_path: Path) -> None:
    shards = [["eins", "zwei"], ["drei", "vier", "fünf"], ["sechs"]]
    parts = {f"{n:05}": {f"sentences/deu_Latn/{n:05}": pa.table({"text": texts})} for n, texts in enumerate(shards)}
    kit.publish(tmp_path, "langid", "distinct", parts)
    found = dict(tokenizer_sample(Store(tmp_path), {}, ("deu_Latn",), 100, 1))
    assert found == {"deu_Latn": [text for texts in shards for text in texts]}


def test_the_tokeniser_is_the_same_file_wherever_it_is_made(finished: Path, tmp_path: Path) -> None:
    config = TrainingConfig(network=NetworkConfig(vocab_size=90, dim=16))
    paths = [tmp_path / name / "sentencepiece.model" for name in ("a", "b")]
    for path in paths:
        train_shared_tokenizer(path, Store(finished), {"de-en": numbered(10)}, DE_EN, config)
        assert sorted(path.parent.iterdir()) == [path, path.with_name("sentencepiece.model.sha256")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert str(tmp_path).encode() not in paths[0].read_bytes()
    assert Tokenizer(paths[0]).vocab_size == 90
    before = paths[0].stat().st_mtime_ns
    train_shared_tokenizer(paths[0], Store(finished), {}, (), config)
    assert paths[0].stat().st_mtime_ns == before
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="delete it, and it is trained again to the same"):
        train_shared_tokenizer(paths[0], Store(finished), {"de-en": numbered(10)}, DE_EN, config)
    paths[0].unlink()
    train_shared_tokenizer(paths[0], Store(finished), {"de-en": numbered(10)}, DE_EN, config)
    assert paths[0].read_bytes() == whole


def test_a_vocabulary_too_large_for_the_text_is_refused(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "sentencepiece.model"
    config = TrainingConfig(network=NetworkConfig(vocab_size=50_000, dim=16))
    with pytest.raises(InputError, match="lower vocab_size 50000"):
        train_shared_tokenizer(path, Store(finished), {"de-en": numbered(10)}, DE_EN, config)
    assert not path.exists()


# ---- rounds ----


def made_round(number: int, mean: float, encoder: str = "", **changes: Any) -> Round:
    fields: dict[str, Any] = {
        "training": {} if encoder else {"de-en": {"seed": 3000, "mined": 10 * number}},
        "retrieval": {"de-en": {"pairs": 50, "source_to_target": mean, "target_to_source": mean, "mean": mean}},
        "mined": {"de-en": {"kept": 1234, "dropped": {"in_dev": 3, "in_seed": 4}}},
        "files": {},
        "previous": "",
    }
    return Round(number=number, encoder=encoder, mean=mean, **(fields | changes))


def saved(folder: Path, **changes: Any) -> Round:
    (folder / "pairs").mkdir(parents=True)
    (folder / "pairs" / "de-en.tsv").write_text("a\tb\t1\n", encoding="utf-8")
    digest = hash_file(folder / "pairs" / "de-en.tsv")[0]
    record = made_round(1, 50.0, files={"pairs/de-en.tsv": digest}, **changes)
    record.save(folder)
    return record


def test_a_record_makes_a_round_finished(tmp_path: Path) -> None:
    assert load_round(tmp_path / "round-1", "") is None
    record = saved(tmp_path / "round-1")
    assert load_round(tmp_path / "round-1", "") == record
    assert record_hash(tmp_path / "round-1") == hash_file(tmp_path / "round-1" / "round.json")[0]


@pytest.mark.parametrize("damage", ["cut", "number", "key", "list", "pairs", "no pairs"])
def test_a_damaged_round_runs_again(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "round-1"
    saved(folder)
    path = folder / "round.json"
    content = path.read_text(encoding="utf-8")
    if damage == "cut":
        path.write_text(content[:-20], encoding="utf-8")
    elif damage == "number":
        path.write_text(content.replace("1234", "1235"), encoding="utf-8")
    elif damage == "key":
        path.write_text(json.dumps({**json.loads(content), "more": 1}), encoding="utf-8")
    elif damage == "list":
        path.write_text("[]", encoding="utf-8")
    elif damage == "pairs":
        (folder / "pairs" / "de-en.tsv").write_text("a\tc\t1\n", encoding="utf-8")
    else:
        (folder / "pairs" / "de-en.tsv").unlink()
    assert load_round(folder, "") is None
    assert "round-1 runs again" in caplog.text


def test_a_round_after_another_round_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "round-2", previous="a" * 64)
    assert load_round(tmp_path / "round-2", "a" * 64) is not None
    with pytest.raises(StaleOutputError, match="was made from another round before it"):
        load_round(tmp_path / "round-2", "b" * 64)


def test_the_first_of_the_best_rounds_is_the_best() -> None:
    rounds = [made_round(1, 40.0), made_round(2, 60.0), made_round(3, 55.0), made_round(4, 60.0)]
    assert best_round(rounds).number == 2
    report = build_report(rounds, {2: {"train": 1.5}})
    assert (report["best_round"], report["worse"]) == (2, [3])
    assert [row["change"] for row in report["rounds"]] == [None, 20.0, -5.0, 5.0]
    assert [row["seconds"] for row in report["rounds"]] == [{}, {"train": 1.5}, {}, {}]
    assert build_report(rounds[:1], {})["worse"] == []


def test_the_table_says_what_each_round_did() -> None:
    rounds = [made_round(1, 40.0, "ems:default"), made_round(2, 39.5)]
    seconds = {1: {"mine": 2.0}, 2: {"train": 1000.0, "mine": 234.4}}
    report = {**build_report(rounds, seconds), "model": "model", "model_round": 2}
    shown = format_report(report, "out")
    rows = [line.split() for line in shown.splitlines()]
    assert rows[1] == ["1", "de-en", "50", "40.00", "40.00", "40.00", "1,234", "7"]
    assert rows[2] == ["1", "all", "40.00", "2"]
    assert rows[3] == ["2", "de-en", "3,000", "20", "50", "39.50", "39.50", "39.50", "-0.50", "1,234", "7"]
    assert rows[4] == ["2", "all", "39.50", "-0.50", "1,234"]
    assert "worse than the round before: 2" in shown
    assert "best round: 1   model: out/model, of round 2 (the encoder given, ems:default, retrieves better)" in shown
    ends = {len(line) for line in shown.splitlines()[:1]} | {len(shown.splitlines()[4])}
    assert len(ends) == 1
    alone = {**build_report(rounds[:1], {}), "model": "", "model_round": None}
    assert format_report(alone, "out").endswith("best round: 1   no model was trained")


# ---- shared stages ----


def test_stages_are_shared_without_a_second_copy(finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "run"
    adopt_steps(Store(finished), target, TEXT_STEPS)
    shared = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    folders = ("documents", "signatures", "duplicates", "distinct", "segments", "sentences", "occurrences")
    manifests = [f"manifests/{stage}." for stage in TEXT_STAGES]
    rejects = [f"rejects/{stage}." for stage in TEXT_STAGES]
    wanted = (*(f"{name}/" for name in folders), *manifests, *rejects)
    everything = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert shared == {name for name in everything if name.startswith(wanted)}
    assert any(name.startswith("rejects/") for name in shared)
    outputs = [name for name in shared if not name.startswith("manifests/")]
    assert all(os.path.samefile(finished / name, target / name) for name in outputs)
    assert all((finished / name).read_bytes() == (target / name).read_bytes() for name in shared)
    store = Store(target)
    for stage, step in (("ingest", "read"), ("dedup", "apply"), ("langid", "distinct")):
        assert all(store.status(manifest.spec, verify=True) == "done" for manifest in store.manifests(stage, step))


def test_sharing_again_mends_what_is_missing_and_keeps_the_rest(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run"

    def refuse(source: str, target: str, **folders: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    adopt_steps(Store(finished), target, TEXT_STEPS)
    monkeypatch.undo()
    before = kit.tree(target)
    copy = target / "documents" / "00000.parquet"
    assert not os.path.samefile(copy, finished / "documents" / "00000.parquet")
    kept = (target / "documents" / "00001.parquet").stat().st_ino
    copy.write_bytes(copy.read_bytes()[:100])
    (target / "manifests" / "langid.distinct.json").write_text("{}", encoding="utf-8")
    (target / "manifests" / "dedup.apply.json").unlink()
    adopt_steps(Store(finished), target, TEXT_STEPS)
    assert kit.tree(target) == before
    assert (target / "documents" / "00001.parquet").stat().st_ino == kept
    assert not [path for path in target.rglob(".tmp-*")]


def test_a_stage_that_is_not_finished_cannot_be_shared(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ingest\.read is not finished"):
        adopt_steps(Store(tmp_path / "nothing"), tmp_path / "run", TEXT_STEPS)


def test_a_damaged_file_is_not_shared(finished: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "run"
    shutil.copytree(finished, source)
    path = source / "documents" / "00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptOutputError, match=r"ingest\.read/00000: its files in .* are damaged; see emsmine ver"):
        adopt_steps(Store(source), target, TEXT_STEPS)
    assert not (target / "documents" / "00000.parquet").exists()
    assert not [path for path in target.rglob(".tmp-*")]
