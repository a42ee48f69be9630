"""A Hugging Face hub: listing and ranged reads, with its errors turned into reasons."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import sleep
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
from huggingface_hub import get_token

from slm_contract.reasons import Reason
from slm_contract.specs import HuggingFace
from slm_pipelines.egress import build_client
from slm_pipelines.errors import BadInput, Broken, Retryable
from slm_pipelines.listing import SHOWN_LETTERS

PUBLIC_ENDPOINT = "https://huggingface.co"
ATTEMPTS = 6
"""Tries of one request before the step gives up and its Job's back-off takes over."""
MAX_WAIT_SECONDS = 60.0
"""Longest pause between two tries; a Retry-After beyond it ends the step, and the Job comes back later."""
MAX_REDIRECTS = 5
CONNECTIONS = 8
"""Parallel connections: enough to fill a gigabit line from one far host, few enough to be a polite client."""
RETRY_STATUS = frozenset({408, 425, 429})
"""Asked to come again later; so does every status from 500 on, whatever a content network calls it."""
USER_AGENT = "slm-operator/0.1"
READ_BYTES = 1 << 18
MAX_LISTING_BYTES = 32 << 20
"""Far beyond a repository of 100,000 files: a hub that sends more is broken or hostile."""


class Hub:
    """One repository at one revision; safe to use from several threads."""

    def __init__(self, source: HuggingFace, allowed: list[str]) -> None:
        self.endpoint = (source.endpoint or os.environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT).rstrip("/")
        self.repo = source.repo
        self.revision = source.revision
        self._token = (get_token() or "") if source.send_token else ""
        self._client = build_client(allowed, CONNECTIONS)
        if not _is_address(self.endpoint):
            message = (
                f"The hub's address {self.endpoint!r} is no http or https address: correct endpoint or HF_ENDPOINT."
            )
            raise BadInput(Reason.INVALID_SPEC, message)

    def info(self) -> dict[str, Any]:
        """Commit, files with sizes and digests, licence; raises BadInput or Retryable."""
        revision = quote(self.revision, safe="")
        url = f"{self.endpoint}/api/models/{quote(self.repo)}/revision/{revision}?blobs=true"
        data = b""
        with self._open(url, {"Accept-Encoding": "identity"}) as response, _translated(self.endpoint):
            for piece in response.iter_raw(READ_BYTES):
                data += piece
                if len(data) > MAX_LISTING_BYTES:
                    message = f"{self.endpoint} describes {self.repo} in more than {MAX_LISTING_BYTES >> 20} MiB."
                    raise BadInput(Reason.INVALID_LISTING, message)
        message = f"{self.endpoint} answers something that is no model description: is it a hub's address?"
        try:
            document = httpx.Response(200, content=data).json()
        except (ValueError, RecursionError):  # Something between us and the hub may have answered in its place.
            raise Retryable(Reason.SOURCE_UNAVAILABLE, message) from None
        if not isinstance(document, dict):
            raise BadInput(Reason.INVALID_LISTING, message)
        return document

    def file_url(self, commit: str, name: str) -> str:
        """Where a file is downloaded from."""
        return f"{self.endpoint}/{quote(self.repo)}/resolve/{quote(commit, safe='')}/{quote(name)}"

    def read(self, commit: str, name: str, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` (exclusive) of a file."""
        return b"".join(self.stream(commit, name, begin, end))

    def stream(self, commit: str, name: str, begin: int, end: int) -> Iterator[bytes]:
        """The same, piece by piece; raises Broken when the connection breaks, else Retryable or BadInput."""
        if begin == end:
            return
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        with self._open(self.file_url(commit, name), headers) as response:
            whole = response.status_code == httpx.codes.OK
            if whole and begin > 0:
                message = f"{urlsplit(str(response.url)).netloc} ignores ranged reads: nothing can be resumed from it."
                raise Retryable(Reason.SOURCE_UNAVAILABLE, message)
            left = end - begin
            with _translated(self.endpoint):
                for piece in response.iter_raw(READ_BYTES):
                    yield piece[:left]
                    left -= len(piece)
                    if left <= 0:
                        break
            if left > 0:
                message = f"The connection broke {left} bytes before the end of a range of {name}."
                raise Broken(Reason.SOURCE_UNAVAILABLE, message)

    def _open(self, url: str, headers: Mapping[str, str]) -> "contextlib.AbstractContextManager[httpx.Response]":
        return contextlib.closing(self._request(url, headers))

    def _request(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        problem = Retryable(Reason.SOURCE_UNAVAILABLE, f"{self.endpoint} cannot be reached.")
        for attempt in range(ATTEMPTS):
            wait = min(0.5 * 2**attempt, MAX_WAIT_SECONDS)
            try:
                response = self._follow(url, headers)
            except httpx.HTTPError as error:
                problem = Retryable(Reason.SOURCE_UNAVAILABLE, f"{self.endpoint} cannot be reached: {error}.")
            else:
                fault = _passing_fault(response, url)
                if not fault:
                    return self._checked(response, url)
                wait = _retry_after(response, wait)
                response.close()
                problem = Retryable(Reason.SOURCE_UNAVAILABLE, f"{self.endpoint} answers {fault} again and again.")
            if attempt + 1 == ATTEMPTS or wait > MAX_WAIT_SECONDS:
                break
            sleep(wait)
        raise problem

    def _follow(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        """Send, and follow redirects by hand: the token goes to the hub's own host and nowhere else."""
        home = urlsplit(self.endpoint)
        for _ in range(MAX_REDIRECTS):
            there = urlsplit(url)
            sent = {"User-Agent": USER_AGENT, **headers}
            if self._token and (there.scheme, there.netloc) == (home.scheme, home.netloc):
                sent["Authorization"] = f"Bearer {self._token}"
            response = self._client.send(self._client.build_request("GET", url, headers=sent), stream=True)
            if not response.has_redirect_location:
                return response
            response.close()
            url = _redirected(url, response.headers["location"])
        raise BadInput(Reason.SOURCE_UNAVAILABLE, f"{self.endpoint} redirects more than {MAX_REDIRECTS} times.")

    def _checked(self, response: httpx.Response, url: str) -> httpx.Response:
        if response.is_success:
            return response
        response.close()
        code = response.headers.get("x-error-code", "")
        name = urlsplit(url).path.rsplit("/", 1)[-1]
        if code == "GatedRepo":
            message = (
                f"{self.repo} is gated: accept its licence at {self.endpoint}/{self.repo}, then give a token that may "
                "read it (HF_TOKEN on a laptop, tokenSecretRef on a cluster)."
            )
            raise Retryable(Reason.GATED_REPOSITORY, message)  # A token may come without a change of the manifest.
        if code == "RevisionNotFound":
            message = f"{self.repo} has no branch, tag or commit {self.revision!r}: correct source.revision."
            raise BadInput(Reason.REVISION_NOT_FOUND, message)
        if code == "EntryNotFound":
            raise BadInput(Reason.FILE_NOT_FOUND, f"{self.repo} has no file {name} at this commit.")
        if not code and response.url.netloc != httpx.URL(self.endpoint).netloc:  # Links to other hosts go stale.
            message = f"{response.url.host} answers {response.status_code} for {name}, where {self.endpoint} sent us."
            raise Retryable(Reason.SOURCE_UNAVAILABLE, message)
        if code == "RepoNotFound" or response.status_code in {401, 403, 404}:
            hint = "its token may not read it" if self._token else "it may be private and need a token (HF_TOKEN)"
            message = f"{self.endpoint} has no repository {self.repo}, or {hint}: check source.repo."
            raise Retryable(Reason.REPOSITORY_NOT_FOUND, message)
        raise BadInput(Reason.SOURCE_UNAVAILABLE, f"{self.endpoint} answers {response.status_code} for {url}.")


@contextlib.contextmanager
def _translated(endpoint: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        message = f"The connection to {endpoint} broke: {error}."
        raise Broken(Reason.SOURCE_UNAVAILABLE, message) from error


def _is_address(url: str) -> bool:
    """Whether it can be asked at all: the parsers of urllib and httpx reject different things."""
    try:
        httpx.URL(url)
        return urlsplit(url).scheme in {"http", "https"}
    except (ValueError, httpx.InvalidURL):
        return False


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads; raises Retryable where that is no address."""
    with contextlib.suppress(ValueError):
        target = urljoin(url, location)
        if _is_address(target):
            return target
    message = f"{urlsplit(url).netloc} redirects to {location[:SHOWN_LETTERS]!r}, which is no address."
    raise Retryable(Reason.SOURCE_UNAVAILABLE, message)


def _passing_fault(response: httpx.Response, url: str) -> str:
    """What is wrong with an answer that may be right the next time, or empty; ``url`` is what was asked first."""
    status = response.status_code
    if status in RETRY_STATUS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return f"{status} ({response.reason_phrase})"
    is_page = response.headers.get("content-type", "").lower().startswith("text/html")
    if is_page and response.is_success and not urlsplit(url).path.lower().endswith((".html", ".htm")):
        return "with a web page, as proxies and login pages do,"
    return ""


def _retry_after(response: httpx.Response, fallback: float) -> float:
    """Seconds to wait, which the header gives as a number or as a date (RFC 9110, 10.2.3)."""
    given = response.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(given))
    with contextlib.suppress(ValueError, OverflowError):
        at = parsedate_to_datetime(given)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return fallback
