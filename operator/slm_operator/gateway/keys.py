"""API keys: how they look, how they are kept, and what a Secret says of one. No key is ever stored, only its hash.

A key holds 256 random bits, so a plain SHA-256 of it cannot be searched for; slow hashes are for passwords. Its
beginning and its checksum let scanners of public repositories find it without asking anybody (after GitHub's tokens,
https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/).
"""

import hmac
import re
from base64 import b64decode, urlsafe_b64encode
from binascii import crc32
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from slm_operator.gateway.directory import Service

PREFIX = "slm_"
RANDOM_BYTES = 32
KEY = re.compile(r"slm_([A-Za-z0-9_-]{43})([0-9a-f]{8})")
LABEL = "slm.dev/api-key"
"""On Secrets that hold a key's hash; its value is `true`."""
EVERYTHING = "*/*"
HASH = re.compile(r"[0-9a-f]{64}")
FIELDS = frozenset({"sha256", "models", "expires", "requestsPerMinute", "tokensPerMinute", "maxInFlight"})


class InvalidKey(Exception):
    """A Secret does not describe a key; the message says what to change. The key does not work until then."""


@dataclass(frozen=True)
class ApiKey:
    """What one key is good for."""

    name: str
    """``namespace/name`` of its Secret, which the audit shows."""
    namespace: str
    hashes: tuple[str, ...]
    """SHA-256 of the key, in hexadecimal; two while a key is replaced by another."""
    models: tuple[str, ...]
    """``namespace/name`` of services or of their aliases; a star at the end stands for any rest, ``*/*`` for all.
    None: no model."""
    expires: float | None = None
    """Unix time, seconds."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None

    def allows(self, service: Service) -> bool:
        """Whether the key is good for a service."""
        names = (service.key, *(f"{service.namespace}/{alias}" for alias in service.aliases))
        return any(_matches(pattern, name) for pattern in self.models for name in names)


def _matches(pattern: str, name: str) -> bool:
    if pattern.endswith("*"):
        return pattern == EVERYTHING or name.startswith(pattern[:-1])
    return name == pattern


def format_key(random: bytes) -> str:
    """The key made of 32 random bytes."""
    text = urlsafe_b64encode(random).decode().rstrip("=")
    return f"{PREFIX}{text}{crc32(text.encode()):08x}"


def hash_key(key: str) -> str:
    """What is stored of a key."""
    return sha256(key.encode("utf-8", "replace")).hexdigest()


def looks_like_key(token: str) -> bool:
    """Whether it has a key's form and checksum: a mistyped key is told apart from a wrong one."""
    found = KEY.fullmatch(token)
    return found is not None and f"{crc32(found[1].encode()):08x}" == found[2]


def read_secret(secret: Mapping[str, Any], gateway_namespace: str) -> ApiKey:
    """The key that a Secret describes; raises InvalidKey.

    A Secret outside the gateway's own namespace opens services of its own namespace only: whoever may write Secrets
    there must not be able to let others in.
    """
    namespace, name = secret["metadata"]["namespace"], secret["metadata"]["name"]
    where = f"Secret {namespace}/{name}"
    fields = _fields(secret, where)
    if unknown := sorted(fields.keys() - FIELDS):
        raise InvalidKey(f"{where} has the field {unknown[0]!r}: those of an API key are {', '.join(sorted(FIELDS))}")
    hashes = tuple(fields.get("sha256", "").split())
    if not hashes or not all(HASH.fullmatch(each) for each in hashes):
        raise InvalidKey(f"{where} must hold the SHA-256 of the key, 64 hexadecimal digits in lower case, in 'sha256'")
    named = [each for each in re.split(r"[\s,]+", fields.get("models", "")) if each]
    models = tuple(each if "/" in each else f"{namespace}/{each}" for each in named)
    foreign = [each for each in models if not each.startswith(f"{namespace}/")]
    if foreign and namespace != gateway_namespace:
        raise InvalidKey(
            f"{where} names {foreign[0]!r} in 'models': only Secrets in {gateway_namespace} open other namespaces"
        )
    return ApiKey(
        f"{namespace}/{name}",
        namespace,
        hashes,
        models,
        _time(fields.get("expires"), where),
        *(_count(fields.get(each), each, where) for each in ("requestsPerMinute", "tokensPerMinute", "maxInFlight")),
    )


def _fields(secret: Mapping[str, Any], where: str) -> dict[str, str]:
    try:
        return {name: b64decode(value, validate=True).decode().strip() for name, value in secret["data"].items()}
    except (KeyError, ValueError, AttributeError) as problem:
        raise InvalidKey(f"{where} has no 'data' of base64-encoded text") from problem


def _time(text: str | None, where: str) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as problem:
        raise InvalidKey(f"{where}: 'expires' must be a time like 2027-01-31T00:00:00Z, not {text!r}") from problem
    if moment.tzinfo is None:
        raise InvalidKey(f"{where}: 'expires' must name its time zone, as in 2027-01-31T00:00:00Z")
    return moment.timestamp()


def _count(text: str | None, field: str, where: str) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise InvalidKey(f"{where}: {field!r} must be a whole number, not {text!r}")
    return int(text)


class KeyTable:
    """All keys, found by what clients present. Of two Secrets with one hash the first by name counts."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._by_hash: dict[str, ApiKey] = {}
        for key in sorted(keys, key=lambda each: each.name):
            for digest in key.hashes:
                self._by_hash.setdefault(digest, key)

    def find(self, presented: str) -> ApiKey | None:
        """The key, expired or not.

        The time this takes tells nothing: it depends on the hash of what was presented, whose bits nobody can choose.
        """
        digest = hash_key(presented)
        key = self._by_hash.get(digest)
        if key is None or not any(hmac.compare_digest(digest, each) for each in key.hashes):
            return None
        return key
