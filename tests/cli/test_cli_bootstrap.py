"""`emsmine bootstrap` as a user calls it, on a bootstrap of two language pairs that takes seconds."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import bootstrap_kit
import pipeline_kit as kit
import pytest

from emsmine.mining.text.normalise import dedup_key
from emsmine.pipelines.store.lock import run_lock


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bootstrap_kit.write_data(tmp_path_factory.mktemp("bootstrap") / "data")


@pytest.fixture(scope="module")
def done(data: Path) -> tuple[Path, kit.Result]:
    """Return a finished bootstrap of two rounds and what the command said; copy it before changing anything."""
    output = data.parent / "done"
    result = call(data, output)
    assert result.code == 0, result.err
    return output, result


def call(data: Path, output: Path, *more: object, **changes: dict[str, Any]) -> kit.Result:
    config = bootstrap_kit.write_config(output.parent / f"{output.name}.toml", data, output, **changes)
    return kit.emsmine("bootstrap", config, "-j", 1, "--device", "cpu", *more)


def report(output: Path) -> Any:
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def keys(path: Path) -> set[tuple[str, ...]]:
    return {tuple(map(dedup_key, line.split("\t")[:2])) for line in path.read_text(encoding="utf-8").splitlines()}


def test_rounds_are_trained_mined_and_reported(done: tuple[Path, kit.Result], data: Path) -> None:
    output, result = done
    found = report(output)
    assert [row["number"] for row in found["rounds"]] == [1, 2]
    first, second = found["rounds"]
    assert first["training"] == {"de-en": {"seed": 14, "mined": 0}, "es-fr": {"seed": 14, "mined": 0}}
    for name, counts in second["training"].items():
        assert counts == {"seed": 14, "mined": first["mined"][name]["kept"]}
        assert counts["mined"] > 0
    for number, row in enumerate((first, second), start=1):
        assert set(row["seconds"]) == {"train", "measure", "mine"}
        for name, (left, right) in {"de-en": ("de", "en"), "es-fr": ("es", "fr")}.items():
            pairs = output / f"round-{number}" / "pairs" / f"{name}.tsv"
            kept = keys(pairs)
            assert len(kept) == row["mined"][name]["kept"] == len(pairs.read_text(encoding="utf-8").splitlines())
            exported = keys_of_export(output / f"round-{number}/run/export/{name}.tsv")
            assert kept < exported
            dev = [{dedup_key(kit.PARALLEL[lang][n]) for n in bootstrap_kit.DEV} for lang in (left, right)]
            seed = {(dedup_key(kit.PARALLEL[left][n]), dedup_key(kit.PARALLEL[right][n])) for n in bootstrap_kit.SEED}
            in_dev = {pair for pair in exported if pair[0] in dev[0] or pair[1] in dev[1]}
            assert exported - kept == in_dev | (exported & seed)
            assert row["mined"][name]["dropped"] == {"in_dev": len(in_dev), "in_seed": len(exported & seed - in_dev)}
            assert row["retrieval"][name]["pairs"] == len(bootstrap_kit.DEV)
    best = max((first, second), key=lambda row: row["mean"])["number"]
    assert (found["best_round"], found["model"], found["model_round"]) == (best, "model", best)
    config = json.loads((output / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["name"] == f"tiny-{best}"
    assert result.out.splitlines()[-1] == f"best round: {best}   model: {output}/model, of round {best}"
    assert "round 2: training on 28 seed and" in result.err
    mined = kit.emsmine(
        "mine", data / "seed/de-en.tsv", data / "seed/de-en.tsv", "--source-lang", "de", "--target-lang", "en",
        "--encoder", f"ems:{output}/model", "--threshold", "0",
    )  # fmt: skip
    assert (mined.code, len(mined.out.splitlines())) == (0, 14)


def keys_of_export(path: Path) -> set[tuple[str, ...]]:
    return {tuple(map(dedup_key, line.split("\t")[1:])) for line in path.read_text(encoding="utf-8").splitlines()}


def test_every_round_trains_on_the_pairs_of_the_round_before(done: tuple[Path, kit.Result]) -> None:
    output, _ = done
    trained = keys(output / "round-2/data/es-fr.tsv")
    assert trained == keys(output / "round-1/data/es-fr.tsv") | keys(output / "round-1/pairs/es-fr.tsv")
    # Held out of both trainings: the last of the seed.
    ends = [(output / f"round-{n}/data/es-fr.tsv").read_text(encoding="utf-8").splitlines()[-1] for n in (1, 2)]
    assert ends[0] == ends[1]
    rounds = [report(output)["rounds"][n]["retrieval"]["de-en"]["signature"] for n in (0, 1)]
    assert [text.split("|")[0] for text in rounds] == ["enc:ems:tiny-1", "enc:ems:tiny-2"]


def test_a_finished_bootstrap_is_left_as_it_is_and_more_rounds_continue_it(
    done: tuple[Path, kit.Result], data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    # In its own place, as encoders are named by their folder.
    shutil.copytree(done[0], output)
    again = call(data, output)
    assert again.code == 0, again.err
    assert again.out.replace(str(output), str(done[0])) == done[1].out
    assert "training on" not in again.err
    before = bootstrap_kit.tree(output)
    assert before == bootstrap_kit.tree(done[0])
    more = call(data, output, "--rounds", 3)
    assert more.code == 0, more.err
    assert len(report(output)["rounds"]) == 3
    after = bootstrap_kit.tree(output)
    rest = {name: digest for name, digest in after.items() if not name.startswith(("round-3/", "model/"))}
    assert rest == {name: digest for name, digest in before.items() if not name.startswith("model/")}
    assert keys(output / "round-3/data/de-en.tsv") == keys(output / "round-1/data/de-en.tsv") | keys(
        output / "round-2/pairs/de-en.tsv"
    )
    records = [output / f"round-{number}/round.json" for number in (1, 2, 3)]
    links = [json.loads(path.read_text(encoding="utf-8"))["previous"] for path in records]
    assert links == ["", *(hashlib.sha256(path.read_bytes()).hexdigest() for path in records[:2])]
    fewer = call(data, output, bootstrap={"rounds": 1})
    assert (fewer.code, len(report(output)["rounds"])) == (0, 1)
    assert (output / "model/model.safetensors").read_bytes() == (
        output / "round-1/train/model/model.safetensors"
    ).read_bytes()


def test_a_damaged_round_is_made_again(done: tuple[Path, kit.Result], data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(done[0], output)
    # Its record names no folder; what is made again must not either.
    shutil.rmtree(output / "round-2/run")
    (output / "round-2/pairs/de-en.tsv").write_text("", encoding="utf-8")
    (output / "model/model.safetensors").write_bytes(b"")
    (output / "round-2/pairs/.tmp-12-0123abcd-de-en.tsv").write_bytes(b"half")
    result = call(data, output)
    assert result.code == 0, result.err
    assert "round-2 runs again" in result.err
    skipped = ("round-2/run/",)
    expected, found = (
        {name: digest for name, digest in bootstrap_kit.tree(root).items() if not name.startswith(skipped)}
        for root in (done[0], output)
    )
    assert found == expected
    assert not (output / "round-2/pairs/.tmp-12-0123abcd-de-en.tsv").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train__optimiser": {"steps": 13}}, "train.optimiser.steps 12 -> 13"),
        ({"mine__search": {"k": 2}}, "mine.search.k 4 -> 2"),
        ({"bootstrap": {"max_pairs": 3}}, "bootstrap.max_pairs 0 -> 3"),
        ({"bootstrap": {"dev": ["SEED"]}}, "bootstrap.dev"),
        ({"mine": {"inputs": ["CRAWL"]}}, "mine.inputs"),
    ],
)
def test_changed_settings_and_files_are_refused_by_name(
    changes: dict[str, Any], named: str, done: tuple[Path, kit.Result], data: Path
) -> None:
    places = {"SEED": str(data / "seed/de-en.tsv"), "CRAWL": str(data / "crawl/feed.jsonl")}
    filled = {
        table: {key: [places[v[0]]] if isinstance(v, list) else v for key, v in values.items()}
        for table, values in changes.items()
    }
    before = bootstrap_kit.tree(done[0])
    result = call(data, done[0], **filled)
    assert (result.code, result.out) == (1, "")
    assert named in result.err
    assert "only bootstrap.rounds may change" in result.err
    assert bootstrap_kit.tree(done[0]) == before


def test_changed_contents_are_refused(done: tuple[Path, kit.Result], data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    shutil.copytree(data, other)
    # The same pairs from another folder are the same.
    moved = {"bootstrap": {"seed": [str(other / "seed")], "dev": [str(other / "dev")]}}
    assert call(data, done[0], **moved).code == 0
    with (other / "seed/de-en.tsv").open("a", encoding="utf-8") as stream:
        stream.write("mehr\tmore\n")
    result = call(data, done[0], **moved)
    assert result.code == 1
    assert "bootstrap.seed" in result.err


def test_only_one_bootstrap_at_a_time(done: tuple[Path, kit.Result], data: Path) -> None:
    with run_lock(done[0], "bootstrap"):
        result = call(data, done[0])
    assert result.code == 3
    assert "is in use by process" in result.err


def test_an_encoder_for_the_first_round_and_no_seed(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    given = {"encoder": "ems:default", "seed": None}
    result = call(
        data,
        output,
        bootstrap=given,
        mine={"pairs": ["de-en"]},
        mine__rescore={"rescore": False},
        mine__select={"threshold": 1.0},
        train__network={"vocab_size": 130},
    )
    assert result.code == 0, result.err
    first, second = report(output)["rounds"]
    assert (first["encoder"], first["training"]) == ("ems:default", {})
    assert not (output / "round-1/train").exists()
    # All but the sentences of the development pairs, as a usable encoder finds them.
    assert first["mined"]["de-en"]["kept"] >= 15
    assert second["training"] == {"de-en": {"seed": 0, "mined": first["mined"]["de-en"]["kept"]}}
    found = report(output)
    assert (found["best_round"], found["model_round"]) == (1, 2)
    assert "(the encoder given, ems:default, retrieves better)" in result.out
    # The encoder given knows the languages, twelve steps do not.
    assert found["worse"] == [2]
    assert "round 2 is worse than round 1" in result.err
    languages_of_dev = set(first["retrieval"])
    assert languages_of_dev == {"de-en", "es-fr"}


def test_only_an_encoder_and_one_round_mines_and_measures(data: Path, tmp_path: Path) -> None:
    result = call(data, tmp_path / "out", "--rounds", 1, bootstrap={"encoder": "ems:default"})
    assert result.code == 0, result.err
    assert result.out.endswith("best round: 1   no model was trained\n")
    assert not (tmp_path / "out/model").exists()


def test_without_dev_the_end_of_the_seed_measures(data: Path, tmp_path: Path) -> None:
    result = call(data, tmp_path / "out", "--rounds", 1, bootstrap={"dev": None, "max_pairs": 2})
    assert result.code == 0, result.err
    found = report(tmp_path / "out")
    assert found["dev"] == "held out of the seed"
    (row,) = found["rounds"]
    # A tenth of fourteen pairs.
    assert {name: item["pairs"] for name, item in row["retrieval"].items()} == {"de-en": 1, "es-fr": 1}
    assert {item["kept"] for item in row["mined"].values()} == {2}
    assert row["mined"]["de-en"]["dropped"]["over_max_pairs"] > 0


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"bootstrap": {"seed": ["nowhere"]}}, 1, "nowhere does not exist"),
        ({"bootstrap": {"dev": ["EMPTY"]}}, 1, "gives no pair to measure retrieval on"),
        ({"mine": {"inputs": ["nowhere"]}}, 1, "nowhere does not exist"),
        ({"mine__filter": {"rules_off": ["nonsense"]}}, 2, "nonsense"),
        ({"bootstrap": {"encoder": "ems:nowhere"}}, 2, "nowhere"),
        ({"bootstrap": {"output": "FILE"}}, 2, "is a file; name a folder"),
        ({"bootstrap": {"wrong": 1}}, 2, "unknown keys wrong"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], code: int, message: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "de-en.tsv").write_text("\tno source\n", encoding="utf-8")
    places = {"EMPTY": str(tmp_path / "de-en.tsv"), "FILE": str(tmp_path / "de-en.tsv")}
    filled = {
        table: {key: [places.get(v[0], v[0])] if isinstance(v, list) else places.get(v, v) for key, v in values.items()}
        for table, values in changes.items()
    }
    result = call(data, tmp_path / "out", **filled)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = call(data, tmp_path / "out")
    assert result.code == 2
    assert "it runs as one process" in result.err


def test_no_pairs_and_no_seed_is_an_end_with_a_reason(data: Path, tmp_path: Path) -> None:
    given = {"encoder": "ems:default", "seed": None}
    by_margin: dict[str, dict[str, Any]] = {"mine__rescore": {"rescore": False}, "mine__select": {"threshold": 50.0}}
    result = call(data, tmp_path / "out", bootstrap=given, **by_margin)
    assert result.code == 1
    assert "round 2 has no pair to train on: round 1 kept none" in result.err


def test_seed_sentences_among_the_development_pairs_are_counted(data: Path, tmp_path: Path) -> None:
    result = call(data, tmp_path / "out", "--rounds", 1, bootstrap={"dev": [str(data / "seed/de-en.tsv")]})
    assert result.code == 0, result.err
    assert report(tmp_path / "out")["seed_in_dev"] == 14
    assert "14 seed pairs have a sentence of the development pairs" in result.err
