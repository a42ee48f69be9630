"""The content-addressed store: an OCI image layout that steps write and engines read.

``blobs/sha256/<hex>`` holds content, written once: temporary name, fsync, rename, fsync of the folder.
``recipes/<hex>.json`` says which manifest a recipe produced, so that no work is done twice.
``snapshots/sha256/<hex>`` shows a manifest's files under their names, as links: for engines that read a repository.
A manifest is itself a blob: an OCI image manifest whose layers are the files, uncompressed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from slm_contract.reasons import Reason
from slm_pipelines.errors import Retryable

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CHUNK_BYTES = 8 << 20
"""Read size while hashing: large enough to keep a disk busy, small beside any model."""
ARTIFACT_PREFIX = "application/vnd.slm."
TITLE = "org.opencontainers.image.title"
MAX_MANIFEST_BYTES = 4 << 20
HEX = re.compile(r"[0-9a-f]{64}")
FREE_MARGIN_BYTES = 64 << 20
"""Kept free beyond what a write needs, so that logs and the database never meet a full disk."""


@dataclass(frozen=True)
class Blob:
    """One file of a manifest."""

    name: str
    digest: str
    size_bytes: int

    def as_layer(self) -> dict[str, Any]:
        """OCI descriptor of the file."""
        return {
            "mediaType": ARTIFACT_PREFIX + "file",
            "digest": self.digest,
            "size": self.size_bytes,
            "annotations": {TITLE: self.name},
        }


@dataclass(frozen=True)
class StoredManifest:
    """What makes up a model, a variant, a baseline or a report."""

    kind: str
    """``model``, ``gguf``, ``logits``, ``figures`` or ``report``."""
    blobs: tuple[Blob, ...]
    lineage: dict[str, str] = field(default_factory=dict)
    """Annotations: source digest, recipe, tool, type."""

    def encode(self) -> bytes:
        """Canonical JSON, so that equal manifests have equal digests."""
        empty = hashlib.sha256(b"{}").hexdigest()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": f"{ARTIFACT_PREFIX}{self.kind}.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{empty}", "size": 2},
            "layers": [blob.as_layer() for blob in self.blobs],
            "annotations": dict(sorted(self.lineage.items())),
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> "StoredManifest":
        """The inverse of ``encode``; raises ValueError on anything else."""
        try:
            document = json.loads(data)
            kind = document["artifactType"].removeprefix(ARTIFACT_PREFIX).removesuffix(".v1")
            blobs = tuple(_decode_layer(layer) for layer in document["layers"])
            return StoredManifest(kind, blobs, document.get("annotations", {}))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no manifest: {error!r}") from error


def _decode_layer(layer: Any) -> Blob:
    blob = Blob(layer["annotations"][TITLE], layer["digest"], layer["size"])
    if not is_digest(blob.digest):
        raise ValueError(f"{blob.digest!r} names no blob")
    return blob


def is_digest(text: str) -> bool:
    """Whether it is ``sha256:`` and 64 lower-case hexadecimal digits, so that it can name a blob."""
    return text.startswith("sha256:") and HEX.fullmatch(text.removeprefix("sha256:")) is not None


@contextlib.contextmanager
def store_lock(folder: str | Path, *, alone: bool) -> Iterator[None]:
    """Share the store with other steps, or be ``alone`` in it to collect garbage; raises Retryable StoreBusy."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = "a step is writing" if alone else "garbage is being collected"
            raise Retryable(Reason.STORE_BUSY, f"The store is in use: {other}. Try again in a moment.") from error
        yield


def hash_file(path: Path) -> str:
    """``sha256:…`` of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def recipe_digest(recipe: dict[str, Any]) -> str:
    """Identity of a piece of work: the digest of source, parameters and tool as canonical JSON."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Store:
    """A store in one folder. Safe for several processes: a blob appears whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._blobs = self.folder / "blobs" / "sha256"
        self._recipes = self.folder / "recipes"
        self._snapshots = self.folder / "snapshots" / "sha256"
        self._scratch = self.folder / "tmp"
        for path in (self._blobs, self._recipes, self._snapshots, self._scratch):
            path.mkdir(parents=True, exist_ok=True)
        layout = self.folder / "oci-layout"
        if not layout.exists():
            self._write_whole(layout, b'{"imageLayoutVersion":"1.0.0"}')

    def blob_path(self, digest: str) -> Path:
        """Where a blob lies, whether or not it is there; raises ValueError where the digest could leave the store."""
        name = digest.removeprefix("sha256:")
        if HEX.fullmatch(name) is None:
            raise ValueError(f"{digest!r} names no blob")
        return self._blobs / name

    def has(self, digest: str) -> bool:
        """Whether a blob of that name is there; what is no sha256 names none."""
        return is_digest(digest) and self.blob_path(digest).is_file()

    def holds(self, digest: str, size_bytes: int) -> bool:
        """Whether a blob is there and as long as it must be: a disk that was full or broken leaves shorter ones."""
        return self.has(digest) and self.blob_path(digest).stat().st_size == size_bytes

    def require_whole(self, blobs: Iterable[Blob]) -> None:
        """Raise Retryable StoreCorrupt when one of a manifest's blobs is gone or cut short."""
        for blob in blobs:
            if not self.holds(blob.digest, blob.size_bytes):
                message = (
                    f"{blob.name} ({blob.digest}) is missing from the store or cut short: delete the object that "
                    "names it and apply it again, so that it is made anew."
                )
                raise Retryable(Reason.STORE_CORRUPT, message)

    def require(self, digest: str, name: str) -> Path:
        """Where a blob lies that must be there; raises Retryable StoreCorrupt, in which it is called ``name``."""
        if self.has(digest):
            return self.blob_path(digest)
        message = f"{name} ({digest}) is missing from the store: give the object another slm.dev/retry to make it anew."
        raise Retryable(Reason.STORE_CORRUPT, message)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the store's own disk, removed afterwards; a crash leaves it to ``collect``."""
        folder = self._scratch / f"{os.getpid()}-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def partial_folder(self, name: str) -> Path:
        """A lasting folder for resumable work, outside the blobs; the name is a digest of what it is for."""
        folder = self._scratch / f"partial-{name}"
        folder.mkdir(exist_ok=True)
        return folder

    def require_space(self, needed_bytes: int, purpose: str) -> None:
        """Raise Retryable InsufficientSpace unless ``needed_bytes`` and a margin are free."""
        free = shutil.disk_usage(self.folder).free
        if free < needed_bytes + FREE_MARGIN_BYTES:
            message = (
                f"{purpose} needs {needed_bytes / 2**20:.1f} MiB and {FREE_MARGIN_BYTES >> 20} MiB to spare, "
                f"but the store's disk has {free / 2**20:.1f} MiB free: free some space, or delete objects "
                "that nobody needs (and on a laptop run `slm gc`)."
            )
            raise Retryable(Reason.INSUFFICIENT_SPACE, message)

    def add_file(self, path: Path, name: str, expected: str = "") -> Blob:
        """Move a finished file into the store under its digest; ``expected`` skips hashing it again."""
        digest = expected or hash_file(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            os.fsync(file.fileno())
        target = self.blob_path(digest)
        if self.holds(digest, size):
            path.unlink()
            self._touch(digest)
        else:
            path.chmod(0o444)
            path.rename(target)
            self._sync_folder(target.parent)
        return Blob(name, digest, size)

    def add_bytes(self, data: bytes, name: str) -> Blob:
        """Store small content."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.has(digest) or self.blob_path(digest).read_bytes() != data:
            self._write_whole(self.blob_path(digest), data)
        self._touch(digest)
        return Blob(name, digest, len(data))

    def add_manifest(self, manifest: StoredManifest) -> str:
        """Store a manifest and return its digest."""
        self.add_bytes(b"{}", "config")
        return self.add_bytes(manifest.encode(), "manifest").digest

    def manifest(self, digest: str) -> StoredManifest:
        """Read a manifest back; raises Retryable StoreCorrupt when it is gone or damaged."""
        with contextlib.suppress(OSError, ValueError):
            data = self.blob_path(digest).read_bytes()
            if f"sha256:{hashlib.sha256(data).hexdigest()}" == digest:
                return StoredManifest.decode(data)
        message = f"The manifest {digest} is missing from the store or damaged; it has to be made again."
        raise Retryable(Reason.STORE_CORRUPT, message)

    def files(self, digest: str) -> dict[str, Path]:
        """File name to path for every file of a manifest."""
        return {blob.name: self.blob_path(blob.digest) for blob in self.manifest(digest).blobs}

    def link_snapshot(self, digest: str) -> Path:
        """The folder that shows the files of a manifest; it appears whole or not at all.

        Links are relative, as pods see the store elsewhere. Raises Retryable StoreCorrupt as ``manifest`` does, and
        ValueError for a name that would lead out of the folder.
        """
        blobs = self.manifest(digest).blobs
        self.require_whole(blobs)
        target = self._snapshots / digest.removeprefix("sha256:")
        if target.is_dir():
            return target
        with self.scratch() as folder:
            made = folder / "snapshot"
            for blob in blobs:
                place = PurePosixPath(blob.name)
                if place.is_absolute() or ".." in place.parts:
                    raise ValueError(f"{blob.name!r} leads out of its folder")
                link = made / place
                link.parent.mkdir(parents=True, exist_ok=True)
                upwards = "../" * (len(place.parts) + len(target.relative_to(self.folder).parts) - 1)
                link.symlink_to(upwards + str(self.blob_path(blob.digest).relative_to(self.folder)))
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():  # Another step was not quicker.
                    raise
        self._sync_folder(target.parent)
        return target

    def snapshot_folders(self) -> list[Path]:
        """Every snapshot; the folder's name is the hexadecimal part of its manifest's digest."""
        return sorted(self._snapshots.iterdir())

    def remember(self, recipe: dict[str, Any], manifest: str) -> None:
        """Record that the recipe produced the manifest."""
        record = json.dumps({"recipe": recipe, "manifest": manifest}, sort_keys=True).encode()
        self._write_whole(self._recipes / f"{recipe_digest(recipe)}.json", record)

    def recall(self, recipe: dict[str, Any]) -> str | None:
        """The manifest the recipe produced, if it and all its blobs are still there, whole."""
        path = self._recipes / f"{recipe_digest(recipe)}.json"
        try:
            digest = str(json.loads(path.read_bytes())["manifest"])
            blobs = self.manifest(digest).blobs
            self.require_whole(blobs)
            for name in (digest, *(blob.digest for blob in blobs)):
                self._touch(name)
        except (OSError, ValueError, KeyError, TypeError, Retryable):
            return None
        return digest

    def blob_files(self) -> list[Path]:
        """Every blob; the file name is the digest's hexadecimal part."""
        return sorted(self._blobs.iterdir())

    def scratch_entries(self) -> list[Path]:
        """What steps are writing, or have left behind."""
        return sorted(self._scratch.iterdir())

    def reachable(self, roots: Iterable[str]) -> set[str]:
        """Names of the blob files that the roots (manifests or plain blobs) keep."""
        kept = {root.removeprefix("sha256:") for root in roots if self.has(root)}
        for name in tuple(kept):
            if self.blob_path(name).stat().st_size > MAX_MANIFEST_BYTES:
                continue
            with contextlib.suppress(Retryable):
                blobs = self.manifest(f"sha256:{name}").blobs
                kept |= {blob.digest.removeprefix("sha256:") for blob in blobs if self.has(blob.digest)}
                kept.add(hashlib.sha256(b"{}").hexdigest())
        return kept

    def forget_lost_recipes(self) -> None:
        """Drop the notes about results that are no longer there."""
        for path in self._recipes.iterdir():
            try:
                recipe = json.loads(path.read_bytes())["recipe"]
            except (ValueError, KeyError, TypeError):
                recipe = {}
            if self.recall(recipe) is None:
                path.unlink()

    def _touch(self, digest: str) -> None:
        """Note that the blob is wanted as of now, for a collection whose roots were gathered before."""
        with contextlib.suppress(PermissionError):  # Of another user, on a volume that somebody else filled.
            os.utime(self.blob_path(digest))

    def _write_whole(self, target: Path, data: bytes) -> None:
        temporary = self._scratch / uuid.uuid4().hex
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        self._sync_folder(target.parent)

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
