"""Made-up tables of a study: Gaussian logits by block. Harmful answers rise after their first third."""

import numpy as np
import yaml

from lockgate.tables import BlockTrace, ScoresTable

STRIDE = 8
VERDICT_TOKENS = 4
PARTS = {
    "calibration": (400, 0.0),
    "dev": (80, 0.5),
    "benign_test": (200, 0.0),
    "harmful_one": (60, 0.8),
    "harmful_two": (50, 1.0),
    "hard_benign": (40, 0.0),
    "disguise_keys": (60, 0.5),
}
# How far each model's logits lie apart, and its FLOPs for a token.
MODELS = {"probe_exchange": (3.0, 1e6), "input": (1.0, 1e6), "output": (1.5, 5e5), "small": (2.0, 3e5)}
SPEC = {
    "name": "made up",
    "exchange": "probe_exchange",
    "input": "input",
    "output": "output",
    "screen": "small",
    "others": ["text"],
    "verdict_tokens": VERDICT_TOKENS,
    "probe_flops": 100.0,
    "development": "dev",
    "harmful": ["harmful_one", "harmful_two"],
    "hard_benign": ["hard_benign"],
    "disguised": ["disguise_keys"],
    "operating_point": 0.01,
    "claim_point": 0.05,
    "production": {"escalation": 0.1},
    "cascade": {"escalation": 0.2, "weight": 0.0},
    "languages": {"alpha": "en", "beta": "zh"},
    "resamples": 100,
}


def make_study(folder, *, seed=0, **changes):
    """Write the tables of every model and part, and the spec beside them; returns the spec's path."""
    for number, (part, (n, share)) in enumerate(PARTS.items()):
        _write_part(folder, part, n, share, np.random.default_rng([seed, number]))
    path = folder / "systems.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes))
    return path


def _write_part(folder, part, n, share, rng):
    labels = (rng.random(n) < share).astype(float)
    prompts, answers = rng.integers(3, 30, n), rng.integers(0, 50, n)
    ends = [[0, *range(STRIDE, int(a), STRIDE), *([int(a)] if a else [])] for a in answers]
    shared = [rng.normal(size=len(e)) for e in ends]
    for name, (gap, flops) in MODELS.items():
        (folder / name).mkdir(exist_ok=True)
        rows, blocks = [], []
        for i in range(n):
            rise = labels[i] * gap * (np.arange(len(ends[i])) >= len(ends[i]) / 3)
            verdicts = 0.5 * shared[i] + rng.normal(size=len(ends[i])) + rise
            probe = 0.5 * shared[i] + rng.normal(size=len(ends[i])) + 0.7 * rise
            if len(ends[i]) > 1 and prompts[i] < 10:
                probe[0] = np.nan
            if name == "input":
                verdicts[1:], probe[:] = np.nan, np.nan
            if name == "output":
                verdicts[0] = np.nan
            reads = int(prompts[i] + answers[i] + VERDICT_TOKENS * np.isfinite(verdicts).sum())
            blocks.append((i, ends[i], probe, verdicts))
            rows.append(_row(part, i, labels[i], int(prompts[i] + answers[i]), reads, flops))
        ScoresTable.from_rows(rows).write(folder / name / f"{part}.parquet")
        BlockTrace.from_rows(blocks).write(folder / name / f"{part}.blocks.parquet")
    (folder / "text").mkdir(exist_ok=True)
    text = [row | {"mixed_max": float(rng.normal() + labels[i])} for i, row in enumerate(rows) if i % 4]
    ScoresTable.from_rows(text).write(folder / "text" / f"{part}.parquet")


def _row(part, i, label, length, reads, flops):
    return {
        "row": i,
        "id": f"{part}-{i}",
        "source": ("alpha", "beta")[i % 2],
        "label": label,
        "category": "weapons" if label else None,
        "probe_max": 0.0,
        "mixed_max": 0.0,
        "flagged": False,
        "stage": 2,
        "tokens_stage1": length,
        "tokens_stage2": reads,
        "flops_stage1": 2e6 * length,
        "flops_stage2": flops * reads,
        "cpu_s_stage1": 1e-3 * length,
        "cpu_s_stage2": 1e-3 * reads,
        "prompt_group": f"{part}-{i // 2}",
        "length": length,
        "turns": 1 + i % 2,
    }
