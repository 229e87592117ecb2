"""Common to all full-size stages: SigLIP2-So400m/16-384, a 2-layer MLP and Qwen2.5-1.5B-Instruct.

Paths are relative to the working directory (checkpoints/, data/, runs/), and every one is a key that the command line
can set. Evidence for the numbers: [P] the paper (arXiv 2510.16333v2), [C] the authors' released code, [U] LLaVA-NeXT,
from which that code comes.
"""


def get_config():
    return {
        # [C] trains in fp16; bfloat16 needs no loss scaling. Weights, optimizer state, softmax, norms and log-probs are
        # float32.
        "model.dtype": "bfloat16",
        # 27 blocks, of which 26 are computed: features come from the penultimate one [C].
        "model.vision.name": "google/siglip2-so400m-patch16-384",
        "model.vision.remat": "full",  # gradient checkpointing, as in [C]
        "model.decoder.name": "Qwen/Qwen2.5-1.5B-Instruct",
        "model.decoder.remat": "full",
        "tokenizer.path": "checkpoints/Qwen2.5-1.5B-Instruct",
        # One square 384 x 384 image, squashed, no tiles: 576 tokens. [P] names finetune_si.sh of [U], which tiles,
        # but the released scripts [C] do not, and the reported DocVQA and ChartQA levels fit one tile.
        "data.image.preset": "siglip",
        "data.image.size": 384,
        "data.max_length": 2048,
        "data.batch_size": 256,
        "data.workers": 8,
        # AdamW (0.9, 0.999, 1e-8), weight decay 0, clip 1.0, 3 % warm-up, cosine to 0 [C] are the defaults.
        # The weights do not fit on every device, so they are split over all of them.
        "hardware": ("v5e-16", "h200-8"),
        "parallel.data": 1,
        "parallel.fsdp": -1,
        "train.log_every": 1,
        "train.checkpoint_every": 200,
    }
