"""Everything that decides, as pure functions: no clock, no files, no network, no randomness."""
