"""How chat formats write a turn: the control tokens around it, and the text between them.

Any other format is the chat template of a tokenizer, see :mod:`jinja`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """One format. A conversation is ``first`` and then, for every turn, ``start role header gap text end after``.

    Attributes:
      first, start, header, end: control tokens, each one id; "" where the format has none.
      gap: between the role and the text; without a header token it is tokenised together with them.
      after: after a turn, "" or a newline.
      trims: whether the text is stripped.
    """

    first: str
    start: str
    header: str
    gap: str
    end: str
    after: str
    trims: bool

    @property
    def tokens(self) -> tuple[str, ...]:
        """Control tokens, which no text may hold."""
        return tuple(token for token in (self.first, self.start, self.header, self.end) if token)

    def turn(self, role: str, text: str) -> str:
        return f"{self.opening(role)}{text.strip() if self.trims else text}{self.end}{self.after}"

    def opening(self, role: str) -> str:
        return f"{self.start}{role}{self.header}{self.gap}"


TEMPLATE = "template"  # config.tokenizer.chat: the tokenizer's chat template
DIALECTS = {  # config.tokenizer.chat
    "chatml": Dialect("", "<|im_start|>", "", "\n", "<|im_end|>", "\n", trims=False),  # Qwen
    "llama3": Dialect(
        "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "\n\n", "<|eot_id|>", "", trims=True
    ),
}
