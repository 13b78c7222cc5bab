"""Shoppers for Locust: a closed loop, by hand, with Locust's own page.

    ./flash up
    scripts/load-test

Everybody looks at the sales, wants a unit of something that is open, follows it to the verdict, and then leaves it, pays, or gives it
up; then comes somebody else. A *closed* loop: who waits for an answer asks for nothing meanwhile, so a slow shop is asked less, and the
latencies shown are those of who asked. The comparison's own figures come from an open loop (``benchmarks/comparison``).

A refusal that the contract knows is an answer and no failure; 503 is a failure here, since it promised nothing.
"""

import json
import random
import resource
import secrets
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from flashsale.contract import wire
from flashsale.identity import mint

TOKEN_SECONDS = 24 * 3600
LOOKS_MAX = 12  # at what is queued, each of up to WAIT_SECONDS
WAIT_SECONDS = 5
ANSWERS = (200, 201, 202, 409)  # of the contract, to a correct request

# Locust wants ten thousand open files and no more; a crowd of that size needs a few for itself.
_, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator] # the library's events have no types
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--secret-file", default="", help="signs bearer tokens; without it shoppers name themselves")
    parser.add_argument("--sku", default="", help="what everybody wants; without it something of a sale that is open")


class Shopper(FastHttpUser):
    """One visit after the other, each by a buyer of its own."""

    wait_time = between(0.5, 2.0)
    environment: Environment

    def on_start(self) -> None:
        """Somebody new comes."""
        options = self.environment.parsed_options
        assert options is not None
        self._secret = Path(options.secret_file).read_text(encoding="ascii").strip() if options.secret_file else ""
        self._sku: str = options.sku

    @task
    def visit(self) -> None:
        """From the door to the door."""
        buyer = f"visitor-{secrets.token_hex(8)}"
        self._who = (
            {"Authorization": f"Bearer {mint(self._secret, buyer, 'buyer', TOKEN_SECONDS)}"}
            if self._secret
            else {wire.BUYER_HEADER: buyer}
        )
        sku = self._sku or self._choose()
        if not sku:
            return
        self._ask("GET", f"{wire.STOCK_PATH}/{sku}", "stock")
        key = secrets.token_hex(12)
        body = {"items": [{"sku": sku, "quantity": 1}]}
        bought = self._ask("POST", wire.PURCHASES_PATH, "buy", {wire.KEY_HEADER: key}, body)
        purchase = str(wire.purchase_id(buyer, key))
        if bought.get("state") == "QUEUED":
            bought = self._follow(purchase, bought["receipt"])
        if bought.get("state") == "HELD":
            self._decide(purchase, key)

    def _choose(self) -> str:
        sales = self._ask("GET", wire.SALES_PATH, "sales").get("sales", [])
        skus = [item["sku"] for sale in sales if sale["state"] == "OPEN" for item in sale["items"]]
        return random.choice(skus) if skus else ""

    def _follow(self, purchase: str, receipt: str) -> dict[str, Any]:
        fields = {wire.RECEIPT_HEADER: receipt, "Prefer": f"wait={WAIT_SECONDS}"}
        for _ in range(LOOKS_MAX):
            seen = self._ask("GET", f"{wire.PURCHASES_PATH}/{purchase}", "follow", fields)
            if seen.get("state") != "QUEUED":
                return seen
        return {}

    def _decide(self, purchase: str, key: str) -> None:
        match random.choices(["leave", "pay", "cancel"], weights=[5, 3, 2])[0]:
            case "pay":
                fields = {wire.KEY_HEADER: f"{key}-pay"}
                self._ask("POST", f"{wire.PURCHASES_PATH}/{purchase}/pay", "pay", fields, {"method": "card"})
            case "cancel":
                self._ask("POST", f"{wire.PURCHASES_PATH}/{purchase}/cancel", "cancel")

    def _ask(
        self, method: str, path: str, name: str, fields: dict[str, str] | None = None, body: object = None
    ) -> dict[str, Any]:
        # the document of an answer; empty for what was no answer of the contract
        headers = {**self._who, **(fields or {}), **({"Content-Type": wire.JSON_TYPE} if body is not None else {})}
        data = None if body is None else json.dumps(body)
        with self.client.request(method, path, name=name, headers=headers, data=data, catch_response=True) as response:
            if response.status_code not in ANSWERS:
                response.failure(f"status {response.status_code}")
                return {}
            response.success()
            try:
                document: dict[str, Any] = json.loads(response.content or b"{}")
            except ValueError:
                response.failure("no JSON")
                return {}
            return document
