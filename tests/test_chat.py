"""A conversation: each turn is cut out of the template exactly, whatever came before."""

import pytest

from edgesink import load
from edgesink.errors import BadBundle, BadOption
from edgesink.runtime.chat import Chat, ChatTemplate
from edgesink.runtime.sampling import SamplingSpec
from edgesink.spec import StreamSpec

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ raise_exception('no system here') }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL}


@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_put_together_are_the_conversation_rendered_whole(name):
    template = ChatTemplate(TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"})
    system = None if name == "mistral" else "Be brief"
    said = [("hello", "hi"), ("how?", "so"), ("bye", "")]
    text = template.first_turn(said[0][0], system) + said[0][1]
    messages = [] if system is None else [{"role": "system", "content": system}]
    for i, (user, answer) in enumerate(said):
        if i:
            text += template.next_turn(user) + answer
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    whole = template.render(messages[:-1], add_generation_prompt=True)
    assert text == whole


def test_the_system_turn_is_what_stands_before_the_first_message():
    template = ChatTemplate(CHATML, {})
    system = template.system_turn("Be brief")
    assert system == "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n"
    assert template.first_turn("hello", "Be brief").startswith(system)


def test_a_template_that_refuses_says_so_in_its_own_words():
    with pytest.raises(BadOption, match="no system here"):
        ChatTemplate(MISTRAL, {"bos_token": "", "eos_token": ""}).first_turn("hello", "Be brief")


def test_a_template_cannot_reach_out_of_its_sandbox():
    with pytest.raises(BadOption, match="unsafe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}", {}).render([])


def test_a_template_that_is_none_is_refused():
    with pytest.raises(BadBundle, match="cannot be read"):
        ChatTemplate("{% for %}", {})


def test_a_chat_feeds_each_turn_once_and_goes_on_after_an_interruption(toy, tmp_path):
    stream = load(toy.bundle(tmp_path / "bundle", StreamSpec(3, 61, 32, 8)))
    chat = Chat(stream, sampling=SamplingSpec(temperature=1.0, seed=1))
    answer = chat.answer("hello")
    taken = [next(answer) for _ in range(5)]
    answer.close()  # what Ctrl-C does
    first = len(b"user: hello") + 2 + len(b"assistant: ") + 1
    assert stream.position == first + len(taken) - 1
    for _ in range(30):
        list(chat.answer("and then?", max_new_tokens=9))
    assert stream.evicted > 0
    chat.save(tmp_path / "session")
    position = stream.position
    chat.reset()
    assert stream.position == 0
    chat.restore(tmp_path / "session")
    assert stream.position == position


def test_a_pinned_system_prompt_becomes_the_sinks(toy, tmp_path):
    stream = load(toy.bundle(tmp_path / "bundle", StreamSpec(3, 125, 64, 8)))
    Chat(stream, system="Be brief", pin_system=True)
    assert stream.sinks == len(b"system: Be brief") + 2 + len(b"user: ") + 1
    with pytest.raises(BadOption, match="0 to 64"):
        Chat(stream, system="Be brief. " * 20, pin_system=True)


def test_the_real_model_answers_and_remembers_across_turns(smollm2_bundles):
    stream = load(smollm2_bundles("int4", StreamSpec(4, 508, 64, 64)))
    chat = Chat(stream)
    first = "".join(token.text for token in chat.answer("What is the capital of France?", 40))
    assert "Paris" in first
    list(chat.answer("Hello, my name is Alice.", 40))
    second = "".join(token.text for token in chat.answer("What is my name?", 40))
    assert "Alice" in second
