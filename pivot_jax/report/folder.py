"""A report as a folder: the page, and its content for papers and version control."""

from __future__ import annotations

from pathlib import Path

from pivot_jax import files
from pivot_jax.report import export, page
from pivot_jax.report.content import Report


def write(report: Report, folder: Path) -> Path:
    """Writes ``report.html``, ``report.md`` tables and figures; returns the first.

    Raises:
      UserError: the folder holds anything else.
    """
    with files.whole_folder(folder, overwrite=True) as into:
        export.write(report, into)
        page.write(report, into / "report.html")
    return folder / "report.html"
