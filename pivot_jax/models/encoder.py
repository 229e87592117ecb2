"""What a vision transformer is made of: the families of encoders and how they differ, and one encoder's dimensions."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Traits:
    """What a family has beside the blocks.

    Attributes:
      class_token: a learned token in front of the patches; it has a place in the position table and is no feature.
      pre_norm: a norm behind the embeddings.
      patch_bias: the patch embedding has a bias.
      layer_scale: each branch of a block is scaled per channel (Touvron et al. 2021).
      penultimate: features come from the penultimate block (else from behind the closing norm).
      pool: one vector per image: "attention" (SigLIP's head), "class" (the class token), "dense" (the class token
        through a Linear layer and tanh, where ``pool_head`` is set).
      patch_input: pictures come as lists of patches with their places, of any height and width.
      presets: how its published processors see pictures, keys of ``images.PRESETS``; the first where nothing says.
      registers, gated: the family has variants with register tokens, or with a SwiGLU in place of the MLP.
    """

    presets: tuple[str, ...]
    class_token: bool = True
    pre_norm: bool = False
    patch_bias: bool = True
    layer_scale: bool = False
    penultimate: bool = False
    pool: str = "class"
    patch_input: bool = False
    registers: bool = False
    gated: bool = False


FAMILIES = {
    # SigLIP, and SigLIP2 of fixed resolution
    "siglip": Traits(("siglip", "siglip2"), class_token=False, penultimate=True, pool="attention"),
    "siglip2_naflex": Traits(
        ("siglip2_naflex",), class_token=False, penultimate=True, pool="attention", patch_input=True
    ),
    "clip": Traits(("clip",), pre_norm=True, patch_bias=False, penultimate=True),
    "dinov2": Traits(("dinov2", "dinov2_224"), layer_scale=True, registers=True, gated=True),
    "vit_mae": Traits(("mae", "vit_imagenet")),
    "vit": Traits(("sup", "vit", "moco", "vit_imagenet"), pool="dense"),  # supervised ViT, MoCo-v3
}


@dataclass(frozen=True)
class ViTConfig:
    """Dimensions and numerics of one vision encoder.

    Attributes:
      pos_grid: side of the position table where it is not that of the images; the table is resized in the forward pass.
      pool_head: the pooling head of SigLIP, or the pooler of ViT, is there; other families have none.
      max_patches: p of the arrays that a family with ``patch_input`` is given; 0: as many as the table has. No weight
        depends on it.
      preset: how its pictures are resized and cropped, a key of ``images.PRESETS``.
      mean, std: of the normalisation.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    family: str = "siglip"
    eps: float = 1e-6
    activation: str = "gelu_tanh"
    pool_head: bool = True
    registers: int = 0
    gated: bool = False
    pos_grid: int = 0
    max_patches: int = 0
    preset: str = "siglip"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"vision family '{self.family}' is unknown; there are: {', '.join(FAMILIES)}")
        if self.traits.penultimate and self.depth < 2:
            raise ValueError(f"vision depth is {self.depth}; features come from the penultimate block, so at least 2")
        if self.width % self.heads:
            raise ValueError(f"vision width {self.width} is no multiple of its {self.heads} heads")
        if self.image_size < self.patch_size:
            raise ValueError(f"image size {self.image_size} is smaller than a patch ({self.patch_size})")
        for name in ("registers", "gated"):
            if getattr(self, name) and not getattr(self.traits, name):
                raise ValueError(f"vision {name} is {getattr(self, name)!r}, which family '{self.family}' cannot have")

    @property
    def traits(self) -> Traits:
        return FAMILIES[self.family]

    @property
    def grid(self) -> int:
        """Patches per side (a remainder of the image is cut off, as a strided convolution does)."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image; of a family with ``patch_input``, the most that one has."""
        return (self.max_patches or self.pos_side**2) if self.traits.patch_input else self.grid**2

    @property
    def tokens(self) -> int:
        """Tokens of an image in front of the decoder."""
        return self.patches

    @property
    def prefix(self) -> int:
        """Class and register tokens, which stand in front of the patches and are no features."""
        return int(self.traits.class_token) + self.registers

    @property
    def sequence(self) -> int:
        """Tokens that the blocks compute for an image."""
        return self.patches + self.prefix

    @property
    def pos_side(self) -> int:
        """Side of the position table's grid."""
        return self.pos_grid or self.grid

    @property
    def positions(self) -> int:
        """Rows of the position table."""
        return self.pos_side**2 + int(self.traits.class_token)

    @property
    def blocks(self) -> int:
        """Blocks that the features need: those of the stack ``blocks/``."""
        return self.depth - int(self.traits.penultimate)

    @property
    def has_pool(self) -> bool:
        """Whether the pooled vector needs parameters of its own."""
        return self.pool_head and self.traits.pool != "class"

    def without_final(self) -> ViTConfig:
        """The encoder without what the features do not need."""
        return replace(self, pool_head=False)

    def resized(self, size: int) -> ViTConfig:
        """The encoder for pictures of ``size`` pixels, with the position table that it has."""
        side = self.pos_side
        return replace(self, image_size=size, pos_grid=0 if size // self.patch_size == side else side)

    @property
    def has_final(self) -> bool:
        """Whether there are parameters that the features do not need: those of ``final/``."""
        return self.traits.penultimate or self.has_pool
