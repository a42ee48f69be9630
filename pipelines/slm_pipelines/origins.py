"""Where weights come from, behind one face: a hub's repository, or a folder of this machine."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from slm_contract.reasons import Reason
from slm_contract.specs import LocalPath, ModelFile, Source
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.safetensors import ADAPTER_CONFIG, INDEX_NAME, MAX_HEADER_BYTES
from slm_pipelines.hub import Hub
from slm_pipelines.listing import Listing, parse_listing
from slm_pipelines.selection import is_wanted
from slm_pipelines.store import hash_file

MAX_FRONT_MATTER_BYTES = 1 << 16
MAX_SMALL_FILE_BYTES = 128 << 20
"""The largest tokenizer.json seen is below 40 MB."""


class Origin(Protocol):
    """A place to list and read."""

    def list_files(self) -> Listing:
        """Revision, files and licence; raises BadInput or Retryable."""
        ...

    def find_license(self) -> str:
        """The licence that the source states, or empty: cheap even where listing is not."""
        ...

    def stream(self, revision: str, name: str, begin: int, end: int) -> Iterator[bytes]:
        """Bytes ``begin`` to ``end`` (exclusive) of a file, in pieces; raises BadInput or Retryable."""
        ...


class HubOrigin:
    """A repository on a hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def list_files(self) -> Listing:
        """One request: the model description with sizes and digests."""
        return parse_listing(self.hub.info(), self.hub.endpoint)

    def find_license(self) -> str:
        """The same request."""
        return self.list_files().license

    def stream(self, revision: str, name: str, begin: int, end: int) -> Iterator[bytes]:
        """A ranged read of the file at that commit."""
        return self.hub.stream(revision, name, begin, end)


class FolderOrigin:
    """A folder, or one GGUF file, on this machine."""

    def __init__(self, source: LocalPath) -> None:
        self._path = Path(source.path)
        self._single = self._path.is_file()
        if not self._path.exists():
            raise BadInput(Reason.FILE_NOT_FOUND, f"{source.path} does not exist on this machine: correct source.path.")

    def list_files(self) -> Listing:
        """Every file with its digest; the revision is the digest of them all."""
        paths = [self._path] if self._single else sorted(path for path in self._path.iterdir() if path.is_file())
        files = tuple(self._describe(path) for path in paths if not path.name.startswith("."))
        identity = hashlib.sha256("".join(f"{file.name}\0{file.digest}\n" for file in files).encode()).hexdigest()
        return Listing(identity, files, self.find_license())

    def _describe(self, path: Path) -> ModelFile:
        wanted = path.suffix == ".gguf" or path.name == ADAPTER_CONFIG or is_wanted(path.name)
        digest = hash_file(path) if wanted else ""
        name = os.fsencode(path.name).decode(errors="replace")  # Other encodings than UTF-8 are no reason to fail.
        return ModelFile(name=name, size_bytes=path.stat().st_size, digest=digest)

    def stream(self, revision: str, name: str, begin: int, end: int) -> Iterator[bytes]:  # noqa: ARG002
        """The file's bytes; a folder has one revision only, so a file that has changed since is refused."""
        path = self._path if self._single else self._path / name
        try:
            with path.open("rb") as file:
                file.seek(begin)
                while begin < end:
                    piece = file.read(min(1 << 20, end - begin))
                    if not piece:
                        raise _changed(path, f"ends at byte {file.tell()} and was longer when it was resolved")
                    begin += len(piece)
                    yield piece
        except FileNotFoundError:
            raise _changed(path, "was there when it was resolved and is gone") from None

    def find_license(self) -> str:
        """What the front matter of README.md says."""
        readme = self._path.parent / "README.md" if self._single else self._path / "README.md"
        if not readme.is_file():
            return ""
        with readme.open("rb") as file:
            head = file.read(MAX_FRONT_MATTER_BYTES).decode(errors="replace")
        found = re.match(r"---\n(?:.*\n)*?license:\s*['\"]?([^\s'\"]+)['\"]?\s*\n(?:.*\n)*?---", head)
        return found.group(1) if found else ""


def _changed(path: Path, what: str) -> BadInput:
    return BadInput(Reason.CHECKSUM_MISMATCH, f"{path} {what}: leave the folder alone, and apply the model again.")


class SmallFiles:
    """A model's small files at one revision, each read once and only up to a limit."""

    def __init__(self, origin: Origin, revision: str) -> None:
        self._origin = origin
        self._revision = revision
        self._known: dict[str, bytes] = {}

    def read(self, file: ModelFile) -> bytes:
        """The file's content; raises BadInput InvalidConfig when no real model has one of that size."""
        limit = MAX_HEADER_BYTES if file.name == INDEX_NAME else MAX_SMALL_FILE_BYTES
        if file.size_bytes > limit:
            message = f"{file.name} has {file.size_bytes} bytes, beyond the limit of {limit}: this is no usual model."
            raise BadInput(Reason.INVALID_CONFIG, message)
        if file.name not in self._known:
            self._known[file.name] = b"".join(self._origin.stream(self._revision, file.name, 0, file.size_bytes))
        return self._known[file.name]


def open_origin(source: Source, allowed: list[str]) -> Origin:
    """The origin that a source names; raises BadInput InvalidSpec unless it names exactly one."""
    if (source.hugging_face is None) == (source.path is None):
        raise BadInput(Reason.INVALID_SPEC, "source must name exactly one of huggingFace and path.")
    if source.hugging_face is not None:
        return HubOrigin(Hub(source.hugging_face, allowed))
    return FolderOrigin(source.path or LocalPath(path=""))
