"""What the reasons mean for which a run drops or marks rows, as the reference tells them.

The code that drops names a reason by its word; the rules of `filter` explain theirs themselves. A test compares both.
"""

REASONS: dict[str, dict[str, str]] = {
    "ingest.read": {
        "truncated": "the file, record or body ends before its announced end",
        "corrupt_compression": "compressed data are damaged",
        "decompression_bomb": "compressed data grow beyond the limit; of a file, the rest is then not read",
        "record_too_large": "a record or body is larger than the limit",
        "line_too_long": "a line is longer than the limit",
        "malformed_record": "no WARC record can be read here; reading goes on with the next one",
        "malformed_http": "the HTTP header cannot be read",
        "unknown_record_type": "the WARC type of the record is unknown",
        "digest_mismatch": "the digest of the record is another one than its header says",
        "http_status": "the status of the response is not 200",
        "content_type": "neither HTML nor plain text",
        "content_encoding": "the HTTP content encoding is unknown, or what it encodes is damaged",
        "bad_encoding": "too many characters could not be decoded",
        "page_too_complex": "the page has too many characters, tags, attributes or open elements, or took too long",
        "no_text": "no text is left of the page or record",
        "text_too_long": "the text is longer than the limit",
        "invalid_utf8": "the text is not UTF-8",
        "lone_surrogate": "the text holds half of a UTF-16 surrogate pair",
        "invalid_json": "the line is not JSON",
        "not_an_object": "the line is JSON but no object",
        "missing_text": "the object has no text field (`text_field`)",
        "text_not_string": "the text field is not a string",
        "null_text": "the text is null",
        "corrupt_parquet": "the file, or a batch of its rows, cannot be read",
        "unusable_file": "a file that a folder happened to hold is in no known format, or has no text column",
    },
    "dedup.apply": {
        "duplicate_exact": "the text is that of an earlier document but for case, width, punctuation and spaces",
        "duplicate_near": "the text nearly is that of an earlier document (`near_duplicate_threshold`)",
    },
    "langid.split": {
        "no_letters": "the sentence has no letter",
        "too_long": "the sentence is longer than `max_sentence_chars`",
        "other_language": "the sentence is in a language of none of the pairs",
        "uncertain_language": "its language score is below `min_lid_score`",
    },
    "langid.distinct": {
        "duplicate_sentence": "the sentence stands elsewhere too; the first place stands for all",
    },
    "encode.encode": {
        "non_finite_vector": "the encoder gave a vector with infinite or undefined components",
        "zero_vector": "the encoder gave a vector of zeros",
    },
    "search.audit": {
        "neighbour_not_found": "an approximate search missed this exact neighbour of a sampled sentence",
    },
    "rescore.collect": {
        "undefined_margin": "the margin cannot be computed",
        "below_least_margin": "the sentences are farther apart than from those around them (ratio margin below 0.95)",
        "below_cosine_floor": "the cosine is below `cosine_floor`",
    },
    "select.select": {
        "undefined_margin": "the margin cannot be computed",
        "below_threshold": "the score is below `threshold`",
        "below_cosine_floor": "the cosine is below `cosine_floor`",
        "not_retrieved": "good enough, but `retrieval` gave a sentence of the pair a better partner",
    },
}
"""By step, in the order of the run: what every reason for a drop means."""

SUSPICIONS: dict[str, str] = {
    "low_cosine": "in a typical neighbourhood the cosine would not have reached the threshold",
    "few_neighbours": "a sentence of the pair has fewer than `k` neighbours; its margin cannot be compared",
}
"""What the marks of chosen pairs mean; nothing is dropped for them."""
