"""Requests that need a server with parsers and an adapter: thinking, tools, LoRA; and that server.

The tiny model's weights are random. A grammar lets it say only what a model that thinks or calls
tools would say, and a bias makes it take the markers as the one token that they are.
"""

import random
from functools import partial
from typing import Any

from tests.engine.served.host import ServedHost
from tests.engine.served.traffic import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    WITH_USAGE,
    Seen,
    Send,
    chat,
    completion,
    stream,
    whole,
    words,
)

ADAPTER = "ada"
OPTIONS = (
    "--reasoning-parser deepseek_r1 --enable-auto-tool-choice --tool-call-parser hermes"
    ' --structured-outputs-config {"enable_in_reasoning":true}'
    f" --enable-lora --max-lora-rank 8 --lora-modules {ADAPTER}=MODEL/adapter"
    # Too few blocks for all who run, and prompts that do not fit into one step.
    " --num-gpu-blocks-override 34 --block-size 32 --max-num-batched-tokens 128"
)
THINK, THOUGHT, CALL, CALLED = "<think>", "</think>", "<tool_call>", "</tool_call>"
FUNCTION = {
    "name": "ask",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["oslo", "rome"]}},
        "required": ["place"],
    },
}
TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}
NAMED = {"tool_choice": {"type": "function", "function": {"name": "ask"}}}


def says(host: ServedHost, markers: list[str], regex: str) -> dict[str, Any]:
    """Let the model say only what fits, with these markers in one token each."""
    bias = {str(host.token_id(one)): 100 for one in markers}
    return {"structured_outputs": {"regex": regex}, "logit_bias": bias, "ignore_eos": False}


def thinks(host: ServedHost, dice: random.Random, *, longest: int = 60) -> dict[str, Any]:
    """So many characters of thinking, then an answer."""
    text = f"[a-z ]{{{dice.randint(longest // 2, longest)}}}"
    return says(host, [THINK, THOUGHT], f"{THINK}{text}{THOUGHT}[a-z ]{{{dice.randint(4, 20)}}}")


def calls(host: ServedHost) -> dict[str, Any]:
    """A thought, then a call of a tool in the words of Hermes."""
    call = r'\{"name": "ask", "arguments": \{"place": "(oslo|rome)"\}\}'
    words = f"{THINK}[a-z ]{{4,8}}{THOUGHT}{CALL}{call}{CALLED}"
    return says(host, [THINK, THOUGHT, CALL, CALLED], words)


def _think(
    host: ServedHost,
    dice: random.Random,
    key: int,
    seen: Seen,
    *,
    endpoint: str = CHAT,
    streamed: bool = False,
    cut: bool = False,
    **more: Any,
) -> None:
    if endpoint == RESPONSES:
        # It is some chunks before the first token.
        body, least = {"input": words(dice, 10), "max_output_tokens": 900}, 10
    else:
        body, least = chat(dice) | {"max_tokens": 900}, 5
    body |= thinks(host, dice, longest=800 if cut else 60) | more
    if streamed:
        stream(host, key, seen, endpoint, body, cut=dice.randint(least, 40) if cut else 0)
    else:
        whole(host, key, seen, endpoint, body)


def _tool(
    host: ServedHost,
    dice: random.Random,
    key: int,
    seen: Seen,
    *,
    auto: bool = False,
    streamed: bool = False,
) -> None:
    choice = calls(host) | {"tool_choice": "auto"} if auto else NAMED | {"ignore_eos": False}
    body = chat(dice, **TOOLS, **choice)
    body["max_tokens"] = 80
    if not auto:
        # The grammar of a named call leaves no room for thinking: it is over before.
        body["messages"][0]["content"] += THOUGHT
    (stream if streamed else whole)(host, key, seen, CHAT, body)


def _adapter(
    host: ServedHost, dice: random.Random, key: int, seen: Seen, *, streamed: bool = False
) -> None:
    body = completion(dice, model=ADAPTER)
    (stream if streamed else whole)(host, key, seen, COMPLETIONS, body)


THINKING: list[tuple[str, Send]] = [
    ("think", _think),
    ("think stream", partial(_think, streamed=True)),
    ("think stream usage", partial(_think, streamed=True, **WITH_USAGE)),
    ("think twice", partial(_think, streamed=True, n=2)),
    ("think cut", partial(_think, streamed=True, cut=True)),
    ("think response", partial(_think, endpoint=RESPONSES)),
    ("think response stream", partial(_think, endpoint=RESPONSES, streamed=True)),
    ("think response cut", partial(_think, endpoint=RESPONSES, streamed=True, cut=True)),
]
CROWD: list[tuple[str, Send]] = [
    (
        "crowd",
        lambda h, d, k, s: whole(
            h, k, s, COMPLETIONS, completion(d, prompt=words(d, 100), max_tokens=100)
        ),
    )
]
"""Eight of these at once are more than the blocks of this server hold."""
MORE_KINDS: list[tuple[str, Send]] = [
    *THINKING,
    ("tool named", _tool),
    ("tool named stream", partial(_tool, streamed=True)),
    ("tool auto", partial(_tool, auto=True)),
    ("tool auto stream", partial(_tool, auto=True, streamed=True)),
    ("adapter", _adapter),
    ("adapter stream", partial(_adapter, streamed=True)),
]
