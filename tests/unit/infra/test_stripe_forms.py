"""Form bodies as Stripe's SDKs write them."""

from infra.stripe_fake.forms import read_form


def test_nested_names_become_objects() -> None:
    form = read_form("lines[0][amount]=5&lines[0][metadata][a]=&lines[1][amount]=6&x[]=1&x[]=2&y=z")
    assert form == {
        "lines": {"0": {"amount": "5", "metadata": {"a": ""}}, "1": {"amount": "6"}},
        "x": ["1", "2"],
        "y": "z",
    }


def test_an_empty_body_is_an_empty_form() -> None:
    assert read_form("") == {}
