"""Model file formats: safetensors and GGUF headers, config.json, tokenizer.json, and writing GGUF."""

from slm_pipelines.formats.gguf_header import GgufHeader, parse_gguf, read_gguf
from slm_pipelines.formats.safetensors import (
    Header,
    collect_headers,
    header_end,
    parse_header,
    read_header,
    weight_files,
)
from slm_pipelines.formats.shape import SMALL_FILES, check_loadable, describe, parameter_count

__all__ = [
    "SMALL_FILES",
    "GgufHeader",
    "Header",
    "check_loadable",
    "collect_headers",
    "describe",
    "header_end",
    "parameter_count",
    "parse_gguf",
    "parse_header",
    "read_gguf",
    "read_header",
    "weight_files",
]
