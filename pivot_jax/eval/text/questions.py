"""Twenty fixed questions with short, undisputed answers, which a small instructed model knows about half to most of."""

from __future__ import annotations

from typing import NamedTuple


class TextQuestion(NamedTuple):
    """A prompt, and the words of which one has to be in a right answer."""

    prompt: str
    accepted: tuple[str, ...]


QUESTIONS = (
    TextQuestion("What is the capital of France?", ("paris",)),
    TextQuestion("What is the capital of Japan?", ("tokyo",)),
    TextQuestion("Which planet do we live on?", ("earth",)),
    TextQuestion("What is the largest planet of the solar system?", ("jupiter",)),
    TextQuestion("How many days does a week have?", ("seven", "7")),
    TextQuestion("How many legs does a spider have?", ("eight", "8")),
    TextQuestion("What is 2 + 3?", ("five", "5")),
    TextQuestion("What is 10 minus 4?", ("six", "6")),
    TextQuestion("What color do you get when you mix blue and yellow?", ("green",)),
    TextQuestion("What is the opposite of hot?", ("cold",)),
    TextQuestion("Which animal says meow?", ("cat", "cats")),
    TextQuestion("What do bees make?", ("honey",)),
    TextQuestion("Who wrote Romeo and Juliet?", ("shakespeare",)),
    TextQuestion("What is frozen water called?", ("ice",)),
    TextQuestion("Which ocean is between Europe and America?", ("atlantic",)),
    TextQuestion("What gas do humans need to breathe in to live?", ("oxygen",)),
    TextQuestion("Name the first month of the year.", ("january",)),
    TextQuestion("What is the plural of the word mouse?", ("mice",)),
    TextQuestion("Translate the French word 'bonjour' into English.", ("hello", "morning", "day")),
    TextQuestion("Is the sun a star or a planet?", ("star",)),
)
