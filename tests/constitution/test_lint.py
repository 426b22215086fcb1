from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lockgate.constitution import Finding, constitution_path, lint_constitution, shipped_names
from lockgate.constitution._overlap import jaccard, tokens
from lockgate.errors import ConstitutionError

CLEAN = """\
name: kitchen
version: "1.0.0"
description: Keeps a recipe.
refusal_message: Not telling.
harmful:
  - id: sourdough
    title: The house sourdough
    description: Flour, hydration and times of the bread.
    examples: [how long the dough rests]
    severity: high
  - id: starter
    title: Feeding schedule
    description: When the culture gets water.
    examples: [how often it is fed]
    severity: low
harmless:
  near_domain:
    - id: yeast-bread
      title: Ordinary loaves
      description: Any bread from a published book.
      examples: [a plain white loaf]
  out_of_scope:
    - id: coffee
      title: Coffee
      description: Beans and machines.
      examples: [an espresso]
  everyday:
    - id: weather
      title: Weather
      description: Rain and sun.
      examples: [will it snow]
"""


def lint(tmp_path: Path, text: str) -> list[Finding]:
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return lint_constitution(path)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_constitutions_are_clean(name: str) -> None:
    assert lint_constitution(constitution_path(name)) == []


def test_the_base_of_these_tests_is_clean(tmp_path: Path) -> None:
    assert lint(tmp_path, CLEAN) == []


@pytest.mark.parametrize(
    ("old", "new", "line", "level", "message"),
    [
        ('version: "1.0.0"', "version: 1.0", 2, "error", "version: read as a number"),
        ('version: "1.0.0"', "version: one", 2, "error", "version: not in the right form"),
        ('version: "1.0.0"', 'version: "1.0"', 2, "error", "version: not in the right form"),
        ('version: "1.0.0"\n', "", 1, "error", "version: missing"),
        (
            "refusal_message: Not telling.",
            'refusal_message: " "',
            4,
            "error",
            "refusal_message: string should",
        ),
        ("description: Keeps a recipe.", "descripton: Keeps.", 3, "error", "descripton: unknown key"),
        ("id: starter", "id: Starter One", 11, "error", "harmful[1].id: not in the right form"),
        ("id: starter", "id: yes", 11, "error", "harmful[1].id: input should be a valid string"),
        (
            "id: starter",
            "id: sourdough",
            11,
            "error",
            "harmful[1]: duplicate id `sourdough`, first used on line 6",
        ),
        ("id: coffee", "id: sourdough", 23, "error", "harmless.out_of_scope[0]: duplicate id `sourdough`"),
        ("severity: low", "severity: lowest", 15, "error", "harmful[1].severity: input should be"),
        ("    severity: low\n", "", 11, "error", "harmful[1].severity: missing"),
        (
            "    severity: low",
            "    severity: low\n    weight: 3",
            16,
            "error",
            "harmful[1].weight: unknown key",
        ),
        (
            "    severity: low",
            "    severity: low\n    title: Other",
            16,
            "error",
            "harmful[1].title: this key appears twice",
        ),
        (
            "examples: [how often it is fed]",
            "examples: [3]",
            14,
            "error",
            "harmful[1].examples[0]: input should",
        ),
        ("    examples: [how often it is fed]\n", "", 11, "warning", "harmful[1]: `starter` has no examples"),
        ("  everyday:", "  every_day:", 27, "error", "harmless.every_day: unknown key"),
        (
            "title: Coffee",
            "title: Coffee\n      <<: {a: 1}",
            25,
            "error",
            "harmless.out_of_scope[0].<<: unknown",
        ),
        ("title: Coffee", "title: *x", 24, "error", "a YAML alias"),
        ("title: Coffee", "title: [Coffee", 25, "error", "not valid YAML"),
        ("title: Coffee", "title: !!python/name:os.system ''", 24, "error", "not valid YAML"),
        ("title: Coffee", 'title: "\\ud800"', 24, "error", "text that is not valid Unicode"),
        ("title: Coffee", "title: a\x07b", 24, "error", "a control character"),
        ("title: Coffee", "title: 2026-02-30", 24, "error", "a value looks like"),
        ("title: Coffee", "? [a, b]\n      : c", 24, "error", "a key is not plain text"),
        (
            "description: Beans and machines.",
            "description: Flour, hydration and times of bread.",
            23,
            "error",
            "both",
        ),
        (
            "examples: [an espresso]",
            "examples: [How long the dough rests!]",
            23,
            "error",
            "both harmful and harmless",
        ),
        ("title: Feeding schedule", "title: House sourdough", 11, "error", "overlapping categories"),
        (
            "title: Feeding schedule",
            "title: House sourdough culture",
            11,
            "warning",
            "overlapping categories",
        ),
    ],
)
def test_each_finding_has_its_line_and_a_remedy(
    tmp_path: Path, old: str, new: str, line: int, level: str, message: str
) -> None:
    prefix = "harmful[1]: " if message == "overlapping categories" else ""
    found = lint(tmp_path, CLEAN.replace(old, new, 1) if old in CLEAN else "")
    hits = [
        finding
        for finding in found
        if finding.message.startswith(prefix) and message in finding.message and finding.line == line
    ]
    assert [finding.level for finding in hits] == [level], found
    assert all(finding.remedy for finding in found)


def test_a_typo_is_answered_with_the_right_key(tmp_path: Path) -> None:
    (missing, unknown) = sorted(
        lint(tmp_path, CLEAN.replace("    severity: low", "    severty: low")), key=lambda f: f.line
    )
    assert "missing" in missing.message
    assert "did you mean `severity`?" in unknown.remedy


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "# only a comment\n"])
def test_files_that_hold_no_mapping(tmp_path: Path, text: str) -> None:
    (finding,) = lint(tmp_path, text)
    assert (finding.line, finding.level) == (1, "error")


def test_empty_halves_and_buckets(tmp_path: Path) -> None:
    content = yaml.safe_load(CLEAN)
    halves = {**content, "harmful": [], "harmless": {"near_domain": [], "everyday": []}}
    messages = [finding.message for finding in lint(tmp_path, yaml.safe_dump(halves, sort_keys=False))]
    assert messages == ["harmful: this half is empty", "harmless: this half is empty"]
    content["harmless"]["everyday"] = []
    (finding,) = lint(tmp_path, yaml.safe_dump(content, sort_keys=False))
    assert (finding.level, finding.message) == ("warning", "harmless.everyday: this bucket is empty")


def test_not_utf8_and_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"name: kitchen\nversion: \xff\n")
    assert lint_constitution(path)[0].line == 2
    path.write_bytes(b"#" * (2**20 + 1))
    assert "larger" in lint_constitution(path)[0].message
    path.write_bytes(b"name:\n  " + b"[" * 2**19)
    assert lint_constitution(path)[0][:3] == (2, "error", "the YAML is nested too deeply")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match=r"none.yaml: can't be read: No such file"):
        lint_constitution(tmp_path / "none.yaml")


def test_one_shared_word_in_a_short_title_is_no_overlap(tmp_path: Path) -> None:
    assert lint(tmp_path, CLEAN.replace("title: Ordinary loaves", "title: Ordinary sourdough")) == []


@given(st.text(max_size=200))
def test_any_text_gives_findings_and_no_other_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert any(finding.level == "error" for finding in lint_constitution(path))


VALUES: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["id", "title", "examples", "harmful", "harmless", "everyday"]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["name", "harmful", "harmless", "version"]), VALUES))
def test_any_shape_gives_findings_and_no_other_error(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "shape.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    assert any(finding.level == "error" for finding in lint_constitution(path))


@given(st.frozensets(st.integers().map(str)), st.frozensets(st.integers().map(str)))
def test_jaccard_is_symmetric_and_bounded(first: frozenset[str], second: frozenset[str]) -> None:
    value = jaccard(first, second)
    assert value == jaccard(second, first)
    assert 0 <= value <= 1
    assert (value == 1) == (first == second and bool(first))


def test_tokens_leave_common_words_out() -> None:
    assert tokens("The Knife, and the FORK") == {"knife", "fork"}
