"""Names of parameters, ours and Hugging Face's: one table per family, read in both directions.

A row says where a parameter of ours lives in a Hugging Face checkpoint and how the two arrays relate:

    Rule("vision/embed/kernel", "embeddings.patch_embedding.weight", "d c y x -> (y x c) d")

The pattern names the axes of *their* array, then of ours, with the field's letters; the letters' sizes come from
the model's configuration (``configs.sizes``), so the same string gives both shapes, the import and the export.
``{layer}`` in their key makes ours a stack over layers 0..layers-1; ``{last}`` is the layer behind the stack.

Checkpoints of one model are spelled in several ways (before and after transformers 5, with and without the
wrapper's prefix). ``Layout.spellings`` turns each known spelling into the canonical one, which is what we write:
the spelling of the files on the Hugging Face hub, which every version of transformers reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pivot_jax.errors import UserError

Sizes = Mapping[str, Mapping[str, int]]  # first part of our path -> letter or flag -> size


@dataclass(frozen=True)
class Rule:
    """One row of a table. See the module's docstring."""

    ours: str
    theirs: str
    pattern: str
    part: tuple[int, int] = (0, 1)  # theirs holds `part[1]` equal parts along its first axis; ours is number `part[0]`
    when: str = ""  # a flag in the sizes; 0 means that this model has no such parameter, and a file's is passed over

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.theirs


@dataclass(frozen=True)
class Layout:
    """How one model class lies in a checkpoint."""

    rules: tuple[Rule, ...]
    spellings: tuple[tuple[str, str], ...] = ()  # (regex at a key's start, replacement); the first that matches is used
    ignored: str = r"(?!)"  # canonical keys that hold nothing of ours: buffers, a second tower

    def canonical(self, key: str) -> str:
        """The key as we write it."""
        for pattern, replacement in self.spellings:
            if re.match(pattern, key):
                return re.sub(pattern, replacement, key, count=1)
        return key


def _linear(ours: str, theirs: str, axes: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """A dense layer. ``axes`` is "in out", two different letters; PyTorch keeps [out, in]."""
    into, out = axes.split()
    kernel = Rule(f"{ours}/kernel", f"{theirs}.weight", f"{out} {into} -> {into} {out}")
    return (kernel, Rule(f"{ours}/bias", f"{theirs}.bias", f"{out} -> {out}")) if bias else (kernel,)


def _norm(ours: str, theirs: str, *, bias: bool = True) -> tuple[Rule, ...]:
    scale = Rule(f"{ours}/scale", f"{theirs}.weight", "d -> d")
    return (scale, Rule(f"{ours}/bias", f"{theirs}.bias", "d -> d")) if bias else (scale,)


def _within(rules: tuple[Rule, ...], ours: str = "", theirs: str = "", when: str = "") -> tuple[Rule, ...]:
    """The rules with both paths moved below a prefix."""
    return tuple(replace(r, ours=ours + r.ours, theirs=theirs + r.theirs, when=r.when or when) for r in rules)


# d e width, f hidden width of the MLP, n positions, c colour channels, y x pixels of a patch
# (a square matrix needs two letters, so that its transposition shows); s learned queries of the pooling head
_SIGLIP_BLOCK = (
    *_norm("ln1", "layer_norm1"),
    *_linear("attn/q", "self_attn.q_proj", "d e"),
    *_linear("attn/k", "self_attn.k_proj", "d e"),
    *_linear("attn/v", "self_attn.v_proj", "d e"),
    *_linear("attn/out", "self_attn.out_proj", "d e"),
    *_norm("ln2", "layer_norm2"),
    *_linear("mlp/fc1", "mlp.fc1", "d f"),
    *_linear("mlp/fc2", "mlp.fc2", "f d"),
)
_SIGLIP_POOL = (
    Rule("probe", "probe", "s 1 d -> s d"),
    *(
        Rule(f"attn/{name}/{leaf}", f"attention.in_proj_{theirs}", pattern, part=(i, 3))
        for leaf, theirs, pattern in (("kernel", "weight", "e d -> d e"), ("bias", "bias", "e -> e"))
        for i, name in enumerate("qkv")
    ),
    *_linear("attn/out", "attention.out_proj", "d e"),
    *_norm("ln", "layernorm"),
    *_linear("mlp/fc1", "mlp.fc1", "d f"),
    *_linear("mlp/fc2", "mlp.fc2", "f d"),
)
SIGLIP_VISION = (
    Rule("vision/embed/kernel", "embeddings.patch_embedding.weight", "d c y x -> (y x c) d"),
    Rule("vision/embed/bias", "embeddings.patch_embedding.bias", "d -> d"),
    Rule("vision/pos_embed", "embeddings.position_embedding.weight", "n d -> n d"),
    *_within(_SIGLIP_BLOCK, "vision/blocks/", "encoder.layers.{layer}."),
    *_within(_SIGLIP_BLOCK, "vision/final/block/", "encoder.layers.{last}.", when="final"),
    *_within(_norm("norm", "post_layernorm"), "vision/final/", when="final"),
    *_within(_SIGLIP_POOL, "vision/final/pool/", "head.", when="pool"),
)

# d width, f hidden width of the MLP, v vocabulary, q heads x head size, k kv-heads x head size
_QWEN2_BLOCK = (
    *_norm("norm1", "input_layernorm", bias=False),
    *_linear("attn/q", "self_attn.q_proj", "d q"),
    *_linear("attn/k", "self_attn.k_proj", "d k"),
    *_linear("attn/v", "self_attn.v_proj", "d k"),
    *_linear("attn/out", "self_attn.o_proj", "q d", bias=False),
    *_norm("norm2", "post_attention_layernorm", bias=False),
    *_linear("mlp/gate", "mlp.gate_proj", "d f", bias=False),
    *_linear("mlp/up", "mlp.up_proj", "d f", bias=False),
    *_linear("mlp/down", "mlp.down_proj", "f d", bias=False),
)
QWEN2 = (
    Rule("decoder/embed", "model.embed_tokens.weight", "v d -> v d"),
    *_within(_QWEN2_BLOCK, "decoder/blocks/", "model.layers.{layer}."),
    *_norm("decoder/norm", "model.norm", bias=False),
    Rule("decoder/head", "lm_head.weight", "v d -> v d", when="untied"),
)

# i image feature width, d e decoder width
LLAVA_PROJECTOR = (
    *_linear("projector/fc1", "linear_1", "i d"),
    *_linear("projector/fc2", "linear_2", "d e"),
)

_BUFFERS = r"(.*\.)?(position_ids|rotary_emb\.inv_freq)"
_TOWER = r"(model\.)?vision_tower\.(vision_tower\.)?(vision_model\.)?"
_VISION_SPELLINGS = (
    (_TOWER, "vision_model."),
    (r"vision_model\.", "vision_model."),
    (r"(?=embeddings\.|encoder\.|post_layernorm\.|head\.)", "vision_model."),
)

LAYOUTS: dict[str, Layout] = {
    "siglip_vision_model": Layout(_within(SIGLIP_VISION, theirs="vision_model."), _VISION_SPELLINGS, _BUFFERS),
    # the dual tower: only its vision half is ours
    "siglip": Layout(
        _within(SIGLIP_VISION, theirs="vision_model."),
        _VISION_SPELLINGS,
        rf"{_BUFFERS}|text_model\..*|logit_scale|logit_bias",
    ),
    "qwen2": Layout(QWEN2, ((r"(?=embed_tokens\.|layers\.|norm\.)", "model."),), _BUFFERS),
    "llava": Layout(
        (
            *_within(SIGLIP_VISION, theirs="vision_tower.vision_model."),
            *_within(LLAVA_PROJECTOR, theirs="multi_modal_projector."),
            *_within(QWEN2, theirs="language_model."),
        ),
        (
            (_TOWER, "vision_tower.vision_model."),
            (r"(model\.)?multi_modal_projector\.", "multi_modal_projector."),
            (r"model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),  # LLaVA-NeXT's own code
            (r"model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
            (r"(language_model\.)?lm_head\.", "language_model.lm_head."),
            (r"model\.language_model\.(model\.)?", "language_model.model."),
            (r"language_model\.model\.", "language_model.model."),
            (r"model\.(?=embed_tokens\.|layers\.|norm\.)", "language_model.model."),
        ),
        _BUFFERS,
    ),
}


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
        layers = letters.get("layers", 0)
        keys = tuple(rule.theirs.format(layer=i, last=layers) for i in range(layers if rule.stacked else 1))
        if rule.when and not letters[rule.when]:
            passed_over.update(keys)
            continue
        groups, shape = _parse(rule.pattern, letters)
        found.append(Entry(rule, keys, groups, shape))
    return found, passed_over


def layout_of(model_type: str) -> Layout:
    """Raises UserError for a family that has no table."""
    if model_type not in LAYOUTS:
        raise UserError(f"model_type '{model_type}' is not supported (supported: {', '.join(sorted(LAYOUTS))})")
    return LAYOUTS[model_type]
