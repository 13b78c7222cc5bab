"""From the folder of a comparison's run to what may be said about it: results.json, figures, PDF, HTML. Nobody types a winner."""
