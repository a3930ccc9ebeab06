# Compiles a file of Java and what it uses of the files around it, with lib/*.jar on the class path.
#
#   build-java.sh CODE ENTRY
#
# What the launcher needs to know of it, the class that has the file's name and where all is found, is left as the launcher's argument file.
set -eu
code=$1
entry=$2
class=$(basename -- "$entry" .java)
package=$(sed -n 's/^[[:space:]]*package[[:space:]]\{1,\}\([^[:space:];]\{1,\}\)[[:space:]]*;.*/\1/p' "$entry" | head -n 1)
# Where packages begin, if the file lies where its own says.
sources=${entry%/*}
if [ -n "$package" ]; then
  class=$package.$class
  sources=${sources%/"$(echo "$package" | tr . /)"}
fi
classes=/tmp/layer/classes
mkdir -p "$classes"
javac -encoding UTF-8 -d "$classes" -sourcepath "$sources" -cp "$code/lib/*" "$entry"
if ! [ -e "$classes/$(echo "$class" | tr . /).class" ]; then
  echo "error: $entry declares no class $class" >&2
  exit 1
fi
# Files beside the sources are found as resources.
path=$code/.cocore/built/classes:$sources:$code/lib/*
printf -- '-cp "%s"\n%s\n' "$(printf '%s' "$path" | sed 's/[\\"]/\\&/g')" "$class" >/tmp/layer/arguments
tar -C /tmp/layer -cf "$COCORE_OUT/layer.tar" classes arguments
