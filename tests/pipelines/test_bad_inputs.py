"""Everything a user can get wrong, in one table: the reason, the sentence, and a store that is as it was."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from slm_contract.reasons import Reason
from tests.support.hub import Fault
from tests.support.lab import open_lab
from tests.support.mistakes import (
    OTHER_DIGEST,
    WEIGHTS,
    Arrange,
    both_halves_overlap,
    config,
    crashing_engine,
    cut_weights,
    disk_full,
    engine_broken,
    engine_missing,
    faulty,
    gated,
    gguf_adapter,
    gguf_repository,
    header_length,
    listing,
    lying_file,
    lying_list,
    name_clash,
    narrow_rows,
    no_files_but_names,
    nobody_passes,
    one_part,
    only_an_engine_loads,
    outside_the_store,
    port_taken,
    primed,
    private,
    private_address,
    redirected_inside,
    refused_model,
    renamed,
    tensor,
    text,
    variant_missing,
    with_pickle,
    without,
    written,
)
from tests.support.models import write_model
from tests.support.real_steps import store_content


@dataclass(frozen=True)
class Case:
    """One way to go wrong."""

    arrange: Arrange
    """Breaks something and applies manifests."""
    reason: Reason
    message: str
    kind: str = "SLMModel"
    """Whose Ready condition says it."""


INVALID, LISTING = Reason.INVALID_SAFETENSORS, Reason.INVALID_LISTING
PAGE = {"Content-Type": "text/html; charset=utf-8"}
CASES: dict[str, Case] = {
    # Safetensors that lie
    "weights of no bytes": Case(cut_weights(0), INVALID, "has 0 bytes, too few for a header"),
    "weights cut inside the header": Case(cut_weights(400), INVALID, "is truncated: its header needs"),
    "weights cut inside a tensor": Case(cut_weights(200_000), INVALID, "is truncated: tensor"),
    "header of 100 MB": Case(header_length(100_000_001), INVALID, "claims a header of 100000001 bytes"),
    "header longer than the file": Case(header_length(9_000_000), INVALID, "is truncated: its header needs 9000008"),
    "header that is no JSON": Case(header_length(64), INVALID, "has a header that is not valid JSON"),
    "tensor beyond the file": Case(tensor(data_offsets=[0, 1 << 40]), INVALID, "gives tensor model.embed_tokens"),
    "overlapping tensors": Case(both_halves_overlap, INVALID, "inconsistent offsets: tensor"),
    "wrong dtype": Case(tensor(dtype="F32"), INVALID, "where F32 [512, 256] needs"),
    "unknown dtype": Case(tensor(dtype="Q7"), Reason.UNSUPPORTED_DTYPE, "'Q7', which is not a known number format"),
    "wrong shape": Case(tensor(shape=[256, 512]), Reason.INVALID_CONFIG, "the shape [512, 256]"),
    # Repositories
    "only pickled weights": Case(
        lambda lab: renamed(lab, "pytorch_model.bin"), Reason.UNSAFE_FORMAT, "only pickled weights (pytorch_model.bin)"
    ),
    "pickled weights that a pattern takes": Case(
        with_pickle("pytorch_model.BIN", allowPatterns=["*"]),
        Reason.UNSAFE_FORMAT,
        "takes pytorch_model.BIN, which is pickled",
    ),
    "ignored config": Case(
        lambda lab: lab.hub_model(ignorePatterns=["*.json"]),
        Reason.FILE_NOT_FOUND,
        "ignorePatterns leave out config.json",
    ),
    "no weights at all": Case(without(WEIGHTS), Reason.FILE_NOT_FOUND, "holds no weights"),
    "gated without a token": Case(gated, Reason.GATED_REPOSITORY, "lab/tiny is gated: accept its licence at"),
    "private without a token": Case(private, Reason.REPOSITORY_NOT_FOUND, "it may be private and need a token"),
    "missing repository": Case(
        lambda lab: lab.hub_model(repo="lab/none"), Reason.REPOSITORY_NOT_FOUND, "has no repository lab/none"
    ),
    "missing revision": Case(
        lambda lab: lab.hub_model(revision="v9"), Reason.REVISION_NOT_FOUND, "no branch, tag or commit 'v9'"
    ),
    "patterns that leave nothing": Case(
        lambda lab: lab.hub_model(allowPatterns=["*.json"]), Reason.FILE_NOT_FOUND, "leave no weights"
    ),
    "missing pinned file": Case(
        lambda lab: lab.model(pin={"files": {"extra.bin": OTHER_DIGEST}}), Reason.FILE_NOT_FOUND, "names extra.bin"
    ),
    "pinned file that is not taken": Case(
        lambda lab: lab.model(pin={"files": {"README.md": OTHER_DIGEST}}),
        Reason.FILE_NOT_FOUND,
        "names README.md, which is not taken",
    ),
    "folder that is not there": Case(
        lambda lab: lab.model(source={"path": "/no/such/folder"}),
        Reason.FILE_NOT_FOUND,
        "/no/such/folder does not",
    ),
    "missing shard": Case(
        written("model.safetensors.index.json", b'{"weight_map": {"a": "model-2.safetensors"}}'),
        Reason.FILE_NOT_FOUND,
        "names model-2.safetensors",
    ),
    "hub that fails for good": Case(
        faulty(Fault("revision/main", 99, 503)), Reason.SOURCE_UNAVAILABLE, "answers 503 (Service Unavailable) again"
    ),
    "hub that names no commit": Case(faulty(listing(b'{"siblings": []}')), LISTING, "it names no commit in `sha`"),
    "hub that lists no files": Case(faulty(listing(b'{"sha": "a"}')), LISTING, "it has no list of files"),
    "hub whose files are names": Case(no_files_but_names, LISTING, "'config.json' in `siblings` is no file"),
    "file of an exbibyte": Case(lying_file(size=1 << 60), LISTING, "size_bytes '1152921504606846976' of 'model"),
    "file of negative size": Case(lying_file(size=-1), LISTING, "size_bytes '-1' of 'model.safetensors' cannot"),
    "redirect to no address": Case(
        faulty(Fault("config.json", 9, location="http://[bad/x")),
        Reason.SOURCE_UNAVAILABLE,
        "redirects to 'http://[bad/x', which is no address",
    ),
    "web page in place of the list": Case(
        faulty(Fault("revision/main", 99, 200, PAGE, body=b"<html>Log in</html>")),
        Reason.SOURCE_UNAVAILABLE,
        "answers with a web page, as proxies and login pages do, again and again",
    ),
    # Trust
    "digest that is a path": Case(outside_the_store, LISTING, "the digest 'sha256:/"),
    "wrong sha256 at the hub": Case(
        faulty(Fault("cdn:/lab/tiny/" + WEIGHTS, 1), Fault("cdn:/lab/tiny/" + WEIGHTS, 9, flip=True)),
        Reason.CHECKSUM_MISMATCH,
        "arrived twice as sha256:",
    ),
    "small file that differs from its blob": Case(
        faulty(Fault("/config.json", 1), Fault("/config.json", 9, flip=True)),
        Reason.CHECKSUM_MISMATCH,
        "config.json arrived twice",
    ),
    "pinned commit differs": Case(
        lambda lab: lab.model(pin={"revision": "f" * 40}), Reason.PIN_MISMATCH, "but pin.revision demands ffff"
    ),
    "pinned weights differ": Case(
        lambda lab: lab.model(pin={"files": {WEIGHTS: OTHER_DIGEST}}), Reason.PIN_MISMATCH, "but pin.files demands"
    ),
    "pinned small file differs": Case(
        lambda lab: lab.model(pin={"files": {"config.json": OTHER_DIGEST}}),
        Reason.PIN_MISMATCH,
        "config.json is sha256:",
    ),
    "licence not allowed": Case(
        lambda lab: lab.model(license={"allow": ["mit"]}), Reason.LICENSE_NOT_ALLOWED, "its licence is apache-2.0"
    ),
    "no licence stated": Case(
        written("README.md", b"A model.", license={"allow": ["mit"]}),
        Reason.LICENSE_NOT_ALLOWED,
        "it states no licence",
    ),
    "path that climbs upwards": Case(lying_list("../../etc/passwd"), Reason.UNSAFE_FILE_NAME, "'../../etc/passwd'"),
    "absolute path": Case(lying_list("/etc/passwd"), Reason.UNSAFE_FILE_NAME, "no safe path"),
    "control characters in a name": Case(lying_list("a\n.safetensors"), Reason.UNSAFE_FILE_NAME, "'a\\n.safetensors'"),
    "address of a metadata service": Case(private_address, Reason.HOST_NOT_ALLOWED, "169.254.169.254, inside"),
    "redirect into a private network": Case(redirected_inside, Reason.HOST_NOT_ALLOWED, "10.1.2.3:80 is at 10.1.2.3"),
    # Models
    "no architecture": Case(config(architectures=[]), Reason.INVALID_CONFIG, "names no single architecture"),
    "missing config": Case(without("config.json"), Reason.INVALID_CONFIG, "no config.json"),
    "config that is no JSON": Case(written("config.json", b"{"), Reason.INVALID_CONFIG, "not valid JSON"),
    "config that is not UTF-8": Case(
        written("config.json", b'{"a": "\xff"}'),
        Reason.INVALID_CONFIG,
        "config.json is not valid JSON",
    ),
    "config that contradicts the weights": Case(
        config(vocab_size=600), Reason.INVALID_CONFIG, "the shape [600, 256], but the weights"
    ),
    "missing tokenizer": Case(
        without("tokenizer.json"), Reason.MISSING_TOKENIZER, "has neither tokenizer.json nor tokenizer.model"
    ),
    "weights quantized already": Case(
        config(quantization_config={"bits": 4}), Reason.UNSUPPORTED_DTYPE, "are quantized already"
    ),
    "GGUF cut short": Case(gguf_repository(lambda data: data[:-1000]), Reason.INVALID_GGUF, "but the file has 2895384"),
    "GGUF of an adapter": Case(
        gguf_adapter,
        Reason.UNSUPPORTED_ADAPTER,
        "adapter_config.json and adapter_model.safetensors instead",
    ),
    "GGUF of other bytes": Case(gguf_repository(lambda data: b"GGML" + data[4:]), Reason.INVALID_GGUF, "model.gguf"),
    "part of a split GGUF": Case(one_part, Reason.INVALID_GGUF, "-00001-of-00003.gguf is one of 3 parts of a split"),
    "several GGUF files": Case(
        gguf_repository(bytes, "a.gguf", "b.gguf"), Reason.INVALID_SPEC, "holds 2 GGUF files: choose one"
    ),
    # Specs
    "two sources at once": Case(
        lambda lab: lab.model(source={"huggingFace": {"repo": "lab/tiny"}, "path": "/x"}),
        Reason.INVALID_SPEC,
        "spec.source must name exactly one of huggingFace and path",
    ),
    "no source": Case(lambda lab: lab.model(source={}), Reason.INVALID_SPEC, "spec.source must name exactly one of"),
    "misspelt field": Case(lambda lab: lab.model(licence={}), Reason.INVALID_SPEC, "spec.licence"),
    "no variants and no goal": Case(lambda lab: lab.job(), Reason.INVALID_SPEC, "spec", "QuantJob"),
    "model and QuantJob at once": Case(
        lambda lab: lab.service(modelRef={"name": "m"}, quantJobRef={"name": "q"}),
        Reason.INVALID_SPEC,
        "spec",
        "InferenceService",
    ),
    # References
    "model that is not there": Case(
        lambda lab: lab.job("Q8_0", model="none"), Reason.MODEL_NOT_FOUND, "SLMModel none does not exist", "QuantJob"
    ),
    "model that is refused": Case(
        refused_model,
        Reason.MODEL_NOT_READY,
        "SLMModel m is not Ready: LicenseNotAllowed",
        "QuantJob",
    ),
    "QuantJob that is not there": Case(
        lambda lab: lab.service(quantJobRef={"name": "none"}),
        Reason.QUANT_JOB_NOT_FOUND,
        "QuantJob none does not exist",
        "InferenceService",
    ),
    "variant that was not made": Case(
        variant_missing, Reason.VARIANT_NOT_AVAILABLE, "offers no variant Q4_0: it was not made", "InferenceService"
    ),
    "name that somebody else holds": Case(
        name_clash, Reason.NAME_CONFLICT, "exists and belongs to somebody else", "InferenceService"
    ),
    # Quantization and measurement
    "architecture without a converter": Case(
        only_an_engine_loads(lambda lab: lab.job("Q8_0")),
        Reason.NOT_CONVERTIBLE,
        "No variant can be made of SLMModel m, which vllm alone serves. MambaForCausalLM cannot be converted: use one",
        "QuantJob",
    ),
    "engine for GGUF alone": Case(
        only_an_engine_loads(lambda lab: lab.service(modelRef={"name": "m"})),
        Reason.RUNTIME_NOT_AVAILABLE,
        "vllm is not configured, and it alone serves this model: give it an image. MambaForCausalLM",
        "InferenceService",
    ),
    "unknown type": Case(primed("Q9_Z"), Reason.UNKNOWN_TYPE, "makes no quantization type 'Q9_Z'", "QuantJob"),
    "too few tokens to measure": Case(
        primed("Q8_0", evaluation={"contextSize": 64, "chunks": 2}),
        Reason.INVALID_SPEC,
        "predict 62 tokens; statistics need 100",
        "QuantJob",
    ),
    "type that needs calibration": Case(
        primed("IQ1_S"), Reason.TYPE_NOT_APPLICABLE, "it needs an importance matrix", "QuantJob"
    ),
    "type the shape does not allow": Case(
        narrow_rows, Reason.TYPE_NOT_APPLICABLE, "have 96 values, which do not divide into blocks", "QuantJob"
    ),
    "gate nobody passes": Case(nobody_passes, Reason.NO_VARIANT_PASSED, "Q4_0", "QuantJob"),
    "evaluation text too short": Case(
        text(b"Too short."), Reason.TEXT_TOO_SHORT, "2 chunks of 512 need 1024", "QuantJob"
    ),
    "evaluation text that is not UTF-8": Case(text(b"caf\xe9 " * 5000), Reason.TEXT_NOT_FOUND, "not UTF-8", "QuantJob"),
    "evaluation text that is not there": Case(
        primed("Q8_0", evaluation={"text": "/no/such/text"}), Reason.TEXT_NOT_FOUND, "/no/such/text", "QuantJob"
    ),
    # The machine
    "disk full": Case(disk_full, Reason.INSUFFICIENT_SPACE, "but the store's disk has"),
    "engine missing": Case(engine_missing, Reason.ENGINE_MISSING, "which lacks llama-server", "QuantJob"),
    "engine that does not run": Case(engine_broken, Reason.ENGINE_MISSING, "does not tell its version", "QuantJob"),
    "engine that crashes at start": Case(
        crashing_engine, Reason.ENGINE_CRASHED, "The engine ended 3 times, last with exit code 1", "InferenceService"
    ),
    "port taken": Case(port_taken, Reason.PORT_IN_USE, "Port 8080 is taken by another program", "InferenceService"),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("template"), "qwen3", tied=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_its_reason_and_leaves_the_store_as_it_was(
    name: str, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setattr("slm_pipelines.hub.sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with open_lab(tmp_path, template, monkeypatch) as lab:
        case.arrange(lab)
        lab.world.run()
        reason, message = lab.ready(case.kind)
    assert (reason, case.message in message) == (case.reason, True), f"{reason}: {message}"
    assert store_content(lab.store) == lab.before
