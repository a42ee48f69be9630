"""What the documentation says is so: links, manifests, commands, targets, examples, reasons."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from dev import readme
from slm_contract.reasons import Reason
from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.documents import KUSTOMIZATION_NAMES, Reading, read_documents
from slm_operator.cli.kustomization import add_kustomization
from slm_operator.cli.lazy import COMMANDS
from slm_operator.cli.main import app
from slm_operator.cli.writing import apply_documents

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
MARKERS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3 + r"\b", "HA" + r"CK\b", "NotImplemented" + "Error")))
OTHERS = {"argocd", "flux"}
"""Folders of examples for other tools: tests/chart/test_gitops.py holds them against those tools' own schemas."""
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if not OTHERS & set(path.parts))


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files of this repository, committed or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return tuple(path for name in names if name and (path := ROOT / name).is_file())


def pages() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".md"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(path: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(path.read_text()) if language in languages]


def commands_of(path: Path) -> Iterator[list[str]]:
    """Command lines of a page's shell blocks and of its inline code, split into words."""
    text = path.read_text()
    blocks = "\n".join(fences(path, "sh", "bash", "console")).replace("\\\n", " ")
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in [*blocks.splitlines(), *inline]:
        code = re.sub(r"\s#.*", "", line)
        for part in re.split(r"&&|\|\|?|;|\$\(|[()]", code):
            if words := part.split():
                yield words


def anchors(path: Path) -> set[str]:
    """Fragments that a page's headings offer, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(path: Path) -> Iterator[str]:
    for target in LINK.findall(FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        place = (path.parent / file) if file else path
        if not place.exists() or (fragment and fragment not in anchors(place)):
            yield target


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert not list(broken_links(page))


def test_links_into_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](gone.md) [b](#a-title) [c](#other) [d](https://example.org)\n")
    assert list(broken_links(page)) == ["gone.md", "#other"]


@pytest.mark.parametrize("page", [page for page in pages() if "kind:" in page.read_text()], ids=name_of)
def test_every_manifest_in_the_docs_is_valid(page: Path) -> None:
    blocks = [block for block in fences(page, "yaml") if re.search(r"^kind:", block, re.MULTILINE)]
    # What a shell block writes into a file is a manifest too.
    blocks += re.findall(r"<<'YAML'\n(.*?)^YAML", page.read_text(), re.MULTILINE | re.DOTALL)
    for block in blocks:
        reading = Reading("default")
        reading.add_data(name_of(page), block.encode())
        assert reading.finish([name_of(page)])


def test_the_documentation_shows_each_kind() -> None:
    text = "\n".join(block for page in pages() for block in fences(page, "yaml"))
    assert {"SLMModel", "QuantJob", "InferenceService"} <= set(re.findall(r"^kind: (\w+)$", text, re.MULTILINE))


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
async def test_every_example_is_applied_and_applied_again_changes_nothing(example: Path, tmp_path: Path) -> None:
    if example.name in KUSTOMIZATION_NAMES:
        reading = Reading("default")
        add_kustomization(reading, example.parent)
        documents = reading.finish([str(example.parent)])
    else:
        documents = read_documents([str(example)], "default")
    cluster = SqliteCluster(tmp_path / "objects.db")
    try:
        await apply_documents(cluster, documents)
        first = [await cluster.get(document.key) for document in documents]
        await apply_documents(cluster, documents)
        assert None not in first
        assert [await cluster.get(document.key) for document in documents] == first
    finally:
        cluster.close()


def source_text() -> str:
    files = [path for path in tracked_files() if path.suffix == ".py" and path.parts[len(ROOT.parts)] != "tests"]
    return "\n".join(path.read_text() for path in files if path.name != "reasons.py")


def test_every_reason_is_given_by_some_code() -> None:
    used = set(re.findall(r"Reason\.([A-Z_0-9]+)", source_text()))
    assert [reason.name for reason in Reason if reason.name not in used] == []


def test_reasons_in_the_docs_exist() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    words = {word for word in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", text) if word != "InferenceService"}
    assert words
    assert words <= {reason.value for reason in Reason}


def test_no_file_holds_a_mark_of_unfinished_work() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}: {mark}" for mark in MARKERS.findall(text)]
    assert found == []


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    pattern = re.compile("/" + r"(work/main|home/\w+|root/)")
    own = Path(__file__)
    text_files = [path for path in tracked_files() if path.suffix in {".md", ".yaml", ".sh", ".toml"} and path != own]
    assert [name_of(path) for path in text_files if pattern.search(path.read_text())] == []


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_make_target_in_the_docs_exists(page: Path) -> None:
    named = set()
    for words in commands_of(page):
        if words[0] == "make":
            named |= {word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)}
    assert named <= make_targets()


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_slm_command_and_option_in_the_docs_exists(page: Path) -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for words in commands_of(page):
        if words[0] != "slm" or len(words) < 2 or not re.fullmatch(r"[a-z]+", words[1]):
            continue
        assert words[1] in COMMANDS, " ".join(words)
        command = group.get_command(None, words[1])  # type: ignore[arg-type]
        assert command is not None
        known = {"--help", "-h"} | {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        options = {word.split("=")[0] for word in words[2:] if re.fullmatch(r"--?[A-Za-z][\w=/.:-]*", word)}
        assert options <= known, " ".join(words)


def test_the_readme_shows_the_demos_table_and_picture() -> None:
    assert readme.find_faults((ROOT / "README.md").read_text()) == []


def test_the_readme_shows_the_demos_own_quantjob() -> None:
    assert (ROOT / "examples/demo/quantjob.yaml").read_text() in fences(ROOT / "README.md", "yaml")


def test_a_readme_without_rows_or_with_other_columns_is_found() -> None:
    text = (ROOT / "README.md").read_text()
    assert "has no" in readme.find_faults("nothing")[0]
    assert "other columns" in readme.find_faults(text.replace("| perplexity |", "| surprise |"))[0]
    assert "rows" in readme.find_faults(re.sub(r"^\| Q8_0 .*\n", "", text, flags=re.MULTILINE))[0]


def test_the_third_partys_text_is_named_in_the_notice() -> None:
    assert "PSF-2.0" in (ROOT / "NOTICE").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_hooks_before_a_commit_use_only_local_tools() -> None:
    lines = (ROOT / ".pre-commit-config.yaml").read_text().splitlines()
    assert [line for line in lines if "repo:" in line] == ["  - repo: local"]
