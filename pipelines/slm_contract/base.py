"""The one pydantic configuration that every message and every resource shares."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Message(BaseModel):
    """An immutable value that is camelCase in JSON, snake_case in Python, and refuses unknown keys.

    Types are taken at their word, as a Kubernetes schema does: ``"3"`` is no integer and ``"yes"`` no boolean.
    """

    # Validators are built when a class is first used: most commands and steps use few of them.
    model_config = ConfigDict(
        defer_build=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )
