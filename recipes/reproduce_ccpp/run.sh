#!/usr/bin/env bash
# The paper's four systems on open data, from data to report: recipes/reproduce_ccpp/run.sh DATA [OUT]
#
# DATA holds the public data sets that recipes/embedded_guard/README.md names, as NAME.jsonl.gz. Data and models go to OUT
# (default: runs). Every step resumes, and does nothing if it is done. README.md in this folder gives the times.
set -euo pipefail
cd "$(dirname "$0")/../.."
data="${1:?usage: run.sh DATA [OUT]}" out="${2:-runs}"
python=.venv/bin/python
study="$out/four_systems"

# Data: the parts of the embedded guard, the study's choice of them, the stand-ins.
# The guard that the package ships stays as it is: recipes/embedded_guard/run.sh makes another.
if [ ! -e "$out/embedded/train.jsonl" ]; then
  $python -m recipes.embedded_guard.generate --data "$data" --out "$out/embedded"
  $python -m recipes.embedded_guard.dataset --data "$data" --out "$out/embedded"
fi
[ -e "$study/train.jsonl" ] || $python -m recipes.reproduce_ccpp.dataset --embedded "$out/embedded" --out "$study"
[ -e "$study/disguise_train.jsonl" ] || $python -m recipes.reproduce_ccpp.disguise --out "$study"

# Training.
for model in exchange input output small medium value disguise_exchange disguise_input disguise_output; do
  $python -m recipes.reproduce_ccpp.train --out "$study" --only "$model"
done
$python -m recipes.reproduce_ccpp.probe --out "$study"

# Scores: tables and traces go to results/four_systems/.
$python -m recipes.reproduce_ccpp.baselines --out "$study"
for model in probe_exchange input output small medium value \
  disguise_probe_exchange disguise_input disguise_output; do
  $python -m recipes.reproduce_ccpp.score --out "$study" --model "$model" --workers 2
done
$python -m recipes.reproduce_ccpp.cost --out "$study"

# The probe's ablation once more, with soft labels from the exchange classifier.
$python -m recipes.reproduce_ccpp.score --out "$study" --model teacher --workers 2
$python -m recipes.reproduce_ccpp.teach --out "$study"
$python -m recipes.embedded_guard.ablate --out "$out/embedded" --teacher results/four_systems/teacher/labels.parquet

# Figures: results/four_systems.json, two reports, the tables in docs/results.md.
$python -m recipes.reproduce_ccpp.smoothing
$python -m recipes.reproduce_ccpp.report
