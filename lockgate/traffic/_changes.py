"""The file of the records that a replay changes."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lockgate.durable import open_atomic
from lockgate.exchanges import read_exchanges
from lockgate.traffic._recorded import lines_of
from lockgate.traffic._replayed import Replay, describe_change


def write_changes(found: Replay, output: Path) -> int:
    """Write the records that changed, as JSON lines that only their owner can read. Return their number.

    An exchange has `meta.replay` with what changed, a line of a decision log has `replay`. The file holds
    text only if the input does.

    Raises:
        ExchangeError: a file can't be read any more, or the folder does not exist.
    """
    wanted = {(change.file, change.row): change for change in found.changes}
    count = 0
    with open_atomic(output) as sink:
        os.fchmod(sink.fileno(), 0o600)
        for number, path in enumerate(found.files):
            for row, record in _records_of(found, path):
                change = wanted.get((number, row))
                if change is None:
                    continue
                made, facts = record(), describe_change(change, found.files)
                if found.kind == "traffic":
                    made["meta"] = {**made.get("meta", {}), "replay": facts}
                else:
                    made["replay"] = facts
                sink.write(json.dumps(made, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                count += 1
    return count


def _records_of(found: Replay, path: Path) -> Iterator[tuple[int, Callable[[], Any]]]:
    if found.kind == "decisions":
        yield from lines_of(path)
        return
    for row, exchange in enumerate(read_exchanges(path, skip_invalid=found.skip_invalid), 1):
        yield row, exchange.to_dict
