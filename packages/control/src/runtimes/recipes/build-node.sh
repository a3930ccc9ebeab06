# Installs the dependencies of package.json, as they are locked where they are, with vendor/_cacache from that cache of npm's alone.
#
#   build-node.sh CODE
set -eu
cp -R -- "$1" /tmp/build
cd /tmp/build
set -- --omit=dev --no-audit --no-fund --no-update-notifier --cache /tmp/cache
if [ -d vendor/_cacache ]; then set -- "$@" --offline --cache vendor; fi
if [ -e package-lock.json ] || [ -e npm-shrinkwrap.json ]; then
  npm ci "$@"
else
  npm install "$@"
fi
mkdir -p node_modules
tar -C node_modules -cf "$COCORE_OUT/layer.tar" .
