"""The comparison's trials: the same shoppers at both backends, one fresh engine per trial, and what became of everybody.

* ``contract``     what a run leaves behind: folders, files, columns, units; who draws and judges reads nothing else
"""
