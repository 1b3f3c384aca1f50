"""Reads the nested form bodies and query strings that Stripe's SDKs send."""

import re
from typing import Any
from urllib.parse import parse_qsl

_PARTS = re.compile(r"[^\[\]]+")


def read_form(text: str) -> dict[str, Any]:
    """`a[b][0]=1&a[b][1]=2&c[]=3` as `{"a": {"b": {"0": "1", "1": "2"}}, "c": ["3"]}`.

    Values stay text; lists with written indices stay objects until the contract says otherwise.
    """
    form: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        *path, last = _PARTS.findall(name) or [name]
        inner: Any = form
        for part in path:
            inner = inner.setdefault(part, {})
        if name.endswith("[]"):
            inner.setdefault(last, []).append(value)
        else:
            inner[last] = value
    return form
