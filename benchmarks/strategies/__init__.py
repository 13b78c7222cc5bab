"""The strategy lab: thirteen ways to guard a stock that others use, and our two, under the same attacks and storms, on real stores.

A detector that never catches anything proves nothing. So each strategy says beforehand what each attack does to it (``claims``), and
a claim is held against what is found: what is said to break must break every time, and nothing else may.

The result is one JSON object. Beside ``tables``, ``notes`` and ``passed`` (false when a strategy was not as it claims)::

    pictures     [path, ...]                     PNG and SVG
    kinds        {kind: sentence}                what may be found: oversold undersold leaked duplicate phantom lost
    attacks      {attack: sentence}              meet die again lose
    strategies   [{
      name, title, summary                       summary: the first sentence of its module
      text                                       all of it: what it does, what breaks it, the fix
      ours         bool                          one of the two backends, by its real processes
      stores       ["postgres", ...]
      verdict      "oversells" | "undersells" | "sells twice" | "safe"     the worst that was found, computed
      trials, oversold_trials   int              all of them, of attacks and storms
      as_claimed   bool
      contradictions  [sentence, ...]            what was found and not claimed, or claimed and not found
      attacks      {attack: {                    only those that can happen to it
        claims     [kind, ...]                   what must be found in every trial
        trials     int                           that count
        void       int                           in which the attack did not come about, repeated with more patience, not counted
        found      {kind: trials}                in how many
        most       {kind: units}                 in one trial, at most
        caught     int | null                    trials in which everything claimed was found; null: nothing is claimed
        low, high  float                         Clopper and Pearson, 95%, of caught/trials; of found-anything/trials where nothing is claimed
        unheard    int                           buyers whose answer was lost and whose unit is recorded; what a retry with a key is for
      }}
      storms       [{                            left to chance: first races (one unit, spread), by delay; then rushes (everybody at once)
        delay_ms   int                           between check and act
        killed     bool                          a process of it was killed in the middle; its buyers came again
        spread_ms  int                           within which everybody comes; 0: a rush
        trials, stock, buyers   int              of each trial
        oversold   [units per trial]
        oversold_trials int, low, high  float    Clopper and Pearson, 95%, of oversold_trials/trials
        found      {kind: trials}
        deadlocks, retries      int              in all trials
        unheard    int
        per_second float                         attempts answered, median of trials; says something of rushes alone
        p50_ms, p99_ms  float                    of an attempt, over all trials
      }]
      traces       [{                            one per kind and attack, the first that was found
        kind, attack, trial, units, stock
        told       {attempt: "sold" | "refused" | "unknown"}
        recorded   [attempt, ...]                one per unit
        steps      [{ms, process, attempt, step}, ...]       in order of time; ms since the first
      }]
    }]
"""
