"""A tiny model that ranks: Qwen3 with the two-way classifier of its rerankers, as one GGUF file."""

import logging
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, PoolingType

from slm_contract.specs import ConvertSpec
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import convert
from slm_pipelines.store import Store
from tests.support.models import write_model
from tests.support.stored import store_folder

TEMPLATE = "{query}\n{document}\n"
"""What the engine makes of a query and a document, as its converter writes it for Qwen3-Reranker."""


def _classifier(width: int) -> np.ndarray:
    """Small numbers, so that no score is quite 0 or 1."""
    return np.random.default_rng(7).standard_normal((2, width), dtype=np.float32) / width


def write_reranker(folder: Path, scratch: Path) -> Path:
    """Write the file into ``folder``; ``scratch`` takes what it is made of."""
    store = Store(scratch / "store")
    made = convert.run(
        ConvertSpec(model=store_folder(store, write_model(scratch / "model", "qwen3")), store=str(store.folder)),
        Reporter("convert"),
    )
    source = GGUFReader(store.blob_path(made.blob))
    logging.getLogger("gguf").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(folder / "reranker.gguf", "qwen3")
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, sub_type=of[0] if of else None)
    writer.add_pooling_type(PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])
    writer.add_key_value("tokenizer.chat_template.rerank", TEMPLATE, GGUFValueType.STRING)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    width = next(int(each.shape[0]) for each in source.tensors if each.name == "token_embd.weight")
    writer.add_tensor("cls.output.weight", _classifier(width))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "reranker.gguf"
