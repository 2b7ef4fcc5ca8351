"""DICOM: headers, acquisitions, pixels, planes."""

import logging

# pydicom warns about odd values as it meets them, and quotes them, which can be the patient's name. What matters to the
# user becomes a reason in the table.
logging.getLogger("pydicom").setLevel(logging.ERROR)
