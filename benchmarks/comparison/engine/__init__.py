"""The engine under trial: started, sold in, audited, ended. The merchant's and the examiner's part; shoppers know the wire alone.

* ``stores``  services that stay for a whole run, and a state of their own for each trial
* ``shop``    the sale: made before the load, and its books held against what shoppers were told after it
* ``crew``    the shoppers' process, and the people who only watch
* ``trial``   one trial, from the first process to the last row
"""
