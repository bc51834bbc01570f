"""Our network, tokenisation, preprocessing and losses against the released EMS code.

The expected numbers come from the authors' code (github.com/Mao-KU/EMS, commit 2d42272) on a small network whose
weights are regenerated here from the parameter names; shared/golden/README.md says how they were made.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from torch import Tensor

from emsmine import languages
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.preprocessing import preprocess
from emsmine.encoder.model.released import RELEASED_LANGUAGES, ReleasedState, released_state
from emsmine.encoder.model.tokenizer import Tokenizer, pack
from emsmine.encoder.training.losses import (
    HeadConfig,
    ProjectionHead,
    ReconstructionHead,
    contrastive_loss,
    reconstruction_loss,
)
from emsmine.encoder.training.objective import language_numbers
from emsmine.errors import ModelError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"
GOLDEN = SHARED / "golden" / "ems_reference_tiny.json"
TOKENIZER = SHARED / "data" / "spm" / "62languages_bpe_60000.model"

pytestmark = pytest.mark.skipif(
    not (GOLDEN.exists() and TOKENIZER.exists()), reason="shared/golden or shared/data/spm is not beside the repository"
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return loaded


def reference_weights(seed: int) -> dict[str, Tensor]:
    """Regenerate the reference parameters by the recipe of shared/golden/README.md."""
    shapes = json.loads(GOLDEN.with_name("ems_reference_tiny.shapes.json").read_text(encoding="utf-8"))
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()) + seed)
        weight = 0.05 * rng.standard_normal(shape, dtype=np.float32)
        if name.endswith(("LayerNorm.weight", "layer_norm.weight")):
            weight = 1 + weight
        weights[name] = torch.from_numpy(weight)
    return weights


@pytest.fixture(scope="module")
def released(golden: dict[str, Any]) -> dict[str, Tensor]:
    return reference_weights(golden["weight_seed"])


@pytest.fixture(scope="module")
def state(released: dict[str, Tensor]) -> ReleasedState:
    return released_state(released)


@pytest.fixture(scope="module")
def network(golden: dict[str, Any], state: ReleasedState) -> Network:
    theirs = golden["config"]
    config = NetworkConfig(
        vocab_size=theirs["vocab_size"],
        dim=theirs["token_dim"],
        num_layers=theirs["num_layers"],
        num_heads=theirs["num_heads"],
        ffn_dim=theirs["ffn_dim"],
        activation=theirs["ffn_act"],
        max_tokens=theirs["max_seq_len"],
    )
    network = Network(config)
    network.load_state_dict(state.network)
    return network.eval()


def packed(sentences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    both = pack(sentences, 120)
    return torch.from_numpy(both.ids), torch.from_numpy(both.offsets)


def ids_of(golden: dict[str, Any], side: str) -> list[list[int]]:
    return [pair[f"{side}_ids"] for pair in golden["pairs"]]


@pytest.mark.parametrize("side", ["src", "tgt"])
def test_sentence_vectors_equal_those_of_the_released_code(golden: dict[str, Any], network: Network, side: str) -> None:
    with np.load(GOLDEN.with_suffix(".npz")) as arrays:
        expected = arrays[side]
    with torch.inference_mode():
        vectors = network(*packed(ids_of(golden, side))).numpy()
    assert vectors.shape == expected.shape == (8, 64)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


def test_losses_equal_those_of_the_released_code(
    golden: dict[str, Any], network: Network, state: ReleasedState
) -> None:
    theirs = golden["config"]
    heads = HeadConfig(language_dim=theirs["la_dim"], num_languages=theirs["la_num"], projection_dim=128)
    reconstruction = ReconstructionHead(theirs["token_dim"], theirs["vocab_size"], heads, 1e-12)
    reconstruction.load_state_dict(state.reconstruction)
    projection = ProjectionHead(theirs["token_dim"], heads)
    projection.load_state_dict(state.projection)
    source_ids, target_ids = packed(ids_of(golden, "src")), packed(ids_of(golden, "tgt"))
    # The reference asks each source vector for the language of its translation, and the other way round.
    wanted_of_source, wanted_of_target = (
        torch.tensor([pair[f"{side}_target_lang_id"] for pair in golden["pairs"]]) for side in ("src", "tgt")
    )
    with torch.inference_mode():
        source, target = network(*source_ids), network(*target_ids)
        xtr = reconstruction_loss(reconstruction(source, wanted_of_source), *target_ids) + reconstruction_loss(
            reconstruction(target, wanted_of_target), *source_ids
        )
        contrastive = contrastive_loss(projection(source), projection(target), theirs["contrastive_T"])
        total = xtr + theirs["sentence_alignment_loss_weight"] * contrastive
    assert float(xtr) == pytest.approx(golden["xtr_loss"], rel=1e-4)
    assert float(contrastive) == pytest.approx(golden["contrastive_loss"], rel=1e-4)
    assert float(total) == pytest.approx(golden["loss"], rel=1e-4)


@pytest.mark.parametrize("side", ["src", "tgt"])
def test_preprocessing_equals_that_of_the_released_code(golden: dict[str, Any], side: str) -> None:
    pytest.importorskip("sacremoses")
    pytest.importorskip("jieba")
    for pair in golden["pairs"]:
        lang = languages.resolve(pair[f"{side}_lang"])
        assert preprocess([pair[side]], lang, "ems") == [pair[f"{side}_pre"]]


@pytest.mark.parametrize("side", ["src", "tgt"])
def test_token_ids_equal_those_of_the_released_code(golden: dict[str, Any], side: str) -> None:
    tokens, num_cut = Tokenizer(TOKENIZER).encode([pair[f"{side}_pre"] for pair in golden["pairs"]], 120)
    assert num_cut == 0
    assert [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)] == ids_of(
        golden, side
    )


def test_languages_are_numbered_as_in_the_released_code(golden: dict[str, Any]) -> None:
    numbers = language_numbers([])
    for pair in golden["pairs"]:
        # The source is asked for the language of the target, and the other way round.
        assert numbers[languages.resolve(pair["tgt_lang"])] == pair["src_target_lang_id"]
        assert numbers[languages.resolve(pair["src_lang"])] == pair["tgt_target_lang_id"]
    # dataset.py of the released code: the number is the id of the piece `<2xx>` less 3.
    processor = sentencepiece.SentencePieceProcessor()
    processor.Load(str(TOKENIZER))
    assert {code: processor.PieceToId(f"<2{code}>") - 3 for code in RELEASED_LANGUAGES} == {
        code: numbers[languages.resolve(code)] for code in languages.EMS_CODES
    }


def test_wrapped_names_and_the_older_place_of_the_transform_give_the_same_state(
    released: dict[str, Tensor], state: ReleasedState
) -> None:
    older = {
        "module." + name.replace("model.transform.", "model.decoder.transform."): tensor
        for name, tensor in released.items()
    }
    assert any(".decoder.transform." in name for name in older)
    found = released_state(older)
    assert found.num_layers == state.num_layers == 2
    for part in ("network", "reconstruction", "projection"):
        ours, expected = getattr(found, part), getattr(state, part)
        assert ours.keys() == expected.keys()
        assert all(ours[key] is expected[key] for key in ours)


def test_a_checkpoint_without_heads_gives_the_network_alone(released: dict[str, Tensor]) -> None:
    found = released_state({name: tensor for name, tensor in released.items() if name.startswith("model.bert.")})
    assert (len(found.network), found.reconstruction, found.projection) == (4 + 2 * 16, {}, {})


@pytest.mark.parametrize(
    ("drop", "add", "expected"),
    [
        ("alignproj.3.bias", {}, "missing: alignproj.3.bias"),
        ("", {"model.pooler.weight": "alignproj.3.bias"}, "unknown: model.pooler.weight; missing: none"),
        ("", {"model.decoder.transform.dense.bias": "alignproj.3.bias"}, "twice: model.decoder.transform.dense.bias"),
        (
            "",
            {"model.bert.encoder.layer.7.output.dense.bias": "alignproj.3.bias"},
            "unknown: model.bert.encoder.layer.7.output.dense.bias; missing: model.bert.encoder.layer.2.",
        ),
    ],
)
def test_surprising_names_are_refused_and_listed(
    released: dict[str, Tensor], drop: str, add: dict[str, str], expected: str
) -> None:
    changed = {name: tensor for name, tensor in released.items() if name != drop}
    changed |= {name: released[like] for name, like in add.items()}
    with pytest.raises(ModelError) as caught:
        released_state(changed)
    assert expected in str(caught.value)
