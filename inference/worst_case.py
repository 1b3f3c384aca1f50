"""The most tokens that a request can use, told from its body alone. Pure.

An upper bound, not a guess: a byte of text makes at most one token, and what the chat template adds
is bounded by a setting. What is not text (images, audio, embeddings) may become any number of
tokens, up to the context.
"""

import json
from typing import NamedTuple

import msgspec

from inference.door_body import Fields

LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""What clients call the limit; where several are given the greatest counts."""
_NOT_TEXT = (
    b'"image',
    b'"input_image',
    b'"input_audio',
    b'"audio',
    b'"video',
    b'"file',
    b'"input_file',
)


class TokenBounds(NamedTuple):
    """The most that goes in and comes out."""

    input_tokens: int
    output_tokens: int


def token_bounds(
    fields: Fields | None, body: bytes, *, parts: int, context_tokens: int, template_tokens: int
) -> TokenBounds:
    """Bound a request's tokens.

    Args:
        fields: The body's top level; None for a body that is no JSON object.
        body: As the client sent it.
        parts: n samples times prompts.
        context_tokens: What the model takes at most, prompt and answer together.
        template_tokens: What the server's template may add to a prompt.
    """
    most = parts * context_tokens
    if fields is None:
        return TokenBounds(most, most)
    has_more_than_text = "prompt_embeds" in fields or any(word in body for word in _NOT_TEXT)
    from_text = len(body) + parts * template_tokens
    limit = min(_limit(fields, context_tokens), context_tokens)
    return TokenBounds(most if has_more_than_text else min(from_text, most), parts * limit)


def _limit(fields: Fields, context_tokens: int) -> int:
    """The client's own limit; a missing one, or one that cannot be read, is the context."""
    found = [_whole(fields[name]) for name in LIMITS if name in fields]
    known = [one for one in found if one is not None]
    return max(known) if known and len(known) == len(found) else context_tokens


def _whole(raw: msgspec.Raw) -> int | None:
    """A positive whole number as vLLM would read it, which takes `"3"` and `3.0` for 3."""
    try:
        value = int(json.loads(bytes(raw)))
    except (TypeError, ValueError, OverflowError):
        return None
    return value if value > 0 else None
