"""The sweep: Ray Tune runs trials, Optuna and the prediction propose them, a ledger remembers them."""
