"""Stage 2, PPO arm: as stage2_grpo.py, with a value head and generalised advantages in the place of groups.

The paper's PPO (Table C) is LLaVA-RLHF's released model, whose reward model of 13B parameters is a confound; here the
reward is whether the final answer is right, the same as for GRPO.
"""

from pivot_jax.config import include


def get_config():
    return include(__file__, "stage2_grpo.py") | {
        "name": "stage2_ppo",
        "rl.algorithm": "ppo",
        "rl.responses": 1,  # no group is needed: as many prompts as GRPO has responses
        "data.sources.0.sampling": "random:120000",
        "data.batch_size": 512,
        "data.max_length": 1536,
        "data.buckets": ((1536, 512),),
        "optimizer.rules": (("value/.*", 1e-5), (".*", 1e-6)),  # the head starts at zero, so it learns faster
    }
