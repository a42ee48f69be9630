"""Objects as tables: the columns of the CRDs, as ``kubectl get`` shows them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from slm_operator.api.meta import PrinterColumn
from slm_operator.api.registry import INFOS
from slm_operator.cli.human import format_age, format_count
from slm_operator.cli.jsonpath import evaluate
from slm_operator.ports import Manifest

GAP = "   "
AGE = PrinterColumn(name="Age", json_path=".metadata.creationTimestamp", type="date")
CHILD_COLUMNS: dict[str, list[PrinterColumn]] = {
    "Pod": [
        PrinterColumn(name="Step", json_path=r".metadata.labels.slm\.dev/step"),
        PrinterColumn(name="Status", json_path=".status.phase"),
        PrinterColumn(name="Ready", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(name="Restarts", json_path=".status.containerStatuses[0].restartCount", type="integer"),
        AGE,
    ],
    "Job": [
        PrinterColumn(name="Step", json_path=r".metadata.labels.slm\.dev/step"),
        PrinterColumn(name="Complete", json_path='.status.conditions[?(@.type=="Complete")].status'),
        PrinterColumn(name="Failed", json_path=".status.failed", type="integer"),
        AGE,
    ],
    "Deployment": [
        PrinterColumn(name="Ready", json_path=".status.readyReplicas", type="integer"),
        PrinterColumn(name="Replicas", json_path=".spec.replicas", type="integer"),
        AGE,
    ],
    "Service": [
        PrinterColumn(name="Address", json_path=".status.loadBalancer.ingress[0].ip"),
        PrinterColumn(name="Port", json_path=".status.loadBalancer.ingress[0].ports[0].port", type="integer"),
        AGE,
    ],
}

Row = list[str]


def columns_of(kind: str, *, wide: bool) -> list[PrinterColumn]:
    """Columns of a kind after its name."""
    columns = INFOS[kind].columns if kind in INFOS else CHILD_COLUMNS[kind]
    return [column for column in columns if wide or column.priority == 0]


def build_header(kind: str, *, wide: bool, with_namespace: bool) -> Row:
    """Names of the columns, in capitals."""
    names = [column.name.upper() for column in columns_of(kind, wide=wide)]
    return [*(["NAMESPACE"] if with_namespace else []), "NAME", *names]


def build_row(manifest: Manifest, now: datetime, *, wide: bool, with_namespace: bool) -> Row:
    """Cells of one object."""
    meta = manifest["metadata"]
    cells = [_cell(column, manifest, now) for column in columns_of(manifest["kind"], wide=wide)]
    return [*([meta.get("namespace", "default")] if with_namespace else []), meta["name"], *cells]


def _cell(column: PrinterColumn, manifest: Manifest, now: datetime) -> str:
    value: Any = evaluate(column.json_path, manifest)
    if value is None or value == "":
        return ""
    if column.type == "date":
        return format_age(value, now)
    if column.json_path == ".status.parameters" and isinstance(value, int):
        return format_count(value) if value else ""
    return str(value)


def measure(rows: Sequence[Row]) -> list[int]:
    """Width of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def render_row(row: Row, widths: Sequence[int]) -> str:
    """One line; cells longer than their column push the rest to the right."""
    return GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def render_rows(rows: Sequence[Row]) -> str:
    """A table from rows of equal length, the first of which is the header."""
    widths = measure(rows)
    return "\n".join(render_row(row, widths) for row in rows)


def build_rows(kind: str, items: Sequence[Manifest], *, wide: bool, with_namespace: bool) -> list[Row]:
    """Header and one row per object."""
    now = datetime.now(UTC)
    header = build_header(kind, wide=wide, with_namespace=with_namespace)
    return [header, *(build_row(item, now, wide=wide, with_namespace=with_namespace) for item in items)]
