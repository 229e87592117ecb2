"""Bad input of every command and kind: one line that names the file, row or key, and nothing of the user is changed."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pivot_jax import hub
from pivot_jax.cli import main as cli
from tests.tiny import bad_folders, commands, runs
from tests.tiny.bad_inputs import (
    ASKED,
    GOOD,
    STARTED,
    TOLD,
    TRAIN,
    Case,
    case,
    copied,
    data,
    file,
    key,
    lines,
    row,
    usage,
    with_folder,
    with_half_an_image,
    with_pipe,
    write,
)
from tests.tiny.damage import truncate

USAGE = [
    usage("no-command", "", "required: COMMAND"),
    usage("unknown-command", "fly", "invalid choice: 'fly'"),
    usage("no-workdir", "train --config {w}/tiny.py", "train: --workdir is missing"),
    usage("unknown-option", TRAIN + " --wrokdir x", "unrecognized arguments: --wrokdir"),
    usage("key-without-value", TRAIN + " --config.seed", "--config.seed: no value"),
    usage("keys-without-config", "demo --config.seed=3", "demo takes no config keys; leave out --config.seed"),
    usage("no-benchmark", "eval --workdir {w}/run --data {w}", "required: --benchmark"),
    usage("no-tokens", "generate --workdir {w}/run --max-new-tokens 0", "--max-new-tokens: '0' is not a whole number"),
    usage("unknown-part", "export-hf --workdir {w}/run --out {c}/out --what whole", "--what: invalid choice: 'whole'"),
    usage("no-shape", "tune", "required: --shape"),
    usage("no-rollouts", "report --workdir {w}/run --rollouts 0", "--rollouts: '0' is not a whole number"),
    usage("negative-depth", "inspect {w}/run --depth -1", "--depth: '-1' is not a whole number"),
    usage("no-probe", "probe", "required: KIND"),
    usage("no-number-C", "probe classify --encoder run:x --data y --C 0,1", "--C: '0,1' is no list of numbers above 0"),
    usage("no-whole-k", "probe classify --encoder run:x --data y --k 1,a", "--k: 'a' is not a whole number"),
    usage("negative-decay", "probe classify --encoder run:x --data y --weight-decay=-1", "'-1' is not a number of at"),
    usage("no-predictions", "score --benchmark mmvp", "required: --predictions"),
    usage("no-logs", "scheme", "required: [ARM=]LOG"),
    usage("twin-of-what", "twin --config {w}/tiny.py --out x --to jax", "--to: invalid choice: 'jax'"),
    usage("serve-nothing", "serve", "one of the arguments --workdir --weights is required"),
    usage("unknown-target", "launch --to pbs --config {w}/tiny.py --workdir /w", "--to: invalid choice: 'pbs'"),
    usage("launch-nowhere", "launch --to slurm --config {w}/tiny.py", "required: --workdir"),
    usage("data-nowhere", "data --config {w}/tiny.py", "required: --out"),
    usage("no-rows-of-data", "data --config {w}/tiny.py --out x --rows 0", "--rows: '0' is not a whole number"),
    usage("unknown-effort", "plan --config {w}/tiny.py --effort O9", "--effort: invalid choice: 'O9'"),
]

POLICY = "objective.name=policy rl.algorithm=rloo rl.rewards=({'name':'number','column':'answer'},)"
KEYS = [
    key("misspelt-key", "sed=1", "sed: unknown key; did you mean 'seed'?"),
    key("unknown-tracker", "train.trackers=('wandbb',)", "some of tensorboard, wandb, mlflow, trackio, each once"),
    key("misspelt-inner-key", "optimizer.weight_deacy=0.1", "did you mean 'optimizer.weight_decay'?"),
    key("text-for-a-number", "data.batch_size=many", "data.batch_size: 'many' (str) is not allowed"),
    key("fraction-for-a-count", "train.steps=2.5", "train.steps: 2.5 (float) is not allowed", "type int"),
    key("bool-for-a-number", "optimizer.clip=True", "optimizer.clip: True (bool) is not allowed"),
    key("negative-batch", "data.batch_size=-8", "data.batch_size: -8 is not allowed; it must be at least 1"),
    key("negative-width", "model.vision.width=-16", "model.vision.width: -16 is not allowed"),
    key("not-finite", "optimizer.clip=1e999", "optimizer.clip: inf is not allowed; it must be a finite number"),
    key("unknown-choice", "model.vision.family=siglipp", "model.vision.family: 'siglipp'", "did you mean 'siglip'?"),
    key("seed-too-large", "seed=4294967296", "seed: 4294967296 is not allowed", "below 2^32"),
    key("unknown-objective", "objective.name=dpoo", "objective.name: 'dpoo' is not allowed", "did you mean 'dpo'?"),
    key("unknown-algorithm", f"{POLICY} rl.algorithm=grpo-trl", "rl.algorithm: 'grpo-trl'"),
    key("no-algorithm", f"{POLICY} rl.algorithm=", "rl.algorithm: empty"),
    key("algorithm-without-policy", "rl.algorithm=rloo", "rl.algorithm: 'rloo', but objective.name='sft'"),
    key("unknown-reward", f"{POLICY} rl.rewards.0.name=maths", "no reward 'maths'; did you mean 'math'?"),
    key("no-reward", f"{POLICY} rl.rewards=()", "rl.rewards: empty"),
    key("reward-of-no-file", f"{POLICY} rl.rewards.0.name={{c}}/my.py:f", "0.name: there is no file {c}/my.py"),
    key("reward-of-no-function", f"{POLICY} rl.rewards=({{'name':'{{c}}/my.py:f'}},)", "{c}/my.py has no function 'f'",
        files={"my.py": "def g():\n    pass\n"}),
    key("unknown-loss", "objective.name=preference objective.terms=(('sigmoidal',1.0),)", "objective.terms: no loss"),
    key("renamed-loss", "objective.name=dpo objective.terms=(('bco',1.0),)", "objective.terms: 'bco' is 'bco_pair'"),
    key("setting-of-no-loss", "objective.name=dpo objective.simpo_gamma=1.0", "simpo_gamma", "no loss of sigmoid"),
    key("exo-without-smoothing", "objective.name=dpo objective.terms=(('exo_pair',1.0),)", "label_smoothing: 0.0"),
    key("kto-and-pairs", "objective.name=dpo objective.terms=(('kto',1.0),('hinge',1.0))", "'kto' takes single"),
    key("f-divergence", "objective.name=dpo objective.f_divergence_type=js", "f_divergence_type: 'js'", "allowed"),
    key("terms-of-sft", "objective.terms=(('sigmoid',1.0),)", "objective.terms", "'sft' is not a preference objective"),
    key("accumulate-not-dividing", "train.accumulate=3", "train.accumulate: 3 does not divide data.batch_size=8"),
    key("packing-not-dividing", "data.packing=3", "data.packing: 3 does not divide the 8 rows"),
    key("minibatches-not-dividing", f"{POLICY} rl.minibatches=3", "data.batch_size: 8 prompts", "rl.minibatches 3"),
    key("mesh-of-other-devices", "parallel.data=3", "parallel.data=3", "product is not 1, the number of devices"),
    key("two-axes-open", "parallel.fsdp=-1", "parallel: data and fsdp are -1"),
    key("heads-not-dividing", "model.decoder.heads=5", "model.decoder", "5 heads are no multiple of 2 key/value heads"),
    key("image-of-another-size", "data.image.size=32", "data.image.size: 32 differs from model.vision.image_size=16"),
    key("rule-no-expression", "optimizer.rules=(('(',1e-3),)", "optimizer.rules: '(' is not a regular expression"),
    key("rules-not-for-all", "optimizer.rules=(('vision/.*',1e-3),)", "optimizer.rules: no rule matches", "'decoder/"),
    key("everything-frozen", "optimizer.rules=(('.*','frozen'),)", "optimizer.rules: every parameter is frozen"),
    key("small-vocabulary", "model.decoder.vocab_size=64", "model.decoder.vocab_size is 64 but the tokenizer has"),
    key("unknown-model", "model.decoder.name=qwen9", "model.decoder.name: 'qwen9' is unknown"),
    key("lengths-not-known", "data.tokenize_first=False", "data.tokenize_first: false, but there are 0 data.buckets"),
    key(
        "reference-without-lengths",
        "objective.name=dpo data.tokenize_first=False data.buckets=((64,32),)",
        "data.tokenize_first: false, but stored reference log-probs", "set objective.reference=step",
    ),
    key("bucket-too-long", "data.buckets=((4096,64),)", "data.buckets: 4096 tokens are more than data.max_length=128"),
    key("mask-of-chatml", "data.loss_mask=pivot tokenizer.chat=llama3", "data.loss_mask: 'pivot'", "'response_only'"),
    key("template-without-use", "tokenizer.chat_template=x.jinja", "tokenizer.chat_template", "chat='chatml'"),
    key("benchmark-never-run", "eval.benchmarks=({'name':'mmvp','path':'x'},)", "eval.benchmarks", "eval.every is 0"),
    key("unknown-benchmark", "eval.benchmarks=({'name':'mmpv','path':'x'},) eval.every=1", "did you mean 'mmvp'?"),
    key("metric-not-measured", "train.best_metric=eval/mmvp", "train.best_metric: 'eval/mmvp'", "set eval.every"),
    key("no-entry", "data.sources.3.path=x", "data.sources.3.path: no such entry"),
    key("unknown-format", "data.sources.0.format=lava", "format 'lava' is not known", "did you mean 'llava'?"),
    key("unknown-source-key", "data.sources.0.imageroot=x", "has no key 'imageroot'", "did you mean 'image_root'?"),
    key("unknown-sampling", "data.sources.0.sampling=frist:3", "data.sources", "'frist:3' is not a sampling strategy"),
    key("no-source", "data.sources=()", "data.sources: empty"),
]  # fmt: skip

INCLUDE = "from pivot_jax.config import include\n\n\ndef get_config():\n    return include(__file__, 'common.py')\n"
FILES = [
    file("syntax-error", "def get_config():\n    return {\n", "{c}/bad.py:2: '{' was never closed"),
    file("returns-a-list", "def get_config():\n    return [1]\n", "{c}/bad.py: get_config returned [1]"),
    file("no-get-config", "config = {}\n", "{c}/bad.py: no function get_config"),
    file("fails", "def get_config():\n    return {'seed': 1 / 0}\n", "{c}/bad.py:2: ZeroDivisionError"),
    file("misspelt-in-a-file", "def get_config():\n    return {'sed': 8}\n", "{c}/bad.py: sed: unknown key"),
    file("missing-include", INCLUDE, "{c}/common.py: no such config file"),
    file("argument-without-use", "def get_config():\n    return {}\n", "{c}/bad.py: takes no", spec="bad.py:x"),
    file("not-utf-8", b"def get_config():\n    return {'name': 'caf\xe9'}\n", "{c}/bad.py", "codec can't decode"),
    file("json-truncated", '{"seed": 1,\n', "{c}/bad.json:2: not JSON", spec="bad.json"),
    file("json-list", "[1]", "{c}/bad.json: it must hold a JSON object, not a list", spec="bad.json"),
    file("json-not-utf-8", b'{"name": "caf\xe9"}', "{c}/bad.json: not a text in UTF-8", "byte 13", spec="bad.json"),
    case("missing-config", "train --config {w}/tinny.py --workdir {c}/out", "did you mean '{w}/tiny.py'?"),
    case("folder-for-a-config", "plan --config {c}/bad.py", "{c}/bad.py is a folder", files={"bad.py/x": ""}),
    case("no-twin", "twin --config {w}/tiny.py --config.lora.rank=2 --out {c}/out", "no twin of this run: lora.rank"),
    case("no-run", "twin --config {w}/tiny.py --to llamafactory --run --out {c}/out", "--run: only TRL's twin"),
    case("no-study", "study {w}/missing.py", "missing.py: no such config file"),
    case("text-of-nothing", "text run:{c}/none", "{c}/none"),
    case("prepare-into-a-file", "prepare easy-vqa --out {w}/0.png", "{w}/0.png"),
    case("no-config-file", "inspect --config {w}/0.png", "{w}/0.png: not a config"),
    case("config-of-a-model", "inspect --config {w}/hf/config.json", "{w}/hf/config.json", "unknown key"),
]

PAIR = {"id": "r", "image": "0.png", "question": "Q", "chosen": "red", "rejected": "red"}
CHOICE = {"id": "r", "image": "0.png", "question": "Q", "choices": ["a", "b"], "answer": "A"}
READ = "data.batch_size=4 data.allow_outside_root=True"  # so that training begins, and reads images

DATA = [
    key("missing-data", "data.sources.0.path={w}/dta.json", "{w}/dta.json: no such file", "'{w}/data.json'?"),
    data("folder-for-data", with_folder, "{c}/rows.jsonl: a folder, but neither"),
    data("broken-line", lines(GOOD) + '{"id": "x"\n', "row '{c}/rows.jsonl:2': malformed JSON line"),
    data("no-json", "hello\n", "{c}/rows.json: neither a JSON list", path="rows.json"),
    data("list-truncated", '[{"id": "x"}, {', "{c}/rows.json: not a JSON list", path="rows.json"),
    data("line-not-utf-8", lines(GOOD).encode() + b'{"id": "caf\xe9"}\n', "row '{c}/rows.jsonl:2': malformed", "utf-8"),
    data("data-in-utf-16", lines(GOOD).encode("utf-16"), "{c}/rows.jsonl:", "malformed JSON line"),
    data("empty-data", "", "rows.jsonl: none of its 0 rows is usable"),
    data("empty-list", "[]", "rows.json: none of its 0 rows is usable", path="rows.json"),
    data("gzip-truncated", gzip.compress(lines(GOOD).encode())[:-9], "{c}/x.gz: not a whole .gz file", path="x.gz"),
    data("not-gzip", lines(GOOD), "{c}/rows.jsonl.gz: not a whole .gz file", path="rows.jsonl.gz"),
    data("no-parquet", "hello", "{c}/rows.parquet: not a Parquet file", path="rows.parquet", kind="trl"),
    data("row-is-a-number", lines(GOOD, 7), "row '{c}/rows.jsonl:2': the row is int"),
    data("no-id", lines({"image": "0.png"}), "row 'rows.jsonl:1': field 'conversations' is missing"),
    data("no-conversations", row(conversations=None), "row 'bad': field 'conversations' is missing"),
    data("unknown-speaker", row(conversations=[{"from": "me", "value": "x"}]), "row 'bad': unknown speaker 'me'"),
    data("no-answer", row(conversations=[ASKED]), "row 'bad': the conversation does not end with an answer"),
    data("empty-answer", row(conversations=[ASKED, {**TOLD, "value": " "}]), "row 'bad': the answer is empty"),
    data("control-token", row(conversations=[ASKED, {**TOLD, "value": "<|im_end|>"}]), "row 'bad'", "<|im_end|>"),
    data("mark-without-image", row(image=None), "row 'bad': 1 placeholder <image> but 0 images"),
    data("two-images", row(image=["0.png", "1.png"]), "row 'bad': 1 placeholder <image> but 2 images"),
    data("image-missing", row(image="no.png"), "row 'bad': image file {w}/no.png does not exist"),
    data("image-outside", row(image="../secret.png"), "row 'bad': image ../secret.png is outside {w}"),
    data("image-is-a-url", row(image="https://host/x.png"), "row 'bad': image https://host/x.png is a URL"),
    data("image-is-a-number", row(image=7), "row 'bad': image reference 7"),
    data("image-no-base64", row(image="data:image/png;base64,@@"), "row 'bad': image data:image/png", "not base64"),
    data("image-corrupt", row(image="tiny.py"), "row 'bad': image {w}/tiny.py cannot be read", more=READ, adds=STARTED),
    data("image-is-a-folder", row(image="classes"), "row 'bad'", "{w}/classes", more=READ, adds=STARTED),
    data("image-is-a-pipe", with_pipe, "row 'bad': image {c}/x.png cannot be read", more=READ, adds=STARTED),
    data("image-truncated", with_half_an_image, "row 'bad': image {c}/x.png cannot be read", more=READ, adds=STARTED),
    data("row-too-long", row(conversations=[{**ASKED, "value": "<image>" + " colour?" * 99}, TOLD]), "row 'bad'",
         "after the limit of 128"),
    data("equal-answers", lines(PAIR, PAIR), "2 of 2 rows", "row 'r': chosen and rejected are the same",
         kind="preference_pairs", more="objective.name=dpo"),
    data("no-rejected", lines({**PAIR, "rejected": None}), "row 'r': field 'rejected' is missing",
         kind="preference_pairs", more="objective.name=dpo"),
    data("pairs-of-no-pairs", row(), "row 'bad': a preference row needs 'chosen'", more="objective.name=dpo"),
    data("unknown-role", lines({"id": "r", "messages": [{"role": "bot"}]}), "row 'r'", "role 'bot'", kind="trl"),
    data("no-prompt", lines({"id": "r", "text": "x"}), "row 'r': field 'prompt' is missing", kind="trl"),
    data("answer-of-no-choice", lines({**CHOICE, "answer": "E"}), "row 'r': answer 'E' names none", kind="scienceqa"),
    data("meta-no-object", [], "{c}/meta.json: not an object of subset", path="meta.json", kind="mmpr"),
    data("subset-without-annotation", {"a": {"root": "."}}, "{c}/meta.json: subset 'a' has no 'annotation'",
         path="meta.json", kind="mmpr"),
    data("column-missing", lines({"id": "r", "prompt": "Q", "answr": "x"}), "reads the column 'answer'", "'answr'?",
         kind="trl", more=f"{POLICY} data.batch_size=1", adds=STARTED),
    data("fewer-rows-than-a-batch", lines(GOOD), "rows.jsonl has 1 usable row, fewer than data.batch_size=8"),
]  # fmt: skip

ASK = "eval --workdir {w}/run --benchmark scienceqa --data {c}/q.jsonl --out {c}/out.jsonl"
OWN = ASK.replace("scienceqa", "qa")
QUESTIONS = [
    case("missing-questions", ASK, "{c}/q.jsonl does not exist"),
    case("no-question", ASK, "{c}/q.jsonl is empty", files={"q.jsonl": ""}),
    case("broken-question", ASK, "{c}/q.jsonl is not a file of its questions", files={"q.jsonl": "{\n"}),
    case("question-without-answer", ASK, "{c}/q.jsonl", "column 'answer' is empty; fill it in",
         files={"q.jsonl": lines({**CHOICE, "answer": None})}),
    case("question-twice", ASK, "column 'id' is r, as in row 'q.jsonl:1'; remove one of the two rows (of {c}/q.jsonl)",
         files=lambda world, own: [shutil.copy(world / "0.png", own), write(own / "q.jsonl", lines(CHOICE, CHOICE))]),
    case("question-without-image-file", ASK, "row 'r': image file {c}/0.png does not exist",
         files={"q.jsonl": lines(CHOICE)}),
    case("own-questions-of-no-form", OWN, "qa: {c}/q.jsonl: its first row has no question (fields: text, answer)",
         files={"q.jsonl": lines({"text": "Why?", "answer": "so"})}),
    case("no-such-category", f"{OWN} --category topic", "row 'q.jsonl:1': column 'topic' is missing",
         files={"q.jsonl": lines({"question": "Why?", "answer": "so"})}),
    case("categories-of-a-benchmark", f"{ASK} --category topic", "--category: only for your own questions",
         files={"q.jsonl": lines(CHOICE)}),
    case("limit-of-no-task", "text run:{w}/run --limit 3", "--limit: only with --tasks"),
]  # fmt: skip

SAMPLED = {"input": "What is 1+1?", "output": "2", "gts": "2", "step": 1, "acc": 1.0}
LOG_READ = "scheme {c}/log.jsonl --out {c}/out"
LOGS = [
    case("missing-log", LOG_READ, "{c}/log.jsonl does not exist"),
    case("log-without-format", LOG_READ, "{c}/log.jsonl: the format of this log is not recognised",
         files={"log.jsonl": lines({"a": 1})}),
    case("broken-log", LOG_READ, "{c}/log.jsonl:2", "malformed JSON line", "column 11",
         files={"log.jsonl": lines(SAMPLED) + '{"input": }\n'}),
    case("response-without-score", LOG_READ, "{c}/log.jsonl: question 'What is 1+1?'", "does not say whether its",
         files={"log.jsonl": lines(SAMPLED, {**SAMPLED, "acc": None})}),
    case("score-is-text", LOG_READ, "{c}/log.jsonl:1: acc: 'high' is no number",
         files={"log.jsonl": lines({**SAMPLED, "acc": "high"})}),
    case("log-named-twice", "scheme {c}/log.jsonl {c}/log.jsonl", "{c}/log.jsonl is named twice",
         files={"log.jsonl": lines(SAMPLED)}),
    case("unknown-field-of-a-log", LOG_READ + " --columns texts=output", "columns: no field 'texts'; did you mean",
         files={"log.jsonl": lines(SAMPLED)}),
    case("unknown-judge", LOG_READ + " --judge maths", "judge 'maths' is unknown", files={"log.jsonl": lines(SAMPLED)}),
]  # fmt: skip

PAGE = "data --config {w}/tiny.py --out {c}/out"
PAGES = [
    case("data-of-no-config", "data --config {w}/tinny.py --out {c}/out", "did you mean '{w}/tiny.py'?"),
    case("data-misspelt-key", f"{PAGE} --config.sed=1", "sed: unknown key; did you mean 'seed'?"),
    case("data-missing", f"{PAGE} --config.data.sources.0.path={{w}}/dta.json", "{w}/dta.json: no such file"),
    case("data-of-no-row", f"{PAGE} --config.data.max_length=12", "data.json: none of its 12 rows is usable"),
    case("data-no-tokenizer", f"{PAGE} --config.tokenizer.path={{c}}/none", "tokenizer.path: no folder at '{c}/none'"),
    case("data-into-a-file", "data --config {w}/tiny.py --out {w}/0.png", "--out {w}/0.png is a file"),
    case("data-over-my-files", PAGE, "{c}/out is not empty and was not written by this command",
         files={"out/notes.txt": "mine"}),
    case("data-over-my-files-asked-to", f"{PAGE} --overwrite", "{c}/out is not empty and was not written",
         files={"out/notes.txt": "mine"}),
]  # fmt: skip

CHAT = "tokenizer.chat=template tokenizer.chat_template={c}/x.jinja"
ALL = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] | upper }}<|im_end|>{% endfor %}"
TOKENIZERS = [
    key("missing-tokenizer", "tokenizer.path={w}/tokeniser", "tokenizer.path: no folder at '{w}/tokeniser'"),
    key("no-tokenizer", "tokenizer.path={w}/classes", "tokenizer.path: '{w}/classes' holds no tokenizer"),
    key("tokenizer-truncated", "tokenizer.path={c}/tokenizer", "tokenizer.path: '{c}/tokenizer' holds no tokenizer",
        files=copied("tokenizer", lambda folder: truncate(folder / "tokenizer.json"))),
    key("no-control-tokens", "tokenizer.chat=llama3", "tokenizer: '<|begin_of_text|>' is not one token"),
    key("no-image-token", "tokenizer.image_token=<photo>", "tokenizer: '<photo>' is not one token"),
    key("missing-template", CHAT, "tokenizer.chat_template: '{c}/x.jinja' cannot be read"),
    key("template-no-jinja", CHAT, "tokenizer.chat_template", "Expected an expression", files={"x.jinja": "{% for %}"}),
    key("template-without-end", CHAT, "tokenizer.chat_template", "no special token after an answer",
        files={"x.jinja": "{% for m in messages %}{{ m['content'] }} {% endfor %}"}),
    key("template-changes-answers", CHAT, "tokenizer.chat_template", "leaves out or changes", files={"x.jinja": ALL}),
    case("import-without-template", "import-hf --folder {w}/hf --workdir {c}/out --chat-template {c}/x.jinja",
         "'{c}/x.jinja' cannot be read"),
]  # fmt: skip

SAMPLE = "sample --workdir {w}/run --out {c}/out"
SAMPLES = [
    case("sample-without-rewards", SAMPLE, "rl.rewards: empty"),
    case("sample-another-model", f"{SAMPLE} --config.train.steps=9", "train.steps: a trained run's config cannot"),
    case("sample-into-a-folder", f"{SAMPLE} --config.rl.rewards=({{'name':'exact'}},)",
         "{c}/out holds files that no sample wrote", files={"out/x": "mine"}),
    case("sample-without-the-answer", f"{SAMPLE} --config.rl.rewards=({{'name':'exact','column':'truth'}},)",
         "'exact' reads the column 'truth', which no row has"),
]  # fmt: skip
SERVED = [
    case("serve-no-run", "serve --port 0 --workdir {c}/none", "{c}/none"),
    case("serve-no-source", "serve --port 0 --weights {w}/hf", "'{w}/hf' is not a weight source", "did you mean 'hf:"),
    case("serve-two-tokenizers", "serve --port 0 --weights hf:{w}/hf --tokenizer {w}/tokenizer",
         "--tokenizer: hf:{w}/hf has a tokenizer of its own"),
    case("serve-no-address", "serve --workdir {w}/run --port 0 --host 256.1.1.1", "--host 256.1.1.1 --port 0:"),
]  # fmt: skip
LAUNCH = "launch --to slurm --config {w}/tiny.py --workdir /shared/x"
LAUNCHED = [  # tests/launch/test_wrong_combinations.py has the others
    case("launch-into-nothing", LAUNCH, "--out: the folder for the files is missing", "--dry-run"),
    case("launch-without-hardware", f"{LAUNCH} --out {{c}}/out", "hardware: empty", "--topology h100-8"),
    case("launch-over-files", f"{LAUNCH} --topology h100-1 --out {{c}}/out", "was not written by this command",
         files={"out/x": "mine"}),
    case("launch-a-misspelt-key", f"{LAUNCH} --dry-run --config.sed=1", "sed: unknown key; did you mean 'seed'?"),
    case("launch-over-a-file", f"{LAUNCH} --topology h100-1 --out {{c}}/out/x", "--out {c}/out/x is a file",
         files={"out/x": "mine"}),
]  # fmt: skip
CASES = [
    *USAGE, *KEYS, *FILES, *DATA, *QUESTIONS, *LOGS, *SAMPLES, *PAGES, *TOKENIZERS, *SERVED, *LAUNCHED,
    *bad_folders.CASES,
]  # fmt: skip
# As processes of their own; those of HEAVY take more than two seconds each.
PROCESSES = ("unknown-option", "misspelt-key", "syntax-error", "plan-over-a-file", "no-packaged-config", "null-answer")
HEAVY = ("image-missing", "generate-no-step", "heads-0", "inspect-nothing")
LOG = re.compile(r"attention backend: \S+, .*")  # the only line that these commands may write before the message
Start = Callable[[list[str]], tuple[object, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of the commands, whose configs name its own files, and its run as ``hf``, a folder of shards."""
    folder, shared = commands.world(tmp_path_factory), runs.once("commands", commands.draw)
    for path in (folder / "tiny.py", folder / "run" / "config.json"):
        path.write_text(path.read_text().replace(str(shared), str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.save, "SHARD_BYTES", 20_000)
        assert commands.run("export-hf", "--workdir", folder / "run", "--out", folder / "hf") == 0
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder: path → type and permissions, and of a file its size and digest.

    Of a run's lock only the first two: it names the process that had it last.
    """
    found = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        found[str(path.relative_to(folder))] = stat.filemode(state.st_mode)
        if stat.S_ISREG(state.st_mode) and path.name != ".lock":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] += f" {state.st_size} {digest}"
    return found


@pytest.fixture(scope="module")
def as_made(world: Path) -> dict[str, str]:
    return contents(world)


def check(one: Case, world: Path, as_made: dict[str, str], tmp_path: Path, start: Start) -> None:
    """Runs a case by ``start(argv) -> (exit code, stdout, stderr)``, and checks what it says, returns and leaves."""
    own = tmp_path / "own"
    argv = one.prepare(world, own)
    before = contents(own)
    code, out, err = start(argv)
    *others, message = err.splitlines()
    assert code == one.code and "Traceback" not in out + err, out + err
    if code == 2:
        assert re.match(r"pivot-jax[a-z -]*: error: ", message) and others[0].startswith("usage: pivot-jax"), err
    else:
        assert message.startswith(f"pivot-jax {argv[0]}: ") and all(map(LOG.fullmatch, others)), err
    for words in one.says:
        assert words.replace("{w}", str(world)).replace("{c}", str(own)) in message, message
    after = contents(own)
    assert {name: after.get(name) for name in before} == before and contents(world) == as_made
    new = after.keys() - before.keys()
    assert not [name for name in new if not any(fnmatch.fnmatch(name, pattern) for pattern in one.adds)]
    assert {path.name for path in tmp_path.iterdir()} <= {"own", "cache"}  # what a command may write without an option


@pytest.mark.parametrize("one", CASES, ids=[one.id for one in CASES])
def test_a_bad_input_is_one_line_and_changes_nothing(world, as_made, tmp_path, monkeypatch, capsys, one):
    def start(argv: list[str]) -> tuple[object, str, str]:
        try:
            code: object = cli.main(argv)
        except SystemExit as stopped:
            code = stopped.code
        return (code, *capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    check(one, world, as_made, tmp_path, start)


@pytest.mark.parametrize("name", [*PROCESSES, *(pytest.param(name, marks=pytest.mark.heavy) for name in HEAVY)])
def test_a_bad_input_in_a_process_of_its_own(world, as_made, tmp_path, name):
    def start(argv: list[str]) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "pivot_jax.cli", *argv]
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
        return done.returncode, done.stdout, done.stderr

    (one,) = (one for one in CASES if one.id == name)
    check(one, world, as_made, tmp_path, start)


def test_there_are_a_hundred_cases_and_every_command_is_among_them():
    from pivot_jax.cli.arguments import build_parser

    (subparsers,) = (action for action in build_parser("0")._actions if action.choices)
    failing = {one.line.split()[0] for one in CASES if one.code == 1}
    assert failing == set(subparsers.choices) and len({one.id for one in CASES}) == len(CASES) >= 100
