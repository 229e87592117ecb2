"""The page of a config's data, with its numbers beside it as JSON and CSV."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import config as configs
from pivot_jax import files
from pivot_jax.report import format as formats
from pivot_jax.report import page, plots
from pivot_jax.report.content import Block, Column, Fact, Figure, Listing, Notices, Report, Section, Table, Value
from pivot_jax.report.data import record
from pivot_jax.report.data.advice import advice
from pivot_jax.report.data.padding import BucketUse, Packing, padding
from pivot_jax.report.data.reading import Reading, read
from pivot_jax.report.data.samples import shown
from pivot_jax.report.data.summary import QUANTILES, Summary, by_file, summarize
from pivot_jax.report.data_rows import DataRows
from pivot_jax.words import counted

FILE = "data.html"
ROWS = 12  # sampled rows
LISTED = 200  # bad rows on the page, and groups of duplicates
NAMED = 4  # rows of a group
OPENED = "Only the images of the rows above were opened: training finds corrupt ones elsewhere when it reads them."
KINDS = {
    "sft": "Conversations",
    "preference": "Preference pairs",
    "unpaired": "Answers with a label",
    "prompt": "Prompts of online RL",
    "contrastive": "Images with captions",
}


def write(config: Any, out: str | Path, *, rows: int = ROWS, seed: int | None = None, overwrite: bool = False) -> Path:
    """Writes a page of what a training config reads into a folder, and returns the page's path. Nothing is trained.

    The folder gets ``data.html``, ``data.json`` (its numbers), ``rows.csv`` (a line per usable row) and
    ``bad_rows.csv``.

    Args:
      config: of any training, as ``pj.config(...)`` gives it.
      out: the folder.
      rows: rows to show that are drawn at random, beside the shortest, the longest and truncated ones.
      seed: of the draw; default: the config's.
      overwrite: an earlier page of this function may be replaced.

    Raises:
      UserError: anything in the config that does not fit together, no usable row, or a folder that holds anything else.
    """
    folder = Path(out)
    files.check_folder(folder, overwrite=overwrite)
    reading = read(config)
    summary = summarize(reading)
    report = build(reading, summary, rows, config.seed if seed is None else seed)
    with files.whole_folder(folder, overwrite=overwrite) as into:
        page.write(report, into / FILE)
        record.write(reading, summary, into)
    return folder / FILE


def build(reading: Reading, summary: Summary, rows: int, seed: int) -> Report:
    """The report that :func:`write` writes."""
    read_by: dict[str, list[str]] = {}
    for one in summary.columns:
        read_by.setdefault(one.column, []).append(one.reward)
    data_rows = DataRows(
        f"{rows} at random (seed {seed}), and extremes",
        tuple(shown(reading, rows, seed, read_by)),
        "Texts are tokens as training reads them; hover over one for its id. Images are resized, cropped and split as "
        "for the model, before normalisation.",
        scored=reading.kind not in ("prompt", "contrastive"),
        pairs=reading.kind in ("preference", "unpaired"),
    )
    notices = Notices(tuple(advice(reading, summary)), "Nothing to warn of.")
    sections = [
        Section("Warnings", "", (notices,)),
        Section("Rows", "", (data_rows,)),
        _lengths(reading, summary),
        *([_padding(reading, summary)] if reading.batched else []),
        *([_columns(reading, summary)] if reading.kind == "prompt" else []),
        _sources(reading),
        _duplicates(reading, summary),
        _bad(reading),
        Section("Settings", "", (Listing("config.json", configs.to_json(reading.config)),)),
    ]
    first = f", the first {len(reading.table):,} of a source without an end" if reading.endless else ""
    return Report(
        title=f"Data of {reading.config.name}",
        subtitle=f"{KINDS[reading.kind]} of {reading.rows.source.name}{first}, as training reads them.",
        facts=_facts(reading, summary),
        sections=tuple(sections),
        provenance={"config": configs.fingerprint(reading.config), "objective": reading.config.objective.name},
    )


def _facts(reading: Reading, summary: Summary) -> tuple[Fact, ...]:
    table, epoch = reading.table, summary.epoch
    tokens, targets = summary.lengths["tokens"], summary.lengths["scored tokens"]
    bad, images = len(reading.bad), len(table.image_keys)
    different = len(np.unique(table.image_keys))
    loader = reading.loader
    steps = f"{counted(loader.steps_per_epoch, 'step')} an epoch" if not reading.endless else "no epochs"
    whole = tokens.total if epoch is None else epoch.used_tokens
    found = [
        Fact("Rows", len(table), note=f"{steps}, {loader.total_steps:,} in all"),
        Fact("Images", images, note=f"{different:,} different"),
        Fact("Tokens per epoch", whole, note=f"{tokens.mean:.0f} a row, longest {tokens.largest:,}"),
    ]
    if reading.kind not in ("prompt", "contrastive"):
        share = targets.total / max(tokens.total, 1)
        found.append(Fact("Tokens scored", float(share), "%", f"{targets.total:,}"))
    if reading.kind != "prompt":  # a prompt that is too long is a bad row
        count = int(table.truncated.sum())
        found.append(Fact("Truncated rows", count / len(table), "%", f"{count:,}"))
    found.append(Fact("Bad rows", bad / max(bad + len(table), 1), "%", f"{bad:,}, left out"))
    if epoch is not None:
        found.append(Fact("Padding", epoch.padding, "%", f"of {epoch.positions:,} positions in an epoch"))
    return tuple(found)


def _lengths(reading: Reading, summary: Summary) -> Section:
    table = reading.table
    drawn = {"tokens": table.tokens, "scored tokens": table.targets, "image tokens": table.image_tokens}
    drawn = {name: values for name, values in drawn.items() if values.any()}
    loader = reading.batched
    marks = {}
    if loader is not None and loader.packing == 1:
        marks = {
            "tokens": sorted({n for n, _ in loader.buckets}),
            "scored tokens": sorted({t for _, t in loader.buckets}),
        }
    columns = (
        Column("Mean"),
        *(Column(f"{100 * q:g} %", note=f"{100 * q:g} % of the rows have at most so many") for q in QUANTILES),
        Column("Largest"),
        Column("Sum"),
    )
    rows = tuple((name, (one.mean, *one.quantiles, one.largest, one.total)) for name, one in summary.lengths.items())
    note = "Dashed: the sizes of the buckets." if marks else ""
    chart = Figure("Rows by length", plots.histograms(drawn, marks=marks), note)
    return Section("Lengths", "", (chart, Table("Per row", columns, rows)))


def _padding(reading: Reading, summary: Summary) -> Section:
    blocks: list[Block] = []
    if summary.epoch is not None:
        blocks.append(_buckets(summary.epoch.uses))
    if summary.packings:
        blocks.append(_packings(reading, summary))
    text = (
        "A batch takes the first bucket that holds all of its sequences. The numbers are those of the batches that the "
        "first epoch trains with, over all processes."
    )
    return Section("Buckets and padding", text, tuple(blocks))


def _buckets(uses: Sequence[BucketUse]) -> Table:
    columns = (
        Column("Rows that need it", note="of the data set: no smaller bucket holds them"),
        Column("Batches"),
        Column("Rows in them"),
        Column("Positions", note="of tokens, padding included"),
        Column("Padding", "%", note="of the token positions"),
        Column("Padding of scored", "%", note="of the positions of scored tokens, for which logits are computed"),
    )
    rows = [(str((use.tokens, use.targets)), _use([use])) for use in uses]
    if len(uses) > 1:
        rows.append(("total", _use(uses)))
    title = "Bucket (tokens, scored)"
    return Table("In the first epoch", columns, tuple(rows), row_title=title, total=len(uses) > 1)


def _use(uses: Sequence[BucketUse]) -> tuple[Value, ...]:
    """The cells of one bucket, or of several together."""
    names = ("needing", "batches", "rows", "positions", "target_positions")
    needing, batches, rows, positions, targets = (sum(getattr(use, name) for use in uses) for name in names)
    used, scored = (sum(getattr(use, name) for use in uses) for name in ("used_tokens", "used_targets"))
    shares = (padding(part, of) if of else None for part, of in ((used, positions), (scored, targets)))
    return needing, batches, rows, positions, *shares


def _packings(reading: Reading, summary: Summary) -> Table:
    current = summary.epoch.positions if summary.epoch else 0
    columns = (
        Column("Positions", note="of tokens in an epoch, padding included"),
        Column("Padding", "%"),
        Column("Positions, change", note="against this config"),
        Column("Buckets"),
    )
    rows = []
    for one in [*summary.packings, *([summary.suggested] if summary.suggested else [])]:
        buckets = ", ".join(f"({n}, {t})" for n, t in one.buckets)
        whose = "suggested" if one is summary.suggested else "made from the data" if one.from_data else "this config's"
        if one.epoch is None:
            cells: tuple[Value, ...] = (None, None, None, f"{whose}: {_reason(one)}")
        else:
            change = one.epoch.positions / current - 1 if current else math.nan
            shown = f"{formats.number(change, unit='%', signed=True)} %" if current else None
            cells = one.epoch.positions, one.epoch.padding, shown, f"{whose}: {buckets}"
        rows.append((str(one.packing), cells))
    note = "So many rows share a sequence; the loss of a batch is the same."
    return Table("Packing, and other buckets", columns, tuple(rows), note, "data.packing")


def _reason(one: Packing) -> str:
    found = re.search(r"need up to (\d+) tokens and (\d+) targets", one.reason)
    return f"too small, sequences need up to ({found[1]}, {found[2]})" if found else one.reason.partition("; ")[0]


def _columns(reading: Reading, summary: Summary) -> Section:
    read_by: dict[str, list[str]] = {}
    for one in summary.columns:
        read_by.setdefault(one.column, []).append(one.reward if one.required else f"{one.reward} (if there)")
    names = [*summary.values, *(name for name in read_by if name not in summary.values)]
    rows = tuple((name, (summary.values.get(name, 0), ", ".join(read_by.get(name, [])))) for name in names)
    columns = (Column("Rows with a value"), Column("Read by"))
    note = "A function named module:function is not imported here, so what it reads is not known."
    return Section("Fields that rewards read", "", (Table("Columns of the rows", columns, rows, note, "Column"),))


def _sources(reading: Reading) -> Section:
    columns = (Column("Rows"), Column("Share", "%"), Column("Tokens"), Column("Bad rows"))
    found, size = by_file(reading), len(reading.table)
    rows = tuple((file, (good, good / size, tokens, bad)) for file, (good, bad, tokens) in found.items())
    return Section("Sources", "", (Table("Rows per file or data set", columns, rows),))


def _duplicates(reading: Reading, summary: Summary) -> Section:
    ids, found = reading.table.ids, summary.duplicates
    kinds = (
        ("The same texts and images", found.rows),
        ("The same prompt and images, other answers", found.prompts),
        ("An image in common", found.images),
    )
    counts = tuple(
        (title, (len(groups), sum(map(len, groups)), max(map(len, groups), default=0))) for title, groups in kinds
    )
    blocks: list[Block] = [Table("Groups of rows", (Column("Groups"), Column("Rows"), Column("Largest")), counts)]
    for title, groups in kinds:
        if groups:
            listed = sorted(groups, key=len, reverse=True)[:LISTED]
            rows = tuple((", ".join(ids[int(row)] for row in group[:NAMED]), (len(group),)) for group in listed)
            note = f"The first {NAMED} rows of each; {len(listed):,} of {counted(len(groups), 'group')}, largest first."
            blocks.append(Table(title, (Column("Rows"),), rows, note, "Row ids", closed=True))
    text = "Images are compared by their content: files of the same size are read for it." * bool(
        len(reading.table.image_keys)
    )
    return Section("Duplicates", text, tuple(blocks))


def _bad(reading: Reading) -> Section:
    if not reading.bad:
        return Section("Bad rows", f"There are none. {OPENED}")
    reasons = Counter(re.sub(r"\d+", "N", re.sub(r"(image (file )?)\S+", r"\1…", row.reason)) for row in reading.bad)
    counts = tuple((reason, (count,)) for reason, count in reasons.most_common())
    rows = tuple((row.id, (row.file, row.number + 1, row.reason)) for row in reading.bad[:LISTED])
    note = f"{len(rows):,} of {len(reading.bad):,}; bad_rows.csv has all." if len(rows) < len(reading.bad) else ""
    listed = Table("By file and row", (Column("File"), Column("Row"), Column("Reason")), rows, note, "Row id")
    return Section(
        "Bad rows", f"Training leaves them out. {OPENED}", (Table("Reasons", (Column("Rows"),), counts), listed)
    )
