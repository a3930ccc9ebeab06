# Compiles the program of a file of Go: the package around it where there is a module, else the file alone. It is static, so that it runs in any image.
#
#   build-go.sh ENTRY
set -eu
export CGO_ENABLED=0 GOCACHE=/tmp/cache GOMODCACHE=/tmp/modules GOTOOLCHAIN=local
cd -- "$(dirname -- "$1")"
case "$(go env GOMOD)" in
  '' | /dev/null) what=./${1##*/} ;;
  *) what=. ;;
esac
if [ "$(go list -buildvcs=false -f '{{.Name}}' "$what")" != main ]; then
  echo "error: $1 is not in a package main" >&2
  exit 1
fi
mkdir /tmp/layer
go build -buildvcs=false -trimpath -o /tmp/layer/program "$what"
tar -C /tmp/layer -cf "$COCORE_OUT/layer.tar" program
