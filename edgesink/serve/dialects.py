"""How families of models call tools: what they are told of them, how a call is written, how a result is told.

Everything that is known of a family stands in this table. Turns as data have no place for tools, so they are described
in the system prompt, and results come as a message of the user, which is how most families' own templates write both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """One way of calling tools."""

    name: str
    tells: tuple[str, ...]  # a chat template with one of these is of a model that speaks so
    system: str  # told before the conversation, with the tools, a line of JSON each, for TOOLS
    begin: str = ""  # in front of a call
    end: str = ""  # behind it
    arguments: str = "arguments"  # the name that a call's arguments go by
    result: str = "Result of NAME: RESULT"  # how a result is told, for RESULT, and the tool's name for NAME
    is_list: bool = False  # calls are one JSON list

    @property
    def begin_mark(self) -> str:
        """`begin` without white space; in some vocabularies a control token."""
        return self.begin.strip()

    @property
    def end_mark(self) -> str:
        """`end` without white space."""
        return self.end.strip()


HERMES = Dialect(
    name="hermes",
    tells=("<tool_call>", "[ARGS]"),  # the latter of newer Mistrals, whose own way is not JSON throughout
    system="# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\nTOOLS\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
    'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    begin="<tool_call>\n",
    end="\n</tool_call>",
    result="<tool_response>\nRESULT\n</tool_response>",
)
"""Of Qwen, Hermes, Granite and SmolLM; taken for any family that is not in the table, Gemma among them."""

LLAMA3 = Dialect(
    name="llama3",
    tells=("<|python_tag|>", "ipython"),
    system="Given the following functions, please respond with a JSON for a function call with its proper arguments "
    'that best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
    "argument name and its value}. Do not use variables.\n\nTOOLS",
    arguments="parameters",
)

MISTRAL = Dialect(
    name="mistral",
    tells=("[TOOL_CALLS]",),
    system="Functions that you may call, each as JSON:\nTOOLS\n\nTo call functions, answer with a JSON list of objects "
    'with "name" and "arguments".',
    begin="[TOOL_CALLS] ",
    is_list=True,
)

DIALECTS = (HERMES, MISTRAL, LLAMA3)


def dialect_of(chat_template: str) -> Dialect:
    """The dialect of a model with this chat template; the first of the table that it tells."""
    return next((one for one in DIALECTS if any(mark in chat_template for mark in one.tells)), HERMES)
