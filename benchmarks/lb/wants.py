"""What is asked through a balancer: twelve fields, as a browser of a shop sends them. The same bytes every time."""

import json
from pathlib import Path

POST, GET = "POST", "GET"
BODY = json.dumps({"items": [{"sku": "bench-one", "quantity": 1}], "pay_now": "card"}, separators=(",", ":"))
BROWSERS = (  # of any request of theirs
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate, br",
    "Accept-Language: en-GB,en;q=0.9,nl;q=0.8",
    "Referer: https://shop.example/sales/bench",
    "Cookie: session=b1946ac92492d2347c6235b4d2611184; seen=1",
    "DNT: 1",
)
_OF = {
    POST: ("Content-Type: application/json", f"Content-Length: {len(BODY)}", "Idempotency-Key: bench-0000000000000001"),
    GET: ("Sec-Fetch-Dest: empty", "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin"),
}
_TARGETS = {POST: "/purchases", GET: "/stock/bench-one"}
FIELDS = 12


def request(method: str, base: str = "") -> bytes:
    """One whole request, of a path or (with ``base``) of a URL."""
    own = ("Host: shop.example", *BROWSERS, "Buyer-Id: buyer-0000000001", *_OF[method])
    lines = [f"{method} {base}{_TARGETS[method]} HTTP/1.1", *own, "", BODY if method == POST else ""]
    return "\r\n".join(lines).encode()


def file_of(method: str, folder: Path, base: str = "") -> Path:
    """The same in a file, for wrk's script."""
    path = folder / f"{method}-{'url' if base else 'path'}"
    path.write_bytes(request(method, base))
    return path
