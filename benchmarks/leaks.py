"""Break the gateway in ways that would leak text, and see whether the tests notice each.

    python -m benchmarks.leaks [--only NAME] [--jobs N]

Every mutant is one change of one file, in a copy of the package. The tests of the gateway must fail on it. Writes the
mutants, and which of them were killed, to `results/gateway_leaks.json`.
"""

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "gateway_leaks.json"
GATEWAY = "lockgate/gateway"
UPSTREAM = f"{GATEWAY}/upstream"
RELAY, CHAT = f"{UPSTREAM}/_relay.py", f"{UPSTREAM}/_chat.py"
RESPONSES, MESSAGES = f"{UPSTREAM}/_responses_answer.py", f"{UPSTREAM}/_messages.py"
LITELLM = ("checks/test_litellm.py",)
ODD = ("test_odd_fields.py",)
# Seconds of the tests of one mutant. Alone, and without one, they take a minute.
LONGEST = 900
TESTS = ("test_relay.py", "test_relay_leaks.py", "test_given.py", "test_intake.py", "test_upstream_faults.py")


@dataclass(frozen=True)
class Mutant:
    """A change that would leak: in `file`, `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = TESTS


MUTANTS = (
    Mutant("a piece leaves before it is cleared", RELAY, "queued.end <= self._cleared[choice]", "True"),
    Mutant(
        "a piece leaves one character early",
        RELAY,
        "queued.end <= self._cleared[choice]",
        "queued.end - 1 <= self._cleared[choice]",
    ),
    Mutant("pieces leave after a halt", RELAY, "if queued.piece.choice != choice)", ")", (*TESTS, "test_relay_hangs.py")),
    Mutant("the wrong choice is scored", RELAY, "self._engine.give(self._job, choice, text)", "self._engine.give(self._job, 0, text)"),
    Mutant("an answer that was given up counts as cleared", RELAY, "if event.given_up:", "if False:"),
    Mutant("what closes a text is not scored", RELAY, "self._give(choice, self._transcript.leave(choice))", "pass"),
    Mutant("arguments of tools are not scored", CHAT, 'if key == "tool_calls":', 'if key == "tool_calls" and False:\n                pass\n            elif key == "tool_calls":\n                continue\n            elif False:'),
    Mutant("unknown fields are not scored", CHAT, "elif key not in _PLAIN:", 'elif key == "content":'),
    Mutant("log-probabilities are not scored", CHAT, "not _repeats(logprobs, content)", "False"),
    Mutant("unknown fields beside the choices are not scored", CHAT, "text_beside(chunk, _CHUNK_FIELDS)", '""', ODD),
    Mutant("a body leaves in spite of a flag", f"{GATEWAY}/upstream/_answer.py", "if not stopped:", "if True:"),
    Mutant("the upstream is asked in spite of a flagged prompt", f"{GATEWAY}/upstream/_answer.py", "if first is not None and not self._leaves_unguarded(first):", "if False:"),
    Mutant("holds are ignored", f"{GATEWAY}/_given.py", "if _receives(stream) and self._is_due(stream):", "if False:"),
    Mutant("the tail leaves unseen", f"{GATEWAY}/_given.py", "lane.gate.would_clear(rows)", "True"),
    Mutant("the tail's flag is ignored", f"{GATEWAY}/_stream.py", "return not state.flagged and state.due is None and", "return state.flagged or state.due is None and"),
    Mutant("the tail's hold is ignored", f"{GATEWAY}/_stream.py", "return not state.flagged and state.due is None and state.released >=", "return not state.flagged and 10**9 >="),
    Mutant("a missing verdict is a pass", f"{GATEWAY}/_stepper.py", "raise VerdictFault(error)", "out = gate.give_up(error or '')"),
    Mutant("a missing score is a pass", f"{GATEWAY}/_stepper.py", "raise ScoringFault(NO_SCORE)", "return np.zeros((tokens, 1), np.float32)"),
    Mutant("an end that comes during a step cuts off the last word", f"{GATEWAY}/_intake.py", "self._tokeniser.rest)", "self._tokeniser.unsettled)"),
    Mutant("the last word is not scored", "lockgate/backbones/_vocabulary.py", "return self._take(len(self._tail))", "self._tail = ''\n            return []"),
    Mutant(
        "events of a job that is over are delivered",
        f"{GATEWAY}/_engine.py",
        "if not (stream.done or job.cancelled):",
        "if True:",
        ("test_engine.py",),
    ),
    Mutant("a flag is lost if its answer is given up", f"{GATEWAY}/_records.py", "if stream.flagged_at is not None and job.enforced:", "if False:", ("test_given_up.py",)),
    Mutant("held text is told for another choice", f"{GATEWAY}/checks/_litellm.py", "[next(read) if text else Outcome(None) for text in shown.texts]", "list(read)", LITELLM),
    Mutant("a tool call of another shape is not read", f"{GATEWAY}/checks/_litellm.py", "return _plain(call)", 'return ""', LITELLM),
    Mutant("a message beside a delta is not scored", CHAT, "{*_CHOICE_FIELDS, own}", '{*_CHOICE_FIELDS, "delta", "message"}', ODD),
    Mutant("what a tool call holds beside its function is not scored", CHAT, "arguments += text_beside(call,", "text_beside(call,", ODD),
    Mutant("what log-probabilities hold beside their tokens is not scored", f"{UPSTREAM}/_script.py", "set(entry) - _ENTRY_FIELDS or ", "", ODD),
    Mutant("the bytes of log-probabilities are not compared", f"{UPSTREAM}/_script.py", 'if entry.get("bytes") not in (None, list(text_of(entry.get("token")).encode())):', "if False:", ODD),
    Mutant("texts beside the choices are left in a stopped answer", CHAT, "for key in whole if key in _CHUNK_FIELDS", "for key in whole", ODD),
    Mutant("the input of a whole custom tool call is not scored", RESPONSES, "requested = requested and place == response", "pass", ODD),
    Mutant("texts beside the output are left in a stopped response", RESPONSES, "for key in body if not any(", "for key in body or any(", ODD),
    Mutant("what a message's event holds beside its part is not scored", MESSAGES, "text += self._more(body, _EVENTS)", "pass", ODD),
    Mutant("what a message's block holds beside its text is not scored", MESSAGES, "return text + self._more(block, _BLOCKS)", "return text", ODD),
    Mutant("texts beside the content are left in a stopped message", MESSAGES, "for key in whole if key in _BODY_FIELDS", "for key in whole", ODD),
    Mutant("long names of fields are not scored", f"{UPSTREAM}/_script.py", '(name if len(name) > LONGEST_NAME else "") + ', "", ODD),
    Mutant("a field that is named twice leaves twice", f"{UPSTREAM}/_answer.py", "if names_twice(raw)", "if False", ODD),
    Mutant("an answer that breaks off looks whole", RELAY, "if event.given_up:", 'if event.decision == "cancelled":', ("test_given_up.py",)),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="try this mutant alone, and put its end into the file")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at a time")
    arguments = parser.parse_args()
    tried = [mutant for mutant in MUTANTS if arguments.only in (None, mutant.name)]
    if not tried:
        sys.exit(f"--only {arguments.only}: expected one of {', '.join(mutant.name for mutant in MUTANTS)}")
    with ExitStack() as stack:
        copies: queue.Queue[Path] = queue.Queue()
        for _ in range(arguments.jobs):
            copies.put(stack.enter_context(package_copy()))
        if (
            run_tests(copies.queue[0], tuple(sorted({test for mutant in tried for test in mutant.tests})))
            != "pass"
        ):
            sys.exit("the tests fail without any mutant; mend that first")
        with ThreadPoolExecutor(arguments.jobs) as pool:
            found = list(pool.map(lambda mutant: try_mutant(mutant, copies), tried))
    rows = [
        {"name": mutant.name, "file": mutant.file, "tests": end}
        for mutant, end in zip(tried, found, strict=True)
    ]
    if arguments.only is not None:
        before = json.loads(RESULT.read_text())["mutants"]
        rows = [rows[0] if row["name"] == arguments.only else row for row in before]
    killed = sum(row["tests"] != "pass" for row in rows)
    print(f"{killed} of {len(rows)} killed")
    content = {"command": "python -m benchmarks.leaks", "tried": len(rows), "killed": killed, "mutants": rows}
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(killed < len(rows))


@contextmanager
def package_copy() -> Iterator[Path]:
    """Yield a folder with a copy of the package and its tests."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("lockgate", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield Path(folder)


def try_mutant(mutant: Mutant, copies: "queue.Queue[Path]") -> str:
    """Apply a mutant to a copy, run its tests, and take it back. Return how they end."""
    copy = copies.get()
    path = copy / mutant.file
    original = path.read_text()
    if mutant.old not in original:
        sys.exit(f"{mutant.name}: {mutant.file} does not hold the text to change; update the mutant")
    path.write_text(original.replace(mutant.old, mutant.new))
    try:
        end = run_tests(copy, mutant.tests)
    finally:
        path.write_text(original)
        copies.put(copy)
    print(f"{'ALIVE ' if end == 'pass' else end:5} {mutant.name}", flush=True)
    return end


def run_tests(copy: Path, tests: tuple[str, ...]) -> str:
    """Run tests of the gateway against a copy. Return how they end: "pass", "fail" or "hang"."""
    paths = [f"tests/gateway/{test}" for test in tests]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *paths]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return "hang"
    return "fail" if done.returncode else "pass"


if __name__ == "__main__":
    main()
