"""The one file of `emsmine bootstrap`: what it may hold, and which changes a folder of rounds refuses."""

import json
from pathlib import Path
from typing import Any

import bootstrap_kit
import pytest

from emsmine.errors import ConfigError, CorruptOutputError, StaleOutputError
from emsmine.pipelines.bootstrap.settings import STATE_NAME, compare_state, load_bootstrap_config

ROOT = Path(__file__).resolve().parents[4]


def config(folder: Path, **changes: dict[str, Any]) -> Path:
    return bootstrap_kit.write_config(folder / "c.toml", folder / "data", folder / "out", **changes)


def test_the_example_is_valid() -> None:
    settings = load_bootstrap_config(ROOT / "examples" / "bootstrap.toml")
    assert (settings.bootstrap.rounds, settings.bootstrap.seed, settings.bootstrap.dev) == (3, ("seed",), ("dev",))
    assert settings.train.network.num_layers == 0
    assert settings.mine.pairs == (("deu_Latn", "eng_Latn"),)
    assert load_bootstrap_config(ROOT / "examples" / "bootstrap.toml", rounds=7).bootstrap.rounds == 7


def test_the_training_settings_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text("[network]\ndim = 64\nnum_heads = 4\n", encoding="utf-8")
    path = tmp_path / "c.toml"
    path.write_text(
        f'train = "{tmp_path}/train.toml"\n[bootstrap]\noutput = "o"\nseed = ["s"]\n'
        '[mine]\ninputs = ["x", "s3://b/y"]\npairs = ["de-en"]\n',
        encoding="utf-8",
    )
    settings = load_bootstrap_config(path)
    assert settings.train.network.dim == 64
    assert settings.mine.inputs == (str(Path.cwd() / "x"), "s3://b/y")
    (tmp_path / "train.toml").write_text('[data]\ntrain = ["pairs"]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train\.toml: data\.train has no effect"):
        load_bootstrap_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bootstrap": {"round": 3}}, r"\[bootstrap\] has unknown keys round; known: output, seed"),
        ({"bootstrap": {"rounds": 0}}, "rounds is 0; it must be at least 1"),
        ({"bootstrap": {"rounds": True}}, "rounds is True; it must be of type int"),
        ({"bootstrap": {"rounds": "3"}}, "rounds is '3'; it must be of type int"),
        ({"bootstrap": {"max_pairs": -1}}, "max_pairs is -1; it must be at least 0"),
        ({"bootstrap": {"seed": "pairs"}}, "seed is 'pairs'; it must be a list of strings"),
        ({"bootstrap": {"output": ""}}, "output is ''; name a local folder"),
        ({"bootstrap": {"output": "s3://bucket/x"}}, "name a local folder"),
        ({"bootstrap": {"seed": None}}, r"names no pair files as bootstrap\.seed"),
        ({"bootstrap": {"dev": None}, "train__data": {"validation_pairs": 0}}, "add bootstrap.dev, to compare"),
        ({"bootstrap": {"dev": None, "seed": None, "encoder": "ems:default"}}, "add bootstrap.dev, to compare"),
        ({"train__network": {"size": 3}}, r"train\.network has unknown keys size"),
        ({"train__network": {"dim": "wide"}}, r"train\.network dim is 'wide'; it must be of type int"),
        ({"train__nets": {"size": 3}}, r"train\.nets is an unknown table; known: network, heads"),
        ({"train__data": {"train": ["pairs"]}}, r"train\.data\.train has no effect: bootstrap\.seed"),
        ({"train__run": {"output": "x"}}, r"train\.run\.output has no effect"),
        ({"mine__select": {"treshold": 1.0}}, r"select has unknown keys treshold"),
        ({"mine__encode": {"encoder": "ems:default"}}, r"mine\.encode\.encoder has no effect"),
        ({"mine": {"pairs": None}}, r"needs mine\.inputs \(text files\) and mine\.pairs"),
        ({"mine": {"inputs": None}}, r"needs mine\.inputs"),
        ({"mined": {"x": 1}}, "has unknown tables or keys mined; known: bootstrap, train, mine"),
    ],
)
def test_a_wrong_file_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_bootstrap_config(config(tmp_path, **changes))


@pytest.mark.parametrize("text", ["bootstrap = 3", "[bootstrap]\noutput='o'\nseed=['s']\n[mine]\nencode = 3"])
def test_a_value_in_the_place_of_a_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="must be a table, got int"):
        load_bootstrap_config(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bootstrap": {"max_pairs": 5}}, "bootstrap.max_pairs 0 -> 5"),
        ({"bootstrap": {"encoder": "ems:default"}}, 'bootstrap.encoder "" -> "ems:default"'),
        ({"train__optimiser": {"steps": 13}}, "train.optimiser.steps 12 -> 13"),
        ({"train__run": {"export": "best"}}, 'train.run.export "last" -> "best"'),
        ({"train__run": {"seed": 2}}, "train.run.seed 1 -> 2"),
        ({"train__run": {"name": "other"}}, 'train.run.name "tiny" -> "other"'),
        ({"mine__select": {"threshold": 0.5}}, "mine.select.threshold 0.0 -> 0.5"),
        ({"mine": {"pairs": ["de-en"]}}, "mine.pairs"),
        ({"bootstrap": {"rounds": 9}}, ""),
        ({"train__run": {"log_every": 1, "checkpoint_every": 1, "validate_every": 3}}, ""),
        ({"mine": {"pairs": ["fr-es", "en-de", "de-en"]}}, ""),
    ],
)
def test_what_decides_a_round_may_not_change(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    compare_state(tmp_path, load_bootstrap_config(config(tmp_path)).semantic())
    written = (tmp_path / STATE_NAME).read_bytes()
    other = load_bootstrap_config(config(tmp_path, **changes)).semantic()
    if named:
        with pytest.raises(StaleOutputError) as caught:
            compare_state(tmp_path, other)
        assert named in str(caught.value)
        assert "or choose another bootstrap.output" in str(caught.value)
    else:
        compare_state(tmp_path, other)
    assert (tmp_path / STATE_NAME).read_bytes() == written


def test_validation_decides_where_the_best_weights_are_exported(tmp_path: Path) -> None:
    compare_state(tmp_path, load_bootstrap_config(config(tmp_path, train__run={"export": "best"})).semantic())
    now = load_bootstrap_config(config(tmp_path, train__run={"export": "best", "validate_every": 3})).semantic()
    with pytest.raises(StaleOutputError, match=r"train\.run\.validate_every 1000 -> 3"):
        compare_state(tmp_path, now)


def test_a_setting_that_the_note_does_not_know_had_its_default(tmp_path: Path) -> None:
    now = load_bootstrap_config(config(tmp_path)).semantic()
    compare_state(tmp_path, {key: value for key, value in now.items() if key != "train.loss.margin"})
    compare_state(tmp_path, now)
    with pytest.raises(StaleOutputError, match=r"train\.loss\.margin null -> 0\.5"):
        compare_state(tmp_path, {**now, "train.loss.margin": 0.5})
    with pytest.raises(StaleOutputError, match=r"mine\.search\.k 4 -> none"):
        compare_state(tmp_path, {key: value for key, value in now.items() if key != "mine.search.k"})


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_note_is_no_new_folder(content: str, tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptOutputError, match="is damaged"):
        compare_state(tmp_path, {"a": 1})


def test_a_folder_with_a_model_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="holds the model of something else"):
        compare_state(tmp_path, {"a": 1})
    assert not (tmp_path / STATE_NAME).exists()
    (tmp_path / STATE_NAME).write_text(json.dumps({"a": 1}), encoding="utf-8")
    compare_state(tmp_path, {"a": 1})
