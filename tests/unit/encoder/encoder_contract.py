"""What every `Encoder` must do; subclass `EncoderContract` and give it a fixture `encoder`."""

from typing import Any

import numpy as np
import pytest

from emsmine.encoder.protocol import Encoder
from emsmine.errors import InputError, LanguageError

SENTENCES = (
    "the baker paints a green boat.",
    "Zwölf Boxkämpfer jagen Viktor.",
    "a",
    "my aunt sells seven lamps, two wooden chairs and a heavy clock; our teacher finds them.",
    "лодка у причала",
    "小さな船",
    "the baker paints a green boat.",
)


class EncoderContract:
    """Contract tests; `lang` is passed to `encode`."""

    lang = "eng_Latn"

    def test_it_follows_the_protocol(self, encoder: Encoder) -> None:
        assert isinstance(encoder, Encoder)
        assert encoder.dim > 0
        assert ":" in encoder.name
        assert encoder.fingerprint() == encoder.fingerprint() != ""

    def test_shape_and_dtype(self, encoder: Encoder) -> None:
        vectors = encoder.encode(SENTENCES, lang=self.lang)
        assert vectors.shape == (len(SENTENCES), encoder.dim)
        assert vectors.dtype == np.float32

    def test_rows_have_unit_length(self, encoder: Encoder) -> None:
        norms = np.linalg.norm(encoder.encode(SENTENCES, lang=self.lang), axis=1)
        np.testing.assert_allclose(norms, 1.0, atol=1e-5)

    def test_rows_are_in_input_order(self, encoder: Encoder) -> None:
        forward = encoder.encode(SENTENCES, lang=self.lang)
        backward = encoder.encode(SENTENCES[::-1], lang=self.lang)
        np.testing.assert_allclose(forward, backward[::-1], atol=1e-5)
        np.testing.assert_allclose(forward[0], forward[-1], atol=1e-5)
        # Different sentences have different vectors, so that an exchange would be seen. A tiny tokeniser may read the
        # other scripts as the same unknown piece; hence the first four.
        assert (forward[:4] @ forward[:4].T - np.eye(4)).max() < 0.999

    def test_vectors_do_not_depend_on_the_batch(self, encoder: Encoder) -> None:
        together = encoder.encode(SENTENCES, lang=self.lang)
        alone = np.concatenate([encoder.encode([text], lang=self.lang) for text in SENTENCES])
        np.testing.assert_allclose(together, alone, atol=1e-5)

    def test_many_sentences_cross_internal_batches(self, encoder: Encoder) -> None:
        many = SENTENCES * 60
        vectors = encoder.encode(many, lang=self.lang)
        expected = np.tile(encoder.encode(SENTENCES, lang=self.lang), (60, 1))
        np.testing.assert_allclose(vectors, expected, atol=1e-5)

    def test_the_same_call_gives_the_same_bits(self, encoder: Encoder) -> None:
        first, second = (encoder.encode(SENTENCES, lang=self.lang) for _ in range(2))
        assert first.tobytes() == second.tobytes()

    @pytest.mark.parametrize("code", ["en", "eng", "en-GB", "eng_Latn", " EN "])
    def test_any_code_of_the_language_gives_the_same_vectors(self, encoder: Encoder, code: str) -> None:
        expected = encoder.encode(SENTENCES, lang="eng_Latn")
        assert encoder.encode(SENTENCES, lang=code).tobytes() == expected.tobytes()

    @pytest.mark.parametrize("code", ["german", "", "xx", "de-en", "eng_Latm"])
    def test_what_is_no_language_is_refused(self, encoder: Encoder, code: str) -> None:
        with pytest.raises(LanguageError):
            encoder.encode(SENTENCES, lang=code)
        with pytest.raises(LanguageError):
            encoder.encode([], lang=code)

    def test_a_bare_string_is_one_sentence(self, encoder: Encoder) -> None:
        for text in (SENTENCES[0], "a", ""):
            vector = encoder.encode(text, lang=self.lang)
            assert vector.shape == (encoder.dim,)
            assert vector.tobytes() == encoder.encode([text], lang=self.lang)[0].tobytes()

    def test_sentences_may_come_as_any_sequence(self, encoder: Encoder) -> None:
        expected = encoder.encode(SENTENCES, lang=self.lang).tobytes()
        for given in (list(SENTENCES), np.array(SENTENCES), np.array(SENTENCES, dtype=object)):
            assert encoder.encode(given, lang=self.lang).tobytes() == expected

    @pytest.mark.parametrize("odd", [None, b"boat", 1, ["boat"]], ids=["none", "bytes", "number", "list"])
    def test_what_is_no_string_is_refused_by_its_place(self, encoder: Encoder, odd: object) -> None:
        texts: list[Any] = ["boat", odd, odd]
        with pytest.raises(InputError, match="encode: item 1 of 3 is"):
            encoder.encode(texts, lang=self.lang)

    def test_no_sentences(self, encoder: Encoder) -> None:
        vectors = encoder.encode([], lang=self.lang)
        assert vectors.shape == (0, encoder.dim)
        assert vectors.dtype == np.float32

    @pytest.mark.parametrize("empty", ["", "   ", "\u200b", "\n"], ids=["none", "spaces", "zero-width", "newline"])
    def test_an_empty_sentence_is_allowed_and_changes_no_other(self, encoder: Encoder, empty: str) -> None:
        vectors = encoder.encode([SENTENCES[0], empty, SENTENCES[1]], lang=self.lang)
        norm = np.linalg.norm(vectors[1])
        assert norm == 0 or norm == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(vectors[[0, 2]], encoder.encode(SENTENCES[:2], lang=self.lang), atol=1e-5)

    def test_only_empty_sentences(self, encoder: Encoder) -> None:
        vectors = encoder.encode(["", ""], lang=self.lang)
        assert vectors.shape == (2, encoder.dim)
        assert np.isfinite(vectors).all()

    @pytest.mark.parametrize(
        "odd",
        ["boat \ud800 lamp", "\udfff", "a\x00b", "\ufeffboat", "🦊" * 50],
        ids=["surrogate", "only-surrogate", "nul", "bom", "foxes"],
    )
    def test_odd_characters_give_finite_vectors(self, encoder: Encoder, odd: str) -> None:
        vectors = encoder.encode([odd, SENTENCES[0]], lang=self.lang)
        assert np.isfinite(vectors).all()
        np.testing.assert_allclose(vectors[1:], encoder.encode([SENTENCES[0]], lang=self.lang), atol=1e-5)

    def test_a_very_long_sentence(self, encoder: Encoder) -> None:
        long = "boat " * 10_000
        vectors = encoder.encode([long, SENTENCES[0]], lang=self.lang)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
