"""Titles are cut to what Temporal takes, whatever letters ids and file names are written in."""

from __future__ import annotations

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter

from workflows.details import LONGEST_TITLE, shortened

LIMIT = 400
"""Bytes of a summary's payload, by default, in Temporal's API (`UserMetadata`)."""


@pytest.mark.parametrize("letter", ["x", "\u6f22", "\U0001f600", '"', "\n", "\0", "\udce9"])
def test_a_title_fits_into_a_summary(letter: str) -> None:
    cut = shortened(letter * 600)
    [payload] = pydantic_data_converter.payload_converter.to_payloads([cut])
    assert payload.ByteSize() <= LIMIT
    assert 50 <= len(cut) <= LONGEST_TITLE


def test_a_short_title_stays_as_it_is() -> None:
    assert shortened("load \u6f22\u5b57.csv into orders") == "load \u6f22\u5b57.csv into orders"
