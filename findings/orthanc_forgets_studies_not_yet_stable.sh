#!/usr/bin/env bash
# Orthanc 1.10.1 (Debian 12): a study that is not stable yet when Orthanc stops never becomes stable for who listens.
#
# OnStableStudy, and StableStudy in /changes, are the usual way to act once all of a study has come: route it, score it.
# After an orderly restart a study that had been quiet for less than StableAge seconds is there, whole, and /studies/ID
# says "IsStable": true, but the event does not come, three times StableAge later neither. Whoever routes by that event
# loses the studies of every restart, and an upgrade by night meets those of the night shift.
# Ask after a start which studies were not handled, by a mark of your own on each (metadata or label), and do not take
# the event for a queue.
#
# Takes Debian 12's packages without installing them. Exit status 0: as described. Other: Orthanc behaves in another way.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/packages" "$folder/root" "$folder/index"
needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
  orthanc | grep -E '^lib' | grep -vE '^(libc6|libgcc-s1|libcrypt1|libstdc\+\+6)$')
(cd "$folder/packages" && for name in orthanc=1.10.1+dfsg-2+deb12u1 $needed; do
  apt-get download "$name" >/dev/null 2>&1 || case "$name" in orthanc=*) echo "no such orthanc here" && exit 1 ;; esac
done)
for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/$(uname -m)-linux-gnu:$folder/root/lib/$(uname -m)-linux-gnu"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$folder/orthanc.json" <<END
{"StorageDirectory": "$folder/index", "IndexDirectory": "$folder/index", "HttpPort": $port,
 "DicomServerEnabled": false, "StableAge": 3}
END
at="http://127.0.0.1:$port"
begin() {
  "$folder/root/usr/sbin/Orthanc" "$folder/orthanc.json" >"$folder/log" 2>&1 &
  server=$!
  for _ in $(seq 100); do curl -sf "$at/system" >"$folder/system" && return; sleep 0.1; done
  cat "$folder/log" && exit 1
}
create() {
  curl -sf "$at/tools/create-dicom" -d "{\"Tags\": {\"PatientID\": \"$1\", \"StudyDescription\": \"$1\", \"Modality\": \"OT\"}}" >/dev/null
}
begin
grep -q '"Version" : "1.10.1"' "$folder/system" || { echo "another version than the one described" && exit 1; }
create first
sleep 6
create second
curl -sf -X POST "$at/tools/shutdown" -d '' >/dev/null
wait "$server"
begin
sleep 10
curl -sf "$at/changes?limit=1000" >"$folder/changes"
curl -sf "$at/studies?expand" >"$folder/studies"
python3 - "$folder" <<'END'
import json
import sys

changes = json.load(open(f"{sys.argv[1]}/changes"))["Changes"]
name = {s["ID"]: s["MainDicomTags"]["StudyDescription"] for s in json.load(open(f"{sys.argv[1]}/studies"))}
stable = {s["ID"]: s["IsStable"] for s in json.load(open(f"{sys.argv[1]}/studies"))}
seen = {kind: sorted(name[c["ID"]] for c in changes if c["ChangeType"] == kind) for kind in ("NewStudy", "StableStudy")}
print(seen, {name[study]: is_stable for study, is_stable in stable.items()})
assert seen == {"NewStudy": ["first", "second"], "StableStudy": ["first"]} and all(stable.values())
END
echo "as described: the second study is there, IsStable is true, and no StableStudy ever told of it"
