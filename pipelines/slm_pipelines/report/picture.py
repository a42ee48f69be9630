"""The two charts: size against loss, and speed against loss, with their Pareto fronts."""

import contextlib
import io
import itertools
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slm_contract.specs import ReportSpec, VariantReport
from slm_pipelines.report.front import pareto_front
from slm_pipelines.report.labels import Box, place_labels
from slm_pipelines.report.words import clean, finite, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_SIZE_INCHES = (12.0, 6.3)
PNG_DPI = 150
"""1800 by 945 pixels: the shape of a link preview, sharp on a dense screen."""
PANEL_SIZE_INCHES = (5.4, 4.1)
"""One chart of the page; small, so that text keeps its size on a phone."""
LINE_ROOM = 2.0
"""Points that labels keep from a line on either side."""
LABEL_CHARACTERS = 22
"""Longest name in a chart; the table shows it whole."""
SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "svg.hashsalt": "slm-report",
    "svg.fonttype": "path",
    "text.parse_math": False,
}
"""Everything else is matplotlib's default, whatever the machine's own settings say."""


Segment = tuple[tuple[float, float], tuple[float, float]]
"""A straight line between two points of a chart."""


@dataclass(frozen=True)
class Palette:
    """Colours by their part."""

    ink: str
    muted: str
    line: str
    accent: str
    paper: str


LIGHT = Palette(ink="#1c2430", muted="#667080", line="#e4e7ec", accent="#0b7a70", paper="#ffffff")
MARKS = Palette(ink="#010101", muted="#020202", line="#030303", accent="#040404", paper="#050505")
"""Stand-ins that become CSS variables, so that an embedded chart follows the page into dark mode."""


@dataclass(frozen=True)
class Dot:
    """One variant in a chart."""

    name: str
    x: float
    loss: float
    error: float
    passed: bool
    chosen: bool


@dataclass(frozen=True)
class Chart:
    """What one chart shows."""

    title: str
    axis: str
    better: int
    """1 when a larger x is better, -1 when a smaller one is."""
    take: Callable[[VariantReport], tuple[float | None, float | None]]
    """Variant to its x and the error of that."""
    missing: str

    def dots(self, spec: ReportSpec) -> list[Dot]:
        """The variants that have both figures."""
        found = []
        for row in spec.variants:
            x, error = self.take(row)
            loss = finite(row.kl_divergence)
            if x is not None and loss is not None:
                name = shorten(clean(row.type), LABEL_CHARACTERS)
                passed, chosen = row.gate_passed is True, row.type == spec.selected
                found.append(Dot(name, x, max(0.0, loss), error or 0.0, passed, chosen))
        return found


CHARTS = (
    Chart(
        "Size and loss",
        "file size, MiB  (smaller is better →)",
        -1,
        lambda row: (row.size_bytes / 2**20 if row.size_bytes else None, None),
        "no variant has both a size and a KL divergence",
    ),
    Chart(
        "Speed and loss",
        "generation, tokens/s  (faster is better →)",
        1,
        lambda row: (finite(row.generate_tokens_per_second), finite(row.generate_tokens_per_second_spread)),
        "no variant has both a speed and a KL divergence",
    ),
)


@contextlib.contextmanager
def _matplotlib() -> Iterator[None]:
    """Import matplotlib with a folder of its own and settings that no machine changes."""
    before = os.environ.get("MPLCONFIGDIR")
    with tempfile.TemporaryDirectory(prefix="slm-report-") as folder:
        os.environ["MPLCONFIGDIR"] = folder  # A Job's home is read-only, and a shared cache would be a race.
        try:
            import matplotlib as mpl  # noqa: PLC0415 - slow, and it reads MPLCONFIGDIR when it is imported

            with mpl.rc_context():
                mpl.rcdefaults()
                for name, value in SETTINGS.items():
                    mpl.rcParams[name] = value  # type: ignore[index]
                yield
        finally:
            os.environ.pop("MPLCONFIGDIR") if before is None else os.environ.update(MPLCONFIGDIR=before)


def _dress(axes: "Axes", chart: Chart, colours: Palette) -> None:
    axes.set_title(chart.title, loc="left", color=colours.ink, fontsize=11.5, fontweight="bold", pad=12)
    axes.set_xlabel(chart.axis, color=colours.muted, labelpad=7)
    axes.set_ylabel("KL divergence, nats  (lower is better ↓)", color=colours.muted, labelpad=7)
    axes.set_facecolor("none")
    axes.grid(visible=True, color=colours.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelcolor=colours.muted, labelsize=8.5, pad=5)
    axes.spines[:].set_visible(False)


def _format_loss(value: float, _position: int) -> str:
    return f"{value:.10f}".rstrip("0").rstrip(".") if value else "0"


def _scale(axes: "Axes", dots: list[Dot], better: int, bound: float | None) -> None:
    """Logarithmic loss (linear near an exact 0), room around the dots, the better side on the right."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - see _matplotlib

    losses = [dot.loss for dot in dots] + ([bound] if bound else [])
    positive = [loss for loss in losses if loss > 0]
    low, high = min(positive, default=1e-3), max(positive, default=1.0)
    if len(positive) < len(losses) or not positive:
        axes.set_yscale("symlog", linthresh=low)
        axes.set_ylim(-low / 2, high * 2.2)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 30 else (1.0, 2.0, 5.0)))  # noqa: PLR2004
        axes.set_ylim(low / 2.2, high * 2.2)
    axes.yaxis.set_major_formatter(FuncFormatter(_format_loss))
    axes.yaxis.set_minor_formatter(NullFormatter())
    left, right = min(dot.x - dot.error for dot in dots), max(dot.x + dot.error for dot in dots)
    room = 0.16 * (right - left) or 0.2 * right or 1.0
    axes.set_xlim(*sorted((max(0.0, left - room), right + room), reverse=better < 0))


def _draw_dots(axes: "Axes", dots: list[Dot], colours: Palette) -> None:
    for dot in dots:
        edge = colours.accent if dot.chosen else colours.ink if dot.passed else colours.muted
        fill = edge if dot.passed else colours.paper
        if dot.error:
            axes.errorbar(dot.x, dot.loss, xerr=dot.error, color=edge, linewidth=1, capsize=2.5, zorder=3)
        size = 95 if dot.chosen else 40
        axes.scatter([dot.x], [dot.loss], s=size, color=fill, edgecolors=edge, linewidths=1.4, zorder=4, clip_on=False)


def _draw_front(axes: "Axes", dots: list[Dot], better: int, colours: Palette) -> list[Segment]:
    front = [dots[index] for index in pareto_front([(-better * dot.x, dot.loss) for dot in dots])]
    xs, ys = [dot.x for dot in front], [dot.loss for dot in front]
    axes.plot(xs, ys, drawstyle="steps-post", color=colours.accent, linewidth=1.6, alpha=0.55, zorder=2)
    corners = [(x, y) for x, y in zip(xs[1:], ys, strict=False)]  # steps-post: along at the old y, then to the new
    path = [
        point for pair in zip(zip(xs, ys, strict=True), [*corners, (xs[-1], ys[-1])], strict=True) for point in pair
    ]
    return list(itertools.pairwise(path))


def _draw_bound(axes: "Axes", bound: float | None, colours: Palette) -> list[Segment]:
    if bound:
        axes.axhline(bound, color=colours.muted, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"gate {bound:g}",
            (0.005, bound),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="left",
            color=colours.muted,
            fontsize=8,
        )
    left, right = axes.get_xlim()
    return [((left, bound), (right, bound))] if bound else []


def _line_boxes(axes: "Axes", lines: list[Segment], unit: float) -> list[Box]:
    found = []
    for line in lines:
        (x0, y0), (x1, y1) = axes.transData.transform(line) / unit
        found.append(Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)).grow(LINE_ROOM))
    return found


def _draw_labels(axes: "Axes", dots: list[Dot], lines: list[Segment], colours: Palette) -> None:
    """Names beside the dots, with a thin line where one had to move away."""
    unit = axes.figure.dpi / 72
    figure: Any = axes.figure
    texts = [_text(axes, dot, colours) for dot in dots]
    extents = [text.get_window_extent(figure.canvas.get_renderer()) for text in texts]
    sizes = [(extent.width / unit, extent.height / unit) for extent in extents]
    spots = [(x / unit, y / unit) for x, y in axes.transData.transform([(dot.x, dot.loss) for dot in dots])]
    inside = axes.get_window_extent()
    area = Box(inside.x0 / unit, inside.y0 / unit, inside.x1 / unit, inside.y1 / unit)
    places = place_labels(spots, sizes, area, _line_boxes(axes, lines, unit))
    for text, (x, y), box in zip(texts, spots, places, strict=True):
        centre = (box.left + box.right) / 2 - x, (box.bottom + box.top) / 2 - y
        text.set_position(centre)
        near = min(max(x, box.left), box.right) - x, min(max(y, box.bottom), box.top) - y
        if math.hypot(*near) > 12:  # noqa: PLR2004 - points; nearer labels need no line
            line = {"arrowstyle": "-", "color": colours.muted, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
            axes.annotate("", (x * unit, y * unit), near, "figure pixels", "offset points", arrowprops=line)


def _text(axes: "Axes", dot: Dot, colours: Palette) -> Any:
    return axes.annotate(
        dot.name,
        (dot.x, dot.loss),
        (0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        color=colours.accent if dot.chosen else colours.ink if dot.passed else colours.muted,
        fontweight="bold" if dot.chosen else "normal",
        fontsize=9,
        zorder=5,
    )


def _draw_chart(axes: "Axes", chart: Chart, spec: ReportSpec, colours: Palette) -> None:
    _dress(axes, chart, colours)
    dots = chart.dots(spec)
    if not dots:
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        axes.text(0.5, 0.5, f"Not measured:\n{chart.missing}", ha="center", va="center", color=colours.muted)
        return
    bound = spec.gate.max_kl_divergence
    _scale(axes, dots, chart.better, bound)
    lines = [*_draw_front(axes, dots, chart.better, colours), *_draw_bound(axes, bound, colours)]
    lines += [((dot.x - dot.error, dot.loss), (dot.x + dot.error, dot.loss)) for dot in dots]
    _draw_dots(axes, dots, colours)
    _draw_labels(axes, dots, lines, colours)


def _blank(size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - see _matplotlib
    from matplotlib.figure import Figure  # noqa: PLC0415 - see _matplotlib

    figure = Figure(figsize=size, dpi=PNG_DPI)
    FigureCanvasAgg(figure)
    return figure


def _draw_svg(chart: Chart, spec: ReportSpec) -> str:
    figure = _blank(PANEL_SIZE_INCHES)
    axes = figure.add_axes((0.145, 0.15, 0.835, 0.74))
    _draw_chart(axes, chart, spec, MARKS)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embed(buffer.getvalue(), chart)


def _embed(svg: str, chart: Chart) -> str:
    """The SVG element alone, with CSS variables for colours and identifiers that no other chart has."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head, body = body.split(">", 1)
    view = re.search(r'viewBox="[^"]+"', head)
    head = f'<svg {view[0] if view else ""} role="img" aria-label="{chart.title}; the table has the same figures"'
    key = chart.title.partition(" ")[0].lower()
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", body.replace("xlink:href", "href"))
    for part, colour in vars(MARKS).items():
        body = body.replace(colour, f"var(--{part})")
    return f"{head}>{body}"


LEGEND = "●  passed the gate      ○  did not      ━  Pareto front: nothing is better in both"


def _draw_png(spec: ReportSpec) -> bytes:
    figure = _blank(PNG_SIZE_INCHES)
    figure.set_facecolor(LIGHT.paper)
    chosen = f"chosen: {shorten(clean(spec.selected), 40)}" if spec.selected else "no variant was chosen"
    figure.text(0.045, 0.945, shorten(clean(spec.title), 70), color=LIGHT.ink, fontsize=17, fontweight="bold", va="top")
    subtitle = f"{shorten(clean(spec.model), 90)}  ·  {chosen}"
    figure.text(0.045, 0.878, subtitle, color=LIGHT.muted, fontsize=10.5, va="top")
    figure.text(0.045, 0.035, LEGEND, color=LIGHT.muted, fontsize=9)
    figure.text(0.975, 0.035, shorten(clean(spec.tool), 50), color=LIGHT.muted, fontsize=9, ha="right")
    for left, chart in zip((0.085, 0.575), CHARTS, strict=True):
        _draw_chart(figure.add_axes((left, 0.17, 0.40, 0.595)), chart, spec, LIGHT)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw(spec: ReportSpec) -> tuple[bytes, list[str]]:
    """The PNG, and one SVG element per chart for the page."""
    with _matplotlib():
        return _draw_png(spec), [_draw_svg(chart, spec) for chart in CHARTS]
