"""What is wrong or wasteful in the data of a config, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pivot_jax.data.loading.loader import TARGET_STEP, TOKEN_STEP
from pivot_jax.report.content import Notice
from pivot_jax.report.data.reading import Reading, RowTable
from pivot_jax.report.data.summary import Summary
from pivot_jax.shapes import round_up
from pivot_jax.words import counted

MUCH_PADDING, FEW_PATCHES, MUCH_LEFT = 0.25, 0.7, 0.05  # shares from, below and from which there is a warning
LONGER = 1.2  # chosen answers, against the rejected ones
MOST = (0.95, 1.0)  # shares of the rows, for which a warning says how large a bucket they need


def advice(reading: Reading, summary: Summary) -> list[Notice]:
    """Warnings, those that stop training first."""
    found = [
        notice
        for part in (_stops, _bad, _truncated, _padding, _images, _duplicates, _pairs, _columns, _left)
        for notice in part(reading, summary)
    ]
    return sorted(found, key=lambda notice: ("error", "warning", "note").index(notice.level))


def _share(part: float, of: float) -> str:
    share = part / of if of else 0.0
    return f"{100 * share:.1f} %" if share >= 0.0005 or not share else "less than 0.1 %"


def _stops(reading: Reading, summary: Summary) -> Iterator[Notice]:
    if summary.stops:
        what, _, fix = summary.stops.partition("; ")
        fix = fix or "see the bad rows below: fix or remove them, or raise data.max_bad_share"
        yield Notice(f"Training does not start with this config: {what}.", _sentence(fix), "error")


def _bad(reading: Reading, summary: Summary) -> Iterator[Notice]:
    if not reading.bad:
        return
    count, total = len(reading.bad), len(reading.bad) + len(reading.table)
    reasons = f"The first is row '{reading.bad[0].id}': {reading.bad[0].reason}."
    what = f"{counted(count, 'bad row')} of {total:,} ({_share(count, total)}), which training leaves out. {reasons}"
    yield Notice(what, "The section on bad rows lists them by file and row.", "warning")


def _truncated(reading: Reading, summary: Summary) -> Iterator[Notice]:
    table, config, limits = reading.table, reading.config, reading.processor.chat.limits
    count = int(table.truncated.sum())
    if not count:
        return
    if reading.kind == "contrastive":
        key, limit = "model.text.max_length", f"{limits.length} tokens"
        fix = f"set {key}={round_up(int(table.whole_tokens.max()) + 1, 8)}, which holds the longest of those measured"
    else:
        limit = f"{limits.length:,} tokens" + (f" and {limits.targets:,} scored ones" if limits.targets else "")
        most = [_size(table, share) for share in MOST]
        keys = ["data.buckets"] if config.data.buckets else []
        keys += ["data.max_length"] if most[-1][0] > config.data.max_length else []
        sizes = [f"{tokens:,} tokens and {targets:,} scored" for tokens, targets in dict.fromkeys(most)]
        whose = [f"{100 * MOST[0]:g} % of the rows", "the longest of those measured"][-len(sizes) :]
        fits = ", ".join(f"{size} for {rows}" for size, rows in zip(sizes, whose, strict=True))
        fix = f"raise {' and '.join(keys)}: {fits}"
    cut = table.truncated & (table.whole_tokens > table.tokens)
    lost = int((table.whole_tokens - table.tokens)[cut].sum())
    more = f" They lose {_share(lost, int(table.whole_tokens[cut].sum()))} of their tokens." if lost else ""
    level = "warning" if count >= 0.01 * len(table) else "note"
    yield Notice(
        f"{_share(count, len(table))} of the rows ({count:,}) are longer than the limit of {limit}: their text is "
        f"truncated.{more}", _sentence(f"{fix}; or leave such rows out of the data"), level,
    )  # fmt: skip


def _size(table: RowTable, share: float) -> tuple[int, int]:
    """Tokens and scored tokens of a bucket that holds this share of the rows whole, as far as they were measured."""
    sizes = ((table.whole_tokens, TOKEN_STEP), (table.whole_targets, TARGET_STEP))
    tokens, targets = (round_up(int(np.quantile(one, share, method="inverted_cdf")), step) for one, step in sizes)
    return tokens, targets


def _padding(reading: Reading, summary: Summary) -> Iterator[Notice]:
    epoch = summary.epoch
    if epoch is None or not epoch.positions:
        return
    unused = [use for use in epoch.uses if not use.batches]
    if unused and len(epoch.uses) > 1:
        sizes = ", ".join(f"({use.tokens}, {use.targets})" for use in unused)
        yield Notice(f"No batch of the first epoch is in the bucket {sizes}.", "Remove it from data.buckets.", "note")
    if epoch.padding < MUCH_PADDING or reading.kind == "contrastive":
        return
    fixes = []
    if (better := summary.suggested) is not None and better.epoch is not None:
        buckets = ", ".join(map(str, better.buckets))
        saved = 1 - better.epoch.positions / epoch.positions
        fixes.append(f"set data.buckets=({buckets}), which computes {_share(saved, 1)} fewer positions")
    fits = [one for one in summary.packings if one.epoch and one.epoch.positions < 0.95 * epoch.positions]
    if fits:
        best = min(fits, key=lambda one: one.epoch.positions if one.epoch else 0)
        assert best.epoch is not None
        where = " with data.buckets=()" if best.from_data and reading.config.data.buckets else ""
        saved = 1 - best.epoch.positions / epoch.positions
        fixes.append(f"set data.packing={best.packing}{where}, which computes {_share(saved, 1)} fewer")
    level = "warning" if fixes else "note"
    fix = "; ".join(fixes) or "neither other buckets nor packing would save much"
    yield Notice(f"{_share(epoch.padding, 1)} of the token positions of an epoch are padding.", _sentence(fix), level)


def _images(reading: Reading, summary: Summary) -> Iterator[Notice]:
    table, limits = reading.table, reading.processor.chat.limits
    if limits.images and not table.images.any():
        yield Notice(
            "No row has an image, but every row is computed with space for one.",
            "Set data.images_per_row=0, unless another stage needs it.", "warning",
        )  # fmt: skip
    elif limits.images > (most := int(table.images.max())):
        yield Notice(
            f"No row has more than {counted(most, 'image')}, but every row is computed with {limits.images} slots.",
            f"Set data.images_per_row={most}.", "warning",
        )  # fmt: skip
    elif summary.slots is not None and summary.slots < FEW_PATCHES:
        empty = int((table.images == 0).sum())
        yield Notice(
            f"{_share(1 - summary.slots, 1)} of what the encoder computes are empty image slots or patches "
            f"({counted(empty, 'row')} without an image).",
            "Train rows without images apart. A smaller data.image.max_patches pads less, and makes large images "
            "smaller.", "note",
        )  # fmt: skip


def _duplicates(reading: Reading, summary: Summary) -> Iterator[Notice]:
    found, size = summary.duplicates, len(reading.table)
    if found.surplus:
        yield Notice(
            f"Repeated rows, with the texts and images of an earlier one: {found.surplus:,} of {size:,} "
            f"({_share(found.surplus, size)}).",
            "Remove them, unless they are meant to count more than once.", "warning",
        )  # fmt: skip
    if found.prompts and reading.kind not in ("preference", "unpaired"):
        rows = sum(map(len, found.prompts))
        yield Notice(
            f"Different answers to the same prompt with the same images: {counted(len(found.prompts), 'prompt')} in "
            f"{rows:,} rows.",
            "Look at the section on duplicates: are these other wordings, or contradictions?", "note",
        )  # fmt: skip


def _pairs(reading: Reading, summary: Summary) -> Iterator[Notice]:
    table = reading.table
    if reading.equal_pairs:
        yield Notice(
            f"{counted(reading.equal_pairs, 'pair')} with the same chosen and rejected answer are among the bad rows.",
            "Remove them: they hold no preference.", "note",
        )  # fmt: skip
    if summary.duplicates.alike:
        yield Notice(
            f"{counted(summary.duplicates.alike, 'pair')} whose answers differ only in white space or letter case.",
            "Remove them, unless that is the preference you want to train.", "warning",
        )  # fmt: skip
    both = (table.chosen > 0) & (table.rejected > 0)
    if not both.any() or reading.kind != "preference":
        return
    means = float(table.chosen[both].mean()), float(table.rejected[both].mean())
    ratio = max(means) / min(means)
    if ratio >= LONGER:
        longer, shorter = ("chosen", "rejected") if means[0] > means[1] else ("rejected", "chosen")
        yield Notice(
            f"The {longer} answers are {ratio:.1f} times as long as the {shorter} ones ({means[0]:.0f} against "
            f"{means[1]:.0f} tokens, chosen first), so a model can learn the length.",
            "Set objective.ld_alpha below 1, or take a loss that normalises by length (sigmoid_norm, simpo, ipo).",
            "note",
        )  # fmt: skip


def _columns(reading: Reading, summary: Summary) -> Iterator[Notice]:
    size = len(reading.table)
    for one in summary.columns:
        have = summary.values.get(one.column, 0)
        if not one.required or have >= size:
            continue
        lack = counted(size - have, "row")
        what = f"The reward '{one.reward}' reads the column '{one.column}', which has no value in {lack}."
        there = ", ".join(summary.values) or "none"
        yield Notice(what, f"The columns that rows have: {there}.", "warning" if have else "error")


def _left(reading: Reading, summary: Summary) -> Iterator[Notice]:
    size, batch = len(reading.table), reading.config.data.batch_size
    left = size % batch
    if not reading.endless and size >= batch and left > MUCH_LEFT * size:
        yield Notice(
            f"An epoch has only full batches of {batch}, so it leaves out {left:,} rows ({_share(left, size)}), others "
            "in each epoch.", "A smaller data.batch_size leaves out fewer.", "note",
        )  # fmt: skip


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
