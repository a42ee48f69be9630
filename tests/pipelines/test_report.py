"""The report step: one page and one picture, the same bytes for the same figures."""

import json
import os
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from slm_contract import exitcodes
from slm_contract.results import Outcome, ReportResult
from slm_contract.specs import GateBounds, Method, ModelOrigin, ReportSpec, VariantReport
from slm_pipelines.report.front import Point, pareto_front
from slm_pipelines.report.labels import Box, place_labels
from slm_pipelines.store import Store

HOSTILE = "<script>alert('$x^2$')</script>"
ROWS = (("Q8_0", 639, 0.0005, 31.0, True), ("Q4_K_M", 397, 0.019, 45.0, True), ("Q2_K", 296, 0.4, 55.0, False))
VOID = {"meta", "br", "img", "link", "input"}


def row(name: str, mebibytes: int, loss: float, speed: float, passed: bool) -> VariantReport:  # noqa: FBT001
    return VariantReport(
        type=name,
        digest="sha256:" + "a" * 64,
        size_bytes=mebibytes << 20,
        perplexity=21.5 + loss,
        kl_divergence=loss,
        kl_divergence_p99=8 * loss,
        top_one_agreement=1 - loss,
        prompt_tokens_per_second=4 * speed,
        generate_tokens_per_second=speed,
        generate_tokens_per_second_spread=0.5,
        gate_passed=passed,
        message="meets every bound of the gate" if passed else f"KL divergence {loss} is above 0.05",
    )


def make_spec(store: Path, **changes: Any) -> ReportSpec:
    spec = ReportSpec(
        title="default/small",
        model="Qwen/Qwen3-0.6B@c1899de289a0",
        baseline=VariantReport(type="baseline", size_bytes=1200 << 20, perplexity=21.5),
        variants=[row(*figures) for figures in ROWS],
        selected="Q4_K_M",
        selection_message="Q4_K_M is the smallest of Q8_0, Q4_K_M, which passed the gate.",
        tool="llama.cpp b8064",
        origin=ModelOrigin(
            source="Qwen/Qwen3-0.6B", revision="c1899de" * 5, license="apache-2.0", parameters=596049920
        ),
        gate=GateBounds(max_kl_divergence=0.05),
        method=Method(text="sha256:" + "e" * 64, context_size=512, chunks=16),
        manifests=[{"kind": "QuantJob", "spec": {"modelRef": {"name": "qwen3"}}}],
        store=str(store),
    )
    return spec.model_copy(update=changes)


def run_report(spec: ReportSpec, result: Path, **environment: str) -> tuple[int, Outcome]:
    command = [sys.executable, "-m", "slm_pipelines", "report", "--spec", "-", "--result", str(result)]
    text = spec.model_dump_json(by_alias=True)
    done = subprocess.run(
        command, input=text, text=True, capture_output=True, check=False, env={**os.environ, **environment}
    )
    return done.returncode, Outcome.model_validate_json(result.read_bytes())


def make_report(spec: ReportSpec, tmp_path: Path, **environment: str) -> tuple[ReportResult, str, bytes]:
    code, outcome = run_report(spec, tmp_path / "result.json", **environment)
    assert code == exitcodes.OK, outcome.error
    assert isinstance(outcome.result, ReportResult)
    files = Store(spec.store).files(outcome.result.manifest)
    assert Store(spec.store).manifest(outcome.result.manifest).kind == "report"
    return outcome.result, files["report.html"].read_text(encoding="utf-8"), files["report.png"].read_bytes()


class Page(HTMLParser):
    """Every element must be closed in order; keeps attributes and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def png_chunks(data: bytes) -> dict[str, bytes]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[str, bytes] = {}
    at = 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        chunks[kind.decode()] = body
        at += 12 + length
    return chunks


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportResult, str, bytes]:
    folder = tmp_path_factory.mktemp("report")
    return make_report(make_spec(folder / "store"), folder)


def test_the_page_parses_and_says_what_was_measured_chosen_and_why(report: tuple[ReportResult, str, bytes]) -> None:
    text = Page(report[1]).text
    for expected in (
        "Q4_K_M is the smallest of Q8_0, Q4_K_M, which passed the gate.",
        "mean KL divergence at most 0.05 nats.",
        "KL divergence 0.4 is above 0.05",
        "397.0 MiB 33.1% 21.5190 0.0190 0.1520 98.10% 180.0 45.0 ± 0.5",
        "5.00e-04",
        "apache-2.0",
        "596 million (596,049,920)",
        "llama.cpp b8064",
        "sha256:" + "e" * 64,
        "16 chunks of 512 tokens",
        "modelRef: name: qwen3",
    ):
        assert expected in text
    assert report[1].count('<tr class="selected">') == 1


def test_the_page_loads_nothing_and_runs_nothing(report: tuple[ReportResult, str, bytes]) -> None:
    page = Page(report[1])
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert page.tags.count("svg") == 2
    links = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "srcset", "data"}]
    assert all(link.startswith("#") for link in links)
    assert "http:" not in report[1]
    assert "https:" not in report[1]
    assert "@import" not in report[1]


def test_identifiers_of_the_two_charts_do_not_clash(report: tuple[ReportResult, str, bytes]) -> None:
    names = [value for name, value in Page(report[1]).attributes if name == "id"]
    assert len(names) == len(set(names))
    used = {value[1:] for name, value in Page(report[1]).attributes if name == "href"}
    assert used <= set(names)


def test_the_picture_is_a_whole_png_of_the_promised_size_without_traces_of_its_making(
    report: tuple[ReportResult, str, bytes],
) -> None:
    chunks = png_chunks(report[2])
    assert struct.unpack(">II", chunks["IHDR"][:8]) == (1800, 945)
    assert not {"tEXt", "iTXt", "zTXt", "tIME"} & set(chunks)


def test_the_same_figures_give_the_same_bytes_in_another_store_with_other_settings(
    report: tuple[ReportResult, str, bytes], tmp_path: Path
) -> None:
    settings = tmp_path / "matplotlibrc"
    settings.write_text("font.size: 30\naxes.facecolor: red\n")
    again = make_report(make_spec(tmp_path / "store"), tmp_path, MATPLOTLIBRC=str(settings), TZ="Asia/Tokyo")
    assert again == report


def test_a_second_run_finds_the_report_and_another_title_makes_another(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "store")
    first = make_report(spec, tmp_path)
    names = sorted((tmp_path / "store" / "blobs" / "sha256").iterdir())
    assert make_report(spec, tmp_path) == first
    assert sorted((tmp_path / "store" / "blobs" / "sha256").iterdir()) == names
    assert make_report(spec.model_copy(update={"title": "default/other"}), tmp_path)[0] != first[0]


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    variant = row(*ROWS[1]).model_copy(update={"type": HOSTILE, "message": HOSTILE, "reason": HOSTILE})
    spec = make_spec(
        tmp_path / "store",
        title=HOSTILE,
        model=HOSTILE + "\u202egnp.exe\x07",
        variants=[variant],
        selected=HOSTILE,
        selection_message=HOSTILE,
        tool=HOSTILE,
        origin=ModelOrigin(source=HOSTILE, license=HOSTILE, architecture='" onload="x'),
        manifests=[{"kind": HOSTILE}],
    )
    _, html, _ = make_report(spec, tmp_path)
    page = Page(html)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script" not in html
    assert HOSTILE in page.text
    assert "\u202e" not in html
    assert "\x07" not in html


def test_a_figure_that_is_missing_is_a_dash_with_the_reason(tmp_path: Path) -> None:
    failed = VariantReport(type="IQ1_S", reason="TypeNotApplicable", message="it needs an importance matrix")
    spec = make_spec(tmp_path / "store", variants=[failed], selected="", selection_message="No variant passed.")
    _, html, _ = make_report(spec, tmp_path)
    text = Page(html).text
    assert "IQ1_S" + " \N{EN DASH}" * 8 + " not judged it needs an importance matrix" in " ".join(
        text.replace("\N{EN DASH}", " \N{EN DASH} ").split()
    )
    assert "Nothing was chosen No variant passed." in text


@pytest.mark.parametrize("losses", [(0.0, 0.01), (0.0,), (0.3, 0.3), (float("1e-9"), 9.0)])
def test_any_losses_can_be_drawn(losses: tuple[float, ...], tmp_path: Path) -> None:
    variants = [row(f"Q{index}", 100, loss, 20.0, True) for index, loss in enumerate(losses)]  # noqa: FBT003
    _, html, png = make_report(make_spec(tmp_path / "store", variants=variants, selected="Q0"), tmp_path)
    assert Page(html).tags.count("svg") == 2
    assert png_chunks(png)


def test_a_choice_that_is_no_variant_is_a_bad_input(tmp_path: Path) -> None:
    code, outcome = run_report(make_spec(tmp_path / "store", selected="Q9_9"), tmp_path / "result.json")
    assert code == exitcodes.BAD_INPUT
    assert json.loads(outcome.model_dump_json())["error"] == {
        "reason": "InvalidSpec",
        "message": "selected is Q9_9, but variants holds Q8_0, Q4_K_M, Q2_K: name one of them.",
    }


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(1, 3), (2, 2), (3, 1)], [0, 1, 2]),
        ([(3, 1), (2, 2), (1, 3)], [2, 1, 0]),
        ([(1, 1), (2, 2)], [0]),
        ([(1, 2), (1, 1)], [1]),
        ([(2, 1), (1, 1)], [1]),
        ([(1, 1), (1, 1), (2, 0)], [0, 1, 2]),
        ([(-50, 0.4), (-45, 0.02), (-48, 0.5), (-30, 0.02)], [0, 1]),
    ],
)
def test_the_front_holds_what_no_other_point_beats(points: list[Point], front: list[int]) -> None:
    assert pareto_front(points) == front


def test_labels_of_a_crowd_neither_overlap_nor_leave_the_chart() -> None:
    anchors = [(100.0 + 9 * step, 100.0 + 4 * (step % 3)) for step in range(10)]
    area = Box(0, 0, 300, 220)
    boxes = place_labels(anchors, [(40.0, 10.0)] * 10, area, [Box(0, 98, 300, 102)])
    for index, box in enumerate(boxes):
        assert box.overlap(area) == pytest.approx(box.area)
        assert all(box.overlap(other) == 0 for other in boxes[:index])
        assert all(box.overlap(Box(x - 2, y - 2, x + 2, y + 2)) == 0 for x, y in anchors)
