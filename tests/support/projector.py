"""A tiny multimodal projector with random weights: a CLIP encoder of one layer, and two matrices."""

from pathlib import Path

import gguf
import numpy as np

HIDDEN, IMAGE_PIXELS, PATCH_PIXELS = 64, 28, 14


def write_projector(path: Path, width: int, *, kind: str = "mmproj") -> Path:
    """Write a GGUF file that llama.cpp takes as a projector to embeddings of ``width`` elements."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(kind)
    writer.add_bool("clip.has_vision_encoder", val=True)
    writer.add_bool("clip.use_gelu", val=True)
    writer.add_string("clip.projector_type", "mlp")
    figures = {"image_size": IMAGE_PIXELS, "patch_size": PATCH_PIXELS, "embedding_length": HIDDEN, "block_count": 1}
    for name, value in {**figures, "feed_forward_length": 2 * HIDDEN, "projection_dim": width}.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_uint32("clip.vision.attention.head_count", 1)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5] * 3)
    random = np.random.default_rng(0)
    for name, shape in _shapes(width).items():
        norm = name.endswith("weight") and len(shape) == 1
        values = np.ones(shape) if norm else random.normal(0, 0.3, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    layer = {
        **{f"attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "out")},
        **dict.fromkeys(("ln1", "ln2"), (HIDDEN,)),
        "ffn_up": (2 * HIDDEN, HIDDEN),
        "ffn_down": (HIDDEN, 2 * HIDDEN),
    }
    matrices: dict[str, tuple[int, ...]] = {
        "v.pre_ln": (HIDDEN,),
        **{f"v.blk.0.{name}": shape for name, shape in layer.items()},
        "mm.0": (width, HIDDEN),
        "mm.2": (width, width),
    }
    patches = (IMAGE_PIXELS // PATCH_PIXELS) ** 2
    return {
        "v.class_embd": (HIDDEN,),
        "v.patch_embd.weight": (HIDDEN, 3, PATCH_PIXELS, PATCH_PIXELS),
        "v.position_embd.weight": (patches + 1, HIDDEN),
        **{f"{name}.weight": shape for name, shape in matrices.items()},
        **{f"{name}.bias": shape[:1] for name, shape in matrices.items()},
    }
