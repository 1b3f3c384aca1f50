"""Strategies for hypothesis: any usage of a month, and price books of every kind."""

from hypothesis import strategies as st

from schemas.prices import Price, PriceBook, Selector
from schemas.usage import OUTCOMES
from tests.support.billing_examples import (
    HOUR_MS,
    START_MS,
    book_of,
    graduated_price,
    hourly_price,
    package_price,
    unit_price,
    usage,
    volume_price,
)

METERS = ("input_uncached_tokens", "output_text_tokens", "gpu_ns")
TENANTS = ("acme", "globex")
MODELS = ("m1", "m2", "m3")

quantities = st.dictionaries(st.sampled_from(METERS), st.integers(0, 2**40), max_size=3)
rows = st.builds(
    usage,
    hour=st.integers(0, 743),
    tenant=st.sampled_from(TENANTS),
    project=st.sampled_from(("chat", "search")),
    model=st.sampled_from(MODELS),
    service_tier=st.sampled_from(("standard", "batch")),
    outcome=st.sampled_from(OUTCOMES),
    requests=st.integers(0, 1000),
    quantities=quantities,
)
price_texts = st.integers(0, 10**15).map(lambda e12: f"{e12 // 10**12}.{e12 % 10**12:012d}")
pers = st.sampled_from((1, 7, 1_000_000, 3_600_000_000_000))


@st.composite
def linear_books(draw: st.DrawFn) -> PriceBook:
    """Unit prices for some of the usage: by model, by project, with a change in mid-month."""
    prices: list[Price] = []
    change_ms = START_MS + draw(st.integers(1, 743)) * HOUR_MS
    for meter in METERS[:2]:
        for name, select in (("all", Selector()), ("m1", Selector(model="m1"))):
            text, per = draw(price_texts), draw(pers)
            prices.append(
                unit_price(
                    f"{meter}-{name}-old",
                    text,
                    meter=meter,
                    select=select,
                    per=per,
                    effective_until=change_ms,
                )
            )
            if draw(st.booleans()):
                prices.append(
                    unit_price(
                        f"{meter}-{name}-new",
                        draw(price_texts),
                        meter=meter,
                        select=select,
                        per=draw(pers),
                        effective_from=change_ms,
                    )
                )
    return book_of(*prices)


KINDS = ("graduated", "volume", "package", "hourly")


@st.composite
def special_prices(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> Price:
    """A price of one of these kinds for tenant acme, in some hours of the week or in all."""
    kind = draw(st.sampled_from(kinds))
    hours = draw(st.none() | st.sets(st.integers(0, 167), min_size=1).map(sorted).map(tuple))
    select = Selector(tenant="acme", model=draw(st.sampled_from((None, "m2"))), hours_of_week=hours)
    if kind == "package":
        return package_price(kind, draw(price_texts), draw(st.integers(1, 2**41)), select=select)
    if kind == "hourly":
        count = draw(st.integers(1, 744))
        texts = draw(st.lists(price_texts, min_size=1, max_size=3))
        prices = [texts[hour % len(texts)] for hour in range(count)]
        return hourly_price(kind, prices, select=select, per=draw(pers))
    limits = sorted(draw(st.sets(st.integers(1, 2**42), min_size=1, max_size=4)))
    steps = [(limit, draw(price_texts)) for limit in limits] + [(None, draw(price_texts))]
    make = graduated_price if kind == "graduated" else volume_price
    return make(kind, steps, select=select, per=draw(pers))


@st.composite
def any_books(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> PriceBook:
    """A linear book with a price of another kind on top, for one model or for all."""
    return book_of(*draw(linear_books()).prices, draw(special_prices(kinds)))
