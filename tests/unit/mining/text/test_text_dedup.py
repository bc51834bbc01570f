"""Near-duplicates: shingles, signatures, bands, clusters."""

import subprocess
import sys

import numpy as np
import pytest

from emsmine.mining.text.dedup import (
    NUM_PERMUTATIONS,
    SCHEME,
    band_keys,
    jaccard,
    near_duplicates,
    shingles,
    signatures,
)

WORDS = [f"word{i}" for i in range(400)]


def document(start: int, length: int = 120) -> str:
    return " ".join(WORDS[start : start + length])


def test_shingles_follow_script_and_length() -> None:
    assert shingles("The cat.") == {"the c", "he ca", "e cat"}
    assert shingles("Hi!") == {"hi"}
    long = shingles(document(0, 60))
    assert "word0 word1 word2" in long
    assert len(long) == 58
    assert all(len(piece) == 5 for piece in shingles("图书馆今天关门" * 20))
    thai = "แมวนอนหลับ ฝนตกหนัก " * 40
    assert all(len(piece) == 5 for piece in shingles(thai, "tha_Thai"))


def test_texts_of_punctuation_and_empty_texts() -> None:
    assert shingles("") == shingles("  ") == frozenset()
    assert shingles("...") != shingles("!!!")
    assert jaccard(frozenset(), frozenset()) == 1.0
    assert jaccard(frozenset("a"), frozenset()) == 0.0
    assert jaccard(frozenset("abc"), frozenset("bcd")) == 0.5


def test_signatures_estimate_jaccard() -> None:
    left, right = document(0, 120), document(20, 120)
    truth = jaccard(shingles(left), shingles(right))
    signature = signatures([left, right])
    assert signature.dtype == np.uint32
    assert signature.shape == (2, NUM_PERMUTATIONS)
    # Four standard errors of an estimate from 128 values.
    assert abs((signature[0] == signature[1]).mean() - truth) < 4 * np.sqrt(truth * (1 - truth) / NUM_PERMUTATIONS)
    assert signatures([]).shape == (0, NUM_PERMUTATIONS)


def test_signatures_are_the_same_in_another_process() -> None:
    code = (
        "from emsmine.mining.text.dedup import band_keys, signatures; import sys;"
        "sys.stdout.write(band_keys(signatures(['A small grey cat sleeps.'])).tobytes().hex())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    )
    assert other.stdout == band_keys(signatures(["A small grey cat sleeps."])).tobytes().hex()


def test_scheme_names_what_shapes_a_signature() -> None:
    # Signatures already stored become wrong if this changes without a reason: change SCHEME and this line together.
    assert SCHEME == "datasketch-affine32-xxh32-p128-s1-shingles1"
    assert signatures(["a"])[0, :2].tolist() == [1291018937, 714803170]


def test_band_keys_depend_on_their_band_only() -> None:
    signature = np.arange(2 * NUM_PERMUTATIONS, dtype=np.uint32).reshape(2, -1)
    signature[1] = signature[0]
    signature[1, 9] += 1
    keys = band_keys(signature)
    assert keys.shape == (2, 16)
    assert keys.dtype == np.uint64
    assert np.flatnonzero(keys[0] != keys[1]).tolist() == [1]
    # Equal bands at different places are different keys.
    assert len(set(band_keys(np.zeros((1, NUM_PERMUTATIONS), dtype=np.uint32))[0].tolist())) == 16
    with pytest.raises(ValueError, match="7 bands do not divide"):
        band_keys(signature, num_bands=7)


def test_clusters_have_the_smallest_id_and_are_transitive() -> None:
    # Steps of 8 words: neighbours share 110 of 126 pieces (0.87), the ends of the chain 0.53.
    texts = [document(8 * step) for step in range(4)] + [document(250), "short text", "Short text!"]
    ids = np.array([70, 30, 50, 60, 10, 9, 8])
    assert jaccard(shingles(texts[0]), shingles(texts[3])) < 0.8
    found = near_duplicates(ids, texts, signatures(texts))
    assert found.tolist() == [30, 30, 30, 30, 10, 8, 8]
    assert found.dtype == np.int64


def test_candidates_below_the_threshold_are_not_joined() -> None:
    texts = [document(0), document(16)]
    truth = jaccard(shingles(texts[0]), shingles(texts[1]))
    ids = np.array([1, 2])
    assert near_duplicates(ids, texts, signatures(texts), threshold=truth - 0.01, num_bands=64).tolist() == [1, 1]
    assert near_duplicates(ids, texts, signatures(texts), threshold=truth + 0.01, num_bands=64).tolist() == [1, 2]


def test_recall_on_edited_documents() -> None:
    rng = np.random.default_rng(5)
    texts, edited = [], []
    for _ in range(100):
        words = rng.choice(5000, size=120).astype(str)
        texts.append(" ".join(words))
        words[rng.choice(120, size=3, replace=False)] = "changed"
        edited.append(" ".join(words))
    near = [jaccard(shingles(a), shingles(b)) >= 0.8 for a, b in zip(texts, edited, strict=True)]
    found = near_duplicates(np.arange(200), texts + edited, signatures(texts + edited))
    joined = found[100:] == np.arange(100)
    assert sum(near) >= 80
    assert (joined & np.array(near)).sum() >= 0.97 * sum(near)
    assert not (joined & ~np.array(near)).any()
    assert found[:100].tolist() == list(range(100))


def test_texts_are_fetched_for_candidates_only() -> None:
    texts = [document(0), document(200), document(1)]
    fetched = []

    def fetch(row: int) -> str:
        fetched.append(row)
        return texts[row]

    near_duplicates(np.array([3, 2, 1]), fetch, signatures(texts))
    assert sorted(set(fetched)) == [0, 2]


def test_no_texts() -> None:
    assert near_duplicates(np.array([], dtype=np.int64), [], signatures([])).tolist() == []


def test_bad_arguments_are_refused() -> None:
    texts = ["a", "b"]
    sketches = signatures(texts)
    with pytest.raises(ValueError, match="ids repeat"):
        near_duplicates(np.array([1, 1]), texts, sketches)
    with pytest.raises(ValueError, match="3 ids but signatures"):
        near_duplicates(np.array([1, 2, 3]), texts, sketches)
    with pytest.raises(ValueError, match="2 ids but 1 texts"):
        near_duplicates(np.array([1, 2]), ["a"], sketches)
    with pytest.raises(ValueError, match="threshold is 0"):
        near_duplicates(np.array([1, 2]), texts, sketches, threshold=0.0)
