"""The stores that settings name, and what MLflow's server is told of them."""

from __future__ import annotations

import pytest

from infra.settings import SettingsError, load_settings
from infra.stores.configured import check_buckets, log_store, report_store, s3_access, s3_environment
from infra.stores.interface import PermanentStoreError, TransientStoreError


def given(s3, **more):
    keys = {"SHIPWAY_S3_ACCESS_KEY": s3.access_key, "SHIPWAY_S3_SECRET_KEY": s3.secret_key}
    return load_settings({"SHIPWAY_S3_ENDPOINT": s3.endpoint, **keys, **more})


def test_without_settings_everything_stays_in_the_home(tmp_path):
    settings = load_settings({"SHIPWAY_HOME": str(tmp_path)})
    assert str(report_store(settings)) == str(tmp_path / "reports")
    assert log_store(settings) is None
    assert s3_environment(settings, {}) == {}
    check_buckets(settings)


def test_reports_and_log_lie_below_the_prefix(s3):
    settings = given(s3, SHIPWAY_STORE="s3://ships/one/")
    assert str(report_store(settings)) == "s3://ships/one/reports"
    assert str(log_store(settings)) == "s3://ships/one/predictions"


def test_a_bucket_that_cannot_be_used_is_named_by_its_setting(s3):
    s3.store("s3://there")
    check_buckets(given(s3, SHIPWAY_STORE="s3://there", SHIPWAY_ARTIFACTS="s3://there/artifacts"))
    with pytest.raises(PermanentStoreError, match=r"^SHIPWAY_ARTIFACTS at SHIPWAY_S3_ENDPOINT=.*NoSuchBucket"):
        check_buckets(given(s3, SHIPWAY_STORE="s3://there", SHIPWAY_ARTIFACTS="s3://nowhere/a"))
    with pytest.raises(PermanentStoreError, match=r"^SHIPWAY_STORE .*SignatureDoesNotMatch") as told:
        check_buckets(given(s3, SHIPWAY_STORE="s3://there", SHIPWAY_S3_SECRET_KEY="wr0ng"))
    assert "wr0ng" not in str(told.value)
    with pytest.raises(TransientStoreError, match=r"^SHIPWAY_STORE at SHIPWAY_S3_ENDPOINT=http://127.0.0.1:1: "):
        check_buckets(given(s3, SHIPWAY_STORE="s3://there", SHIPWAY_S3_ENDPOINT="http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"SHIPWAY_S3_ACCESS_KEY": ""}, "one is set without the other"),
        ({"SHIPWAY_S3_CA_FILE": "/no/such.pem"}, r"SHIPWAY_S3_CA_FILE=/no/such.pem: no such file"),
        ({"SHIPWAY_S3_SECRET_KEY": "file:/no/such"}, r"SHIPWAY_S3_SECRET_KEY: the file /no/such cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_refused(s3, more, says):
    with pytest.raises(SettingsError, match=says):
        s3_access(given(s3, **more))


def test_mlflow_s_server_gets_its_own_keys(s3, tmp_path):
    (tmp_path / "key").write_text(f"{s3.secret_key}\n")
    settings = given(s3, SHIPWAY_S3_SECRET_KEY=f"file:{tmp_path}/key", SHIPWAY_S3_REGION="eu-west-1")
    values = s3_environment(settings, {"no_proxy": "intranet", "AWS_SESSION_TOKEN": "of the shell"})
    assert (values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]) == (s3.access_key, s3.secret_key)
    assert (values["AWS_SESSION_TOKEN"], values["AWS_DEFAULT_REGION"]) == ("", "eu-west-1")
    assert values["MLFLOW_S3_ENDPOINT_URL"] == s3.endpoint
    assert values["no_proxy"] == "intranet,127.0.0.1"
