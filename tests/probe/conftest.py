"""Image files and tiny encoders that the tests of probes share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.geometry import Square
from pivot_jax.data.processing.patches import Patches
from pivot_jax.models.encoder import Encoder, EncoderConfig
from pivot_jax.models.vit import ViTConfig
from pivot_jax.train.open import OpenEncoder
from tests.tiny import mllm

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def image_file(path, colour=(255, 0, 0), mode="RGB", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def tiny_encoder(kind: str, seed: int = 0, **changes) -> OpenEncoder:
    """A random encoder of 16-pixel squares (``siglip``, ``clip``) or of up to 16 patches (``siglip2_naflex``)."""
    sizes = dict(image_size=16, patch_size=4, width=12, depth=2, heads=2, mlp_dim=16)
    family = dict(siglip=dict(), clip=dict(family="clip", preset="clip", pool_head=False))
    family["siglip2_naflex"] = dict(family="siglip2_naflex", preset="siglip2_naflex", max_patches=16)
    config = ViTConfig(**sizes, **family[kind], **changes)
    encoder = Encoder(EncoderConfig(config))
    geometry = Patches(config.preset, 4, 16, 0, 0) if kind == "siglip2_naflex" else Square(config.preset, 16, 16)
    return OpenEncoder(f"hf:{kind}", encoder, mllm.random_encoder(encoder, seed=seed), geometry)


@pytest.fixture(scope="session")
def coloured(tmp_path_factory):
    """Noisy images of three colours and many sizes: ``classes``, class folders; ``masks``, of halves in two colours."""
    root, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 9)):
        for i in range(count):
            height, width = (int(side) for side in rng.integers(12, 40, 2))
            left, right = i % 3, int(rng.integers(0, 3))
            whole = np.broadcast_to(np.asarray(COLOURS[left]), (height, width, 3))
            halves = whole.copy()
            halves[:, width // 2 :] = COLOURS[right]
            ids = np.full((height, width), left, np.uint8)
            ids[:, width // 2 :] = right
            for folder, image in ((root / "classes" / split / "rgb"[left], whole), (root / "masks" / split, halves)):
                folder.mkdir(parents=True, exist_ok=True)
                noisy = np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / f"{i:02}.png")
            (root / "masks" / f"{split}annot").mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save(root / "masks" / f"{split}annot" / f"{i:02}.png")
    return root
