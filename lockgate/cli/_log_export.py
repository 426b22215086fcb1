"""Records of a decision log as files and as lines on a terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from lockgate.decisions import ContentReader, Kind, Stored, open_log
from lockgate.errors import ConfigError

_ROWS = 1000
# Seconds between looks for new records.
_LOOK = 0.5
_GUARDS: tuple[Kind, ...] = ("guard",)
_TOLD: tuple[Kind, ...] = ("decision", "guard")
_SHOWN = ("decision", "category", "mode", "completion_tokens", "total_ms")


def export_log(
    log: str,
    output: str,
    times: tuple[str | None, str | None],
    *,
    content: bool,
    key: Path | None,
    guards: bool = False,
) -> int:
    """Write the decisions of a log to a file, or with `guards` its changes of guard, and return how many.

    Raises:
        ConfigError: an option is not valid.
        DecisionLogError: the log can't be read, or the key is not the one for its texts.
        ExchangeError: the file's folder does not exist.
    """
    if key is not None and not content:
        raise ConfigError("--key: needs --content")
    if guards and (content or output.endswith(".parquet")):
        raise ConfigError("--guards: writes JSON lines; not with --content or Parquet")
    reader = ContentReader(None if key is None else read_key(key)) if content else None
    count, kinds = 0, _GUARDS if guards else _TOLD[:1]
    with open_log(log) as opened, _writing(output, content=content) as write:
        for stored in opened.records(kinds=kinds, since=times[0], until=times[1]):
            write(_row(stored, reader))
            count += 1
    return count


def tail_log(log: str, lines: int, *, follow: bool, as_json: bool) -> None:
    """Print the newest decisions of a log. Raises as `open_log` does."""
    with open_log(log) as opened:
        seen = opened.tips() if follow else {}
        _show(opened.last(lines, _TOLD), as_json=as_json)
        while follow:
            time.sleep(_LOOK)
            _show(opened.new(seen, _TOLD), as_json=as_json)


def _show(records: list[Stored], *, as_json: bool) -> None:
    for stored in records:
        record = stored.record
        if as_json:
            typer.echo(json.dumps(record, ensure_ascii=False))
            continue
        if stored.kind == "guard":
            before, after = (_guard(record.get(name)) for name in ("before", "after"))
            name = record.get("guard", "default")
            which = "guard" if name == "default" else f"guard {name}:"
            typer.echo(f"{record.get('time')}  {which} {before} -> {after}  by {record.get('by')}")
            continue
        decision, category, mode, tokens, took = (record.get(name) for name in _SHOWN)
        what = f"{decision} {category}" if category else str(decision)
        name = f"{record.get('id')}/{record.get('choice')}"
        typer.echo(f"{record.get('time')}  {name}  {what}  {mode}  {tokens} tokens  {took} ms")
    sys.stdout.flush()


def _guard(named: Any) -> str:  # noqa: ANN401 - JSON
    return f"{named['name']} ({named['sha256'][:12]}, {claim_of(named['budget'])})"


def claim_of(budget: float | None) -> str:
    """Say what a guard claims."""
    return "uncalibrated" if budget is None else f"budget {100 * budget:g} %"


def _row(stored: Stored, reader: ContentReader | None) -> dict[str, Any]:
    if reader is None:
        return stored.record
    row = {**stored.record, "content": stored.content_mode or "none"}
    if stored.content is None or stored.content_mode is None:
        return row
    text = reader.read(stored.content, stored.content_mode)
    if text is None:
        return row
    messages = [{"role": turn.role, "content": turn.content} for turn in text.messages]
    return {"messages": messages, **row}


@contextmanager
def _writing(output: str, *, content: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that writes a row. A file is there as a whole at the end, or not at all."""
    from lockgate.durable import atomic_path, open_atomic

    if output == "-":
        yield lambda row: typer.echo(json.dumps(row, ensure_ascii=False))
    elif output.endswith(".parquet"):
        with atomic_path(output) as part, _parquet(part, content=content) as write:
            yield write
    elif output.endswith(".jsonl"):
        with open_atomic(output) as file:
            yield lambda row: _write_line(file, row)
    else:
        raise ConfigError(f"--output {output}: expected a name that ends with .jsonl or .parquet, or -")


def _write_line(file: Any, row: dict[str, Any]) -> None:  # noqa: ANN401 - a binary file
    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _parquet(path: Path, *, content: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that writes a row with the fields of a decision, whatever the row leaves out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number, count, flag = pa.string(), pa.float64(), pa.int64(), pa.bool_()
    scores = pa.struct([(name, number) for name in ("max_prompt", "max_answer", "threshold", "mixed")])
    fields: list[tuple[str, Any]] = [
        *(("id", text), ("choice", count), ("time", text), ("mode", text), ("guard", text)),
        *(("decision", text), ("enforced", flag), ("finish_reason", text), ("category", text)),
        *(("token_index", count), ("scores", scores), ("prompt_tokens", count)),
        *(("completion_tokens", count), ("queue_ms", number), ("first_token_ms", number)),
        *(("total_ms", number), ("reason", text), ("fault", text), ("stage", count)),
        *(("verdicts", count), ("measure", text), ("unguarded", flag), ("lowered", number)),
        *(("tenant", text), ("key", text)),
    ]
    if content:
        turn = pa.struct([("role", text), ("content", text)])
        fields += [("content", text), ("messages", pa.list_(turn))]
    schema = pa.schema(fields)
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def write(row: dict[str, Any]) -> None:
            rows.append(row)
            if len(rows) == _ROWS:
                flush()

        yield write
        flush()


def read_key(path: Path) -> str:
    """Read the file with a private key. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key {path}: not readable ({type(error).__name__})") from None
