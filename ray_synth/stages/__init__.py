"""The work of a run, a room per stage: what a stage will do, its digest, and how it is done."""
