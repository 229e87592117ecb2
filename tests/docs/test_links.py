"""Links lead somewhere, in the repository and on the site, which loads nothing from other hosts."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, pages

spec = importlib.util.spec_from_file_location("site_links", ROOT / "docs" / "site" / "links.py")
links = importlib.util.module_from_spec(spec)
spec.loader.exec_module(links)

PAGES = [page for page in pages() if page != "docs/reference/api.md"]  # its anchors are made by mkdocstrings


def anchors(path: Path) -> set[str]:
    """The ids that GitHub and the site give to the headings of a Markdown file."""
    found = set()
    links.outside_code(path.read_text(encoding="utf-8"), lambda line: found.add(line) or line)
    titles = [line.lstrip("#").strip() for line in found if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in links.targets((ROOT / page).read_text(encoding="utf-8")):
        if links.is_external(target):
            assert target.startswith("https://"), f"{page}: {target}"
            continue
        path, anchor = links.resolved(target, page)
        if path.removeprefix("docs/") in links.GENERATED:
            continue  # the build of the site checks these
        assert (ROOT / path).exists(), f"{page}: no {target}"
        if anchor and path.endswith(".md") and path != "docs/reference/api.md":
            assert anchor in anchors(ROOT / path), f"{page}: no heading for {target}"


def test_a_link_of_a_root_page_becomes_one_of_the_site():
    text = (
        "[a](docs/serve.md#routes), [b](ARCHITECTURE.md), [c](Makefile), [d](https://x.y)\n```\n[e](docs/serve.md)\n```"
    )
    assert links.for_site(text, "README.md", "index.md") == (
        "[a](serve.md#routes), [b](design/architecture.md), c, [d](https://x.y)\n```\n[e](docs/serve.md)\n```"
    )
    back = links.for_site(
        "[a](../../README.md#status) and ![b](../report.png)", "docs/guides/data.md", "guides/data.md"
    )
    assert back == "[a](../index.md#status) and ![b](../report.png)"


@pytest.mark.heavy
def test_the_site_builds_without_a_warning_and_loads_nothing_from_other_hosts(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=dict(os.environ, NO_MKDOCS_2_WARNING="1", PYTHONPATH=str(ROOT)), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    made = list((tmp_path / "site").rglob("*.html"))
    assert len(made) > 35
    for path in made:
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]+src="?(https?:[^"> ]+)', text)
        loaded += re.findall(r'<link[^>]+rel="?(?:stylesheet|preconnect|icon)"?[^>]+href="?(https?:[^"> ]+)', text)
        assert not loaded, f"{path.name} loads {loaded[0]}"
