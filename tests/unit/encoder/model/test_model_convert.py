"""`emsmine convert`: released checkpoints become model directories, and nothing else does."""

import argparse
import os
import pickle
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch

from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.convert import convert
from emsmine.errors import ModelError
from emsmine.pipelines.cli.main import run_cli

DIM, HEADS, FFN, LAYERS, LANGUAGE, TOKENS = 128, 2, 64, 2, 16, 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of 100 pieces over invented sentences."""
    prefix = tmp_path_factory.mktemp("spm") / "tiny"
    text = "the little grey boat sails past our wooden pier while seven gulls argue about bread"
    words = text.split()
    lines = [" ".join(words[i % len(words) :] + words[: i % len(words)]) for i in range(60)]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def released(vocab_size: int, *, old_names: bool = False, wrapper: str = "module.") -> dict[str, torch.Tensor]:
    """Parameters under the names and shapes of a released checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.bert.embedding.word_embedding.embedding.weight": (vocab_size, DIM),
        "model.bert.embedding.position_embedding.position_embeddings.weight": (TOKENS + 1, DIM),
        "model.bert.embedding.layer_norm.weight": (DIM,),
        "model.bert.embedding.layer_norm.bias": (DIM,),
    }
    for layer in range(LAYERS):
        base = f"model.bert.encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            shapes |= {
                f"{base}attention.self_attention.{name}.{k}": s for k, s in (("weight", (DIM, DIM)), ("bias", (DIM,)))
            }
        shapes |= {f"{base}attention.output.dense.{k}": s for k, s in (("weight", (DIM, DIM)), ("bias", (DIM,)))}
        shapes |= {f"{base}intermediate.dense.{k}": s for k, s in (("weight", (FFN, DIM)), ("bias", (FFN,)))}
        shapes |= {f"{base}output.dense.{k}": s for k, s in (("weight", (DIM, FFN)), ("bias", (DIM,)))}
        shapes |= {
            f"{base}{where}.LayerNorm.{k}": (DIM,)
            for where in ("attention.output", "output")
            for k in ("weight", "bias")
        }
    width = DIM + LANGUAGE
    transform = "model.decoder.transform" if old_names else "model.transform"
    shapes |= {
        "model.la_tag_linear.embedding.weight": (62, LANGUAGE),
        "model.la_tag_linear.layer_norm.weight": (LANGUAGE,),
        "model.la_tag_linear.layer_norm.bias": (LANGUAGE,),
        f"{transform}.dense.weight": (width, width),
        f"{transform}.dense.bias": (width,),
        f"{transform}.LayerNorm.weight": (width,),
        f"{transform}.LayerNorm.bias": (width,),
        "model.decoder.decoder.weight": (vocab_size, width),
        "alignproj.0.weight": (DIM, DIM),
        "alignproj.0.bias": (DIM,),
        "alignproj.3.weight": (128, DIM),
        "alignproj.3.bias": (128,),
    }
    values = {}
    for name, shape in shapes.items():
        plain = name.replace("model.decoder.transform", "model.transform")
        rng = np.random.default_rng(zlib.crc32(plain.encode()))
        values[wrapper + name] = torch.from_numpy(0.05 * rng.standard_normal(shape, dtype=np.float32))
    return values


def pieces(tokenizer: Path) -> int:
    return int(sentencepiece.SentencePieceProcessor(model_file=str(tokenizer)).GetPieceSize())


@pytest.mark.parametrize(("wrapper", "old_names"), [("module.", False), ("", False), ("module.", True)])
def test_all_released_forms_give_the_same_vectors(
    tokenizer: Path, tmp_path: Path, wrapper: str, old_names: bool
) -> None:
    vectors = []
    for number, state in enumerate(
        (released(pieces(tokenizer)), released(pieces(tokenizer), wrapper=wrapper, old_names=old_names))
    ):
        path = tmp_path / f"{number}.pt"
        torch.save({"state_dict": state, "best_loss": 1.5, "step": 7}, path)
        folder = convert(path, tokenizer, tmp_path / f"model{number}", name="tiny")
        vectors.append(EMSEncoder(folder, device="cpu").encode(["Seven gulls argue.", ""], lang="eng_Latn"))
    assert np.array_equal(vectors[0], vectors[1])
    assert np.linalg.norm(vectors[0][0]) == pytest.approx(1, abs=1e-5)


def test_command_prints_the_folder(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "EMS_model.pt"
    torch.save({"state_dict": released(pieces(tokenizer))}, path)
    output = tmp_path / "converted"
    assert run_cli(["convert", str(path), "--sentencepiece", str(tokenizer), "-o", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert EMSEncoder(output, device="cpu").preprocessing == "ems"


def broken(state: dict[str, torch.Tensor], how: str) -> dict[str, Any]:
    key = "module.model.bert.embedding.layer_norm.weight"
    if how == "missing":
        return {name: value for name, value in state.items() if name != key}
    if how == "surprising":
        return {**state, "module.extra.weight": torch.zeros(2)}
    if how == "shape":
        return {**state, key: torch.zeros(DIM + 1)}
    return {**state, key: "not a tensor"}


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("missing", "layer_norm.weight"),
        ("surprising", "extra.weight"),
        ("shape", "embedding.norm.weight"),
        ("type", "layer_norm.weight"),
    ],
)
def test_what_differs_is_named(tokenizer: Path, tmp_path: Path, how: str, named: str) -> None:
    path = tmp_path / "bad.pt"
    torch.save({"state_dict": broken(released(pieces(tokenizer)), how)}, path)
    with pytest.raises(ModelError, match=named):
        convert(path, tokenizer, tmp_path / "model", name="bad")
    assert not (tmp_path / "model" / "config.json").exists()


def test_another_tokeniser_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"state_dict": released(pieces(tokenizer) + 5)}, path)
    with pytest.raises(ModelError, match="pieces"):
        convert(path, tokenizer, tmp_path / "model", name="other")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("wrapping", ["torch", "pickle2", "pickle4"])
def test_pickled_code_never_runs(tokenizer: Path, tmp_path: Path, wrapping: str) -> None:
    proof, path = tmp_path / "executed", tmp_path / "malicious.pt"
    content = {"state_dict": released(pieces(tokenizer)), "extra": Payload(proof)}
    if wrapping == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(wrapping[-1])))
    with pytest.raises(ModelError, match="was not loaded"):
        convert(path, tokenizer, tmp_path / "model", name="malicious")
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_other_files_are_refused(tokenizer: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"file\.pt"):
        convert(path, tokenizer, tmp_path / "model", name="x")
    with pytest.raises(ModelError, match="does not exist"):
        convert(tmp_path / "none.pt", tokenizer, tmp_path / "model", name="x")


class Doubled(torch.nn.Module):
    """A program."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return 2 * value


def write_odd(path: Path, kind: str, state: dict[str, torch.Tensor]) -> None:
    key = "module.model.bert.embedding.layer_norm.weight"
    whole = path.with_suffix(".whole")
    torch.save({"state_dict": state}, whole)
    if kind == "code":
        torch.save({"state_dict": state, "extra": Payload(path)}, path)
    elif kind == "model":
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind == "namespace":
        torch.save({"state_dict": state, "args": argparse.Namespace(steps=5)}, path)
    elif kind == "program":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(Doubled(), torch.ones(2)), str(path))  # type: ignore[no-untyped-call]
    elif kind == "cut":
        path.write_bytes(whole.read_bytes()[:2000])
    elif kind == "list":
        torch.save(list(state.values()), path)
    elif kind == "folder":
        path.mkdir()
    else:
        odd = {
            "view": torch.ones(1).expand(10**12),
            "sparse": torch.ones(DIM).to_sparse(),
            "integers": torch.ones(DIM, dtype=torch.int64),
            "infinite": torch.full((DIM,), float("nan")),
        }[kind]
        torch.save({"state_dict": state | {key: odd}}, path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("code", "it holds posix.mkdir, which is more than tensors and plain values: .* so it is refused"),
        ("model", "it holds torch.nn.modules.linear.Linear, which is more than tensors"),
        ("namespace", "it holds argparse.Namespace, which is more than tensors"),
        ("program", "it is a TorchScript program"),
        ("cut", "it is damaged, or no file of torch.save"),
        ("list", "holds no state_dict"),
        ("folder", "it cannot be read: Is a directory"),
        ("view", "no tensors of numbers: module.model.bert.embedding.layer_norm.weight"),
        ("sparse", "no tensors of numbers: module.model.bert.embedding.layer_norm.weight"),
        ("integers", "no tensors of numbers: module.model.bert.embedding.layer_norm.weight"),
        ("infinite", "embedding.norm.weight holds values that are not finite"),
    ],
)
def test_refusals_are_in_our_words(
    tokenizer: Path, tmp_path: Path, kind: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.pt"
    write_odd(path, kind, released(pieces(tokenizer)))
    with pytest.raises(ModelError, match=words) as caught:
        convert(path, tokenizer, tmp_path / "model", name="odd")
    assert len(str(caught.value).splitlines()) == 1
    assert run_cli(["convert", str(path), "--sentencepiece", str(tokenizer), "-o", str(tmp_path / "model")]) == 1
    shown = capsys.readouterr().err
    assert not [advice for advice in ("weights_only", "safe_globals", "torch.load", "Traceback") if advice in shown]
    assert not (tmp_path / "model" / "config.json").exists()
