"""The common log format: HOST IDENT USER [TIME] "METHOD PATH PROTOCOL" STATUS BYTES."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Iterable, Iterator, Optional

LINE = re.compile(
    r'(?P<host>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] '
    r'"(?P<method>[A-Z]+) (?P<path>\S+) [^"]+" (?P<status>\d{3}) (?P<size>\d+|-)'
)


@dataclass(frozen=True)
class Request:
    host: str
    time: datetime
    method: str
    path: str
    status: int
    size: int

    @property
    def failed(self) -> bool:
        return self.status >= 500


def parse_line(line: str) -> Optional[Request]:
    """One request, or None for a line in another format."""
    match = LINE.match(line)
    if match is None:
        return None
    try:
        time = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
    except ValueError:
        return None
    size = 0 if match["size"] == "-" else int(match["size"])
    return Request(match["host"], time, match["method"], match["path"], int(match["status"]), size)


def parse(lines: Iterable[str]) -> Iterator[Request]:
    """All requests; lines in another format are passed over."""
    return (request for request in map(parse_line, lines) if request is not None)
