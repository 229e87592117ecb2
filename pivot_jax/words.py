"""Numbers with their nouns, for messages and pages."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """``"1 question"``, ``"3 questions"``; ``plural`` where it is not the noun with an s. Thousands are ``"1,200"``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
