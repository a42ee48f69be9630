"""What keeps an outcome inside a container's termination message."""

import json
from collections.abc import Iterable
from typing import Final

MAX_OUTCOME_BYTES: Final = 4096
"""Kubernetes cuts a termination message after so many bytes, and cut JSON says nothing."""
MAX_MESSAGE_BYTES: Final = 2000
"""Of an error's sentence, as JSON: more than anybody reads, and room for the rest of the outcome."""
MAX_LABEL_BYTES: Final = 200
"""Of a licence or an architecture, as JSON: names that a publisher chooses freely."""
MAX_CONVERSION_BYTES: Final = 500
"""Of the sentence why a model cannot be converted, as JSON: it stands beside everything else that resolve answers."""
ELLIPSIS: Final = "…"


def clip(text: str, max_bytes: int) -> str:
    """The text, or its beginning and its end, where a sentence says what to change; ``max_bytes`` counts JSON.

    What UTF-8 cannot hold, as in file names of other encodings, becomes a question mark.
    """
    clean = text.encode("utf-8", "replace").decode()
    if len(clean) <= max_bytes and _encoded_bytes(clean) <= max_bytes:
        return clean
    room = max_bytes - len(ELLIPSIS.encode())
    head = _fitting(clean, room * 2 // 3)
    tail = _fitting(reversed(clean), room - room * 2 // 3)
    return head + ELLIPSIS + tail[::-1]


def _fitting(letters: Iterable[str], max_bytes: int) -> str:
    kept = []
    for letter in letters:
        max_bytes -= _encoded_bytes(letter)
        if max_bytes < 0:
            break
        kept.append(letter)
    return "".join(kept)


def _encoded_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode()) - len('""')
