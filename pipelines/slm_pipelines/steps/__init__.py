"""The steps: one module each, ``run(spec, reporter) -> result``."""
