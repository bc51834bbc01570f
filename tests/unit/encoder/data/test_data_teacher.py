"""A teacher's vectors: of the right sentence, computed once, aligned with the pairs."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from encoder_tiny import build, plain_network, sentences, sparse_training, write_pairs

from emsmine.encoder.data.pairs import PairFile, TokenCache
from emsmine.encoder.data.sampler import PairSampler, split_validation
from emsmine.encoder.data.teacher import teacher_vectors
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.encoder.training.run import train
from emsmine.errors import InputError, StaleOutputError


class Lengths:
    """An encoder whose vectors tell the length and language of a text."""

    name = "lengths"
    dim = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fingerprint(self) -> str:
        """Return anything that is always the same."""
        return "0123456789abcdef0123"

    def encode(self, texts: Sequence[str], *, lang: str) -> npt.NDArray[np.float32]:
        """Return (number of characters, whether English)."""
        self.asked += texts
        return np.array([(len(text), lang == "eng_Latn") for text in texts], dtype=np.float32).reshape(-1, 2)


@pytest.mark.parametrize(
    ("langs", "expected"),
    [
        (("deu_Latn", "eng_Latn"), [[3, 1], [2, 1]]),
        (("eng_Latn", "deu_Latn"), [[1, 1], [4, 1]]),
        (("deu_Latn", "fra_Latn"), [[1, 0], [4, 0]]),
    ],
)
def test_the_teacher_sees_english_else_the_source(
    tmp_path: Path, langs: tuple[str, str], expected: list[list[float]]
) -> None:
    teacher = Lengths()
    chunks = [[("a", "bcd")], [("efgh", "ij")]]
    found = teacher_vectors(teacher, chunks, langs, tmp_path / "x", 2)
    assert found.tolist() == expected
    # The second time they come from the disk.
    again = teacher_vectors(teacher, [], langs, tmp_path / "x", 2)
    assert again.tolist() == expected
    assert len(teacher.asked) == 2


def test_damaged_vectors_are_made_again(tmp_path: Path) -> None:
    arguments = ([[("a", "bcd")]], ("deu_Latn", "eng_Latn"), tmp_path / "x", 1)
    teacher_vectors(Lengths(), *arguments)
    [entry] = tmp_path.iterdir()
    for damage in (b"", np.zeros(3, np.float16).tobytes()):
        (entry / "vectors.npy").write_bytes(damage)
        assert teacher_vectors(Lengths(), *arguments).tolist() == [[3, 1]]
    np.save(entry / "vectors.npy", np.zeros((5, 2), np.float16))
    assert teacher_vectors(Lengths(), *arguments).tolist() == [[3, 1]]
    with pytest.raises(InputError, match="got 1 pairs, expected 2"):
        teacher_vectors(Lengths(), *arguments[:3], 2)


def test_vectors_stay_with_their_pairs(tmp_path: Path, spm_path: Path) -> None:
    path = tmp_path / "de-en.tsv"
    # Pair 2 has no tokens on one side, and is left out; every English side has another length.
    lines = [f"der mann\t{'the man ' * (n + 1)}\n".encode() for n in range(30)]
    path.write_bytes(b"".join([lines[0], b"\x01\x02\tghost\n", *lines[1:]]))
    file = PairFile(path, "deu_Latn", "eng_Latn")
    made = TokenCache(tmp_path / "cache", Tokenizer(spm_path), 100, teacher=Lengths()).corpus(file)
    assert made.teacher is not None
    expected = [len(("the man " * (n + 1)).strip()) for n in range(30)]
    assert made.teacher[:, 0].tolist() == expected
    [kept], [held_out] = split_validation([made], 3)
    assert kept.teacher is not None
    assert held_out.teacher is not None
    assert [*kept.teacher[:, 0], *held_out.teacher[:, 0]] == expected
    batch = PairSampler([kept], batch_size=8, exponent=1.0, seed=0).draw(1, 2)
    assert batch.teacher is not None
    assert batch.teacher.dtype == np.float32
    # Tokens of the target grow with its length: the order of both must be the same.
    assert np.argsort(batch.teacher[:, 0]).tolist() == np.argsort(batch.target.lengths, kind="stable").tolist()
    without = TokenCache(tmp_path / "cache", Tokenizer(spm_path), 100).corpus(file)
    assert without.teacher is None


@pytest.fixture
def teacher(tmp_path: Path, spm_path: Path) -> Path:
    network = build(plain_network(dim=24))
    return save_model(network, spm_path, tmp_path / "teacher", name="teacher", table="float32")


@pytest.mark.parametrize("dim", [24, 16])
def test_a_student_learns_from_a_teacher(tmp_path: Path, spm_path: Path, teacher: Path, dim: int) -> None:
    data = write_pairs(tmp_path / "pairs")
    config = sparse_training(
        data,
        tmp_path / "run",
        spm_path,
        network={"dim": dim},
        data={"teacher": f"ems:{teacher}", "batch_size": 32},
        loss={"contrastive_weight": 0.0, "distill_weight": 1.0, "mask_duplicates": False},
        optimiser={"steps": 60, "sparse_learning_rate": 0.05, "learning_rate": 0.02},
    )
    rows: list[dict[str, float]] = []
    model = train(config, device="cpu", on_log=rows.append)
    assert rows[0].keys() >= {"distill", "total"}
    assert "contrastive" not in rows[0]
    assert rows[-1]["distill"] < 0.7 * rows[0]["distill"]
    state = torch.load(max((tmp_path / "run").glob("checkpoint-*.pt")), weights_only=True)
    # Only a teacher of another width needs a map to its space, which the exported model does not have.
    assert ("to_teacher.weight" in state["model"]) == (dim != 24)
    if dim == 24:
        student, taught = (EMSEncoder(folder, device="cpu") for folder in (model, teacher))
        english = taught.encode(sentences("en"), lang="eng_Latn")
        german = student.encode(sentences("de"), lang="deu_Latn")
        assert float((german * english).sum(1).mean()) > 0.5
    remembered = json.loads((tmp_path / "run/data.json").read_text(encoding="utf-8"))
    assert remembered["teacher"] == [f"ems:{'teacher'}", EMSEncoder(teacher, device="cpu").fingerprint()]


def test_another_teacher_of_the_same_name_is_noticed(tmp_path: Path, spm_path: Path, teacher: Path) -> None:
    config = sparse_training(
        write_pairs(tmp_path / "pairs"),
        tmp_path / "run",
        spm_path,
        data={"teacher": f"ems:{teacher}"},
        loss={"distill_weight": 1.0, "xtr_weight": 0.0},
    )
    train(config, device="cpu", stop_after=1)
    shutil.rmtree(teacher)
    save_model(build(plain_network(dim=24), seed=5), spm_path, teacher, name="teacher", table="float32")
    with pytest.raises(StaleOutputError, match="changed: teacher"):
        train(config, device="cpu")
