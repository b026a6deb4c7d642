#!/usr/bin/env bash
# Kills a random process of a run of two again and again, at random moments. torchrun restarts the run, which must end
# with the weights of an undisturbed run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
Usage: tools/soak.sh [--kills N] [--folder DIR] [--seed N] [-- --section.key=value ...]

Pretrains configs/soak.ini on this repository's text, once undisturbed and once with N kills (default 30), and
compares the final weights and all losses byte by byte. Takes about ten minutes.
END
}

kills=30 folder=runs/soak seed=0
while (($#)); do
  case $1 in
    --kills) kills=$2 && shift ;;
    --folder) folder=$2 && shift ;;
    --seed) seed=$2 && shift ;;
    --) shift && break ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done
RANDOM=$seed
regroup=${REGROUP_BINARY:-build/release/regroup}
data=$folder/text.h5

say() { printf 'soak: %s\n' "$*" >&2; }

start() {  # RUN: under torchrun, in the background; $launcher is its process
  .venv/bin/torchrun --no-python --nproc-per-node 2 --max-restarts "$((kills + 1))" --monitor-interval 0.2 \
    --master-port "$((20000 + RANDOM % 10000))" -- \
    "$regroup" pretrain --config configs/soak.ini --run "$folder/$1" --resume=auto --data.train="$data" \
    "${overrides[@]}" >"$folder/$1.log" 2>&1 &
  launcher=$!
}

step_of() {
  local metrics=$folder/$1/metrics.jsonl
  if [[ -f $metrics ]]; then tail -n 1 "$metrics" | sed -n 's/.*"step": *\([0-9]*\).*/\1/p'; fi
}

# Kills a random worker of the launcher once the run is AHEAD steps past the step of the previous kill.
kill_one() {  # AHEAD
  local until=$((last + $1)) step workers
  while kill -0 "$launcher" 2>/dev/null; do
    step=$(step_of disturbed)
    mapfile -t workers < <(pgrep --parent "$launcher" --full pretrain)
    if ((${step:-0} >= until && ${#workers[@]} == 2)); then
      kill -KILL "${workers[RANDOM % 2]}" && last=$step && return
    fi
    sleep 0.05
  done
  say "the run ended after $killed kills: make it longer (-- --train.steps=N)" && return 1
}

overrides=("$@")
mkdir -p "$folder"
rm -rf "$folder"/{undisturbed,disturbed}
[[ -f $data ]] || .venv/bin/python tools/prepare_data.py --input README.md framework models trainers --suffixes .md,.cpp,.h \
  --vocab-size 512 --choices 0 --out "$data"
say "the undisturbed run"
start undisturbed
wait "$launcher"

began=$SECONDS killed=0 last=0
steps=$(step_of undisturbed)
say "the same with $kills kills"
start disturbed
trap 'kill "$launcher" 2>/dev/null || true' EXIT
while ((killed < kills)); do
  kill_one "$((1 + RANDOM % (2 * steps / (3 * kills))))"
  killed=$((killed + 1))
  say "kill $killed of $kills at step $last of $steps"
done
wait "$launcher"
trap - EXIT

cmp "$folder"/{undisturbed,disturbed}/final/model.safetensors
cmp <(sed 's/"lr".*//' "$folder/undisturbed/metrics.jsonl") <(sed 's/"lr".*//' "$folder/disturbed/metrics.jsonl")
say "$kills kills in $((SECONDS - began)) s; weights and losses are those of the undisturbed run"
