"""Input files of several formats, local or remote, made into records, within limits that hostile files cannot break."""
