"""From a specification to an encoder."""

import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_tiny import build, layered_network, plain_network

from emsmine.encoder import folders
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.protocol import FloatArray, unit_rows
from emsmine.encoder.registry import load_encoder
from emsmine.errors import ConfigError, InputError, LanguageError, MissingDependencyError, ModelError


@pytest.fixture
def folder(spm_path: Path, tmp_path: Path) -> Path:
    return save_model(build(plain_network()), spm_path, tmp_path / "model", name="tiny")


def test_a_folder(folder: Path) -> None:
    encoder = load_encoder(f"ems:{folder}", device="cpu")
    assert isinstance(encoder, EMSEncoder)
    assert (encoder.name, encoder.dim) == ("ems:tiny", 16)
    assert np.linalg.norm(encoder.encode(["boat"], lang="eng_Latn")) == pytest.approx(1, abs=1e-5)


def layered(spm: Path, folder: Path) -> Path:
    return save_model(build(layered_network()), spm, folder, name="deep")


@pytest.mark.parametrize(
    ("suffix", "precision", "name"),
    [("", "fp32", "ems:deep"), ("@fp32", "fp32", "ems:deep"), ("@int8", "int8", "ems:deep@int8")],
)
def test_a_precision_follows_the_folder(spm_path: Path, tmp_path: Path, suffix: str, precision: str, name: str) -> None:
    encoder: Any = load_encoder(f"ems:{layered(spm_path, tmp_path / 'model')}{suffix}", device="cpu")
    assert (encoder.precision, encoder.name) == (precision, name)


def test_an_at_sign_elsewhere_belongs_to_the_path(spm_path: Path, tmp_path: Path) -> None:
    for name, spec, precision in (
        ("a@b", "a@b", "fp32"),
        ("a@b", "a@b@int8", "int8"),
        ("c@int8", "c@int8@fp32", "fp32"),
        ("d@INT8", "d@INT8", "fp32"),
    ):
        folder = layered(spm_path, tmp_path / name)
        encoder: Any = load_encoder(f"ems:{tmp_path / spec}", device="cpu")
        assert (encoder.folder, encoder.precision) == (folder, precision)


def test_a_precision_of_a_shipped_model(spm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "package" / "folders.py"))
    layered(spm_path, tmp_path / "package" / "pretrained" / "deep")
    assert load_encoder("ems:deep@int8", device="cpu").name == "ems:deep@int8"
    with pytest.raises(ConfigError, match=r"'deep@int4'; shipped: deep"):
        load_encoder("ems:deep@int4", device="cpu")
    with pytest.raises(ConfigError, match="'@int8'"):
        load_encoder("ems:@int8", device="cpu")


def test_int8_of_the_default_model_says_why_not() -> None:
    with pytest.raises(ConfigError, match=r"ems:default is a mean of .* without layers"):
        load_encoder("ems:default@int8", device="cpu")


@pytest.mark.parametrize("spec", ["ems", "ems:", "default", ""])
def test_a_specification_needs_kind_and_name(spec: str) -> None:
    with pytest.raises(ConfigError, match="must be KIND:NAME"):
        load_encoder(spec)


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'word2vec' of 'word2vec:x' is unknown; known: ems, sentence-transformers"):
        load_encoder("word2vec:x")


def test_an_unknown_model_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"'nothing-here'; shipped: .*default"):
        load_encoder("ems:nothing-here")


def test_a_folder_that_is_no_model_says_which_files_are_wanted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json does not exist; .*sentencepiece\.model"):
        load_encoder(f"ems:{tmp_path}")


def test_a_folder_of_the_same_name_does_not_hide_a_shipped_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "package" / "folders.py"))
    (tmp_path / "package" / "pretrained").mkdir(parents=True)
    folder.rename(tmp_path / "package" / "pretrained" / "mine")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_encoder("ems:mine", device="cpu").name == "ems:mine"


def test_sentence_transformers_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'emsmine\[sbert\]'"):
        load_encoder("sentence-transformers:any")


class Letters:
    """A toy of another package: a vector of the numbers of two letters."""

    dim = 2
    device = "abacus"

    def __init__(self, rest: str, device: str) -> None:
        self.name = f"letters:{rest}:{device}"
        self.seen: list[tuple[list[str], str]] = []

    def fingerprint(self) -> str:
        return "letters"

    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        # As simple as can be: it trusts what it is given.
        self.seen.append((list(sentences), lang))
        rows = [[text.count("a"), text.count("b")] for text in sentences] or np.zeros((0, 2))
        return unit_rows(np.array(rows, dtype=np.float32))


def register(monkeypatch: pytest.MonkeyPatch, loader: Callable[[str, str], object]) -> None:
    module: Any = type(sys)("toy_encoders")
    module.load = loader
    monkeypatch.setitem(sys.modules, "toy_encoders", module)
    point = importlib.metadata.EntryPoint("toy", "toy_encoders:load", "emsmine.encoders")

    def entry_points(*, group: str) -> Any:
        return importlib.metadata.EntryPoints([point]).select(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_another_package_can_add_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Letters)
    found: Any = load_encoder("toy:a:b", device="cpu")
    assert (found.name, found.dim, found.fingerprint(), found.device) == ("letters:a:b:cpu", 2, "letters", "abacus")
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        found.nothing_of_this_name  # noqa: B018
    with pytest.raises(ConfigError, match="known: ems, sentence-transformers, toy"):
        load_encoder("other:x")


def test_an_encoder_of_another_package_sees_canonical_codes_and_lists_only(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Letters)
    encoder: Any = load_encoder("toy:x", device="cpu")
    assert encoder.encode("aa", lang="de").tolist() == [1, 0]
    assert encoder.encode(("b", "a"), lang="zh-TW").tolist() == [[0, 1], [1, 0]]
    assert encoder.seen == [(["aa"], "deu_Latn"), (["b", "a"], "zho_Hant")]
    with pytest.raises(LanguageError, match="'german'"):
        encoder.encode(["a"], lang="german")
    with pytest.raises(InputError, match="item 0 of 1 is None"):
        encoder.encode([None], lang="de")
    assert len(encoder.seen) == 2


def test_what_another_package_gives_must_be_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, lambda rest, device: (rest, device))
    with pytest.raises(ConfigError, match="registers 'toy' returned tuple, which lacks"):
        load_encoder("toy:x")


def test_a_plain_path_is_a_folder_of_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    expected = load_encoder(f"ems:{folder}", device="cpu").fingerprint()
    for spec in (folder, str(folder), "model", "./model", "model/", "model@fp32"):
        assert load_encoder(spec, device="cpu").fingerprint() == expected
    odd = folder.rename(folder.with_name("a:b"))
    assert load_encoder(odd, device="cpu").fingerprint() == expected
    with pytest.raises(ConfigError, match="'model' must be KIND:NAME, as in ems:default, or the folder of a model"):
        load_encoder("model")
    (folder.parent / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json does not exist"):
        load_encoder("empty")
