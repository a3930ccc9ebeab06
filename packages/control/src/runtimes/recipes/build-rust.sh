# Compiles a program of Rust: of the package of Cargo.toml where there is one, else of the entry. It is static, so that it runs in any image.
#
#   build-rust.sh CODE ENTRY
#
# Of a package with several programs it is the entry's if that is in src/bin, else the one that has the package's name.
set -eu
code=$1
entry=$2
export CARGO_HOME=/tmp/cargo
layer=/tmp/layer
mkdir "$layer"

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

build_package() {
  # Cargo writes into the package. No package can have this directory's name, so cargo always says the package's own.
  cp -R -- "$code" /tmp/code.d
  cd /tmp/code.d
  if [ -d vendor ] || [ -e .cargo/config.toml ]; then set -- --offline; fi
  if [ -d vendor ] && ! grep -qs '^\[source' .cargo/config.toml; then
    set -- "$@" --config 'source.crates-io.replace-with="vendor"' --config 'source.vendor.directory="/tmp/code.d/vendor"'
  fi
  # Named, a target's flags are not those of procedural macros, which cannot be static.
  host=$(rustc -vV | sed -n 's/^host: //p')
  cargo build --release --target "$host" --target-dir /tmp/target \
    --config "target.$host.rustflags=['-C','target-feature=+crt-static']" "$@"
  cd "/tmp/target/$host/release"
  programs=$(find . -maxdepth 1 -type f -perm -u+x ! -name '*.so' -printf '%f\n' | sort)
  [ -n "$programs" ] || fail 'Cargo.toml makes no program'
  wanted=$(program_name)
  if ! [ -x "$wanted" ]; then
    [ "$(printf '%s\n' "$programs" | wc -l)" = 1 ] ||
      fail "Cargo.toml makes several programs ($(echo $programs)) and none is named ${wanted:-after a package}; name the entry's file in src/bin"
    wanted=$programs
  fi
  cp -- "$wanted" "$layer/program"
}

program_name() {
  file=${entry#"$code/"}
  case $file in
    src/bin/*/*) file=${file#src/bin/} && echo "${file%%/*}" ;;
    src/bin/*) basename -- "$file" .rs ;;
    # A package's id ends with #NAME@VERSION, of earlier versions with #NAME:VERSION.
    *) (cd /tmp/code.d && cargo pkgid --offline 2>/dev/null) | sed 's/.*#//; s/[@:].*//' ;;
  esac
}

if [ -e "$code/Cargo.toml" ]; then
  build_package
else
  rustc --edition 2021 -O -C target-feature=+crt-static -o "$layer/program" "$entry"
fi
tar -C "$layer" -cf "$COCORE_OUT/layer.tar" program
