"""A signature identifies the number beside it: whatever moves the number is in it, and nothing else."""

import dataclasses
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pipeline_kit import AngleEncoder

from emsmine.encoder.protocol import FloatArray
from emsmine.mining.evaluate import content_hash
from emsmine.pipelines.bootstrap.pairs import PairSet, measure
from emsmine.pipelines.direct import bucc as direct_bucc
from emsmine.pipelines.direct.bucc import evaluate_bucc, find_bucc
from emsmine.pipelines.direct.evaluation import evaluate_pairs, evaluate_tatoeba, find_tatoeba
from emsmine.pipelines.settings import SelectSettings

SETTINGS = SelectSettings(margin="absolute", threshold=0.5, cosine_floor=-1.0)


class Other(AngleEncoder):
    """The same vectors from what says that it is other weights."""

    def fingerprint(self) -> str:
        return "other weights"


class Elsewhere(AngleEncoder):
    """On another kind of device."""

    def __init__(self, device: str) -> None:
        self.device = device


class OneByOne(AngleEncoder):
    """In batches of one."""

    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        import numpy as np

        rows = [super(OneByOne, self).encode([text], lang=lang) for text in sentences]
        return np.concatenate(rows) if rows else super().encode([], lang=lang)


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def bucc(folder: Path, **changes: bytes) -> Path:
    files = {
        "de": lines("d1\t0", "d2\t50", "d3\t90"),
        "en": lines("e1\t1", "e2\t51", "e3\t120"),
        "gold": lines("d1\te1", "d2\te2"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (files | changes).items():
        packed = name.endswith("_gz")
        path = folder / f"de-en.{name.removesuffix('_gz')}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def mined(folder: Path, encoder: Any = None, *, k: int = 2, **settings: Any) -> str:
    (found,) = evaluate_bucc(
        encoder or AngleEncoder(),
        [find_bucc(folder, "de-en")],
        k=k,
        settings=dataclasses.replace(SETTINGS, **settings),
    )
    return str(found["signature"])


MOVES: dict[str, Callable[[Path], str]] = {
    "weights": lambda path: mined(bucc(path), Other()),
    "device": lambda path: mined(bucc(path), Elsewhere("cuda:1")),
    "k": lambda path: mined(bucc(path), k=3),
    "margin": lambda path: mined(bucc(path), margin="distance"),
    "retrieval": lambda path: mined(bucc(path), retrieval="forward"),
    "threshold": lambda path: mined(bucc(path), threshold=0.6),
    "floor": lambda path: mined(bucc(path), cosine_floor=0.2),
    "source": lambda path: mined(bucc(path, de=lines("d1\t0", "d2\t50", "d3\t91"))),
    "target": lambda path: mined(bucc(path, en=lines("e1\t1", "e2\t51", "e3\t121"))),
    "order": lambda path: mined(bucc(path, de=lines("d3\t90", "d2\t50", "d1\t0"))),
    "gold": lambda path: mined(bucc(path, gold=lines("d1\te1"))),
}


@pytest.mark.parametrize("what", MOVES)
def test_what_moves_a_mining_score_moves_its_signature(tmp_path: Path, what: str) -> None:
    assert MOVES[what](tmp_path / "changed") != mined(bucc(tmp_path / "plain"))


def test_the_longest_sentence_moves_the_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mined(bucc(tmp_path))
    monkeypatch.setattr(direct_bucc, "_MAX_CHARS", 500)
    assert mined(bucc(tmp_path)) != before


def test_what_moves_no_mining_score_moves_no_signature(tmp_path: Path) -> None:
    plain = mined(bucc(tmp_path / "plain"))
    assert mined(bucc(tmp_path / "another/folder")) == plain
    assert mined(bucc(tmp_path / "batches"), OneByOne()) == plain
    packed = bucc(tmp_path / "packed", de_gz=lines("d1\t0", "d2\t50", "d3\t90"))
    (packed / "de-en.de").unlink()
    assert mined(packed) == plain
    assert mined(bucc(tmp_path / "gold", gold=lines("d2\te2", "d1\te1"))) == plain
    cuda = [mined(tmp_path / "plain", Elsewhere(device)) for device in ("cuda:0", "cuda:3")]
    assert cuda[0] == cuda[1] != plain


def tatoeba(folder: Path, **sets: tuple[list[str], list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for code, sides in sets.items():
        for ending, side in zip((code, "eng"), sides, strict=True):
            (folder / f"tatoeba.{code}-eng.{ending}").write_bytes(lines(*side))
    return folder


def retrieved(folder: Path, encoder: Any = None, wanted: Sequence[str] = ()) -> str:
    return str(evaluate_tatoeba(encoder or AngleEncoder(), find_tatoeba(folder, wanted))["signature"])


def test_a_retrieval_signature_names_languages_texts_and_weights(tmp_path: Path) -> None:
    both = {"deu": (["0", "90"], ["1", "91"]), "fra": (["10", "70"], ["11", "71"])}
    plain = retrieved(tatoeba(tmp_path / "plain", **both))
    assert "|langs:deu_Latn,fra_Latn|" in plain
    assert retrieved(tatoeba(tmp_path / "other/place", **both), OneByOne()) == plain
    changed = [
        retrieved(tmp_path / "plain", Other()),
        retrieved(tmp_path / "plain", wanted=["deu_Latn"]),
        retrieved(tatoeba(tmp_path / "text", **(both | {"fra": (["10", "70"], ["11", "72"])}))),
        # The same texts of another language, which an encoder may tokenise otherwise.
        retrieved(tatoeba(tmp_path / "lang", deu=both["deu"], ita=both["fra"])),
        # The same lines, dealt out otherwise.
        retrieved(tatoeba(tmp_path / "cut", deu=(["0"], ["1"]), fra=(["90", "10", "70"], ["91", "11", "71"]))),
    ]
    assert len({plain, *changed}) == 6
    many = {code: (["0"], ["1"]) for code in ("deu", "fra", "ita", "spa", "por", "nld", "pol")}
    assert "|langs:7|" in retrieved(tatoeba(tmp_path / "many", **many))


def test_development_pairs_are_named_by_content() -> None:
    def found(encoder: Any, *pairs: tuple[str, str]) -> str:
        return str(measure(encoder, {"de-en": PairSet(("deu_Latn", "eng_Latn"), list(pairs))})["de-en"]["signature"])

    plain = found(AngleEncoder(), ("0", "1"), ("50", "51"))
    assert found(AngleEncoder(), ("0", "1"), ("50", "51")) == plain
    assert found(AngleEncoder(), ("0", "1"), ("50", "52")) != plain
    assert found(Other(), ("0", "1"), ("50", "51")) != plain


@pytest.mark.parametrize("name", ["a|b", "line\nbreak", "query?prompt=q: \u2028", "", "50%"])
def test_no_name_of_an_encoder_breaks_a_signature(tmp_path: Path, name: str) -> None:
    encoder = AngleEncoder()
    encoder.name = name
    found = mined(bucc(tmp_path), encoder)
    assert len(found.splitlines()) == 1
    assert [field.partition(":")[0] for field in found.split("|")][:2] == ["enc", "model"]


def test_a_content_hash_knows_where_texts_end() -> None:
    parts: list[list[str | int]] = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], [1, 2], [12], ["12"]]
    assert len({content_hash(part) for part in parts}) == len(parts)


def test_pairs_are_signed_by_their_texts(tmp_path: Path) -> None:
    files = {
        "mined.tsv": "1.2\tEins\tOne\n1.1\tZwei\tTwo\n",
        "plain.tsv": "Eins\tOne\nZwei\tTwo\n",
        "other.tsv": "Eins\tOne\nDrei\tThree\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    signatures = {
        (mined, gold): evaluate_pairs(tmp_path / mined, tmp_path / gold)["signature"]
        for mined in files
        for gold in files
    }
    # What stands in front of the sentences moves no number.
    assert signatures["mined.tsv", "other.tsv"] == signatures["plain.tsv", "other.tsv"]
    assert len(set(signatures.values())) == 4
