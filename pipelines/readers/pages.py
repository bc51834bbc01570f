"""HTML pages within limits, whatever they hold."""

from emsmine.pipelines.readers import html
from emsmine.pipelines.readers.body import BodyError
from emsmine.pipelines.readers.records import Limits
from emsmine.pipelines.readers.sandbox import SandboxError, sandbox

# The worst that was found in so many characters takes a quarter of a second.
_DIRECT_CHARS = 1 << 16


def read_page(markup: str, limits: Limits) -> html.Page:
    """Return what a page gives; a large one is parsed in a child process.

    Raises:
        BodyError: `page_too_complex`: it is larger, or takes more work, memory or time than allowed.
    """
    if len(markup) > limits.max_page_chars:
        detail = f"the markup has {len(markup)} characters, limit {limits.max_page_chars}"
        raise BodyError("page_too_complex", detail)
    try:
        if len(markup) <= _DIRECT_CHARS:
            return html.extract(markup)
        request = {"memory": limits.max_parse_bytes, "seconds": limits.max_parse_seconds}
        child = sandbox()
        child.send(request, markup.encode("utf-8", "surrogatepass"))
        header, text = child.receive()
    except html.PageTooComplex as error:
        raise BodyError("page_too_complex", str(error)) from None
    except SandboxError as error:
        raise BodyError("page_too_complex", f"a page of {len(markup)} characters: {error}") from None
    if "too_complex" in header:
        raise BodyError("page_too_complex", header["too_complex"])
    return html.Page(text.decode("utf-8", "surrogatepass"), header["lang"], tuple(header["mt_hints"]))
