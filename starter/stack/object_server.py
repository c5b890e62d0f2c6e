"""SeaweedFS as the S3 object store: master, volume server, filer and gateway in one process.

Guarantee: everything it opens is on loopback and on a port of its own, nothing is reported to its makers, and once
ready the bucket exists and can be written.
"""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, ClassVar

from starter.stack.ports import LOOPBACK
from starter.stack.server import Server, binary

if TYPE_CHECKING:
    from collections.abc import Mapping

BUCKET = "pipelines"
REGION = "us-east-1"
INTERNAL = ("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
INTERNAL_FILER = ("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc")
FLAGS = {f"objects.{flag}": flag for flag in (*INTERNAL, *INTERNAL_FILER)}


class ObjectServer(Server):
    """The object store."""

    name: ClassVar[str] = "objects"
    title: ClassVar[str] = "The object store (SeaweedFS)"
    port_names: ClassVar[tuple[str, ...]] = ("objects", *FLAGS)

    @property
    def url(self) -> str:
        """The S3 endpoint."""
        return f"http://{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Forget the flags of the last start, which the server would prefer to ours."""
        (self.data / "mini.options").unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Run everything in one process, without the parts that are not needed."""
        ports = [f"-{flag}={self.port_of(name)}" for name, flag in FLAGS.items()]
        return [
            binary("weed"),
            "mini",
            f"-dir={self.data}",
            *(f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", f"-s3.port={self.port}", *ports),
            *("-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-volume.preStopSeconds=0"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            # Relative to the working directory: a socket's path may have 107 characters only, and /tmp is everybody's.
            *("-s3.localSocket=s3.sock", "-filer.localSocket=filer.sock"),
        ]

    def environment(self) -> Mapping[str, str]:
        """Give the credentials, and the bucket to create."""
        return {
            "AWS_ACCESS_KEY_ID": self.place.secrets.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": self.place.secrets.s3_secret_key,
            "S3_BUCKET": BUCKET,
            "S3_TABLE_BUCKET": "",
            "S3_EXTERNAL_URL": "",
        }

    def probe(self) -> bool:
        """Ask the gateway for its health, the filer for the bucket, and the master for a place to write."""
        return (
            _answers(f"{self.url}/healthz")
            and _answers(f"http://{LOOPBACK}:{self.port_of('objects.filer.port')}/buckets/{BUCKET}/?limit=1")
            and b'"fid"' in _get(f"http://{LOOPBACK}:{self.port_of('objects.master.port')}/dir/assign")
        )


def _answers(url: str) -> bool:
    _get(url)
    return True


def _get(url: str) -> bytes:
    # No proxy: a proxy of the environment would be asked for our loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as response:
        return bytes(response.read(65_536))
