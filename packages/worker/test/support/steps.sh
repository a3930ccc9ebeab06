#!/bin/bash
# Plays the steps that the fake guest plays, in a real sandbox.
for step in "$@"; do
  verb=${step%%:*}
  argument=${step#*:}
  case $verb in
    out) printf %s "$argument" ;;
    err) printf %s "$argument" >&2 ;;
    outbytes) yes 0123456789abcde | head -c "$argument" ;;
    cat) cat ;;
    sleep) sleep "$((argument / 1000)).$(printf %03d $((argument % 1000)))" ;;
    flood) yes 0123456789abcde ;;
    fill) fallocate -l 1G /work/full ;;
    signal) kill -"$argument" $$ ;;
    oom) tail /dev/zero ;;
    file) cat "$argument" ;;
    result) printf %s "$argument" >"$COCORE_RESULT" ;;
    resultbytes) head -c "$argument" /dev/zero | tr '\0' 7 >"$COCORE_RESULT" ;;
    resultlink) ln -s /etc/passwd "$COCORE_RESULT" ;;
    artifact) printf %s "${argument#*:}" >"$COCORE_OUT/${argument%%:*}" ;;
    artifactbytes) yes 0123456789abcde | head -c "$argument" >"$COCORE_OUT/file" ;;
    odd)
      cd "$COCORE_OUT"
      mkdir closed
      printf inside >closed/file
      ln -s /etc/passwd link
      ln -s / root
      ln -s . self
      mkfifo pipe
      chmod 0 closed/file closed
      ;;
    exit) exit "$argument" ;;
    *)
      echo "no step $step" >&2
      exit 64
      ;;
  esac
done
