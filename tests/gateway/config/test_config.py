"""The config file: what it says, what is wrong with it, and that no secret is ever shown."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lockgate.cli import _serve_run, main
from lockgate.errors import ConfigError
from lockgate.gateway.config import Config, apply_config, config_schema, read_config

SECRET = "sk-very-secret"  # noqa: S105 - a made-up key
FULL = """
mode: canary
canary_percent: 20
upstreams:
  near:
    url: http://127.0.0.1:8080/v1
    models: [small, tiny]
    breaker: {failures: 3, pause: 2}
  far:
    url: https://models.example.org/v1/
    key_env: FAR_KEY
    model: big
default: far
keys:
  team: {env: TEAM_KEY}
  trial: {file: trial.key, mode: shadow}
routes:
  /v1/messages: {mode: enforce, on_failure: open}
limits: {max_streams: 4, step_timeout: 20}
listen: {port: 0}
"""
FULL_TOML = """
mode = "canary"
canary_percent = 20
default = "far"
[upstreams.near]
url = "http://127.0.0.1:8080/v1"
models = ["small", "tiny"]
breaker = {failures = 3, pause = 2}
[upstreams.far]
url = "https://models.example.org/v1/"
key_env = "FAR_KEY"
model = "big"
[keys]
team = {env = "TEAM_KEY"}
trial = {file = "trial.key", mode = "shadow"}
[routes."/v1/messages"]
mode = "enforce"
on_failure = "open"
[limits]
max_streams = 4
step_timeout = 20
[listen]
port = 0
"""
UP = "upstreams: {one: {url: http://127.0.0.1:1/v1}}\n"


@pytest.fixture
def places(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FAR_KEY", SECRET)
    monkeypatch.setenv("TEAM_KEY", SECRET + "-team")
    (tmp_path / "trial.key").write_text(SECRET + "-trial\n")


def written(tmp_path: Path, text: str, name: str = "lockgate.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("name", "text"), [("a.yaml", FULL), ("a.toml", FULL_TOML)])
def test_both_formats_say_the_same(places, tmp_path, name, text) -> None:
    path = written(tmp_path, text, name)
    config = read_config(path)
    assert config == Config.model_validate(yaml.safe_load(FULL))
    applied = apply_config(config, path)
    assert applied.table is not None
    assert applied.policies is not None
    assert applied.table.models == {"small": "near", "tiny": "near"}
    assert (applied.table.default, applied.table.upstreams["far"].key) == ("far", SECRET)
    assert applied.table.upstreams["near"].breaker.failures == 3
    assert applied.keys == {"team": SECRET + "-team", "trial": SECRET + "-trial"}
    chat, messages = "/v1/chat/completions", "/v1/messages"
    assert applied.policies.of(chat).mode == "canary"
    assert applied.policies.of(chat).canary_percent == 20
    assert applied.policies.of(messages).mode == "enforce"
    assert applied.policies.of(messages).on_failure == "open"
    assert applied.policies.of(messages, "trial").mode == "shadow"
    assert applied.policies.open_routes == [messages]


@pytest.mark.parametrize(
    ("text", "release"),
    [("", "token"), ("limits: {release: token}\n", "token"), ("limits: {release: block}\n", "block")],
)
def test_the_release_reaches_the_engine(tmp_path, monkeypatch, text, release) -> None:
    made = []
    monkeypatch.setattr(_serve_run, "_run_guarded", lambda _, options, *rest: made.append(options))
    path = tmp_path / "lockgate.yaml"
    path.write_text("listen: {port: 0}\n" + text)
    with pytest.raises(SystemExit) as left:
        main(["serve", "--config", str(path)])
    assert not left.value.code
    assert [options.engine.release for options in made] == [release]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstream: x\n", "upstream: is not a known key"),
        (UP + "limits: {release: word}\n", "limits.release"),
        (UP + "limits: {max_stream: 3}\n", "limits.max_stream: is not a known key"),
        ("upstreams: {one: {}}\n", "upstreams.one.url: is missing"),
        ("upstreams: {one: {url: ftp://x/v1}}\n", "upstreams.one: upstream url: expected http(s)"),
        ("upstreams: {one: {url: 'http://[::1/v1'}}\n", "upstreams.one: upstream url: expected http(s)"),
        ("upstreams: {one: {url: 'http://x:99999/v1'}}\n", "upstreams.one: upstream url: expected http(s)"),
        ("upstreams: {one: {url: 'http://x y/v1'}}\n", "upstreams.one: upstream url: expected http(s)"),
        ('upstreams: {one: {url: "http://x/v1\\0"}}\n', "upstream url: expected http(s)"),
        ("upstreams: {one: {url: 'http://u:sk-very-secret@x/v1'}}\n", "holds a password"),
        ("upstreams: {one: {url: http://x/v1, key_env: NOT_SET}}\n", "NOT_SET is not set"),
        ("upstreams: {'a b': {url: http://x/v1}}\n", "upstreams.a b"),
        (UP + "default: two\n", "default: expected the name of one of the upstreams"),
        (UP + "mode: canary\n", "need each other"),
        (UP + "canary_percent: 5\n", "need each other"),
        (UP + "mode: canary\ncanary_percent: 101\n", "canary_percent"),
        (UP + "mode: loud\n", "mode: Input should be"),
        (UP + "mode: off\nroutes: {/v1/messages: {mode: shadow}}\n", "leaves nothing to enforce"),
        (UP + "routes: {/v1/embeddings: {mode: shadow}}\n", "routes./v1/embeddings: expected one of"),
        ("routes: {/v1/messages: {mode: shadow}}\n", "routes./v1/messages: expected one of"),
        ("routes: {/v1/chat/completions: {on_failure: open}}\n", "`on_failure: open` needs upstreams"),
        ("operations: {}\n", "operations: expected either `path` or `url`"),
        ("operations: {path: a, url: b}\n", "operations: expected either `path` or `url`"),
        ("operations: {url: 'postgresql://u:sk-very-secret@h/d'}\n", "operations: operations database: the"),
        ("operations: {url: 'mysql://u@h/d'}\n", "operations: operations database: mysql://"),
        ("campaigns: {duplicates: 3}\n", "campaigns: need `operations`"),
        (
            "operations: {path: a}\ncampaigns: {}\n",
            "campaigns: expected flags_per_hundred",
        ),
        (UP + "keys: {a: {}}\n", "keys.a: expected either `env` or `file`"),
        (UP + "keys: {a: {env: NOT_SET}}\n", "keys.a: the environment variable NOT_SET is not set"),
        (UP + "keys: {a: {file: not-there}}\n", "not readable"),
        (UP + "keys: {a: {env: TEAM_KEY}, b: {env: TEAM_KEY}}\n", "keys.b: is the same key"),
        ("upstreams:\n  a: {url: http://x/v1, models: [m]}\n  b: {url: http://y/v1, models: [m]}\n", "twice"),
        ("mode: shadow\nmode: enforce\n", "line 2: a key stands twice"),
        ("a: [sk-very-secret\n", "is no YAML"),
        ("- sk-very-secret\n", "expected keys"),
        ("", "expected keys"),
        ("limits: {max_streams: 'sk-very-secret'}\n", "limits.max_streams"),
        ("limits: {step_timeout: .inf}\n", "limits.step_timeout"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key_and_without_values(places, tmp_path, text, said) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        apply_config(read_config(path), path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "sk-very-secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{}", "ends with .yaml, .yml or .toml"),
        ("a.toml", b"mode = ", "is no TOML"),
        ("a.yaml", b"\xff\xfe\x00", "not valid UTF-8"),
        ("a.yaml", b"#" * (1 << 21), "larger than 1 MiB"),
        ("a.yaml", b"[" * 5000, "no YAML"),
        ("a.yaml", b"? [a]\n: 1\n", "unhashable key"),
    ],
)
def test_files_that_are_no_config(tmp_path, name, content, said) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_config(path)


def test_off_is_a_mode_also_without_quotes(tmp_path) -> None:
    assert read_config(written(tmp_path, UP + "mode: off\n")).mode == "off"


def test_a_single_upstream_answers_all_models_unless_it_lists_some(tmp_path) -> None:
    path = written(tmp_path, UP)
    table = apply_config(read_config(path), path).table
    assert table is not None
    assert table.default == "one"
    path = written(tmp_path, "upstreams: {one: {url: http://x/v1, models: [small]}}\n")
    table = apply_config(read_config(path), path).table
    assert table is not None
    assert table.default is None


def run_command(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    found = capsys.readouterr()
    return int(caught.value.code or 0), found.out, found.err


def test_check_and_show_never_print_a_secret(places, tmp_path, capsys) -> None:
    path = str(written(tmp_path, FULL))
    code, out, err = run_command(capsys, "config", "check", path)
    assert (code, err) == (0, "")
    assert "2 upstream(s), 2 key(s)" in out
    shown = [run_command(capsys, "config", "show", *more, path) for more in ([], ["--resolved"], ["--json"])]
    assert [code for code, _, _ in shown] == [0, 0, 0]
    assert not any(SECRET in text for _, text, _ in shown)
    assert "queue_timeout" not in shown[0][1]
    resolved = yaml.safe_load(shown[1][1])
    assert resolved["limits"]["queue_timeout"] == 120.0
    assert resolved["upstreams"]["far"]["key_env"] == "FAR_KEY"
    assert Config.model_validate(resolved) == read_config(Path(path))


def test_check_fails_for_a_broken_file(tmp_path, capsys) -> None:
    code, _, err = run_command(capsys, "config", "check", str(written(tmp_path, "nonsense: 1\n")))
    assert code == 2
    assert "nonsense: is not a known key" in err


def test_the_schema_is_published_and_refuses_what_the_code_refuses(capsys) -> None:
    code, out, _ = run_command(capsys, "config", "schema")
    published = Path(__file__).parents[3] / "docs" / "config.schema.json"
    assert (code, json.loads(out)) == (0, config_schema())
    assert json.loads(published.read_text()) == config_schema(), "run `lockgate config schema`"
    definitions = [config_schema(), *config_schema()["$defs"].values()]
    assert all(found["additionalProperties"] is False for found in definitions)
    with pytest.raises(ValidationError):
        Config.model_validate({"unheard_of": 1})


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), ("{}", "is no memory file")])
def test_check_finds_a_memory_that_is_not_there(tmp_path, content, said) -> None:
    if content is not None:
        (tmp_path / "memory.json").write_text(content)
    path = written(tmp_path, UP + "conversations: {memory: memory.json}\n")
    with pytest.raises(ConfigError, match=f"conversations.memory: .*{said}"):
        apply_config(read_config(path), path)


LOG = """
log:
  url: postgresql://me@db.internal/log
  password_env: LOG_PASSWORD
  writer: east-1
  content: redacted
  retention_days: 30.5
  when_unwritable: block
"""


def test_the_log_section_says_where_and_how(tmp_path, monkeypatch):
    path = tmp_path / "lockgate.yaml"
    path.write_text(LOG)
    monkeypatch.setenv("LOG_PASSWORD", SECRET)
    log = apply_config(read_config(path), path).log
    assert (log.where, log.writer, log.content) == ("postgresql://me@db.internal/log", "east-1", "redacted")
    assert (log.retention_days, log.when_unwritable) == (30.5, "block")
    assert log.place.url.password == SECRET
    path.write_text("log: {path: logs/decisions.db}\n")
    log = apply_config(read_config(path), path).log
    assert (log.where, log.when_unwritable) == (tmp_path / "logs" / "decisions.db", "stop_admission")
    path.write_text("mode: shadow\n")
    assert apply_config(read_config(path), path).log is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{path: a.db, url: postgresql://h/d}", "log: expected either `path` or `url`"),
        ("{url: mysql://h/d}", "log: decision log: mysql:// is not supported"),
        (f"{{url: 'postgresql://me:{SECRET}@h/d'}}", "log: decision log: the address holds a password"),
        ("{content: encrypted}", "log: public_key: `content: encrypted` and a public key need each other"),
        ("{content: some}", "log.content"),
        ("{when_unwritable: never}", "log.when_unwritable"),
        ("{retention_days: 0}", "log.retention_days"),
        ("{file: a.db}", "log.file: is not a known key"),
    ],
)
def test_a_wrong_log_section_is_said_clearly(tmp_path, section, message):
    path = tmp_path / "lockgate.yaml"
    path.write_text(f"log: {section}\n")
    with pytest.raises(ConfigError) as caught:
        apply_config(read_config(path), path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
