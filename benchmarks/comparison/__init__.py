"""The comparison's trials: the same shoppers at both backends, one fresh engine per trial, and what became of everybody.

* ``contract``     what a run leaves behind: folders, files, columns, units; who draws and judges reads nothing else
* ``scenario``     TOML files in ``scenarios/``: what is asked, who comes, to what, how often
* ``arrivals``     who comes when; pure, drawn from a seed
* ``crowd``        what a crowd sends when, and what it makes of the answers; pure
* ``sockets``      the crowd's connections
* ``generate``     a trial's shoppers as a process: crowd and sockets, and the raw rows they leave
* ``flight``       how many were under way at once, from raw intervals; pure
* ``plan``         which trials a run has, and in which order; pure
* ``gates``        when a trial may be believed; pure
* ``observe``      who looks on, one observer per file
* ``engine``       the engine under trial: started, sold in, audited, ended; and the run
* ``cells``        asyncio that queues, gevent that decides: the other half of a 2x2
* ``machine``      what it all ran on
* ``watch``        people who only watch, as a process
* ``null``         a server that does nothing, for what the generator itself can do
"""
