"""Totals over requests."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Iterable

from hello.log import Request


@dataclass
class Report:
    requests: int = 0
    failures: int = 0
    bytes: int = 0
    paths: Counter = field(default_factory=Counter)
    hosts: Counter = field(default_factory=Counter)

    @property
    def failure_rate(self) -> float:
        return self.failures / self.requests if self.requests else 0.0

    def __str__(self) -> str:
        top = ", ".join(f"{path} ({count})" for path, count in self.paths.most_common(3))
        return (
            f"{self.requests} requests from {len(self.hosts)} hosts, {self.bytes} bytes, "
            f"{self.failure_rate:.1%} failed; most wanted: {top or 'nothing'}"
        )


def summarise(requests: Iterable[Request]) -> Report:
    report = Report()
    for request in requests:
        report.requests += 1
        report.failures += request.failed
        report.bytes += request.size
        report.paths[request.path] += 1
        report.hosts[request.host] += 1
    return report
