"""`lockgate train text`: make a text baseline of hashed n-grams from labelled exchanges."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import JsonFlag, print_json, print_skipped, print_table


def text(
    inputs: Annotated[
        list[Path],
        typer.Option("--input", help="Labelled exchanges: .jsonl[.gz|.zst] or .parquet. May be repeated."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the text baseline.")],
    bits: Annotated[
        int,
        typer.Option(help="Words and characters have 2^BITS buckets each. The files hold 8 * 2^BITS bytes."),
    ] = 18,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation over prompts.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of folds and fits.")] = 0,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave malformed rows out, and count them.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Fit hashed n-grams and logistic regression on labelled exchanges.

    A cross-validation chooses the regularisation. It keeps exchanges with one prompt in one fold. `lockgate
    calibrate --text` adds the result to a guard.
    """
    from lockgate.classifiers.text import TextBaseline, TextBaselineConfig, check_text_target
    from lockgate.errors import ConfigError
    from lockgate.exchanges import InvalidCounter, PromptPrints, prompt_group, read_exchanges

    for name, value, low, high in (("--bits", bits, 8, 24), ("--folds", folds, 2, 100)):
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; expected a number from {low} to {high}")
    check_text_target(output)
    invalid = InvalidCounter()
    rows = [
        row for path in inputs for row in read_exchanges(path, skip_invalid=skip_invalid, on_invalid=invalid)
    ]
    answered = [row for row in rows if not row.is_prompt_only]
    config = TextBaselineConfig(bits=bits, folds=folds, seed=seed)
    made = TextBaseline.fit(answered, [prompt_group(row) for row in answered], config).rounded()
    made.training_prompts = PromptPrints.of(answered)
    made.save(output)
    left_out = len(rows) - len(answered)
    if json:
        print_json(
            {
                "text": str(output),
                "sha256": made.sha256,
                "exchanges": made.n_rows,
                "prompts": made.n_groups,
                "without_answer": left_out,
                "c": made.c,
                "cross_validation": [row._asdict() for row in made.cross_validation],
                "invalid": invalid.count,
            }
        )
        return
    print_skipped(invalid.count, invalid.first)
    if left_out:
        typer.echo(f"{left_out} exchanges without an answer are left out")
    print_table(("C", "log loss"), [(f"{row.c:g}", f"{row.log_loss:.4f}") for row in made.cross_validation])
    typer.echo(f"text baseline in {output}, fitted on {made.n_rows} exchanges of {made.n_groups} prompts")
