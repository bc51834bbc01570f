"""Models that ship with emsmine; selected by name, as in `ems:default`."""
