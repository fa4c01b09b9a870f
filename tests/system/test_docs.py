"""The documentation, offline: links that lead somewhere, and a command reference that is what the code says."""

import ast
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from dtn_ray.option_groups import Form

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [
    path
    for folder in ("dtn_ray", "jobs", "cluster", "tests", "benchmarks", ".ci")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
] + [ROOT / "Makefile", ROOT / "pyproject.toml", *sorted((ROOT / "docs").rglob("*.py"))]
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+)\)")
PLACEHOLDER = re.compile(r"/[A-Z_]+\b")  # dtn_ray/data/NAME.py
NAMED = re.compile(r"\b(?:dtn_ray|jobs|docs|cluster|benchmarks|tests)/[\w./-]*\.(?:py|md|json|yaml|yml|sh|png)\b")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        count = sum(each == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", each) is not None for each in found)
        found.add(f"{slug}-{count}" if count else slug)
    return found


def broken(page: Path) -> list[str]:
    """Links of a page to files and anchors that are not there."""
    found = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        there = target.is_relative_to(ROOT) and target.exists()
        if not there or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    page, other = tmp_path / "a.md", tmp_path / "b.md"
    other.write_text("# S3's limits\n\n## Faces → *emoji*\n\n## S3's limits\n\n```\n# no heading\n```\n")
    good = ["b.md", "b.md#s3s-limits", "b.md#s3s-limits-1", "b.md#faces--emoji", "#top", "https://example.com/gone"]
    bad = ["c.md", "b.md#no-heading", "b.md#s3s-limits-2", "#bottom", "../outside.md"]
    page.write_text("# Top\n\n" + " ".join(f"[x]({link})" for link in good + bad) + "\n\n```\n[x](in-code.md)\n```\n")
    (tmp_path.parent / "outside.md").touch()
    assert broken(page) == bad


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_are_there(page):
    named = {path for path in NAMED.findall(prose(page)) if not PLACEHOLDER.search(path)}
    assert [path for path in named if not (ROOT / path).exists()] == []


OPTIONS = {
    "convert": "Conversion",
    "ingest": "Ingestion",
    "make_emoji": "EmojiSet",
    "super_resolution": "Job",
    "demo": "Job",
    "demo_faces": "Job",
}
COMMAND = re.compile(r"^ *python jobs/(\w+)\.py(.*)", re.MULTILINE)


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The jobs that a page's blocks of code start, each with its options; a best.json is not there to be read."""
    code = "\n".join(found[0] for found in FENCE.finditer(page.read_text().replace("\\\n", " ")))
    found = [(job, shlex.split(rest, comments=True)) for job, rest in COMMAND.findall(code) if "best.json" not in rest]
    return [(job, [*takewhile(lambda word: word not in ("|", ">", "&&", "…"), words)]) for job, words in found]


def parses(module: ModuleType, job: str, arguments: list[str]) -> bool:
    try:
        if job in OPTIONS:
            Form(getattr(module, OPTIONS[job])).parse(None, arguments)
        else:
            module.parse(arguments)
    except SystemExit as stop:
        return not stop.code  # --help
    return True


WRITTEN = [page for page in PAGES if page.parent.name != "notes" and page.name != "commands.md"]  # no help's text


@pytest.mark.parametrize("page", [page for page in WRITTEN if commands(page)], ids=name)
def test_commands_in_blocks_of_code_are_taken(page, job):
    assert [(name, rest) for name, rest in commands(page) if not parses(job(name), name, rest)] == []


def test_a_command_that_is_not_taken_is_found(tmp_path, job):
    (tmp_path / "page.md").write_text("```\npython jobs/train.py faces \\\n  --judge J   # digits alone\n```\n")
    assert commands(tmp_path / "page.md") == [("train", ["faces", "--judge", "J"])]
    assert not parses(job("train"), "train", ["faces", "--judge", "J"])


def test_pages_that_code_names_are_there():
    named = {
        (name(path), page)
        for path in CODE
        for page in re.findall(r"docs/[\w./-]+\.md\b", path.read_text(errors="replace"))
    }
    assert named
    assert [pair for pair in named if not (ROOT / pair[1]).exists()] == []


def test_every_page_is_reached_from_the_readme():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page in seen:
            continue
        seen.add(page)
        links = [page.parent / link.split("#")[0] for link in LINK.findall(prose(page)) if "://" not in link]
        left += [link.resolve() for link in links if link.suffix == ".md"]
    assert [name(page) for page in PAGES if page not in seen] == []


@pytest.mark.parametrize("room", sorted(path.parent for path in (ROOT / "dtn_ray").glob("*/**/__init__.py")), ids=name)
def test_a_room_lists_its_modules(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    listed = [
        each for line in re.findall(r"^([\w, ]+?)/?(?: {2,}.*)$", text, re.MULTILINE) for each in line.split(", ")
    ]
    modules = {path.stem for path in room.glob("*.py")} | {path.parent.name for path in room.glob("*/__init__.py")}
    assert sorted(listed) == sorted(modules - {"__init__"})


def test_every_job_is_in_the_command_reference():
    headings = re.findall(r"^## jobs/(\w+)\.py$", (ROOT / "docs/reference/commands.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def test_the_command_reference_is_up_to_date():
    command = [sys.executable, str(ROOT / "docs/reference/make.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
