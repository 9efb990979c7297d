import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from hello import parse, summarise

LOG = Path(__file__).with_name("access.log")


class Summarise(unittest.TestCase):
    def test_totals(self):
        report = summarise(parse(LOG.read_text().splitlines()))
        self.assertEqual((report.requests, report.failures, report.bytes), (4, 1, 1111))
        self.assertEqual(report.paths.most_common(1), [("/", 2)])
        self.assertEqual(len(report.hosts), 3)
        self.assertEqual(report.failure_rate, 0.25)

    def test_nothing_is_no_failure(self):
        report = summarise([])
        self.assertEqual(report.failure_rate, 0.0)
        self.assertIn("most wanted: nothing", str(report))


class CommandLine(unittest.TestCase):
    def run_on(self, *arguments, **options):
        command = [sys.executable, "-m", "hello", *arguments]
        return subprocess.run(command, cwd=LOG.parents[1], capture_output=True, text=True, check=True, **options)

    def test_files_and_standard_input_give_the_same(self):
        expected = "4 requests from 3 hosts, 1111 bytes, 25.0% failed; most wanted: / (2), /style.css (1), /login (1)\n"
        self.assertEqual(self.run_on(str(LOG)).stdout, expected)
        self.assertEqual(self.run_on(input=LOG.read_text()).stdout, expected)

    def test_a_large_file_is_read_as_a_stream(self):
        with tempfile.NamedTemporaryFile("w", suffix=".log") as large:
            large.writelines([LOG.read_text()] * 20_000)
            large.flush()
            self.assertTrue(self.run_on(large.name).stdout.startswith("80000 requests"))
