"""Who calls, and which services they may use. Nobody may, unless something here says so."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import Protocol

from slm_operator.gateway.directory import Service
from slm_operator.gateway.keys import PREFIX, ApiKey, KeyTable, looks_like_key
from slm_operator.gateway.quotas import Quotas
from slm_operator.gateway.refusal import Refusal

BEARER = "bearer "
AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@]*)(:[0-9]*)?")
PRIVATE_NAMES = (".localhost", ".local", ".internal")
"""Ends of names that nobody can register: RFC 6761, RFC 6762 and ICANN's reservation of 2024."""
LONGEST_TOKEN = 8192
"""Service-account tokens have 1-2 KiB."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    name: str
    """As the audit shows it."""
    namespace: str
    """Where models that are named without one are looked up."""
    key: ApiKey | None = None


class Access(Protocol):
    """Decides about callers."""

    async def identify(self, headers: Mapping[str, str]) -> Caller:
        """Who sends these headers; raises Refusal."""

    async def may_use(self, caller: Caller, service: Service) -> bool:
        """Whether the caller may use the service."""

    def begin(self, caller: Caller, now: float) -> None:
        """A request of the caller begins; raises Refusal when that is one too many."""

    def end(self, caller: Caller, tokens: int) -> None:
        """It has ended; called once for each that began."""


class OpenAccess:
    """Everybody may use everything: for a laptop, where the gateway listens on loopback only.

    Browsers run strangers' programs on that laptop, so pages from elsewhere may nothing: neither those that say where
    they come from, nor those whose name's owner lets it point to this machine (DNS rebinding).
    """

    def __init__(self, namespace: str = "default") -> None:
        self._caller = Caller("anonymous", namespace)

    async def identify(self, headers: Mapping[str, str]) -> Caller:
        """See ``Access``."""
        for address in (f"//{headers.get('Host', '')}", headers.get("Origin", "")):
            if not is_local(address):
                message = "Web pages of other hosts may not call this gateway: it is for programs on this machine."
                raise Refusal(HTTPStatus.FORBIDDEN, "foreign_page", message)
        return self._caller

    async def may_use(self, caller: Caller, service: Service) -> bool:  # noqa: ARG002
        """See ``Access``."""
        return True

    def begin(self, caller: Caller, now: float) -> None:
        """See ``Access``."""

    def end(self, caller: Caller, tokens: int) -> None:
        """See ``Access``."""


@lru_cache(maxsize=1024)
def is_local(address: str) -> bool:
    """Whether a URL's host cannot be a page's from elsewhere: an IP address, a name without dots, or a private one."""
    found = AUTHORITY.fullmatch(address)
    if found is None:
        return not address  # Pages whose origin is nobody's, such as those within a frame, say "null".
    name = found["name"].lower().removesuffix(".")
    if "." not in name:
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return name.endswith(PRIVATE_NAMES)
    return True


class TokenReviewer(Protocol):
    """Kubernetes' own word: TokenReview for who, SubjectAccessReview on the InferenceService for what.

    It remembers answers for a while, so that most requests wait for nothing.
    """

    async def identify(self, token: str) -> Caller | None:
        """Whose service-account token this is; None: nobody's, or one that was made for another audience."""

    async def may_use(self, caller: Caller, service: Service) -> bool:
        """Whether RBAC lets the caller use the service."""


class KeyAccess:
    """API keys, and service-account tokens where there is somebody to review them."""

    def __init__(self, wall_clock: Callable[[], float], reviewer: TokenReviewer | None = None) -> None:
        self._table = KeyTable()
        self._quotas = Quotas()
        self._wall_clock = wall_clock
        self._reviewer = reviewer

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """These keys work from now on, and no others."""
        given = set(keys)
        self._table = KeyTable(given)
        self._quotas.keep(given)

    async def identify(self, headers: Mapping[str, str]) -> Caller:
        """See ``Access``. Anthropic's clients send their key as x-api-key."""
        token = _token(headers)
        if token.startswith(PREFIX):
            return self._by_key(token)
        caller = await self._reviewer.identify(token) if token and self._reviewer is not None else None
        if caller is None:
            raise unauthorized("Send an API key: 'Authorization: Bearer slm_...'.")
        return caller

    async def may_use(self, caller: Caller, service: Service) -> bool:
        """See ``Access``."""
        if caller.key is not None:
            return caller.key.allows(service)
        return self._reviewer is not None and await self._reviewer.may_use(caller, service)

    def begin(self, caller: Caller, now: float) -> None:
        """See ``Access``."""
        if caller.key is not None:
            self._quotas.begin(caller.key, now)

    def end(self, caller: Caller, tokens: int) -> None:
        """See ``Access``."""
        if caller.key is not None:
            self._quotas.end(caller.key, tokens)

    def _by_key(self, token: str) -> Caller:
        key = self._table.find(token)
        if key is None:
            hint = "" if looks_like_key(token) else " It is not even complete: was it copied whole?"
            raise unauthorized(f"This API key is not known.{hint}")
        if key.expires is not None and key.expires <= self._wall_clock():
            raise unauthorized("This API key has expired: ask for a new one.")
        if not key.models:
            message = "This API key is good for no model: name some in 'models' of its Secret."
            raise Refusal(HTTPStatus.FORBIDDEN, "permission_denied", message)
        return Caller(key.name, key.namespace, key)


def unauthorized(message: str) -> Refusal:
    """The request does not say who sends it in a way that counts."""
    return Refusal(HTTPStatus.UNAUTHORIZED, "invalid_api_key", message)


def _token(headers: Mapping[str, str]) -> str:
    given = headers.get("Authorization")
    if given is None:
        token = headers.get("X-Api-Key", "")
    elif given[: len(BEARER)].lower() == BEARER:
        token = given[len(BEARER) :].strip()
    else:
        token = ""
    # Other letters stand in no token, and cannot be sent to whoever reviews it.
    return token if len(token) <= LONGEST_TOKEN and token.isascii() else ""
