"""The three resources as pydantic models: the one source of CRDs, docs and validation."""
