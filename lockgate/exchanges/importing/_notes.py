"""Remarks on an import: what looks wrong, and what to do about it."""

from collections.abc import Iterator

from lockgate.constitution import DataMapping
from lockgate.exchanges.importing._report import Tally
from lockgate.exchanges.importing._source import Source

_MANY = 0.1


def make_notes(
    tally: Tally, source: Source, mapping: DataMapping, *, limited: bool, sides: bool
) -> tuple[str, ...]:
    """Write remarks on the counts of an import, each with what to do.

    Args:
        tally: the counts.
        source: the data set.
        mapping: the mapping that was used.
        limited: whether the import stopped before the end.
        sides: whether the rows are preferences.
    """
    notes = [*_about_rows(tally, source, limited), *_about_labels(tally, mapping)]
    if sides and mapping.label is not None and mapping.label.sides is None:
        notes.append(
            "the chosen and rejected answers of a row got the same label; give `label.sides` if only one "
            "of them is harmful"
        )
    if tally.prompts:
        notes.append(
            f"{tally.prompts} exchanges have no answer: they are prompts, and can't train or calibrate a "
            "guard that judges answers"
        )
    return tuple(notes)


def _about_rows(tally: Tally, source: Source, limited: bool) -> Iterator[str]:
    rejected = sum(tally.rejected.values())
    if rejected > _MANY * tally.rows:
        yield f"{rejected} of {tally.rows} rows rejected: look at the reasons before you use the rest"
    if limited:
        yield "stopped at the limit; more rows may follow"
        return
    for split, expected in source.expected.items():
        read = tally.by_split.get(split)
        if read is not None and read != expected:
            yield (
                f"split {split}: {read} rows read, but its metadata say {expected}; fetch it again, unless "
                "somebody filtered it"
            )


def _about_labels(tally: Tally, mapping: DataMapping) -> Iterator[str]:
    if tally.unmapped.total:
        done = "left out" if mapping.unmapped == "skip" else "kept without one"
        if mapping.default_category is not None:
            done = f"kept as {mapping.default_category}"
        many = "some" if tally.unmapped.hidden else len(tally.unmapped.counts)
        yield (
            f"{many} categories (named {tally.unmapped.total} times; rows are {done}) are not mapped: add "
            "them to `categories` in the mapping"
        )
    if hidden := tally.own.hidden + tally.unmapped.hidden:
        yield (
            f"{hidden} values of the category are not shown: they are long or rarely repeat, so they may be "
            "texts; check that columns.category is the right column"
        )
    if tally.harmful_as_harmless:
        yield (
            f"{tally.harmful_as_harmless} harmful exchanges have a harmless category: check the label rule "
            "and `categories`"
        )
    if tally.imported and tally.labels["unlabelled"] == tally.imported:
        yield "no exchange has a label; if the data set has labels, add a `label` rule to the mapping"
