"""Reads web server logs in the common format, and says what is in them."""

from hello.log import Request, parse, parse_line
from hello.report import Report, summarise

__all__ = ["Report", "Request", "parse", "parse_line", "summarise"]
