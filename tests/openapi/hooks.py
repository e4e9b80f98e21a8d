"""What a valid request is beside what the published document can say.

JSON Schema counts characters where Horizons counts bytes, and cannot say which agents and systems a configuration has, how
many partitions each topic has, or which cursors a page has given. Requests that are meant to be valid are kept within
these; everything else the document says itself.
"""

import schemathesis

TEXT_BYTES_MAX = 255
IDENTIFIERS = ("group", "agent", "dataset_id", "job", "user", "job_id")


def fits(value):
    return not isinstance(value, str) or len(value.encode("utf-8", "surrogatepass")) <= TEXT_BYTES_MAX


def identifiers_fit(fields):
    return not isinstance(fields, dict) or all(fits(fields.get(name)) for name in IDENTIFIERS)


@schemathesis.hook
def filter_query(context, query):
    return identifiers_fit(query)


@schemathesis.hook
def filter_headers(context, headers):
    return not headers or all(fits(value) for value in headers.values())


@schemathesis.hook
def filter_body(context, body):
    return identifiers_fit(body)


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
