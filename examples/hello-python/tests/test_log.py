import unittest
from datetime import datetime, timezone

from hello import parse, parse_line

GOOD = '192.0.2.7 - - [21/Nov/2026:12:00:00 +0200] "GET /a?b=c HTTP/1.1" 200 512'


class ParseLine(unittest.TestCase):
    def test_every_field_is_read(self):
        request = parse_line(GOOD)
        self.assertEqual(request.host, "192.0.2.7")
        self.assertEqual(request.time, datetime(2026, 11, 21, 10, tzinfo=timezone.utc))
        self.assertEqual((request.method, request.path), ("GET", "/a?b=c"))
        self.assertEqual((request.status, request.size), (200, 512))

    def test_a_dash_is_no_bytes(self):
        self.assertEqual(parse_line(GOOD.replace(" 512", " -")).size, 0)

    def test_only_server_errors_are_failures(self):
        for status, failed in [(200, False), (404, False), (499, False), (500, True), (503, True)]:
            with self.subTest(status=status):
                self.assertEqual(parse_line(GOOD.replace(" 200 ", f" {status} ")).failed, failed)

    def test_other_lines_are_none(self):
        for line in ["", "hello", GOOD.replace("21/Nov", "99/Nov"), GOOD.replace("GET", "get")]:
            with self.subTest(line=line):
                self.assertIsNone(parse_line(line))


class Parse(unittest.TestCase):
    def test_other_lines_are_passed_over(self):
        self.assertEqual(len(list(parse([GOOD, "noise", GOOD]))), 2)
