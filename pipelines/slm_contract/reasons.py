"""Every reason a condition, an Event or a failed step can carry, with what it means for the user.

A reason is CamelCase, stable, and meant for machines; the message beside it is for people. The second
value of each member is the documentation from which ``docs/reference/reasons.md`` is generated.
"""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A condition reason; ``.meaning`` is its documentation."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """A member from its name for machines and its documentation."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # Progress
    RESOLVING = "Resolving", "The source is being asked for its commit, files, sizes and licence."
    ACQUIRING = "Acquiring", "The files are being fetched into the store and verified."
    CONVERTING = "Converting", "Safetensors of a model or an adapter are being turned into an unquantized GGUF."
    LINKING = "Linking", "The model's files are being laid out under their names, for an engine that reads a folder."
    COMPARING = "Comparing", "What is loaded beside the served model is being held against it."
    QUANTIZING = "Quantizing", "A variant is being made."
    EVALUATING = "Evaluating", "Perplexity, KL divergence and top-one agreement are being measured."
    BENCHMARKING = "Benchmarking", "Tokens per second are being measured."
    REPORTING = "Reporting", "The report is being drawn."
    STARTING = "Starting", "Engine replicas are starting; the address does not answer yet."
    ROLLING_OUT = "RollingOut", "Engines of the new spec are starting; those from before answer until then."
    CANARY_RUNNING = "CanaryRunning", "A part of the requests goes to engines of the new spec, which are being judged."
    CANARY_PROMOTED = "CanaryPromoted", "The canary passed its steps: all engines follow the new spec (an Event only)."
    CANARY_ROLLED_BACK = "CanaryRolledBack", "The canary failed, or its quality did: engines stay as they were before."
    SUSPENDED = "Suspended", "`spec.suspend` is true: nothing is started until it is false."
    STOPPED = "Stopped", "The service is scaled to zero replicas."
    SCALED_TO_ZERO = "ScaledToZero", "No engine runs, as no request came; the gateway's first one starts one."
    SCALED = "Scaled", "The number of engines was changed (an Event only)."
    POD_WAITING = "PodWaiting", "A pod cannot start: no node fits, no image comes, or a Secret is missing."
    DOES_NOT_FIT = "DoesNotFit", "No node has the memory that an engine needs; the message says what would help."
    RUNTIME_NOT_AVAILABLE = "RuntimeNotAvailable", "No engine that is installed serves the model on what is asked for."
    STORE_NOT_READY = "StoreNotReady", "The volume claim or a network policy of the namespace is missing or unusable."
    DELETING = "Deleting", "The object was deleted; what only it used is being removed from the store."
    STORE_NOT_CLEANED = "StoreNotCleaned", "The object is gone, but bytes that only it used may remain in the store."
    # Success
    READY = "Ready", "The object does what its spec asks for."
    SUCCEEDED = "Succeeded", "Every variant was made and measured, and one was selected."
    # References
    MODEL_NOT_FOUND = "ModelNotFound", "An SLMModel that the spec names does not exist (yet)."
    MODEL_NOT_READY = "ModelNotReady", "The referenced SLMModel exists but is not Ready."
    FORMAT_MISMATCH = "FormatMismatch", "An adapter or a projector is named where a model is needed, or the reverse."
    QUANT_JOB_NOT_FOUND = "QuantJobNotFound", "The QuantJob that `quantJobRef` names does not exist (yet)."
    QUANT_JOB_NOT_READY = "QuantJobNotReady", "The referenced QuantJob has not finished."
    VARIANT_NOT_AVAILABLE = "VariantNotAvailable", "The named variant was not made, or did not pass its gate."
    NAME_CONFLICT = "NameConflict", "A child object of the needed name exists and belongs to somebody else."
    REFUSED = "Refused", "The API server does not take a child object: a quota, an admission policy or a permission."
    # Source
    INVALID_SPEC = "InvalidSpec", "The manifest breaks a rule of its schema; the message names the field."
    SOURCE_NOT_SUPPORTED = "SourceNotSupported", "A file of one machine is named, which pods of a cluster cannot see."
    REPOSITORY_NOT_FOUND = "RepositoryNotFound", "The hub has no such repository, or the token may not see it."
    REVISION_NOT_FOUND = "RevisionNotFound", "The repository has no such branch, tag or commit."
    FILE_NOT_FOUND = "FileNotFound", "A file that the model, the pin or the manifest names does not exist."
    GATED_REPOSITORY = "GatedRepository", "The repository needs an accepted licence and a token."
    LICENSE_NOT_ALLOWED = "LicenseNotAllowed", "The model's licence is not on `spec.license.allow`."
    PIN_MISMATCH = "PinMismatch", "The commit or a file differs from what `spec.pin` demands."
    CHECKSUM_MISMATCH = "ChecksumMismatch", "Fetched bytes do not have the digest the hub publishes."
    UNSAFE_FORMAT = "UnsafeFormat", "Only pickled weights are offered, or one is asked for: they can run code."
    UNSAFE_FILE_NAME = "UnsafeFileName", "A file name is absolute, climbs upwards, or holds control characters."
    HOST_NOT_ALLOWED = "HostNotAllowed", "An address inside a private network was named and no setting allows it."
    INVALID_LISTING = "InvalidListing", "The hub describes the repository in a form that cannot be true."
    SOURCE_UNAVAILABLE = "SourceUnavailable", "The hub cannot be reached or keeps failing; it is tried again."
    INSUFFICIENT_SPACE = "InsufficientSpace", "The disk has too little room for what is about to be written."
    # Content
    INVALID_SAFETENSORS = "InvalidSafetensors", "A safetensors file is truncated or its header is inconsistent."
    INVALID_GGUF = "InvalidGguf", "A GGUF file is truncated, split into parts, or its header is inconsistent."
    INVALID_CONFIG = "InvalidConfig", "config.json is missing, malformed, or contradicts the weights."
    UNSUPPORTED_ARCHITECTURE = "UnsupportedArchitecture", "No converter exists for this architecture."
    NOT_CONVERTIBLE = "NotConvertible", "The model can be served as it is, but no GGUF be made of it."
    UNSUPPORTED_DTYPE = "UnsupportedDtype", "The weights use a number format that the converter does not read."
    MISSING_TOKENIZER = "MissingTokenizer", "The repository has neither tokenizer.json nor tokenizer.model."
    UNSUPPORTED_ADAPTER = "UnsupportedAdapter", "The adapter is none, or not a plain LoRA of the layers' projections."
    ADAPTER_MISMATCH = (
        "AdapterMismatch",
        "The adapter changes tensors that the model does not have, or of another shape.",
    )
    UNSUPPORTED_TOKENIZER = "UnsupportedTokenizer", "The tokenizer is of a kind the converter does not know."
    VOCABULARY_MISMATCH = "VocabularyMismatch", "A draft model's vocabulary is not that of the model it drafts for."
    PROJECTOR_MISMATCH = "ProjectorMismatch", "A file is no multimodal projector, or one of a model of another width."
    # Quantization
    UNKNOWN_TYPE = "UnknownType", "The engine knows no quantization type of that name."
    TYPE_NOT_APPLICABLE = "TypeNotApplicable", "The tensor shapes do not divide into the blocks this type needs."
    TEXT_TOO_SHORT = "TextTooShort", "The evaluation text holds fewer than two chunks of tokens."
    TEXT_NOT_FOUND = "TextNotFound", "The evaluation text does not exist or is not UTF-8."
    MEASUREMENT_FAILED = "MeasurementFailed", "The engine ran but did not print the figures it was asked for."
    GATE_FAILED = "GateFailed", "The variant misses a bound of the QuantJob's gate; the message says by how much."
    NO_VARIANT_PASSED = "NoVariantPassed", "No variant passed the gate, so nothing may be served."
    GATE_PASSED = "GatePassed", "The variant meets every bound of the gate."
    # Engine
    ENGINE_MISSING = "EngineMissing", "llama.cpp was not found and could not be installed."
    ENGINE_CRASHED = "EngineCrashed", "The engine exits or is killed again and again while starting."
    PORT_IN_USE = "PortInUse", "The wanted local port is taken by another program."
    # Faults
    STORE_CORRUPT = "StoreCorrupt", "A blob does not have the digest it is named by."
    STORE_BUSY = "StoreBusy", "Garbage collection and steps exclude each other; it is tried again."
    OUT_OF_MEMORY = "OutOfMemory", "A step used more memory than its limit; raise it, or give none."
    STEP_FAILED = "StepFailed", "A step failed more often than its back-off limit allows."
    INTERNAL_ERROR = "InternalError", "A bug: please report it with the log of the step."
