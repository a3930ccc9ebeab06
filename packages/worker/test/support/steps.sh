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
    exit) exit "$argument" ;;
    *)
      echo "no step $step" >&2
      exit 64
      ;;
  esac
done
