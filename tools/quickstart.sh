#!/usr/bin/env bash
# The main job on real text, end to end: set up, build, pretrain a multi-head decoder on Python sources, convert it to
# grouped-query and multi-query attention, uptrain for 5 % of the steps, compare. Ends with a table and a report.
# May be run again, and then does only what is left to do.
set -euo pipefail

if (($# > 0)); then
  sed -n '2,4s/^# //p' "$0"
  echo "Takes no arguments: tools/quickstart.sh"
  [[ $1 == --help || $1 == -h ]] && exit 0 || exit 2
fi

cd "$(dirname "$0")/.."

tools/setup.sh
if [[ ! -f build/release/CMakeCache.txt ]]; then cmake --preset release; fi
cmake --build --preset release --target regroup

runs=runs/quickstart
data=$runs/data.h5
python=.venv/bin/python
regroup=build/release/regroup
mkdir -p "$runs"

say() { printf '\n== %s\n' "$*" >&2; }

if [[ ! -f $data ]]; then
  say "token data from the Python sources of the packages in tools/requirements-corpus.txt"
  [[ -f $runs/corpus.jsonl ]] ||
    $python tools/corpus.py --requirements tools/requirements-corpus.txt --out "$runs/corpus.jsonl"
  $python tools/prepare_data.py --input "$runs/corpus.jsonl" --out "$data" --vocab-size 512 \
    --val-fraction 0.003 --choices 200 --seed 0 --force
fi
[[ -f $runs/ngrams.json ]] || $python tools/ngram_baseline.py --data "$data" --json "$runs/ngrams.json"

common=(--config configs/quickstart.ini --data.train="$data" --data.val="$data" --resume)

if [[ ! -d $runs/mha/final ]]; then
  say "pretraining the original: multi-head attention, 8 K/V heads"
  $regroup pretrain --run "$runs/mha" "${common[@]}"
fi

uptrain() {  # RUN K/V-HEADS [MORE KEYS...]
  local run=$1 heads=$2
  shift 2
  local evaluation=$runs/$run/evaluation.json
  [[ -f $evaluation ]] && ! grep --quiet '"decode_tokens_per_s": null' "$evaluation" && return
  say "uptraining $run: $heads K/V heads"
  $regroup uptrain --run "$runs/$run" "${common[@]}" --convert.from="$runs/mha/final" --convert.n_kv_head="$heads" \
    --optim.warmup_steps=10 "$@"
}
# A model that starts near the original continues at the rate where the original's schedule ended; mean needs more.
mean=(--convert.method=mean --optim.lr=5e-4)
best=(--convert.method=pca --convert.refit=block --optim.lr=5e-5)
uptrain control 8 --optim.lr=5e-5  # pools nothing: trains the original for as many steps more
uptrain gqa2 2 "${mean[@]}"        # heads pooled as in the paper, by their mean
uptrain mqa 1 "${mean[@]}"
uptrain gqa2-pca 2 "${best[@]}"
uptrain mqa-pca 1 "${best[@]}"

evaluation=$runs/evaluation.json
if [[ ! -f $evaluation || -n $(find "$runs"/*/evaluation.json -newer "$evaluation") ]]; then
  say "all models side by side"
  models=(--model "$runs/mha/final")
  for run in control gqa2 mqa gqa2-pca mqa-pca; do models+=(--model "$runs/$run/final"); done
  $regroup eval "${models[@]}" --reference "$runs/mha/final" --data "$data" --choices "$data" --speed \
    --json "$evaluation" >"$runs/evaluation.txt"
fi
$python tools/report.py "$runs/gqa2" "$runs/mqa" "$runs/gqa2-pca" "$runs/mqa-pca" "$runs/control" "$runs/mha" \
  --evaluation "$evaluation" --baselines "$runs/ngrams.json" --out "$runs/report.html"
say "the report: $runs/report.html"
cat "$runs/evaluation.txt"
