"""Names of parameters, ours and Hugging Face's: the grammar of the tables in ``families``, read in both directions.

A row says where a parameter of ours is stored in a Hugging Face checkpoint and how the two arrays relate:

    Rule("vision/embed/kernel", "embeddings.patch_embedding.weight", "d c y x -> (y x c) d")

The pattern names the axes of *their* array, then of ours, with the field's letters; the letters' sizes come from
the model's configuration (``configs.sizes``), so the same string defines both shapes, the import and the export.
``{layer}`` in their key makes ours a stack over layers 0..layers-1 (the letter ``layers``, or the one that the rule
names); ``{last}`` is the layer after the stack.

Checkpoints of one model are spelled in several ways (before and after transformers 5, with and without the
wrapper's prefix). ``Layout.spellings`` turns each known spelling into the canonical one, which is what we write:
the spelling of the files on the Hugging Face hub, which every version of transformers reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

Sizes = Mapping[str, Mapping[str, int]]  # first part of our path -> letter or flag -> size


@dataclass(frozen=True)
class Rule:
    """One row of a table. See the module's docstring."""

    ours: str
    theirs: str
    pattern: str
    part: tuple[int, int] = (0, 1)  # theirs holds `part[1]` equal parts along its first axis; ours is number `part[0]`
    when: str = ""  # a flag in the sizes; 0 means that this model has no such parameter, and a file's is ignored
    layers: str = "layers"  # the letter whose size is the number of layers

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.theirs


@dataclass(frozen=True)
class Layout:
    """How one model class is stored in a checkpoint.

    Attributes:
      spellings: (regex at a key's start, replacement); the first that matches is used.
      ignored: canonical keys that are not read: buffers, a second tower, a classifier.
      renames: (regex anywhere in a key, replacement), all used in turn after ``spellings``.
      variant: (regex, rules): a checkpoint in which the regex finds a canonical key is stored by these rules instead.
      zeros: (canonical key, shape in letters) of tensors that the class has and no output of ours depends on; ignored
        when read, written as zeros.
    """

    rules: tuple[Rule, ...]
    spellings: tuple[tuple[str, str], ...] = ()
    ignored: str = r"(?!)"
    renames: tuple[tuple[str, str], ...] = ()
    variant: tuple[str, tuple[Rule, ...]] | None = None
    zeros: tuple[tuple[str, str], ...] = ()

    def canonical(self, key: str) -> str:
        """The key as we write it."""
        for pattern, replacement in self.spellings:
            if re.match(pattern, key):
                key = re.sub(pattern, replacement, key, count=1)
                break
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    def of(self, keys: Iterable[str]) -> Layout:
        """This layout, or its variant if the canonical ``keys`` are spelled by that."""
        if self.variant and any(re.search(self.variant[0], key) for key in keys):
            return replace(self, rules=self.variant[1])
        return self


def linear(ours: str, theirs: str, axes: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """A dense layer. ``axes`` is "in out", two different letters; PyTorch keeps [out, in]."""
    into, out = axes.split()
    kernel = Rule(f"{ours}/kernel", f"{theirs}.weight", f"{out} {into} -> {into} {out}")
    return (kernel, Rule(f"{ours}/bias", f"{theirs}.bias", f"{out} -> {out}")) if bias else (kernel,)


def norm(ours: str, theirs: str, *, bias: bool = True) -> tuple[Rule, ...]:
    scale = Rule(f"{ours}/scale", f"{theirs}.weight", "d -> d")
    return (scale, Rule(f"{ours}/bias", f"{theirs}.bias", "d -> d")) if bias else (scale,)


def within(rules: tuple[Rule, ...], ours: str = "", theirs: str = "", when: str = "") -> tuple[Rule, ...]:
    """The rules with both paths moved below a prefix."""
    return tuple(replace(r, ours=ours + r.ours, theirs=theirs + r.theirs, when=r.when or when) for r in rules)


@dataclass(frozen=True)
class Entry:
    """One parameter of ours and the tensors of a checkpoint that make it up.

    ``keys`` has one canonical key per layer when stacked, else one. Shapes are without the layer axis;
    ``their_shape`` is the whole tensor's, with all its parts.
    """

    rule: Rule
    keys: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]  # for each axis of ours, the axes of theirs that it is made of, in order
    part_shape: tuple[int, ...]  # their array's shape, one part only

    @property
    def path(self) -> str:
        return self.rule.ours

    @property
    def their_shape(self) -> tuple[int, ...]:
        return (self.part_shape[0] * self.rule.part[1], *self.part_shape[1:])

    @property
    def our_shape(self) -> tuple[int, ...]:
        """Without the layer axis."""
        shape = []
        for group in self.groups:
            size = 1
            for axis in group:
                size *= self.part_shape[axis]
            shape.append(size)
        return tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Ours, with the layer axis when stacked."""
        return (len(self.keys), *self.our_shape) if self.rule.stacked else self.our_shape


def _parse(pattern: str, letters: Mapping[str, int]) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Pattern → (axes of theirs for each axis of ours, their shape). Axes of size 1 fold into our first axis."""
    left, right = pattern.split("->")
    names = left.split()
    shape = tuple(1 if name == "1" else letters[name] for name in names)
    ones = tuple(axis for axis, name in enumerate(names) if name == "1")
    tokens = re.findall(r"\([^)]*\)|\S+", right)
    groups = [tuple(names.index(name) for name in token.strip("()").split()) for token in tokens]
    return ((*ones, *groups[0]), *groups[1:]), shape


def entries(layout: Layout, sizes: Sizes) -> tuple[list[Entry], set[str]]:
    """The parameters that a model of these sizes has, and the keys that are known but belong to none of them.

    A rule applies when its model part is in ``sizes`` (the first part of our path) and its flag is not 0.
    """
    found: list[Entry] = []
    passed_over: set[str] = set()
    for rule in layout.rules:
        letters = sizes.get(rule.ours.split("/")[0])
        if letters is None:
            continue
        layers = letters.get(rule.layers, 0)
        keys = tuple(rule.theirs.format(layer=i, last=layers) for i in range(layers if rule.stacked else 1))
        if rule.when and not letters[rule.when]:
            passed_over.update(keys)
            continue
        groups, shape = _parse(rule.pattern, letters)
        found.append(Entry(rule, keys, groups, shape))
    return found, passed_over


def zeros(layout: Layout, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the layout's ``zeros``, in the encoder's letters."""
    return {
        key: tuple(1 if name == "1" else sizes["vision"][name] for name in axes.split()) for key, axes in layout.zeros
    }
