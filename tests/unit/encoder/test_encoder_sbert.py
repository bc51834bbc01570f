"""sentence-transformers models: the contract, prompts, and a fingerprint of all that decides a vector.

The models are tiny and made here; without the package the tests are skipped.
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_contract import EncoderContract

from emsmine.encoder.registry import load_encoder
from emsmine.encoder.sbert import SentenceTransformersEncoder, split_prompt
from emsmine.errors import ConfigError, ModelError

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (extra sbert)")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXTS = ["a green boat", "seven lamps and a clock", ""]


def save(folder: Path, pooling: str = "mean", *, dense: int = 0, **settings: Any) -> Path:
    """Save a BERT of one layer with characters as tokens."""
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    except ImportError:  # before version 6
        from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), ":"]
    bert = folder.with_name(f"{folder.name}-bert")
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    BertTokenizerFast.from_pretrained(str(bert)).save_pretrained(bert)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokens), max_position_embeddings=64, **shape)).save_pretrained(bert)
    modules: list[Any] = [Transformer(str(bert)), Pooling(16, pooling_mode=pooling)]
    if dense:
        torch.manual_seed(dense)
        modules.append(Dense(16, 8))
    model = SentenceTransformer(modules=[*modules, Normalize()], device="cpu", **settings)
    model.save(str(folder))
    shutil.rmtree(bert)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("sbert") / "mean")


class TestContract(EncoderContract):
    """What every encoder must do."""

    @pytest.fixture
    def encoder(self, folder: Path) -> SentenceTransformersEncoder:
        return SentenceTransformersEncoder(str(folder), device="cpu")


def edited(folder: Path, target: Path, file: str, change: Callable[[Any], None]) -> Path:
    shutil.copytree(folder, target)
    content = json.loads((target / file).read_text(encoding="utf-8"))
    change(content)
    (target / file).write_text(json.dumps(content), encoding="utf-8")
    return target


def half_norms(config: Any) -> None:
    config["layer_norm_eps"] = 1e-3


def default_prompt(config: Any) -> None:
    config["prompts"], config["default_prompt_name"] = {"query": "query: "}, "query"


def short(config: Any) -> None:
    config["model_max_length"] = 8


def truncated(config: Any) -> None:
    config["truncate_dim"] = 4


def no_normalisation(modules: Any) -> None:
    modules.pop()


def fewer_heads(config: Any) -> None:
    config["num_attention_heads"] = 1


def keeps_case(config: Any) -> None:
    config["do_lower_case"] = False


EDITS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "norms": ("config.json", half_norms),
    "heads": ("config.json", fewer_heads),
    "default prompt": ("config_sentence_transformers.json", default_prompt),
    "truncation": ("tokenizer_config.json", short),
    "normalisation": ("modules.json", no_normalisation),
    "tokeniser": ("tokenizer_config.json", keeps_case),
}


@pytest.mark.parametrize("what", EDITS)
def test_every_setting_that_decides_a_vector_is_in_the_fingerprint(folder: Path, tmp_path: Path, what: str) -> None:
    plain = SentenceTransformersEncoder(str(folder), device="cpu")
    other = SentenceTransformersEncoder(str(edited(folder, tmp_path / "m", *EDITS[what])), device="cpu")
    assert other.fingerprint() != plain.fingerprint()


def test_poolings_and_dense_layers_are_told_apart(folder: Path, tmp_path: Path) -> None:
    found = [folder, save(tmp_path / "cls", "cls"), save(tmp_path / "max", "max")]
    found += [save(tmp_path / f"dense{seed}", dense=seed) for seed in (1, 2)]
    encoders = [SentenceTransformersEncoder(str(path), device="cpu") for path in found]
    assert len({encoder.fingerprint() for encoder in encoders}) == 5
    mean, cls = (encoder.encode(TEXTS, lang="eng_Latn") for encoder in encoders[:2])
    assert not np.allclose(mean, cls)
    assert [encoder.dim for encoder in encoders] == [16, 16, 16, 8, 8]


def test_a_place_a_card_and_a_similarity_are_not_in_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    def similarity(config: Any) -> None:
        config["similarity_fn_name"] = "dot"
        config["__version__"] = {"pytorch": "1"}

    copy = edited(folder, tmp_path / "elsewhere", "config_sentence_transformers.json", similarity)
    (copy / "README.md").write_text("another card", encoding="utf-8")
    encoders = [SentenceTransformersEncoder(str(path), device="cpu") for path in (folder, copy)]
    assert encoders[0].fingerprint() == encoders[1].fingerprint()
    # Nor has it anything to do with what was encoded before.
    encoders[0].encode(TEXTS, lang="eng_Latn")
    again = SentenceTransformersEncoder(str(folder), device="cpu")
    assert again.fingerprint() == encoders[0].fingerprint()


def test_a_prompt_goes_before_every_sentence_and_into_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    plain, query, passage = (
        load_encoder(f"sentence-transformers:{folder}{prompt}", device="cpu")
        for prompt in ("", "?prompt=query: ", "?prompt=passage: ")
    )
    assert len({plain.fingerprint(), query.fingerprint(), passage.fingerprint()}) == 3
    assert query.name == f"sentence-transformers:{folder}?prompt=query: "
    expected = plain.encode([f"query: {text}" for text in TEXTS], lang="eng_Latn")
    np.testing.assert_allclose(query.encode(TEXTS, lang="eng_Latn"), expected, atol=1e-6)
    # The model's own default is a prompt like any other, and can be switched off.
    own = edited(folder, tmp_path / "own", "config_sentence_transformers.json", default_prompt)
    default, without = (load_encoder(f"sentence-transformers:{own}{end}", device="cpu") for end in ("", "?prompt="))
    assert (default.fingerprint(), without.fingerprint()) == (query.fingerprint(), plain.fingerprint())
    np.testing.assert_allclose(default.encode(TEXTS, lang="eng_Latn"), expected, atol=1e-6)


def test_a_plain_path_of_a_model_of_the_library(folder: Path) -> None:
    by_path, by_name = load_encoder(folder, device="cpu"), load_encoder(f"sentence-transformers:{folder}", device="cpu")
    assert by_path.fingerprint() == by_name.fingerprint()


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("a/b", ("a/b", None)),
        ("a/b?prompt=", ("a/b", "")),
        ("a?prompt=query: ", ("a", "query: ")),
        ("a?prompt=why?prompt=x@int8", ("a", "why?prompt=x@int8")),
    ],
)
def test_a_prompt_is_all_after_the_mark(rest: str, expected: tuple[str, str | None]) -> None:
    assert split_prompt(rest) == expected


@pytest.mark.parametrize("rest", ["?prompt=x", "a?promt=x", "a?pooling=cls"])
def test_other_options_are_refused(rest: str) -> None:
    with pytest.raises(ConfigError, match=r"followed by \?prompt=TEXT or nothing"):
        load_encoder(f"sentence-transformers:{rest}", device="cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/no-such-model", "neither a folder here nor in the local cache, and the hub could not be reached"),
        ("no-such-model", "neither a folder here nor in the local cache, and the hub could not be reached"),
        ("a b/c", "it cannot be the name of a model on the hub"),
        ("./nothing-here", "the folder ./nothing-here does not exist"),
        ("/nothing/here", "the folder /nothing/here does not exist"),
    ],
)
def test_a_model_that_is_not_there_is_one_line_of_ours(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.INFO), pytest.raises(ModelError) as caught:
        SentenceTransformersEncoder(name, device="cpu")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not caplog.text


def test_a_folder_that_is_no_model_is_one_line_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot load") as caught:
        SentenceTransformersEncoder(str(tmp_path), device="cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_device_is_refused_before_a_model_is_loaded(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device: 'quantum' is unknown"):
        SentenceTransformersEncoder(str(folder), device="quantum")
