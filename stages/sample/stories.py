"""Documents of the world: portraits of people, with questions and answers, and stories that are told twice."""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.sample.grammar import STOP, Token, World, chunk, render
from stages.sample.lexicon import WORDS

# By kind of fact, templates that hold {name} and {value}: some that tell it (`tells`), and questions that are answered
# by the value (`asks`) or by the name (`who`).
FACTS: dict[str, dict[str, list[str]]] = WORDS["facts"]


@dataclass(frozen=True)
class Told:
    """A sentence of a portrait that tells `fact` of `name`."""

    name: str
    fact: str
    value: str
    tokens: list[Token]


def portrait(world: World, *, people: int, facts: int) -> list[Told]:
    """Facts about some people in random order: the same kinds about each person, and no value twice."""
    names = world.rng.sample(world.people, people)
    used = set(names)
    told = []
    kinds = world.rng.sample(list(FACTS), facts)
    for name in names:
        for fact in kinds:
            value = _value(world, fact)
            while value in used:
                value = _value(world, fact)
            used.add(value)
            told.append(Told(name, fact, value, tell_fact(world, name=name, fact=fact, value=value)))
    world.rng.shuffle(told)
    return told


def _value(world: World, fact: str) -> str:
    if fact in ("home", "birth"):
        return world.pick(world.towns)
    if fact == "friend":
        return world.pick(world.people)
    return world.pick(world.pick(world.nouns["person" if fact == "job" else fact]))


def tell_fact(world: World, *, name: str, fact: str, value: str) -> list[Token]:
    """One way to say a fact."""
    tokens: list[Token] = []
    for group in world.pick(FACTS[fact]["tells"]).split(" "):
        if group == "{name}":
            tokens.append((name, "NNP", "B-NP"))
            continue
        kind, words = group.split(":")
        pairs = []
        for word in words.split("_"):
            if word == "{values}":
                pairs.append((world.plurals[value], "NNS"))
            elif word == "{value}":
                pairs.append((value, "NNP" if value[0].isupper() else "NN"))
            else:
                pairs.append(tuple(word.split("/")))
        if len(pairs) > 1 and pairs[0][0] == "a" and pairs[1][0][0] in "aeiou":
            pairs[0] = ("an", "DT")
        tokens += chunk(kind, *pairs)
    return [*tokens, STOP]


def ask(world: World, told: Told, *, who: bool) -> str:
    """A question that `told` answers: with the name where `who`, else with the value."""
    template = world.pick(FACTS[told.fact]["who" if who else "asks"])
    article = "an" if told.value[0] in "aeiou" else "a"
    if "a {value}" in template:
        template = template.replace(" a {value}", f" {article} {{value}}")
    return template.format(name=told.name, value=told.value, values=world.plurals.get(told.value, told.value))


def sentence(world: World) -> list[Token]:
    """Any sentence of a story."""
    return world.describe(world.state()) if world.rng.random() < 0.2 else world.tell(world.event())


def documents(world: World, *, num_words: int) -> Iterator[list[str]]:
    """Documents as lists of lines, a sentence each, until they hold `num_words` words."""
    words = 0
    while words < num_words:
        lines = []
        for _ in range(world.rng.randrange(2, 6)):
            lines += world.pick(_SECTIONS)(world)
        words += sum(line.count(" ") + 1 for line in lines)
        yield lines


def _portrait_with_questions(world: World) -> list[str]:
    told = portrait(world, people=2, facts=world.rng.randrange(2, 4))
    lines = [render(one.tokens) for one in told]
    for one in world.rng.sample(told, 3):
        question = ask(world, one, who=world.rng.random() < 0.4)
        again = render(tell_fact(world, name=one.name, fact=one.fact, value=one.value))
        lines.append(f"{question} {again}")
    return lines


def _story(world: World) -> list[str]:
    world.cast = world.draw_cast(num_verbs=3, num_things=2)
    lines: list[str] = []
    for _ in range(world.rng.randrange(5, 9)):
        draw = world.rng.random()
        if draw < 0.15:
            lines.append(render(world.describe(world.state())))
            continue
        event = world.event()
        lines.append(render(world.tell(event)))
        if draw < 0.6:
            again = render(world.tell(event))
            lines.insert(len(lines) - int(world.rng.random() < 0.3 and len(lines) > 1), again)
    world.cast = None
    return lines


def _observations(world: World) -> list[str]:
    """Sentences that have nothing to do with one another: only their grammar and sense say what fits."""
    return [render(sentence(world)) for _ in range(world.rng.randrange(4, 9))]


_SECTIONS = (_portrait_with_questions, _portrait_with_questions, _story, _observations)
