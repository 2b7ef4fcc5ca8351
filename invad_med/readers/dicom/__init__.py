"""DICOM: headers, acquisitions, pixels, planes."""

import logging

# pydicom speaks of odd values and failing codecs as it meets them, and quotes values, which can be the patient's name.
# What matters to the user becomes a reason in the table.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
