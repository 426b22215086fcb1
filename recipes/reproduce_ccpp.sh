#!/usr/bin/env bash
# The paper's four systems on open data, from data to report: recipes/reproduce_ccpp.sh DATA [OUT]
# DATA holds the public data sets (see recipes/embedded_guard/sources.py), OUT takes what is made (runs).
# Every step goes on where it was interrupted and does nothing when it is done. On two cores: the data and the probe
# about two hours, each classifier half an hour, scoring five hours in steps of at most two.
set -euo pipefail
cd "$(dirname "$0")/.."
data="$1" out="${2:-runs}"
python=.venv/bin/python
[ -e "$out/embedded/train.jsonl" ] || recipes/embedded_guard/run.sh "$data" "$out/embedded"
[ -e "$out/four_systems/train.jsonl" ] || $python recipes/reproduce_ccpp/dataset.py --embedded "$out/embedded" --out "$out/four_systems"
[ -e "$out/four_systems/disguise_train.jsonl" ] || $python recipes/reproduce_ccpp/disguise.py --out "$out/four_systems"
for model in exchange input output small; do
  $python recipes/reproduce_ccpp/train.py --out "$out/four_systems" --only "$model"
done
for model in probe_exchange input output small; do
  $python recipes/reproduce_ccpp/score.py --out "$out/four_systems" --model "$model" --workers 2
done
$python recipes/reproduce_ccpp/report.py
