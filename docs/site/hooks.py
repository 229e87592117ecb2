"""What `mkdocs build` does besides rendering docs/: pages made of the code and of the repository's other Markdown."""

from __future__ import annotations

import command_pages
import config_pages
from links import INCLUDED, ROOT, for_site
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = config_pages.pages() | command_pages.pages()
    made |= {page: (ROOT / source).read_text(encoding="utf-8") for source, page in INCLUDED.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    there = page.file.src_uri
    sources = {included: source for source, included in INCLUDED.items()}
    return for_site(markdown, sources.get(there, f"docs/{there}"), there)
