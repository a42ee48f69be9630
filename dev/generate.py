"""Write crds/, docs/reference/ and what of the chart follows from them, or with --check say what is out of date.

Run as ``python -m dev.generate [--check]``; ``make generate`` and ``make check`` do.
"""

import argparse
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dev import chart, reference
from slm_operator.api.crdgen import build_crd
from slm_operator.api.registry import INFOS, KINDS
from slm_operator.cli import reference as commands

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("crds", "docs/reference", chart.CRD_FOLDER, chart.PLAIN_CRD_FOLDER)
"""Everything in these is ours: a file that nothing generates any more is removed."""
FILES = chart.FILES
"""Generated files beside others."""
NOTE = "# Generated from operator/slm_operator/api by `make generate`. Change the models, not this file.\n"


class BlockDumper(yaml.SafeDumper):
    """YAML as people write it: lists indented below their key, no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """Indent lists too."""
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:
        """Write the same value twice rather than refer to it."""
        del data
        return True


def render_crd(kind: str) -> str:
    """One kind's CustomResourceDefinition as YAML."""
    crd = build_crd(INFOS[kind], KINDS[kind].__doc__ or "")
    return NOTE + yaml.dump(crd, Dumper=BlockDumper, sort_keys=False, width=120, allow_unicode=True)


def render_all() -> dict[str, str]:
    """Path below the root to content, of every generated file."""
    crds = {f"{info.plural}.yaml": render_crd(kind) for kind, info in INFOS.items()}
    files = {f"crds/{name}": text for name, text in crds.items()} | chart.render_chart(crds)
    pages = reference.render_pages() | {"cli.md": commands.render()}
    files |= {f"docs/reference/{name}": text for name, text in pages.items()}
    return files | {"docs/reference/README.md": reference.render_index(pages)}


def read_all(root: Path) -> dict[str, str]:
    """Path below the root to content, of what lies in our folders now."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).glob("*"))]
    paths += [root / name for name in FILES]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths if path.is_file()}


def write_all(root: Path) -> None:
    """Make the folders hold exactly what is generated."""
    wanted = render_all()
    for name in read_all(root).keys() - wanted.keys():
        (root / name).unlink()
    for name, text in wanted.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def compare_all(root: Path) -> str:
    """A unified diff from what lies there to what should; empty when nothing differs."""
    return compare_files(read_all(root), render_all())


def compare_files(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """A unified diff between files by name; empty when nothing differs."""
    lines: list[str] = []
    for name in sorted(found.keys() | wanted.keys()):
        before, after = (files.get(name, "").splitlines(keepends=True) for files in (found, wanted))
        lines += difflib.unified_diff(before, after, name, f"{name} (generated)")
    return "".join(lines)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Write, or compare with ``--check``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when a file is out of date")
    if not parser.parse_args(argv).check:
        write_all(root)
        return 0
    difference = compare_all(root)
    if difference:
        sys.stdout.write(f"{difference}Generated files are out of date: run make generate\n")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
