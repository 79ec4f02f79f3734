"""Answers timed with drafts and without: which are asked for, what is compared, and what is printed."""

import ast
import json

import pytest

from edgesink import load
from edgesink.bench.workloads import CODE, MINUTES, REQUESTS, WorkloadFigures, as_text, run_workloads
from edgesink.errors import BadOption
from edgesink.manifest import Manifest
from edgesink.spec import StreamSpec


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("workloads") / "bundle", StreamSpec(3, 29, 8, 8), "int4")


def test_the_requests_carry_what_they_ask_for():
    classes = [node.name for node in ast.parse(CODE).body if isinstance(node, ast.ClassDef)]
    assert classes == ["Item", "Inventory"]
    assert CODE in REQUESTS["code-edit"]
    assert MINUTES in REQUESTS["quotes"]


def test_every_request_is_answered_with_drafts_and_without_in_every_round(bundle):
    said = []
    figures = run_workloads(load(bundle), ["prose", "quotes"], tokens=6, rounds=2, report=said.append)
    assert [row.workload for row in figures] == ["prose", "quotes"]
    for row in figures:
        assert 2 <= row.tokens <= 6
        assert len(row.plain) == len(row.drafted) == 2
        assert min(*row.plain, *row.drafted) > 0
        assert row.same
    assert [line.split(":")[0] for line in said] == [
        "prose, round 1 of 2", "prose, round 2 of 2", "quotes, round 1 of 2", "quotes, round 2 of 2",
    ]  # fmt: skip


def test_answers_that_differ_are_said_to(bundle, monkeypatch):
    answers = iter([[5, 6, 7], [5, 6, 7], [5, 6, 7], [5, 6, 8]])
    monkeypatch.setattr("edgesink.bench.workloads._timed", lambda answer: (next(answers), 10.0))
    same, other = run_workloads(load(bundle), ["prose", "quotes"], tokens=6, rounds=1)
    assert (same.same, other.same) == (True, False)


def test_the_table_has_medians_and_their_quotient():
    row = WorkloadFigures("quotes", [10.0, 30.0, 20.0], [50.0, 10.0, 40.0], 96, 2.5, True)
    line = as_text([row]).splitlines()[1]
    assert line.split() == ["quotes", "96", "20.0", "40.0", "x", "2.00", "2.50", "yes"]


def test_a_bundle_that_cannot_draft_is_refused(bundle, monkeypatch):
    stream = load(bundle)
    monkeypatch.setattr(stream._backend, "most_rows", 1)
    with pytest.raises(BadOption, match="cannot draft"):
        run_workloads(stream, ["prose"], 6, 1)


def test_the_command_prints_workloads_and_names_those_that_it_does_not_know(bundle, command):
    options = ("--windows", 32, "--threads", 1, "--prompt", 9, "--steps", 4, "--rounds", 1)
    code, out, _ = command("bench", bundle, *options, "--workload", "quotes", "--json")
    assert code == 0
    (row,) = json.loads(out)["workloads"]
    assert (row["workload"], row["window"], row["threads"]) == ("quotes", 32, 1)
    code, out, err = command("bench", bundle, *options, "--workload", "poems")
    assert code == 1
    assert "expected one of prose, code-edit, quotes" in err


def test_quick_prints_one_table_of_this_machine(bundle, command, monkeypatch):
    code, out, _ = command("bench", bundle, "--quick")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert names == [
        "model", "machine", "version", "reads", "answers", "starts", "memory", "prose", "code-edit", "quotes",
    ]  # fmt: skip
    assert Manifest.read(bundle).name in out
    monkeypatch.setattr("edgesink.runtime.session.Stream.most_rows", 1)
    out = command("bench", bundle, "--quick")[1]
    assert out.splitlines()[-1].startswith("drafts   none: this bundle gives")
