"""Real files at small widths: the 384-pixel preprocessing and the Qwen2.5 vocabulary of the full size, a tiny model.

Every stage trains in minutes on two CPU cores and shows that the real formats, lengths and tokenizer work. The data is
read from the folder that the environment variable PIVOT_SHARED_DATA names, by default ../shared/data:

    qwen2_5_vl_processor/                 tokenizer and config files of Qwen/Qwen2.5-VL-7B-Instruct
    llava_pretrain_mini/data.json         500 rows of LLaVA-Pretrain, in LLaVA's format
    scienceqa_test_img/data.jsonl         1,000 test questions of ScienceQA: id, image, question, choices, hint, answer
    mathvision/data.jsonl                 MATH-Vision: id, question, options, answer, image
    mathvision/preference_pairs.jsonl     289 pairs of model answers to them: id, image, question, chosen, rejected
    geometry3k_test_overlay/data.jsonl    Geometry3K: id, image, question, choices, answer
    k12_math_mini/data.json               K12 questions of MM-EUREKA: id, question, answer, image_path

Images are beside each file, at the paths that its rows name. Each config says which of them it reads, and every path is
a key that the command line can set.
"""

from pivot_jax.config import from_environment

DATA = from_environment("PIVOT_SHARED_DATA", "../shared/data")


def get_config():
    return {
        # Patches of 32 pixels: 144 image tokens instead of 576.
        "model.vision.image_size": 384,
        "model.vision.patch_size": 32,
        "model.vision.width": 128,
        "model.vision.depth": 5,
        "model.vision.heads": 4,
        "model.vision.mlp_dim": 512,
        # The vocabulary is the most expensive part here: 151,936 rows of the embedding, tied with the output head.
        "model.decoder.vocab_size": 151936,
        "model.decoder.width": 64,
        "model.decoder.depth": 4,
        "model.decoder.heads": 4,
        "model.decoder.kv_heads": 2,
        "model.decoder.mlp_dim": 256,
        "tokenizer.path": f"{DATA}/qwen2_5_vl_processor",
        "data.image.preset": "siglip",
        "data.image.size": 384,
        "data.batch_size": 16,
        "train.log_every": 1,
        "train.checkpoint_every": 50,
    }
