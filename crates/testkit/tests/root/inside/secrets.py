# What a program does with credentials that it does not have: "METHOD URL", then headers as NAME=VALUE, and body=TEXT. Prints the status,
# the headers and the body of the answer. It trusts what the agent trusts, and is told of nothing else.
import sys, urllib.request, urllib.error

method, url, *rest = sys.argv[1:]
pairs = [word.split("=", 1) for word in rest]
body = dict(pairs).get("body")
request = urllib.request.Request(url, method=method, data=body.encode() if body is not None else None)
for name, value in pairs:
    if name != "body":
        request.add_unredirected_header(name, value)
try:
    answer = urllib.request.urlopen(request, timeout=30)
except urllib.error.HTTPError as error:
    answer = error
except urllib.error.URLError as error:
    print("none", type(error.reason).__name__)
    sys.exit()
print(answer.status)
print(answer.headers)
print(answer.read().decode(errors="replace"))
