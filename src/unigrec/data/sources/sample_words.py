"""The vocabulary of the generated shop: departments, kinds of items and what goes with them, styles, brands, series."""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    name: str
    phrase: str  # how a description begins
    attributes: tuple[str, ...]


class Leaf(NamedTuple):
    """A kind of item, the leaf of the category tree."""

    department: str
    category: str
    name: str
    complements: tuple[int, int, int, int]  # indices of the leaves that follow, the most usual first


# department -> category -> kinds
TREE: dict[str, dict[str, tuple[str, ...]]] = {
    "Camping": {
        "Shelter": ("Dome Tent", "Tarp", "Hammock"),
        "Sleeping": ("Sleeping Bag", "Air Mattress", "Travel Pillow"),
        "Cooking": ("Gas Stove", "Cook Set", "Water Filter"),
        "Lighting": ("Headlamp", "Lantern", "Power Bank"),
    },
    "Cycling": {
        "Clothing": ("Bib Shorts", "Jersey", "Rain Cape"),
        "Safety": ("Helmet", "Rear Light", "Bicycle Lock"),
        "Repair": ("Tyre Lever", "Inner Tube", "Floor Pump"),
        "Luggage": ("Pannier", "Saddle Bag", "Handlebar Bag"),
    },
    "Kitchen": {
        "Baking": ("Stand Mixer", "Cake Tin", "Rolling Pin"),
        "Knives": ("Chef Knife", "Cutting Board", "Whetstone"),
        "Coffee": ("Espresso Maker", "Coffee Grinder", "Milk Frother"),
        "Storage": ("Glass Jar", "Lunch Box", "Spice Rack"),
    },
    "Garden": {
        "Growing": ("Seed Tray", "Potting Soil", "Plant Pot"),
        "Tools": ("Pruning Shears", "Hand Trowel", "Garden Fork"),
        "Watering": ("Watering Can", "Garden Hose", "Drip Line"),
        "Wildlife": ("Bird Feeder", "Insect Hotel", "Bird Bath"),
    },
    "Music": {
        "Guitar": ("Acoustic Guitar", "Guitar Strings", "Guitar Strap"),
        "Recording": ("Condenser Microphone", "Audio Interface", "Pop Filter"),
        "Keys": ("Digital Piano", "Keyboard Stand", "Sustain Pedal"),
        "Drums": ("Practice Pad", "Drum Sticks", "Metronome"),
    },
    "Painting": {
        "Colours": ("Watercolour Set", "Acrylic Set", "Ink Bottle"),
        "Surfaces": ("Sketchbook", "Stretched Canvas", "Watercolour Pad"),
        "Brushes": ("Round Brush", "Flat Brush", "Palette Knife"),
        "Studio": ("Table Easel", "Brush Washer", "Colour Palette"),
    },
    "Fitness": {
        "Strength": ("Kettlebell", "Dumbbell Pair", "Pull-up Bar"),
        "Yoga": ("Yoga Mat", "Yoga Block", "Foam Roller"),
        "Running": ("Running Shoes", "Running Belt", "Sport Socks"),
        "Recovery": ("Massage Ball", "Shaker Bottle", "Ice Pack"),
    },
    "Pets": {
        "Dogs": ("Dog Lead", "Dog Harness", "Chew Toy"),
        "Cats": ("Scratching Post", "Litter Tray", "Feather Wand"),
        "Feeding": ("Food Bowl", "Water Fountain", "Treat Jar"),
        "Travel": ("Pet Carrier", "Car Blanket", "Pet Ramp"),
    },
}

USES = {
    "Camping": "nights under the stars",
    "Cycling": "long days on the road",
    "Kitchen": "slow Sunday cooking",
    "Garden": "a plot that thrives",
    "Music": "practice and stage",
    "Painting": "the studio and outdoors",
    "Fitness": "training at home",
    "Pets": "happy animals",
}

STYLES = (
    Style("light", "Feather-light", ("Ultralight", "Compact", "Foldable", "Slim", "Packable")),
    Style("sturdy", "Built to last,", ("Heavy-duty", "Reinforced", "Rugged", "Steel", "Stormproof")),
    Style("natural", "Made with care for nature,", ("Organic", "Bamboo", "Recycled", "Cork", "Undyed")),
    Style("bright", "Made to be seen,", ("Neon", "Patterned", "Playful", "Striped", "Rainbow")),
    Style("fine", "For those who look twice,", ("Handmade", "Walnut", "Brass", "Engraved", "Leather")),
    Style("smart", "Clever and connected,", ("Rechargeable", "Digital", "Bluetooth", "Sensor", "Automatic")),
)

BRANDS = {
    "light": ("Fjaril", "Aeri", "Plume & Co", "Sylph", "Zephyra"),
    "sturdy": ("Grimsby", "Bollard", "Oxhead", "Ironmoor", "Tarnfell"),
    "natural": ("Mossback", "Verdura", "Hazelrow", "Terrapin", "Leafwell"),
    "bright": ("Popsy", "Kolibri", "Zazou", "Confetto", "Luma Lane"),
    "fine": ("Ashgrove", "Belmonte", "Harcourt & Vale", "Orsini", "Quillon"),
    "smart": ("Voltix", "Nimbio", "Kinetiq", "Sensa", "Omnix"),
}

COLOURS = ("black", "white", "sand", "olive", "navy", "rust", "teal", "plum", "grey", "amber", "cream", "crimson")

SERIES = (
    *("Alder", "Brook", "Cinder", "Dune", "Ember", "Fathom", "Glade", "Heron", "Isle", "Juniper", "Kestrel", "Larch"),
    *("Marsh", "North", "Osprey", "Pebble", "Quarry", "Ridge", "Sable", "Thicket", "Umber", "Vale", "Willow", "Yarrow"),
)


def _leaves() -> tuple[Leaf, ...]:
    """List the kinds in order, each with its complements: three in a cycle of its department, one in the next.

    The cycle of a department jumps from category to category, so most complements are of another category.
    """
    kinds = [
        (department, category, name)
        for department, categories in TREE.items()
        for category, names in categories.items()
        for name in names
    ]
    size = len(kinds) // len(TREE)
    leaves = []
    for index, (department, category, name) in enumerate(kinds):
        base, place = index // size * size, index % size
        # 5 is coprime to 12: following the first complement visits all twelve kinds of a department before it returns.
        # None of the steps undoes another, so the order of two items matters.
        within = (base + (place + 5) % size, base + (place + 3) % size, base + (place + 1) % size)
        leaves.append(Leaf(department, category, name, (*within, (index + size) % len(kinds))))
    return tuple(leaves)


LEAVES = _leaves()
DEPARTMENTS = tuple(TREE)
