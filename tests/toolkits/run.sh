#!/bin/sh
# sh tests/toolkits/run.sh check: makes all outputs of the toolkits that are there again, compares them with the golden
# files, and our scorers with the toolkits'. sh tests/toolkits/run.sh write: writes the golden files.
# $TOOLKITS names some of the four only.
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit 1
python=$root/.venv-toolkits/bin/python
export PIVOT_SHARED_DATA="${PIVOT_SHARED_DATA:-$root/../shared/data}" HF_HUB_OFFLINE=1
export LLAVA="${LLAVA:-$root/.venv-toolkits/llava}"
golden=$root/tests/eval/benchmarks/golden
if [ "$1" = check ]; then
  export PIVOT_GOLDEN="$root/build/toolkits"
  mkdir -p "$PIVOT_GOLDEN" && cp "$golden/real_files.json" "$golden/grouped.json" "$PIVOT_GOLDEN" || exit 1
fi
failed=0
for toolkit in ${TOOLKITS:-lmms_eval vlmevalkit cambrian llava}; do
  export PYTHONPATH="$root"
  case $toolkit in
    vlmevalkit) export PYTHONPATH="$root:$root/.venv-toolkits/vlmevalkit" ;;
    cambrian) [ -d "$CAMBRIAN/eval/eval" ] || { echo "cambrian: skipped, CAMBRIAN names no checkout"; continue; } ;;
    llava) [ -d "$LLAVA/llava/eval" ] || { echo "llava: skipped, no checkout at $LLAVA"; continue; } ;;
  esac
  grouped="grouped_scores $toolkit"
  [ "$toolkit" = llava ] && grouped=""  # it scores no such file itself
  for step in "${toolkit}_prompts" "scores $toolkit" "real_scores $toolkit" ${grouped:+"$grouped"}; do
    # shellcheck disable=SC2086  # the step is a module and its argument
    log=$root/build/toolkits-$toolkit.log
    mkdir -p "$root/build"
    "$python" -W ignore -m tests.toolkits.$step >"$log" 2>&1 || { echo "$step failed:"; tail -5 "$log"; failed=1; }
  done
  if [ "$1" = check ]; then
    "$python" -m tests.toolkits.check "$golden" "$PIVOT_GOLDEN" "$toolkit" || failed=1
    "$python" -W ignore -m tests.toolkits.compare_scorers "$toolkit" 2>"$root/build/toolkits-$toolkit.log" || failed=1
  fi
done
exit $failed
