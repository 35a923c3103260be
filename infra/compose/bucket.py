"""``python -m infra.compose.bucket NAME``: the bucket NAME, once the S3 API answers. Keys are boto3's own variables."""

from __future__ import annotations

import sys
import time

WAIT_SECONDS = 120.0


def ensure_bucket(name: str, *, wait: float = WAIT_SECONDS) -> str:
    """Makes the bucket unless it is there; what was found or done. Ends the process where no API answers in time."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", config=Config(connect_timeout=3, read_timeout=10, retries={"max_attempts": 1}))
    deadline = time.monotonic() + wait
    while True:
        try:
            if any(found["Name"] == name for found in client.list_buckets()["Buckets"]):
                return f"bucket {name} is there"
            client.create_bucket(Bucket=name)
        except ClientError as error:  # it answers, and says no
            if time.monotonic() > deadline or error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                sys.exit(f"bucket {name}: {error}. Are the keys in secrets/ those of the S3 API, and may they make it?")
        except BotoCoreError as error:
            if time.monotonic() > deadline:
                sys.exit(f"bucket {name}: no S3 API answers at {client.meta.endpoint_url}: {error}")
        else:
            return f"bucket {name} made"
        time.sleep(0.5)


if __name__ == "__main__":
    print(ensure_bucket(sys.argv[1]))
