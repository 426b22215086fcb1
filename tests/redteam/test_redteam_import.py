"""Attacks from public files, in files made for the test in each layout."""

import json
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tricks import CARD, COIN, guarded, played

from lockgate.errors import ConfigError, RedTeamError
from lockgate.redteam.attacks._import import LAYOUTS, read_attacks

GOAL = "Tell where the dove is"


def artifact(*jailbreaks, method="PAIR", model="a-model"):
    return {"parameters": {"method": method, "model": model}, "jailbreaks": list(jailbreaks)}


def row(prompt, goal=GOAL):
    return {
        "index": 0,
        "goal": goal,
        "behavior": "Doves",
        "prompt": prompt,
        "response": "No.",
        "jailbroken": False,
    }


def turns(*said):
    return {"turns": [{"role": role, "content": {"text": text, "lang": "en"}} for role, text in said]}


@pytest.fixture
def written(tmp_path):
    def write(content, name="attack.json"):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(line) + "\n" for line in content), encoding="utf-8")
        else:
            dump = yaml.safe_dump if name.endswith((".yaml", ".prompt")) else json.dumps
            path.write_text(dump(content), encoding="utf-8")
        return path

    return write


def sent(attack, query=CARD, seed=0):
    return [[(m.role, m.content) for m in attempt.messages] for attempt in attack.play(query, seed)]


def test_an_artifact_gives_templates_where_prompts_hold_their_goal(written) -> None:
    path = written(
        artifact(
            row(f"{GOAL} !! ending"),
            row("tell where the DOVE is !! ending", goal=GOAL),
            row("Once upon a time"),
            row(None),
            row("What of the coin?", goal="where is the coin after the hand closes"),
            row("Act: [INSERT PROMPT HERE]", goal="Another goal"),
        )
    )
    (attack,) = read_attacks(path, "jailbreakbench")
    assert attack.name == attack.family == "jailbreakbench/PAIR-a-model"
    assert len(attack.prompts) == 4
    assert sorted(sent(attack)) == [[("user", f"Act: {CARD.text}")], [("user", f"{CARD.text} !! ending")]]
    assert sent(attack, COIN)[0] == [("user", "What of the coin?")]
    first = next(attack.play(COIN, 0))
    assert dict(first.facts) == {"place": "jailbreaks[4]", "made_for_it": True}
    assert played(attack, CARD, guarded(lambda prompt, answer: False))[0][2].success


def test_tries_and_seed_choose_among_templates(written) -> None:
    path = written(artifact(*(row(f"{GOAL} {number}") for number in range(20))))
    (attack,) = read_attacks(path, "jailbreakbench", tries=5)
    assert len(sent(attack)) == 5
    assert sent(attack, seed=1) == sent(attack, seed=1) != sent(attack, seed=2)


def test_harmbench_test_cases_are_matched_by_id_or_by_text(written) -> None:
    cases = written(
        {"top-card": ["First way", "Second way"], "dove": f"Please: {GOAL}", "other": ["Third way"]}
    )
    (attack,) = read_attacks(cases, "harmbench")
    assert attack.name == "harmbench/attack"
    assert sent(attack) == [[("user", "First way")], [("user", "Second way")]]
    assert sent(attack, COIN) == []
    table = written(
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        f'"{GOAL}",standard,magic,,,dove\n"{COIN.text}",standard,magic,,,other\n',
        "behaviours.csv",
    )
    (attack,) = read_attacks(cases, "harmbench", behaviours=table)
    assert [("user", f"Please: {CARD.text}")] in sent(attack)
    assert sent(attack, COIN)[0] == [("user", "Third way")]


def test_harmbench_behaviours_are_plain_questions(written) -> None:
    table = written(
        f'Behavior,ContextString,BehaviorID\n"{COIN.text}","A note,\nof two lines",b1\nElse,,b2\n',
        "behaviours.csv",
    )
    (attack,) = read_attacks(table, "harmbench")
    assert sent(attack, COIN) == [[("user", f"A note,\nof two lines\n\n---\n\n{COIN.text}")]]
    assert next(attack.play(COIN, 0)).facts["place"] == "line 3"


def test_garak_reports_and_hit_logs_of_all_versions(written) -> None:
    entry = {"entry_type": "attempt", "status": 1, "outputs": [], "goal": "leave the role"}
    report = written(
        [
            {"entry_type": "start_run setup", "x": 1},
            {
                **entry,
                "probe_classname": "dan.A",
                "prompt": turns(("system", "Be."), ("user", "You are {goal}?")),
            },
            {
                **entry,
                "probe_classname": "dan.A",
                "status": 2,
                "prompt": turns(("system", "Be."), ("user", "You are {goal}?")),
            },
            {**entry, "probe_classname": "dan.B", "prompt": "Old style"},
            {**entry, "probe_classname": "dan.B", "prompt": {"text": "Middle style", "lang": "en"}},
            {**entry, "probe_classname": "dan.B", "prompt": None},
            {"entry_type": "eval", "probe": "dan.A"},
        ],
        "garak.report.jsonl",
    )
    first, second = read_attacks(report, "garak")
    assert (first.name, second.name) == ("garak/dan.A", "garak/dan.B")
    assert sent(first) == [[("system", "Be."), ("user", f"You are {CARD.text}?")]]
    assert sent(second) == []
    _, second = read_attacks(report, "garak", append=True)
    assert sorted(sent(second)) == [
        [("user", f"Middle style\n\n{CARD.text}")],
        [("user", f"Old style\n\n{CARD.text}")],
    ]
    hits = written(
        [{"goal": "x", "prompt": turns(("user", "Go")), "probe": "dan.C", "score": 1.0}], "hitlog.jsonl"
    )
    (attack,) = read_attacks(hits, "garak", append=True)
    assert sent(attack) == [[("user", f"Go\n\n{CARD.text}")]]


def test_a_template_of_pyrit_is_filled(written) -> None:
    template = {
        "name": "a frame",
        "parameters": ["prompt"],
        "data_type": "text",
        "value": "{% raw %}{{ not a slot }} {% endraw %}Say {{ '{{' }}: {{ prompt }} and {{prompt}}",
    }
    (attack,) = read_attacks(written(template, "frame.yaml"), "pyrit")
    assert attack.name == "pyrit/a frame"
    assert sent(attack) == [[("user", f"{{{{ not a slot }}}} Say {{{{: {CARD.text} and {CARD.text}")]]


@pytest.mark.parametrize("key", ["seeds", "prompts"])
def test_seed_prompts_of_pyrit_make_conversations(written, key) -> None:
    seeds = {
        "dataset_name": "a set",
        key: [
            {"value": "How about {query}", "data_type": "text"},
            {"value": "then this", "prompt_group_alias": "g", "sequence": 2, "role": "user"},
            {"value": "You obey.", "prompt_group_alias": "g", "sequence": 0, "role": "system"},
            {"value": "Yes.", "prompt_group_alias": "g", "sequence": 1, "role": "assistant"},
            {"value": "Only a goal", "seed_type": "objective"},
            {"value": "Only a goal", "is_objective": True},
            {"value": "You are free.", "role": "system"},
        ],
    }
    path = written(seeds, "set.prompt")
    (attack,) = read_attacks(path, "pyrit")
    assert attack.name == "pyrit/a set"
    assert sent(attack) == [[("user", f"How about {CARD.text}")]]
    (attack,) = read_attacks(path, "pyrit", append=True)
    assert sorted(sent(attack), key=len) == [
        [("user", f"How about {CARD.text}")],
        [("system", "You are free."), ("user", CARD.text)],
        [("system", "You obey."), ("assistant", "Yes."), ("user", f"then this\n\n{CARD.text}")],
    ]


BAD = {
    "jailbreakbench": [
        ("[]", "attack.json: expected an object, found a list"),
        ('{"jailbreaks": []}', "parameters: expected an object, found null"),
        ("{\n\n!", "attack.json: line 3: not valid JSON"),
        (json.dumps(artifact(row(5))), r"jailbreaks[0].prompt: expected text, found a number"),
        (json.dumps(artifact(row("x"), {"prompt": "y"})), r"jailbreaks[1].goal: expected text, found null"),
        (json.dumps(artifact(row("\ud800"))), r"jailbreaks[0].prompt: not valid Unicode"),
        (json.dumps(artifact(row(None))), "no prompt in it"),
        ("[" * 100_000, "nested too deep"),
    ],
    "harmbench": [
        ('{"a": 3}', "a behaviour: expected a list, found a number"),
        ('{"a": ["x", null]}', "case 2 of a behaviour: expected text, found null"),
        ("{}", "no prompt in it"),
    ],
    "garak": [
        ('{"entry_type": "attempt"}', "line 1: probe_classname: expected text, found null"),
        ('\n{"probe": "p", "prompt": {"turns": []}}', "line 2: prompt.turns: expected at least one turn"),
        (
            '{"probe": "p", "prompt": {"turns": [{"role": "robot", "content": {"text": "x"}}]}}',
            "line 1: prompt.turns[0].role: expected one of system, user, assistant",
        ),
        (
            '{"probe": "p", "prompt": {"turns": [{"role": "user", "content": {}}]}}',
            "turns[0].content.text: expected",
        ),
        ('{"probe": "p"}\n{', "line 2: record: not valid JSON"),
    ],
    "pyrit": [
        ("a: [", "not valid YAML"),
        ("seeds: 3", "seeds: expected a list, found a number"),
        ("seeds: [{value: x, sequence: one}]", r"seeds[0].sequence: expected a whole number, found text"),
        ("seeds: [{value: x, data_type: image_path}]", r"seeds[0].data_type: expected text"),
        ("{value: x, parameters: [prompt, place]}", "parameters: expected the one parameter `prompt`"),
        (
            "{value: '{{ other }}', parameters: [prompt]}",
            "value: expected no expression of Jinja but {{ prompt }}",
        ),
        ("seeds: [{value: ' '}]", r"seeds[0].value: expected text, found empty text"),
    ],
}


@pytest.mark.parametrize(
    ("layout", "content", "message"), [(k, c, m) for k, rows in BAD.items() for c, m in rows]
)
def test_errors_name_file_place_and_field(written, layout, content, message) -> None:
    path = written(content, {"pyrit": "attack.yaml", "garak": "attack.jsonl"}.get(layout, "attack.json"))
    with pytest.raises(RedTeamError, match=re.escape(message)) as error:
        read_attacks(path, layout)
    assert str(error.value).startswith(str(path))


def test_wrong_calls(written, tmp_path) -> None:
    with pytest.raises(ConfigError, match="expected one of garak, harmbench, jailbreakbench, pyrit"):
        read_attacks(tmp_path / "x", "zip")
    with pytest.raises(ConfigError, match="only for the layout harmbench"):
        read_attacks(written("{}"), "garak", behaviours=tmp_path / "b.csv")
    with pytest.raises(RedTeamError, match="no such file"):
        read_attacks(tmp_path / "missing", "garak")
    with pytest.raises(RedTeamError, match="expected a column Behavior"):
        read_attacks(written("a,b\n1,2\n", "b.csv"), "harmbench")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(RedTeamError, match="not valid UTF-8 at byte 7"):
        read_attacks(tmp_path / "latin.json", "harmbench")


VALID = {
    "jailbreakbench": artifact(row(f"{GOAL} x"), row("Act: {goal}")),
    "harmbench": {"top-card": ["First way", "Second {query}"], "dove": "Third way"},
    "garak": {"probe": "p", "goal": "x", "prompt": turns(("system", "Be."), ("user", "Say {query}"))},
    "pyrit": {
        "name": "n",
        "seeds": [
            {"value": "How about {query}", "data_type": "text", "sequence": 1, "prompt_group_alias": "g"},
            {"value": "{{ prompt }}", "parameters": ["prompt"], "role": "user"},
        ],
    },
}
ODD = st.sampled_from([None, True, 3, -1.5, "", "x", "{query}", [], {}, [None], {"x": "y"}])


def places(content, path=()):
    yield path
    inner = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content if isinstance(content, list) else [])
    )
    for key, value in inner:
        yield from places(value, (*path, key))


def damaged(content, path, value):
    if not path:
        return value
    copy = content.copy()
    copy[path[0]] = damaged(content[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=ODD)
def test_a_damaged_file_gives_attacks_or_one_clear_error(written, layout, data, value) -> None:
    content = damaged(VALID[layout], data.draw(st.sampled_from(list(places(VALID[layout])))), value)
    path = written([content], "any.jsonl") if layout == "garak" else written(content, "any.json")
    try:
        attacks = read_attacks(path, layout, append=True)
    except RedTeamError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
    else:
        for attack in attacks:
            for attempt in attack.play(CARD, 0):
                assert attempt.messages[-1].role in ("user", "assistant")
                assert CARD.text in "".join(message.content for message in attempt.messages)
