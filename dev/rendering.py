"""Write what Helm makes of the chart: deploy/kustomize and tests/golden/chart; ``python -m dev.rendering [--check]``.

Apart from dev/generate.py because it needs Helm, which is built from Go modules once. `make chart` runs it, and
tests/chart fails when a file is out of date.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.build import tool
from dev.generate import BlockDumper, compare_files

Manifest = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "slm-operator"
GOLDEN = "tests/golden/chart"
KUSTOMIZE = "deploy/kustomize"
RELEASE, NAMESPACE = "slm-operator", "slm-system"
SUFFIX = ".values.yaml"
NOTE = "# Generated from charts/slm-operator by `make chart`.\n"
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
HOOK = "helm.sh/hook"
BY_HAND = ("namespace.yaml",)
"""Resources of the kustomization that no template makes: Helm makes namespaces with --create-namespace."""
CRDS = "crds"
RIGHTS_CASES = ("default", "namespaced")
VERB_COLUMN = 52


class LiteralDumper(BlockDumper):
    """Texts of several lines as they are."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Literal style where there is more than one line."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


LiteralDumper.add_representer(str, LiteralDumper.represent_str)


def helm(*arguments: str, stdin: str | None = None) -> str:
    """Output of Helm; raises CalledProcessError, whose stderr says what is wrong."""
    command = [str(tool("helm")), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout


def render(values: Mapping[str, Any], release: str = RELEASE) -> list[Manifest]:
    """Every object of a release with these values, hooks too; raises CalledProcessError for refused values."""
    text = helm(
        "template", release, str(CHART), "--namespace", NAMESPACE, "--values", "-", stdin=yaml.safe_dump(values)
    )
    return [document for document in yaml.safe_load_all(text) if document]


def read_cases() -> dict[str, dict[str, Any]]:
    """Name of a golden file to the values that it is rendered with."""
    paths = sorted((ROOT / GOLDEN).glob(f"*{SUFFIX}"))
    return {path.name.removesuffix(SUFFIX): yaml.safe_load(path.read_text()) or {} for path in paths}


def render_goldens() -> dict[str, str]:
    """Golden files by path: all objects but CRDs for each case, and all rights in one file."""
    files: dict[str, str] = {}
    rights: list[str] = []
    for name, values in read_cases().items():
        documents = [each for each in render(values) if each["kind"] != "CustomResourceDefinition"]
        files[f"{GOLDEN}/{name}.yaml"] = dump(documents)
        if name in RIGHTS_CASES:
            rights += [f"# {name}", "", *describe_rights(documents), ""]
    return files | {f"{GOLDEN}/rbac.txt": "\n".join(rights)}


def describe_rights(documents: Sequence[Manifest]) -> Iterator[str]:
    """A line per resource of each role, with its verbs in order: a change is one line of a diff."""
    for role in documents:
        if role["kind"] not in {"Role", "ClusterRole"}:
            continue
        meta = role["metadata"]
        yield f"{role['kind']} {meta['name']}" + (f" in {meta['namespace']}" if "namespace" in meta else "")
        rights = [(right, rule["verbs"]) for rule in role["rules"] for right in _resources(rule)]
        yield from (f"  {right:<{VERB_COLUMN}} {' '.join(sorted(verbs))}" for right, verbs in sorted(rights))


def _resources(rule: Manifest) -> list[str]:
    only = "".join(f" {name}" for name in rule.get("resourceNames", ()))
    return [f"{group or 'core'}/{resource}{only}" for group in rule["apiGroups"] for resource in rule["resources"]]


def render_kustomization() -> dict[str, str]:
    """The default values' objects as a kustomization, by path: a file per kind; the CRDs come from `make generate`."""
    grouped: dict[str, list[Manifest]] = {}
    for document in render({"crds": {"install": False}}):
        if HOOK not in document["metadata"].get("annotations", {}):
            grouped.setdefault(f"{document['kind'].lower()}.yaml", []).append(without_helm(document))
    files = {f"{KUSTOMIZE}/{name}": NOTE + dump(documents) for name, documents in grouped.items()}
    crds = [f"{CRDS}/{path.name}" for path in sorted((ROOT / "crds").glob("*.yaml"))]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [*BY_HAND, *crds, *sorted(grouped)],
    }
    return files | {f"{KUSTOMIZE}/kustomization.yaml": NOTE + dump([kustomization])}


def without_helm(document: Manifest) -> Manifest:
    """The object without the labels by which Helm knows what is its own."""
    document = yaml.safe_load(yaml.safe_dump(document))
    for labels in (document["metadata"], document.get("spec", {}).get("template", {}).get("metadata", {})):
        for name in HELM_LABELS:
            labels.get("labels", {}).pop(name, None)
    return document


def dump(documents: Sequence[Manifest]) -> str:
    """YAML that does not change with the order of templates."""
    ordered = sorted(
        documents, key=lambda each: (each["kind"], each.get("metadata", {}).get("namespace", ""), name_of(each))
    )
    return yaml.dump_all(ordered, Dumper=LiteralDumper, sort_keys=False, width=120, allow_unicode=True)


def name_of(document: Manifest) -> str:
    """An object's name; a kustomization has none."""
    return str(document.get("metadata", {}).get("name", ""))


def render_all() -> dict[str, str]:
    """Path below the root to content, of everything that Helm renders."""
    return render_goldens() | render_kustomization()


def read_all() -> dict[str, str]:
    """Path below the root to content, of what lies there now."""
    paths = [path for path in (ROOT / GOLDEN).iterdir() if not path.name.endswith(SUFFIX)]
    paths += [path for path in (ROOT / KUSTOMIZE).glob("*.yaml") if path.name not in BY_HAND]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def main(argv: list[str] | None = None) -> int:
    """Write, or compare with ``--check``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when a file is out of date")
    found, wanted = read_all(), render_all()
    if parser.parse_args(argv).check:
        difference = compare_files(found, wanted)
        sys.stdout.write(f"{difference}Rendered files are out of date: run make chart\n" if difference else "")
        return 1 if difference else 0
    for name in found.keys() - wanted.keys():
        (ROOT / name).unlink()
    for name, text in wanted.items():
        (ROOT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
