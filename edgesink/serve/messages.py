"""Messages as OpenAI's clients send them, checked and made into a history of plain text.

Refuses what a model of text cannot read (images, audio) and what its turns cannot hold, by the message's number.
"""

from __future__ import annotations

from typing import Any

from edgesink.serve.api_error import ApiError
from edgesink.serve.history import History

SYSTEM_ROLES = ("system", "developer")
KNOWN = frozenset({"role", "content", "name", "refusal", "annotations", "audio", "reasoning_content", "edgesink"})
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


def history_of(messages: Any, most: int) -> History:
    """The history that a list of messages tells; ApiError names the message that is wrong."""
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages is not a list of messages.", param="messages")
    if len(messages) > most:
        raise ApiError(f"There are {len(messages)} messages, more than {most}.", param="messages")
    system: list[str] = []
    users: list[str] = []
    answers: list[str] = []
    for number, message in enumerate(messages):
        role, text = _role(message, number), text_of(message.get("content"), f"messages[{number}]")
        if role in SYSTEM_ROLES:
            if users:
                raise ApiError(f"messages[{number}] is a system message behind the user's first.", param="messages")
            system.append(text)
        elif role == "user":
            if len(users) > len(answers):  # two in a row are one
                users[-1] += f"\n\n{text}"
            else:
                users.append(text)
        else:
            if len(users) == len(answers):
                raise ApiError(f"messages[{number}] is an answer to nothing.", param="messages")
            answers.append(text)
    if len(users) == len(answers):
        raise ApiError("The last message is not the user's.", param="messages")
    return History("\n\n".join(system) if system else None, tuple(users), tuple(answers))


def _role(message: Any, number: int) -> str:
    if not isinstance(message, dict):
        raise ApiError(f"messages[{number}] is not an object.", param="messages")
    role = message.get("role")
    if role not in (*SYSTEM_ROLES, "user", "assistant"):
        raise ApiError(f"messages[{number}].role is {str(role)[:40]!r}, not system, user, assistant.", param="messages")
    given = {name for name, value in message.items() if value is not None}
    if unknown := sorted(given - KNOWN):
        raise ApiError(f"messages[{number}].{unknown[0][:40]} is not supported.", param="messages")
    return str(role)


def text_of(content: Any, where: str) -> str:
    """The text of a message's content, a string or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(f"{where}.content is not text.", param=where)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if kind not in TEXT_PARTS or not isinstance(text, str):
            raise ApiError(
                f"{where}.content has a part of type {str(kind)[:40]!r}, and this model reads text.", param=where
            )
        texts.append(text)
    return "".join(texts)
