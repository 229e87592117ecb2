"""Allowed values of each key. Every error is one line: the full key, its value, and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from pivot_jax.errors import UserError, suggest

# (regex over the dotted key, allowed values)
CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (r"model\.dtype", ("float32", "bfloat16")),
    (r"model\.(vision|second|decoder)\.remat", ("none", "dots", "full")),
    (
        r"model\.vision\.family",
        ("siglip", "siglip2_naflex", "clip", "dinov2", "vit_mae", "vit", "qwen2_vl", "qwen2_5_vl"),
    ),
    (r"model\.second\.family", ("siglip", "siglip2_naflex", "clip", "dinov2", "vit_mae", "vit")),
    (r"model\.(vision|second)\.activation", ("gelu_tanh", "gelu", "quick_gelu", "silu")),
    (r"model\.second\.kind", ("none", "vit", "convnext")),
    (r"model\.projector\.reuse", (0, 1, 2)),
    (r"model\.decoder\.rope_scaling\.rope_type", ("default", "linear", "dynamic", "yarn", "llama3")),
    (r"tokenizer\.chat", ("chatml", "llama3", "template")),
    (r"data\.template", ("chat", "plain")),
    (r"data\.worker_kind", ("thread", "process")),
    (r"data\.loss_mask", ("response_only", "pivot")),
    (r"objective\.reference", ("stored", "step")),
    (r"objective\.f_divergence_type", ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")),
    (r"objective\.bco_shift", ("running_mean", "none")),
    (r"rl\.reward_failure", ("zero", "skip", "stop")),
    (r"optimizer\.schedule", ("cosine", "constant")),
    (r"optimizer\.master_dtype", ("float32", "bfloat16")),
    (r"rl\.engine", ("jax", "vllm")),
    (r"rl\.metric_names", ("trl", "verl")),
    (r"rl\.singleton", ("", "zero", "raw")),
    (r"rl\.whitened_mean", ("", "removed", "kept")),
    (r"rl\.kl_in", ("", "loss", "reward")),
    (r"rl\.kl_clamp", ("", "none", "token", "mean")),
)


def _positive(values: tuple[Any, ...], count: int) -> bool:
    return len(values) == count and all(_is_number(x) and 0 < x < math.inf for x in values)


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
# (regex over the dotted key, test, words for the range)
RANGES: tuple[tuple[str, Any, str], ...] = (
    (r"model\.(vision|second|decoder|text)\.(image_size|patch_size|width|depth|heads|kv_heads|mlp_dim|vocab_size|max_length)",
     lambda x: x >= 1, "at least 1"),
    (r"model\.vision\.(registers|pos_grid)", lambda x: x >= 0, "at least 0"),
    (r"model\.projector\.layers", lambda x: x >= 1, "at least 1"),
    (r"model\.decoder\.head_dim", lambda x: x >= 0 and x % 2 == 0, "0 or an even number"),
    (r"data\.image\.(min|max)_pixels", lambda x: x >= 1, "at least 1"),
    (r"data\.image\.max_patches|model\.vision\.window", lambda x: x >= 0, "at least 0"),
    (r"model\.vision\.full_blocks", lambda x: all(type(i) is int and i >= 0 for i in x), "whole numbers from 0"),
    (r"tokenizer\.image_around", lambda x: not x or (len(x) == 2 and all(isinstance(i, str) and i for i in x)),
     "empty, or two tokens: before and after an image"),
    (r"model\.decoder\.rope_(theta|scaling\.(factor|low_freq_factor|high_freq_factor|beta_fast|beta_slow))",
     lambda x: x > 0, "above 0"),
    (r"model\.decoder\.rope_scaling\.(original_max_position_embeddings|attention_factor|mscale|mscale_all_dim)",
     lambda x: x >= 0, "at least 0"),
    (r"model\.decoder\.mrope_section", lambda x: not x or (len(x) == 3 and all(type(i) is int and i > 0 for i in x)),
     "empty, or three whole numbers above 0"),
    (r".*\.eps", lambda x: x > 0, "above 0"),
    (r"data\.(max_length|packing|batch_size|workers|prefetch|image\.(size|max_tiles))",
     lambda x: x >= 1, "at least 1"),
    (r"model\.decoder\.padding_idx", lambda x: x >= -1, "a token's id, or -1 for none"),
    (r"data\.(images_per_row|read_timeout_s)", lambda x: x >= 0, "at least 0"),
    (r"data\.max_bad_share|optimizer\.warmup_ratio", lambda x: 0 <= x <= 1, "between 0 and 1"),
    (r"objective\.(beta|discopop_tau)", lambda x: x > 0, "above 0"),
    (r"objective\.(simpo_gamma|margin|desirable_weight|undesirable_weight)", lambda x: x >= 0, "at least 0"),
    (r"objective\.ld_alpha", lambda x: 0 <= x <= 1, "between 0 and 1"),
    (r"optimizer\.(weight_decay|clip)|eval\.temperature", lambda x: x >= 0, "at least 0"),
    (r"objective\.label_smoothing", lambda x: 0 <= x < 0.5, "at least 0 and below 0.5"),
    (r"optimizer\.b[12]", lambda x: 0 <= x < 1, "at least 0 and below 1"),
    (r"parallel\..*", lambda x: x == -1 or x >= 1, "at least 1, or -1 for the devices that are left"),
    (r"train\.epochs", lambda x: x > 0, "above 0"),
    (r"train\.peer_timeout_s", lambda x: x >= 5, "at least 5"),
    (r"train\.(steps|rounding_noise|rounding_seed)|eval\.every|data\.cache_(rows|images)_mib", lambda x: x >= 0,
     "at least 0"),
    (r"train\.trackers", lambda x: all(one in TRACKERS for one in x) and len(set(x)) == len(x),
     f"some of {', '.join(TRACKERS)}, each once"),
    (r"seed", lambda x: 0 <= x < 1 << 32, "at least 0 and below 2^32"),
    (r"eval\.max_new_tokens", lambda x: x <= 1 << 16, "at most 65536"),
    (r"rl\.(std_eps|clip_low|clip_high|clip_cap|kl_coefficient|importance_(low|high)|filter_(low|high)|"
     r"value_(coefficient|clip)|off_policy_threshold|perception_coefficient|noise_rate)",
     lambda x: x == -1 or x >= 0, "at least 0, or -1 for the preset's"),
    (r"rl\.(gamma|gae_lambda|masked_share|noise_share|noise_middle)",
     lambda x: x == -1 or 0 <= x <= 1, "between 0 and 1, or -1 for the preset's"),
    (r"rl\.noise_start", lambda x: x == -1 or 0 <= x < 1000, "at least 0 and below 1000, or -1 for the preset's"),
    (r"rl\.statistics_parts", lambda x: x == -1 or x >= 1, "at least 1, or -1 for the preset's"),
    (r"rl\.sapo_temperatures", lambda x: not x or _positive(x, 2), "empty, or two numbers above 0"),
    (r"rl\.vespo_shape", lambda x: not x or _positive(x, 4), "empty, or four numbers above 0"),
    (r"rl\.entropy_coefficient", lambda x: x >= -1, "above -1, or -1 for the preset's"),
    (r"rl\.(responses|max_tokens|minibatches|epochs|max_rounds|block)|rl\.heldout\.responses", lambda x: x >= 1,
     "at least 1"),
    (r"rl\.(heldout\.)?temperature|rl\.(top_k|slots|responses_per_row|show_every)", lambda x: x >= 0, "at least 0"),
    (r"rl\.(heldout\.)?top_p", lambda x: 0 < x <= 1, "above 0, at most 1"),
    (r"rl\.min_p", lambda x: 0 <= x <= 1, "between 0 and 1"),
    (r"rl\.reward_(workers|memory_mib)", lambda x: x >= 1, "at least 1"),
    (r"rl\.(reward_timeout_s|vllm\.(patience_s|request_s))", lambda x: x > 0, "above 0"),
    (r"rl\.penalty_min_tokens", lambda x: x >= 0, "at least 0"),
    (r"lora\.rank", lambda x: x >= 0, "at least 0"),
    (r"lora\.alpha", lambda x: x > 0, "above 0"),
    (r"train\.(accumulate|log_every|checkpoint_every|keep)|eval\.(batch_size|max_new_tokens)", lambda x: x >= 1,
     "at least 1"),
)  # fmt: skip
ANY_SIZE = ("siglip2_naflex", "qwen2_vl", "qwen2_5_vl")  # families of encoders for variable-resolution images
FREE = ("init",)  # dicts whose keys the user chooses


def coerce(key: str, value: Any, default: Any) -> Any:
    """``value`` as the type of ``default``: int → float and list → tuple are taken, anything else must fit.

    Raises:
      UserError: another type.
    """
    if isinstance(default, bool):
        ok = isinstance(value, bool)
    elif isinstance(default, float):
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if ok else value
    elif isinstance(default, tuple):
        ok = isinstance(value, (list, tuple))
        value = _tuples(value) if ok else value
    else:
        ok = isinstance(value, type(default)) and not (isinstance(default, int) and isinstance(value, bool))
    if not ok:
        given, wanted = type(value).__name__, type(default).__name__
        single = isinstance(default, tuple) and isinstance(value, (dict, str))
        alone = "; write (…,) around a single one" if single else ""
        raise UserError(
            f"{key}: {value!r} ({given}) is not allowed; it must be of type {wanted}, such as {default!r}{alone}"
        )
    return value


def _tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return value


def check_value(key: str, value: Any) -> None:
    """Rejects a value that no run could use, whatever the other keys say.

    Raises:
      UserError: not one of the choices, or out of range.
    """
    for pattern, allowed in CHOICES:
        if re.fullmatch(pattern, key) and value not in allowed:
            words = ", ".join(map(str, allowed))
            raise UserError(
                f"{key}: {value!r} is not allowed (allowed: {words}){suggest(str(value), map(str, allowed))}"
            )
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}: {value!r} is not allowed; it must be a finite number")
    for pattern, test, words in RANGES:
        if re.fullmatch(pattern, key) and not test(value):
            raise UserError(f"{key}: {value!r} is not allowed; it must be {words}")


def validate(config: ConfigDict) -> None:
    """Rejects keys that contradict each other. Types, choices and ranges were checked when each key was set.

    Raises:
      UserError: names the keys and the fix.
    """
    _check_terms(config.objective.terms)
    _check_template(config)
    _check_shapes(config)
    _check_packing(config)
    _check_untokenised(config)
    _check_sources(config)
    _check_evaluations(config)
    _check_rewards(config.rl.rewards)
    _check_rules("optimizer.rules", config.optimizer.rules, _is_rate, "a learning rate of at least 0, or 'frozen'")
    _check_lora(config.lora)
    _check_best_metric(config)
    for prefix, source in config.init.items():
        if not isinstance(source, str) or not re.match(r"(run|pack|hf):.", source):
            raise UserError(
                f"init.{prefix}: {source!r} is not a weight source; write run:WORKDIR[@STEP][:prefix], "
                "pack:DIR[:prefix] or hf:DIR[:prefix]"
            )


def _check_terms(terms: tuple[Any, ...]) -> None:
    """Their form; which losses and objectives there are is known where the objective is built."""
    for term in terms:
        pair = isinstance(term, tuple) and len(term) == 2 and isinstance(term[0], str)
        if not (pair and _is_number(term[1]) and 0 < term[1] < math.inf):
            raise UserError(
                f"objective.terms: {term!r} is not a pair (loss, weight above 0); write them as "
                "(('sigmoid', 1.0), ('sft', 0.5))"
            )


def _check_template(config: ConfigDict) -> None:
    if config.data.loss_mask == "pivot" and config.tokenizer.chat != "chatml":
        raise UserError(
            "data.loss_mask: 'pivot' is the mask of the paper's ChatML rows, not of "
            f"tokenizer.chat='{config.tokenizer.chat}'; set data.loss_mask to 'response_only'"
        )
    if config.tokenizer.chat_template and config.tokenizer.chat != "template":
        raise UserError(
            f"tokenizer.chat_template: a file, but tokenizer.chat='{config.tokenizer.chat}' has no use for it; set "
            "tokenizer.chat to 'template'"
        )


def _check_shapes(config: ConfigDict) -> None:
    data, vision = config.data, config.model.vision
    if data.batch_size % config.train.accumulate:
        raise UserError(
            f"train.accumulate: {config.train.accumulate} does not divide data.batch_size={data.batch_size}"
        )
    if config.model.projector.newline and data.image.max_tiles == 1:
        raise UserError(
            "model.projector.newline: true, but an image of one square has no rows to end; set data.image.max_tiles "
            "above 1, or newline to false"
        )
    if data.image.max_tiles > 1 and not (config.model.projector.newline and data.images_per_row == 1):
        raise UserError(
            f"data.image.max_tiles: {data.image.max_tiles} needs model.projector.newline=true and data.images_per_row=1"
        )
    if config.objective.name == "contrastive" and data.images_per_row != 1:
        raise UserError(
            f"data.images_per_row: {data.images_per_row}, but a row of stage 0 is an image and its caption; set 1"
        )
    if data.image.min_pixels > data.image.max_pixels:
        raise UserError(
            f"data.image.min_pixels: {data.image.min_pixels} is more than data.image.max_pixels={data.image.max_pixels}"
        )
    if not vision.name and vision.family not in ANY_SIZE:
        if vision.patch_size > vision.image_size:
            raise UserError(
                f"model.vision.patch_size: {vision.patch_size} is larger than "
                f"model.vision.image_size={vision.image_size}"
            )
        if data.image.size != vision.image_size:
            raise UserError(
                f"data.image.size: {data.image.size} differs from model.vision.image_size={vision.image_size}; "
                "images are resized to the encoder's size, so set both"
            )
    previous = (0, 0)
    for bucket in data.buckets:
        good = isinstance(bucket, tuple) and len(bucket) == 2 and all(type(x) is int and x > 0 for x in bucket)
        if not good:
            raise UserError(f"data.buckets: {bucket!r} is not a pair (tokens, scored targets) of whole numbers above 0")
        if bucket[0] <= previous[0] or bucket[1] < previous[1]:
            raise UserError(f"data.buckets: {bucket} follows {previous}; list them from small to large")
        previous = bucket
    if previous[0] > data.max_length * data.packing:
        packed = f" x data.packing={data.packing}" if data.packing > 1 else ""
        raise UserError(f"data.buckets: {previous[0]} tokens are more than data.max_length={data.max_length}{packed}")
    negative = [axis for axis, size in config.parallel.items() if size == -1]
    if len(negative) > 1:
        raise UserError(f"parallel: {' and '.join(negative)} are -1; only one axis can take the devices that are left")


def _check_packing(config: ConfigDict) -> None:
    data, accumulate = config.data, config.train.accumulate
    if data.batch_size // accumulate % data.packing:
        raise UserError(
            f"data.packing: {data.packing} does not divide the {data.batch_size // accumulate} rows of a step "
            f"(data.batch_size={data.batch_size} / train.accumulate={accumulate})"
        )


def _check_untokenised(config: ConfigDict) -> None:
    """What needs the length of every row before training."""
    if config.data.tokenize_first:
        return
    name, data = config.objective.name, config.data
    needs = ""
    if name == "policy":
        needs = "online RL tokenises its prompts first, so that a rollout has no bad one"
    elif data.packing > 1:
        needs = f"data.packing={data.packing} needs the length of every row; set it to 1"
    elif name != "contrastive" and len(data.buckets) != 1:
        needs = (
            f"there are {len(data.buckets)} data.buckets, and without the rows' lengths all sequences have one shape; "
            "name it, such as data.buckets=((2048, 512),) (tokens, scored targets)"
        )
    if needs:
        raise UserError(f"data.tokenize_first: false, but {needs}, or set data.tokenize_first to true")


def _check_sources(config: ConfigDict) -> None:
    for i, source in enumerate(config.data.sources):
        if not isinstance(source, Mapping) or not isinstance(source.get("format"), str):
            raise UserError(
                f"data.sources.{i}: {source!r} is not a dict with a 'format', such as {{'format': 'llava', …}}"
            )


_OF_EVALUATION = {"name", "path", "limit", "toolkit", "scorer", "category", "unit"}


def _check_evaluations(config: ConfigDict) -> None:
    section = config.eval
    for i, one in enumerate(section.benchmarks):
        if not isinstance(one, Mapping) or not {"name", "path"} <= set(one) <= _OF_EVALUATION:
            raise UserError(
                f"eval.benchmarks.{i}: {one!r} is not a dict with 'name' and 'path' (and perhaps "
                f"{', '.join(sorted(_OF_EVALUATION - {'name', 'path'}))}), such as "
                "{'name': 'mmvp', 'path': 'data/MMVP'}"
            )
    if section.benchmarks and not section.every:
        raise UserError(
            "eval.benchmarks: never evaluated, because eval.every is 0; set eval.every to a number of steps"
        )


def _check_rewards(rewards: tuple[Any, ...]) -> None:
    """Their form; which rewards and options there are is known where they are built."""
    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "weight": (lambda x: _is_number(x) and math.isfinite(x), "a finite number"),
        "timeout_s": (lambda x: _is_number(x) and 0 < x < math.inf, "a number of seconds above 0"),
        "label": (lambda x: isinstance(x, str) and x != "", "a name"),
        "messages": (lambda x: isinstance(x, bool), "true or false"),
    }
    for i, reward in enumerate(rewards):
        if not isinstance(reward, Mapping) or not isinstance(reward.get("name"), str):
            raise UserError(
                f"rl.rewards.{i}: {reward!r} is not a dict with a 'name', such as {{'name': 'math', 'weight': 1.0}}"
            )
        for key, (fits, words) in kinds.items():
            if key in reward and not fits(reward[key]):
                raise UserError(f"rl.rewards.{i}.{key}: {reward[key]!r} is not allowed; it must be {words}")


def _check_best_metric(config: ConfigDict) -> None:
    name, every, saves = config.train.best_metric, config.eval.every, config.train.checkpoint_every
    if name.lstrip("-").startswith("eval/") and (not every or saves % every):
        raise UserError(
            f"train.best_metric: '{name}' is known only after an evaluation (eval.every={every}); set eval.every to a "
            f"divisor of train.checkpoint_every={saves}"
        )


def _check_lora(section: ConfigDict) -> None:
    _check_rules("lora.targets", section.targets, _is_target, "'lora', a rank of at least 1, 'none' or 'full'")
    if section.init and not re.fullmatch(r"peft:.+", section.init):
        raise UserError(f"lora.init: {section.init!r} is not allowed; write peft:DIR, or '' for a new adapter")
    if section.init and not section.rank:
        raise UserError(f"lora.init: {section.init!r} with lora.rank=0, which turns LoRA off; set the adapter's rank")


def _check_rules(key: str, rules: tuple[Any, ...], fits: Callable[[Any], bool], allowed: str) -> None:
    if not rules:
        raise UserError(f"{key}: empty; give at least ((regex, value),), the value {allowed}")
    for rule in rules:
        if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)):
            raise UserError(f"{key}: {rule!r} is not a pair (regex, value), the value {allowed}")
        pattern, value = rule
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{key}: '{pattern}' is not a regular expression ({error})") from None
        if not fits(value):
            raise UserError(f"{key}: '{pattern}' has {value!r}; allowed: {allowed}")


def _is_rate(value: Any) -> bool:
    return value == "frozen" or (_is_number(value) and 0 <= value < math.inf)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_target(value: Any) -> bool:
    return value in ("lora", "none", "full") or (type(value) is int and value >= 1)
