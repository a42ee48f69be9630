"""Where weights come from, behind one face: a hub's repository, or a folder of this machine."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from slm_contract.reasons import Reason
from slm_contract.specs import LocalPath, ModelFile, Source
from slm_pipelines.errors import BadInput
from slm_pipelines.hub import Hub
from slm_pipelines.listing import Listing, parse_listing
from slm_pipelines.store import hash_file

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "*.safetensors",
)
"""Files that conversion or an engine reads; matched against top-level names."""
MAX_NAME_LENGTH = 512
MAX_FRONT_MATTER_BYTES = 1 << 16


class Origin(Protocol):
    """A place to list and read."""

    def list_files(self) -> Listing:
        """Revision, files and licence; raises BadInput or Retryable."""
        ...

    def stream(self, revision: str, name: str, begin: int, end: int) -> Iterator[bytes]:
        """Bytes ``begin`` to ``end`` (exclusive) of a file, in pieces."""
        ...


class HubOrigin:
    """A repository on a hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def list_files(self) -> Listing:
        """One request: the model description with sizes and digests."""
        return parse_listing(self.hub.info(), self.hub.endpoint)

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
        return Listing(identity, files, self._license())

    def _describe(self, path: Path) -> ModelFile:
        wanted = path.suffix == ".gguf" or is_wanted(path.name)
        digest = hash_file(path) if wanted else ""
        return ModelFile(name=path.name, size_bytes=path.stat().st_size, digest=digest)

    def stream(self, revision: str, name: str, begin: int, end: int) -> Iterator[bytes]:  # noqa: ARG002
        """The file's bytes; a folder has one revision only."""
        path = self._path if self._single else self._path / name
        with path.open("rb") as file:
            file.seek(begin)
            while begin < end and (piece := file.read(min(1 << 20, end - begin))):
                begin += len(piece)
                yield piece

    def _license(self) -> str:
        readme = self._path.parent / "README.md" if self._single else self._path / "README.md"
        if not readme.is_file():
            return ""
        with readme.open("rb") as file:
            head = file.read(MAX_FRONT_MATTER_BYTES).decode(errors="replace")
        found = re.match(r"---\n(?:.*\n)*?license:\s*['\"]?([^\s'\"]+)['\"]?\s*\n(?:.*\n)*?---", head)
        return found.group(1) if found else ""


def open_origin(source: Source, allowed: list[str]) -> Origin:
    """The origin that a source names; raises BadInput InvalidSpec unless it names exactly one."""
    if (source.hugging_face is None) == (source.path is None):
        raise BadInput(Reason.INVALID_SPEC, "source must name exactly one of huggingFace and path.")
    if source.hugging_face is not None:
        return HubOrigin(Hub(source.hugging_face, allowed))
    return FolderOrigin(source.path or LocalPath(path=""))


def is_wanted(name: str) -> bool:
    """Whether a file is taken when no patterns are given."""
    return any(fnmatchcase(name, pattern) for pattern in WANTED)


def check_names(files: Sequence[ModelFile]) -> None:
    """Refuse names that could leave a folder or disguise themselves; raises BadInput UnsafeFileName."""
    for file in files:
        parts = file.name.split("/")
        bad = (
            any(part in {"", ".", ".."} for part in parts)
            or len(file.name) > MAX_NAME_LENGTH
            or "\\" in file.name
            or not file.name.isprintable()
        )
        if bad:
            message = f"The source lists a file named {file.name[:80]!r}, which no safe path can have: do not trust it."
            raise BadInput(Reason.UNSAFE_FILE_NAME, message)


def select_files(files: Sequence[ModelFile], source: Source) -> tuple[ModelFile, ...]:
    """The files to take; raises BadInput UnsafeFormat, FileNotFound or InvalidSpec."""
    check_names(files)
    hub = source.hugging_face
    allow, ignore = (hub.allow_patterns, hub.ignore_patterns) if hub else ([], [])
    chosen = [file for file in files if _matches(file.name, allow) and not (ignore and _matches(file.name, ignore))]
    tensors = [file for file in chosen if file.name.endswith(".safetensors")]
    ggufs = [file for file in chosen if file.name.endswith(".gguf")]
    if not tensors and not ggufs:
        raise _no_weights(files, filtered=bool(allow or ignore))
    if tensors:
        return tuple(file for file in chosen if allow or is_wanted(file.name))
    if len(ggufs) > 1:
        names = ", ".join(file.name for file in ggufs[:8])
        message = f"The source holds {len(ggufs)} GGUF files: choose one with allowPatterns, for example {names}."
        raise BadInput(Reason.INVALID_SPEC, message)
    return tuple(ggufs)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _no_weights(files: Sequence[ModelFile], *, filtered: bool) -> BadInput:
    pickled = [file.name for file in files if file.name.endswith(PICKLED)]
    if filtered and any(file.name.endswith((".safetensors", ".gguf")) for file in files):
        message = "allowPatterns and ignorePatterns leave no weights: let them match a .safetensors or .gguf file."
        return BadInput(Reason.FILE_NOT_FOUND, message)
    if pickled:
        message = (
            f"The source offers only pickled weights ({pickled[0]}), which can run code when they are read: "
            "use a repository with safetensors or GGUF files."
        )
        return BadInput(Reason.UNSAFE_FORMAT, message)
    message = "The source holds no weights (.safetensors or .gguf): check repository, revision and patterns."
    return BadInput(Reason.FILE_NOT_FOUND, message)
