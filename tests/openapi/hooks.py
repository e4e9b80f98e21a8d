"""What a valid request is beside what the published document can say.

The document cannot say which agents and systems a configuration has, how many partitions each topic has, or which cursors a
page has given, and it counts the characters of an idempotency key, of which Horizons counts the bytes of UTF-8. Requests
that are meant to be valid are kept within these; everything else, the lengths of identifiers too, the document says itself.
"""

import schemathesis

KEY_HEADER = "idempotency-key"
KEY_BYTES_MAX = 255


def is_key_that_fits(name, value):
    is_text = name.lower() == KEY_HEADER and isinstance(value, str)
    return not is_text or len(value.encode("utf-8", "surrogatepass")) <= KEY_BYTES_MAX


@schemathesis.hook
def filter_headers(context, headers):
    return not headers or all(is_key_that_fits(name, value) for name, value in headers.items())


@schemathesis.hook
def before_call(context, case, kwargs):
    """Names what exists where a request is meant to be valid."""
    if case.meta is not None and case.meta.generation.mode.is_negative:
        return
    if isinstance(case.query, dict):
        case.query.pop("cursor", None)
        if "partition" in case.query:
            case.query["partition"] = 0
            case.query.setdefault("topic", "job-lifecycle")
    if isinstance(case.body, dict):
        if "partition" in case.body:
            case.body["partition"] = 0
        if "agent" in case.body:
            case.body["agent"] = "quick"
            case.body.pop("tacc_system", None)
