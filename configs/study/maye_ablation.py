"""Which of MAYE's mistakes matter? Reinforce++ with each of them alone, with all, and with none, from one Stage 1b.

Not a config of a run. A tiny Qwen2.5-VL (M-RoPE) learns scenes and rendered geometry, and then answers geometry. For
two cores.
"""

from pivot_jax.config import include

# What the released code does, and what each is called here (configs/maye/parity_common.py explains them).
MISTAKES = {
    "mean": ("mean added back", {"rl.whitened_mean": "kept"}),
    "positions": ("1-D positions in training", {"rl.text_positions": True}),
    "bfloat16": ("bfloat16 master weights", {"optimizer.master_dtype": "bfloat16"}),
    "ranks": ("statistics of 7 ranks", {"rl.statistics_parts": 7}),
    "penalty": ("-0.1 where truncated", {"rl.penalty_truncated": True, "rl.penalty_min_tokens": 2}),
    "format": (
        "format reward",
        {"rl.rewards": ({"name": "math", "column": "answer"}, {"name": "format", "style": "maye"})},
    ),
}
TEST = {"format": "geometry_tasks", "split": "test", "seed": 2, "sampling": "first:600"}


def asked(temperature):
    return {
        "kind": "responses",
        "per_question": 0,
        "set": {
            "data.sources": (TEST,),
            "data.batch_size": 200,
            "rl.responses": 1,
            "rl.max_tokens": 48,
            "rl.block": 8,
            "rl.temperature": temperature,
            "rl.rewards": ({"name": "math", "column": "answer"},),
        },
    }


def get_config():
    demo = include(__file__, "../demo/study.py")
    everything = {key: value for _, keys in MISTAKES.values() for key, value in keys.items()}
    arms = {name: (f"+ {title}", keys) for name, (title, keys) in MISTAKES.items()}
    arms |= {"all": ("+ all of them", everything)}
    rl = {
        "config": "../maye/tiny_rl.py:{data}",
        "init": {"": "run:{stage1b}"},
        "measures": ("greedy", "sampled", "training"),
        "row": (80, 24),
        "minutes": 3.0,
    }
    return {
        "title": "Which of MAYE's mistakes matter? Reinforce++ with each, with all and with none",
        "subtitle": "A tiny Qwen2.5-VL of 0.6M parameters on rendered geometry, five seeds",
        "scope": (
            "The model is tiny, its answers have at most 48 tokens, and one learning rate was used; a mistake that "
            "does nothing here may matter at the paper's size, above all bfloat16 at its learning rate of 5e-6.",
        ),
        "data": demo["data"],
        "seeds": (0, 1, 2, 3, 4),
        "arms": {"stage1": ("stage1b", "Stage 1b"), "correct": ("correct", "Reinforce++")}
        | {name: (name, title) for name, (title, _) in arms.items()},
        "baseline": "correct",
        "stages": {
            "stage1b": {
                "config": "../maye/tiny_stage1b.py:{data}",
                "measures": ("greedy", "sampled"),
                "row": (75, 20),
                "minutes": 6.0,
            },
            "correct": rl,
        }
        | {name: rl | {"set": keys} for name, (_, keys) in arms.items()},
        "measures": {
            "greedy": asked(0.0),
            "sampled": asked(1.0),
            "training": {"kind": "heldout", "reward": "math"},
        },
        "endpoints": {
            "Which mistakes cost accuracy?": {
                "test, T = 1": ("arm", "sampled", "accuracy"),
                "test, greedy": ("arm", "greedy", "accuracy"),
                "validation, last": ("arm", "training", "last"),
                "validation, lost since the best": ("arm", "training", "fall"),
            },
        },
        "controls": {"Stage 1b, T = 1": ("stage1b", "sampled", "accuracy")},
        "threads": 1,
        "platform": "cpu",
    }
