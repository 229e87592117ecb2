"""Reward functions of a user that misbehave. Loaded by path in worker processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time


def hangs(prompts, completions, **columns):
    if any("sleep" in text for text in completions):
        time.sleep(1e6)
    return [1.0] * len(completions)


def spins(prompts, completions, **columns):
    return [1.0 if re.fullmatch(r"(a+)+b", text) else 0.5 for text in completions]


def raises(prompts, completions, **columns):
    if any("bad" in text for text in completions):
        raise KeyError("bad")
    return [1.0] * len(completions)


def allocates(prompts, completions, **columns):
    if any("big" in text for text in completions):
        assert bytearray(10 << 30)
    return [1.0] * len(completions)


def grows(prompts, completions, **columns):
    """Small pieces, and the errors are swallowed."""
    kept = []
    while any("big" in text for text in completions):
        kept.append(bytes(os.urandom(1 << 10)) * 4096)
    return [1.0] * len(completions)


def dies(prompts, completions, **columns):
    if any("die" in text for text in completions):
        os.kill(os.getpid(), signal.SIGSEGV)
    return [1.0] * len(completions)


def returns(prompts, completions, **columns):
    """What the completion says."""
    said = {"nan": float("nan"), "inf": float("inf"), "none": None, "text": "high", "true": True, "one": 1}
    return [said[text] for text in completions]


def miscounts(prompts, completions, **columns):
    return [1.0] * (len(completions) - ("short" in completions))


def one_for_all(prompts, completions, **columns):
    return [1.0]


def forks_and_leaves(prompts, completions, pid_file, **columns):
    """The child leaves the process group too, and stays."""
    if any("fork" in text for text in completions):
        code = f"import os, time; os.setsid(); open({pid_file!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(1e6)"
        subprocess.Popen([sys.executable, "-S", "-c", code])
        while not os.path.exists(pid_file):
            time.sleep(0.01)
    return [1.0] * len(completions)


def forks_and_returns(prompts, completions, **columns):
    """The child returns as well."""
    os.fork()
    return [1.0] * len(completions)


def fork_bomb(prompts, completions, **columns):
    while any("fork" in text for text in completions):
        if os.fork() == 0:
            time.sleep(1e6)
    return [1.0] * len(completions)


def runs_programs(prompts, completions, **columns):
    """Starts a process and waits for it, as a code reward does."""
    return [float(subprocess.run(["echo", text], capture_output=True).stdout.decode().strip()) for text in completions]


def environment(prompts, completions, **columns):
    """1 where neither JAX nor torch is imported, and the parent is not the trainer."""
    return [float("jax" not in sys.modules and "torch" not in sys.modules)] * len(completions)


async def awaits(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def batch_size(completions):
    """No prompts, no columns: only the arguments that it names are passed."""
    return [float(len(completions))] * len(completions)


def messages(prompts, completions, completion_ids, answer, scale=2.0, **columns):
    assert prompts[0][0]["role"] == "user" and completions[0][0]["role"] == "assistant"
    right = [c[0]["content"] == a for c, a in zip(completions, answer, strict=True)]
    return [scale * len(ids) if ok else None for ok, ids in zip(right, completion_ids, strict=True)]
