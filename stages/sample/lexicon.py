"""The words of the world: nouns by class, verbs by what they take, adjectives by what they fit, and invented names.

Words of one group are synonyms: they stand in the same places, and a text may put one for the other. Each verb has
circumstances that only it and its synonyms have (`adjuncts`), so that the company a word keeps tells its meaning.
"""

import random
from dataclasses import dataclass

NOUNS: dict[str, str] = {
    "person": (
        "baker tailor/seamstress farmer/grower doctor/physician teacher/tutor sailor/seaman hunter/trapper "
        "painter smith weaver miller shepherd/herder nurse/carer lawyer/attorney judge clerk/scribe butcher "
        "potter mason/bricklayer gardener librarian cook/chef driver/coachman pilot soldier/trooper "
        "guard/sentry merchant/trader banker barber plumber carpenter/joiner singer dancer actor "
        "writer/author poet student/pupil scientist/researcher engineer janitor/caretaker waiter/steward "
        "porter jeweller cobbler/shoemaker brewer fiddler boatman beekeeper mayor neighbour/villager "
        "stranger/newcomer cousin"
    ),
    "animal": (
        "dog/hound cat rabbit/hare donkey/mule pony/horse goat cow/heifer pig/hog lamb heron stork swan "
        "eagle/hawk falcon raven/crow parrot owl sparrow/finch pigeon/dove duck/mallard hen rooster/cockerel "
        "squirrel badger beaver otter hedgehog tortoise/turtle lizard/gecko snake/viper frog/toad newt salmon "
        "trout spider beetle moth/butterfly camel llama tiger leopard monkey/ape"
    ),
    "food": (
        "pie/tart cake loaf biscuit/cookie pancake/waffle omelette/frittata stew/casserole salad sandwich/sub "
        "dumpling noodle sausage/frankfurter burger pizza pretzel/bagel muffin/cupcake carrot turnip/parsnip "
        "potato/spud onion/shallot radish pumpkin/squash melon plum pear apple apricot/peach fig "
        "walnut/hazelnut olive mango banana cucumber/gherkin sweet/candy"
    ),
    "drink": (
        "tea coffee cocoa juice/nectar lemonade cider milk/buttermilk soup/broth wine beer/ale water cordial/syrup"
    ),
    "tool": (
        "hammer/mallet saw/hacksaw drill chisel spade/shovel rake hoe axe/hatchet knife/blade ladder "
        "wrench/spanner needle rope/cord bucket/pail barrel/cask lantern/lamp kettle pan/skillet mirror "
        "clock/timepiece chair/stool table/desk shelf/ledge chest/trunk candle pump"
    ),
    "vehicle": (
        "cart/wagon boat/vessel coach/carriage bicycle/bike truck/lorry tractor sled/sledge canoe/kayak raft "
        "ferry car/automobile plane/aircraft tram/streetcar van train/locomotive balloon/airship"
    ),
    "cloth": (
        "coat/jacket hat/cap shirt/blouse skirt scarf/shawl glove/mitten boot/shoe belt/sash dress/gown "
        "sweater/jumper cloak/cape vest/waistcoat sock apron ribbon"
    ),
    "text": (
        "book/volume letter/note poem/verse story/tale novel song/tune report/account map/chart diary/journal "
        "recipe article/essay play/drama list/inventory"
    ),
    "instrument": (
        "fiddle/violin flute/whistle drum harp/lyre trumpet/bugle piano organ guitar/lute bell cello horn banjo"
    ),
    "plant": (
        "rose tulip/lily daisy oak/elm pine/fir willow fern/bracken bush/shrub vine/creeper thistle/nettle "
        "herb orchid cactus/aloe hedge sapling/seedling poppy"
    ),
    "building": (
        "house/cottage barn/shed mill bridge/viaduct tower/turret castle/fortress church/chapel "
        "school/academy shop/store market/bazaar inn/tavern harbour/port station/depot garden/orchard "
        "workshop/studio library museum/gallery theatre/playhouse cellar/basement kitchen/scullery "
        "field/meadow square/plaza"
    ),
}

# Synonyms by slash, then the classes of nouns that they fit.
ADJECTIVES: list[tuple[str, str]] = [
    ("happy/cheerful", "person animal"), ("sad/gloomy", "person animal"), ("tired/weary", "person animal"),
    ("hungry/famished", "person animal"), ("brave/fearless", "person animal"), ("shy/timid", "person animal"),
    ("clever/smart", "person animal"), ("lazy/idle", "person animal"), ("angry/furious", "person animal"),
    ("polite/courteous", "person"), ("wealthy/rich", "person"), ("famous/renowned", "person text building"),
    ("honest/truthful", "person"), ("retired/pensioned", "person"), ("tame/docile", "animal"),
    ("wild/untamed", "animal plant"), ("furry/shaggy", "animal"), ("tasty/delicious", "food drink"),
    ("sweet/sugary", "food drink"), ("salty/briny", "food drink"), ("bitter/sour", "food drink"),
    ("spicy/peppery", "food drink"),
    ("fresh/crisp", "food drink"), ("stale/spoiled", "food drink"), ("rusty/corroded", "tool vehicle"),
    ("broken/damaged", "tool vehicle instrument"), ("sturdy/robust", "tool vehicle building"),
    ("sharp/keen", "tool"), ("speedy/swift", "vehicle animal"), ("heavy/weighty", "tool vehicle instrument"),
    ("woollen/knitted", "cloth"), ("ragged/tattered", "cloth text"), ("elegant/stylish", "cloth building"),
    ("warm/cosy", "cloth"), ("boring/dull", "text"), ("thrilling/exciting", "text"), ("lengthy/long", "text"),
    ("loud/noisy", "instrument animal"), ("ancient/antique", "instrument building text"), ("leafy/lush", "plant"),
    ("thorny/prickly", "plant"), ("blooming/flowering", "plant"), ("tall/lofty", "building plant"),
    ("empty/vacant", "building"), ("crowded/busy", "building"), ("wooden/timber", "building tool vehicle"),
    ("big/large", "animal food tool vehicle cloth instrument plant building"),
    ("small/little", "animal food tool vehicle cloth instrument plant building"),
    ("lovely/beautiful", "animal vehicle cloth text instrument plant building"),
    ("odd/strange", "person animal food tool vehicle cloth text instrument plant building"),
]  # fmt: skip

COLOURS = "red blue green yellow white black brown grey purple orange pink golden silver scarlet violet crimson"


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


# Verbs, subjects, objects, adjuncts.
_VERBS: list[tuple[str, str, str, str]] = [
    ("eat=ate=eaten/devour/munch", "person animal", "food", "greedily hungrily at:breakfast"),
    ("bake/cook", "person", "food", "in:oven skilfully"),
    ("drink=drank=drunk/sip*/gulp", "person", "drink", "thirstily from:cup"),
    ("brew/prepare", "person", "drink", "in:kettle overnight"),
    ("serve/offer", "person", "food drink", "on:tray with:smile"),
    ("repair/mend/fix", "person", "tool vehicle instrument", "with:glue patiently"),
    ("paint/colour", "person", "vehicle building", "with:brush brightly"),
    ("clean/wash/scrub*", "person", "tool vehicle cloth building", "with:soap thoroughly"),
    ("build=built=built/construct", "person", "building vehicle", "with:brick by:hand"),
    ("design/sketch", "person", "building vehicle cloth", "with:pencil on:paper"),
    ("drive=drove=driven/steer", "person", "vehicle", "along:road recklessly"),
    ("park/leave=left=left", "person", "vehicle", "under:tree beside:kerb"),
    ("sharpen/hone", "person", "tool", "on:stone carefully"),
    ("borrow/loan", "person", "tool text", "for:week until:sunday"),
    ("steal=stole=stolen/rob*", "person", "tool vehicle instrument", "at:night secretly"),
    ("hide=hid=hidden/conceal", "person animal", "tool food", "under:floor behind:wall"),
    ("wear=wore=worn/don*", "person", "cloth", "to:wedding proudly"),
    ("sew=sewed=sewn/stitch", "person", "cloth", "with:thread neatly"),
    ("fold/press", "person", "cloth", "into:drawer tidily"),
    ("read=read=read/study", "person", "text", "by:candlelight silently"),
    ("write=wrote=written/compose", "person", "text", "with:ink in:notebook"),
    ("publish/print", "person", "text", "in:newspaper officially"),
    ("play/perform", "person", "instrument", "on:stage beautifully"),
    ("tune/adjust", "person", "instrument", "before:concert precisely"),
    ("plant/sow=sowed=sown", "person", "plant", "in:soil during:spring"),
    ("water/sprinkle", "person", "plant", "with:hose daily"),
    ("trim*/prune", "person", "plant", "with:shears in:autumn"),
    ("feed=fed=fed/nourish", "person", "animal", "with:grain every:morning"),
    ("chase/pursue", "animal person", "animal", "across:valley swiftly"),
    ("catch=caught=caught/trap*", "animal person", "animal", "in:net suddenly"),
    ("pet*/stroke", "person", "animal", "on:head gently"),
    ("bite=bit=bitten/nip*", "animal", "person animal", "on:leg viciously"),
    ("frighten/scare", "animal", "person animal", "with:growl badly"),
    ("ride=rode=ridden/mount", "person", "animal vehicle", "over:hill bareback"),
    ("visit/attend", "person", "building", "on:holiday weekly"),
    ("enter/approach", "person animal", "building", "through:gate cautiously"),
    ("sell=sold=sold/trade", "person", "food tool vehicle cloth instrument", "for:coin cheaply"),
    ("buy=bought=bought/purchase", "person", "food tool vehicle cloth instrument text", "at:auction eagerly"),
    ("teach=taught=taught/instruct", "person", "person", "in:classroom about:history"),
    ("thank/praise", "person", "person", "for:gift warmly"),
    ("help/assist", "person", "person", "with:homework willingly"),
    ("greet/welcome", "person", "person", "at:door with:handshake"),
    ("blame/accuse", "person", "person", "for:accident loudly"),
    ("marry/wed*", "person", "person", "in:summer happily"),
    ("employ/hire", "person", "person", "for:salary permanently"),
    ("cure/heal", "person", "person animal", "with:medicine miraculously"),
    ("follow/track", "person animal", "person animal", "through:forest quietly"),
    ("sleep=slept=slept/doze", "person animal", "", "on:sofa soundly"),
    ("arrive/appear", "person animal vehicle", "", "at:noon unexpectedly"),
    ("wait/linger", "person animal", "", "in:queue restlessly"),
    ("laugh/giggle", "person", "", "at:joke merrily"),
    ("dance/waltz", "person", "", "at:party gracefully"),
    ("swim*=swam=swum/paddle", "person animal", "", "in:lake upstream"),
    ("jump/leap", "animal person", "", "over:fence nimbly"),
    ("crash/collide", "vehicle", "", "in:fog violently"),
    ("bloom/blossom", "plant", "", "in:june splendidly"),
    ("wither/wilt", "plant", "", "during:drought slowly"),
    ("collapse/crumble", "building", "", "after:earthquake completely"),
    ("squeak/creak", "tool vehicle", "", "in:wind constantly"),
]

PAST_TIMES = ("yesterday", "recently", "lately", "earlier", "once")
PRESENT_TIMES = ("sometimes", "often", "usually", "today", "nowadays")


def noun_groups(name: str) -> list[list[str]]:
    """The nouns of a class, in groups of synonyms."""
    return [group.split("/") for group in NOUNS[name].split()]


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
        for words, subjects, objects, adjuncts in _VERBS
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
    onsets = _ONSETS.split(" ")
    syllables = (onsets, _VOWELS.split(" "), onsets + [""] * 9, endings.split(" "))
    names: list[str] = []
    while len(names) < number:
        name = "".join(rng.choice(syllable) for syllable in syllables)
        name = name.capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names
