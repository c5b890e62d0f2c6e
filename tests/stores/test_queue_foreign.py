"""What other programs put into queues: odd ids and bodies become rejects of their own and never stop a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from nats.aio.msg import Msg

from contracts import WorkQueue
from stores.nats_queue import delivery_of as nats_delivery
from stores.sqs_queue import delivery_of as sqs_delivery

if TYPE_CHECKING:
    from types_aiobotocore_sqs.type_defs import MessageTypeDef

QUEUE = WorkQueue("orders")
REPLY = "$JS.ACK.queue_orders.workers.1.7.7.1700000000000000000.0"
ODD = ["", "x" * 513, "a\nb", "nul\0", b"caf\xe9".decode(errors="surrogateescape"), " x", "x "]


def sqs_message(body: str = "{}", **attributes: str) -> MessageTypeDef:
    return {
        "MessageId": "m-1",
        "ReceiptHandle": "handle",
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000"},
        "MessageAttributes": {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    }


def nats_message(name: str) -> Msg:
    # Nothing here asks the client for anything.
    return Msg(None, subject="queue.orders", reply=REPLY, data=b"{}", headers={"Nats-Msg-Id": name})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_id_is_replaced_by_the_brokers_own(name: str) -> None:
    assert nats_delivery(QUEUE, nats_message(name)).id == "queue_orders/1700000000000000000/7"
    assert sqs_delivery(QUEUE, sqs_message(id=name)).id == "orders/m-1"


def test_an_id_that_can_be_kept_is_kept() -> None:
    assert nats_delivery(QUEUE, nats_message("order 7")).id == "order 7"
    assert sqs_delivery(QUEUE, sqs_message(id="order 7")).id == "order 7"


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("eyJhIjoxfQ==", b'{"a":1}'),
        ("eyJh\r\nIjoxfQ==\n", b'{"a":1}'),
        ("=", b""),
        ("abcde", b"abcde"),
        ('{"a": 1}', b'{"a": 1}'),
        ("caf\xe9", "caf\xe9".encode()),
    ],
)
def test_a_body_that_only_claims_to_be_base64_is_handed_on_as_it_is(text: str, body: bytes) -> None:
    assert sqs_delivery(QUEUE, sqs_message(text, encoding="base64")).body == body
