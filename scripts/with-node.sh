#!/usr/bin/env bash
# Sets the checkout up and runs a script of it on Node 24.
#
#   with-node.sh [--tests] [SCRIPT [ARGS...]]
#
# Needs bash and any Node >= 18 with npm. Installs what the lock file names (Node 24 among it), then what
# setup.sh finds missing, then hands over to the script. --tests adds what only tests need.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$root"

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

setup_args=()
if [ "${1:-}" = --tests ]; then
  setup_args+=(--tests)
  shift
fi

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) ;;
  *) fail "CoCore is built on Linux x86-64 for now; this is $(uname -s) $(uname -m)." ;;
esac
command -v node >/dev/null || fail 'Node.js is missing; install Node 18 or newer with npm.'
command -v npm >/dev/null || fail 'npm is missing; install Node 18 or newer with npm.'
major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge 18 ] || fail "Node $major is too old; install Node 18 or newer."

# Installed already, from this very lock file?
stamp=node_modules/.cocore-lock-sha256
want=$(sha256sum package-lock.json | cut -d ' ' -f 1)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
  echo 'set-up: npm packages'
  npm ci --loglevel=error || fail 'npm ci failed; see its message above.'
  printf '%s\n' "$want" >"$stamp"
fi

PATH="$root/node_modules/.bin:$PATH"
export PATH
bash scripts/setup.sh ${setup_args[@]+"${setup_args[@]}"}

[ $# -eq 0 ] || exec node "$@"
