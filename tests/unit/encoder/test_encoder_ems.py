"""EMSEncoder on a plain-mean and a two-layer network: the encoder contract, and what is its own."""

import dataclasses
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_contract import SENTENCES, EncoderContract
from encoder_tiny import VOCAB, build, layered_network, plain_network

from emsmine.encoder import ems
from emsmine.encoder.ems import EMSEncoder, resolve_device
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.preprocessing import preprocess
from emsmine.encoder.model.quantised import require_exact_products
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.encoder.protocol import unit_rows
from emsmine.encoder.sbert import SentenceTransformersEncoder
from emsmine.errors import ConfigError, LanguageError, MissingDependencyError, ModelError


def make(config: NetworkConfig, spm: Path, folder: Path, **settings: str) -> EMSEncoder:
    save_model(build(config), spm, folder, name="tiny", table="float32", **settings)
    return EMSEncoder(folder, device="cpu")


@pytest.fixture(scope="module")
def plain(spm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> EMSEncoder:
    return make(plain_network(), spm_path, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def layered(spm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> EMSEncoder:
    return make(layered_network(), spm_path, tmp_path_factory.mktemp("layered"))


@pytest.fixture(scope="module")
def released(spm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> EMSEncoder:
    pytest.importorskip("sacremoses")
    return make(layered_network(), spm_path, tmp_path_factory.mktemp("released"), preprocessing="ems")


class TestPlainMean(EncoderContract):
    @pytest.fixture
    def encoder(self, plain: EMSEncoder) -> EMSEncoder:
        return plain


class TestTwoLayers(EncoderContract):
    @pytest.fixture
    def encoder(self, layered: EMSEncoder) -> EMSEncoder:
        return layered


class TestTwoLayersWithReleasedPreprocessing(EncoderContract):
    @pytest.fixture
    def encoder(self, released: EMSEncoder) -> EMSEncoder:
        return released


class TestTwoLayersInt8(EncoderContract):
    @pytest.fixture
    def encoder(self, layered: EMSEncoder) -> EMSEncoder:
        skip_without_int8()
        return EMSEncoder(layered.folder, device="cpu", precision="int8")


def skip_without_int8() -> None:
    try:
        require_exact_products()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def encoder(spm_path: Path, tmp_path: Path) -> EMSEncoder:
    return make(layered_network(), spm_path, tmp_path / "model")


def test_a_vector_is_the_normalised_mean_of_its_pieces(spm_path: Path, tmp_path: Path) -> None:
    encoder = make(plain_network(), spm_path, tmp_path / "model")
    packed, _ = Tokenizer(spm_path).encode([SENTENCES[0]], 24)
    mean = encoder.network.embedding.tokens.weight.detach().numpy()[packed.ids].mean(axis=0)
    expected = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(encoder.encode([SENTENCES[0]], lang="eng_Latn")[0], expected, atol=1e-6)


def test_cut_sentences_are_counted_and_equal_their_beginning(encoder: EMSEncoder) -> None:
    packed, _ = encoder.tokenizer.encode(["boat " * 10_000, "boat"], 10**6)
    assert packed.lengths[0] >= 10_000
    long = encoder.encode(["boat " * 10_000, "boat", "boat " * 9_999], lang="eng_Latn")
    assert encoder.num_cut == 2
    np.testing.assert_allclose(long[0], long[2], atol=1e-6)
    encoder.encode(["boat"], lang="eng_Latn")
    assert encoder.num_cut == 2


def test_results_are_the_same_whatever_the_batch_budget(encoder: EMSEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoder.encode(SENTENCES, lang="eng_Latn")
    for budget in (1, 7, 30):
        monkeypatch.setattr(ems, "TOKENS_PER_BATCH", budget)
        np.testing.assert_allclose(encoder.encode(SENTENCES, lang="eng_Latn"), expected, atol=1e-5)


@pytest.mark.parametrize("code", ["zh", "zho", "zh-CN", "chi", "cmn", "zho_Hans"])
def test_chinese_is_split_by_jieba_whatever_its_code(
    released: EMSEncoder, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jieba = pytest.importorskip("jieba")
    words = []

    def cut(text: str) -> list[str]:
        words.append(text)
        return list(text)

    monkeypatch.setattr(jieba, "cut", cut)
    text = "我们的老师找到一艘小船。"
    by_code = released.encode([text], lang=code)
    assert words == [text]
    np.testing.assert_array_equal(by_code, released.encode([text], lang="zho_Hans"))


def test_preprocessing_itself_knows_codes() -> None:
    pytest.importorskip("jieba")
    expected = preprocess(["我们的老师找到一艘小船。"], "zho_Hans", "ems")
    assert " " in expected[0]
    assert preprocess(["我们的老师找到一艘小船。"], "zh", "ems") == expected
    with pytest.raises(LanguageError, match="'chinesisch'"):
        preprocess(["x"], "chinesisch", "ems")


def test_dropout_is_off(encoder: EMSEncoder) -> None:
    assert encoder.network.config.hidden_dropout > 0
    assert not encoder.network.training


def test_the_fingerprint_follows_weights_and_preprocessing_but_not_the_folder(spm_path: Path, tmp_path: Path) -> None:
    config = plain_network()
    first, copy = (make(config, spm_path, tmp_path / name).fingerprint() for name in ("a", "b"))
    save_model(build(config, seed=1), spm_path, tmp_path / "c", name="tiny", table="float32")
    save_model(build(config), spm_path, tmp_path / "d", name="tiny", table="float16")
    save_model(build(config), spm_path, tmp_path / "e", name="tiny", table="float32", preprocessing="ems")
    others = [EMSEncoder(tmp_path / name, device="cpu").fingerprint() for name in "cde"]
    assert first == copy
    assert len({first, *others}) == 4


def test_precision_is_in_name_and_fingerprint(layered: EMSEncoder) -> None:
    encoders = [EMSEncoder(layered.folder, device="cpu", precision=name) for name in ("fp32", "int8", "bf16")]
    assert [encoder.name for encoder in encoders] == ["ems:tiny", "ems:tiny@int8", "ems:tiny@bf16"]
    assert len({encoder.fingerprint() for encoder in encoders}) == 3
    assert encoders[0].fingerprint() == layered.fingerprint()


def test_int8_is_near_fp32(spm_path: Path, tmp_path: Path) -> None:
    skip_without_int8()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(layered_network(dim=256, num_heads=4, ffn_dim=1024))
    save_model(network, spm_path, tmp_path, name="wide", table="float32")
    fp32, int8 = (
        EMSEncoder(tmp_path, device="cpu", precision=name).encode(SENTENCES, lang="eng_Latn")
        for name in ("fp32", "int8")
    )
    assert (fp32 * int8).sum(axis=1).min() >= 0.999
    assert not np.array_equal(fp32, int8)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_precision_needs_layers(plain: EMSEncoder, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"ems:tiny is a mean of .* without layers.*leave @{precision} out"):
        EMSEncoder(plain.folder, device="cpu", precision=precision)


def test_an_unknown_precision_lists_the_known_ones(layered: EMSEncoder) -> None:
    with pytest.raises(ConfigError, match="'int4' is unknown; choose from fp32, int8, bf16"):
        EMSEncoder(layered.folder, device="cpu", precision="int4")


def test_bf16_is_refused_when_it_is_used_where_it_would_be_emulated(
    layered: EMSEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_vnni": True, "avx512_bf16": False})
    encoder = EMSEncoder(layered.folder, device="cpu", precision="bf16")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"ems:tiny@bf16 needs a GPU, or a processor with .*; use @int8"):
            encoder.encode(["boat"], lang="eng_Latn")


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_bf16_on_a_processor_that_has_it(layered: EMSEncoder, monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {capability: True})
    fp32, bf16 = (
        EMSEncoder(layered.folder, device="cpu", precision=name).encode(SENTENCES[:1], lang="eng_Latn")
        for name in ("fp32", "bf16")
    )
    assert (fp32 * bf16).sum(axis=1).min() >= 0.999
    assert not np.array_equal(fp32, bf16)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8])
def test_chunks_change_neither_order_nor_values(
    encoder: EMSEncoder, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    texts = [*SENTENCES, "boat " * 100]
    expected = encoder.encode(texts, lang="eng_Latn")
    num_cut = encoder.num_cut
    assert num_cut > 1
    monkeypatch.setattr(ems, "CHUNK", chunk)
    np.testing.assert_allclose(encoder.encode(texts, lang="eng_Latn"), expected, atol=1e-5)
    assert encoder.num_cut == 2 * num_cut


def test_the_next_chunk_is_tokenised_while_the_network_runs_and_no_further_one(
    encoder: EMSEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ems, "CHUNK", 2)
    started = [threading.Event() for _ in range(4)]
    tokenise, run = encoder.tokenizer.encode, encoder._encode_packed
    ahead: list[list[bool]] = []
    threads = set()

    def watched_tokenise(texts: Sequence[str], max_tokens: int) -> Any:
        threads.add(threading.current_thread())
        started[int(texts[0][1:])].set()
        return tokenise(texts, max_tokens)

    def watched_run(packed: Any) -> Any:
        following = len(ahead) + 1
        if following < len(started):
            assert started[following].wait(timeout=30), "the next chunk waits for the network"
        ahead.append([event.is_set() for event in started])
        return run(packed)

    monkeypatch.setattr(encoder.tokenizer, "encode", watched_tokenise)
    monkeypatch.setattr(encoder, "_encode_packed", watched_run)
    encoder.encode([f"a{number}" for number in range(4) for _ in range(2)], lang="eng_Latn")
    assert ahead == [[True, True, False, False], [True] * 3 + [False], [True] * 4, [True] * 4]
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_an_error_of_the_tokeniser_reaches_the_caller(encoder: EMSEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenise = encoder.tokenizer.encode

    def failing(texts: Sequence[str], max_tokens: int) -> Any:
        if "lamp" in texts:
            raise ValueError("no lamps")
        return tokenise(texts, max_tokens)

    monkeypatch.setattr(ems, "CHUNK", 2)
    monkeypatch.setattr(encoder.tokenizer, "encode", failing)
    with pytest.raises(ValueError, match="no lamps"):
        encoder.encode(["boat", "boat", "boat", "lamp"], lang="eng_Latn")
    assert encoder.encode(["boat"], lang="eng_Latn").any()


def test_a_tokeniser_with_more_pieces_than_the_network_is_refused(spm_path: Path, tmp_path: Path) -> None:
    small = dataclasses.replace(plain_network(), vocab_size=VOCAB - 1)
    with pytest.raises(ModelError, match=f"{VOCAB} pieces but the network knows {VOCAB - 1}"):
        make(small, spm_path, tmp_path)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="'gpu' is unknown"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_not_the_cpu() -> None:
    with pytest.raises(ConfigError, match="no GPU is usable"):
        resolve_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu(encoder: EMSEncoder) -> None:
    on_gpu = EMSEncoder(encoder.folder, device="cuda").encode(SENTENCES, lang="eng_Latn")
    np.testing.assert_allclose(on_gpu, encoder.encode(SENTENCES, lang="eng_Latn"), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_precisions_on_a_gpu(encoder: EMSEncoder) -> None:
    bf16 = EMSEncoder(encoder.folder, device="cuda", precision="bf16").encode(SENTENCES, lang="eng_Latn")
    assert (bf16 * encoder.encode(SENTENCES, lang="eng_Latn")).sum(axis=1).min() >= 0.999
    with pytest.raises(ConfigError, match=r"ems:tiny@int8 runs on a CPU only; use @bf16 on cuda"):
        EMSEncoder(encoder.folder, device="cuda", precision="int8").encode(["boat"], lang="eng_Latn")


def test_unit_rows_leaves_zero_rows() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


def test_missing_sentence_transformers_is_named_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'emsmine\[sbert\]'"):
        SentenceTransformersEncoder("any")
