"""Stage 1b: everything on LLaVA-OneVision's single-image mixture, 3.2M rows. About 12,500 steps."""

from pivot_jax.config import include


def get_config():
    return include(__file__, "common.py") | {
        "name": "stage1b",
        "init": {"": "run:runs/pivot/stage1a"},
        # The mixture of [U] scripts/.../single_image.yaml. Some of its parts were never released, so the 3.2M rows must
        # be assembled from the released ones.
        "data.sources": (
            {
                "format": "llava_yaml",
                "path": "data/onevision/single_image.yaml",
                "image_root": "data/onevision/images",
            },
        ),
        "data.loss_mask": "pivot",  # also turn headers and newlines, as [C]
        "data.buckets": ((768, 192), (1024, 448), (1536, 960), (2048, 2048)),
        # [C] gives the encoder 2e-6; [P] states 1e-5 only.
        "optimizer.rules": (("vision/.*", 2e-6), (".*", 1e-5)),
    }
