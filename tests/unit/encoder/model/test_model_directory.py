"""A model on disk: round trips, damage, and what a configuration may hold."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import build, layered_network, plain_network
from safetensors.torch import load_file

from emsmine.encoder.folders import pretrained_folder
from emsmine.encoder.model.directory import (
    CONFIG,
    TABLES,
    TOKENIZER,
    WEIGHTS,
    file_sha256,
    load_model,
    quantise_rows,
    save_model,
    write_config,
)
from emsmine.errors import ModelError


@pytest.fixture(scope="module")
def saved(spm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build(layered_network()), spm_path, tmp_path_factory.mktemp("model"), name="tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of `config.json` and seal it again; None removes an entry."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8")) | changes
    write_config(folder, {key: value for key, value in config.items() if value is not None})


@pytest.mark.parametrize("config", [plain_network(), layered_network()], ids=["plain", "layered"])
@pytest.mark.parametrize("table", TABLES)
def test_round_trip(config: Any, table: str, spm_path: Path, tmp_path: Path) -> None:
    network = build(config)
    save_model(network, spm_path, tmp_path, name="tiny", preprocessing="ems", table=table)
    loaded, description = load_model(tmp_path)
    assert (description["name"], description["preprocessing"], description["table"]) == ("tiny", "ems", table)
    assert loaded.config == config
    assert not loaded.training
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(value.dtype == torch.float32 for value in after.values())
    tokens = "embedding.tokens.weight"
    for key, value in before.items():
        if table == "float32":
            assert torch.equal(after[key], value)
        elif key == tokens and table == "int8":
            cosine = torch.nn.functional.cosine_similarity(after[key], value, dim=1)
            assert float(cosine[value.abs().sum(1) > 0].min()) >= 0.999
        else:
            torch.testing.assert_close(after[key], value, rtol=1e-3, atol=1e-6)
    assert (tmp_path / TOKENIZER).read_bytes() == spm_path.read_bytes()
    stored = load_file(tmp_path / WEIGHTS)[tokens].dtype
    assert stored == {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}[table]


def test_quantised_rows_by_hand() -> None:
    rows, scale = quantise_rows(torch.tensor([[12.7, -6.35, 0.0], [0.0, 0.0, 0.0], [1e-3, 2e-3, -4e-3]]))
    assert rows[:2].tolist() == [[127, -64, 0], [0, 0, 0]]
    assert rows[2].tolist() == [32, 64, -127]
    assert scale[0] == pytest.approx(0.1)
    assert torch.isfinite(scale).all()


def test_files_have_the_permissions_of_the_umask(spm_path: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_model(build(plain_network()), spm_path, tmp_path / "a", name="tiny")
        os.umask(0o077)
        save_model(build(plain_network()), spm_path, tmp_path / "b", name="tiny")
    finally:
        os.umask(before)
    for folder, mode in (("a", 0o644), ("b", 0o600)):
        for file in (WEIGHTS, TOKENIZER, CONFIG):
            assert stat.S_IMODE((tmp_path / folder / file).stat().st_mode) == mode, file


def test_saving_replaces_and_leaves_no_other_file(folder: Path, spm_path: Path) -> None:
    save_model(build(plain_network()), spm_path, folder, name="other", table="int8")
    assert load_model(folder)[1]["name"] == "other"
    assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG, WEIGHTS, TOKENIZER])


@pytest.mark.parametrize(("setting", "value"), [("table", "int4"), ("preprocessing", "moses")])
def test_unknown_settings_are_refused_before_anything_is_written(
    spm_path: Path, tmp_path: Path, setting: str, value: str
) -> None:
    with pytest.raises(ModelError, match=f"'{value}'"):
        save_model(build(plain_network()), spm_path, tmp_path / "m", name="tiny", **{setting: value})
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("value", "table"), [(float("nan"), "float32"), (1e6, "float16"), (float("inf"), "int8")])
def test_weights_that_are_not_finite_are_not_saved(spm_path: Path, tmp_path: Path, value: float, table: str) -> None:
    network = build(plain_network())
    with torch.no_grad():
        network.embedding.tokens.weight[3, 4] = value
    with pytest.raises(ModelError, match=r"embedding\.tokens\.weight.* not finite"):
        save_model(network, spm_path, tmp_path / "m", name="tiny", table=table)
    assert not (tmp_path / "m").exists()


def _flips(path: Path) -> Iterator[int]:
    size = path.stat().st_size
    yield from (0, 7, 8, size // 3, size // 2, size - 1)


@pytest.mark.parametrize("file", [WEIGHTS, TOKENIZER])
def test_a_flipped_byte_anywhere_is_refused(folder: Path, file: str) -> None:
    path = folder / file
    whole = path.read_bytes()
    for place in _flips(path):
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="is damaged") as caught:
            load_model(folder)
        assert str(path) in str(caught.value)
    path.write_bytes(whole)
    load_model(folder)


def test_a_cut_file_is_refused(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 1000)
    with pytest.raises(ModelError, match="is damaged"):
        load_model(folder)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, TOKENIZER])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"{file} does not exist"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "has format 2; this emsmine reads format 1"),
        ({"format": None}, "has format None"),
        ({"pooling": "max"}, r"unknown keys \(pooling\)"),
        ({"name": None, "sha256": None}, r"lacks keys \(name, sha256\)"),
        ({"name": 5}, "has name 5; it must be of type str"),
        ({"table": "int4"}, "has table 'int4'; this emsmine knows float32, float16, int8"),
        ({"preprocessing": "moses"}, "has preprocessing 'moses'; this emsmine knows none, ems"),
        ({"sha256": {}}, "must hold the sha256 of model.safetensors and sentencepiece.model"),
        ({"network": {"dims": 4}}, "unknown network setting dims"),
        ({"network": {"dim": "16"}}, "dim is '16'; it must be of type int"),
        ({"network": {"vocab_size": 10, "dim": 16, "num_layers": 0}}, "does not fit its configuration"),
        ({"table": "int8"}, "does not fit its configuration"),
    ],
)
def test_a_configuration_is_checked(folder: Path, changes: dict[str, Any], named: str) -> None:
    edit(folder, **changes)
    with pytest.raises(ModelError, match=named):
        load_model(folder)


def test_weights_that_are_no_safetensors_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"something else")
    hashes = {file: file_sha256(folder / file) for file in (WEIGHTS, TOKENIZER)}
    edit(folder, sha256=hashes)
    with pytest.raises(ModelError, match="does not fit its configuration"):
        load_model(folder)


def test_the_shipped_model_loads() -> None:
    network, description = load_model(pretrained_folder("default"))
    assert description["name"] == "default"
    assert torch.isfinite(network.embedding.tokens.weight).all()
