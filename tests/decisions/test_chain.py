"""Any change of entries is found: edits, removals, swaps, insertions."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.decisions._chain import NOTHING, Break, Draft, Entry, Tip, begin, check, extend, link

AT = "2026-01-31T12:00:00.000Z"
texts = st.text(max_size=12)
drafts = st.builds(
    Draft,
    kind=st.sampled_from(["start", "decision", "lost"]),
    at=texts,
    body=texts,
    exchange=st.none() | texts,
    choice=st.none() | st.integers(0, 3),
    content=st.none() | st.binary(max_size=8),
    content_mode=st.none() | st.sampled_from(["full", "redacted"]),
)


def chains_of(parts: list[list[Draft]], ends: bool = True) -> tuple[list[Entry], dict[str, str]]:
    """One writer's chains, each of which names the one before."""
    entries: list[Entry] = []
    before: Tip | None = None
    for number, part in enumerate(parts):
        genesis = begin(f"chain-{number}", AT, "me", "1", before)
        ended = [*part, Draft("end", AT, "{}")] if ends else part
        chain = [genesis, *extend(genesis.tip, ended)]
        entries += chain
        before = chain[-1].tip
    return entries, {f"chain-{number}": "me" for number in range(len(parts))}


made = st.lists(st.lists(drafts, max_size=3), min_size=1, max_size=3)


@given(made, st.booleans())
def test_whole_chains_hold(parts, ends):
    entries, writers = chains_of(parts, ends)
    assert check(entries, writers) == []
    assert check(entries, writers, [entry.tip for entry in entries]) == []


@given(made, st.data())
def test_an_edit_of_any_column_is_found(parts, data):
    entries, writers = chains_of(parts)
    at = data.draw(st.integers(0, len(entries) - 1))
    old = entries[at]
    field = data.draw(
        st.sampled_from(["kind", "at", "body", "exchange", "choice", "content", "content_mode"])
    )
    new = data.draw(
        {
            "kind": st.sampled_from(["start", "decision", "end"]),
            "choice": st.none() | st.integers(0, 9),
            "content": st.none() | st.binary(max_size=8),
            "body": texts,
            "at": texts,
        }.get(field, st.none() | texts)
    )
    draft = replace(old.draft, **{field: new})
    if draft == old.draft:
        return
    entries[at] = replace(old, draft=draft)
    [found] = [found for found in check(entries, writers) if found.chain == old.chain]
    assert found.seq <= old.seq


def test_no_two_drafts_share_a_hash():
    """What is missing and what is empty are different things."""
    plain = Draft("decision", "now", "{}")
    others = [
        replace(plain, exchange=""),
        replace(plain, choice=0),
        replace(plain, content=b""),
        replace(plain, content_mode=""),
    ]
    assert len({link(NOTHING, "chain", 1, draft) for draft in [plain, *others]}) == 5


@given(made, st.data())
def test_a_rewritten_entry_with_a_fitting_hash_breaks_the_next(parts, data):
    entries, writers = chains_of(parts)
    at = data.draw(st.integers(0, len(entries) - 1))
    old, heads = entries[at], [entry.tip for entry in entries]
    draft = replace(old.draft, body=old.draft.body + " ")
    previous = entries[at - 1].hash if old.seq else NOTHING
    entries[at] = replace(old, draft=draft, hash=link(previous, old.chain, old.seq, draft))
    assert check(entries, writers, heads) != []
    # Without heads that were kept elsewhere, the newest entry of all can be rewritten.
    assert (check(entries, writers) != []) == (at < len(entries) - 1)


@given(made, st.data())
def test_a_removal_is_found(parts, data):
    entries, writers = chains_of(parts)
    heads = [entries[-1].tip]
    first = data.draw(st.integers(0, len(entries) - 1))
    last = data.draw(st.integers(first, len(entries) - 1))
    left = entries[:first] + entries[last + 1 :]
    assert check(left, writers, heads) != []
    if last < len(entries) - 1:
        assert check(left, writers) != []


@given(made, st.data())
def test_a_swap_is_found(parts, data):
    entries, writers = chains_of(parts)
    one = data.draw(st.integers(0, len(entries) - 1))
    two = data.draw(st.integers(0, len(entries) - 1))
    if entries[one].draft == entries[two].draft:
        return
    swapped = list(entries)
    swapped[one] = replace(entries[one], draft=entries[two].draft)
    swapped[two] = replace(entries[two], draft=entries[one].draft)
    assert check(swapped, writers) != []
    # Each with its hash.
    swapped[one] = replace(entries[two], chain=entries[one].chain, seq=entries[one].seq)
    swapped[two] = replace(entries[one], chain=entries[two].chain, seq=entries[two].seq)
    assert check(swapped, writers) != []


@given(made, drafts, st.data())
def test_an_insertion_is_found(parts, draft, data):
    entries, writers = chains_of(parts)
    at = data.draw(st.integers(0, len(entries) - 1))
    behind = entries[at]
    [new] = extend(behind.tip, [draft])
    moved = [
        replace(entry, seq=entry.seq + 1) if entry.chain == behind.chain and entry.seq > behind.seq else entry
        for entry in entries
    ]
    found = check([*moved, new], writers)
    assert found != []
    assert (found[0].chain, found[0].seq - behind.seq) in {(behind.chain, 1), (behind.chain, 2)}


def test_a_break_says_where():
    entries, writers = chains_of([[Draft("decision", AT, "{}") for _ in range(3)]])
    entries[2] = replace(entries[2], draft=replace(entries[2].draft, body="[]"))
    [found] = check(entries, writers)
    assert found == Break("me", "chain-0", 2, "the hash is not that of this entry behind the one before it")
    assert str(found).startswith("writer me, chain chain-0, entry 2: ")


def test_a_chain_that_was_purged_goes_on_from_the_hash_that_the_purge_names():
    entries, writers = chains_of([[Draft("decision", AT, str(number)) for number in range(4)], []])
    old, rest = entries[:3], entries[3:]
    named = {"chain": "chain-0", "seq": 2, "hash": old[-1].hash, "ended": False}
    genesis = begin("chain-9", AT, "me", "1", None)
    purge = extend(genesis.tip, [Draft("purge", AT, json.dumps({"removed": [named]}))])
    writers["chain-9"] = "me"
    assert check([*rest, genesis, *purge], writers, [entry.tip for entry in old]) == []
    assert "no purge names" in check(rest, writers)[0].what
    wrong = json.dumps({"removed": [{**named, "hash": NOTHING}]})
    purge = extend(genesis.tip, [Draft("purge", AT, wrong)])
    assert check([*rest, genesis, *purge], writers)[0].seq == 3
    # One entry more than the purge says.
    purge = extend(genesis.tip, [Draft("purge", AT, json.dumps({"removed": [named]}))])
    assert check([*rest[1:], genesis, *purge], writers)[0].seq == 4


@pytest.mark.parametrize(
    ("body", "kind"),
    [("[]", "genesis"), ("{", "genesis"), ('{"previous": 3}', "genesis"), ('{"removed": 1}', "purge")],
)
def test_a_root_that_can_not_be_read_is_a_break(body, kind):
    entries, writers = chains_of([[]], ends=False)
    found = check([*entries, *extend(entries[-1].tip, [Draft(kind, AT, body)])], writers)
    assert found[0].seq == 1


def test_the_writer_of_a_chain_can_not_be_exchanged():
    entries, writers = chains_of([[], []])
    [found] = check(entries, {**writers, "chain-1": "another"})
    assert (found.writer, found.what) == ("another", "its chain is that of me")
