"""The client of `docs/checks.md` shows what is cleared, and the refusal of what is not."""

import re
import urllib.error
from pathlib import Path

import pytest
from checking import ANSWER, BACKBONE, HEAD, PROMPT, offline
from serving import NEVER, REFUSAL, scoring_for
from test_openai_client import live

from lockgate.decisions import LogOptions

PAGE = Path(__file__).parents[3] / "docs" / "checks.md"
PIECES = [f"{word} " for word in ANSWER.split()]


def client_of(url):
    """The functions of the page's client, for a server at `url`."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    [code] = [block for block in blocks if "def guarded" in block]
    assert "http://127.0.0.1:8000" in code
    names = {}
    exec(code.replace("http://127.0.0.1:8000", url), names)  # noqa: S102 - the page's own code
    return names


@pytest.mark.parametrize("above", [1e-3, -1e-3])
def test_it_shows_what_is_cleared_and_nothing_else(make_gateway, above):
    whole = "".join(PIECES)
    score = offline(scoring_for(BACKBONE, HEAD), whole)
    scoring = scoring_for(BACKBONE, HEAD, score.max_answer + above)
    flagged = offline(scoring, whole)
    with live(make_gateway(BACKBONE, scoring)) as url:
        *shown, last = client_of(url)["guarded"](PROMPT, PIECES)
    if above > 0:
        assert ("".join(shown), last) == (whole, "")
        assert len([piece for piece in shown if piece]) > 3
        return
    tokens = BACKBONE.chat.vocabulary.encode_answer_tokens(whole)
    assert last == REFUSAL
    assert whole.startswith("".join(shown))
    assert len("".join(shown)) <= sum(len(token.text) for token in tokens[: flagged.flag_token])


def test_an_error_raises(make_gateway):
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, NEVER), api_key="sesame")
    with live(gateway) as url, pytest.raises(urllib.error.HTTPError, match="401") as caught:
        list(client_of(url)["guarded"](PROMPT, PIECES))
    caught.value.close()


def test_the_page_names_the_limits_of_the_code():
    from lockgate.gateway import CheckOptions, GatewayOptions
    from lockgate.gateway.checks._decisions import FIELDS, LONGEST_TEXT
    from lockgate.gateway.checks._moderations import MAX_INPUTS
    from lockgate.gateway.checks._rounds import IDLE_SECONDS

    page, options = PAGE.read_text(), CheckOptions()
    assert f"| a call waits for the guard | {options.wait_timeout:g} s," in page
    assert f"| an open check rests | {options.idle_timeout:g} s," in page
    assert f"| open checks of a client | {options.open_per_client}," in page
    longest = GatewayOptions(LogOptions(Path("none"))).longest_prompt
    assert f"| prompt, or answer that comes whole | {longest:,} tokens," in page
    assert f"up to {LONGEST_TEXT:,} characters" in page
    assert f"up to {MAX_INPUTS} texts" in page
    assert f"for {IDLE_SECONDS:g} seconds counts as whole" in page
    section = page.partition("A call with `messages` alone")[2].partition("Any other field is a 400")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(FIELDS)
