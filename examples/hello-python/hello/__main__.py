"""python3 -m hello FILE..., or standard input."""

import fileinput

from hello import parse, summarise

with fileinput.input(encoding="utf-8", errors="replace") as lines:
    print(summarise(parse(lines)))
