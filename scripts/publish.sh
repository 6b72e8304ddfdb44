#!/usr/bin/env bash
# Puts the finished run of a study where it is committed: scripts/publish.sh STUDY [PROFILE]
# record -> results/records, tables -> paper/tables, figures -> paper/figures, table of claims -> paper/tables/claims.md
set -euo pipefail
cd "$(dirname "$0")/.."
name="$1.${2:-standard}"
run="results/runs/$name"
[ -f "$run/record.json" ] || { echo "$run/record.json is not there: mtv-bench run $1 --profile ${2:-standard}" >&2; exit 4; }
mkdir -p results/records paper/tables paper/figures
gzip -n -9 -c "$run/record.json" >"results/records/$name.json.gz.part"
mv "results/records/$name.json.gz.part" "results/records/$name.json.gz"
cp "$run/report/table.md" "paper/tables/$name.md"
cp "$run/report/table.tex" "paper/tables/$name.tex"
cp "$run/report/reconstructions.png" "paper/figures/$name.png"
cp "$run/report/worst.png" "paper/figures/$name.worst.png"
cp "$run/report/curves.png" "paper/figures/$name.curves.png"
cp "$run/report/curves.svg" "paper/figures/$name.curves.svg"
for figure in "$run"/report/figure-*.png; do
  [ -f "$figure" ] && cp "$figure" "paper/figures/$name.$(basename "$figure")"
done
if [ -f "$run/report/tradeoff.png" ]; then
  cp "$run/report/tradeoff.png" "paper/figures/$name.tradeoff.png"
  cp "$run/report/tradeoff.svg" "paper/figures/$name.tradeoff.svg"
fi
if [ -f "$run/report/edits.png" ]; then
    cp "$run/report/edits.png" "paper/figures/$name.edits.png"
    cp "$run/report/edit_curves.png" "paper/figures/$name.edit_curves.png"
    cp "$run/report/edit_curves.svg" "paper/figures/$name.edit_curves.svg"
fi
cargo run --release --quiet -- claims --markdown paper/tables/claims.md >/dev/null
