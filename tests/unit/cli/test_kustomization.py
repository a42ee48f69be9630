from pathlib import Path

import pytest

from slm_operator.cli.documents import Document, Reading
from slm_operator.cli.kustomization import add_kustomization
from slm_operator.errors import InvalidManifest

ROOT = Path(__file__).resolve().parents[3]
MODEL = """\
apiVersion: slm.dev/v1alpha1
kind: SLMModel
metadata: {name: tiny, labels: {own: kept}}
spec: {source: {path: /m}}
"""


def read(folder: Path) -> list[Document]:
    reading = Reading("default")
    add_kustomization(reading, folder)
    return reading.finish([str(folder)])


def write(folder: Path, kustomization: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.yaml").write_text(MODEL)
    (folder / "kustomization.yaml").write_text(kustomization)
    return folder


def test_the_demo_is_read_in_the_order_of_its_resources() -> None:
    assert [each.key.kind for each in read(ROOT / "examples" / "demo")] == ["SLMModel", "QuantJob", "InferenceService"]


def test_namespace_labels_and_annotations_reach_every_object_of_every_folder_below(tmp_path: Path) -> None:
    write(tmp_path / "base", "resources: [model.yaml]\ncommonAnnotations: {from: base}\n")
    upper = "resources: [../base]\nnamespace: team\nlabels: [{pairs: {by: upper}, includeSelectors: true}]\n"
    (document,) = read(write(tmp_path / "upper", upper))
    assert str(document.key) == "SLMModel/team/tiny"
    assert document.manifest["metadata"]["labels"] == {"own": "kept", "by": "upper"}
    assert document.manifest["metadata"]["annotations"] == {"from": "base"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: [../here]\n", "it is one of its own resources"),
        ("patches: [{path: x}]\n", "patches is not understood here; render it first: kubectl kustomize FOLDER"),
        ("resources: [https://example.org/x.yaml]\n", "is remote; fetch it and name the local folder"),
        ("resources: model.yaml\n", "resources must be a list of files and folders"),
        ("resources: [absent.yaml]\n", "absent.yaml: it cannot be read: No such file"),
        ("resources: []\n", "no object in"),
        ("kind: Component\n", "kind must be Kustomization, not 'Component'"),
        ("- 1\n", "a kustomization is one mapping with resources"),
        ("labels: {a: b}\n", "labels must be a list of mappings with pairs"),
        ("commonLabels: {a: 1}\n", "commonLabels must map words to words"),
        (
            "resources: [model.yaml]\nnamespace: ../../x\n",
            "namespace: '../../x' is no name of a namespace: use at most 63",
        ),
        ("resources: [model.yaml]\nnamespace: 1\n", "namespace must be a name"),
        ("a: &a [*a]\n", "more than 10,000 values once its aliases are written out"),
    ],
)
def test_what_is_malformed_or_beyond_us_is_refused_with_a_reason(tmp_path: Path, text: str, message: str) -> None:
    folder = write(tmp_path / "here", text)
    with pytest.raises(InvalidManifest) as refused:
        read(folder)
    assert message in str(refused.value)
    assert str(folder) in str(refused.value)


def test_a_folder_without_a_kustomization_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"holds no kustomization\.yaml; name manifests with -f"):
        read(tmp_path)
