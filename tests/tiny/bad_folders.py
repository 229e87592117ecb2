"""Bad runs, packs, Hugging Face folders, predictions and outputs, and bad options of the commands that take them."""

from __future__ import annotations

import shutil

import numpy as np

from tests.tiny.bad_inputs import (
    IMPORT,
    STARTED,
    TRAIN,
    answers,
    case,
    copied,
    damaged,
    edited,
    imported,
    key,
    lines,
    not_a_number,
    one_class,
    scored,
    shard,
    text_config,
    write,
)
from tests.tiny.damage import truncate

ENCODER = "probe classify --data {w}/classes --encoder "
RUN = "not a run's workdir"
HURT = copied("run", damaged)
CHECKPOINT = "{c}/run/checkpoints/3"
SOURCES = [
    key("no-kind", "init.={w}/run", "init.: '{w}/run' is not a weight source"),
    key("no-such-run", "init.=run:{w}/runn", "no checkpoint in {w}/runn", "did you mean '{w}/run'?"),
    key("no-such-step", "init.=run:{w}/run@7", "no checkpoint of step 7 in {w}/run (available: steps [3])"),
    key("run-for-a-pack", "init.=pack:{w}/run", "no pack at {w}/run", "it is a run"),
    key("run-for-hf", "init.vision=hf:{w}/run", "{w}/run/config.json: there is no model_type", "it is a run"),
    key("other-size", "init.=run:{w}/run model.decoder.mlp_dim=64", "'decoder/blocks/mlp/down/kernel'", "run:{w}/run"),
    case("generate-no-run", "generate --workdir {w}/classes", "{w}/classes is " + RUN),
    case("generate-no-step", "generate --workdir {w}/run --step 9", "no checkpoint of step 9 in {w}/run"),
    case("extract-no-run", "extract --workdir {c}/no --out {c}/out", "{c}/no is " + RUN, "there is no such folder"),
    case("export-no-step", "export-hf --workdir {w}/run --step 9 --out {c}/out", "no checkpoint of step 9 in {w}/run"),
    case("export-no-adapter", "export-hf --workdir {w}/run --what adapter --out {c}/out",
         "{w}/run was trained without LoRA"),
    case("report-no-run", "report --workdir {w}/hf", "{w}/hf is " + RUN, "it is a Hugging Face folder"),
    case("report-no-metrics", "report --workdir {c}/run", "no metrics at {c}/run/metrics.jsonl",
         files=copied("run", lambda run: (run / "metrics.jsonl").unlink())),
    case("metrics-damaged", "report --workdir {c}/run", "{c}/run/metrics.jsonl, line 2: no JSON object",
         files=copied("run", lambda run: write(run / "metrics.jsonl", '{"step": 1}\n{"st\n{"step": 3}\n'))),
    case("no-checkpoints", "generate --workdir {c}/run", "no checkpoint in {c}/run",
         files=copied("run", lambda run: shutil.rmtree(run / "checkpoints"))),
    case("run-config-truncated", "eval --workdir {c}/run --benchmark mmvp --data {w}", "{c}/run/config.json:",
         "not JSON", files=copied("run", lambda run: truncate(run / "config.json"))),
    case("damaged-generate", "generate --workdir {c}/run", CHECKPOINT, files=HURT),
    case("damaged-extract", "extract --workdir {c}/run --out {c}/out", CHECKPOINT, files=HURT),
    case("damaged-export", "export-hf --workdir {c}/run --out {c}/out", CHECKPOINT, files=HURT),
    case("damaged-train", "train --config {w}/tiny.py --workdir {c}/run", "{c}/run/checkpoints is damaged",
         "nothing was changed", files=HURT),
    case("damaged-probe", ENCODER + "run:{c}/run", CHECKPOINT, files=HURT),
    case("inspect-no-step", "inspect {w}/run --step 9", "no checkpoint of step 9 in {w}/run"),
    case("inspect-nothing", "inspect {w}/classes", "{w}/classes is not a run, a pack or a Hugging Face folder"),
    case("change-of-a-run", "generate --workdir {w}/run --config.data.batch_size=8", "data.batch_size", "only eval.*"),
    case("no-pack", ENCODER + "pack:{c}/p", "no pack at {c}/p (pack.json is missing)", files={"p/x": ""}),
    case("pack-broken", ENCODER + "pack:{c}/p", "{c}/p/pack.json is not JSON", files={"p/pack.json": "{"}),
    case("pack-list", ENCODER + "pack:{c}/p", "{c}/p/pack.json holds list", files={"p/pack.json": "[]"}),
    case("pack-of-no-model", ENCODER + "pack:{c}/p", "{c}/p/pack.json does not say", files={"p/pack.json": "{}"}),
]  # fmt: skip

CONFIG, INDEX = "{c}/hf/config.json", "model.safetensors.index.json"
LAST = "{c}/hf/model-00008-of-00008.safetensors"
HUB = [
    case("no-hf-folder", IMPORT, "{c}/hf is not a folder"),
    imported("no-config-json", lambda hf: (hf / "config.json").unlink(), CONFIG + " is missing"),
    imported("config-json-truncated", lambda hf: truncate(hf / "config.json"), CONFIG + " is not JSON"),
    imported("config-json-list", lambda hf: write(hf / "config.json", "[]"), CONFIG + " holds list"),
    imported("unsupported-model", edited("config.json", model_type="mamba"), CONFIG, "model_type 'mamba' is not"),
    imported("no-model-type", edited("config.json", model_type=None), CONFIG + ": there is no model_type"),
    imported("other-class", edited("config.json", architectures=["Bert"]), CONFIG, "'architectures' names Bert"),
    imported("class-no-list", edited("config.json", architectures=7), CONFIG, "'architectures' names 7"),
    imported("quantised", edited("config.json", quantization_config={"bits": 4}), CONFIG, "'quantization_config'"),
    imported("no-text-config", edited("config.json", text_config=None), CONFIG, "'text_config' is None"),
    imported("heads-0", text_config(num_attention_heads=0), CONFIG, "'num_attention_heads' is 0"),
    imported("heads-text", text_config(num_attention_heads="four"), CONFIG, "'num_attention_heads' is 'four'"),
    imported("layers-negative", text_config(num_hidden_layers=-2), CONFIG, "'num_hidden_layers' is -2"),
    imported("other-width", text_config(hidden_size=48), "{c}/hf/model-0", "has shape", "config.json says"),
    imported("nan", not_a_number, LAST, "'language_model.model.norm.weight' has NaN"),
    imported("shard-truncated", lambda hf: truncate(shard(hf)), LAST + " is truncated"),
    imported("shard-missing", lambda hf: shard(hf).unlink(), LAST + " is missing", INDEX),
    imported("index-broken", lambda hf: write(hf / INDEX, "{"), "{c}/hf/" + INDEX + " is not a shard index"),
    imported("no-tokenizer-files", lambda hf: [path.unlink() for path in hf.glob("token*")],
             "'{c}/hf' holds no tokenizer"),
    imported("inspect-shard", lambda hf: truncate(shard(hf)), LAST + " is truncated", line="inspect {c}/hf"),
    key("init-nan", "init.=hf:{c}/hf", LAST, "has NaN", files=copied("hf", not_a_number), adds=STARTED),
    case("no-adapter", "import-hf --folder {w}/hf --workdir {c}/out --adapter {w}/masks",
         "{w}/masks/adapter_config.json is missing"),
]  # fmt: skip

PREDICTIONS = [
    case("missing-predictions", "score --predictions {c}/p.jsonl", "{c}/p.jsonl: there is no such file"),
    scored("other-benchmark", answers({}), "{c}/p.jsonl: its answers are to scenes", more="--benchmark mmvp"),
    scored("two-benchmarks", answers({}, {"benchmark": "mmvp"}), "{c}/p.jsonl: cannot tell the benchmark"),
    scored("benchmark-unknown", answers({"benchmark": "mmpv"}), "'mmpv' is unknown", "did you mean 'mmvp'?"),
    scored("answered-twice", answers({}, {"question_id": "q0"}), "{c}/p.jsonl, question 'q0': answered twice"),
    scored("null-answer", answers({}, {"answer": None}), "{c}/p.jsonl, question 'q1': 'answer' is null"),
    scored("null-correct-answer", answers({"gt_answer": None}), "{c}/p.jsonl, question 'q0': 'gt_answer' is None"),
    scored("no-unit", answers({"benchmark": "mmvp"}), "{c}/p.jsonl, question 'q0': field 'unit' is missing"),
    scored("broken-answer", answers({}) + '{"question_id": \n', "{c}/p.jsonl, line 2: no JSON object"),
    scored("answer-missing", lines({"question_id": "q"}), "{c}/p.jsonl, line 1: field 'answer' is missing"),
    scored("answer-not-utf-8", answers({}).encode() + b'{"question_id": "\xe9"}\n', "{c}/p.jsonl, line 2: no JSON"),
    case("score-in-the-way", "score --predictions {c}/p.jsonl", "{c}/p.score.json is not a score",
         files={"p.jsonl": answers({}), "p.score.json": "{}"}),
]  # fmt: skip

MAP = "probe gradmap --workdir {w}/run --image {w}/0.png --prompt x --answer y --out {c}/x.png"
TEXTS = "probe align --encoder run:{w}/run --data {w}/data.json --text-features "
KEPT, MINE = "did not write it", {"out/x": ""}
OUTPUTS = [
    case("file-for-a-workdir", TRAIN, "--workdir {c}/out is a file", files={"out": "x"}),
    case("workdir-of-a-user", TRAIN, "{c}/out holds files that no run wrote (x.tex)", files={"out/x.tex": "x"}),
    case("workdir-of-another-run", "train --config {w}/tiny.py --workdir {c}/run --config.optimizer.clip=0.5",
         "{c}/run belongs to another config (optimizer.clip: 1.0 → 0.5)", files=copied("run", lambda run: None)),
    case("config-missing", "train --config {w}/tiny.py --workdir {c}/run", "{c}/run has checkpoints, but its config",
         files=copied("run", lambda run: (run / "config.json").unlink())),
    case("config-truncated", "train --config {w}/tiny.py --workdir {c}/run", "{c}/run: its config.json is damaged",
         "--print-config", files=copied("run", lambda run: (run / "config.json").write_text("{"))),
    case("workdir-of-a-model", "train --config {w}/tiny.py --workdir {c}/hf", "{c}/hf: its config.json does not belong",
         files=copied("hf", lambda folder: None)),
    case("import-into-a-folder", "import-hf --folder {w}/hf --workdir {c}/out", "{c}/out is not empty", files=MINE),
    case("export-over-a-folder", "export-hf --workdir {w}/run --out {c}/out --overwrite", "{c}/out is not empty",
         files=MINE),
    case("export-over-an-export", "export-hf --workdir {w}/run --out {c}/hf", "{c}/hf is not empty", "--overwrite",
         files=copied("hf", lambda folder: None)),
    case("extract-over-a-folder", "extract --workdir {w}/run --out {c}/out", "{c}/out is not empty", files=MINE),
    case("report-over-a-page", "report --workdir {w}/run --out {c}/x", "--out {c}/x is there", KEPT, files={"x": "x"}),
    case("plan-over-a-file", "plan --config {w}/tiny.py --json {c}/x", "--json {c}/x is", KEPT, files={"x": "{}"}),
    case("map-over-a-photo", MAP, "--out {c}/x.png is there", KEPT,
         files=lambda world, own: shutil.copy(world / "1.png", own / "x.png")),
    case("map-over-numbers", MAP, "x.npy is there", KEPT, files={"x.npy": "x"}),
    case("answers-over-a-file", "eval --workdir {w}/run --benchmark scienceqa --data {w}/questions.jsonl --out {c}/x",
         "{c}/x: not a file of answers", files={"x": "x\n"}),
    case("copy-over-a-config", "configs --copy pivot/stage1b.py --to {c}", "{c}/pivot/stage1b.py exists and differs",
         files={"pivot/stage1b.py": "x"}),
    case("demo-into-a-folder", "demo --workdir {c}/out", "{c}/out holds files that no study wrote (x)", files=MINE),
    case("probe-over-a-file", TEXTS + "x.npy --out {c}/x.json", "--out {c}/x.json", KEPT, files={"x.json": "[]"}),
]  # fmt: skip

OTHERS = [
    case("no-packaged-config", "configs --copy pivot/stage1z.py --to {c}/out", "did you mean 'pivot/stage1b.py'?"),
    case("copy-without-a-name", "configs --to {c}/out", "--to: the folder for a copy; name the config with --copy"),
    case("unknown-topology", "plan --config {w}/tiny.py --topology h1000-8", "topology 'h1000-8' is unknown"),
    case("topology-not-sold", "plan --config {w}/tiny.py --topology v5e-7", "topology 'v5e-7' does not exist"),
    case("no-topology", "plan --config {w}/tiny.py", "{w}/tiny.py names no hardware; give --topology"),
    case("shape-of-no-form", "tune --shape 8x8", "shape '8x8': write ROWSxTOKENSxHEADS"),
    case("shape-of-bad-heads", "tune --shape 8x64x3/2x64", "shape '8x64x3/2x64': 3 heads are not a multiple"),
    case("demo-no-configs", "demo --workdir {c}/out --configs {c}/no", "{c}/no/study.py: no such config file"),
    case("demo-settings", "demo --workdir {c}/out --configs {c}/d", "{c}/d/study.py: unknown key", "(keys:",
         files={"d/study.py": "def get_config():\n    return {'world': 1}\n"}),
    case("prompt-with-a-mark", "generate --workdir {w}/run --prompt <image>", "--prompt: leave out '<image>'"),
    case("no-image-file", "generate --workdir {w}/run --image {c}/no.png", "--image {c}/no.png: there is no such file"),
    case("image-of-text", "generate --workdir {w}/run --image {w}/tiny.py", "image {w}/tiny.py cannot be read"),
    case("classes-without-test", "probe classify --encoder run:{w}/run --data {c}", "no folder '{c}/test'",
         files=lambda world, own: shutil.copytree(world / "classes" / "train", own / "train")),
    case("one-class", "probe classify --encoder run:{w}/run --data {c}", "{c}: 1 class;", files=one_class),
    case("strange-class", "probe classify --encoder run:{w}/run --data {c}/classes", "{c}/classes/test: class 'pink'",
         files=copied("classes", lambda folder: (folder / "test" / "red").rename(folder / "test" / "pink"))),
    case("photo-corrupt", "probe classify --encoder run:{w}/run --data {c}/classes", "{c}/classes/train/red/0.png",
         files=copied("classes", lambda folder: truncate(folder / "train" / "red" / "0.png"))),
    case("mask-missing", "probe segment --encoder run:{w}/run --data {c}/masks --classes a,b,c",
         "{c}/masks/train: no mask for 1 image, such as {c}/masks/trainannot/0.png",
         files=copied("masks", lambda folder: (folder / "trainannot" / "0.png").unlink())),
    case("class-twice", "probe segment --encoder run:{w}/run --data {w}/masks --classes a,b,a", "--classes a,b,a: 'a'"),
    case("features-no-array", TEXTS + "{w}/tiny.py", "{w}/tiny.py: not a .npy file"),
    case("features-of-other-rows", TEXTS + "{c}/t.npy", "{c}/t.npy: shape (5, 2, 8)",
         files=lambda world, own: np.save(own / "t.npy", np.ones((5, 2, 8), np.float32))),
    case("same-answers", MAP + " --rejected y", "--rejected: the same as --answer"),
]  # fmt: skip

CASES = [*SOURCES, *HUB, *PREDICTIONS, *OUTPUTS, *OTHERS]
