"""What a running campaign shows."""

from io import StringIO

from rich.console import Console

from lockgate.cli._redteam_live import Board, summary
from lockgate.redteam import Campaign, Row


def row(*, halted: bool = False, success: bool = False, failed: str | None = None, tokens: int = 10) -> Row:
    return Row(
        "v", "plain", "plain", "q", 0, 0, twin=False, halted=halted, failed=failed, tokens=tokens,
        success=success, topics=(), needed=2, full=4.0, refused=False, facts={}, billed=(1_000_000, 500_000),
    )  # fmt: skip


CAMPAIGN = Campaign.model_validate(
    {
        "name": "shown",
        "variants": {
            "none": {},
            "live": {
                "endpoint": {
                    "base_url": "http://127.0.0.1:9/v1",
                    "model": "m",
                    "prices": {"prompt": 2.0, "completion": 6.0},
                }
            },
        },
    }
)


def test_each_variant_has_its_counts_and_what_it_cost() -> None:
    board = Board(CAMPAIGN)
    board.add("none", row(success=True))
    board.add("live", row(halted=True))
    board.add("live", row(failed="timeout", tokens=7))
    assert board.cells() == [
        ("none", "1", "0", "1", "0", "10", "-"),
        ("live", "2", "1", "0", "1", "17", "10.0000"),  # twice a million at 2 and half a million at 6
    ]
    assert summary(board.tallies) == "1 halted, 1 successes, 27 tokens"


def test_the_table_of_a_terminal_shows_every_variant_and_the_time() -> None:
    times = iter([5.0, 68.0])
    console = Console(width=100, record=True, file=StringIO())
    board = Board(CAMPAIGN, now=lambda: next(times))
    console.print(board.table())
    text = console.export_text()
    assert "63 s" in text
    assert all(name in text for name in ("none", "live", "successes", "cost"))
