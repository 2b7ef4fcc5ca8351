#!/usr/bin/env bash
# onnxruntime 1.32.0 for Linux writes a lasting device id below the user's cache folder as soon as it is imported.
#
# Up to 1.28 the packages for Linux had no telemetry (Privacy.md spoke of Windows). Since 1.29 those on PyPI have: at
# import, before any model is loaded, they keep an id of the machine, a store of events and a session file in the folder
# for temporary files; sessions are reported to the makers where the network allows it. A natural guess, to call
# disable_telemetry_events() right after the import, comes too late for all of these files.
# Set ORT_DISABLE_TELEMETRY=1 before the import: then nothing is written. Whoever scores patients' images behind a
# hospital's firewall learns of it from the firewall otherwise. A variable CI, set by most test runners, has the same
# effect, so that tests do not show it.
#
# Exit status 0: as described. Other: onnxruntime behaves in another way now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0
written() {  # what an import and a line leave, with some variables set
  local home=$folder/home-$1
  mkdir -p "$home"
  env -u CI -u ORT_DISABLE_TELEMETRY "${@:3}" HOME="$home" XDG_CACHE_HOME="$home/cache" TMPDIR="$home" \
    "$folder/venv/bin/python" -c "import onnxruntime; assert onnxruntime.__version__ == '1.32.0'; $2"
  (cd "$home" && find . -type f -printf '%f ' | sort)
}
default=$(written default "pass")
called=$(written called "onnxruntime.disable_telemetry_events()")
variable=$(written variable "pass" ORT_DISABLE_TELEMETRY=1)
echo "import alone:                    $default"
echo "disable_telemetry_events() next: $called"
echo "ORT_DISABLE_TELEMETRY=1 before:  ${variable:-nothing}"
for kept in "$default" "$called"; do
  [[ $kept == *deviceid* && $kept == *onnxruntime.db* && $kept == *.ses* ]]
done
[[ -z $variable ]]
echo "as described"
