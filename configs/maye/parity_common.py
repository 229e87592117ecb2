"""MAYE as its code was released, quirks included, for a config of Qwen2-VL or Qwen2.5-VL that includes this file.

Each key can be set otherwise; without it the run does what the comment calls correct. Batch sizes are of its 7 training
GPUs.
"""


def get_config():
    return {
        "objective.name": "policy",
        # Whitened returns with their mean added back, token means of micro-batches, a clamp after the mean of the KL.
        # Correct: rl.whitened_mean="removed", rl.aggregation="token_mean", rl.kl_clamp="none".
        "rl.algorithm": "maye",
        "rl.statistics_parts": 7,  # whitening over the responses of one rank. Correct: 1
        "rl.text_positions": True,  # log-probs of another model than the sampler's. Correct: False
        # A judge with false positives, a format that counts no answer, a language that counts Han characters only.
        # Correct: math; format; language.
        "rl.rewards": (
            {"name": "maye_math"},
            {"name": "format", "style": "maye"},
            {"name": "language", "style": "maye"},
        ),
        "rl.penalty_truncated": True,  # the score of a truncated response is -0.1, right or not. Correct: False
        "rl.penalty_min_tokens": 2,  # and so is that of a bare end token. Correct: 0
        "rl.responses": 1,
        "rl.temperature": 1.0,
        "rl.max_tokens": 2048,
        "rl.minibatches": 32,
        "hardware": ("h100-7",),  # its 7 training GPUs
        "data.batch_size": 896,
        "train.accumulate": 2,
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 5e-6)),
        "optimizer.warmup_ratio": 0.1,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.95,
        "optimizer.eps": 1e-5,
        "optimizer.weight_decay": 0.01,
        "optimizer.clip": 1.0,
        "optimizer.master_dtype": "bfloat16",  # at this learning rate most updates are lost. Correct: float32
    }
