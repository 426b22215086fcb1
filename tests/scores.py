"""Made-up scores tables: Gaussian scores, harmful rows shifted by `gap`, prompts shared by `repeat` rows."""

import numpy as np

from lockgate.tables import ScoresTable


def make_scores(n=400, *, seed=0, gap=2.0, repeat=1, harmful=0.5, prefix="p", sources=("alpha", "beta")):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < harmful).astype(float)
    rows = []
    for i in range(n):
        prompt, answer = rng.normal(), rng.normal() + gap * labels[i]
        tokens = int(rng.integers(5, 1500))
        rows.append(
            {
                "row": i,
                "id": f"{prefix}{i:06d}",
                "source": sources[i % len(sources)],
                "label": labels[i],
                "category": "weapons" if labels[i] and i % 2 else None,
                "probe_max": answer,
                "max_prompt": prompt,
                "max_answer": answer,
                "classifier_max": None,
                "mixed_max": answer,
                "flagged": bool(answer > 3.0),
                "stage": 1,
                "flag_token": 7 if answer > 3.0 else None,
                "tokens_stage1": tokens,
                "tokens_stage2": 0,
                "flops_stage1": 1e6 * tokens,
                "flops_stage2": 0.0,
                "cpu_s_stage1": 0.01,
                "cpu_s_stage2": 0.0,
                "prompt_group": f"{prefix}g{i // repeat}",
                "length": tokens,
            }
        )
    return ScoresTable.from_rows(rows)
