#!/usr/bin/env bash
# pydicom 3.0.2: generate_uid(entropy_srcs=[...]) joins the words before it digests them, with nothing between.
#
# The list looks like a key of several parts, and is none: ["1", "12"] and ["11", "2"] are the same UID. Whoever makes
# pseudonyms or test data from (series, slice) numbers, or from patient and study IDs of varying length, gets one UID
# for images of different series and studies: of 400 series of 50 slices, 20,000 images, 1,560 are lost to it. An
# archive that goes by SOP Instance UID keeps the first or the last of them, of whatever patient, and says nothing.
# With a separator that no word holds, or words of fixed length, the UIDs differ: entropy_srcs=[f"{series} {slice}"].
#
# Exit status 0: as described. Other: pydicom behaves in another way now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2
"$folder/venv/bin/python" - <<'END'
import pydicom
from pydicom.uid import generate_uid

assert pydicom.__version__ == "3.0.2", "another version than the one described"
images = [(series, slice_) for series in range(400) for slice_ in range(50)]
parts = {generate_uid(entropy_srcs=[str(series), str(slice_)]) for series, slice_ in images}
joined = {generate_uid(entropy_srcs=[f"{series} {slice_}"]) for series, slice_ in images}
print(f"{len(images)} images: {len(parts)} UIDs of two words, {len(joined)} of one with a space")
assert generate_uid(entropy_srcs=["1", "12"]) == generate_uid(entropy_srcs=["11", "2"])
assert len(parts) == 18440 and len(joined) == 20000
END
echo "as described"
