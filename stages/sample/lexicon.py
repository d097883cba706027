"""The words of the world: nouns by class, verbs by what they take, adjectives by what they fit, and invented names.

The words lie in words.yaml. Words of one group are synonyms: they stand in the same places, and a text may put one for
the other. Each verb has circumstances that only it and its synonyms have (`adjuncts`), so that the company a word keeps
tells its meaning.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text())

NOUNS: dict[str, str] = WORDS["nouns"]
ADJECTIVES: list[tuple[str, str]] = [(words, classes) for words, classes in WORDS["adjectives"]]
COLOURS: str = WORDS["colours"]
PAST_TIMES: tuple[str, ...] = tuple(WORDS["past_times"])
PRESENT_TIMES: tuple[str, ...] = tuple(WORDS["present_times"])


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What synonymous verbs mean together.

    Attributes:
      forms: A verb each: base, third person, past, participle, -ing.
      subjects, objects: Noun classes that can be it; no objects for an intransitive verb.
      adjuncts: What only these verbs have after them, as `with:tool:hammer` (preposition, class, noun) or an adverb.
    """

    forms: tuple[tuple[str, str, str, str, str], ...]
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    adjuncts: tuple[str, ...]


def plural(noun: str) -> str:
    """The regular plural."""
    if noun.endswith(("s", "x", "ch", "sh", "z", "potato", "mango")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("fe", "loaf", "shelf", "scarf", "calf")):
        return noun[: -2 if noun.endswith("fe") else -1] + "ves"
    return noun + "s"


def verbs() -> list[Verb]:
    """All verbs, with all of their forms."""
    return [
        Verb(
            forms=tuple(_conjugate(word) for word in words.split("/")),
            subjects=tuple(subjects.split()),
            objects=tuple(objects.split()),
            adjuncts=tuple(adjuncts.split()),
        )
        for words, subjects, objects, adjuncts in WORDS["verbs"]
    ]


def _conjugate(word: str) -> tuple[str, str, str, str, str]:
    """Base, third person, past, participle and -ing form; `*` doubles the last letter, `=` gives irregular forms."""
    base, *irregular = word.split("=")
    stem = base.rstrip("*")
    doubled = stem + stem[-1] if base.endswith("*") else stem
    soft = stem.endswith("y") and stem[-2] not in "aeiou"
    regular = stem[:-1] + "ied" if soft else stem + "d" if stem.endswith("e") else doubled + "ed"
    past, participle = irregular if irregular else (regular, regular)
    ing = stem[:-1] + "ing" if stem.endswith("e") else doubled + "ing"
    return stem, plural(stem), past, participle, ing


_ONSETS = "b br c d dr f fl g gr h j k kl l m n p pr r s st t tr v w y z"
_VOWELS = "a e i o u ai ea or al an en il"


def invent_names(number: int, *, endings: str, rng: random.Random, taken: set[str]) -> list[str]:
    """So many new capitalised names, each a syllable or two and one of the endings."""
    onsets = _ONSETS.split()
    syllables = (onsets, _VOWELS.split(), onsets + [""] * 9, endings.split())
    names: list[str] = []
    while len(names) < number:
        name = "".join(rng.choice(syllable) for syllable in syllables).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names
