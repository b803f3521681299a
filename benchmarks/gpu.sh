#!/usr/bin/env bash
# All that needs a GPU, on a machine with Python 3.12, a CUDA build of torch and no package registry.
#   needs: .gpu/site312.tar.xz, the packages that the machine lacks, and .gpu/cifar.tar.xz, CIFAR-10 as parquet files
#          cifar10-jpeg/{train,test}-*.parquet with the images of the original, in its order
#   run:   bash benchmarks/gpu.sh [SECONDS]     in the project's root; 570 s unless told otherwise
# Results go to $OUT (gpu-out): a JSON file for each part, and ends.log with all times and the ends of all logs. What tells most comes
# first. Run again on the same machine it goes on: finished parts are not done again, commands resume by themselves.
set -u
limit=${1:-570}
: "${OUT:=gpu-out}"
work=${WORK:-${TMPDIR:-/tmp}/raydvae-gpu}
mkdir -p "$OUT" "$work/site" "$work/data" "$work/out" "$work/logs"
export PYTHONUNBUFFERED=1 PYTHONPATH=$work/site:$PWD PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=4
python=${PYTHON:-python3}
train="$work/data/cifar10-jpeg/train-*.parquet"
test="$work/data/cifar10-jpeg/test-*.parquet"

say() { echo "$SECONDS s: $*" | tee -a "$work/times.log"; }
left() { echo $((limit - SECONDS)); }

# part NAME LIMIT COMMAND...: its standard output is the part's result, unless it fails or there already is one
part() {
  local name=$1 most=$2 code began=$SECONDS
  shift 2
  [ -e "$work/out/$name.json" ] && return
  [ "$most" -lt "$(left)" ] || most=$(left)
  [ "$most" -gt 5 ] || return
  timeout -k 5 "$most" "$@" > "$work/logs/$name.out" 2>> "$work/logs/$name.err"
  code=$?
  [ $code = 0 ] && cp "$work/logs/$name.out" "$work/out/$name.json"
  say "$name ended with $code after $((SECONDS - began)) s"
}
raydvae() { echo "$python -m raydvae.cli.main"; }
classify() { part "classify-$1" 600 $(raydvae) classify "$2" --test "$test" --out "$work/classified-$1" --json; }

if [ ! -e "$work/unpacked" ]; then
  tar xJf .gpu/site312.tar.xz -C "$work/site" & tar xJf .gpu/cifar.tar.xz -C "$work/data"
  wait
  touch "$work/unpacked"
fi
say "unpacked; $($python -c 'import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())')"
part tests 90 $python -m pytest -q -m gpu -p no:cacheprovider tests/training tests/purify
part step 100 $python benchmarks/step.py --seconds 40
part poison 90 $(raydvae) poison lsp "$train" "$work/lsp" --json
classify clean "$train" & classify poisoned "$work/lsp" &
part purify 600 $(raydvae) purify "$work/lsp" "$work/purified" --preset cifar10 --json
if [ -e "$work/out/purify.json" ]; then classify purified "$work/purified"; fi
wait
say done
cp "$work"/out/*.json "$OUT"
{ cat "$work/times.log"; grep -hv "^\[\|^ *@\|^PC:\|^\*\*\*" /dev/null "$work"/logs/*.err | tail -n 200; } > "$OUT/ends.log"
