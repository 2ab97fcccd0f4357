"""The documentation: links lead somewhere, the map is complete, the walk is short and exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("[a-z]*/README.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LONGEST_WALK = 15


def links(page: Path) -> list[str]:
    return LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_checkout_leads_somewhere(page):
    lost = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(link)
    assert lost == []


def test_the_map_names_every_page():
    assert {*links(DOCS / "index.md")} >= {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def test_programs_that_the_documentation_starts_exist():
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\b(?:speed|tools)/[a-z_]+\.py\b", page.read_text(encoding="utf-8"))
    }
    assert named
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_the_architecture_page_names_every_room():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {folder.parent.name for folder in (ROOT / "mistral_eval").glob("*/__init__.py")}
    assert {*re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)} == rooms


def test_the_walk_of_a_question_enters_few_files_and_none_twice():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    walk = re.findall(r"^\| (\d+) \| \[(.+?)\]\(\.\./mistral_eval/(.+?)\)", page, re.MULTILINE)
    assert [int(number) for number, _, _ in walk] == list(range(1, len(walk) + 1))
    assert all(label == target for _, label, target in walk)
    files = [target for _, _, target in walk]
    assert 10 <= len(files) <= LONGEST_WALK
    assert len(set(files)) == len(files)
