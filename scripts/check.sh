#!/usr/bin/env bash
# All that must pass before a change is taken: lint, then types beside the tests. Tests often wait,
# for an engine or a deadline, and mypy uses that time. Its words come after those of the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make --no-print-directory lint

found="$(mktemp)"
make --no-print-directory types >"$found" 2>&1 &
types=$!
trap 'kill "$types" 2>/dev/null || true; rm -f "$found"' EXIT

failed=()
make --no-print-directory test || failed+=(test)
wait "$types" || failed+=(types)
cat "$found"
if ((${#failed[@]})); then
  printf 'check: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
