"""The object store on S3, through aioboto3: raw files, unpacked files and rejects.

Guarantee: an object appears whole or not at all, every part is verified by the store against its SHA-256, and a
read delivers every byte of the version asked for or raises. Works against any S3; keys are opaque strings.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from contracts.errors import ObjectChangedError, ObjectMissingError
from contracts.ports import StoredObject
from stores.s3_errors import CONNECTION_ERRORS, status_of, translated, unavailable, words_for
from stores.s3_streams import PART_BYTES, in_parts, in_pieces, size_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, GetObjectOutputTypeDef

    from stores.settings import Settings

log = logging.getLogger(__name__)

PARTS_IN_FLIGHT = 3
READ_TRIES = 4
"""Requests in a row that may fail without one byte of progress before a read gives up."""
ABORT_SECONDS = 10.0
SHA256 = "sha256"
SHA256_OF = "sha256-of-etag"
CONTENT_TYPE = "binary/octet-stream"
"""What S3 takes bytes for unless told otherwise. Said aloud, because some stores guess from the bytes, and compress
what looks like text: that costs them more than all the rest of storing and reading it."""
NO_SUCH_BUCKET = "NoSuchBucket"

CONFIG = AioConfig(
    signature_version="s3v4",
    # Data carries its SHA-256 in a header that is signed and that the store verifies: one hash of it is enough.
    s3={"addressing_style": "path", "payload_signing_enabled": False},
    retries={"mode": "standard", "total_max_attempts": 3},
    connect_timeout=3,
    read_timeout=30,
    max_pool_connections=32,
    # Checksums are given explicitly, as SHA-256; stores other than AWS do not know the newer defaults.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


class S3ObjectStore:
    """`contracts.ports.ObjectStore` on an S3 bucket, which is created on the first write if it is absent.

    The SHA-256 of an object is kept in its metadata; a multipart object whose hash was unknown when it was begun
    carries it as a tag, bound to the ETag, so that a tag never speaks for another version.
    """

    def __init__(self, client: S3Client, bucket: str, address: str) -> None:
        """Wrap an open client; use `open` for one that is closed again."""
        self.address = address
        self._client = client
        self._bucket = bucket
        self._bucket_known = False
        self._bucket_lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[S3ObjectStore]:
        """Open a client; no request is made until the first use, so a process starts while the store is down."""
        endpoint = settings.s3_endpoint_url or None
        secret = settings.aws_secret_access_key
        # Without keys of our own the usual chain of AWS decides (profile, role of the machine).
        client = aioboto3.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=settings.aws_access_key_id or None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=CONFIG,
        )
        async with client as opened:
            opened.meta.events.register("before-call.s3.UploadPart", name_content_type)
            yield cls(opened, settings.s3_bucket, address_of(endpoint or opened.meta.endpoint_url))

    async def put(self, key: str, data: bytes) -> StoredObject:
        """Store a small object in one request, replacing what was there."""
        await self._ensure_bucket()
        digest = hashlib.sha256(data)
        with translated(self.address, key):
            stored = await self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                ContentType=CONTENT_TYPE,
                ChecksumSHA256=in_base64(digest.digest()),
                Metadata={SHA256: digest.hexdigest()},
            )
        return StoredObject(key=key, size=len(data), etag=bare(stored["ETag"]), sha256=digest.hexdigest())

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes], sha256: str | None = None) -> StoredObject:
        """Store a stream of any length; at most `PARTS_IN_FLIGHT` parts and the one being filled are in memory."""
        async with contextlib.aclosing(in_parts(chunks)) as parts:
            first = await anext(parts, b"")
            if len(first) < PART_BYTES:
                check_hash(key, hashlib.sha256(first).hexdigest(), sha256)
                return await self.put(key, first)
            return await self._put_multipart(key, first, parts, sha256)

    async def get(self, key: str) -> bytes:
        """Read a whole small object; a damaged or cut answer is asked for again."""
        failure: Exception = OSError()
        for attempt in range(READ_TRIES):
            await asyncio.sleep(pause(attempt))
            with translated(self.address, key):
                answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            try:
                async with answer["Body"] as body:
                    data = await body.read()
            except CONNECTION_ERRORS as error:
                failure = error
                continue
            expected = answer["Metadata"].get(SHA256)
            if expected in {None, hashlib.sha256(data).hexdigest()}:
                return data
            failure = OSError("the bytes that arrived do not have the object's checksum")
        raise unavailable(self.address, words_for(failure)) from failure

    async def read(self, key: str, *, etag: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream the bytes [start, end) in pieces of 1 MiB, the last one shorter.

        As in a slice, `end` may be past the object's end. A cut connection is resumed at the offset reached, for
        the same version only.
        """
        check_range(start, end)
        offset = start
        failures = 0
        while end is None or offset < end:
            answer = await self._get_range(key, etag, offset, end)
            if answer is None:
                return
            size = size_of(answer)
            end = size if end is None else min(end, size)
            try:
                async with contextlib.aclosing(in_pieces(answer, end - offset)) as pieces:
                    async for piece in pieces:
                        offset += len(piece)
                        failures = 0
                        yield piece
            except CONNECTION_ERRORS as error:
                failures += 1
                if failures >= READ_TRIES:
                    raise unavailable(self.address, words_for(error)) from error
                log.info("read of %s was cut at byte %d; resuming", key, offset)
                await asyncio.sleep(pause(failures))
        if offset == start:
            await self._check_version(key, etag)

    async def find(self, key: str) -> StoredObject | None:
        """Describe an object; one that others stored without a hash is read once to compute it."""
        try:
            with translated(self.address, key):
                head = await self._client.head_object(Bucket=self._bucket, Key=key)
        except ObjectMissingError:
            return None
        etag = bare(head["ETag"])
        try:
            sha256 = head["Metadata"].get(SHA256) or await self._find_tag(key, etag)
            if sha256 is None:
                sha256 = await self._compute_hash(key, etag)
        except (ObjectMissingError, ObjectChangedError):
            return await self.find(key)  # replaced or removed between two requests: describe what is there now
        return StoredObject(key=key, size=head["ContentLength"], etag=etag, sha256=sha256)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """List the keys under a prefix in lexical order, of which all are held in memory.

        Stores that keep folders list `a/b` before `a-b`; only sorting makes the order the same everywhere.
        """
        keys: list[str] = []
        token = ""
        while True:
            more: dict[str, Any] = {"ContinuationToken": token} if token else {}
            try:
                with translated(self.address, prefix):
                    page = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)
            except ObjectMissingError:
                return  # no bucket yet
            keys.extend(entry["Key"] for entry in page.get("Contents", ()))
            token = page.get("NextContinuationToken", "")
            if not (page["IsTruncated"] and token):
                break
        for key in sorted(set(keys)):
            yield key

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with contextlib.suppress(ObjectMissingError), translated(self.address, key):
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def _put_multipart(
        self, key: str, first: bytes, rest: AsyncIterator[bytes], sha256: str | None
    ) -> StoredObject:
        """Send parts as they fill up; complete only if the whole has the expected hash, otherwise abort."""
        await self._ensure_bucket()
        metadata = {SHA256: sha256} if sha256 else {}
        with translated(self.address, key):
            begun = await self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, ContentType=CONTENT_TYPE, ChecksumAlgorithm="SHA256", Metadata=metadata
            )
        upload = begun["UploadId"]
        digest = hashlib.sha256()
        size = 0
        sent: list[CompletedPartTypeDef] = []
        flying: set[asyncio.Task[CompletedPartTypeDef]] = set()
        try:
            part, number = first, 0
            while part:
                number += 1
                size += len(part)
                await asyncio.to_thread(digest.update, part)
                if len(flying) >= PARTS_IN_FLIGHT:
                    landed, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                    sent.extend(task.result() for task in landed)
                flying.add(asyncio.create_task(self._put_part(key, upload, number, part)))
                part = await anext(rest, b"")
            sent.extend(await asyncio.gather(*flying))
            flying.clear()
            check_hash(key, digest.hexdigest(), sha256)
            with translated(self.address, key):
                stored = await self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=key,
                    UploadId=upload,
                    MultipartUpload={"Parts": sorted(sent, key=lambda item: item["PartNumber"])},
                )
        except BaseException:  # cancellation included: parts that nobody completes are paid for, and never seen
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)
            await asyncio.shield(self._abort(key, upload))
            raise
        etag = bare(stored["ETag"])
        if not sha256:
            await self._tag(key, etag, digest.hexdigest())
        return StoredObject(key=key, size=size, etag=etag, sha256=digest.hexdigest())

    async def _put_part(self, key: str, upload: str, number: int, part: bytes) -> CompletedPartTypeDef:
        """Send one part; the store refuses it if what arrived has another SHA-256."""
        checksum = in_base64((await asyncio.to_thread(hashlib.sha256, part)).digest())
        with translated(self.address, key):
            stored = await self._client.upload_part(
                Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=part, ChecksumSHA256=checksum
            )
        return {"PartNumber": number, "ETag": stored["ETag"], "ChecksumSHA256": checksum}

    async def _abort(self, key: str, upload: str) -> None:
        """Give up an upload and its parts, as far as the store still answers."""
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
        except (ClientError, TimeoutError, *CONNECTION_ERRORS) as error:
            log.warning("parts of an upload of %s were left behind: %s", key, type(error).__name__)

    async def _get_range(self, key: str, etag: str, start: int, end: int | None) -> GetObjectOutputTypeDef | None:
        """Ask for a range of one version; None if it starts at or past the object's end."""
        stop = "" if end is None else str(end - 1)
        try:
            with translated(self.address, key):
                return await self._client.get_object(
                    Bucket=self._bucket, Key=key, Range=f"bytes={start}-{stop}", IfMatch=f'"{etag}"'
                )
        except ClientError as error:
            if status_of(error) != 416:  # noqa: PLR2004  - Range Not Satisfiable
                raise
        await self._check_version(key, etag)
        return None

    async def _check_version(self, key: str, etag: str) -> None:
        """Raise unless the object is there in this version; for reads that transfer nothing."""
        with translated(self.address, key):
            head = await self._client.head_object(Bucket=self._bucket, Key=key)
        if bare(head["ETag"]) != etag:
            message = f"object {key} is no longer the version {etag}"
            raise ObjectChangedError(message)

    async def _tag(self, key: str, etag: str, sha256: str) -> None:
        """Keep the hash of an object beside it; without the tag `find` computes it, so a failure costs time only."""
        tags = {"TagSet": [{"Key": SHA256, "Value": sha256}, {"Key": SHA256_OF, "Value": etag}]}
        try:
            await self._client.put_object_tagging(Bucket=self._bucket, Key=key, Tagging=tags)  # type: ignore[arg-type]
        except (ClientError, *CONNECTION_ERRORS) as error:
            log.info("the hash of %s was not kept: %s", key, type(error).__name__)

    async def _find_tag(self, key: str, etag: str) -> str | None:
        """Look up the hash kept beside this version."""
        try:
            with translated(self.address, key):
                answer = await self._client.get_object_tagging(Bucket=self._bucket, Key=key)
        except ClientError:
            return None  # a store without tags
        tags = {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}
        return tags.get(SHA256) if tags.get(SHA256_OF) == etag else None

    async def _compute_hash(self, key: str, etag: str) -> str:
        """Read the whole object for its hash, and keep it."""
        digest = hashlib.sha256()
        async for piece in self.read(key, etag=etag):
            digest.update(piece)
        await self._tag(key, etag, digest.hexdigest())
        return digest.hexdigest()

    async def _ensure_bucket(self) -> None:
        """Create the bucket if it is absent, once per store; two processes may do it at the same time."""
        if self._bucket_known:
            return
        async with self._bucket_lock:
            if self._bucket_known:
                return
            try:
                with translated(self.address, self._bucket):
                    await self._client.head_bucket(Bucket=self._bucket)
            except ObjectMissingError:
                await self._create_bucket()
            self._bucket_known = True

    async def _create_bucket(self) -> None:
        region = self._client.meta.region_name
        # The one region that must not be named.
        where: dict[str, Any] = (
            {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        try:
            with translated(self.address, self._bucket):
                await self._client.create_bucket(Bucket=self._bucket, **where)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise


def name_content_type(params: dict[str, Any], **_: object) -> None:
    """Say the content type of a part, for which the client has no parameter."""
    params["headers"]["Content-Type"] = CONTENT_TYPE


def check_range(start: int, end: int | None) -> None:
    """Refuse offsets that count from the end; they would silently mean something else in a range request."""
    if start < 0 or (end is not None and end < 0):
        message = f"a range starts at 0 or later, got [{start}, {end})"
        raise ValueError(message)


def check_hash(key: str, found: str, expected: str | None) -> None:
    """Raise `ObjectChangedError` if the bytes are not those that were announced."""
    if expected is not None and found != expected.lower():
        message = f"object {key} was not stored: its SHA-256 is {found}, {expected} was announced"
        raise ObjectChangedError(message)


def address_of(url: str) -> str:
    """Take host and port of an endpoint; never its user or password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def pause(failures: int) -> float:
    """Seconds to wait after that many failures in a row."""
    return 0.0 if failures == 0 else min(0.1 * 4 ** (failures - 1), 2.0)


def in_base64(digest: bytes) -> str:
    """Print a digest as S3's headers want it."""
    return base64.b64encode(digest).decode("ascii")


def bare(etag: str) -> str:
    """Strip the quotes of an ETag."""
    return etag.strip('"')
