"""Every key of a run's config, with its default, unit and meaning.

Config files (``configs/**.py``) hold only what differs from here. Values are plain: bool, int, float, str, tuples,
dicts. :mod:`pivot_jax.config.check` has the allowed strings and ranges, and rejects a wrong value before anything is
built.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from pivot_jax.config import online_rl


def base() -> ConfigDict:
    """The documented defaults: a small SFT run with random weights. Locked: new keys cannot be added."""
    config = ConfigDict(
        {
            "name": "run",  # shown in logs and reports; does not change the result
            "seed": 0,  # root of every random key: weights, row order, sampling
            "model": _model(),
            # Where weights come from, by parameter prefix ("vision", "projector/fc1", "" for all):
            # "run:WORKDIR[@STEP]", "pack:DIR" or "hf:DIR", each with an optional ":PREFIX" in the source. "hf:"
            # takes a folder, a model's name on the hub (ORG/NAME), or for "projector" a file of LLaVA's mm_projector.
            # The longest prefix wins; what no prefix names is random from the seed.
            "init": {},
            "tokenizer": _tokenizer(),
            "data": _data(),
            "objective": _objective(),
            "rl": online_rl.section(),
            "optimizer": _optimizer(),
            "lora": _lora(),
            # Hardware of this mesh and batch, by `pivot-jax plan`'s names: ("v5e-16", "h200-8"). Only plan reads it.
            "hardware": (),
            "parallel": {
                # Devices along each mesh axis; their product is the number of devices. -1 (one axis only): the rest.
                "data": -1,  # rows split, weights copied
                "fsdp": 1,  # rows split, weights split too and gathered where they are used
                "tensor": 1,  # heads and MLP columns split; must divide heads, kv_heads and mlp_dim
            },
            "train": _train(),
            "eval": _eval(),
        }
    )
    return config.lock()


def _model() -> dict[str, Any]:
    return {
        "dtype": "float32",  # float32 | bfloat16: matmuls; weights, norms, softmax and log-probs are always float32
        "vision": {
            **_encoder(),
            # Qwen2-VL's and Qwen2.5-VL's own family, beside those of _encoder: qwen2_vl | qwen2_5_vl. They bring their
            # projector, whose parameters are projector/norm, fc1 and fc2. These and siglip2_naflex take
            # variable-resolution images as patches (their number is data.image.max_patches; image_size is not read).
            "window": 112,  # qwen2_5_vl: pixels per side of the windows that its blocks attend within
            "full_blocks": (1, 3),  # qwen2_5_vl: the blocks, from 0, that attend over the whole image
        },
        # A second encoder of the same images, resized on the device. Its features are concatenated with those of the
        # first, patch by patch. Of its keys a ConvNeXt reads name, image_size, patch_size, eps, activation, widths and
        # depths.
        "second": {
            "kind": "none",  # none | vit | convnext
            **_encoder(),
            "widths": (),  # convnext: width of each stage
            "depths": (),  # convnext: blocks of each stage
        },
        "projector": {
            "layers": 2,  # new Linear layers, GELU between; hidden width is the decoder's
            "newline": False,  # a learned vector that ends the rows of a tiled image (data.image.max_tiles above 1)
            "reuse": 0,  # frozen layers taken from a pack and put before the new ones: 0 | 1 | 2
        },
        "decoder": _decoder(),
        "text": {  # text tower of stage 0 only; its vocabulary is the tokenizer's
            "width": 64,
            "depth": 3,
            "heads": 4,
            "mlp_dim": 256,
            "max_length": 32,  # tokens of a caption, longer ones are truncated
        },
    }


def _encoder() -> dict[str, Any]:
    return {
        # A name of models.zoo, which then sets the dimensions; "" takes them from below. "NAME@PIXELS" is that
        # encoder for images of another size.
        "name": "",
        # siglip (and SigLIP2) | siglip2_naflex | clip | dinov2 | vit_mae | vit (supervised, MoCo-v3): class token,
        # norms, layer scale, and which features an MLLM takes; models.vit.FAMILIES says how they differ
        "family": "siglip",
        "image_size": 32,  # pixels, square; equal to data.image.size
        "patch_size": 8,  # pixels; the last pixels of a row that fill no patch are left out, as a convolution does
        "width": 64,
        "depth": 4,  # blocks; of siglip and clip an MLLM computes depth - 1 of them (penultimate features)
        "heads": 4,  # divides width
        "mlp_dim": 256,
        "eps": 1e-6,  # layer norm
        # gelu_tanh (SigLIP) | gelu (exact) | quick_gelu (CLIP, Qwen2-VL) | silu (Qwen2.5-VL)
        "activation": "gelu_tanh",
        # siglip: attention-pool head, which stage 0 and exported towers need; vit: pooler; the others have none
        "pool_head": True,
        "registers": 0,  # register tokens (dinov2)
        "gated": False,  # SwiGLU in place of the MLP, with hidden width mlp_dim (dinov2; the giant has it)
        # Side of the position table where it differs from image_size // patch_size (a checkpoint of another
        # resolution); it is resized in the forward pass. 0: that of the images.
        "pos_grid": 0,
        # none | dots (keep the results of matmuls and attention) | full (recompute each block in the backward pass)
        "remat": "none",
        "scan_layers": True,  # one compiled block for all layers; False unrolls (slower to compile)
    }


def _decoder() -> dict[str, Any]:
    return {
        "name": "",  # a name of models.zoo, or "" for the dimensions below
        "vocab_size": 512,  # rows of the embedding; at least the tokenizer's size
        "width": 64,
        "depth": 4,
        "heads": 4,  # query heads
        "kv_heads": 2,  # key/value heads; divides heads
        "head_dim": 0,  # 0: width / heads
        "mlp_dim": 192,
        "max_positions": 32768,  # tokens of context that an export declares (max_position_embeddings)
        "rope_theta": 1e6,  # base of the rotary wavelengths
        # Positions beyond the pretrained context, as config.json names them; models.rotary.FIELDS has the
        # keys that a type reads.
        "rope_scaling": {
            "rope_type": "default",  # default (none) | linear | dynamic | yarn | llama3
            "factor": 1.0,  # longer context / pretrained one
            "original_max_position_embeddings": 0,  # pretrained context, tokens: dynamic, yarn, llama3
            "low_freq_factor": 1.0,  # llama3
            "high_freq_factor": 4.0,  # llama3
            "beta_fast": 32.0,  # yarn
            "beta_slow": 1.0,  # yarn
            "attention_factor": 0.0,  # yarn; 0: from mscale and mscale_all_dim, or else from factor
            "mscale": 0.0,  # yarn
            "mscale_all_dim": 0.0,  # yarn
            "truncate": True,  # yarn
        },
        # M-RoPE (Qwen2-VL): how many pairs of a head turn by time, row and column, with the sum head width / 2,
        # such as (16, 24, 24); () is one position per token.
        "mrope_section": (),
        "eps": 1e-6,  # RMS norm
        "tied": True,  # output head is the embedding
        # Id of a token whose embedding gets no gradient where it occurs (-1: none). transformers does this for the
        # pad_token_id of config.json, so imported models have it; a tied head still trains its row.
        "padding_idx": -1,
        "qkv_bias": True,  # biases on q, k and v: Qwen2 has them, Qwen3 and Llama have not
        "qk_norm": False,  # RMS norm of each head's queries and keys: Qwen3
        "remat": "none",  # as for vision
        "scan_layers": True,
    }


def _tokenizer() -> dict[str, Any]:
    return {
        "path": "",  # folder that transformers.AutoTokenizer reads
        "image_token": "<|image_pad|>",  # repeated once per image feature; must be in the vocabulary
        # Tokens before and after the image tokens of each image, such as Qwen2-VL's
        # ("<|vision_start|>", "<|vision_end|>"); () for none.
        "image_around": (),
        # How turns are written: chatml (Qwen), llama3, or template, which is the tokenizer's own chat template. The
        # first two are exactly the papers' rows; data.processing.jinja says what is scored in a template's rows.
        "chat": "chatml",
        "chat_template": "",  # of tokenizer.chat=template: Jinja file in place of the tokenizer's chat template
        # LLaVA's system text, not Qwen2.5's own default. "" has no system turn; with tokenizer.chat=template it leaves
        # that to the template, which may have a text of its own.
        "system": "You are a helpful assistant.",
    }


def _data() -> dict[str, Any]:
    return {
        # One dict per source: {"format": "llava" | "llava_yaml" | "mmpr" | "trl" | "scienceqa" | "tfds" | ..., "path":
        # file or folder, "image_root": folder, "sampling": "all" | "first:N" | "first:P%" | "end:N" | "random:N",
        # "split": ...}; README.md lists the formats, data.sources documents each one's keys. Of prompts for online RL:
        # "maye" | "easyr1" | "verl" | "vlm_r1" | "trl", every other format (the answers are then for the rewards), or
        # {"format": "scenes_tasks", "tasks": (("count", 1.0), ...), ...}, which makes prompts without an end.
        "sources": (),
        "template": "chat",  # chat (turns, see tokenizer.chat) | plain (stage 1a: image, caption, newline; no turns)
        "loss_mask": "response_only",  # response_only | pivot (turn headers and newlines too, as in the paper's code)
        "max_length": 2048,  # tokens of a row after image expansion; text is truncated on the right, an image never
        # Static shapes of sequences, ascending: ((tokens, scored targets), ...). A batch takes the first that holds it.
        # (): one bucket, as large as the longest sequence (rounded up).
        "buckets": (),
        # Rows that share a sequence, so that short ones waste no padding (sft, preference). A batch is then
        # batch_size / packing sequences, in which a long row gets short companions; the loss of a batch is the same.
        # Divides the rows of a process and of a micro-batch.
        "packing": 1,
        # Every row is tokenised before training (large sets once, for all runs): bad rows are set aside, lengths known.
        # False: a run of any number of rows starts at once, and a bad row is masked where a batch has it. Needs one
        # bucket and packing 1, and no stored reference log-probs. For millions of rows; not for online RL.
        "tokenize_first": True,
        # Image slots of a row; a row with more images is a bad row. 0: texts alone, and the encoder does not run.
        "images_per_row": 1,
        "image": {
            # Any-resolution tiling (LLaVA-OneVision): an image is an overview and up to max_tiles - 1 tiles of size
            # pixels. 1: one square. Needs model.projector.newline and images_per_row 1.
            "max_tiles": 1,
            "preset": "siglip",  # preprocessing of images: a key of processing.images.PRESETS
            "size": 32,  # pixels, square
            # For presets that keep an image's size and split it into patches (qwen2_vl, qwen2_5_vl, siglip2_naflex):
            "max_patches": 0,  # patches of an image's list; an image with more is made smaller
            "min_pixels": 3136,  # Qwen: a smaller image is enlarged
            "max_pixels": 12845056,  # Qwen: a larger one is made smaller, also where max_patches would hold it
        },
        # Rows (sft, contrastive) or pairs (preference) of an optimizer step, or prompts of a rollout (policy), over all
        # processes.
        "batch_size": 16,
        "shuffle": True,  # order from (seed, epoch); False keeps the files' order
        "workers": 2,  # threads or processes that read and decode images; does not change the result
        # thread | process. Processes share the first pass over all rows too, and leave the interpreter lock to the
        # train loop; they take a few seconds to start and some 400 MiB each.
        "worker_kind": "thread",
        "prefetch": 2,  # batches prepared ahead; does not change the result
        "cache_rows_mib": 256,  # memory for tokenised rows, MiB; what does not fit is tokenised again in each epoch
        "cache_images_mib": 512,  # preprocessed images are kept in memory if all of them fit here, MiB; 0: never
        # Look for every image file before training; turn off on slow network disks. Presets that split images into
        # patches open every file in any case: its size says how many tokens the row has.
        "check_images": True,
        # The run ends, saved, where reading a row takes longer, such as from a network disk that is gone; 0: no limit.
        "read_timeout_s": 600.0,
        # Rows may name images outside image_root (or the data file's folder); otherwise such a row is bad.
        "allow_outside_root": False,
        "max_bad_share": 0.01,  # the run stops when a larger share of the rows is bad (0 to 1)
    }


def _objective() -> dict[str, Any]:
    return {
        # What is trained for: contrastive (stage 0, SigLIP's loss) | sft (stages 1a, 1b, 2, 3) | preference pairs
        # (stage 2): dpo | mpo | simpo | cpo | orpo | kto, which are presets of terms, or preference, which is exactly
        # the terms below | policy (online RL, see rl).
        "name": "sft",
        # Preference objectives: ((loss, weight), ...) in place of the preset's, such as
        # (("sigmoid", 0.8), ("bco_pair", 0.2), ("sft", 1.0)). The losses are objectives.preference_losses.LOSSES:
        # sigmoid | hinge | ipo | exo_pair | nca_pair | robust | bco_pair | sppo_hard | aot | aot_unpaired | apo_zero |
        # apo_down | discopop | sigmoid_norm, which need a reference; simpo | cpo | orpo | margin | sft | unlikelihood,
        # which do not; kto, for rows of one answer with a label, or pairs as two of them.
        "terms": (),
        "beta": 0.1,  # scale of the log-ratios, for the losses that read it
        # Each of the following is read by some losses only; setting one that no term reads is an error.
        # Share of pairs taken as mislabelled, 0 to below 0.5: sigmoid (cDPO), robust, exo_pair (there above 0), aot,
        # aot_unpaired, simpo, cpo.
        "label_smoothing": 0.0,
        # f-DPO's divergence between policy and reference: reverse_kl (DPO) | forward_kl | js_divergence |
        # alpha_divergence. For sigmoid, hinge, ipo, exo_pair, robust, discopop and sigmoid_norm.
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,  # α of alpha_divergence
        # LD-DPO: weight of the longer answer's tokens beyond the length of the shorter one, 0 to 1; 1: all count the
        # same. For losses with a reference, except kto.
        "ld_alpha": 1.0,
        # WPO: weight pairs by how likely the policy is to sample them. For losses of pairs with a reference, except
        # aot and aot_unpaired.
        "use_weighting": False,
        "discopop_tau": 0.05,  # discopop: temperature of the mixing coefficient
        # bco_pair: running_mean (subtract the mean of all rewards so far: BCO, InternVL's MPO) | none (today's TRL)
        "bco_shift": "running_mean",
        "simpo_gamma": 0.5,  # simpo: margin, in rewards (β times nats per token)
        "margin": 1.0,  # margin: nats per token by which the chosen answer should lead
        "desirable_weight": 1.0,  # kto: weight of desirable answers
        "undesirable_weight": 1.0,  # kto: weight of the others
        # Of losses with a reference: stored (log-probs computed once before training) | step (frozen model in each
        # step)
        "reference": "stored",
    }


def _optimizer() -> dict[str, Any]:
    return {
        # ((regex over parameter paths, peak learning rate or "frozen"), ...): first full match wins, a parameter that
        # no regex matches is an error.
        "rules": ((".*", 1e-3),),
        "b1": 0.9,  # AdamW
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,  # decoupled: times the learning rate
        "clip": 1.0,  # global gradient norm over what is trained; 0 does not clip
        "warmup_ratio": 0.03,  # share of all steps with linear warm-up from 0
        "schedule": "cosine",  # cosine (to 0) | constant, after the warm-up
        # float32 | bfloat16: what weights and moments are rounded to after every step. With bfloat16 a change of less
        # than 0.2 % of a weight is lost; it saves no memory here, and is there to reproduce code that works so (MAYE).
        "master_dtype": "float32",
    }


def _lora() -> dict[str, Any]:
    return {
        # With a rank above 0 only low-rank adapters of linear layers are trained (and what the targets call "full");
        # all other parameters are frozen, but for PPO's value head. An adapter takes the learning rate that
        # optimizer.rules give to its kernel; a kernel that they freeze gets none.
        "rank": 0,  # 0: no LoRA
        "alpha": 16.0,  # an adapter's product is scaled by alpha / rank
        "rslora": False,  # scale by alpha / sqrt(rank) instead
        # ((regex over parameter paths, "lora" | a rank of its own | "none" | "full"), ...): first full match wins, a
        # parameter that no regex matches is an error. "full" trains the parameter itself, as without LoRA.
        "targets": ((r"decoder/blocks/(attn|mlp)/.*/kernel", "lora"), (".*", "none")),
        # "peft:DIR": adapters start from that folder of PEFT's, of the same ranks and alpha; "": A random, B zero.
        "init": "",
    }


def _train() -> dict[str, Any]:
    return {
        "epochs": 1.0,  # passes over the data, may be a fraction
        "steps": 0,  # optimizer steps; 0: from epochs
        # Relative standard deviation of noise on the parameters before step 0. 1e-6 is a few roundings of float32: runs
        # that differ in the seed of this noise alone show how far rounding moves a result, as another processor would.
        "rounding_noise": 0.0,
        "rounding_seed": 0,  # of this noise
        "accumulate": 1,  # micro-batches per optimizer step; divides data.batch_size
        "log_every": 10,  # steps between lines of metrics.jsonl
        "checkpoint_every": 500,  # steps between checkpoints; the last step is always saved
        "keep": 2,  # newest checkpoints kept
        "best_metric": "",  # a logged metric: its best checkpoint is kept too ("-name": smaller is better); "": none
        # Where the run can be watched, besides metrics.jsonl, which every run writes: tensorboard (in the workdir) |
        # wandb | mlflow | trackio, with pip install 'pivot-jax[trackers]'. Each gets config, metrics, tables of
        # completions with their images, and at the end the run's small files. One that fails is left out with a
        # warning. The libraries' environment variables apply: WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR, ...
        "trackers": ("tensorboard",),
        # Project (MLflow: experiment); "": the library's environment variable, or else pivot-jax. The run's name there
        # is config.name.
        "tracker_project": "",
        # Several processes: where one has not answered for longer, all end with a message. Those that were killed are
        # noticed within seconds; this is for machines that hang or are cut off.
        "peer_timeout_s": 120.0,
    }


def _eval() -> dict[str, Any]:
    return {
        "every": 0,  # steps between evaluations during training, one more after the last step; 0: never
        "at_start": False,  # another one before the first step
        # The benchmarks: {"name": benchmark, "path": its files} and perhaps "limit": first questions (0: all),
        # "toolkit": whose prompt, limits and rules, "scorer": another scorer than the toolkit's, "category" and "unit":
        # columns of your own questions (qa).
        "benchmarks": (),
        "batch_size": 16,  # questions answered together
        "max_new_tokens": 64,  # an answer is truncated here
        "temperature": 0.0,  # 0: greedy; a toolkit whose task samples has its own
    }
