"""Find out everything about a model without fetching its weights."""

from slm_contract.bounds import MAX_LABEL_BYTES, MAX_OUTCOME_BYTES, clip
from slm_contract.reasons import Reason
from slm_contract.results import Outcome, ResolveResult
from slm_contract.specs import ModelFile, ResolveSpec
from slm_pipelines import formats
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.config import parse_config
from slm_pipelines.formats.gguf_header import FIRST_READ_BYTES, GgufHeader
from slm_pipelines.formats.safetensors import Header
from slm_pipelines.listing import Listing
from slm_pipelines.origins import Origin, open_origin, select_files
from slm_pipelines.policy import check_license, check_pin
from slm_pipelines.progress import Reporter

FIRST_RANGE_BYTES = 64 << 10
"""First read of a safetensors header: most fit, and the round trip saved is worth the bytes."""
MAX_SMALL_FILE_BYTES = 128 << 20
MARGIN_BYTES = 296
"""Kept free in the termination message for time and memory, which are not known yet."""


def run(spec: ResolveSpec, reporter: Reporter) -> ResolveResult:
    """Resolve the source; raises BadInput with the first rule that is broken, Retryable when the hub is away."""
    origin = open_origin(spec.source, spec.allow_private_hosts)
    reporter.report("Asking for commit, files and licence")
    listing = origin.list_files()
    check_license(listing.license, spec.license_allow)
    files = select_files(listing.files, spec.source)
    check_pin(spec.pin, listing.revision, listing.files)
    weights = [file.name for file in files if file.name.endswith(".safetensors")]
    describe = _describe_safetensors if weights else _describe_gguf
    return fit(describe(origin, listing, files, reporter))


def _describe_safetensors(
    origin: Origin, listing: Listing, files: tuple[ModelFile, ...], reporter: Reporter
) -> ResolveResult:
    sizes = {file.name: file.size_bytes for file in files}
    small = {
        name: _read_small(origin, listing.revision, name, sizes[name]) for name in formats.SMALL_FILES if name in sizes
    }
    config = parse_config(small)
    names = formats.weight_files(sorted(sizes), small.get("model.safetensors.index.json"))

    def read_one(name: str, allowed_bytes: int) -> Header:
        reporter.report(f"Reading the header of {name}")
        return _read_header(origin, listing.revision, name, sizes, allowed_bytes)

    headers = formats.collect_headers(names, read_one)
    shape = formats.describe(small, headers)
    kept = tuple(file for file in files if not file.name.endswith(".safetensors") or file.name in headers)
    return ResolveResult(
        revision=listing.revision,
        format="safetensors",
        architecture=config.name,
        parameters=formats.parameter_count(headers),
        license=listing.license,
        context_length=config.context_length,
        size_bytes=sum(file.size_bytes for file in kept),
        file_count=len(kept),
        files=list(kept),
        shape=shape,
    )


def _read_small(origin: Origin, revision: str, name: str, size: int) -> bytes:
    if size > MAX_SMALL_FILE_BYTES:
        message = f"{name} has {size} bytes, beyond the limit of {MAX_SMALL_FILE_BYTES}: this is no usual model."
        raise BadInput(Reason.INVALID_CONFIG, message)
    return b"".join(origin.stream(revision, name, 0, size))


def _read_header(origin: Origin, revision: str, name: str, sizes: dict[str, int], allowed_bytes: int) -> Header:
    if name not in sizes:
        message = f"model.safetensors.index.json names {name}, which the source does not hold."
        raise BadInput(Reason.FILE_NOT_FOUND, message)
    size = sizes[name]
    data = b"".join(origin.stream(revision, name, 0, min(FIRST_RANGE_BYTES, size)))
    end = formats.header_end(name, data, size, allowed_bytes)
    if end > len(data):
        data += b"".join(origin.stream(revision, name, len(data), end))
    return formats.parse_header(name, data[:end], size)


def _describe_gguf(origin: Origin, listing: Listing, files: tuple[ModelFile, ...], reporter: Reporter) -> ResolveResult:
    file = files[0]
    reporter.report(f"Reading the header of {file.name}")
    header = _read_gguf_header(origin, listing.revision, file)
    return ResolveResult(
        revision=listing.revision,
        format="gguf",
        architecture=header.architecture,
        parameters=header.parameters,
        license=listing.license,
        context_length=header.context_length,
        size_bytes=file.size_bytes,
        file_count=1,
        files=[file],
    )


def _read_gguf_header(origin: Origin, revision: str, file: ModelFile) -> GgufHeader:
    data, wanted = b"", FIRST_READ_BYTES
    while True:
        end = min(wanted, file.size_bytes)
        data += b"".join(origin.stream(revision, file.name, len(data), end))
        header = formats.parse_gguf(file.name, data, file.size_bytes)
        if header is not None:
            return header
        wanted *= 4


def fit(result: ResolveResult) -> ResolveResult:
    """The result as it fits the termination message: names cut, and no file list where it is too long.

    Acquire then asks for the list again.
    """
    names = {name: clip(getattr(result, name), MAX_LABEL_BYTES) for name in ("license", "architecture")}
    result = result.model_copy(update=names)
    fits = len(Outcome(result=result).encode()) <= MAX_OUTCOME_BYTES - MARGIN_BYTES
    return result if fits else result.model_copy(update={"files": []})
