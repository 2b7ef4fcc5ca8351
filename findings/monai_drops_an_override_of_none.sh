#!/usr/bin/env bash
# MONAI 1.6.1: a key of a bundle that is overridden by None keeps the value of the file, and nothing says so.
#
# `python -m monai.bundle run --net#norm None` looks as if it switched a normalisation, a scheduler or an early stop off. The
# word becomes None, and overrides of None are left out before the configuration is read: the run goes on with what the file
# says, status 0, no warning. An ablation without the normalisation then has the same figures as one with it.
# A key that does not exist passes unseen in the same way.
# An expression does what was meant: --net#norm '$None'. Look at what was built, not at what was asked for.
#
# Exit status 0: as described. Other: MONAI behaves in another way now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet monai==1.6.1 torch==2.14.1 fire==0.7.1
cat > "$folder/config.json" <<'END'
{"net": {"_target_": "builtins.dict", "norm": "batch"}, "run": ["$print('built with', @net)"]}
END
built() {
  "$folder/venv/bin/python" -W ignore -m monai.bundle run --config_file "$folder/config.json" "$@" 2> "$folder/said" | grep "built with"
}
expect() {
  echo "$1"
  test "$1" = "built with $2"
}
expect "$(built)" "{'norm': 'batch'}"
expect "$(built '--net#norm' instance)" "{'norm': 'instance'}"
expect "$(built '--net#norm' None)" "{'norm': 'batch'}"
expect "$(built '--net#nrom' None)" "{'norm': 'batch'}"
expect "$(built '--net#norm' '$None')" "{'norm': None}"
if grep -i "none\|ignor" "$folder/said"; then
  echo "something is said of it now"
  exit 1
fi
echo "as described"
