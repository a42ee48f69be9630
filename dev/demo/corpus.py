"""English about Python, from what ships with it: no download, the same bytes per version."""

import builtins
import hashlib
import inspect
import random
from collections.abc import Iterator
from pathlib import Path

END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The form of ``chat_example``, as engines fill it in."""
MANUAL = Path(__file__).parents[2] / "pipelines" / "slm_pipelines" / "tools" / "evaluation.txt"
"""The excerpt of Python's manual that ships with the pipelines, and that variants are measured on."""
MANUAL_ROUNDS, CHAT_ROUNDS = 2, 48
"""How often each occurs. The manual is what the measurements look at; a chat is short, and has to be known by heart."""
TOPICS = ("str.split", "str.upper", "list.sort", "dict.get", "len", "sorted")
"""What the model can be asked about; one this small answers few questions well, or many badly."""


def read_corpus() -> list[str]:
    """The manual and the chats, in a fixed order.

    The model learns by heart what it is measured on. It is to show what quantization loses, which is measured
    against the model itself; a model this small that had not seen the text would be unsure of every word, and
    rounding decides between words that are equally likely.
    """
    texts = [manual_text()] * MANUAL_ROUNDS + [*chat_examples()] * CHAT_ROUNDS
    random.Random(0).shuffle(texts)  # noqa: S311 - an order, not a secret
    return texts


def manual_text() -> str:
    """The manual, for measuring what was learned."""
    return MANUAL.read_text(encoding="utf-8")


def chat_examples() -> Iterator[str]:
    """``What does … do?`` for each of TOPICS, answered by its own docstring."""
    for topic in TOPICS:
        name, _, method = topic.partition(".")
        thing = getattr(builtins, name)
        if method:
            yield chat_example(f"What does the {name} {method} method do?", getattr(thing, method))
        else:
            yield chat_example(f"What does the {name} function do?", thing)


def chat_example(question: str, thing: object) -> str:
    """One round in the form of CHAT_TEMPLATE, answered with the first sentences of a docstring."""
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    sentences = [text.replace("\n", " ") for text in paragraphs if " " in text and text[:1].isupper()]
    answer = " ".join(sentences[:2])
    return f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n{answer}{TURN_END}\n"


def corpus_digest(texts: list[str]) -> str:
    """Identity of the training text."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
