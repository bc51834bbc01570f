"""TOML files of people: whatever is in them, settings or one clear message."""

from pathlib import Path

import pytest

from emsmine.encoder.training.settings import load_training_config
from emsmine.errors import ConfigError
from emsmine.memory import shortage
from emsmine.pipelines.bootstrap.settings import load_bootstrap_config
from emsmine.pipelines.configuration import read_config
from emsmine.toml import read_toml

GIB = 1 << 30

HOSTILE: dict[str, tuple[bytes, str]] = {
    "nested lists": (b"a = " + b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "open lists": (b"a = " + b"[" * 100_000, "nested too deeply"),
    "nested tables": (b"a = " + b"{b = " * 100_000, "nested too deeply"),
    "dotted key": (b"network" + b".a" * 3_000 + b" = 1", "nested more than 16 deep"),
    "dotted table": (b"[" + b".".join([b"a"] * 3_000) + b"]", "nested more than 16 deep"),
    "half nested": (b"a = " + b"[" * 40 + b"]" * 40, "nested more than 16 deep"),
    "latin-1": (b"a = 1\nname = 'caf\xe9'", r"not TOML \(line 2 is not UTF-8"),
    "utf-16": ("a = 1".encode("utf-16"), r"line 1 is not UTF-8"),
    "long integer": (b"[a]\nb = " + b"9" * 5000, "is not TOML"),
    "large integer": (b"[a]\nb = 9223372036854775808", r"a\.b is an integer of 64 bits; at most 64"),
    "small integer": (b"[a]\nb = [1, -9223372036854775809]", r"a\.b is an integer"),
    "infinity": (b"[a]\nb = inf", r"a\.b is inf; it must be a finite number"),
    "not a number": (b"[[a]]\nb = [-nan]", r"a\.b is nan; it must be a finite number"),
    "large float": (b"a = 1e999", "a is inf"),
    "nul": (b'[a]\nb = "x\\u0000y"', r"a\.b holds a NUL character: 'x\\x00y'"),
    "binary": (bytes(range(256)), "is not TOML"),
    "large": (b"# " + b"x" * (17 << 20), "more than 16 MiB"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_content_is_one_message_for_every_reader(tmp_path: Path, what: str) -> None:
    path = tmp_path / "config.toml"
    content, words = HOSTILE[what]
    path.write_bytes(content)
    for reader in (read_config, load_training_config, load_bootstrap_config):
        with pytest.raises(ConfigError, match=words) as caught:
            reader(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["missing.toml", ".", "a\0b", "x" * 300])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    for reader in (read_config, load_training_config):
        with pytest.raises(ConfigError, match=r"cannot (read|be the name of a file)"):
            reader(tmp_path / name)


def test_sound_values_come_through(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        'a = 9223372036854775807\nb = -9223372036854775808\n[c.d]\ne = [[1.5], ["é\\t"]]\n', encoding="utf-8"
    )
    assert read_toml(path, "test") == {"a": 2**63 - 1, "b": -(2**63), "c": {"d": {"e": [[1.5], ["é\t"]]}}}


def test_a_shortage_is_said_in_sizes_that_people_know() -> None:
    assert shortage(GIB, GIB) == ""
    assert shortage(3 * GIB, 2 * GIB) == "at least 3 GiB of memory, and there are 2 GiB (free on the device)"
    assert "at least 10^" in shortage(10**40)
    assert shortage(1) == ""
