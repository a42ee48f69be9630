"""Bring the files of a resolved model into the store, every byte checked."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from slm_contract.reasons import Reason
from slm_contract.results import AcquireResult
from slm_contract.specs import AcquireSpec, ModelFile, Source
from slm_pipelines.download import POLL_SECONDS, Downloader, Partial
from slm_pipelines.errors import BadInput
from slm_pipelines.origins import Origin, SmallFiles, open_origin
from slm_pipelines.policy import check_digest, check_license, check_pin
from slm_pipelines.progress import Reporter
from slm_pipelines.selection import check_formats, check_names, select_files
from slm_pipelines.store import Blob, Store, StoredManifest


def run(spec: AcquireSpec, reporter: Reporter) -> AcquireResult:
    """Fetch what the store lacks.

    Raises BadInput (ChecksumMismatch, PinMismatch, FileNotFound, LicenseNotAllowed, UnsafeFormat, …) and Retryable
    (SourceUnavailable, InsufficientSpace); what was fetched until then is kept for the next try.
    """
    origin = open_origin(_at_revision(spec.source, spec.revision), spec.allow_private_hosts)
    files = _checked_files(spec, origin) if spec.files else _list_again(spec, origin)
    check_pin(spec.pin, spec.revision, files)
    store, name = Store(spec.store), _name(spec.source)
    listed = sorted([file.name, file.digest] for file in files)
    recipe = {"step": "acquire", "source": name, "revision": spec.revision, "files": listed}
    fetched, digest = 0, store.recall(recipe)
    if digest is None:
        blobs, fetched = _Acquisition(store, origin, spec, reporter).fetch(files)
        lineage = {"dev.slm.source": name, "dev.slm.revision": spec.revision}
        digest = store.add_manifest(StoredManifest("model", tuple(blobs), lineage))
        store.remember(recipe, digest)
    held = store.manifest(digest).blobs
    for blob in held:
        check_digest(blob.name, spec.pin.files.get(blob.name, blob.digest), blob.digest)
    size = sum(blob.size_bytes for blob in held)
    return AcquireResult(manifest=digest, size_bytes=size, file_count=len(held), fetched_bytes=fetched)


def _at_revision(source: Source, revision: str) -> Source:
    """The source at the resolved commit, whatever its branch has become since."""
    if source.hugging_face is None:
        return source
    return Source(hugging_face=source.hugging_face.model_copy(update={"revision": revision}))


def _name(source: Source) -> str:
    return source.hugging_face.repo if source.hugging_face else source.path.path if source.path else ""


def _checked_files(spec: AcquireSpec, origin: Origin) -> Sequence[ModelFile]:
    """The files that the spec names, by the rules that a listing is held to: a spec may be run alone."""
    check_names(spec.files)
    check_formats(spec.files)
    if spec.license_allow:
        check_license(origin.find_license(), spec.license_allow)
    return spec.files


def _list_again(spec: AcquireSpec, origin: Origin) -> Sequence[ModelFile]:
    listing = origin.list_files()
    if listing.revision != spec.revision:
        message = f"The source changed from {spec.revision} to {listing.revision} after it was resolved: apply again."
        raise BadInput(Reason.PIN_MISMATCH, message)
    check_license(listing.license, spec.license_allow)
    return select_files(listing, spec.source, SmallFiles(origin, listing.revision).read)


class _Acquisition:
    """One run's way from an origin into the store."""

    def __init__(self, store: Store, origin: Origin, spec: AcquireSpec, reporter: Reporter) -> None:
        self._store = store
        self._origin = origin
        self._spec = spec
        self._reporter = reporter
        self._present = 0
        self._total = 0

    def fetch(self, files: Sequence[ModelFile]) -> tuple[list[Blob], int]:
        """The files as blobs in the order of their names, and how many bytes travelled."""
        wanted = {self._identity(file): file for file in files}
        self._total = sum(file.size_bytes for file in wanted.values())
        digests = {key: file.digest for key, file in wanted.items() if self._is_stored(file)}
        downloader = Downloader(self._stream, self._report)
        with ExitStack() as stack:
            partials = {}
            for key in sorted(wanted.keys() - digests.keys()):  # One order for everybody, or two runs could deadlock.
                partial = Partial.open(wanted[key], self._store.partial_folder(key), self._wait)
                stack.callback(partial.close, remove=False)
                if self._is_stored(partial.file):  # Whoever held the lock before us brought it.
                    partial.close(remove=True)
                    digests[key] = partial.file.digest
                else:
                    partials[key] = partial
            left = sum(end - begin for partial in partials.values() for begin, end in partial.ranges())
            self._present = self._total - left
            self._store.require_space(left, f"Fetching {_name(self._spec.source)}")
            downloader.fetch(list(partials.values()))
            verified = {key: self._verify(partial, downloader) for key, partial in partials.items()}
            for key, partial in partials.items():  # Only now that all are right does any enter the store.
                self._store.add_file(partial.data, partial.file.name, expected=verified[key])
                partial.close(remove=True)
            digests |= verified
        keys = {file.name: self._identity(file) for file in files}
        blobs = [Blob(name, digests[key], wanted[key].size_bytes) for name, key in sorted(keys.items())]
        return blobs, downloader.fetched_bytes

    def _is_stored(self, file: ModelFile) -> bool:
        return self._store.holds(file.digest, file.size_bytes)

    def _identity(self, file: ModelFile) -> str:
        """What a half-fetched file is kept under: its digest, or its place where no digest is published."""
        text = file.digest or f"{_name(self._spec.source)}\0{self._spec.revision}\0{file.name}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _verify(self, partial: Partial, downloader: Downloader) -> str:
        """The digest of a complete file; wrong content is fetched once more before it is refused."""
        file = partial.file
        self._reporter.report(f"Verifying {file.name}")
        digest, git_digest = partial.digests()
        if file.digest not in {"", digest, git_digest}:
            partial.forget()
            downloader.fetch([partial])
            digest, git_digest = partial.digests()
        if file.digest not in {"", digest, git_digest}:
            partial.close(remove=True)
            message = (
                f"{file.name} arrived twice as {digest}, but its source publishes {file.digest}: "
                "the hub or something on the way to it is broken."
            )
            raise BadInput(Reason.CHECKSUM_MISMATCH, message)
        check_digest(file.name, self._spec.pin.files.get(file.name, digest), digest)
        return digest

    def _stream(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        return self._origin.stream(self._spec.revision, name, begin, end)

    def _report(self, fetched: int) -> None:
        done = self._present + fetched
        self._reporter.report(f"Fetching {_name(self._spec.source)}", min(done, self._total), self._total, "bytes")

    def _wait(self) -> None:
        self._reporter.report("Waiting for another process that fetches the same content")
        time.sleep(POLL_SECONDS)
