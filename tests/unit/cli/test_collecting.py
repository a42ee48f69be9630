"""What garbage collection must keep."""

from slm_operator.core.roots import find_roots

HEX = "0a" * 32


def test_a_blob_in_an_engines_command_line_is_in_use() -> None:
    engine = {"kind": "Deployment", "spec": {"command": ["llama-server", "-m", f"/store/blobs/sha256/{HEX}"]}}
    assert find_roots([engine]) == [f"sha256:{HEX}"]


def test_a_digest_counts_once_wherever_it_stands() -> None:
    model = {"kind": "SLMModel", "status": {"digest": f"sha256:{HEX}", "message": f"sha256:{HEX} is whole"}}
    assert find_roots([model, {"kind": "Pod"}]) == [f"sha256:{HEX}"]
