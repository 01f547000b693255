"""Topics and angles of questions, drawn for each candidate so that a thousand of them differ."""

from __future__ import annotations

TOPICS = (
    *("a regional railway", "a lending library", "a botanical garden", "a chamber orchestra"),
    *("a chess league", "a fishing harbour", "a mountain rescue service", "a film archive"),
    *("a cheese dairy", "an observatory", "a city theatre", "a bicycle maker", "a hospital ward"),
    *("a law firm", "a wind farm", "a marathon", "a coffee importer", "a school district"),
    *("a natural history museum", "a publishing house", "a car rental company", "a vineyard"),
    *("an airport", "a software company", "a zoo", "a ferry line", "a radio station"),
    *("a stamp auction", "a pharmacy chain", "a football club", "a weather network"),
    *("a housing cooperative", "a spice market", "a dance festival", "a seed bank"),
    *("a printing works", "a river authority", "a toy shop", "a glass studio", "a food bank"),
    *("a language school", "a repair workshop", "a lighthouse trust", "a postal service"),
    *("a climbing gym", "a tax office", "a beekeepers' union", "a parcel depot"),
    *("a video game studio", "a travel agency", "a rowing club", "a ceramics fair"),
    *("a research vessel", "a city council", "a record label", "a crafts guild"),
    *("an insurance company", "a bakery", "a nature reserve", "a furniture maker"),
)
ANGLES = (
    *("who is responsible for something", "when something happened", "what something costs"),
    *(
        "how much or how many there are",
        "where something is kept",
        "which code or number something has",
    ),
    *("what the next step of a plan is", "what was decided", "which model or edition something is"),
    *("how long something takes", "who made or supplied something", "what rating something has"),
)
