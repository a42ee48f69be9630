"""Calls to an API server, told apart as RBAC tells them: by verb and resource; and counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
READS = frozenset({"get", "list", "watch"})
ITEM_VERBS = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}
COLLECTION_VERBS = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}
NAMESPACE_PARTS = ("status", "finalize")
"""What follows a namespace's name in a path and is no resource inside it."""


@dataclass(frozen=True)
class Call:
    """What one request asks."""

    verb: str
    """As in RBAC rules; the method in lower case for what is no resource."""
    resource: str
    """Plural, with its subresource: ``deployments``, ``inferenceservices/status``; else the path."""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True)
class Record:
    """A call that was answered."""

    call: Call
    status: int
    """HTTP status that the client got; 0 when it got none."""
    reached: bool
    """Whether the API server got the call."""
    at: float
    """When it arrived, seconds of time.monotonic."""


def parse_call(method: str, path: str, query: Mapping[str, str]) -> Call:
    """The call that a request is."""
    parts = path.strip("/").split("/")
    groups = {"api": 2, "apis": 3}.get(parts[0], 0)
    rest = parts[groups:]
    if not groups or not rest:  # Discovery, /version, /readyz.
        return Call(method.lower(), path)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in NAMESPACE_PARTS:
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    resource = "/".join([rest[0], *rest[2:3]])
    verb = (ITEM_VERBS if name else COLLECTION_VERBS).get(method, method.lower())
    if verb in {"get", "list"} and query.get("watch", "") in {"1", "true", "True"}:
        verb = "watch"
    return Call(verb, resource, namespace, name)


def count(records: Iterable[Record], verbs: Iterable[str] = WRITES | READS) -> Counter[str]:
    """Calls by ``verb resource``."""
    wanted = set(verbs)
    return Counter(f"{each.call.verb} {each.call.resource}" for each in records if each.call.verb in wanted)
