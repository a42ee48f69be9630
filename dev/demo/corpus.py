"""English about Python, from what every CPython installation carries: no download, the same bytes per version."""

import ast
import builtins
import hashlib
import inspect
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The form of ``chat_example``, as engines fill it in."""
EVALUATION_TEXT = Path(__file__).parents[2] / "pipelines" / "slm_pipelines" / "tools" / "evaluation.txt"
"""Variants are measured on this excerpt of the same manual, so the model must never have seen it."""
WORDY_MODULES = (
    "abc", "argparse", "ast", "asyncio", "bdb", "bisect", "calendar", "codecs", "collections", "concurrent",
    "configparser", "contextlib", "copy", "csv", "dataclasses", "datetime", "difflib", "enum", "fractions",
    "functools", "gzip", "heapq", "http", "importlib", "inspect", "ipaddress", "json", "logging", "os", "pathlib",
    "pickle", "queue", "random", "re", "shutil", "socket", "socketserver", "statistics", "string", "subprocess",
    "tempfile", "textwrap", "threading", "traceback", "typing", "unittest", "urllib", "uuid", "weakref", "zipfile",
)  # fmt: skip
"""Modules whose docstrings read as prose."""
MIN_DOCSTRING = 80
"""Characters; shorter ones are labels rather than sentences."""
CHAT_ROUNDS = 3
"""How often each question and answer occurs: they are few beside the prose."""


def read_corpus() -> list[str]:
    """Prose and chats in a fixed order, without any paragraph of the evaluation text."""
    held_out = set(EVALUATION_TEXT.read_text(encoding="utf-8").split("\n\n"))
    prose = [*topics.values(), *module_docstrings()]
    kept = ["\n\n".join(part for part in text.split("\n\n") if part.strip() not in held_out) for text in prose]
    texts = [text.strip() for text in kept if len(text) >= MIN_DOCSTRING] + list(chat_examples()) * CHAT_ROUNDS
    random.Random(0).shuffle(texts)  # noqa: S311 - an order, not a secret
    return texts


def held_out_text() -> str:
    """The evaluation text, for measuring what was learned."""
    return EVALUATION_TEXT.read_text(encoding="utf-8")


def module_docstrings() -> Iterator[str]:
    """Docstrings read from source, so that nothing is imported and optimized bytecode does not matter."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in WORDY_MODULES:
        module = library / f"{name}.py"
        for path in [module] if module.exists() else sorted((library / name).rglob("*.py")):
            yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[str]:
    if "test" in path.parts[-2]:  # Debian leaves the tests out.
        return
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def chat_examples() -> Iterator[str]:
    """``What does … do?`` for every built-in function and method, answered by its own docstring."""
    for name, thing in sorted(vars(builtins).items()):
        if name.startswith("_") or (isinstance(thing, type) and issubclass(thing, BaseException)):
            continue
        if isinstance(thing, type):
            yield from chat_example(f"What is a Python {name}?", thing)
            for method, function in sorted(vars(thing).items()):
                if not method.startswith("_"):
                    yield from chat_example(f"What does the {name} {method} method do?", function)
        else:
            yield from chat_example(f"What does the {name} function do?", thing)


def chat_example(question: str, thing: object) -> Iterator[str]:
    """One round in the form of CHAT_TEMPLATE; nothing for what has no docstring."""
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    sentences = [text.replace("\n", " ") for text in paragraphs if " " in text and text[:1].isupper()]
    if sentences:
        answer = " ".join(sentences[:2])
        yield f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n{answer}{TURN_END}\n"


def corpus_digest(texts: list[str]) -> str:
    """Identity of the training text."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
