"""Task specifications, canonical JSON, fingerprints, and the naming of changes."""

import hashlib
import json
import pickle
from typing import Any

import pytest

from emsmine.errors import ConfigError
from emsmine.pipelines.store.tasks import (
    FileRef,
    OutputRef,
    TaskReport,
    TaskSpec,
    canonical_json,
    check_relative_path,
    describe_changes,
)


def make_spec(**changes: Any) -> TaskSpec:
    fields: dict[str, Any] = {
        "stage": "encode",
        "step": "embed",
        "version": 2,
        "params": {"model": "toy", "batch": 32},
        "inputs": (FileRef("sentences/eng_Latn/00003.parquet", "ab" * 32, 10),),
        "partition": "eng_Latn/00003",
    }
    return TaskSpec(**{**fields, **changes})


def test_canonical_json_is_fixed_byte_for_byte() -> None:
    value: dict[str, Any] = {"b": [1, 2.5, None, True], "a": {"ä": "z\u2028", "c": "\ud800"}}
    assert canonical_json(value) == b'{"a":{"c":"\\ud800","\\u00e4":"z\\u2028"},"b":[1,2.5,null,true]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"a": {3, 4}}, {"a": [object()]}, b"bytes"])
def test_values_without_canonical_form_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        canonical_json(value)


def test_refusal_names_the_parameter() -> None:
    with pytest.raises(ConfigError, match=r"encode\.embed: parameter\.model\.k\[1\] is nan"):
        make_spec(params={"model": {"k": [1.0, float("nan")]}})


def test_fingerprint_is_known() -> None:
    # Written out by hand; a change of this form makes every existing output stale.
    canonical = (
        b'{"inputs":[{"path":"sentences/eng_Latn/00003.parquet","rows":10,"sha256":"%s"}],'
        b'"params":{"batch":32,"model":"toy"},"partition":"eng_Latn/00003","stage":"encode","step":"embed","version":2}'
    ) % (b"ab" * 32)
    assert make_spec().canonical() == canonical
    assert make_spec().fingerprint() == hashlib.sha256(canonical).hexdigest()


def test_task_id() -> None:
    assert make_spec().task_id == "encode.embed/eng_Latn/00003"


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "index"},
        {"step": "embed2"},
        {"version": 3},
        {"params": {"model": "toy", "batch": 33}},
        {"params": {"model": "toy", "batch": 32.0}},
        {"params": {"model": "toy", "batch": 32, "more": None}},
        {"inputs": ()},
        {"inputs": (FileRef("sentences/eng_Latn/00003.parquet", "ac" * 32, 10),)},
        {"inputs": (FileRef("sentences/eng_Latn/00003.parquet", "ab" * 32, 11),)},
        {"inputs": (FileRef("sentences/eng_Latn/00004.parquet", "ab" * 32, 10),)},
        {"partition": "eng_Latn/00004"},
    ],
)
def test_every_field_moves_the_fingerprint(change: dict[str, Any]) -> None:
    assert make_spec(**change).fingerprint() != make_spec().fingerprint()


def test_later_changes_to_the_params_have_no_effect() -> None:
    params: dict[str, Any] = {"langs": ["eng_Latn"]}
    spec = make_spec(params=params)
    before = spec.fingerprint()
    params["langs"].append("deu_Latn")
    assert spec.fingerprint() == before


def test_tuples_and_lists_are_the_same_setting() -> None:
    assert make_spec(params={"x": (1, 2)}) == make_spec(params={"x": [1, 2]})
    assert len({make_spec(params={"x": (1, 2)}), make_spec(params={"x": [1, 2]})}) == 1


def test_specs_travel_to_other_processes() -> None:
    spec = make_spec()
    assert pickle.loads(pickle.dumps(spec)).fingerprint() == spec.fingerprint()


@pytest.mark.parametrize("name", ["00003", "deu_Latn/00003", "deu_Latn-eng_Latn/00001-00002", "a.b"])
def test_safe_names(name: str) -> None:
    assert check_relative_path(name, "partition") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "/etc", "a/../b", "a//b", "a/", "a\\b", "a\n", "a\0", "ä", ".tmp-1", "-rf", "a b", "x" * 129],
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="partition"):
        make_spec(partition=name)


@pytest.mark.parametrize("word", ["", "Encode", "en.code", "en/code", "encode\n"])
def test_stage_names_are_checked(word: str) -> None:
    with pytest.raises(ConfigError, match="stage name"):
        make_spec(stage=word)


def test_param_checks_types() -> None:
    spec = make_spec(params={"k": 4, "flag": True, "names": ["a"], "margin": 1})
    assert spec.param("k", int) == 4
    assert spec.param("margin", float) == 1.0
    assert spec.param("flag", bool) is True
    assert spec.param("names", list) == ["a"]
    for name, kind in [("flag", int), ("flag", float), ("k", str), ("absent", int)]:
        with pytest.raises(ConfigError, match=name):
            spec.param(name, kind)


def test_changes_are_named_with_old_and_new_values() -> None:
    old = make_spec(params={"model": "toy", "search": {"k": 4, "gone": 1}})
    new = make_spec(
        params={"model": "toy", "search": {"k": 8}, "extra": "yes"},
        version=3,
        inputs=(FileRef("sentences/eng_Latn/00003.parquet", "cd" * 32, 12), FileRef("b", "ef" * 32, 1)),
    )
    assert describe_changes(old, new) == [
        'params.extra (new) "yes"',
        "params.search.gone 1 (gone)",
        "params.search.k 4 -> 8",
        "version 2 -> 3",
        "input b (new)",
        "input sentences/eng_Latn/00003.parquet changed (10 rows, sha256 abababababab -> 12 rows, sha256 cdcdcdcdcdcd)",
    ]


def test_a_changed_order_of_inputs_is_named() -> None:
    one, two = FileRef("a", "0" * 64, 1), FileRef("b", "1" * 64, 1)
    assert describe_changes(make_spec(inputs=(one, two)), make_spec(inputs=(two, one))) == ["the order of the inputs"]


def test_reports() -> None:
    report = TaskReport.failed(make_spec(), "no", 1.5)
    assert (report.task_id, report.error, report.seconds) == ("encode.embed/eng_Latn/00003", "no", 1.5)
    output = OutputRef("a/b.parquet", "0" * 64, 3, 99)
    assert output.ref == FileRef("a/b.parquet", "0" * 64, 3)
    assert json.loads(canonical_json(output.to_json()))["bytes"] == 99
