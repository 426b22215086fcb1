"""What is kept of texts: redaction finds what has a form, sealed texts open with one key alone."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import checked, decision, opened_log, text_of_log

from lockgate.decisions import Content, ContentKeeper, ContentReader, LogOptions, Turn, make_keys, open_log
from lockgate.decisions._redact import redact
from lockgate.errors import ConfigError, DecisionLogError

texts = st.text(max_size=60)
contents = st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), texts), max_size=4).map(
    lambda turns: Content(tuple(turns))
)
PUBLIC, PRIVATE = make_keys()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("write to me.too+x@mail.example.co.uk now", "write to [email] now"),
        ("call +49 (0)30 1234567 or 555-867-5309x", "call [phone] or [phone]x"),
        ("card 4111 1111 1111 1111, thanks", "card [card], thanks"),
        ("my key is sk-proj-abcdefghijkl1234567890", "my key is [key]"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "[key]"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("password: hunter2!", "password: [key]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF", "[key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----", "[key]"),
        ("pay to DE89 3704 0044 0532 0130 00 please", "pay to [iban] please"),
        ("from 192.168.0.17 at noon", "from [ip] at noon"),
        ("f47ac10b58cc4372a5670e02b2c3d479", "[key]"),
        ("why does the lock hold 3 boats in 1994?", "why does the lock hold 3 boats in 1994?"),
        ("the token ring and the secret garden", "the token ring and the secret garden"),
        ("version 1.2.3 of 2026-01-31", "version 1.2.3 of [phone]"),
    ],
)
def test_what_has_a_form_is_replaced(given, expected):
    assert redact(given) == expected


@given(
    st.text(max_size=200), st.sampled_from(["a@example.org", "4111111111111111", "sk-abcdefghijklmnop1234"])
)
def test_a_secret_is_replaced_wherever_it_stands(text, secret):
    assert secret not in redact(f"{text} {secret} {text}")


@given(st.text(max_size=200))
def test_redaction_is_done_at_once(text):
    once = redact(text)
    assert redact(once) == once or len(redact(once)) <= len(once) + 8


@pytest.mark.parametrize(
    "piece", ["a", "1 ", "-", "a@", "a.", "+1(", "eyJ", "1.", "password ", "AB12 ", "=", "token:"]
)
def test_long_texts_take_no_long_time(piece):
    begun = time.process_time()
    redact(piece * (200_000 // len(piece)))
    assert time.process_time() - begun < 5


@given(contents)
def test_texts_come_back(content):
    for mode, key, private in (("full", None, None), ("encrypted", PUBLIC, PRIVATE)):
        kept, named = ContentKeeper(mode, key).keep(content)
        assert named == mode
        assert ContentReader(private).read(kept, named) == content
    assert ContentKeeper().keep(content) == (None, None)


def test_a_sealed_text_says_nothing_without_its_key():
    kept, mode = ContentKeeper("encrypted", PUBLIC).keep(Content((Turn("user", "orchard"),)))
    assert b"orchard" not in kept
    assert ContentReader().read(kept, mode) is None
    with pytest.raises(DecisionLogError, match="does not open with this key"):
        ContentReader(make_keys()[1]).read(kept, mode)
    with pytest.raises(DecisionLogError, match="does not open"):
        ContentReader(PRIVATE).read(kept[:-1], mode)
    again, _ = ContentKeeper("encrypted", PUBLIC).keep(Content((Turn("user", "orchard"),)))
    assert again != kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"content": "encrypted"}, "need each other"),
        ({"public_key": PUBLIC}, "need each other"),
        ({"content": "encrypted", "public_key": PRIVATE}, "is a private key"),
        ({"content": "encrypted", "public_key": "lgpub_abc"}, "lockgate log keygen"),
        ({"content": "encrypted", "public_key": PUBLIC[6:]}, "lockgate log keygen"),
        ({"content": "some"}, "expected one of none, redacted"),
        ({"retention_days": 0}, "retention_days"),
        ({"when_unwritable": "go on"}, "stop_admission, degrade, block"),
        ({"patience": 0}, "patience"),
    ],
)
def test_bad_options_are_errors(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LogOptions(tmp_path / "d.db", **options)
    assert PRIVATE not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://me@host/log", "mysql:// is not supported"),
        ("logs/decisions.jsonl", "give a name such as decisions.db"),
        ("sqlite:///log.db", "give the path"),
        ("postgresql://me:sesame@host/log", "LOCKGATE_LOG_PASSWORD"),
        ("postgresql://host/log?password=sesame", "LOCKGATE_LOG_PASSWORD"),
        ("postgresql://host:port/log", "expected a path"),
    ],
)
def test_bad_places_are_errors_without_secrets(where, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LogOptions(where)
    assert "sesame" not in str(caught.value)


def test_a_password_comes_from_the_environment_and_is_never_shown(monkeypatch):
    variable, secret = "MY_SECRET", "sesame"
    monkeypatch.setenv(variable, secret)
    options = LogOptions("postgresql://me@host:5433/log?sslmode=require", password_env=variable)
    assert options.place.url.password == secret
    assert str(options.place) == "postgresql://me@host:5433/log"
    assert secret not in repr(options.place) + repr(options)


def test_a_purged_text_is_gone_from_the_file(tmp_path):
    from lockgate.decisions import purge_log

    path = tmp_path / "decisions.db"
    log = opened_log(path, content="full")
    log.write(decision(0), Content((Turn("user", "orchard " * 50),)))
    log.close()
    assert "orchard" in text_of_log(path)
    purge_log(path, "2999-01-01T00:00:00.000Z", "me", shrink=True)
    assert "orchard" not in text_of_log(path)
    checked(path)


def test_an_edited_text_breaks_the_chain(tmp_path):
    import sqlite3

    path = tmp_path / "decisions.db"
    log = opened_log(path, content="full", writer="me")
    log.write(decision(0), Content((Turn("user", "orchard"),)))
    log.close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE entries SET content = CAST(replace(content, 'orchard', 'meadows') AS BLOB)"
        )
    connection.close()
    with open_log(path) as opened:
        assert [found.seq for found in opened.verify().breaks] == [1]


def test_texts_wait_in_the_form_in_which_they_are_kept(tmp_path):
    """A spill file holds no more than the database would."""
    import sqlite3

    path = tmp_path / "decisions.db"
    log = opened_log(path, content="encrypted", public_key=PUBLIC, patience=0.1)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    import threading

    told = threading.Event()
    log.write(decision(0), Content((Turn("user", "orchard"),)), lambda kept: told.set())
    assert told.wait(30)
    [spill] = tmp_path.glob("*.spill.*")
    assert spill.read_bytes()
    assert b"orchard" not in spill.read_bytes()
    connection.execute("ROLLBACK")
    connection.close()
    log.close()
    with open_log(path) as opened:
        [stored] = opened.records()
    assert ContentReader(PRIVATE).read(stored.content, stored.content_mode).messages[0].content == "orchard"
