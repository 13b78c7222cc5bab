"""How long a test waits for what must come.

The bound is there for what hangs, and says nothing of how fast anything is. It is six times the longest wait of the product's
own that a test may stand behind (``expiry.VOID_GRACE``, two heartbeats of a broker: 20 s each), so that the two are never in
a race, on a machine however slow; with sixty processes on two cores, half of it was too little for a thousand purchases. Only
who fails waits so long. pytest's own bound, per test, is ten of these.

What must *not* come, or must come at once, is no matter of patience: such a bound has a name and a reason of its own, far
from what it tells apart.
"""

PATIENCE_SECONDS = 120.0
PATIENCE_MS = 120_000  # the same
