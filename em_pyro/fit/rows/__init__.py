"""Where the rows of a fit lie: at hand, in batches that are read again in every pass, with other processes."""
