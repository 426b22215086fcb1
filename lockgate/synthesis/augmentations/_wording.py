"""Words for code books: stand-ins from harmless fields, and everyday words that no book replaces."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Book:
    """Stand-ins of one field, in lower case."""

    field: str
    words: tuple[str, ...]


def _book(field: str, words: str) -> Book:
    return Book(field, tuple(words.split()))


BOOKS = (
    _book(
        "garden",
        "trellis marigold compost orchard lavender seedling wheelbarrow hedge clover sundial radish gravel "
        "tulip rosemary fennel greenhouse mulch bramble daisy nettle quince rhubarb sorrel thyme willow ivy "
        "poppy lilac birch cabbage parsnip turnip mallow heather juniper cowslip dahlia foxtail gourd "
        "hyssop larch medlar",
    ),
    _book(
        "harbour",
        "anchor ferry lantern buoy mooring gull jetty rudder sextant trawler lighthouse hammock barnacle "
        "capstan dinghy estuary flagstone galley hawser inlet keel lagoon mackerel oar pennant quay rigging "
        "sandbar tiller undertow wharf yawl breakwater cormorant driftwood eelgrass fathom halyard limpet "
        "mainsail porthole shoal",
    ),
    _book(
        "bakery",
        "brioche flour oven ladle crumpet dough nutmeg apron biscuit cinnamon custard dumpling eclair "
        "fondant gingerbread honey icing jam kettle loaf marzipan nougat oatmeal pretzel raisin saffron "
        "sponge tart vanilla waffle yeast almond butter caramel doily glaze hazelnut macaroon parchment "
        "rolling sieve treacle",
    ),
    _book(
        "orchestra",
        "violin tuba overture bassoon cello timpani oboe baton clarinet fanfare gavotte harp interlude "
        "kazoo lullaby minuet nocturne octave piccolo quartet refrain serenade trombone viola waltz "
        "xylophone zither adagio bagpipe cadenza drumroll encore fiddle gong horn lute mandolin organ "
        "prelude rondo sonata tremolo",
    ),
)

_COMMON_TEXT = (
    "about above after again against along already also although always among another around away "
    "because been before behind being below best better between both came come could does doing done "
    "down during each either else enough even ever every explain find first from gave give given going "
    "gone good have having hence here itself just keep kept know last least less like likely long look "
    "made make makes many maybe might more most much must need needs never next none nothing often once "
    "only onto other others over please quite rather really said same seem seen several shall should "
    "show since some something soon still such take taken tell than that their them then there these "
    "they thing things think this those though three through time together told took toward under until "
    "upon used uses using usually very want well went were what when where whether which while whole "
    "whose will with within without work would year years your yours describe does answer question sure "
    "step"
)
COMMON = frozenset(_COMMON_TEXT.split())
