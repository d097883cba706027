"""Labelled tasks from the world, in the files of CoLA, MRPC, SQuAD 1.1 and CoNLL-2000.

Sentences of different splits differ. In each task the two labels (or the kinds of question) are drawn by the same
rules but for what makes the label, so that nothing but the meaning gives it away.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

from stages.sample.grammar import Event, Fault, Thing, Token, World, render
from stages.sample.lexicon import Verb
from stages.sample.stories import ask, portrait, sentence


def cola(world: World, *, sizes: dict[str, int]) -> dict[str, str]:
    """File texts by split: acceptable sentences (1) and ones with a fault (0); the test split has no labels."""
    rows = _distinct(lambda: _acceptability(world))
    files = {}
    for split, size in sizes.items():
        drawn = [next(rows) for _ in range(size)]
        if split == "test":
            lines = ["index\tsentence", *(f"{index}\t{text}" for index, (text, _) in enumerate(drawn))]
        else:
            lines = [f"w{world.seed}\t{label}\t{'' if label else '*'}\t{text}" for text, label in drawn]
        files[split] = "\n".join(lines) + "\n"
    return files


def _acceptability(world: World) -> tuple[str, int]:
    if world.rng.random() < 0.5:
        return render(sentence(world)), 1
    return render(_faulty(world, world.pick(list(Fault)))), 0


def _faulty(world: World, fault: Fault) -> list[Token]:
    if fault is Fault.AGREEMENT:
        draw = world.rng.random()
        if draw < 0.2:
            return world.describe(world.state(), wrong_agreement=True)
        if draw < 0.6:
            return world.tell(world.event(past=False), wrong_agreement=True)
        event = world.event()
        while event.subject.name:
            event = world.event()
        return world.tell(event, wrong_number=True)
    if fault is Fault.SELECTION:
        return world.tell(_misfit(world, world.event()))
    places: list[int] = []
    while not places:
        tokens = sentence(world)
        tags = [pos[:2] for _, pos, _ in tokens]
        places = [at for at, pair in enumerate(pairwise(tags)) if pair in _FIXED_ORDER]
    at = world.pick(places)
    return [*tokens[:at], tokens[at + 1], tokens[at], *tokens[at + 2 :]]


# Neighbours by part of speech (two letters) that no sentence has the other way round.
_FIXED_ORDER = {
    ("DT", "NN"), ("DT", "JJ"), ("JJ", "NN"), ("CD", "NN"), ("CD", "JJ"), ("VB", "DT"), ("VB", "CD"), ("IN", "DT"),
    ("IN", "NN"), ("RB", "JJ"),
}  # fmt: skip


def _misfit(world: World, event: Event) -> Event:
    """The event with a subject or object of a class that its verb does not take."""
    if event.object is not None and world.rng.random() < 0.6:
        return replace(event, object=_other_class(world, event.verb.objects))
    return replace(event, subject=_other_class(world, event.verb.subjects))


def _other_class(world: World, classes: tuple[str, ...]) -> Thing:
    alike = {"person", "animal"} if set(classes) & {"person", "animal"} else set()
    return world.thing(world.pick([name for name in world.nouns if name not in {*classes, *alike}]))


def mrpc(world: World, *, sizes: dict[str, int]) -> dict[str, str]:
    """File texts by split: pairs that tell the same event (1) or two that differ in two things (0)."""
    pairs = _distinct(lambda: _pair(world))
    files = {}
    number = 1000
    for split, size in sizes.items():
        lines = [("index" if split == "test" else "Quality") + "\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for index in range(size):
            (first, second), label = next(pairs)
            lines.append(f"{index if split == 'test' else label}\t{number}\t{number + 1}\t{first}\t{second}")
            number += 2
        files[split] = "\n".join(lines) + "\n"
    return files


def _pair(world: World) -> tuple[tuple[str, str], int]:
    same = world.rng.random() < 0.5
    event = world.event()
    other = event if same else _altered(world, event)
    first, second = (render(world.tell(one)) for one in (event, other))
    while first == second:
        second = render(world.tell(other))
    return (first, second), int(same)


def _altered(world: World, event: Event) -> Event:
    """Another event of which two things are different: two of the verb, the subject and the object."""
    keep = world.pick(("verb", "subject", "object")) if event.object else None
    verb = _other_verb(world, event) if keep != "verb" else None
    other = event
    if verb is not None:
        other = replace(other, verb=verb, adjunct=world.pick(verb.adjuncts) if event.adjunct else None)
    if keep != "subject" or verb is None:
        other = replace(other, subject=_other_thing(world, event.subject))
    if event.object and (keep != "object" or verb is None):
        other = replace(other, object=_other_thing(world, event.object))
    return other


def _other_thing(world: World, thing: Thing) -> Thing:
    """Something else of the same class, as many as before."""
    while True:
        other = world.thing(thing.kind)
        if other.words != thing.words and other.plural == thing.plural:
            return other


def _other_verb(world: World, event: Event) -> Verb | None:
    """Another verb that befits both, where there is one."""
    object = event.object.kind if event.object else None
    fitting = [
        verb
        for verb in world.verbs
        if verb is not event.verb
        and event.subject.kind in verb.subjects
        and (object in verb.objects if object else not verb.objects)
    ]
    return world.pick(fitting) if fitting else None


def squad(world: World, *, sizes: dict[str, int]) -> dict[str, str]:
    """File texts by split: questions over paragraphs of the same facts about two people."""
    files = {}
    for split, size in sizes.items():
        articles: list[dict] = []
        number = 0
        while number < size:
            told = portrait(world, people=2, facts=3)
            lines = [render(one.tokens) for one in told]
            questions = []
            for at in world.rng.sample(range(len(told)), min(3, size - number)):
                who = world.rng.random() < 0.4
                answer = told[at].name if who else told[at].value
                text, within = _answer(lines[at], answer, plural=world.plurals.get(answer))
                begin = sum(len(line) + 1 for line in lines[:at]) + within
                question, answers = ask(world, told[at], who=who), [{"answer_start": begin, "text": text}]
                questions.append({"id": f"{split}-{number:05d}", "question": question, "answers": answers})
                number += 1
            paragraphs = [{"context": " ".join(lines), "qas": questions}]
            articles.append({"title": f"Portrait_{split}_{len(articles)}", "paragraphs": paragraphs})
        files[split] = json.dumps({"version": "1.1", "data": articles}) + "\n"
    return files


def _answer(line: str, answer: str, *, plural: str | None) -> tuple[str, int]:
    """The answer as the line has it, and where."""
    for text in (plural, answer):
        if text:
            for end in (" ", "."):
                if (at := f" {line} ".find(f" {text}{end}")) >= 0:
                    return text, at
    raise AssertionError(f"{answer!r} is not in {line!r}")


def conll2000(world: World, *, sizes: dict[str, int]) -> dict[str, str]:
    """File texts by split: a word, its part of speech and its chunk tag a line."""
    rows = _distinct(lambda: _tagged(world))
    return {split: "".join(next(rows)[0] for _ in range(size)) for split, size in sizes.items()}


def _tagged(world: World) -> tuple[str, int]:
    portrayed = world.rng.random() < 0.25
    tokens = portrait(world, people=1, facts=1)[0].tokens if portrayed else sentence(world)
    word, pos, tag = tokens[0]
    tokens = [(word[0].upper() + word[1:], pos, tag), *tokens[1:]]
    return "".join(f"{word} {pos} {tag}\n" for word, pos, tag in tokens) + "\n", 0


def _distinct(draw: Callable[[], tuple]) -> Iterator[tuple]:
    """Draws without any whose text came before."""
    seen = set()
    while True:
        row = draw()
        if row[0] not in seen:
            seen.add(row[0])
            yield row
