"""Captions, questions with true and false answers, and minimally wrong captions of a scene."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pivot_jax.data.scenes.world import DIGIT, PLACES, SIZES, Scene, Thing, World

DESCRIBE = "Describe the picture."
IN_A_SENTENCE = " Answer in a sentence."
READING_ORDER = PLACES[3]  # holds the four names of a 2 x 2 grid in the same order


@dataclass(frozen=True)
class Question:
    """``form`` names the wording within the kind. ``sentence`` holds ``{}`` where an answer goes; None: no such form.

    ``wrong`` are all other answers of the same type; every one of them is false of the scene.
    """

    kind: str
    form: str
    text: str
    answer: str
    wrong: tuple[str, ...]
    sentence: str | None = None


def caption(scene: Scene) -> str:
    """True description, things in reading order."""
    parts = [f"a {t.phrase} at the {t.place}" for t in sorted(scene, key=lambda t: READING_ORDER.index(t.place))]
    head = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"There is {head}."


def wrong_caption(world: World, scene: Scene, rng: random.Random) -> str:
    """The caption with one attribute of one thing flipped, such that nothing in the scene makes it true."""
    there = {(t.phrase, t.place) for t in scene}
    options: list[Scene] = []
    for index, thing in enumerate(scene):
        edits: list[Thing] = [dataclasses.replace(thing, color=c) for c in world.colors if c != thing.color]
        if thing.shape == DIGIT:
            edits += [dataclasses.replace(thing, value=v) for v in range(10) if v != thing.value]
        else:
            edits += [dataclasses.replace(thing, shape=s) for s in world.shapes if s != thing.shape]
            edits += [dataclasses.replace(thing, size=s) for s in SIZES if s != thing.size]
        options += [
            (*scene[:index], edit, *scene[index + 1 :]) for edit in edits if (edit.phrase, edit.place) not in there
        ]
    return caption(rng.choice(options))


def _named(scene: Scene, thing: Thing, attributes: tuple[str, ...]) -> bool:
    """Whether these attributes pick out the thing alone."""
    return sum(all(getattr(t, a) == getattr(thing, a) for a in attributes) for t in scene) == 1


def _others(values: tuple[str, ...], answer: str) -> tuple[str, ...]:
    return tuple(v for v in values if v != answer)


def _color(world: World, scene: Scene) -> list[Question]:
    out = []
    for t in scene:
        names = [("place", f"thing at the {t.place}")] if _named(scene, t, ("place",)) else []
        if _named(scene, t, ("shape",)):
            names.append(("shape", t.shape))
        for form, name in names:
            wrong = _others(world.colors, t.color)
            out.append(Question("color", form, f"What color is the {name}?", t.color, wrong, f"The {name} is {{}}."))
    return out


def _shape(world: World, scene: Scene) -> list[Question]:
    out = []
    for t in scene:
        names = [("place", f"thing at the {t.place}")] if _named(scene, t, ("place",)) else []
        if _named(scene, t, ("color",)):
            names.append(("color", f"{t.color} thing"))
        for form, name in names:
            wrong = _others(world.nouns, t.shape)
            out.append(Question("shape", form, f"What shape is the {name}?", t.shape, wrong, f"The {name} is a {{}}."))
    return out


def _clearly_placed(world: World, thing: Thing) -> bool:
    """Away from the borders between regions; on a grid everything is."""
    if world.grid:
        return True
    return all(abs(v - world.image_size / 2) > world.image_size / 10 for v in (thing.x, thing.y))


def _place(world: World, scene: Scene) -> list[Question]:
    out = []
    for t in scene:
        names = []
        if _named(scene, t, ("color", "shape")):
            names.append(("color and shape", t.short))
        if _named(scene, t, ("color",)):
            names.append(("color", f"{t.color} thing"))
        for form, name in names if _clearly_placed(world, t) else []:
            wrong = _others(world.places, t.place)
            out.append(Question("place", form, f"Where is the {name}?", t.place, wrong, f"The {name} is at the {{}}."))
    return out


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def _count(world: World, scene: Scene) -> list[Question]:
    def ask(form: str, what: str, count: int, least: int) -> Question:
        values = tuple(str(i) for i in range(least, world.max_objects + 1))
        text = f"How many {what} are there?"
        return Question("count", form, text, str(count), _others(values, str(count)), f"There are {{}} {what}.")

    out = [ask("all", "things", len(scene), world.min_objects)] if world.min_objects < world.max_objects else []
    for color in world.colors:
        out.append(ask("color", f"{color} things", sum(t.color == color for t in scene), 0))
    for shape in world.nouns:
        out.append(ask("shape", plural(shape), sum(t.shape == shape for t in scene), 0))
    return [q for q in out if q.wrong]


def _digit(world: World, scene: Scene) -> list[Question]:
    out = []
    for t in scene:
        if t.shape != DIGIT:
            continue
        answer, wrong = str(t.value), _others(tuple("0123456789"), str(t.value))
        names = [("only", "digit")] if _named(scene, t, ("shape",)) else []
        if _named(scene, t, ("color", "shape")):
            names.append(("color", f"{t.color} digit"))
        for form, name in names:
            out.append(Question("digit", form, f"Which number is the {name}?", answer, wrong, f"The {name} is a {{}}."))
    return out


def _relation(world: World, scene: Scene) -> list[Question]:
    out = []
    for a, b in itertools.permutations(scene, 2):
        if a.short == b.short or not (_named(scene, a, ("color", "shape")) and _named(scene, b, ("color", "shape"))):
            continue
        for form, gap, (low, high) in (("x", a.x - b.x, ("left", "right")), ("y", a.y - b.y, ("above", "below"))):
            if abs(gap) < world.cell / 2:
                continue
            answer, wrong = (low, high) if gap < 0 else (high, low)
            middle = "to the {} of" if form == "x" else "{}"
            between = "left or right of" if form == "x" else "above or below"
            text = f"Is the {a.short} {between} the {b.short}?"
            out.append(Question("relation", form, text, answer, (wrong,), f"The {a.short} is {middle} the {b.short}."))
    return out


def _compare(world: World, scene: Scene) -> list[Question]:
    del world
    out = []
    for a, b in itertools.permutations(scene, 2):
        if DIGIT in (a.shape, b.shape) or a.size == b.size:
            continue
        if _named(scene, a, ("color", "shape")) and _named(scene, b, ("color", "shape")):
            answer, wrong = (a.short, b.short) if a.size == "large" else (b.short, a.short)
            first = "first" if answer == a.short else "second"
            text = f"Which is larger, the {a.short} or the {b.short}?"
            out.append(Question("compare", first, text, answer, (wrong,), "The {} is larger."))
    return out


def _exists(world: World, scene: Scene) -> list[Question]:
    there = {(t.color, t.shape) for t in scene}
    near = {(t.color, s) for t in scene for s in world.nouns} | {(c, t.shape) for t in scene for c in world.colors}
    out = []
    for color, shape in sorted(near):
        answer, wrong = ("yes", "no") if (color, shape) in there else ("no", "yes")
        out.append(Question("exists", "color and shape", f"Is there a {color} {shape}?", answer, (wrong,)))
    return out


ASK: dict[str, Callable[[World, Scene], list[Question]]] = {
    "color": _color,
    "shape": _shape,
    "place": _place,
    "count": _count,
    "digit": _digit,
    "relation": _relation,
    "compare": _compare,
    "exists": _exists,
}


class Balance:
    """Picks questions so that kinds keep their shares and, within a wording, answers are as even as scenes allow."""

    def __init__(self, world: World):
        self.world = world
        self.shares = dict(world.questions)
        self.kinds: Counter[str] = Counter()
        self.forms: Counter[tuple[str, str]] = Counter()
        self.answers: Counter[tuple[str, str, str]] = Counter()

    def pick(self, scene: Scene, rng: random.Random, used: frozenset[str] = frozenset()) -> Question | None:
        """The question most needed now that the scene can answer and that is not in ``used``, or None."""
        order = sorted((k for k, share in self.shares.items() if share), key=lambda k: self.kinds[k] / self.shares[k])
        for kind in order:
            options = [q for q in ASK[kind](self.world, scene) if q.text not in used]
            if not options:
                continue
            rng.shuffle(options)
            best = min(options, key=lambda q: (self.forms[q.kind, q.form], self.answers[q.kind, q.form, q.answer]))
            self.kinds[kind] += 1
            self.forms[kind, best.form] += 1
            self.answers[kind, best.form, best.answer] += 1
            return best
        return None
