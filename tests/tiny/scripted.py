"""An answerer that is a function of the example, for tests of everything around a model."""

from __future__ import annotations

from pivot_jax.eval.answerer import Reply
from pivot_jax.parallel.processes import Processes


class Scripted:
    """Answers by a function of the example, and remembers what it was asked."""

    def __init__(self, reply, option=0, fail_after=None, **settings):
        self.reply, self.option, self.fail_after, self.asked = reply, option, fail_after, []
        self.settings, self.ranked, self.processes = settings, [], Processes(None)

    def for_images(self, count):
        return self

    def for_sampling(self, temperature, top_p=1.0):
        self.settings |= {"temperature": temperature, "top_p": top_p}
        return self

    def answer(self, examples, max_new_tokens, done=lambda count: None, stop=()):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += [example.id for example in examples]
        done(len(examples))
        return [Reply(self.reply(example), finished=True) for example in examples]

    def choose(self, examples, options, normalisation="mean"):
        self.ranked += [example.id for example in examples]
        return [self.option] * len(examples)
