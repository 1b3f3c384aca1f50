"""Bytes of one record become a model, here and nowhere else; the reference for faster decoders."""

import json

from pydantic import ValidationError

from schemas.control import DETAIL_MAX
from schemas.envelope import Envelope
from schemas.errors import MalformedEventError
from schemas.topics import MODEL_OF_TYPE
from schemas.units import VALUE_BYTES_MAX

SHOWN_CHARACTERS = 80
_EVENTS = {name: model for name, model in MODEL_OF_TYPE.items() if issubclass(model, Envelope)}


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
        model = _EVENTS[named]
    except (ValueError, RecursionError) as error:
        raise MalformedEventError(f"value: not JSON, {error}") from error
    except (KeyError, TypeError) as error:
        raise MalformedEventError(
            f"type: missing or unknown, {str(error)[:SHOWN_CHARACTERS]}"
        ) from error
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        raise MalformedEventError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, as `field: what, value`; one line that a dead letter holds."""
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "value_error" or isinstance(problem["input"], str | int):
        field = ".".join(str(part)[:SHOWN_CHARACTERS] for part in problem["loc"])
        message = f"{field}: {message}, got {repr(problem['input'])[:SHOWN_CHARACTERS]}"
    return " ".join(message.split())[:DETAIL_MAX]
