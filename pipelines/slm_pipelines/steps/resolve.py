"""Find out everything about a model without fetching its weights."""

from collections.abc import Mapping

from slm_contract.bounds import MAX_CONVERSION_BYTES, MAX_LABEL_BYTES, MAX_OUTCOME_BYTES, clip
from slm_contract.reasons import Reason
from slm_contract.results import ModelShape, Outcome, ResolveResult
from slm_contract.specs import ModelFile, ResolveSpec
from slm_pipelines import formats
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.adapter import PEFT_TYPE, check_adapter
from slm_pipelines.formats.engine_config import EngineConfig, count_parameters, parse_engine_config
from slm_pipelines.formats.gguf_header import FIRST_READ_BYTES, GgufHeader
from slm_pipelines.formats.safetensors import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MAX_HEADER_BYTES, Header
from slm_pipelines.listing import Listing
from slm_pipelines.origins import Origin, SmallFiles, open_origin
from slm_pipelines.policy import check_license, check_pin
from slm_pipelines.progress import Reporter
from slm_pipelines.selection import select_files

FIRST_RANGE_BYTES = 64 << 10
"""First read of a safetensors header: most fit, and the round trip saved is worth the bytes."""
NOT_CONVERTIBLE = {Reason.UNSUPPORTED_ARCHITECTURE, Reason.UNSUPPORTED_DTYPE, Reason.UNSUPPORTED_TOKENIZER}
"""What the converter does not know, and an engine that loads safetensors itself may; all else is a fault."""
MARGIN_BYTES = 296
"""Kept free in the termination message for time and memory, which are not known yet."""


def run(spec: ResolveSpec, reporter: Reporter) -> ResolveResult:
    """Resolve the source; raises BadInput with the first rule that is broken, Retryable when the hub is away."""
    origin = open_origin(spec.source, spec.allow_private_hosts)
    reporter.report("Asking for commit, files and licence")
    listing = origin.list_files()
    check_license(listing.license, spec.license_allow)
    small = SmallFiles(origin, listing.revision)
    files = select_files(listing, spec.source, small.read)
    check_pin(spec.pin, listing.revision, files, listing.files)
    if any(file.name == ADAPTER_WEIGHTS for file in files):
        return fit(_describe_adapter(origin, listing, files, small, reporter))
    if any(file.name.endswith(".safetensors") for file in files):
        return fit(_describe_safetensors(origin, listing, files, small, reporter))
    return fit(_describe_gguf(origin, listing, files[0], reporter))


def _describe_safetensors(
    origin: Origin, listing: Listing, files: tuple[ModelFile, ...], small_files: SmallFiles, reporter: Reporter
) -> ResolveResult:
    small = {file.name: small_files.read(file) for file in files if file.name in formats.SMALL_FILES}
    config = parse_engine_config(small)
    weights = {file.name: file.size_bytes for file in files if file.name.endswith(".safetensors")}

    def read_one(name: str, allowed_bytes: int) -> Header:
        reporter.report(f"Reading the header of {name}")
        return _read_header(origin, listing.revision, name, weights[name], allowed_bytes)

    headers = formats.collect_headers(sorted(weights), read_one)
    shape, why_not = _look_for_shape(config, small, headers)
    return ResolveResult(
        revision=listing.revision,
        format=config.format,
        architecture=config.architecture,
        parameters=count_parameters(config, headers),
        license=listing.license,
        context_length=config.context_length,
        size_bytes=sum(file.size_bytes for file in files),
        file_count=len(files),
        files=list(files),
        shape=shape,
        dimensions=None if shape else config.dimensions,
        conversion_message=why_not,
    )


def _describe_adapter(
    origin: Origin, listing: Listing, files: tuple[ModelFile, ...], small_files: SmallFiles, reporter: Reporter
) -> ResolveResult:
    reporter.report(f"Reading the header of {ADAPTER_WEIGHTS}")
    by_name = {file.name: file for file in files}
    size = by_name[ADAPTER_WEIGHTS].size_bytes
    header = _read_header(origin, listing.revision, ADAPTER_WEIGHTS, size, MAX_HEADER_BYTES)
    adapter = check_adapter({ADAPTER_CONFIG: small_files.read(by_name[ADAPTER_CONFIG])}, header)
    return ResolveResult(
        revision=listing.revision,
        format="lora",
        architecture=PEFT_TYPE,
        rank=adapter.rank,
        parameters=formats.parameter_count({ADAPTER_WEIGHTS: header}),
        license=listing.license,
        context_length=0,
        size_bytes=sum(file.size_bytes for file in files),
        file_count=len(files),
        files=list(files),
    )


def _look_for_shape(
    config: EngineConfig, small: Mapping[str, bytes], headers: Mapping[str, Header]
) -> tuple[ModelShape | None, str]:
    """The shape of what can be converted, else why it cannot be."""
    try:
        return formats.describe(small, headers), ""
    except BadInput as refused:
        if refused.reason not in NOT_CONVERTIBLE:
            raise
        formats.check_loadable(small, headers)
        code = f" Its own code (`auto_map`) is never run: an engine must know {config.architecture} by itself."
        return None, f"{refused}{code if config.own_code else ''}"


def _read_header(origin: Origin, revision: str, name: str, size: int, allowed_bytes: int) -> Header:
    data = b"".join(origin.stream(revision, name, 0, min(FIRST_RANGE_BYTES, size)))
    end = formats.header_end(name, data, size, allowed_bytes)
    if end > len(data):
        data += b"".join(origin.stream(revision, name, len(data), end))
    return formats.parse_header(name, data[:end], size)


def _describe_gguf(origin: Origin, listing: Listing, file: ModelFile, reporter: Reporter) -> ResolveResult:
    reporter.report(f"Reading the header of {file.name}")
    header = _read_gguf_header(origin, listing.revision, file)
    if header.metadata.get("general.type") == "adapter":
        message = (
            f"{file.name} is a LoRA adapter that was converted for some model: name a repository with "
            f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} instead, of which one is made for the model that is served."
        )
        raise BadInput(Reason.UNSUPPORTED_ADAPTER, message)
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
    cut = {name: clip(getattr(result, name), MAX_LABEL_BYTES) for name in ("license", "architecture")}
    cut["conversion_message"] = clip(result.conversion_message, MAX_CONVERSION_BYTES)
    result = result.model_copy(update=cut)
    fits = len(Outcome(result=result).encode()) <= MAX_OUTCOME_BYTES - MARGIN_BYTES
    return result if fits else result.model_copy(update={"files": []})
