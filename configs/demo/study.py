"""The study of `make demo`, not a config of a run: the world of its images, their number, seeds, and probes."""


def get_config():
    return {
        # Chosen such that a model of 0.3M parameters learns it within minutes (trial on one core: 55 % of test
        # answers after 900 steps of stage 1b, 20 % with a blank image). Always two things: in a world with single
        # ones there are so few layouts that a model learns which are missing. Fields: data.scenes.World.
        "world": {
            "image_size": 32,
            "grid": 2,
            "min_objects": 2,
            "max_objects": 2,
            "colors": ("red", "green", "blue", "yellow"),
            "shapes": ("circle", "square", "triangle"),
            "digit_share": 0.1,
            "noise": 8.0,
            "turns": 1,
            "sentence_share": 0.15,
            "describe_share": 1.0,
            "questions": (
                ("color", 0.28),
                ("shape", 0.24),
                ("place", 0.2),
                ("count", 0.08),
                ("digit", 0.06),
                ("compare", 0.06),
                ("relation", 0.04),
                ("exists", 0.04),
            ),
        },
        "sizes": {
            "caption": 3000,
            "vqa": 16000,
            "stage3": 4000,
            "preference": 1200,
            "preference_test": 400,
            "probe_train": 800,
            "probe_val": 300,
            "probe_test": 800,
            "test": 600,
        },
        "data_seed": 0,  # images and texts are the same for all training seeds
        # A training seed changes everything from stage 0 on: weights, order of rows, heads of the probes.
        "seeds": (0, 1),
        "vocabulary": 512,
        "max_new_tokens": 16,
        "segmentation_seeds": 2,
        "map_pairs": 48,  # pairs whose gradient maps are scored
    }
