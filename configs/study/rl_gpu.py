"""The study of rl_mini.py at the size of gpu.py, for one GPU: 64-pixel scenes, a decoder of 30M parameters, five seeds.

Not a config of a run. We have not run it yet.
"""

from pivot_jax.config import include


def get_config():
    mini, gpu = include(__file__, "rl_mini.py"), include(__file__, "gpu.py")
    world, sizes = gpu["data"]["world"], gpu["data"]["sizes"]
    training = mini["factors"]["encoder"]
    own = mini["measures"]["own"]
    return mini | {
        "title": "What makes RL different from SFT? Seven arms from one model on the same prompts, five seeds, one GPU",
        "subtitle": gpu["subtitle"],
        "scope": (gpu["scope"][0], *mini["scope"][2:]),
        "data": gpu["data"],
        "seeds": gpu["seeds"],
        # Frozen or not comes last: its rules replace those of the size.
        "factors": {"size": {"large": gpu["factors"]["encoder"]["large"]}, "encoder": training},
        "measures": {name: one | {"world": world} if "world" in one else one for name, one in mini["measures"].items()}
        | {"own": own | {"set": own["set"] | {"data.batch_size": 1000}}},
        "stages": {
            name: stage
            | {"minutes": 0.0, "resources": {"gpu": 1}}
            | ({"rows": sizes["preference"]} if stage.get("rows") else {})
            for name, stage in mini["stages"].items()
        },
        "machine": gpu["machine"],
        "threads": gpu["threads"],
        "platform": gpu["platform"],
    }
