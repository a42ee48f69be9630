"""Which of a source's files make up the model: one choice, that resolve counts and acquire fetches."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from slm_contract.reasons import Reason
from slm_contract.specs import ModelFile, Source
from slm_pipelines.errors import BadInput
from slm_pipelines.formats.safetensors import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX_NAME, weight_files
from slm_pipelines.listing import SHOWN_LETTERS, Listing

PICKLED = (
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".npy", ".npz", ".joblib",
)  # fmt: skip
"""Formats whose readers can be made to run code."""
SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    INDEX_NAME,
)
"""What conversion or an engine reads beside the weights, of images and sound too; taken whatever allowPatterns says."""
NEEDED = (("config.json",), ("tokenizer.json", "tokenizer.model"))
"""Without one of each no safetensors can be converted."""
MAX_NAME_LENGTH = 512

Reader = Callable[[ModelFile], bytes]
"""The content of a small file."""


def select_files(listing: Listing, source: Source, read: Reader) -> tuple[ModelFile, ...]:
    """The files to take; raises BadInput UnsafeFileName, UnsafeFormat, FileNotFound or InvalidSpec."""
    check_names(listing.files)
    hub = source.hugging_face
    allow, ignore = (hub.allow_patterns, hub.ignore_patterns) if hub else ([], [])
    chosen = [file for file in listing.files if _is_chosen(file.name, allow, ignore)]
    tensors = [file for file in chosen if file.name.endswith(".safetensors") and "/" not in file.name]
    ggufs = [file for file in chosen if file.name.endswith(".gguf")]
    if [file.name for file in tensors] == [ADAPTER_WEIGHTS]:
        taken = _adapter_files(chosen)
    elif tensors:
        wanted = [file for file in chosen if allow or is_wanted(file.name)]
        taken = _with_indexed_weights(wanted, listing.files, read)
        _refuse_more_than_an_adapter(taken)
    elif len(ggufs) == 1:
        taken = tuple(ggufs)
    else:
        raise _several(ggufs) if ggufs else _no_weights(listing.files, filtered=bool(allow or ignore))
    check_formats(taken)
    return taken


def is_wanted(name: str) -> bool:
    """Whether a file beside safetensors is taken when no patterns are given."""
    return name in SMALL or (name.endswith(".safetensors") and "/" not in name)


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
            shown = file.name[:SHOWN_LETTERS]
            message = f"The source lists a file named {shown!r}, which no safe path can have: do not trust it."
            raise BadInput(Reason.UNSAFE_FILE_NAME, message)


def check_formats(files: Sequence[ModelFile]) -> None:
    """Let no pickled file into the store, whoever asks for it; raises BadInput UnsafeFormat."""
    for file in files:
        if _is_pickled(file.name):
            message = (
                f"The choice of files takes {file.name}, which is pickled and can run code when it is read: "
                "leave it out with ignorePatterns."
            )
            raise BadInput(Reason.UNSAFE_FORMAT, message)


def _is_chosen(name: str, allow: Sequence[str], ignore: Sequence[str]) -> bool:
    if _matches(name, ignore):
        return False
    if allow:
        return name in SMALL or _matches(name, allow)
    return "/" not in name


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_pickled(name: str) -> bool:
    return name.lower().endswith(PICKLED)


def _with_indexed_weights(
    chosen: Sequence[ModelFile], offered: Sequence[ModelFile], read: Reader
) -> tuple[ModelFile, ...]:
    """What was chosen, without safetensors that are no part of the weights, such as a second copy."""
    names = {file.name for file in chosen}
    left_out = {file.name for file in offered} - names
    for lost in (left_out.intersection(either) for either in NEEDED if names.isdisjoint(either)):
        if lost:
            what = " and ".join(sorted(lost))
            message = f"ignorePatterns leave out {what}, without which safetensors cannot be converted: let it through."
            raise BadInput(Reason.FILE_NOT_FOUND, message)
    index = next((read(file) for file in chosen if file.name == INDEX_NAME), None)
    weights = weight_files(sorted(names), index)
    for name in (name for name in weights if name not in names):
        if name in left_out:
            message = f"{INDEX_NAME} names {name}, which the patterns leave out: let them match every shard."
        else:
            message = f"{INDEX_NAME} names {name}, which the source does not hold."
        raise BadInput(Reason.FILE_NOT_FOUND, message)
    return tuple(file for file in chosen if file.name in weights or not file.name.endswith(".safetensors"))


def _adapter_files(chosen: Sequence[ModelFile]) -> tuple[ModelFile, ...]:
    """An adapter's two files: the tokenizer that often lies beside them is its model's."""
    taken = tuple(file for file in chosen if file.name in {ADAPTER_CONFIG, ADAPTER_WEIGHTS})
    if len(taken) == 1:
        message = (
            f"The choice of files takes {ADAPTER_WEIGHTS} without {ADAPTER_CONFIG}, which says how strongly it changes "
            "a model: let the patterns match both, or use a repository that holds both."
        )
        raise BadInput(Reason.FILE_NOT_FOUND, message)
    return taken


def _refuse_more_than_an_adapter(taken: Sequence[ModelFile]) -> None:
    """An adapter among weights that are no model's: of the two, only it can be served."""
    names = [file.name for file in taken if file.name.endswith(".safetensors")]
    if ADAPTER_WEIGHTS in names:
        others = ", ".join(name for name in names if name != ADAPTER_WEIGHTS)
        message = f"The choice of files takes {others} beside {ADAPTER_WEIGHTS}: leave either out with ignorePatterns."
        raise BadInput(Reason.INVALID_SPEC, message)


def _several(ggufs: Sequence[ModelFile]) -> BadInput:
    names = ", ".join(file.name for file in ggufs[:8])
    message = f"The source holds {len(ggufs)} GGUF files: choose one with allowPatterns, for example {names}."
    return BadInput(Reason.INVALID_SPEC, message)


def _no_weights(files: Sequence[ModelFile], *, filtered: bool) -> BadInput:
    weights = [file.name for file in files if file.name.endswith((".safetensors", ".gguf"))]
    if any("/" not in name or name.endswith(".gguf") for name in weights) and filtered:
        message = "allowPatterns and ignorePatterns leave no weights: let them match a .safetensors or .gguf file."
        return BadInput(Reason.FILE_NOT_FOUND, message)
    if weights:
        message = (
            f"The source holds weights only in folders ({weights[0]}): name one GGUF file in allowPatterns, or use a "
            "repository whose safetensors lie at its top."
        )
        return BadInput(Reason.FILE_NOT_FOUND, message)
    if pickled := [file.name for file in files if _is_pickled(file.name)]:
        message = (
            f"The source offers only pickled weights ({pickled[0]}), which can run code when they are read: "
            "use a repository with safetensors or GGUF files."
        )
        return BadInput(Reason.UNSAFE_FORMAT, message)
    message = "The source holds no weights (.safetensors or .gguf): check repository, revision and patterns."
    return BadInput(Reason.FILE_NOT_FOUND, message)
