"""quantize: make one variant of an unquantized GGUF with llama-quantize."""

import re
from collections.abc import Callable

from slm_contract.reasons import Reason
from slm_contract.results import ArtifactResult
from slm_contract.specs import QuantizeSpec
from slm_pipelines.errors import BadInput
from slm_pipelines.figures import gguf_blob
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Blob, Store, StoredManifest
from slm_pipelines.tools.child import ToolRun, run_tool
from slm_pipelines.tools.cpus import cpu_threads
from slm_pipelines.tools.dry_run import UNQUANTIZED, DryRun, Misfit, check_offered, dry_run
from slm_pipelines.tools.llama_cpp import Engine, locate

ONLY_MADE_ELSEWHERE = {"NVFP4": "it needs an NVIDIA toolchain; llama.cpp only runs it"}
"""Types users ask for that exist in GGUF but that llama-quantize never makes."""
SMALL_BLOCK = 32
"""Values in a block of the oldest types (ggml-common.h, QK4_0 and QK8_0)."""
LARGE_BLOCK = 256
"""Values in a block of the K, IQ and TQ types (ggml-common.h, QK_K)."""
SMALL_BLOCK_TYPES = re.compile(r"Q\d_\d|IQ4_NL|MXFP4\w*")
"""Types whose blocks are shorter than LARGE_BLOCK."""
METADATA_MARGIN_BYTES = 16 << 20
"""What a quantized file has beyond its tensors: above all the vocabulary, 10 MiB for the largest in use."""


def check_type(wanted: str, engine: Engine) -> str:
    """The canonical type; raises BadInput UnknownType or TypeNotApplicable."""
    if why := ONLY_MADE_ELSEWHERE.get(wanted.upper()):
        message = f"{wanted} cannot be made by {engine.version}: {why}. Choose another type, such as Q4_K_M."
        raise BadInput(Reason.TYPE_NOT_APPLICABLE, message)
    return check_offered(engine, wanted)


def find_misfit(plan: DryRun, type_name: str) -> Misfit | None:
    """The first matrix that the type's own blocks do not fit.

    Types with small blocks make only the output matrix in large ones, and where those do not fit they make it
    in Q8_0, which loses less: that is no reason to refuse.
    """
    small = SMALL_BLOCK_TYPES.fullmatch(type_name)
    return next((each for each in plan.misfits if not small or each.block_length < LARGE_BLOCK), None)


def check_plan(plan: DryRun, type_name: str) -> None:
    """Raise BadInput TypeNotApplicable where the tool would silently make something else."""
    quantized = next(((name, kind) for name, kind in plan.source_types.items() if kind not in UNQUANTIZED), None)
    if quantized:
        name, kind = quantized
        why = f"the source is already quantized ({name} is {kind.upper()}): start from an F32, F16 or BF16 GGUF."
    elif misfit := find_misfit(plan, type_name):
        better = "F16 or BF16" if misfit.row_length % SMALL_BLOCK else "Q8_0, Q5_1 or Q4_0"
        why = (
            f"rows of {misfit.matrix} have {misfit.row_length} values, which do not divide into blocks of "
            f"{misfit.block_length}: choose {better}."
        )
    elif type_name.startswith("MXFP4") and "mxfp4" not in plan.target_types:
        why = "it only applies to the experts of a mixture-of-experts model, and this model has none: choose Q4_0."
    else:
        return
    raise BadInput(Reason.TYPE_NOT_APPLICABLE, f"{type_name} does not apply: {why}")


def check_run(run: ToolRun, type_name: str) -> None:
    """Raise unless the tool made what it was asked for."""
    if re.search(r"requires an (importance matrix|imatrix)|without an importance matrix", run.output):
        message = (
            f"{type_name} does not apply: it needs an importance matrix from calibration, which is not available "
            "yet; choose a type of 3 bits or more such as Q3_K_M or IQ4_XS."
        )
        raise BadInput(Reason.TYPE_NOT_APPLICABLE, message)
    run.require_success()


def _progress(reporter: Reporter, type_name: str) -> Callable[[str], None]:
    """Report the last ``[ 3/ 21]`` in what was printed last."""

    def on_output(output: str) -> None:
        if counts := re.findall(r"\[\s*(\d+)/\s*(\d+)\]", output[-4096:]):
            done, total = counts[-1]
            reporter.report(f"Making {type_name}", int(done), int(total), "tensors")

    return on_output


def _make(store: Store, source: Blob, type_name: str, threads: int, engine: Engine, reporter: Reporter) -> Blob:
    path = store.blob_path(source.digest)
    plan = dry_run(engine, path, type_name)
    check_plan(plan, type_name)
    store.require_space(plan.size_bytes + METADATA_MARGIN_BYTES, f"The variant {type_name}")
    with store.scratch() as folder:
        target = folder / f"model-{type_name}.gguf"
        workers = str(threads or cpu_threads())
        run = run_tool(
            [engine.program("llama-quantize"), path, target, type_name, workers], _progress(reporter, type_name)
        )
        check_run(run, type_name)
        return store.add_file(target, target.name)


def run(spec: QuantizeSpec, reporter: Reporter) -> ArtifactResult:
    """Make the variant, or find that the store has it.

    Raises BadInput UnknownType, TypeNotApplicable or InvalidGguf, Retryable InsufficientSpace or StepFailed.
    """
    store, engine = Store(spec.store), locate(reporter)
    type_name = check_type(spec.type, engine)
    source = gguf_blob(store, spec.gguf)
    recipe = {"step": "quantize", "source": source.digest, "type": type_name, "tool": engine.version}
    manifest = store.recall(recipe)
    cached = manifest is not None
    if manifest is None:
        blob = _make(store, source, type_name, spec.threads, engine, reporter)
        manifest = store.add_manifest(StoredManifest("gguf", (blob,), recipe))
        store.remember(recipe, manifest)
    made = gguf_blob(store, manifest)
    return ArtifactResult(
        step="quantize",
        manifest=manifest,
        blob=made.digest,
        size_bytes=made.size_bytes,
        cached=cached,
        tool=engine.version,
    )
