"""Credentials in addresses are seen, refused without being quoted, and not shown."""

import pytest

from invad_med.addresses import holds_credentials, redacted, refuse_credentials

WITH = (
    "http://bob:S3cretPw@127.0.0.1:5055",
    "https://S3cretPw@host/mlflow",
    "HTTP://bob:pa/S3cretPw#?@host",
    "http://bob:@S3cretPw@host",
    "bob:S3cretPw@host:5000",
    "postgresql+psycopg2://bob:S3cretPw@host/mlflow",
    "postgresql://host/mlflow?user=bob&password=S3cretPw",
    "https://host/dicom-web?access_token=S3cretPw",
)
WITHOUT = (
    "http://127.0.0.1:5055",
    "https://host/mlflow",
    "postgresql://bob@host/mlflow",
    "sqlite:////home/a:b@c/mlflow.db",
    "file:///home/a:b@c",
    "C:\\runs@home",
    "output/a@b",
    "databricks://profile",
)


@pytest.mark.parametrize("address", WITH)
def test_a_credential_is_refused_and_never_quoted(address):
    assert holds_credentials(address)
    with pytest.raises(ValueError, match=r"no user and password.*: name them in X") as error:
        refuse_credentials(address, "name them in X")
    assert "S3cret" not in str(error.value) and "S3cret" not in redacted(address)
    assert "host" in redacted(address) or "127.0.0.1:5055" in redacted(address)


@pytest.mark.parametrize("address", WITHOUT)
def test_other_addresses_pass_as_they_are(address):
    refuse_credentials(address, "")
    assert redacted(address) == address
