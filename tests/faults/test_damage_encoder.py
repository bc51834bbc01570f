"""Damage of a model directory: every mutant is refused, or means nothing; so are sizes that cannot be."""

import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from damage_kit import mutants

from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.directory import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    file_sha256,
    load_model,
    save_model,
    write_config,
)
from emsmine.encoder.model.seal import seal
from emsmine.errors import ModelError

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny: Any, spm: Path, tmp_path: Path) -> Path:
    network = tiny.build(tiny.layered_network(num_layers=1))
    return save_model(network, spm, tmp_path / "model", name="tiny", table="int8")


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, TOKENIZER])
def test_no_mutant_of_a_model_directory_is_another_model(model: Path, file: str) -> None:
    expected = EMSEncoder(model, device="cpu")
    vectors = expected.encode(["the baker paints", "x"], lang="eng_Latn").tobytes()
    path = model / file
    whole, found = path.read_bytes(), Counter[str]()
    for damaged in mutants(whole, 400):
        path.write_bytes(damaged)
        try:
            encoder = EMSEncoder(model, device="cpu")
        except ModelError as error:
            found["refused"] += 1
            found["unnamed"] += str(model) not in str(error)
            continue
        # White space between the entries of config.json.
        assert encoder.fingerprint() == expected.fingerprint()
        assert encoder.encode(["the baker paints", "x"], lang="eng_Latn").tobytes() == vectors
        found["harmless"] += 1
    assert found["refused"] > 300
    assert not found["unnamed"]
    assert file == CONFIG or not found["harmless"]


def test_a_model_without_a_seal_loads_with_a_warning_and_can_be_sealed(
    model: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = EMSEncoder(model, device="cpu").fingerprint()
    config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    del config["seal"]
    (model / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert EMSEncoder(model, device="cpu").fingerprint() == fingerprint
    assert f"python -m emsmine.encoder.model.seal {model}" in caplog.text
    caplog.clear()
    done = subprocess.run(
        [sys.executable, "-m", "emsmine.encoder.model.seal", str(model)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(model / CONFIG)
    assert EMSEncoder(model, device="cpu").fingerprint() == fingerprint
    assert not caplog.text


def test_an_edit_is_refused_until_it_is_sealed_and_a_bad_one_then_too(model: Path) -> None:
    config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    (model / CONFIG).write_text(json.dumps(config | {"name": "renamed"}), encoding="utf-8")
    with pytest.raises(
        ModelError, match=r"was edited: its entries do not match its seal; .*emsmine\.encoder\.model\.seal"
    ):
        load_model(model)
    seal(model)
    assert EMSEncoder(model, device="cpu").name == "ems:renamed"
    bad = json.dumps(config | {"network": config["network"] | {"dim": 32}})
    (model / CONFIG).write_text(bad, encoding="utf-8")
    with pytest.raises(ModelError, match="does not fit its configuration"):
        seal(model)
    assert (model / CONFIG).read_text(encoding="utf-8") == bad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("table", ["float32", "float16", "int8"])
def test_weights_that_are_not_finite_are_refused_when_they_are_loaded(
    tiny: Any, spm: Path, tmp_path: Path, table: str, value: float
) -> None:
    from safetensors.torch import load_file, save_file

    network = tiny.build(tiny.layered_network(num_layers=1))
    folder = save_model(network, spm, tmp_path / "m", name="tiny", table=table)
    whole = load_file(folder / WEIGHTS)
    tokens = "embedding.tokens.weight" + (".scale" if table == "int8" else "")
    for name in (tokens, "layers.0.ffn_norm.bias"):
        state = {key: tensor.clone() for key, tensor in whole.items()}
        state[name].view(-1)[3] = value
        save_file(state, folder / WEIGHTS)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config["sha256"][WEIGHTS] = file_sha256(folder / WEIGHTS)
        write_config(folder, config)
        with pytest.raises(ModelError, match="not finite") as caught:
            load_model(folder)
        assert f" {name} " in str(caught.value)


ABSURD: list[tuple[str, Any]] = [
    *(("vocab_size", value) for value in (10**12, 10**400, 2**31 - 1, 0, -5, True, "110", 1.5, float("nan"), None, [])),
    *(("num_layers", value) for value in (10**9, 1000, 10**400, -1, False, "1", float("inf"))),
    *(("dim", value) for value in (10**12, 2**16, 0, {}, "16")),
    *(("max_tokens", value) for value in (10**12, 2**20, -1)),
    *(("ffn_dim", value) for value in (10**12, 2**20, 0)),
    *(("num_heads", value) for value in (10**12, 0, 3)),
    *(("layer_norm_eps", value) for value in (float("nan"), float("inf"), -1.0, 0, 10**400)),
    *(("embedding_dropout", value) for value in (float("nan"), 1, -0.1, "0.1")),
    *(("layer_norm", value) for value in ("sideways", 1, None)),
]


@pytest.mark.parametrize(("key", "value"), ABSURD, ids=[f"{key}-{str(value)[:12]}" for key, value in ABSURD])
def test_absurd_sizes_are_refused_before_anything_of_that_size_is_made(model: Path, key: str, value: Any) -> None:
    config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    config["network"][key] = value
    try:
        write_config(model, config)
    except ValueError:
        # Python writes no integer of that many digits.
        (model / CONFIG).write_text('{"format": 1, "name": ' + "9" * 5000 + "}", encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_model(model)
    assert str(model) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"9" * 5000, b"null", b" " * (1 << 21), b'{"format": true}'],
    ids=["empty", "deep", "deep-object", "utf-16", "long", "null", "large", "bool"],
)
def test_a_configuration_that_is_none_is_refused(model: Path, content: bytes) -> None:
    (model / CONFIG).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(model)
    assert str(model / CONFIG) in str(caught.value)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/model.safetensors", "model.safetensors\0"])
def test_a_configuration_can_name_no_file_outside_its_folder(model: Path, name: str) -> None:
    config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    config["sha256"] = {name: config["sha256"][WEIGHTS], TOKENIZER: config["sha256"][TOKENIZER]}
    write_config(model, config)
    with pytest.raises(ModelError, match="and of nothing else"):
        load_model(model)
