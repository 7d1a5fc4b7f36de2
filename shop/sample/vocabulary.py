"""The words that sample rows are made of. Names and places are invented by Faker; e-mail addresses end in example.com.

Faker is slow (about 50 µs a name), so it makes a few hundred of each once, and the rows combine them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from faker import Faker

LOCALES = ("en_US", "de_DE", "fr_FR", "pl_PL", "el_GR", "ja_JP", "ar_EG", "tr_TR")
COUNTRIES = ("DE", "FR", "PL", "GR", "JP", "EG", "TR", "US", "GB", "NL")
CATEGORIES = (
    "Audio",
    "Books",
    "Cameras",
    "Garden & Outdoor",
    "Home/Kitchen",
    "Kids: Toys",
    "Laptops",
    "Lighting",
    "Möbel",
    "Music",
    "Office",
    "Phones",
    "Shoes",
    "Sports",
    "Tools",
    "Watches",
)
NOUNS = {
    "Audio": ("headphones", "speaker", "microphone", "turntable"),
    "Books": ("cookbook", "atlas", "novel", "dictionary"),
    "Cameras": ("camera", "tripod", "lens", "flash"),
    "Garden & Outdoor": ("lawn mower", "tent", "hammock", "grill"),
    "Home/Kitchen": ("kettle", "toaster", "frying pan", "knife set"),
    "Kids: Toys": ("puzzle", "train set", "plush bear", "kite"),
    "Laptops": ("laptop", "docking station", "sleeve", "keyboard"),
    "Lighting": ("desk lamp", "lantern", "chandelier", "torch"),
    "Möbel": ("armchair", "bookshelf", "Tisch", "wardrobe"),
    "Music": ("guitar", "piano", "violin", "drum"),
    "Office": ("stapler", "notebook", "desk", "pen"),
    "Phones": ("phone", "charger", "case", "cable"),
    "Shoes": ("sneakers", "boots", "sandals", "slippers"),
    "Sports": ("bicycle", "football", "yoga mat", "racket"),
    "Tools": ("hammer", "drill", "screwdriver", "saw"),
    "Watches": ("watch", "stopwatch", "strap", "alarm clock"),
}
ADJECTIVES = (
    "wireless", "compact", "vintage", "premium", "foldable", "waterproof", "silent", "ergonomic", "handmade",
    "lightweight", "professional", "rechargeable", "organic", "portable", "classic", "heavy-duty", "smart", "soft",
)  # fmt: skip
MAKERS = (
    "Aurora",
    "Bergwerk",
    "Ceylan",
    "Dromos",
    "Élan",
    "Fjord",
    "Gamma",
    "Hinode",
    "Istra",
    "Kōyō",
    "Łódka",
    "Marsh",
)
COLOURS = ("black", "white", "red", "blue", "green", "café au lait", "silver")
SENTENCES = (
    "Made to last and easy to repair.",
    "Arrives fully charged.",
    "Two years of warranty are included.",
    "Tested in the rain, the snow and a toddler's room.",
    "Fits into every bag.",
    "The surface is easy to clean.",
    "Recycled materials wherever they do the job.",
    "Spare parts are available for ten years.",
)
OPINIONS = (
    "Exactly what I was looking for.",
    "Broke after a week.",
    "Good value for the price.",
    "The colour differs from the picture.",
    "Delivery was quick, the box was dented.",
    "My second one already.",
    "Would not buy it again.",
    "Très content, je recommande.",
    "Läuft und läuft und läuft.",
    "とても良いです。",
)
TITLES = ("Great", "Disappointing", "As described", "Solid", "Meh", "Love it 😀", "Never again", "Best of its kind")
TAGS = (
    "{}",
    "{sale}",
    "{new,sale}",
    "{gift,eco}",
    '{"two words","comma, inside"}',
    '{eco,"5\\" screen"}',
    "{outdoor,summer,bestseller}",
)
"""Array literals, as COPY takes them."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Invented people's names and places, as many of each as asked for."""

    names: tuple[str, ...]
    streets: tuple[str, ...]
    cities: tuple[str, ...]
    zips: tuple[str, ...]


def vocabulary(seed: int, size: int = 400) -> Vocabulary:
    """Invent `size` of each, over several alphabets; the same seed gives the same words."""
    fake = Faker(list(LOCALES))
    fake.seed_instance(seed)

    def some(provider: str) -> tuple[str, ...]:
        make = getattr(fake, provider)
        return tuple(str(make()) for _ in range(size))

    return Vocabulary(some("name"), some("street_address"), some("city"), some("postcode"))


def attributes(colour: str, grams: int, maker: str) -> str:
    """Return a product's attributes as JSON text."""
    return json.dumps({"colour": colour, "maker": maker, "weight_g": grams}, ensure_ascii=False)
