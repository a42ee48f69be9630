"""Write tests/golden/convert/*.json: what llama.cpp's own converter makes of the test models.

Needs an environment with torch, transformers and sentencepiece, and a llama.cpp source tree:

    python dev/golden/make_convert_golden.py LLAMA_CPP_FOLDER

The tokenizers are made up, so upstream's table of published tokenizers cannot name their splitting rule; that one
look-up is answered here, everything else is upstream's code.
"""

import argparse
import importlib
import json
import runpy
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PRE = {"llama": "llama-bpe", "qwen3": "qwen2"}


def convert(llama_cpp: Path, model: Path, target: Path, out_type: str, pre: str) -> None:
    """Run upstream's converter in this process."""
    text_model = importlib.import_module("conversion.base").TextModel
    text_model.get_vocab_base_pre = lambda _self, _tokenizer: pre
    sys.argv = ["convert_hf_to_gguf.py", str(model), "--outfile", str(target), "--outtype", out_type]
    runpy.run_path(str(llama_cpp / "convert_hf_to_gguf.py"), run_name="__main__")


def main() -> None:
    """Make every golden file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path, help="folder of a llama.cpp source tree")
    llama_cpp = parser.parse_args().llama_cpp.resolve()
    # Upstream's converter needs the gguf package of its own tree.
    sys.path[:0] = [str(REPOSITORY), str(llama_cpp), str(llama_cpp / "gguf-py")]
    from tests.support.gguf_digest import digest_gguf  # noqa: PLC0415 (needs the path above)
    from tests.support.models import CONVERT_CASES, write_model  # noqa: PLC0415

    golden = REPOSITORY / "tests" / "golden" / "convert"
    golden.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CONVERT_CASES.items():
            model = write_model(Path(scratch) / name, **case)
            target = Path(scratch) / f"{name}.gguf"
            convert(llama_cpp, model, target, str(case.get("dtype", "bf16")), PRE[str(case.get("family", "llama"))])
            text = json.dumps(digest_gguf(target), indent=1, ensure_ascii=True) + "\n"
            (golden / f"{name}.json").write_text(text, encoding="utf-8")
            print(f"wrote {name}.json")


if __name__ == "__main__":
    main()
