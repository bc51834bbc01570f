"""Mining, scoring and evaluating without a run directory."""
