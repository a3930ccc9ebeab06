#!/bin/bash
# Counts the words of standard input.
set -euo pipefail

words=0
while read -r -a line || [ "${#line[@]}" -gt 0 ]; do
  words=$((words + ${#line[@]}))
done
echo "$words words"
