"""JSON documents that follow each other without a comma, as kubectl and go print them."""

import json
from collections.abc import Iterator
from typing import Any


def read_documents(text: str) -> Iterator[Any]:
    """Each document in order."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:]
