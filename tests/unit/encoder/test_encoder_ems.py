"""EMSEncoder on a plain-mean and a two-layer network: the encoder contract, and what is its own."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_contract import SENTENCES, EncoderContract
from encoder_tiny import VOCAB, build, layered_network, plain_network

from emsmine.encoder import ems
from emsmine.encoder.config import NetworkConfig
from emsmine.encoder.ems import EMSEncoder, resolve_device
from emsmine.encoder.model_directory import save_model
from emsmine.encoder.protocol import unit_rows
from emsmine.encoder.sbert import SentenceTransformersEncoder
from emsmine.encoder.tokenizer import Tokenizer
from emsmine.errors import ConfigError, MissingDependencyError, ModelError


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


def test_unit_rows_leaves_zero_rows() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


def test_missing_sentence_transformers_is_named_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'emsmine\[sbert\]'"):
        SentenceTransformersEncoder("any")
