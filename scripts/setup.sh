#!/usr/bin/env bash
# Make .venv from the pinned lists: `setup.sh` for running, `setup.sh dev` for checks and tests too.
# Each profile leaves a stamp that holds a hash of all it was made from; where it still fits, nothing
# is done, and a .venv without it is remade.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile="${1:-cpu}"
venv=.venv
torch_index=https://download.pytorch.org/whl/cpu

stop() {
  printf 'setup: %s\n' "$1" >&2
  exit 1
}

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3 python}; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      printf '%s' "$name"
      return
    fi
  done
  stop "needs Python 3.11 with venv, found none among: ${PYTHON:-python3.11 python3 python}. Set PYTHON=/path/to/python3.11."
}

hash_of() {
  # The folder belongs to it: a moved .venv has wrong paths in its scripts.
  { pwd; cat scripts/setup.sh pyproject.toml "$@"; } | "$python" -c 'import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

fits() {
  [[ -f "$venv/stamp-$1" && "$(<"$venv/stamp-$1")" == "$2" ]] && "$venv/bin/python" -c '' 2>/dev/null
}

# Python compiles what it imports, so compiling all of it here would only take longer.
install() {
  "$venv/bin/python" -m pip install -qq --no-deps --no-compile --progress-bar off \
    --disable-pip-version-check "$@"
}

install_torch() {
  local pin
  pin="$(grep '^torch==' requirements/cpu.txt)"
  if install --only-binary :all: "$pin" 2>"$venv/torch.log"; then
    return
  fi
  printf 'setup: the configured package index has no %s, trying %s\n' "$pin" "$torch_index"
  if install --only-binary :all: --extra-index-url "$torch_index" "$pin" 2>>"$venv/torch.log"; then
    return
  fi
  cat "$venv/torch.log" >&2
  stop "could not install $pin, neither from the configured package index nor from $torch_index. Put its wheel into a folder and set PIP_FIND_LINKS to it."
}

check_packages() {
  "$venv/bin/python" - <<'PYTHON'
import importlib.metadata as metadata
import sys

names = {d.metadata["Name"].lower() for d in metadata.distributions()}
bad = sorted(n for n in names if n in {"torchvision", "torchaudio", "torchcodec"} or n.startswith("nvidia-"))
if not metadata.version("torch").endswith("+cpu"):
    bad.append("torch " + metadata.version("torch"))
sys.exit(f"setup: packages for CUDA came in: {', '.join(bad)}" if bad else 0)
PYTHON
}

case "$profile" in
  cpu | dev) ;;
  *) stop "unknown profile '$profile'; allowed: cpu, dev." ;;
esac
[[ "$(uname -sm)" == "Linux x86_64" ]] || stop "the pinned list is for Linux x86_64, this is $(uname -sm). See the extras in pyproject.toml."

python="$(find_python)"
cpu_hash="$(hash_of requirements/cpu.txt)"
dev_hash="$(hash_of requirements/cpu.txt requirements/dev.txt)"

if ! fits cpu "$cpu_hash"; then
  printf 'setup: making %s, this takes a minute or two\n' "$venv"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  install_torch
  install -r requirements/cpu.txt
  install --no-build-isolation -e .
  check_packages
  printf '%s\n' "$cpu_hash" >"$venv/stamp-cpu"
fi
if [[ "$profile" == dev ]] && ! fits dev "$dev_hash"; then
  # An earlier try may have stopped in the middle of a package.
  install --force-reinstall -r requirements/dev.txt
  printf '%s\n' "$dev_hash" >"$venv/stamp-dev"
fi
