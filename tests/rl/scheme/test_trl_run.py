"""A log that TRL's own GRPOTrainer wrote."""

from __future__ import annotations

import datasets
import trl

from pivot_jax.rl.scheme.logs import read
from pivot_jax.rl.scheme.reading import DEFAULT, read_run
from tests.tiny import hf
from tests.tiny.qwen import tokenizer

QUESTIONS = ("What color is the circle?", "How many squares are there?")


def correct(completions, **columns):
    return [float(len(text) % 2) for text in completions]


def test_the_log_of_a_run_of_trl(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": text} for text in QUESTIONS])
    arguments = trl.GRPOConfig(
        str(tmp_path / "out"), per_device_train_batch_size=4, num_generations=4, max_completion_length=6, max_steps=3,
        log_completions=True, logging_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no", seed=0,
    )  # fmt: skip
    made = tokenizer(tmp_path / "tokenizer")
    made.pad_token = made.eos_token = made.eos_token or "<|im_start|>"
    model = hf.text_model(vocab_size=len(made))
    trainer = trl.GRPOTrainer(model, reward_funcs=[correct], args=arguments, train_dataset=rows, processing_class=made)
    trainer.train()
    found = read_run(tmp_path / "out", DEFAULT)
    assert sorted(set(found.step)) == [1, 2, 3] and len(found) == 12
    said = list(read(tmp_path / "out"))
    assert {one.question for one in said} <= set(QUESTIONS)
    assert [one.correct for one in said] == correct([one.text for one in said])
