"""Settings: types, choices, bounds, TOML."""

import os
from pathlib import Path
from typing import Any

import pytest

from emsmine.errors import ConfigError, LanguageError
from emsmine.pipelines.configuration import build_settings, parse_pairs, read_config, to_toml
from emsmine.pipelines.settings import STAGE_SETTINGS, EncodeSettings, SelectSettings, Settings
from emsmine.pipelines.store.manifests import TaskManifest
from emsmine.pipelines.store.tasks import FileRef, TaskSpec


def checked(stage: str, name: str, value: Any) -> Any:
    """Return a setting as a configuration with nothing else would have it."""
    base = {stage: {name: value}, "pairs": ["de-en"]}
    if stage == "select":
        base[stage] = {"threshold": 1.0} | base[stage]
    return getattr(getattr(build_settings(base, {}), stage), name)


def test_every_name_is_one_flag_only() -> None:
    names = [name for kind in STAGE_SETTINGS.values() for name in kind.__dataclass_fields__]
    assert len(names) == len(set(names))


def test_defaults_pass_their_own_checks() -> None:
    for stage, kind in STAGE_SETTINGS.items():
        for name, value in vars(kind()).items():
            found = checked(stage, name, value)
            assert found == value
            assert type(found) is type(value)


@pytest.mark.parametrize(
    ("stage", "name", "value", "words"),
    [
        ("select", "threshhold", 1.0, ["select has unknown keys threshhold", "threshold"]),
        ("select", "threshold", "1.0", ["select.threshold", "'1.0'", "float"]),
        ("select", "threshold", True, ["select.threshold", "True", "float"]),
        ("select", "threshold", float("nan"), ["select.threshold", "nan"]),
        ("select", "threshold", float("inf"), ["select.threshold", "inf"]),
        ("select", "margin", "cosine", ["select.margin", "'cosine'", "ratio"]),
        ("search", "k", 0, ["search.k", "0", "at least 1"]),
        ("search", "k", 4.0, ["search.k", "4.0", "int"]),
        ("search", "k", True, ["search.k", "True", "int"]),
        ("langid", "min_lid_score", 1.5, ["langid.min_lid_score", "1.5", "at least 0", "at most 1"]),
        ("dedup", "near_duplicate_threshold", 0, ["dedup.near_duplicate_threshold", "0.0", "at least 0.01"]),
        ("dedup", "near_duplicates", 1, ["dedup.near_duplicates", "1", "bool"]),
        ("export", "formats", "tsv", ["export.formats", "'tsv'", "list of strings"]),
        ("export", "formats", ["tsv", "xml"], ["export.formats", "'xml'", "moses"]),
        ("filter", "rules_off", [3], ["filter.rules_off", "3", "strings"]),
    ],
)
def test_wrong_value_is_refused_by_name(stage: str, name: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(stage, name, value)
    for word in words:
        assert word in str(caught.value)


def test_int_is_a_float_where_one_is_wanted() -> None:
    value = checked("select", "threshold", 1)
    assert (value, type(value)) == (1.0, float)


def test_order_and_repetition_of_words_make_no_other_setting() -> None:
    assert checked("export", "formats", ["parquet", "tsv", "tsv"]) == ("tsv", "parquet")
    assert checked("filter", "rules_off", ["too_short", "identical"]) == ("identical", "too_short")


@pytest.mark.parametrize(
    "words", [("de-en", "fr-es"), ("es-fr,en-de",), ("eng_Latn-deu_Latn,, fra-spa",), ("de-en,de-en,en-de,fr-es",)]
)
def test_pairs_are_canonical_and_sorted(words: tuple[str, ...]) -> None:
    assert parse_pairs(words) == (("deu_Latn", "eng_Latn"), ("fra_Latn", "spa_Latn"))


@pytest.mark.parametrize(
    ("word", "near"), [("de-xx", "'xx'"), ("de-de", "de"), ("de", "'de'"), ("de-en-fr", "3 codes")]
)
def test_wrong_pair_is_refused(word: str, near: str) -> None:
    with pytest.raises(LanguageError) as caught:
        parse_pairs([word])
    assert near in str(caught.value)


def test_languages_are_those_of_all_pairs() -> None:
    assert Settings(pairs=parse_pairs(["de-en,en-fr"])).languages == ("deu_Latn", "eng_Latn", "fra_Latn")


def test_flags_win_over_file_and_file_over_defaults() -> None:
    base = {"inputs": ["a"], "pairs": ["de-en"], "select": {"threshold": 1.2, "margin": "distance"}}
    settings = build_settings(base, {"select": {"threshold": 1.3}}, inputs=("b",))
    assert settings.select == SelectSettings(margin="distance", threshold=1.3)
    assert settings.inputs == ("b",)
    assert settings.pairs == (("deu_Latn", "eng_Latn"),)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"selekt": {}}, ["selekt", "select"]),
        ({"select": 3}, ["[select]", "table", "int"]),
        ({"pairs": "de-en"}, ["pairs", "list of strings", "'de-en'"]),
        ({"inputs": [1]}, ["inputs", "list of strings"]),
        ({"select": {"k": 3}}, ["select has unknown keys k", "threshold"]),
    ],
)
def test_wrong_configuration_is_refused(base: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_settings(base, {})
    for word in words:
        assert word in str(caught.value)


def test_params_are_all_or_those_named() -> None:
    settings = Settings()
    names = {"k": 4, "target_recall": 0.95, "min_recall": 0.95, "min_precision": 0.9, "audit_queries": 1000}
    assert settings.params("search") == names
    assert settings.params("select", "threshold") == {"threshold": settings.select.threshold}


def test_unreadable_configuration_names_the_file(tmp_path: Path) -> None:
    missing, broken, latin = tmp_path / "no.toml", tmp_path / "broken.toml", tmp_path / "latin.toml"
    broken.write_text("[select\n", encoding="utf-8")
    latin.write_bytes(b"inputs = ['\xe9']\n")
    for path in (missing, broken, latin, tmp_path):
        with pytest.raises(ConfigError, match="config:") as caught:
            read_config(path)
        assert str(path) in str(caught.value)


def test_toml_keeps_strange_names(tmp_path: Path) -> None:
    strange = ('a "b".txt', "tab\there\n", "back\\slash", "größe-漢字", "\u2028", "s3://b/k?x=1")
    settings = Settings(inputs=strange, pairs=(("deu_Latn", "eng_Latn"),), select=SelectSettings(threshold=1e-7))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    assert build_settings(read_config(path), {}) == settings


@pytest.mark.parametrize(
    "name", [b"caf\xe9.txt", b"\xff\xfe", b"/a/\x80\xc3\xa9\xc3", b"\\u0000e9", b"\xed\xa0\x80", b'"\xe9"', b"\xe9e9"]
)
def test_file_names_that_are_no_utf8_keep_their_bytes(tmp_path: Path, name: bytes) -> None:
    text = os.fsdecode(name)
    settings = Settings(inputs=(text, "plain"), reuse=text, encode=EncodeSettings(f"ems:{text}"))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    found = build_settings(read_config(path), {})
    assert found == settings
    assert os.fsencode(found.inputs[0]) == name


def test_a_task_keeps_the_bytes_of_its_inputs() -> None:
    ref = FileRef(os.fsdecode(b"/in/caf\xe9"), "0" * 64, 1)
    spec = TaskSpec("ingest", "read", 1, {"path": ref.path}, (ref,), "00000")
    manifest = TaskManifest(spec, spec.fingerprint(), 0, 0, {}, {}, ())
    again = TaskManifest.decode(manifest.encode(), "here")
    assert again == manifest
    assert again.spec.fingerprint() == spec.fingerprint()


@pytest.mark.parametrize("name", ["a\\u0000b", "\\u0000", "\\u0000zz", "\\u00007f", "\\u0000E9"])
def test_a_nul_that_is_no_byte_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.toml"
    for line in (f'inputs = ["{name}"]', f'reuse = "{name}"', f'encode.encoder = "{name}"'):
        path.write_text(line, encoding="utf-8")
        with pytest.raises(ConfigError, match="NUL"):
            read_config(path)
