"""The page: a spec becomes text, the template gives it its form."""

from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from jinja2 import BaseLoader, Environment, StrictUndefined
from markupsafe import Markup

from slm_contract.specs import ReportSpec, VariantReport
from slm_pipelines.report import words

VERDICTS = {True: "passed", False: "failed", None: "not judged"}


@dataclass(frozen=True)
class Row:
    """One line of the table, as text."""

    name: str
    cells: tuple[str, ...]
    verdict: str
    why: str
    digest: str
    chosen: bool


COLUMNS = (
    ("Size", ""),
    ("of original", "share of the unquantized file"),
    ("Perplexity", "on the evaluation text; lower is better"),
    ("KL mean", "Kullback-Leibler divergence from the original, nats per token"),
    ("KL p99", "99 of 100 positions stay below"),
    ("Top one", "positions with the same most likely token"),
    ("Prompt tok/s", "prompt processing, with the standard deviation where it is known"),
    ("Gen. tok/s", "generation, with the standard deviation where it is known"),
)
"""Heading and explanation, in the order of a row's cells."""


def build_row(row: VariantReport, spec: ReportSpec, *, judged: bool) -> Row:
    """The text of one line; the unquantized file is not judged."""
    whole = spec.baseline.size_bytes
    cells = (
        words.size(row.size_bytes),
        words.number(row.size_bytes / whole if row.size_bytes and whole else None, ".1%"),
        words.number(row.perplexity, ".4f"),
        words.small(row.kl_divergence),
        words.small(row.kl_divergence_p99),
        words.number(row.top_one_agreement, ".2%"),
        words.with_error(row.prompt_tokens_per_second, row.prompt_tokens_per_second_spread),
        words.with_error(row.generate_tokens_per_second, row.generate_tokens_per_second_spread),
    )
    if not judged:
        return Row(row.type, cells, "reference", "what every variant is compared with", row.digest, chosen=False)
    why = row.message or row.reason or "no reason was given"
    chosen = bool(spec.selected) and row.type == spec.selected
    return Row(row.type, cells, VERDICTS[row.gate_passed], why, row.digest, chosen)


def list_bounds(spec: ReportSpec) -> list[str]:
    """The gate in words."""
    gate = spec.gate
    bounds = (
        (gate.max_kl_divergence, "mean KL divergence at most {:g} nats"),
        (gate.max_perplexity_increase, "perplexity at most {:.2%} higher"),
        (gate.min_top_one_agreement, "top-one agreement at least {:.2%}"),
    )
    return [form.format(bound) for bound, form in bounds if bound is not None]


def list_facts(spec: ReportSpec) -> list[tuple[str, str]]:
    """Where the weights came from and how they were measured; what is not known is a dash."""
    origin, method = spec.origin, spec.method
    loss = f"{method.chunks} chunks of {method.context_size} tokens" if method.chunks else ""
    speed = (
        f"{method.prompt_tokens} prompt and {method.generate_tokens} generated tokens, "
        f"{method.repetitions} repetitions on {method.threads} threads"
        if method.repetitions
        else "not measured"
    )
    facts = (
        ("Source", origin.source or spec.model),
        ("Commit", origin.revision),
        ("Licence", origin.license or "none stated"),
        ("Architecture", origin.architecture),
        ("Parameters", words.count(origin.parameters)),
        ("Context", f"{origin.context_length:,} tokens" if origin.context_length else ""),
        ("Tool", spec.tool),
        ("Evaluation text", method.text),
        ("Loss measured on", loss),
        ("Speed measured with", speed),
    )
    return [(name, value or words.MISSING) for name, value in facts]


def _finalize(value: Any) -> Any:
    return words.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(spec: ReportSpec, charts: list[str]) -> str:
    """The page; every name is escaped, and nothing in it is loaded from anywhere."""
    folder = resources.files("slm_pipelines.report")
    environment = Environment(
        loader=BaseLoader(),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        spec=spec,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        charts=[Markup(chart) for chart in charts],  # noqa: S704 - glyph outlines, drawn by us
        columns=COLUMNS,
        rows=[build_row(row, spec, judged=row is not spec.baseline) for row in (spec.baseline, *spec.variants)],
        bounds=list_bounds(spec),
        facts=list_facts(spec),
        manifests=yaml.safe_dump_all(spec.manifests, sort_keys=False, allow_unicode=True) if spec.manifests else "",
    )
