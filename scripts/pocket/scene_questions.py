"""Asks questions about generated scenes; a question is asked only if it has exactly one correct answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from scripts.pocket import questions, scenes
from scripts.pocket.questions import NOWHERE, Mention, Question, capital, listed, with_article
from scripts.pocket.scenes import Object, Scene

FAMILIES = ("shape", "number", "letter")


def name(item: Object) -> str:
    """Returns the name of an object, such as `star`, `number 7` or `letter K`."""
    return kind_name(item.kind)


def kind_name(kind: str) -> str:
    """Returns the name of a kind of object."""
    if kind in scenes.SHAPES:
        return kind
    return f"number {kind}" if kind in scenes.DIGITS else f"letter {kind}"


def place(position: str) -> str:
    """Returns the phrase for a position, such as `at the top left` or `in the centre`."""
    return "in the centre" if position == "centre" else f"at the {position}"


def plural(noun: str) -> str:
    """Returns the plural of a noun, such as `stars` or `crosses`."""
    return noun + ("es" if noun.endswith("s") else "s")


def references(scene: Scene, item: Object, hidden: str) -> list[str]:
    """Returns all unambiguous names of an object that do not reveal its `hidden` property."""
    properties = {"kind": item.kind, "colour": item.colour, "size": item.size, "family": item.family}

    def unique(*wanted: str) -> bool:
        if hidden in wanted or (hidden == "kind" and "family" in wanted):
            return False
        return sum(all(getattr(o, w) == properties[w] for w in wanted) for o in scene.objects) == 1

    ways = [
        (("kind",), f"the {name(item)}"),
        (("family",), f"the {item.family}"),
        (("colour",), f"the {item.colour} object"),
        (("size",), f"the {item.size} object"),
        (("colour", "kind"), f"the {item.colour} {name(item)}"),
        (("size", "kind"), f"the {item.size} {name(item)}"),
        (("colour", "family"), f"the {item.colour} {item.family}"),
    ]
    texts = [text for wanted, text in ways if unique(*wanted)]
    if hidden != "position" and (not texts or len(scene.objects) > 1):
        texts.append(f"the object {place(item.position)}")
    return texts


def _only(item: Object, called: str = "") -> tuple[Mention, ...]:
    """Returns the mention for an answer about one object."""
    return (Mention(item.cell, called=called),)


def _said(text: str, *names: str) -> str:
    """Returns the first of the names that occurs in the text, or an empty string."""
    return next((name for name in names if name in text), "")


def _each(items: Sequence[Object], called: str = "") -> tuple[Mention, ...]:
    """Returns the mentions for an answer that lists objects like "red star"."""
    return tuple(Mention(item.cell, f"{item.colour} {name(item)}", called) for item in items)


def _pick(scene: Scene, rng: random.Random, hidden: str, family: str | None = None) -> tuple[Object, str] | None:
    """Picks an object that can be named without its `hidden` property; returns it with its name."""
    candidates = [o for o in scene.objects if family is None or (o.family == "shape") == (family == "shape")]
    rng.shuffle(candidates)
    for item in candidates:
        texts = references(scene, item, hidden)
        if texts:
            return item, rng.choice(texts)
    return None


def _paired(rng: random.Random, forms: Sequence[str], sentences: Sequence[str]) -> tuple[str, str]:
    """Picks a form of the question, and the form of answer that belongs to it; a random one would only add noise."""
    index = rng.randrange(len(forms))
    return forms[index], sentences[index % len(sentences)]


def ask_shape(scene: Scene, rng: random.Random) -> Question | None:
    picked = _pick(scene, rng, "kind", "shape")
    if picked is None:
        return None
    item, reference = picked
    forms = [f"What shape is {reference}?", f"Which shape is {reference}?", f"What is the shape of {reference}?"]
    if [o.family for o in scene.objects].count("shape") == 1:
        forms += ["Which shape is in the picture?", "What shape do you see?"]
    thing = with_article(item.kind)
    text, sentence = _paired(rng, forms, (f"It is {thing}.", f"The shape is {thing}."))
    return Question("shape", text, item.kind, sentence, "shape", about=_only(item, _said(text, reference)))


def ask_character(scene: Scene, rng: random.Random) -> Question | None:
    candidates = [o for o in scene.objects if o.family != "shape"]
    if not candidates:
        return None
    item = rng.choice(candidates)
    family = [o for o in scene.objects if o.family == item.family]
    forms = [f"Which {item.family} is {place(item.position)}?", f"What {item.family} is {place(item.position)}?"]
    if len(family) == 1:
        forms += [f"Which {item.family} is in the picture?", f"What {item.family} do you see?"]
    if [o.colour for o in family].count(item.colour) == 1:
        forms += [f"Which {item.family} is {item.colour}?", f"Can you read the {item.colour} {item.family}?"]
    text, sentence = rng.choice(forms), f"It is the {name(item)}."
    about = _only(item, _said(text, place(item.position), item.colour))
    return Question("character", text, item.kind, sentence, "character", about=about)


def _ask_attribute(
    scene: Scene, rng: random.Random, attribute: str, forms: Sequence[str], said: Callable[[str], str] = str
) -> Question | None:
    """Asks for one attribute of an object that its other attributes identify.

    Args:
        said: turns the value of the attribute into the words of the sentence.
    """
    picked = _pick(scene, rng, attribute)
    if picked is None:
        return None
    item, reference = picked
    value = getattr(item, attribute)
    words = said(value)
    text, sentence = _paired(rng, forms, (f"{capital(reference)} is {words}.", f"It is {words}."))
    return Question(attribute, text.format(reference), value, sentence, attribute, about=_only(item, reference))


def ask_colour(scene: Scene, rng: random.Random) -> Question | None:
    forms = ("What colour is {}?", "What color is {}?", "Which colour is {}?", "What is the colour of {}?")
    return _ask_attribute(scene, rng, "colour", forms)


def ask_size(scene: Scene, rng: random.Random) -> Question | None:
    forms = ("What size is {}?", "Is {} small or large?", "Is {} large or small?", "How big is {}?")
    return _ask_attribute(scene, rng, "size", forms)


def ask_position(scene: Scene, rng: random.Random) -> Question | None:
    forms = ("Where is {}?", "In which part of the picture is {}?", "Where do you see {}?")
    return _ask_attribute(scene, rng, "position", forms, said=place)


def ask_count(scene: Scene, rng: random.Random) -> Question:
    """Asks how many objects of a sort there are; the answer first names them."""
    choice = rng.random()
    item = rng.choice(scene.objects)
    if choice < 0.35:
        nouns, counted = "objects", list(scene.objects)
    elif choice < 0.6:
        colour = item.colour if rng.random() < 0.8 else rng.choice(list(scenes.COLOURS))
        nouns, counted = f"{colour} objects", [o for o in scene.objects if o.colour == colour]
    elif choice < 0.8:
        family = rng.choice(FAMILIES)
        nouns, counted = plural(family), [o for o in scene.objects if o.family == family]
    else:
        shown = [o.kind for o in scene.objects if o.family == "shape"]
        kind = rng.choice(shown) if shown and rng.random() < 0.8 else rng.choice(scenes.SHAPES)
        nouns, counted = plural(kind), [o for o in scene.objects if o.kind == kind]
    where = rng.choice((" are there", " are in the picture", " do you see", " can you count"))
    noun = {"crosses": "cross"}.get(nouns, nouns[:-1])
    things = [f"{o.colour} {name(o)}" for o in counted]
    fact = listed([with_article(thing) for thing in things]) if things else "none"
    number = questions.NUMBERS[len(counted)]
    return Question(
        "count",
        f"How many {nouns}{where}?",
        number,
        f"{capital(fact)}, so {number} {noun if len(counted) == 1 else nouns}.",
        "number",
        f"{', '.join(things) or 'none'}, so {number}",
        about=_each(counted, "" if nouns == "objects" else nouns),
    )


def ask_what_at(scene: Scene, rng: random.Random) -> Question:
    forms = ("What is {}?", "What do you see {}?", "Which object is {}?")
    if rng.random() < 0.15:
        taken = {o.position for o in scene.objects}
        cells = [position for row in scenes.POSITIONS for position in row]
        free = rng.choice([position for position in cells if position not in taken])
        text, sentence = rng.choice(forms).format(place(free)), "There is nothing there."
        about = (Mention(cells.index(free), called=free),)
        return Question("what is there", text, "nothing", sentence, "object", about=about)
    item = rng.choice(scene.objects)
    thing = f"{item.colour} {name(item)}"
    text, sentence = _paired(rng, forms, (f"It is {with_article(thing)}.", f"There is {with_article(thing)}."))
    text = text.format(place(item.position))
    return Question("what is there", text, thing, sentence, "object", about=_only(item, item.position))


SIDES: dict[str, Callable[[Object, Object], bool]] = {
    "to the left of": lambda a, b: a.column < b.column,
    "to the right of": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}


def ask_relation(scene: Scene, rng: random.Random) -> Question | None:
    """Asks what is on a side of an object, if exactly one object is on that side."""
    possible = []
    for item in scene.objects:
        for side, on_side in SIDES.items():
            there = [o for o in scene.objects if on_side(o, item)]
            texts = references(scene, item, "position")
            if len(there) == 1 and texts:
                possible.append((there[0], side, item, rng.choice(texts)))
    if not possible:
        return None
    other, side, item, reference = rng.choice(possible)
    thing = f"{other.colour} {name(other)}"
    forms = (
        f"What is {side} {reference}?",
        f"Which object is {side} {reference}?",
        f"What do you see {side} {reference}?",
    )
    text, sentence = rng.choice(forms), f"It is {with_article(thing)}."
    about = (Mention(other.cell, called=reference, named=item.cell),)
    return Question("relation", text, thing, sentence, "object", about=about)


def ask_exists(scene: Scene, rng: random.Random) -> Question:
    """Asks whether an object exists; half do, and the others often mix two that do. The answer names all objects."""
    item, yes = rng.choice(scene.objects), rng.random() < 0.5
    kind, colour = item.kind, item.colour
    with_colour = rng.random() < 0.6
    if not yes:
        shown = {(o.kind, o.colour) if with_colour else o.kind for o in scene.objects}
        while ((kind, colour) if with_colour else kind) in shown:
            kind = rng.choice(scenes.KINDS) if not with_colour or rng.random() < 0.5 else rng.choice(scene.objects).kind
            colour = rng.choice(scene.objects).colour if rng.random() < 0.5 else rng.choice(list(scenes.COLOURS))
    noun = f"{colour} {kind_name(kind)}" if with_colour else kind_name(kind)
    text = rng.choice(("Is there {}?", "Do you see {}?", "Is there {} in the picture?", "Can you see {}?"))
    things = [f"{o.colour} {name(o)}" for o in scene.objects]
    fact = f"there is {listed([with_article(thing) for thing in things])}"
    text = text.format(with_article(noun))
    found = [o for o in scene.objects if o.kind == kind and (o.colour == colour or not with_colour)]
    verdict = Mention(found[0].cell if found else NOWHERE, called=noun)
    return questions.yes_or_no("is there", text, yes, fact, ", ".join(things), (*_each(scene.objects), verdict))


def ask_is_it(scene: Scene, rng: random.Random) -> Question | None:
    """Asks whether an object has a colour or a size."""
    hidden = rng.choice(("colour", "colour", "size"))
    picked = _pick(scene, rng, hidden)
    if picked is None:
        return None
    item, reference = picked
    true = getattr(item, hidden)
    values = list(scenes.COLOURS) if hidden == "colour" else list(scenes.SIZES)
    asked = true if rng.random() < 0.5 else rng.choice([v for v in values if v != true])
    text, fact = f"Is {reference} {asked}?", f"{reference} is {true}"
    fits = item.cell if asked == true else NOWHERE
    verdict = Mention(item.cell, called=f"{reference} {asked}", named=fits)
    about = (Mention(item.cell, true, reference), verdict)
    return questions.yes_or_no("is it", text, asked == true, fact, true, about)


COLUMNS, ROWS = ("left", "middle", "right"), ("top", "middle", "bottom")


def ask_is_beside(scene: Scene, rng: random.Random) -> Question | None:
    """Asks whether an object is on a side of another, if it clearly is or clearly is on the opposite side.

    The answer compares columns or rows.
    """
    if len(scene.objects) < 2:
        return None
    item, other = rng.sample(scene.objects, 2)
    texts, other_texts = references(scene, item, "position"), references(scene, other, "position")
    pairs = (("to the left of", "to the right of"), ("above", "below"))
    pair = [p for p in pairs if SIDES[p[0]](item, other) or SIDES[p[1]](item, other)]
    if not texts or not other_texts or not pair:
        return None
    sides = rng.choice(pair)
    side = rng.choice(sides)
    reference, other_reference = rng.choice(texts), rng.choice(other_texts)
    if "above" in sides:
        where, other_where = ROWS[item.row], ROWS[other.row]
    else:
        where, other_where = COLUMNS[item.column], COLUMNS[other.column]
    said, other_said = (f"{'in' if word == 'middle' else 'at'} the {word}" for word in (where, other_where))
    fact = f"{reference} is {said} and {other_reference} {other_said}"
    return questions.yes_or_no(
        "is it beside",
        f"Is {reference} {side} {other_reference}?",
        SIDES[side](item, other),
        fact,
        f"{where} and {other_where}",
        (
            Mention(item.cell, where, reference),
            Mention(other.cell, other_where, other_reference),
            Mention(other.cell, called=f"{reference} {side} {other_reference}", named=item.cell),
        ),
    )


def ask_background(scene: Scene, rng: random.Random) -> Question:
    forms = ("What colour is the background?", "What color is the background?", "What is the background colour?")
    sentence = f"The background is {scene.background}."
    return Question("background", rng.choice(forms), scene.background, sentence, "colour")


WHAT_IS_IT = ("What is in the picture?", "What do you see?", "What is this?", "What does the picture show?")
DESCRIBE = (
    "Describe the picture.",
    "Describe this image.",
    "Describe the picture in detail.",
    "What is where in the picture?",
)


def ask_what(scene: Scene, rng: random.Random) -> Question:
    things = [f"{o.colour} {name(o)}" for o in scene.objects]
    sentence = f"A drawing of {listed([with_article(thing) for thing in things])}."
    text = rng.choice(WHAT_IS_IT)
    return Question("what is in it", text, ", ".join(things), sentence, "object", about=_each(scene.objects))


def ask_describe(scene: Scene, rng: random.Random) -> Question:
    about = tuple(Mention(o.cell, f"{name(o)} {place(o.position)}") for o in scene.objects)
    return Question("description", rng.choice(DESCRIBE), "", describe(scene), "description", about=about)


def describe(scene: Scene) -> str:
    """Describes all facts of a scene, in reading order."""
    things = [f"{with_article(f'{o.size} {o.colour} {name(o)}')} {place(o.position)}" for o in scene.objects]
    return f"{capital(listed(things))}. The background is {scene.background}."


def ask_cannot_tell(scene: Scene, rng: random.Random) -> Question:
    if rng.random() < 0.35:
        return questions.unanswerable(rng)
    shown = {o.kind for o in scene.objects}
    noun = kind_name(rng.choice([k for k in scenes.KINDS if k not in shown]))
    if rng.random() < 0.4:
        pairs = {(o.colour, o.kind) for o in scene.objects}
        colour, kind = rng.choice(scene.objects).colour, rng.choice((*sorted(shown), rng.choice(scenes.KINDS)))
        if (colour, kind) not in pairs:
            noun = f"{colour} {kind_name(kind)}"
            return questions.absent(rng.choice((f"Where is the {noun}?", f"What size is the {noun}?")), noun)
    forms = (
        "What colour is the {}?",
        "Where is the {}?",
        "What size is the {}?",
        "What is above the {}?",
        "What color is the {}?",
    )
    return questions.absent(rng.choice(forms).format(noun), noun)


def ask_medium(scene: Scene, rng: random.Random) -> Question:
    return questions.medium(rng, "drawing")


Asker = Callable[[Scene, random.Random], "Question | None"]
ASKERS: dict[str, tuple[Asker, float]] = {
    "shape": (ask_shape, 0.8),
    "character": (ask_character, 1.2),
    "colour": (ask_colour, 1.5),
    "size": (ask_size, 1.3),
    "position": (ask_position, 2.0),
    "count": (ask_count, 1.6),
    "what is there": (ask_what_at, 1.6),
    "relation": (ask_relation, 1.5),
    "is there": (ask_exists, 2.0),
    "is it": (ask_is_it, 2.2),
    "is it beside": (ask_is_beside, 2.0),
    "background": (ask_background, 0.3),
    "what is in it": (ask_what, 0.6),
    "description": (ask_describe, 1.2),
    "can't tell": (ask_cannot_tell, 0.6),
    "drawing or photograph": (ask_medium, 0.3),
}
"""Function and relative frequency of each kind of question."""
COMPARING = {
    "is it": 6.0,
    "is there": 5.0,
    "is it beside": 4.0,
    "can't tell": 3.0,
    "count": 2.0,
    "position": 2.0,
    "colour": 1.0,
    "size": 1.0,
    "what is there": 1.0,
    "relation": 0.7,
    "shape": 0.5,
    "character": 0.5,
    "description": 0.4,
    "what is in it": 0.3,
}
"""Relative frequency of each kind in exercises; comparing what is seen with what is asked takes most practice."""
TELL_ALL = {"what is in it", "description"}
"""Kinds of question whose answers also answer most other questions."""


def follow_up(scene: Scene, rng: random.Random) -> tuple[Question, Question]:
    """Asks what is at a position, and then a question about it."""
    item = rng.choice(scene.objects)
    thing = name(item)
    form = rng.choice(("Name the thing {}.", "Give the name of the thing {}."))
    domain = "shape" if item.family == "shape" else "character"
    sentence = f"It is {with_article(thing)}."
    first = Question("name", form.format(place(item.position)), thing, sentence, domain, about=_only(item))
    about, text, domain = rng.choice(
        (
            (item.colour, rng.choice(("What colour is it?", "And its colour?", "What color is it?")), "colour"),
            (item.size, rng.choice(("Is it small or large?", "And its size?", "How big is it?")), "size"),
        )
    )
    return first, Question("second turn", text, about, f"It is {about}.", domain, about=_only(item))
