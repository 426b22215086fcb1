"""README and documents: they are short, their figures follow from the results, links and code work."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from benchmarks import gateway, side_channel
from lockgate.calibration import required_n
from lockgate.constitution import lint_text
from lockgate.gateway.config import apply_config, read_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PICTURE = ROOT / "docs" / "images" / "halted-stream.png"
PLACES = ("*.md", "docs/*.md", "design/*.md", "recipes/*/README.md")
DOCUMENTS = sorted(path for place in PLACES for path in ROOT.glob(place))
LINK = re.compile(r"\[[^\]]+\]\((?![a-z]+:)([^)\s]+)\)")


def results(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def headings(path: Path) -> set[str]:
    """Anchors of a document's headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_readme_is_short_and_has_the_two_commands() -> None:
    assert len(README.splitlines()) <= 90
    assert "$ make serve " in README
    assert "$ make test " in README
    assert f"]({PICTURE.relative_to(ROOT)})" in README


def test_readmes_figures_follow_from_the_results() -> None:
    two_stage = results("embedded_guard")["two_stage"]
    found = two_stage["points"]["budget"]
    caught = found["sets"]["saferlhf_mini"]["two_stages"]
    assert f"At its budget of {two_stage['budget']:.2%}".replace("%", " %") in README
    rate = f"{caught['tpr']:.1%}".replace("%", " %")
    assert f"finds {rate} of {caught['n']} harmful exchanges of `saferlhf_mini`" in README
    others = found["benign"]["benign_test"]["two_stages"]
    flagged = round(others["rate"] * others["n"])
    rate = f"{others['rate']:.3%}".replace("%", " %")
    assert f"flags {flagged} of {others['n']} ({rate})" in README
    policy = results("synthesis")["policy"]
    assert f"reach a balanced accuracy of {policy['balanced_accuracy']:.3f}" in README
    assert f"lists reach {policy['keyword_balanced_accuracy']:.3f}" in README


def test_the_picture_is_a_small_png() -> None:
    content = PICTURE.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) < 200_000


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path) -> None:
    for target in LINK.findall(path.read_text()):
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), target
        assert not anchor or anchor in headings(place), target


def test_python_in_the_documents_compiles() -> None:
    found = [(path, code) for path in DOCUMENTS for code in blocks(path.read_text(), "python")]
    assert len(found) >= 4
    for path, code in found:
        compile(code, str(path), "exec")


def test_the_policy_in_the_documents_is_one() -> None:
    (policy,) = blocks((ROOT / "docs" / "own-policy.md").read_text(), "yaml")
    findings = lint_text(policy)
    assert not [finding for finding in findings if finding.level == "error"], findings


def test_the_table_of_sample_sizes_is_right() -> None:
    text = (ROOT / "docs" / "own-guard.md").read_text()
    rows = re.findall(r"^\| ([\d.]+) % \| ([\d,]+) \|$", text, re.MULTILINE)
    found = {float(share): int(count.replace(",", "")) for share, count in rows}
    assert found == {share: required_n(share / 100) for share in (1.0, 0.1, 0.05)}


def test_the_commit_hooks_run_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = [shlex.split(hook["entry"]) for hook in hooks[0]["hooks"]]
    run = [[word for word in entry if word != "--force-exclude"] for entry in entries]
    lines = (ROOT / "scripts" / "check").read_text().splitlines()
    wanted = [shlex.split(line) for line in lines if line.startswith(".venv/bin/")]
    assert run == [[word for word in line if word != "."] for line in wanted]


@pytest.fixture(scope="module")
def gather():
    spec = importlib.util.spec_from_file_location("gather", ROOT / "docs" / "gather.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_are_rewritten_for_the_site(gather) -> None:
    sources = gather.find_sources()

    def rewritten(text: str, page: str) -> str:
        return gather.rewrite_links(text, sources[page], page, sources)

    assert rewritten("[g](../design/gateway.md#why)", "serve.md") == "[g](design/gateway.md#why)"
    assert rewritten("[r](../docs/ray.md)", "design/synthesis.md") == "[r](../ray.md)"
    assert rewritten("[r](docs/ray.md)", "CONTRIBUTING.md") == "[r](ray.md)"
    assert rewritten("[the licence](LICENSE)", "CONTRIBUTING.md") == "the licence"
    outside = ("[n](nowhere.md)", "[w](https://example.org/a.md)", "[a](#words)")
    for same in (*outside, "![p](images/halted-stream.png)"):
        assert rewritten(same, "index.md") == same


def test_the_site_has_a_page_for_each_public_room(gather) -> None:
    rooms = gather.public_rooms()
    assert {"lockgate", "lockgate.guards", "lockgate.calibration", "lockgate.traffic"} <= set(rooms)
    assert all("._" not in room for room in rooms)
    navigation = gather.navigation([], gather.find_sources(), rooms)
    assert [page for entry in navigation[1]["API reference"] for page in entry] == rooms


def test_each_row_of_the_faults_has_a_test() -> None:
    rows = re.findall(
        r"^\|.*\| `(\w+\.py)::(\w+)` \|$", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 20
    for file, name in rows:
        (path,) = (ROOT / "tests" / "gateway").rglob(file)
        assert re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE)


def test_the_benchmark_holds_what_other_scripts_have_measured() -> None:
    found = results("gateway_bench")
    assert gateway.gathered(found) == found, "run python -m benchmarks.gateway --gather"


def test_the_speed_of_upstream_mode_is_what_was_measured() -> None:
    text, found = (ROOT / "docs" / "upstream.md").read_text(), results("gateway_bench")
    ratio, held = found["throughput_ratio"], found["guarded_streams_at_20_tokens_s"]
    lag = {number: found["guarded_chunk_ms"][str(number)]["p50"] / 1000 for number in (1, held)}
    for told in (
        f"{ratio['litellm']:.1f} times the tokens",
        f"{ratio['nemo']:.1f} times those",
        f"{found['added_ms']['chunk_p50']:.1f} ms later",
        f"{held} streams of 20 tokens",
        f"{lag[held]:.2f} s later then, and {lag[1]:.2f} s later with one",
        f"takes {100 * found['event_loop_share']:.0f} % of the processor time",
    ):
        assert told in text, told


def test_the_figures_of_the_kills_follow_from_the_results() -> None:
    text, found = (ROOT / "docs" / "decisions.md").read_text(), results("kills")["kills"]
    sqlite, postgres = found["sqlite"], found["postgres"]
    shown = " ".join(text.split())
    assert (
        f"On SQLite {sqlite['runs']} kills lost {sqlite['lost']} records of {sqlite['ended']:,} answers"
        in shown
    )
    assert f"PostgreSQL {postgres['runs']} kills lost {postgres['lost']} of {postgres['ended']:,}" in shown
    assert sqlite["broken"] == postgres["broken"] == 0
    parts = results("operate")["kills"]
    assert parts == {name: {key: own[key] for key in ("runs", "lost")} for name, own in found.items()}


def test_the_delays_of_the_alarm_are_what_was_simulated() -> None:
    text, found = (ROOT / "docs" / "budget.md").read_text(), results("operate")["sequential"]
    for times in {row["times_the_budget"] for row in found["delays"]}:
        cells = [f"{times:.0f} times the budget"]
        for row in found["delays"]:
            if row["times_the_budget"] == times:
                cells.append(f"{row['median']:,} ({row['p05']:,} to {row['p95']:,})")
        assert f"| {' | '.join(cells)} |" in text
    alarms = found["false_alarms"]
    assert f"{alarms['alarms']} of {alarms['runs']} runs of {alarms['exchanges']:,} exchanges" in text
    assert f"({100 * alarms['share_low']:.1f} % to {100 * alarms['share_high']:.1f} %)" in text


def test_what_pieces_tell_is_what_was_measured() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    table, *told = side_channel.words(results("side_channel"))
    assert table in text, "run python -m benchmarks.side_channel --show results/side_channel.json"
    shown = " ".join(text.split())
    for part in told:
        assert part in shown, part


def test_the_config_files_of_the_documents_are_valid(tmp_path, monkeypatch) -> None:
    path, found = tmp_path / "lockgate.yaml", []
    for example in blocks((ROOT / "docs" / "config.md").read_text(), "yaml"):
        for name in re.findall(r"\b[A-Z]+_KEY\b", example):
            monkeypatch.setenv(name, f"sk-{name}")
        path.write_text(example)
        found.append(apply_config(read_config(path), path))
    first, several = found
    assert first.policies is not None
    assert first.policies.open_routes == ["/v1/messages"]
    assert several.of_keys == {"school": "kids"}
