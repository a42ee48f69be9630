"""Tools of the people who work on this repository."""
