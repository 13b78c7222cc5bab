"""Did it keep its promises? Own code that shares nothing with whoever made them but the contract's words.

* ``invariants``  I1 to I16, and the rules by which PostgreSQL's rows are held against them, as SQL of their own
* ``evidence``    rows of the other stores: gates, the gateways' journals, the shoppers' told file
* ``findings``    what is wrong with those; pure functions
* ``stores``      reads them all, PostgreSQL in one snapshot
* ``auditor``     looks, waits for what may settle, reports
"""
