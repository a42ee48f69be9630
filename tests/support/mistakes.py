"""What a user can get wrong, each as a function that does it in a lab and applies manifests."""

import struct
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np

from tests.support.engine import write_model as write_gguf
from tests.support.hub import Fault
from tests.support.lab import Lab
from tests.support.models import write_model
from tests.support.planning import manifest
from tests.support.real_steps import store_content

WEIGHTS = "model.safetensors"
OTHER_DIGEST = "sha256:" + "0" * 64


Arrange = Callable[[Lab], object]


def cut_weights(size: int) -> Arrange:
    def arrange(lab: Lab) -> None:
        path = lab.repo / WEIGHTS
        path.write_bytes(path.read_bytes()[:size])
        lab.model()

    return arrange


def header_length(claimed: int) -> Arrange:
    def arrange(lab: Lab) -> None:
        path = lab.repo / WEIGHTS
        path.write_bytes(struct.pack("<Q", claimed) + path.read_bytes()[8:])
        lab.model()

    return arrange


def tensor(**changes: Any) -> Arrange:
    """Change what the header says about the first matrix."""

    def change(header: dict[str, Any]) -> dict[str, Any]:
        name = "model.embed_tokens.weight"
        return header | {name: header[name] | changes}

    def arrange(lab: Lab) -> None:
        lab.rewrite_header(change)
        lab.model()

    return arrange


def both_halves_overlap(lab: Lab) -> None:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        first, second = list(header)[1:3]
        width = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
        end = header[first]["data_offsets"][1] - 2
        return header | {second: header[second] | {"data_offsets": [end, end + width]}}

    lab.rewrite_header(change)
    lab.model()


def without(*names: str) -> Arrange:
    def arrange(lab: Lab) -> None:
        for name in names:
            (lab.repo / name).unlink()
        lab.model()

    return arrange


def written(name: str, content: bytes, **spec: Any) -> Arrange:
    def arrange(lab: Lab) -> None:
        (lab.repo / name).write_bytes(content)
        lab.model(**spec)

    return arrange


def refused_model(lab: Lab) -> None:
    lab.model(license={"allow": ["mit"]})
    lab.job("Q8_0")


def config(**changes: Any) -> Arrange:
    def arrange(lab: Lab) -> None:
        lab.edit("config.json", **changes)
        lab.model()

    return arrange


def renamed(lab: Lab, name: str) -> None:
    (lab.repo / WEIGHTS).rename(lab.repo / name)
    lab.model()


def lying_list(name: str) -> Arrange:
    """The hub lists a file of that name among the true ones."""

    def arrange(lab: Lab) -> None:
        true = [{"rfilename": f.name, "size": f.size, "blobId": f.blob_id} for f in lab.hub.files("lab/tiny")]
        lab.hub.siblings["lab/tiny"] = [*true, {"rfilename": name, "size": 1, "blobId": "0" * 40}]
        lab.model()

    return arrange


def lying_file(**changes: Any) -> Arrange:
    """The hub says other things about the weights."""

    def arrange(lab: Lab) -> None:
        files = [{"rfilename": f.name, "size": f.size, "blobId": f.blob_id} for f in lab.hub.files("lab/tiny")]
        lab.hub.siblings["lab/tiny"] = [{**f, **changes} if f["rfilename"] == WEIGHTS else f for f in files]
        lab.model()

    return arrange


def outside_the_store(lab: Lab) -> None:
    """The digest of a template is the path of another file on this machine."""
    secret = lab.folder / "secret"
    secret.write_bytes(b"S" * 30)
    lying_file(lfs={"sha256": str(secret), "size": 30})(lab)


def no_files_but_names(lab: Lab) -> None:
    lab.hub.siblings["lab/tiny"] = ["config.json"]  # type: ignore[list-item]
    lab.model()


def one_part(lab: Lab) -> None:
    for path in lab.repo.iterdir():
        path.unlink()
    write_gguf(lab.repo / "model-00001-of-00003.gguf", parts=3)
    lab.model()


def with_pickle(name: str, **hub: Any) -> Arrange:
    def arrange(lab: Lab) -> None:
        (lab.repo / name).write_bytes(b"\x80\x04pickle")
        lab.hub_model(**hub)

    return arrange


def faulty(*faults: Fault) -> Arrange:
    def arrange(lab: Lab) -> None:
        lab.hub.faults = list(faults)
        lab.model()

    return arrange


def gated(lab: Lab) -> None:
    lab.hub.gated.add("lab/tiny")
    lab.model()


def private(lab: Lab) -> None:
    lab.hub.private.add("lab/tiny")
    lab.model()


def gguf_repository(change: Callable[[bytes], bytes], *names: str) -> Arrange:
    def arrange(lab: Lab) -> None:
        for path in lab.repo.iterdir():
            path.unlink()
        write_gguf(lab.folder / "made.gguf")
        for name in names or ("model.gguf",):
            (lab.repo / name).write_bytes(change((lab.folder / "made.gguf").read_bytes()))
        lab.model()

    return arrange


def gguf_adapter(lab: Lab) -> None:
    """As llama.cpp's own converter of adapters writes one."""
    for path in lab.repo.iterdir():
        path.unlink()
    writer = gguf.GGUFWriter(lab.repo / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lab.model()


def private_address(lab: Lab) -> None:
    lab.hub_model(endpoint="http://169.254.169.254")


def redirected_inside(lab: Lab) -> None:
    lab.hub.faults = [Fault("resolve/" + lab.hub.commit("lab/tiny") + "/" + WEIGHTS, 9, location="http://10.1.2.3/x")]
    lab.model()


def primed(*variants: str, **spec: Any) -> Arrange:
    """A bad QuantJob over a model whose good variants are made already."""

    def arrange(lab: Lab) -> None:
        lab.prime("Q8_0")
        lab.job(*variants, **spec)

    return arrange


def only_an_engine_loads(apply: Callable[[Lab], None]) -> Arrange:
    """A model that is in the store, but that nothing converts; then whatever is applied."""

    def arrange(lab: Lab) -> None:
        config(architectures=["MambaForCausalLM"])(lab)
        lab.world.run()
        lab.before = store_content(lab.store)
        apply(lab)

    return arrange


def text(content: bytes) -> Arrange:
    def arrange(lab: Lab) -> None:
        path = lab.folder / "evaluation.txt"
        path.write_bytes(content)
        primed("Q8_0", evaluation={"text": str(path), "chunks": 2})(lab)

    return arrange


def narrow_rows(lab: Lab) -> None:
    for path in lab.repo.iterdir():
        path.unlink()
    write_model(lab.repo, hidden=96, heads=2, kv_heads=1, head_dim=48, intermediate=80, layers=1)
    lab.prime("Q8_0")
    lab.job("Q4_K_M")


def nobody_passes(lab: Lab) -> None:
    """The variants and the report of a job that nobody passes stay; the same job again adds nothing."""
    lab.model()
    lab.job("Q4_0", gate={"maxKLDivergence": 0.0})
    lab.world.run()
    lab.before = store_content(lab.store)
    lab.world.remove("QuantJob", "q")
    lab.job("Q4_0", gate={"maxKLDivergence": 0.0})


def engine_missing(lab: Lab) -> None:
    lab.prime("Q8_0")
    (lab.folder / "empty").mkdir()
    lab.monkeypatch.setenv("SLM_LLAMA_CPP", str(lab.folder / "empty"))
    lab.job("Q5_1")


def engine_broken(lab: Lab) -> None:
    lab.prime("Q8_0")
    folder = lab.folder / "broken"
    folder.mkdir()
    for name in ("llama-server", "llama-quantize", "llama-perplexity", "llama-tokenize", "llama-bench"):
        (folder / name).write_text("#!/bin/sh\nexit 3\n")
        (folder / name).chmod(0o755)
    lab.monkeypatch.setenv("SLM_LLAMA_CPP", str(folder))
    lab.job("Q5_1")


def disk_full(lab: Lab) -> None:
    lab.monkeypatch.setattr("slm_pipelines.store.FREE_MARGIN_BYTES", 1 << 60)
    lab.model()


def name_clash(lab: Lab) -> None:
    lab.prime("Q8_0")
    stranger = manifest("Service", "s", {"ports": [{"port": 80}]})
    stranger["metadata"]["namespace"] = "default"
    lab.world.put(stranger)
    lab.service(quantJobRef={"name": "primed"})


def variant_missing(lab: Lab) -> None:
    lab.prime("Q8_0")
    lab.service(quantJobRef={"name": "primed", "variant": "Q4_0"})


def crashing_engine(lab: Lab) -> None:
    lab.prime("Q8_0")
    lab.service(quantJobRef={"name": "primed"}, extraArgs=["--no-such-option"])
    lab.world.run()
    lab.world.report_engine({"restartCount": 3, "lastState": {"terminated": {"exitCode": 1, "message": "bad option"}}})


def port_taken(lab: Lab) -> None:
    lab.prime("Q8_0")
    lab.service(quantJobRef={"name": "primed"})
    lab.world.run()
    taken = {"type": "PortInUse", "status": "True", "message": "Port 8080 is taken by another program: choose another."}
    lab.world.report_address({"conditions": [taken]})


def listing(body: bytes) -> Fault:
    return Fault("revision/main", 9, 200, body=body)
