"""A whole step of GRPO compared with TRL's ``GRPOTrainer`` on the same tiny model, prompts and numbers of tokens.

    python benchmarks/grpo_step.py [--rounds 6] [--prompts 4] [--responses 8] [--tokens 64]

Both start from one folder (LLaVA: SigLIP with 196 image tokens, a Qwen2 decoder, 8,192 words, float32), sample at
temperature 1 and update all parameters once per rollout, without a reference model. A word in 8,192 ends a turn, so
nearly all responses have all their tokens; times are scaled to responses that have. The sides take turns, a step each.
TRL generates with transformers (``use_vllm=False``, its default), and reads each prompt, and encodes each image, once
per response.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Record, Side

WORDS, PIXELS, PATCH, IMAGE = 8192, 224, 16, "<|image_pad|>"
VISION = dict(width=128, depth=3, heads=4, mlp_dim=512)
DECODER = dict(width=192, depth=4, heads=4, kv_heads=2, mlp_dim=576)
ROWS = 64
MANY = 10**4  # more steps than are measured


def question(index: int) -> str:
    return f"What is in image {index}, and how many of them are there?"


def make_world(folder: Path) -> None:
    """Tokenizer, model, images, rows and a reward, for both sides."""
    import torch
    import transformers
    from PIL import Image

    from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe

    tokenizer = load_tokenizer(train_bpe([question(i) for i in range(ROWS)], 400, folder / "tokenizer"))
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=VISION["width"], intermediate_size=VISION["mlp_dim"], num_hidden_layers=VISION["depth"],
            num_attention_heads=VISION["heads"], image_size=PIXELS, patch_size=PATCH, vision_use_head=False,
        ),
        text_config=transformers.Qwen2Config(
            vocab_size=WORDS, hidden_size=DECODER["width"], intermediate_size=DECODER["mlp_dim"],
            num_hidden_layers=DECODER["depth"], num_attention_heads=DECODER["heads"],
            num_key_value_heads=DECODER["kv_heads"], tie_word_embeddings=True, max_position_embeddings=4096,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), vision_feature_select_strategy="full",
        vision_feature_layer=-2, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    random, rows = np.random.default_rng(0), []
    for index in range(ROWS):
        Image.fromarray(random.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        rows.append({"id": str(index), "question": question(index), "answer": "none", "image": f"{index}.png"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(
        'def count(prompts, completions, **columns):\n    return [float(c.count("e")) for c in completions]\n'
    )


class Turns:
    """Lets a loop that runs in another thread do one step at a time."""

    def __init__(self, loop: Any):
        self._go, self._done, self._error = threading.Semaphore(0), threading.Semaphore(0), ""
        self.tokens = 0
        threading.Thread(target=self._run, args=(loop,), daemon=True).start()

    def _run(self, loop: Any) -> None:
        try:
            loop()
        except BaseException as error:
            self._error = f"{type(error).__name__}: {error}"
            self._done.release()

    def pause(self) -> None:
        """Called by the loop between two steps."""
        self._done.release()
        self._go.acquire()

    def ready(self) -> None:
        """Waits until the loop pauses before its first step."""
        self._done.acquire()
        if self._error:
            raise RuntimeError(self._error)

    def step(self) -> float:
        start = time.perf_counter()
        self._go.release()
        self.ready()
        return time.perf_counter() - start


class OursSide:
    def prepare(self, folder: str, prompts: int, responses: int, tokens: int) -> None:
        import signal

        import jax

        import pivot_jax as pj
        from pivot_jax.train.metrics import read

        signal.signal = lambda *_: None  # type: ignore[assignment]  # the run is in a thread here, which may not set handlers
        root = Path(folder)
        config = pj.config(
            "",
            {
                "init.": f"hf:{root / 'model'}",
                "model.vision.image_size": PIXELS,
                "model.vision.patch_size": PATCH,
                "model.vision.pool_head": False,
                **{f"model.vision.{name}": value for name, value in VISION.items()},
                "model.decoder.vocab_size": WORDS,
                **{f"model.decoder.{name}": value for name, value in DECODER.items()},
                "model.decoder.rope_theta": 1e4,
                "model.vision.scan_layers": False,
                "model.decoder.scan_layers": False,
                "tokenizer.path": str(root / "tokenizer"),
                "tokenizer.system": "",
                "data.sources": ({"format": "qa", "path": str(root / "rows.jsonl")},),
                "data.image.size": PIXELS,
                "data.batch_size": prompts,
                "objective.name": "policy",
                "rl.algorithm": "trl-grpo",
                "rl.importance": "none",  # TRL corrects for vLLM only
                "rl.responses": responses,
                "rl.max_tokens": tokens,
                "rl.rewards": ({"name": f"{root / 'reward.py'}:count"},),
                "optimizer.rules": ((".*", 1e-6),),
                "train.steps": MANY,
                "train.log_every": 1,
                "train.checkpoint_every": MANY,
                "eval.every": 1,
                "eval.at_start": True,
            },
        )
        self._run = root / "run"
        self._read = read
        self._compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)
        self._turns = Turns(lambda: pj.train(config, self._run, [pj.Hook("pause", self._pause)]))
        self._turns.ready()

    def _pause(self, step: int, params: Any) -> dict[str, float]:
        self._turns.pause()
        return {}

    def _note(self, name: str, seconds: float, **_: Any) -> None:
        self._compiled += name.endswith("backend_compile_duration")

    def run(self) -> float:
        self._compiled = 0
        return self._turns.step()

    def about(self) -> dict[str, float]:
        """Programs that were compiled in the last step; its parts in seconds; its mean number of tokens."""
        line = self._read(self._run / "metrics.jsonl")[-1]
        parts = {name: line[f"perf/{name}_s"] for name in ("rollout", "reward", "logprobs")}
        return {"compiled": self._compiled, "mean_length": line["completions/mean_length"], **parts}


class TrlSide:
    def prepare(self, folder: str, prompts: int, responses: int, tokens: int) -> None:
        import torch
        import transformers
        import trl
        from datasets import Dataset
        from PIL import Image
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        root, side = Path(folder), self
        rows = [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]
        tokenizer = transformers.AutoTokenizer.from_pretrained(root / "model", padding_side="left")
        template = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
            "{% for c in m.content %}{% if c.type == 'image' %}"
            + IMAGE
            + "\n{% else %}{{ c.text }}{% endif %}{% endfor %}"
            "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        processor = transformers.LlavaProcessor(
            SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS}), tokenizer, patch_size=PATCH,
            vision_feature_select_strategy="full", num_additional_image_tokens=0, chat_template=template,
            image_token=IMAGE,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": [{"role": "user", "content": row["question"]}]} for row in rows])
        data = data.add_column("image", [str(root / row["image"]) for row in rows])
        data = data.with_transform(
            lambda found: {**found, "image": [Image.open(path).convert("RGB") for path in found["image"]]}
        )

        def count(prompts: Any, completions: Any, **_: Any) -> list[float]:
            texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
            return [float(text.count("e")) for text in texts]

        class Pause(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                side._turns.pause()

        torch.manual_seed(0)
        model = transformers.LlavaForConditionalGeneration.from_pretrained(root / "model", dtype=torch.float32)
        arguments = trl.GRPOConfig(
            output_dir=str(root / "trl"), per_device_train_batch_size=prompts * responses, num_generations=responses,
            max_completion_length=tokens, learning_rate=1e-6, beta=0.0, temperature=1.0, max_steps=MANY, bf16=False,
            use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, gradient_checkpointing=False,
            disable_tqdm=True, log_level="error",
        )  # fmt: skip
        self._trainer = trl.GRPOTrainer(
            model, count, args=arguments, train_dataset=data, processing_class=processor, callbacks=[Pause()]
        )
        self._turns = Turns(self._trainer.train)
        self._turns.ready()

    def run(self) -> float:
        return self._turns.step()

    def about(self) -> dict[str, float]:
        logs = [line for line in self._trainer.state.log_history if "completions/mean_length" in line]
        return {"mean_length": logs[-1]["completions/mean_length"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--ours-only", action="store_true", help="measure only our implementation")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "grpo_step.json")
    args = parser.parse_args()
    record = Record(args.json, "cpu")
    work = (args.prompts, args.responses, args.tokens)
    record.content["work"] = dict(zip(("prompts", "responses", "tokens"), work, strict=True))
    missing = [name for name in ("torch", "transformers", "trl") if not measure.version(name)]
    if missing:
        sys.exit(f"{' and '.join(missing)} not installed")
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder))
        sides: dict[str, Any] = {"ours": Side(OursSide)}
        if not args.ours_only:
            sides["trl"] = Side(TrlSide)
        for side in sides.values():
            side.ask("prepare", folder, *work)
        abouts: dict[str, list[dict[str, float]]] = {name: [] for name in sides}

        def turn(name: str) -> float:
            seconds = sides[name].ask("run", limit=600.0)
            abouts[name].append(sides[name].ask("about"))
            return seconds / (args.prompts * args.responses * abouts[name][-1]["mean_length"])

        times, dropped = measure.take_turns({name: (lambda name=name: turn(name)) for name in sides}, args.rounds, 2)
        for name, reason in dropped.items():
            record.leave_out(name, reason)
        for side in sides.values():
            side.close()
    full = args.prompts * args.responses * args.tokens
    for name, found in times.items():
        seconds = measure.summary([full * one for one in found])
        last = abouts[name][2:]
        parts = {key: float(np.median([one[key] for one in last])) for key in last[0]}
        record.add(name, {"seconds_of_full_length": seconds, **parts})
        shown = ", ".join(f"{key} {value:.2f}" for key, value in parts.items())
        print(f"{name:6}{seconds['median']:.2f} s a step [{seconds['low']:.2f}, {seconds['high']:.2f}]; {shown}")
    if len(times) == 2:
        ratio = measure.summary([b / a for a, b in zip(times["ours"], times["trl"], strict=True)])
        record.add("ratio", ratio)
        print(f"ours is {ratio['median']:.2f} times as fast [{ratio['low']:.2f}, {ratio['high']:.2f}]")
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
