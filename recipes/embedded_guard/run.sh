#!/usr/bin/env bash
# The embedded guard, from public data to the bundle in the package: recipes/embedded_guard/run.sh DATA [OUT]
#
# DATA holds the public sets that README.md names, as NAME.jsonl.gz in the exchange form. Text stays in OUT
# (runs/embedded); only ids, labels and scores go to results/. Every step resumes.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
data="${1:?usage: run.sh DATA [OUT]}"
out="${2:-$root/runs/embedded}"
cd "$root"
python="$root/.venv/bin/python"

"$python" -m recipes.embedded_guard.generate --data "$data" --out "$out"   # the backbone answers prompts
# Between these two, readers label the answers: labelling.md; the labels of the shipped guard are in labels/.
"$python" -m recipes.embedded_guard.dataset --data "$data" --out "$out"    # split by prompt across all sets
"$python" -m recipes.embedded_guard.train --out "$out" --workers 2         # activations, all variants side by side, comparison
head="$("$python" -c "import json; print(json.load(open('$root/results/embedded_guard/choice.json'))['head'])")"
"$python" -m recipes.embedded_guard.score --out "$out" --head "$head" --workers 2
"$python" -m recipes.embedded_guard.baselines --out "$out"
"$python" -m recipes.embedded_guard.agreement
"$python" -m recipes.embedded_guard.report --install "$out/guard"
# A guard of one stage is in the package now. A text baseline becomes its second stage, unless two stages catch less.
"$python" -m recipes.embedded_guard.voice_rows --data "$data" --out "$out"
"$python" -m recipes.embedded_guard.score --out "$out" --newer --workers 2
"$python" -m recipes.embedded_guard.second_stage --out "$out" --workers 2 --install
# Steps that need the installed guard follow by hand: `live`, `make bench`, and `report` again.
# To measure the effect of synthetic data, run `synthetic` after `lockgate synthesize general-harms`.
