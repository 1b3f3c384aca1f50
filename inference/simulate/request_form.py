"""The bytes of a finished request's data, as a form: what many requests share is encoded once."""

from inference.simulate.assign import Owner
from inference.wire import EngineLabels, PartWire, RequestWire, to_json
from schemas.units import INT64_MAX
from schemas.usage import Outcome

ENDPOINT = "v1/chat/completions"
_STATUS: dict[Outcome, int] = {
    "stop": 200,
    "length": 200,
    "client_gone": 499,
    "abort": 200,
    "error": 500,
    "engine_death": 500,
    "refused": 429,
}
_FINISH_REASON: dict[Outcome, str] = {"stop": "stop", "length": "length", "abort": "abort"}
_LABEL, _TIME, _WHOLE = "#label", "#time", INT64_MAX
"""Stand where the form has a place: no name has a `#`, and nothing else counts so much."""


def request_form(
    labels: EngineLabels, attribution_model: str, owner: Owner, tier: str, outcome: Outcome
) -> bytes:
    """What all requests of one owner, tier and outcome say, with places for `%` to fill in.

    In their order: the client request id, as JSON; when it finished; and, unless it was refused,
    uncached and cached input, text and reasoning output, generated and delivered tokens; GPU time
    in all, of prefill and recomputed; time queued, to the first token, in all; and of its part all
    but the engine.
    """
    refused = outcome == "refused"
    some = 0 if refused else _WHOLE
    part = PartWire(labels.engine, *[some] * (len(PartWire.__struct_fields__) - 1))
    wire = RequestWire(
        project=owner.project,
        api_key=owner.api_key,
        client_request_id=_LABEL,
        end_user="",
        model=labels.model,
        adapter="",
        endpoint=ENDPOINT,
        service_tier=tier,
        region=labels.region,
        replica=labels.replica,
        gpu_type=labels.gpu_type,
        gpus=0 if refused else labels.gpus,
        outcome=outcome,
        finish_reason=_FINISH_REASON.get(outcome, ""),
        http_status=_STATUS[outcome],
        finished_at=_TIME,
        input_uncached_tokens=some,
        input_cache_read_tokens=some,
        output_text_tokens=some,
        output_reasoning_tokens=some,
        generated_tokens=some,
        delivered_tokens=some,
        gpu_ns=some,
        gpu_prefill_ns=some,
        gpu_recompute_ns=some,
        attribution_model=attribution_model,
        queue_ns=some,
        first_token_ns=some,
        total_ns=some,
        parts=() if refused else (part,),
    )
    form = to_json(wire).replace(b"%", b"%%")
    for mark, place in (
        (to_json(_LABEL), b"%b"),
        (to_json(_TIME), b'"%b"'),
        (to_json(_WHOLE), b"%d"),
    ):
        form = form.replace(mark, place)
    return form
