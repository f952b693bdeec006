"""What every run over a file shares: it submits requests, reads results, writes files, shows progress, sums up."""
