from pathlib import Path

import pytest

from slm_operator.cli.bounded_yaml import MAX_FILE_BYTES
from slm_operator.cli.documents import read_documents
from slm_operator.errors import InvalidManifest

MODEL = """\
apiVersion: slm.dev/v1alpha1
kind: SLMModel
metadata: {name: tiny}
spec: {source: {huggingFace: {repo: acme/tiny}}}
"""
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 15)
)
SMALL_BOMB = "".join(BOMB.splitlines(keepends=True)[:9])
"""81 aliases: few to count, 387 million values."""

BAD = {
    "too large": (b"#" * (MAX_FILE_BYTES + 1), "larger than 1 MiB"),
    "alias bomb": (BOMB.encode(), "more than 10,000 values once its aliases are written out"),
    "a small bomb in a list": (f"{SMALL_BOMB}kind: List\nitems: [*a8]\n".encode(), "more than 10,000 values"),
    "a base-60 number": (b"kind: " + b":".join([b"1"] * 100_000), "line 1: a number has more than 40 characters"),
    "a thousand unknown fields": (
        (MODEL + "".join(f"field{n}: 1\n" for n in range(1000))).encode(),
        "is no known field",
    ),
    "deep nesting": (b"[" * 100_000, "nested more than 64 levels deep"),
    "not UTF-8": (b"kind: \xff", "not UTF-8: byte 0xff at offset 6"),
    "UTF-16": (MODEL.encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
    "a tab": (b"kind: SLMModel\nspec:\n\tsource: x\n", "indented with spaces, not tabs"),
    "unclosed": (b"kind: [", "it is not YAML: line 1"),
    "a control character": (b"kind: \x00", "it is not YAML"),
    "a Python object": (b"kind: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "a key twice": (b"kind: SLMModel\nkind: QuantJob\n", "line 2: the key kind stands twice"),
    "a merge": (b"a: &a {b: c}\nd: {<<: *a}\n", "line 2: keys must be plain words"),
    "an endless list": (b"kind: &a [*a]\n", "more than 10,000 values"),
    "not a mapping": (b"- 1\n", "a manifest is a mapping"),
    "a scalar": (b"hello", "a manifest is a mapping"),
    "empty": (b"", "no object in"),
    "only comments": (b"# nothing\n---\n", "no object in"),
    "no apiVersion": (MODEL.replace("apiVersion: slm.dev/v1alpha1\n", "").encode(), "apiVersion is missing"),
    "an unknown kind": (MODEL.replace("SLMModel", "Pod").encode(), "kind must be one of SLMModel"),
    "a kustomization": (b"kind: Kustomization\nresources: []\n", "name its folder with -k instead of -f"),
    "no name": (MODEL.replace("{name: tiny}", "{}").encode(), "metadata.name is required"),
    "metadata as a list": (MODEL.replace("{name: tiny}", "[]").encode(), "metadata"),
    "a name with capitals": (MODEL.replace("name: tiny", "name: Tiny").encode(), "metadata.name"),
    "an unknown field": (MODEL.replace("spec: {", "spec: {colour: red, ").encode(), "spec.colour is no known field"),
    "no source": (
        MODEL.replace("{huggingFace: {repo: acme/tiny}}", "{}").encode(),
        "spec.source must name exactly one of huggingFace and path",
    ),
    "two sources": (
        MODEL.replace("repo: acme/tiny}", "repo: acme/tiny}, path: /m").encode(),
        "spec.source must name exactly one of huggingFace and path",
    ),
    "one object twice": (f"{MODEL}---\n{MODEL}".encode(), "SLMModel/default/tiny stands already in"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_manifest_is_refused_with_a_reason(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(data)
    with pytest.raises(InvalidManifest) as refused:
        read_documents([str(file)], "default")
    text = str(refused.value)
    assert message in text
    assert str(file) in text
    assert "nothing was changed" in text
    assert len(text.splitlines()) == 1
    assert len(text) < 1000


def test_a_fifty_megabyte_file_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    with file.open("wb") as stream:
        stream.truncate(50 << 20)
    with pytest.raises(InvalidManifest, match="larger than 1 MiB"):
        read_documents([str(file)], "default")


def test_the_document_number_counts_empty_ones_and_names_the_broken_one(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(f"{MODEL}---\n# only a comment\n---\nkind: [\n")
    with pytest.raises(InvalidManifest, match=r"many\.yaml \(document 3\): it is not YAML: line \d+"):
        read_documents([str(file)], "default")


def test_a_folder_passes_over_its_kustomization_and_looks_deeper_only_when_told(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    (tmp_path / "a.yaml").write_text(MODEL)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.yaml").write_text(MODEL.replace("tiny", "below"))
    assert [each.key.name for each in read_documents([str(tmp_path)], "default")] == ["tiny"]
    deeper = read_documents([str(tmp_path)], "default", recursive=True)
    assert [each.key.name for each in deeper] == ["tiny", "below"]


def test_every_fault_of_every_file_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MODEL.replace("SLMModel", "Nope"))
    (tmp_path / "b.yaml").write_text(f"{MODEL}---\n{MODEL.replace('repo: acme/tiny', 'repo: x')}")
    with pytest.raises(InvalidManifest) as refused:
        read_documents([str(tmp_path)], "default")
    text = str(refused.value)
    assert "a.yaml (document 1): kind must be one of" in text
    assert "b.yaml (document 2): spec.source" in text


def test_documents_json_lists_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + MODEL.encode() + b"---\n# empty\n---\n")
    (tmp_path / "b.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "slm.dev/v1alpha1", "kind": "SLMModel",'
        ' "metadata": {"name": "two", "namespace": "other"}, "spec": {"source": {"path": "/m"}}}]}'
    )
    (tmp_path / "notes.txt").write_text("ignored")
    keys = [str(document.key) for document in read_documents([str(tmp_path)], "default")]
    assert keys == ["SLMModel/default/tiny", "SLMModel/other/two"]


def test_missing_files_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="No such file or directory"):
        read_documents([str(tmp_path / "absent.yaml")], "default")
    with pytest.raises(InvalidManifest, match=r"holds no \.yaml"):
        read_documents([str(tmp_path)], "default")
