"""`edgesink serve` as the `openai` client sees it, with SmolLM2: a conversation is a stream that is found again."""

import json
import threading
import time

import pytest
from serving import MODEL, assistant, cached, served, user

from edgesink import load
from edgesink.serve.conversations import HEADS
from edgesink.spec import StreamSpec

SYSTEM = {"role": "system", "content": "You are brief."}
CAPACITY = 512


@pytest.fixture(scope="module")
def stream(smollm2_bundles):
    return load(smollm2_bundles("int4", StreamSpec(4, CAPACITY - 4, 64, 64)))


@pytest.fixture(scope="module")
def server(stream):
    with served(stream) as running:
        yield running


def test_twelve_turns_with_the_whole_history_cost_only_what_is_new(server):
    messages, position, conversations = [SYSTEM], 0, set()
    for turn in range(12):
        messages.append(user(f"Turn {turn}: " + "tell me about a river, a hill and a town by the sea. " * 3))
        answer = server.ask(messages)
        messages.append(assistant(answer.choices[0].message.content))
        assert cached(answer) == position
        assert answer.usage.prompt_tokens - position < 80
        position = answer.edgesink["position"]
        conversations.add(answer.edgesink["conversation"])
    assert len(conversations) == 1
    assert position > CAPACITY
    assert answer.edgesink["evicted"] == position - CAPACITY
    assert answer.edgesink["capacity"] == CAPACITY
    ring = server.http.get(f"/edgesink/ring/{conversations.pop()}").json()
    assert ring == answer.edgesink


def test_the_system_prompt_is_pinned_where_it_fits(server):
    fits = server.ask([SYSTEM, user("Hi")], max_tokens=1)
    without = server.ask([user("Hi")], max_tokens=1)
    assert fits.edgesink["sinks"] == len(
        server.service.tokenizer.encode("<|im_start|>system\nYou are brief.<|im_end|>\n<|im_start|>user\n")
    )
    assert without.edgesink["sinks"] == 4
    too_long = server.ask([{"role": "system", "content": "Be brief. " * 60}, user("Hi")], max_tokens=1)
    assert too_long.edgesink["sinks"] == 4


def test_an_answer_is_the_same_in_one_piece_and_token_by_token(server):
    messages = [SYSTEM, user("Tell me about the sea.")]
    whole = server.ask(messages, max_tokens=20)
    chunks = list(server.ask(messages, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len([text for text in texts if text]) > 5
    *_, last, usage = chunks
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.edgesink["position"] == whole.edgesink["position"]
    assert usage.choices == []
    assert usage.usage.completion_tokens == whole.usage.completion_tokens == 20


def test_a_seed_repeats_an_answer_and_a_stop_string_ends_it(server):
    messages = [user("Write a story about a cat.")]
    options = {"temperature": 1.0, "seed": 7, "max_tokens": 16}
    first, again, other = (server.ask(messages, **{**options, "seed": seed}) for seed in (7, 7, 8))
    text = first.choices[0].message.content
    assert again.choices[0].message.content == text
    assert other.choices[0].message.content != text
    word = text.split()[3]
    stopped = server.ask(messages, **options, stop=[word])
    assert stopped.choices[0].message.content == text[: text.index(word)]
    assert stopped.choices[0].finish_reason == "stop"


def test_another_answer_or_another_last_message_costs_the_last_turn_only(server):
    messages = [SYSTEM, user("Name a colour.")]
    first = server.ask(messages)
    messages += [assistant(first.choices[0].message.content), user("Name an animal, please.")]
    second = server.ask(messages)
    again = server.ask(messages)
    assert again.choices[0].message.content == second.choices[0].message.content
    assert cached(again) == cached(second) == first.edgesink["position"]
    edited = server.ask([*messages[:-1], user("Name a town.")])
    assert cached(edited) == first.edgesink["position"]
    on = server.ask([*messages, assistant(second.choices[0].message.content), user("And another.")])
    assert cached(on) == second.edgesink["position"]  # the one that came first is still there


def test_a_changed_history_is_read_anew(server):
    messages = [SYSTEM, user("Remember the word blue.")]
    first = server.ask(messages)
    changed = [SYSTEM, user("Remember the word red."), assistant(first.choices[0].message.content), user("Which?")]
    answer = server.ask(changed)
    head = len(server.service.tokenizer.encode("<|im_start|>system\nYou are brief.<|im_end|>\n"))
    assert cached(answer) == head  # the system prompt alone is the same
    assert answer.edgesink["conversation"] != first.edgesink["conversation"]


def test_an_answer_that_a_client_breaks_off_ends_at_once_and_the_conversation_goes_on(server):
    messages = [SYSTEM, user("Write a very long story about the sea.")]
    answer = server.ask(messages, stream=True, max_tokens=400)
    said = ""
    for chunk in answer:
        said += chunk.choices[0].delta.content or ""
        if len(said) > 20:
            break
    answer.close()
    deadline = time.monotonic() + 10
    while server.service.scheduler.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.service.scheduler.running == 0
    *_, kept = server.service.conversations._kept.values()  # the one that was used last
    assert not kept.busy
    assert kept.stream.position < 100  # of the 400 tokens that it was to say
    goes_on = server.ask([*messages, assistant(said), user("Stop. Say yes.")], max_tokens=2)
    assert goes_on.choices[0].message.content
    assert cached(goes_on) > 0


def test_eight_clients_at_once_all_progress_and_get_their_own_answers(server):
    prompts = [[user(f"Tell me about the number {n}.")] for n in range(8)]
    alone = [server.ask(messages, max_tokens=10).choices[0].message.content for messages in prompts]
    times: list[list[float]] = [[] for _ in prompts]
    texts = [""] * 8

    def client(n):
        for chunk in server.ask(prompts[n], max_tokens=10, stream=True):
            text = chunk.choices[0].delta.content
            if text:
                texts[n] += text
                times[n].append(time.monotonic())

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == alone
    last_to_begin, first_to_end = max(one[0] for one in times), min(one[-1] for one in times)
    assert last_to_begin < first_to_end


def test_more_conversations_than_memory_holds_go_to_disk_and_come_back(stream, tmp_path):
    with served(stream, folder=tmp_path / "kept", streams=2) as server:
        talks = [[user(f"My number is {n}. Say hello.")] for n in range(4)]
        firsts = [server.ask(talk, max_tokens=4) for talk in talks]
        assert len(list((tmp_path / "kept").iterdir())) == 2
        for talk, first in zip(talks, firsts, strict=True):
            talk += [assistant(first.choices[0].message.content), user("Go on.")]
            assert cached(server.ask(talk, max_tokens=4)) in (
                first.edgesink["position"],
                first.edgesink["position"] + 1,
            )
        assert len(server.service.conversations) == 2
    assert len(list((tmp_path / "kept").iterdir())) == 4


SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "tags"],
    "properties": {
        "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
}  # fmt: skip


def person(server, seed):
    """A random answer in the schema, as JSON."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = server.ask([user("Invent a person.")], response_format=form, temperature=1.0, seed=seed, max_tokens=120)
    assert answer.choices[0].finish_reason == "stop"
    return json.loads(answer.choices[0].message.content)


def check_person(found):
    assert list(found) == ["name", "age", "tags"]
    assert isinstance(found["name"], str)
    assert len(found["name"]) <= 12
    assert type(found["age"]) is int
    assert 0 <= found["age"] <= 120
    assert len(found["tags"]) <= 2
    assert set(found["tags"]) <= {"a", "b"}


def test_answers_are_valid_in_a_schema(server):
    found = [person(server, seed) for seed in range(4)]
    for one in found:
        check_person(one)
    assert len({json.dumps(one) for one in found}) > 1


@pytest.mark.slow
def test_a_hundred_of_a_hundred_answers_are_valid_in_a_schema(server):
    for seed in range(100):
        check_person(person(server, seed))


def test_an_answer_that_its_limit_cuts_says_so(server):
    form = {"type": "json_object"}
    answer = server.ask([user("Describe a house as JSON.")], response_format=form, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content.startswith("{")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather of a city.",
        "parameters": {
            "type": "object", "additionalProperties": False, "required": ["city"],
            "properties": {"city": {"type": "string", "maxLength": 20}},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["in one piece", "token by token"])
def test_a_tool_is_called_and_its_result_goes_back(server, streamed):
    messages = [user("What is the weather in Oslo?")]
    options = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60}
    answer = server.ask(messages, **options, stream=streamed)
    if streamed:
        chunks = list(answer)
        (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        position = chunks[-1].edgesink["position"]
    else:
        (call,) = answer.choices[0].message.tool_calls
        assert answer.choices[0].message.content is None
        assert answer.choices[0].finish_reason == "tool_calls"
        position = answer.edgesink["position"]
    assert call.function.name == "get_weather"
    assert list(json.loads(call.function.arguments)) == ["city"]
    function = {"name": call.function.name, "arguments": call.function.arguments}
    messages += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 20 degrees"},
    ]
    told = server.ask(messages, tools=[WEATHER], max_tokens=8)
    assert cached(told) == position  # the call that was sent back is the one that was made
    assert told.choices[0].message.content


def test_log_probabilities_are_those_of_the_tokens_said(server):
    answer = server.ask([user("Say hi.")], logprobs=True, top_logprobs=3, max_tokens=5)
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in told).decode() == answer.choices[0].message.content
    for token in told:
        assert token.logprob == token.top_logprobs[0].logprob  # greedy: the most likely was taken
        assert token.logprob > token.top_logprobs[1].logprob > token.top_logprobs[2].logprob
    sum_of_three = sum(2.718281828**top.logprob for top in told[0].top_logprobs)
    assert 0 < sum_of_three <= 1


def test_a_bare_text_goes_on_where_it_was_left(server):
    client = server.client()
    first = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0)
    longer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=16, temperature=0)
    text = "Once upon a time" + first.choices[0].text
    rest = client.completions.create(model=MODEL, prompt=text, max_tokens=8, temperature=0)
    assert first.choices[0].text + rest.choices[0].text == longer.choices[0].text
    assert cached(rest) == first.edgesink["position"]
    ids = server.service.tokenizer.encode("Once upon a time", special=True)
    by_ids = client.completions.create(model=MODEL, prompt=ids, max_tokens=8, temperature=0)
    assert by_ids.choices[0].text == first.choices[0].text


def test_responses_go_on_by_their_id(server):
    client = server.client()
    first = client.responses.create(model=MODEL, instructions="Be brief.", input="My name is Bob.", max_output_tokens=6)
    assert first.status == "incomplete"
    assert first.incomplete_details.reason == "max_output_tokens"
    events = list(
        client.responses.create(
            model=MODEL, previous_response_id=first.id, input="Hello?", max_output_tokens=6, stream=True, temperature=0
        )
    )
    assert events[0].type == "response.created"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.output_text == text
    position = first.usage.total_tokens - 1  # the last token of an answer is fed with the next message
    assert last.usage.input_tokens_details.cached_tokens == position


def test_a_long_talk_by_ids_leaves_system_prompts_as_what_others_begin_with(server):
    client, options = server.client(), {"model": MODEL, "max_output_tokens": 1}
    instructions = "Speak as a gardener would."
    answer = client.responses.create(instructions=instructions, input="Hello.", **options)
    for number in range(HEADS + 1):
        answer = client.responses.create(previous_response_id=answer.id, input=f"Number {number}.", **options)
    head = len(server.service.tokenizer.encode(f"<|im_start|>system\n{instructions}<|im_end|>\n"))
    other = client.responses.create(instructions=instructions, input="Good day.", **options)
    assert other.usage.input_tokens_details.cached_tokens == head


def test_a_tool_is_called_by_a_response(server):
    client = server.client()
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    ask = {
        "model": MODEL,
        "input": "Weather in Rome?",
        "tools": [tool],
        "tool_choice": "required",
        "max_output_tokens": 60,
    }
    (call,) = client.responses.create(**ask).output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    assert list(json.loads(call.arguments)) == ["city"]
    names = [event.type for event in client.responses.create(**ask, stream=True)]
    assert names[-1] == "response.completed"
    assert "response.function_call_arguments.done" in names
