# Installs what requirements.txt names, with vendor/ from the wheels and archives in it alone.
#
#   build-python.sh CODE
set -eu
cd -- "$1"
set --
if [ -d vendor ]; then set -- --no-index --find-links vendor; fi
for file in constraints*.txt; do
  if [ -e "$file" ]; then set -- "$@" --constraint "$file"; fi
done
python3 -m pip install --disable-pip-version-check --no-cache-dir --no-compile --root-user-action ignore \
  --target /tmp/layer "$@" --requirement requirements.txt
mkdir -p /tmp/layer
# What Python cannot compile it need not import either.
python3 -m compileall -q --invalidation-mode unchecked-hash /tmp/layer || true
tar -C /tmp/layer -cf "$COCORE_OUT/layer.tar" .
