"""Five optimizer steps of SFT and of DPO against TRL's own trainers, live.

Both sides start from one exported folder and read the same images and sentences, each through its own pipeline:
TRL through the folder's processor, chat template and collator, ours through ``Chat`` and ``collate``. So tokens,
masks, losses, clipping, schedule, AdamW and the metrics' definitions are compared at once.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import transformers
import trl
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from pivot_jax import config, hub, rules
from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.table import build_objective
from pivot_jax.optim import adamw, partition
from pivot_jax.optim.update import build_step, init_state
from tests.tiny import hf, processing

STEPS, ROWS, RATE = 5, 3, 2e-3
WORDS = ["red", "green", "circle", "square", "left", "right", "of", "the", "one", "two", "three", "is", "there", "yes"]


@pytest.fixture(scope="module")
def rows():
    """(question, chosen, rejected, image) of STEPS * ROWS rows; lengths differ."""
    rng = np.random.default_rng(7)

    def sentence(longest: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, longest)))

    images = rng.integers(0, 256, (STEPS * ROWS, 24, 24, 3), dtype=np.uint8)
    return [(sentence(6) + "?", sentence(7), sentence(4) + ".", image) for image in images]


@pytest.fixture(scope="module")
def tokenizer(rows, tmp_path_factory):
    texts = [text for row in rows for text in row[:3]]
    return load_tokenizer(train_bpe(texts, 300, tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """The common start: our export of a random LLaVA."""
    original = tmp_path_factory.mktemp("hf")
    hf.llava_model(seed=3, text=dict(vocab_size=len(tokenizer))).save_pretrained(original)
    out = tmp_path_factory.mktemp("start") / "llava"
    cfg = hub.read_config(original).mllm
    return hub.export_mllm(hub.load_params(original), cfg, out, text=hub.ExportText(tokenizer))


def trl_arguments(kind, out, **more):
    return kind(
        output_dir=str(out),
        per_device_train_batch_size=ROWS,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        max_grad_norm=1.0,
        weight_decay=0.0,
        optim="adamw_torch",
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        logging_steps=1,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        max_length=None,
        dataloader_pin_memory=False,
        **more,
    )


def dataset(rows, preference: bool) -> Dataset:
    turn = List({"role": Value("string"), "content": Value("string")})
    names = ("prompt", "chosen", "rejected") if preference else ("prompt", "completion")
    features = Features({**dict.fromkeys(names, turn), "images": List(Image())})
    records = []
    for question, chosen, rejected, image in rows:
        answers = dict(zip(names[1:], (chosen, rejected), strict=False))
        record = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
        prompt = [{"role": "user", "content": question}]
        records.append({"prompt": prompt, **record, "images": [PILImage.fromarray(image)]})
    return Dataset.from_list(records, features=features)


def train_trl(trainer) -> list[dict[str, float]]:
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def train_ours(folder, tokenizer, rows, name: str, accumulate: int = 1):
    """(metrics of every step, parameters at the end)."""
    cfg, params = hub.read_config(folder).mllm, hub.load_params(folder)
    settings = config.base()
    settings.objective.name = name
    settings.optimizer.warmup_ratio = 2 / STEPS
    made = processing.processor(tokenizer, cfg.image_tokens, size=cfg.vision.image_size)
    rates = partition.peak_rates([partition.UNUSED_BY_MLLM, (".*", RATE)], params)
    trained, frozen = partition.split(params, rates)
    objective = build_objective(MLLM(cfg), settings)
    batches = [_batch(made, rows[i : i + ROWS], objective.kind) for i in range(0, len(rows), ROWS)]
    tx = adamw.build_optimizer(settings.optimizer, rates, STEPS)
    step = jax.jit(build_step(objective, tx, clip=1.0, accumulate=accumulate))
    state, log = init_state(trained, frozen, tx.init(trained), objective), []
    for batch in batches:
        state, metrics = step(state, batch, params if objective.reference else None)
        log.append({name: float(value) for name, value in metrics.items()})
    return log, partition.merge(state.trained, state.frozen)


def _batch(made: Processor, rows, kind: str):
    encoded = []
    for number, (question, chosen, rejected, _) in enumerate(rows):
        messages = (Message("user", "<image>\n" + question),)
        if kind == "preference":
            example = Example(str(number), messages, (b"",), chosen, rejected)
        else:
            example = Example(str(number), (*messages, Message("assistant", chosen)), (b"",))
        encoded.append(made.for_kind(kind).encode(example))
    images = np.stack([image for *_, image in rows])[:, None]
    return made.for_kind(kind).batch(encoded, ImageArrays(images), (96, 64))


def assert_close(ours, theirs, names, absolute: float = 1e-7) -> None:
    for step, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
        for name in names:
            np.testing.assert_allclose(
                mine[name], yours[name], rtol=1e-4, atol=absolute, err_msg=f"{name} at step {step + 1}"
            )


def assert_same_end(ours, model, tmp_path) -> None:
    """All parameters after the last step.

    SigLIP's key biases are left out: softmax does not see them, so their gradient is rounding noise, which Adam
    blows up to full steps on both sides.
    """
    model.save_pretrained(tmp_path / "end")
    theirs = rules.flatten(hub.load_params(tmp_path / "end"))
    for path, mine in rules.flatten(ours).items():
        if path != "vision/blocks/attn/k/bias":
            np.testing.assert_allclose(mine, theirs[path], rtol=0, atol=RATE / 20, err_msg=path)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.heavy_after(1)
def test_sft(folder, tokenizer, rows, tmp_path, accumulate):
    """In one batch, and in micro-batches of one row on both sides."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder)
    arguments = trl_arguments(trl.SFTConfig, tmp_path, gradient_accumulation_steps=accumulate)
    arguments.per_device_train_batch_size = ROWS // accumulate
    processor = transformers.AutoProcessor.from_pretrained(folder)
    trainer = trl.SFTTrainer(model, arguments, train_dataset=dataset(rows, False), processing_class=processor)
    theirs = train_trl(trainer)
    ours, params = train_ours(folder, tokenizer, rows, "sft", accumulate)
    # TRL averages the other metrics over micro-batches of different sizes; ours are of the whole batch
    more = ("entropy", "mean_token_accuracy") if accumulate == 1 else ()
    assert_close(ours, theirs, ("loss", "grad_norm", *more))
    assert_same_end(params, model, tmp_path)
    assert max(entry["grad_norm"] for entry in theirs) > 1, "clipping was not put to the test"


def test_dpo(folder, tokenizer, rows, tmp_path):
    model, reference = (transformers.LlavaForConditionalGeneration.from_pretrained(folder) for _ in range(2))
    arguments = trl_arguments(trl.DPOConfig, tmp_path, beta=0.1, loss_type="sigmoid")
    trainer = trl.DPOTrainer(
        model,
        reference,
        arguments,
        train_dataset=dataset(rows, True),
        processing_class=transformers.AutoProcessor.from_pretrained(folder),
    )
    theirs = train_trl(trainer)
    ours, params = train_ours(folder, tokenizer, rows, "dpo")
    assert_close(
        ours, theirs, ("loss", "grad_norm", "logps/chosen", "logps/rejected", "entropy", "mean_token_accuracy")
    )
    assert_close(ours, theirs, ("logits/chosen", "logits/rejected"), absolute=1e-6)
    # rewards are differences of log-probs of size 50 in float32, whose rounding is 4e-6; times beta, 4e-7.
    # At steps 1 and 2 (learning rate 0) they are rounding alone, and so is which one is larger.
    assert_close(ours, theirs, ("rewards/chosen", "rewards/rejected", "rewards/margins"), absolute=1e-6)
    assert_close(ours[2:], theirs[2:], ("rewards/accuracies",))
    assert_same_end(params, model, tmp_path)
    assert torch.is_grad_enabled() and theirs[-1]["rewards/margins"] > 1e-3
