"""Gives fields the docstrings that stand below them in the source.

Pydantic could read them itself (``use_attribute_docstrings``), but at each import: that was a third of the time in
which ``slm`` starts. Only references and CRDs need them.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel

_DESCRIBED: set[type[BaseModel]] = set()


def describe(model: type[BaseModel]) -> None:
    """Describe a model's fields and those of all models within; once per process."""
    if model in _DESCRIBED:
        return
    _DESCRIBED.add(model)
    texts = {name: text for base in reversed(model.__mro__) for name, text in _read_docstrings(base)}
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            describe(inner)
        field.description = field.description or texts.get(name)
    model.model_rebuild(force=True)


def _read_docstrings(model: type) -> Iterator[tuple[str, str]]:
    """Name and docstring of the fields that a class of ours itself declares."""
    if not issubclass(model, BaseModel) or model.__module__.startswith("pydantic"):
        return
    found = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    yield from read_docstrings(found.body if isinstance(found, ast.ClassDef) else [])


def read_docstrings(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Name and docstring of what is declared with a type and described below, in the order of the source."""
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                yield node.target.id, inspect.cleandoc(text)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
