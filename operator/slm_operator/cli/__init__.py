"""The `slm` command: one module per group of commands."""
