"""Settings of the operator and of ``slm``, from environment variables that start with ``SLM_``.

Each field's docstring gives effect, unit and default; ``docs/reference/settings.md`` is made from them.
"""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def xdg_folder(variable: str, fallback: str) -> Path:
    """Our folder below an XDG base directory; a relative value is ignored, as the XDG specification demands."""
    chosen = os.environ.get(variable, "")
    base = Path(chosen) if chosen.startswith("/") else Path.home() / fallback
    return base / "slm-operator"


MAX_NAMESPACE_LENGTH = 63
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""A DNS-1123 label, as Kubernetes demands of namespaces; here it also becomes part of a folder's name."""


def check_namespace(name: str) -> str | None:
    """Why the name cannot be a namespace's, or None."""
    if len(name) <= MAX_NAMESPACE_LENGTH and NAMESPACE.fullmatch(name):
        return None
    shown = name if len(name) <= MAX_NAMESPACE_LENGTH else f"{name[:MAX_NAMESPACE_LENGTH]}…"
    return (
        f"{shown!r} is no name of a namespace: use at most {MAX_NAMESPACE_LENGTH} lower-case letters, digits and -, "
        "with a letter or digit at both ends"
    )


class Settings(BaseSettings):
    """Everything that can be set from outside; read once at start."""

    model_config = SettingsConfigDict(
        env_prefix="SLM_", env_ignore_empty=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    state_home: Path = Field(default_factory=lambda: xdg_folder("XDG_STATE_HOME", ".local/state"))
    """Folder of the object database, the daemon's lock and all logs. Default: $XDG_STATE_HOME/slm-operator."""
    data_home: Path = Field(default_factory=lambda: xdg_folder("XDG_DATA_HOME", ".local/share"))
    """Folder of the store, where models and variants are kept. Default: $XDG_DATA_HOME/slm-operator."""
    cache_home: Path = Field(default_factory=lambda: xdg_folder("XDG_CACHE_HOME", ".cache"))
    """Folder of what can be fetched again: the llama.cpp installation. Default: $XDG_CACHE_HOME/slm-operator."""
    hub_endpoint: str = Field(default="", validation_alias=AliasChoices("SLM_HUB_ENDPOINT", "HF_ENDPOINT"))
    """Base address of the hub where a source names none (also read from HF_ENDPOINT). Default: the public hub."""
    allow_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated host or host:port inside private or loopback networks that may be contacted. Default: none."""
    llama_cpp: Path | None = None
    """Folder that holds the llama.cpp programs. Default: found on PATH or in the cache folder, else installed."""
    autostart: bool = True
    """Whether `slm run`, `slm pull` and `slm wait` start the daemon when it is not running. Default: true."""
    namespace: str = Field(default="default", min_length=1)
    """Namespace that commands use when -n is not given. Default: default."""
    start_seconds: float = Field(default=60.0, gt=0)
    """Longest time the daemon may take to start, seconds. Default: 60."""
    stop_seconds: float = Field(default=90.0, gt=0)
    """Longest time the daemon and its engines may take to stop, seconds: answers under way may take 30, and an engine
    that is told to end 30 more. Default: 90."""

    @field_validator("allow_private_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("namespace")
    @classmethod
    def _label(cls, value: str) -> str:
        if problem := check_namespace(value):
            raise ValueError(problem)
        return value

    @field_validator("state_home", "data_home", "cache_home", "llama_cpp")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else value
