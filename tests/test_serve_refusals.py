"""`edgesink serve` refuses: by the right code, in OpenAI's form, and with no word of what is behind it."""

import copy
import json
import socket

import openai
import pytest
from serving import MODEL, served, user

from edgesink import load
from edgesink.errors import BadOption, BadPlace
from edgesink.serve import chat_api, completions_api
from edgesink.serve.grammar import Grammars
from edgesink.serve.server import listen
from edgesink.serve.settings import Limits, Settings
from edgesink.spec import StreamSpec

KEY = "a-key-of-the-test"
CHAT = "/v1/chat/completions"
INCLUDE_USAGE = "stream_options.include_usage"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def server(toy, tmp_path_factory):
    bundle = toy.bundle(tmp_path_factory.mktemp("serve") / "bundle", StreamSpec(3, 125, 64, 8))
    with served(load(bundle), KEY, body_bytes=10_000, waiting=1, streams=1) as running:
        yield running


def post(server, body, path=CHAT, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.http.post(path, content=content, headers={"Authorization": f"Bearer {KEY}"} | headers)


def error(response):
    """The error of a response, which has OpenAI's form and tells nothing of the machine."""
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    for leak in ("Traceback", "/", ".py", "edgesink."):
        assert leak not in body["error"]["message"].replace("/v1/completions", "")
    return body["error"]


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff\xfe", b'"x"', b'{"a": 1, "a": 2}', b"[" * 9000])
def test_what_is_no_json_object_is_refused(server, body):
    response = post(server, body)
    assert response.status_code == 400
    assert error(response)["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("n", 2, "n"), ("logit_bias", {"5": 1}, "logit_bias"), ("presence_penalty", 0.5, "presence_penalty"),
        ("functions", [], "functions"), ("made_up", 1, "made_up"), ("temperature", "hot", "temperature"),
        ("temperature", -1, "temperature"), ("temperature", True, "temperature"), ("top_p", 0, "top_p"),
        ("max_tokens", 0, "max_tokens"), ("max_tokens", 1.5, "max_tokens"), ("stop", ["", "x"], "stop"),
        ("stop", ["x"] * 17, "stop"), ("seed", 1 << 65, "seed"), ("top_logprobs", 3, "top_logprobs"),
        ("stream_options", {"x": 1}, "stream_options.x"), ("stream_options", {"include_usage": "yes"}, INCLUDE_USAGE),
        ("messages", [user("a"), {"role": "assistant", "audio": {"id": "x"}}, user("b")], "messages[1]"),
        ("messages", [user("a"), {"role": "assistant", "refusal": 5}, user("b")], "messages[1]"),
        ("response_format", {"type": "xml"}, "response_format"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}, "response_format"),
        ("tools", [{"type": "web_search"}], "tools[0]"), ("tool_choice", "required", "tool_choice"),
        ("messages", [], "messages"), ("messages", [{"role": "user", "content": 5}], "messages[0]"),
        ("messages", [{"role": "king", "content": "x"}], "messages[0]"), ("messages", {"a": 1}, "messages"),
        ("messages", [user("a"), {"role": "assistant", "content": "b"}], "messages"),
        ("messages", [user("a"), {"role": "system", "content": "b"}], "messages[1]"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0]"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(server, field, value, param):
    response = post(server, {"model": MODEL, "messages": [user("hi")], field: value})
    assert response.status_code == 400, response.text
    assert error(response)["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"verbosity": "low"}}, "text.verbosity"), ({"text": {"x": 1}}, "text.x"),
        ({"stream_options": {"x": 1}}, "stream_options.x"), ({"stream_options": {"include_usage": 1}}, INCLUDE_USAGE),
        ({"text": {"format": {"type": "json_object"}}, "tools": [TOOL]}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": "no"}}}}, "text.format"),
    ],
)  # fmt: skip
def test_what_a_response_does_not_do_is_refused_by_name(server, fields, param):
    response = post(server, {"model": MODEL, "input": "hi", **fields}, "/v1/responses")
    assert response.status_code == 400, response.text
    assert error(response)["param"] == param


def test_a_response_may_say_what_is_done_anyway(server):
    asked = {"text": {"verbosity": "medium"}, "stream_options": {"include_obfuscation": False}, "max_output_tokens": 1}
    assert post(server, {"input": "hi", **asked}, "/v1/responses").status_code == 200


def test_a_completion_takes_the_options_of_a_stream_as_the_others_do(server):
    response = post(server, {"prompt": "hi", "stream_options": {"include_usage": 1}}, "/v1/completions")
    assert (response.status_code, error(response)["param"]) == (400, INCLUDE_USAGE)


@pytest.mark.parametrize(
    ("api", "asked"),
    [(chat_api, {"messages": [user("hi")], "logprobs": True}), (completions_api, {"prompt": "hi", "logprobs": 0})],
)
def test_what_log_probabilities_take_seconds_for_is_made_while_the_request_is_read(server, api, asked):
    grammars = Grammars(server.service.manifest, server.service.tokenizer)
    service = copy.copy(server.service)
    service.grammars = grammars
    api.read_request(service, json.dumps({**asked, "logprobs": None}).encode())
    assert "_tokenizer" not in vars(grammars)
    api.read_request(service, json.dumps(asked).encode())
    assert "_tokenizer" in vars(grammars)


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(200), {"$ref": "#"}, {"$ref": "http://127.0.0.1/x"}, {"type": "string", "format": "no-such"},
        {"type": "array", "contains": {}}, {"type": "string", "pattern": "("},
        {"type": "integer", "minimum": 5, "maximum": 4},
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_kept_is_refused_before_anything_is_said(server, schema):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = post(server, {"messages": [user("hi")], "response_format": form})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "response_format"


def test_what_clients_send_and_means_nothing_here_is_ignored(server):
    ignored = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0,
        "logit_bias": {}, "service_tier": "auto", "logprobs": False, "tools": None, "parallel_tool_calls": True,
        "response_format": {"type": "text"}, "modalities": ["text"], "stop": None,
    }  # fmt: skip
    response = post(server, {"model": MODEL, "messages": [user("hi")], "max_tokens": 1, **ignored})
    assert response.status_code == 200, response.text


def test_an_empty_message_is_refused_before_anything_is_read(server):
    response = post(server, {"messages": [user(" ")], "stream": True})
    assert response.status_code == 400
    assert "empty message" in error(response)["message"]


def test_a_body_that_is_too_large_is_refused(server):
    response = post(server, {"messages": [user("x" * 20_000)]})
    assert response.status_code == 413
    assert error(response)["code"] == "body_too_large"


@pytest.mark.parametrize("path", ["/v1/models", "/edgesink/info", "/metrics", CHAT])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong-key", f"Basic {KEY}", "Bearer", f"Bearer {KEY}x"])
def test_nothing_is_told_without_the_key(server, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    response = server.http.request("POST" if path == CHAT else "GET", path, headers=headers)
    assert response.status_code == 401
    assert error(response)["code"] == "invalid_api_key"


def test_the_client_understands_the_refusals(server):
    with pytest.raises(openai.AuthenticationError):
        server.client("wrong-key").models.list()
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        server.client().chat.completions.create(model="other", messages=[user("hi")])
    with pytest.raises(openai.NotFoundError):
        server.client().responses.create(model=MODEL, input="x", previous_response_id="resp_none")
    assert server.client().models.list().data[0].id == MODEL
    assert server.client().models.retrieve(MODEL).id == MODEL


def test_a_name_or_a_page_of_elsewhere_is_refused(server):
    assert server.http.get("/health").status_code == 200
    response = server.http.get("/health", headers={"Host": "evil.example:80"})
    assert (response.status_code, error(response)["code"]) == (403, "unknown_host")
    response = post(server, {}, Origin="http://evil.example")
    assert (response.status_code, error(response)["code"]) == (403, "cross_origin")
    own = server.http.get("/health", headers={"Origin": server.url})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


def test_paths_and_methods_that_are_not_there_are_refused(server):
    headers = {"Authorization": f"Bearer {KEY}"}
    for path, status in (("/v1/nothing", 404), ("/../../etc/passwd", 404), (CHAT, 405), ("/edgesink/ring/none", 404)):
        response = server.http.get(path, headers=headers)
        assert response.status_code == status, path
        error(response)


def test_what_is_not_http_is_refused_and_the_server_lives_on(server):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"\x00\x01nonsense\r\n\r\n")
        raw.settimeout(10)
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert server.http.get("/health").json() == {"status": "ok"}


def test_a_fault_of_ours_tells_nothing(server, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret /path/of/ours.py")

    monkeypatch.setattr(server.service, "answer", broken)
    response = post(server, {"messages": [user("hi")]})
    assert response.status_code == 500
    assert "secret" not in response.text
    error(response)


def test_a_fault_in_the_middle_of_an_answer_frees_the_stream(server, monkeypatch):
    from edgesink.serve import service as module

    def broken(*_):
        yield
        raise RuntimeError("secret /path/of/ours.py")

    with monkeypatch.context() as patch:
        patch.setattr(module, "reply", broken)
        response = post(server, {"messages": [user("hi")], "max_tokens": 1})
        assert response.status_code == 500
        assert error(response)["code"] == "internal_error"
    assert post(server, {"messages": [user("hi")], "max_tokens": 1}).status_code == 200


def test_an_address_that_others_reach_takes_a_key():
    with pytest.raises(BadOption, match="without an API key"):
        Settings("m", host="0.0.0.0")
    assert Settings("m", host="0.0.0.0", api_key="long enough").allowed_hosts is None
    assert Settings("m", host="::1").is_loopback
    assert not Settings("m", host="example.org", api_key="long enough").is_loopback
    with pytest.raises(BadOption, match="API key"):
        Settings("m", api_key="short")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"saved_bytes": -5_000_000}, "--disk = -5; expected 0 or more"),
        ({"answer_tokens": 0}, "--max-tokens = 0; expected 1 or more"),
        ({"request_seconds": float("nan")}, "--timeout = nan; expected 0.001 or more"),
        ({"streams": -1}, "--streams = -1; expected 1 or more"),
        ({"body_seconds": 0}, "body seconds = 0; expected 0.001 or more"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_its_option(limits, message):
    with pytest.raises(BadOption) as refused:
        Limits(**limits)
    assert str(refused.value) == message


def test_an_address_that_is_taken_names_both_options():
    with listen(Settings("m", port=0)) as taken, pytest.raises(BadPlace, match="choose another --host or --port"):
        listen(Settings("m", port=taken.getsockname()[1]))
