"""Sentences of the world: events that can be told in several ways, each word with its part of speech and chunk."""

import random
from dataclasses import dataclass, field
from enum import StrEnum

from stages.sample.lexicon import (
    ADJECTIVES,
    COLOURS,
    NOUNS,
    PAST_TIMES,
    PRESENT_TIMES,
    Verb,
    invent_names,
    plural,
    verbs,
)

# Word, part of speech (Penn Treebank), chunk tag (CoNLL-2000).
Token = tuple[str, str, str]

_PERSON_ENDINGS = "a en is o in el ira an ette us ie ard"
_TOWN_ENDINGS = "bury ford ton mouth wick dale stead ham field pool"


class Fault(StrEnum):
    """What makes a sentence unacceptable."""

    AGREEMENT = "agreement"
    SELECTION = "selection"
    ORDER = "order"


@dataclass(frozen=True)
class Thing:
    """A noun phrase to come: `words` are synonyms, any of which may be said."""

    words: tuple[str, ...]
    kind: str
    plural: bool = False
    determiner: tuple[str, str] = ("the", "DT")
    adjectives: tuple[str, ...] = ()
    name: bool = False


@dataclass(frozen=True)
class Event:
    """Who did what to whom, and under what circumstances."""

    verb: Verb
    subject: Thing
    object: Thing | None
    adjunct: str | None
    time: str | None
    past: bool


@dataclass(frozen=True)
class State:
    """Something is so: `subject` is one of `adjectives` (synonyms)."""

    subject: Thing
    adjectives: tuple[str, ...]
    past: bool


def chunk(kind: str, *words: tuple[str, str]) -> list[Token]:
    """Words with their parts of speech as one chunk."""
    return [(word, pos, f"{'I' if at else 'B'}-{kind}") for at, (word, pos) in enumerate(words)]


def render(tokens: list[Token]) -> str:
    """A sentence as it is written: capital letter, marks at the word before them."""
    text = " ".join(token[0] for token in tokens)
    for mark in (" .", " ,", " ?"):
        text = text.replace(mark, mark[1])
    return text[0].upper() + text[1:]


STOP: Token = (".", ".", "O")

_THE = ("the", "DT")
_FOR_ONE = (("a", "DT"), ("a", "DT"), ("this", "DT"), ("every", "DT"))
_FOR_MANY = (("two", "CD"), ("three", "CD"), ("these", "DT"), ("several", "JJ"))


@dataclass
class Cast:
    """What a story is about: a few verbs and a few things of each class, which come again and again."""

    verbs: list[Verb]
    things: dict[str, list[Thing]]


@dataclass
class World:
    """Draws things, events and sentences. Two worlds with equal seeds are equal; `rng` may then be exchanged.

    With a `cast`, whatever is drawn is of the cast.
    """

    seed: int
    rng: random.Random = field(init=False)
    cast: Cast | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"world {self.seed}")
        taken: set[str] = set()
        self.people = invent_names(260, endings=_PERSON_ENDINGS, rng=self.rng, taken=taken)
        self.towns = invent_names(120, endings=_TOWN_ENDINGS, rng=self.rng, taken=taken)
        self.verbs = verbs()
        self.nouns = {name: [tuple(group.split("/")) for group in groups.split()] for name, groups in NOUNS.items()}
        self.plurals = {word: plural(word) for groups in self.nouns.values() for group in groups for word in group}
        self.adjectives: dict[str, list[tuple[str, ...]]] = {name: [] for name in NOUNS}
        for words, classes in ADJECTIVES:
            for name in classes.split():
                self.adjectives[name].append(tuple(words.split("/")))
        colours: list[tuple[str, ...]] = [(colour,) for colour in COLOURS.split(" ")]
        for name in ("vehicle", "cloth", "building", "animal", "tool"):
            self.adjectives[name] += colours

    def pick(self, items):
        """Any of `items`; `random.choice` takes three times as long."""
        return items[int(self.rng.random() * len(items))]

    def any_word(self, words: tuple[str, ...]) -> str:
        """One of some synonyms; the first is the usual word."""
        if len(words) == 1 or self.rng.random() < 0.6:
            return words[0]
        return self.pick(words[1:])

    def draw_cast(self, *, num_verbs: int, num_things: int) -> Cast:
        """A new cast out of the whole world."""
        self.cast = None
        verbs = self.rng.sample(self.verbs, num_verbs)
        names = {name for verb in verbs for name in (*verb.subjects, *verb.objects)}
        things: dict[str, list[Thing]] = {}
        for name in sorted(names):
            things[name] = []
            while len(things[name]) < num_things:
                thing = self.thing(name)
                if all(thing.words != other.words for other in things[name]):
                    things[name].append(thing)
        return Cast(verbs, things)

    def thing(self, name: str, *, plain: bool = False) -> Thing:
        """Something of a class; a person may be a named one."""
        if self.cast and name in self.cast.things:
            return self.pick(self.cast.things[name])
        draw = self.rng.random
        if name == "person" and draw() < 0.4:
            return Thing((self.pick(self.people),), name, name=True)
        adjectives = self.pick(self.adjectives[name]) if not plain and draw() < 0.35 and self.adjectives[name] else ()
        many = draw() < 0.35
        determiner = _THE if draw() < 0.65 else self.pick(_FOR_MANY if many else _FOR_ONE)
        return Thing(self.pick(self.nouns[name]), name, plural=many, determiner=determiner, adjectives=adjectives)

    def event(self, *, past: bool | None = None) -> Event:
        """An event in which everybody does what befits them."""
        verb = self.pick(self.cast.verbs if self.cast else self.verbs)
        draw = self.rng.random
        past = draw() < 0.6 if past is None else past
        subject = self.thing(self.pick(verb.subjects))
        object = self.thing(self.pick(verb.objects)) if verb.objects else None
        while object and object.words == subject.words:
            object = self.thing(self.pick(verb.objects))
        return Event(
            verb=verb,
            subject=subject,
            object=object,
            adjunct=self.pick(verb.adjuncts) if draw() < 0.5 else None,
            time=self.pick(PAST_TIMES if past else PRESENT_TIMES) if draw() < 0.2 else None,
            past=past,
        )

    def state(self) -> State:
        """Something with an adjective that fits it."""
        name = self.pick(list(self.cast.things if self.cast else NOUNS))
        return State(
            subject=self.thing(name, plain=True),
            adjectives=self.pick(self.adjectives[name]),
            past=self.rng.random() < 0.5,
        )

    def phrase(self, thing: Thing, *, wrong_number: bool = False) -> list[Token]:
        """A noun phrase; with `wrong_number` its determiner does not fit its noun."""
        if thing.name:
            return [(thing.words[0], "NNP", "B-NP")]
        noun = self.any_word(thing.words)
        words = [self.pick(_FOR_ONE if thing.plural else _FOR_MANY) if wrong_number else thing.determiner]
        if thing.adjectives:
            words.append((self.any_word(thing.adjectives), "JJ"))
        words.append((self.plurals[noun], "NNS") if thing.plural else (noun, "NN"))
        if words[0][0] == "a" and words[1][0][0] in "aeiou":
            words[0] = ("an", "DT")
        return chunk("NP", *words)

    def tell(self, event: Event, *, wrong_agreement: bool = False, wrong_number: bool = False) -> list[Token]:
        """One way to say an event.

        Args:
          wrong_agreement: The verb does not agree with its subject.
          wrong_number: The determiner does not fit the noun of who did it.
        """
        draw = self.rng.random
        forms = event.verb.forms[0 if draw() < 0.6 else int(draw() * len(event.verb.forms))]
        passive = event.object is not None and draw() < 0.25
        head = event.object if passive and event.object else event.subject
        many = head.plural != wrong_agreement
        sentence = self.phrase(head, wrong_number=wrong_number and not passive)
        be = _be(many=many, past=event.past)
        if passive:
            sentence += [
                *chunk("VP", be, (forms[3], "VBN")),
                ("by", "IN", "B-PP"),
                *self.phrase(event.subject, wrong_number=wrong_number),
            ]
        else:
            simple = (forms[2], "VBD") if event.past else (forms[0], "VBP") if many else (forms[1], "VBZ")
            progressive = draw() < 0.2 or (wrong_agreement and event.past)
            sentence += chunk("VP", be, (forms[4], "VBG")) if progressive else chunk("VP", simple)
            if event.object:
                sentence += self.phrase(event.object)
        if event.adjunct:
            sentence += self._adjunct(event.adjunct)
        if event.time:
            time = (event.time, "RB", "B-ADVP")
            sentence = [time, (",", ",", "O"), *sentence] if draw() < 0.4 else [*sentence, time]
        return [*sentence, STOP]

    def describe(self, state: State, *, wrong_agreement: bool = False) -> list[Token]:
        """One way to say a state."""
        be = _be(many=state.subject.plural != wrong_agreement, past=state.past)
        very = [("very", "RB")] if self.rng.random() < 0.3 else []
        adjective = chunk("ADJP", *very, (self.any_word(state.adjectives), "JJ"))
        return [*self.phrase(state.subject), *chunk("VP", be), *adjective, STOP]

    def _adjunct(self, adjunct: str) -> list[Token]:
        if ":" not in adjunct:
            return [(adjunct, "RB", "B-ADVP")]
        preposition, noun = adjunct.split(":")
        if preposition == "every":
            return chunk("NP", ("every", "DT"), (noun, "NN"))
        article = [] if noun in _BARE else [("an" if noun[0] in "aeiou" else "a", "DT")]
        return [(preposition, "IN", "B-PP"), *chunk("NP", *article, (noun, "NNP" if noun in _DAYS else "NN"))]


def _be(*, many: bool, past: bool) -> tuple[str, str]:
    if past:
        return "were" if many else "was", "VBD"
    return ("are", "VBP") if many else ("is", "VBZ")


_DAYS = {"sunday", "june"}
_BARE = {
    "breakfast", "glue", "soap", "brick", "hand", "paper", "candlelight", "ink", "thread", "grain", "spring",
    "autumn", "summer", "night", "noon", "homework", "history", "medicine", "holiday", "soil", "fog", "drought",
    "wind", "shears", *_DAYS,
}  # fmt: skip
