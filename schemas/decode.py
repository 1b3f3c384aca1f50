"""Bytes of one record become a model, here and nowhere else; the reference for faster decoders."""

import json

from pydantic import ValidationError

from schemas.envelope import Envelope
from schemas.errors import MalformedEventError
from schemas.topics import MODEL_OF_TYPE
from schemas.units import VALUE_BYTES_MAX

SHOWN_CHARACTERS = 80


def decode_event(value: bytes) -> Envelope:
    """The event that a record's value holds.

    Raises:
        MalformedEventError: If it is none; the message starts with the field, then says what is
            wrong with which value. It is what a dead letter's `detail` holds.
    """
    if len(value) > VALUE_BYTES_MAX:
        raise MalformedEventError(f"value: {len(value)} bytes, at most {VALUE_BYTES_MAX}")
    try:
        named = json.loads(value)["type"]
        model = MODEL_OF_TYPE[named]
    except (ValueError, RecursionError) as error:
        raise MalformedEventError(f"value: not JSON, {error}") from error
    except (KeyError, TypeError) as error:
        raise MalformedEventError(
            f"type: missing or unknown, {str(error)[:SHOWN_CHARACTERS]}"
        ) from error
    try:
        event = model.model_validate_json(value)
    except ValidationError as error:
        raise MalformedEventError(first_problem(error)) from error
    if not isinstance(event, Envelope):
        raise MalformedEventError(f"type: {named} is not an event")
    return event


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, as `field: what, value`; one line, bounded."""
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and not isinstance(problem["input"], str | int):
        return message
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {message}, got {repr(problem['input'])[:SHOWN_CHARACTERS]}"
